#!/usr/bin/env bash
# Finetunes the HOMO-LUMO gap of PCQM4Mv2 from the 2D graph and scores the validation split with OGB's evaluator.
#
#   IN=data/pcqm4mv2  STORE=runs/data/pcqm4mv2            see ../pretrain_pcqm4mv2
#   PRETRAINED=runs/pretrain_pcqm4mv2/checkpoint_best.pt  "none" trains from scratch
#   OUT=runs/pcqm4mv2_gap
#   ARCH=base  UPDATES=300000  WARMUP=UPDATES/20  BATCH=256  LR=1e-4  SEED=1  WORKERS=8
#
# More options are passed on to fairseq-train.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
STORE="${STORE:-runs/data/pcqm4mv2}"
PRETRAINED="${PRETRAINED:-runs/pretrain_pcqm4mv2/checkpoint_best.pt}"
OUT="${OUT:-runs/pcqm4mv2_gap}"
UPDATES="${UPDATES:-300000}"
whole UPDATES
paths STORE PRETRAINED OUT
START=(--finetune-from-model "$PRETRAINED")
[ "$PRETRAINED" != none ] || START=()

preprocess "$STORE" pcqm4mv2 "${IN:-data/pcqm4mv2}"
train "$OUT" "$STORE" --task moleblend_finetune --criterion property_prediction --arch "moleblend_${ARCH:-base}" \
    --inputs 2d --batch-size "${BATCH:-256}" --max-update "$UPDATES" --seed "${SEED:-1}" --num-workers "${WORKERS:-8}" \
    --optimizer adam --adam-betas '(0.9, 0.999)' --weight-decay 0 --clip-norm 5 \
    --lr "${LR:-1e-4}" --lr-scheduler cosine --warmup-updates "${WARMUP:-$((UPDATES / 20))}" \
    --log-interval 100 --validate-interval-updates 5000 --regression-loss mae "${START[@]}" "$@"
moleblend evaluate "$OUT/checkpoint_best.pt" "$STORE" --split valid --json "$OUT/valid.json"
moleblend report "$OUT" --output "$OUT/report.html" --store "$STORE" --title "PCQM4Mv2, HOMO-LUMO gap from 2D"
