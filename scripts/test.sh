#!/usr/bin/env bash
# Makes or reuses .venv and runs the tests. Arguments go to pytest: ./scripts/test.sh tests/data -k store
#
#   ./scripts/test.sh --cluster [ARGUMENT...]     instead those of tests/cluster: a real Slurm of two nodes, and two hosts in network
#                                                 namespaces. As root; installs Slurm with apt-get where it is missing.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
ensure_environment chem report tables tune explain qm9 distributed dev
cd -- "$ROOT"
if [ "${1:-}" = --cluster ]; then
    shift
    export MOLEBLEND_CLUSTER=1
    set -- tests/cluster --durations=0 --durations-min=1 "$@"
else
    # With several processes pytest itself does not say that it deselects them.
    [ $# -gt 0 ] || echo "tests/cluster is left out (a real Slurm, two hosts): ./scripts/test.sh --cluster"
    # A process more than cores, since tests also wait, for ranks to meet or to be missed; a file of tests at a time, in the order of
    # tests/conftest.py. TEST_PROCESSES=0: one after the other, in this process.
    set -- --numprocesses "${TEST_PROCESSES:-$(($(nproc) + 1))}" --dist loadfile --no-loadscope-reorder "$@"
fi
# Small models, often two processes at a time: more threads than cores would only wait for each other.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# Some hundred processes are started: where Python is kept from storing what it compiles, each compiles all of our modules again.
unset PYTHONDONTWRITEBYTECODE
exec python -m pytest "$@" </dev/null
