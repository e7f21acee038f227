#!/usr/bin/env bash
# Finetunes one QM9 target from 2D+3D input.
#
#   TARGET=gap            alpha gap homo lumo mu cv g298 h298 r2 u298 u0 zpve
#   HYDROGENS=none        none: heavy atoms; explicit: as in the paper. Of the store and of the weights, see ../pretrain_qm9
#   IN=qm9pack  STORE=runs/data/qm9
#   PRETRAINED=runs/pretrain_qm9/checkpoint_best.pt      "none" trains from scratch; these three with _explicit for explicit hydrogens
#   OUT=runs/finetune_qm9
#   ARCH=small  INPUTS=2d+3d (2d, 3d or 2d+3d)
#   UPDATES=2000  WARMUP=UPDATES/10  BATCH=128  LR=1e-4  SEED=1  WORKERS=2
#   ONLY                  "store": only make the store; "runs": no report (for jobs that share a store and a folder of runs)
#
# The paper's run (Table 10): ARCH=base UPDATES=600000 WARMUP=60000. More options are passed on to fairseq-train.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
TARGET="${TARGET:-gap}"
INPUTS="${INPUTS:-2d+3d}"
HYDROGENS="${HYDROGENS:-none}"
suffix="$([ "$HYDROGENS" = none ] || echo "_$HYDROGENS")"
STORE="${STORE:-runs/data/qm9$suffix}"
PRETRAINED="${PRETRAINED:-runs/pretrain_qm9$suffix/checkpoint_best.pt}"
OUT="${OUT:-runs/finetune_qm9$suffix}"
UPDATES="${UPDATES:-2000}"
whole UPDATES
paths STORE PRETRAINED OUT
variant=pretrained
START=(--finetune-from-model "$PRETRAINED")
if [ "$PRETRAINED" = none ]; then
    variant=scratch
    START=()
fi
run="$OUT/${TARGET}_${INPUTS}_$variant"

preprocess "$STORE" qm9 "${IN:-qm9pack}" --hydrogens "$HYDROGENS"
[ "${ONLY:-}" != store ] || exit 0
train "$run" "$STORE" --task moleblend_finetune --criterion property_prediction --arch "moleblend_${ARCH:-small}" \
    --targets "$TARGET" --inputs "$INPUTS" --batch-size "${BATCH:-128}" --max-update "$UPDATES" \
    --seed "${SEED:-1}" --num-workers "${WORKERS:-2}" \
    --optimizer adam --adam-betas '(0.9, 0.999)' --weight-decay 0 --clip-norm 5 \
    --lr "${LR:-1e-4}" --min-lr 1e-9 --lr-scheduler cosine --warmup-updates "${WARMUP:-$((UPDATES / 10))}" \
    --log-interval 50 --validate-interval-updates 500 --regression-loss mae "${START[@]}" "$@"
[ -f "$run/test.json" ] || moleblend evaluate "$run/checkpoint_best.pt" "$STORE" --split test --json "$run/test.json"
[ "${ONLY:-}" = runs ] || moleblend report "$OUT" --output "$OUT/report.html" --store "$STORE" --title "QM9"
