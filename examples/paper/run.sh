#!/usr/bin/env bash
# A table of the paper: every objective of its grid pretrained, finetuned on every data set, and one page at the end.
#
#   run.sh table1|table2|table3|table4|table5|table6|table7|table11 [--scale tiny|cpu|paper] [OPTION...]
#
#   --list             print the runs and do nothing
#   --only STEP        stores, pretrain, pretrain:N, finetune, finetune:N or table; N as --list has it. publish: OUT/TABLE.csv becomes
#                      results/SCALE/TABLE.csv here, and docs/paper_tables.md is made again
#   --jobs N           runs at a time (default: one for each core), with one thread each
#   --slurm            submit the runs as job arrays, see scripts/slurm/grid_array.sbatch; with --dry-run only print what would be submitted
#
#   DATA=data/moleculenet     folder with the MoleculeNet files
#   OUT=runs/paper/SCALE      stores, models, runs, TABLE.csv and TABLE.html; tables share what they have in common
#
# What is finished is not run again, what was stopped goes on. Grids are in grids/, sizes in scales.toml.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
case "${1:-}" in
-h | --help | "")
    sed -n '2,/^source /{/^source /!s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
    [ -n "${1:-}" ] && exit || exit 2
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
[ -z "$slurm" ] || exec "$ROOT/scripts/slurm/grid_array.sbatch" "${dry[@]}" "${words[@]}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
PYTHONPATH="$ROOT/examples${PYTHONPATH:+:$PYTHONPATH}" exec python "$ROOT/examples/paper/paper.py" "${words[@]}"
