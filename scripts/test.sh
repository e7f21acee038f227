#!/usr/bin/env bash
# Makes or reuses .venv and runs the tests. Arguments go to pytest: ./scripts/test.sh tests/data -k store
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
ensure_environment chem report qm9 dev
# Small models, often two processes at a time: more threads than cores would only wait for each other.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec python -m pytest "$@" </dev/null
