#!/usr/bin/env bash
# When pretraining helps: methods on the same splits of MoleculeNet sets, tuned by one rule, compared with intervals.
#
#   run.sh [--scale ci|box|night|full] [OPTION...]
#
#   --list             print the runs and do nothing
#   --only STEP        stores (tables, splits, other programs' environments), run, run:N, table or publish; N as --list has it;
#                      restore: take the committed rows of this very data, splits, weights and settings as finished runs of OUT
#   --protocol A|B     --methods NAME,...     --data NAME,...      those alone; the table is of all that is there
#   --jobs N           runs at a time (default: one for each core), with one thread each
#   --slurm            submit the runs as a job array, see scripts/slurm/grid_array.sbatch; with --dry-run only print what would be submitted
#
#   DATA=data/moleculenet     folder with the MoleculeNet files
#   WEIGHTS=small             what ours starts from: names, or NAME=PATH of checkpoints, as "small mine=runs/pretrain/checkpoint_best.pt";
#                             "none": ours from scratch alone, which is the default where the package has no weights called small
#   PEERS=                    folder of other programs' environments, as `python -m benchmarks peers` has it; "none": without them
#   OUT=runs/evidence/SCALE   tables, splits, a row for each run, runs.csv, pairs.csv, evidence.html and evidence.md
#
# What is finished is not run again. Sizes are in scales.toml. `--only publish` writes docs/evidence.md and the table that is committed.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
case "${1:-}" in
-h | --help)
    sed -n '2,/^source /{/^source /!s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
    exit
    ;;
esac
words=() slurm='' dry=()
for word; do
    case "$word" in
    --slurm) slurm=1 ;;
    --dry-run) dry=(--dry-run) ;;
    *) words+=("$word") ;;
    esac
done
[ "${#words[@]}" -gt 0 ] || words=(--scale ci)
if [ -n "$slurm" ]; then
    export EXAMPLE=evidence GPUS="${GPUS:-0}" CPUS="${CPUS:-1}"
    exec "$ROOT/scripts/slurm/grid_array.sbatch" "${dry[@]}" "${words[@]}"
fi
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
PYTHONPATH="$ROOT/examples:$ROOT/examples/evidence:$ROOT${PYTHONPATH:+:$PYTHONPATH}" exec python "$ROOT/examples/evidence/evidence.py" "${words[@]}"
