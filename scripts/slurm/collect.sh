#!/usr/bin/env bash
# One table of all results of finetune_array.sbatch, and a list of the tasks that gave none.
#
#   collect.sh OUT        OUT as in finetune_array.sbatch; at any time, also while tasks run
#
# Of each data set: mean and standard deviation over the seeds for each trial, on the validation and the test split. The trial with the best
# validation score is marked; the test split takes no part in that choice. Writes OUT/results.csv, a line for each task.
# Exit code 1 if a task failed, did not end, or never began.
set -euo pipefail
ROOT="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)"
case "${1:-}" in
-h | --help | "") sed -n '2,/^set /{/^set /!s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; [ -n "${1:-}" ] && exit || exit 2 ;;
esac
VENV="${VENV:-$ROOT/.venv}"
[ ! -d "$VENV/bin" ] || export PATH="$VENV/bin:$PATH"
exec python "$ROOT/scripts/slurm/collect.py" "$1"
