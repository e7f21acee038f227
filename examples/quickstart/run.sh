#!/usr/bin/env bash
# 4,000 QM9 molecules -> store -> pretraining -> HOMO-LUMO gap from 2D and from 2D+3D, pretrained and from scratch -> report.
#
#   OUT=runs/quickstart   where everything goes
#   ARCH=tiny             size of the model
#   PRETRAIN_UPDATES=1000 updates of pretraining, and of each of the four finetunings:
#   FINETUNE_UPDATES=600
#
# A second call goes on where the first one stopped; delete OUT to begin anew.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
OUT="${OUT:-runs/quickstart}"
ARCH="${ARCH:-tiny}"
PRETRAIN_UPDATES="${PRETRAIN_UPDATES:-1000}"
FINETUNE_UPDATES="${FINETUNE_UPDATES:-600}"
whole PRETRAIN_UPDATES FINETUNE_UPDATES
paths OUT
STORE="$OUT/qm9"
started=$SECONDS

pretrain() {
    train "$OUT/pretrain" "$STORE" --task moleblend --criterion blend_then_predict --arch "moleblend_$ARCH" \
        --batch-size 64 --max-update "$PRETRAIN_UPDATES" --seed 1 --num-workers 0 \
        --optimizer adam --adam-betas '(0.9, 0.999)' --clip-norm 5 \
        --lr 2e-3 --lr-scheduler cosine --warmup-updates $((PRETRAIN_UPDATES / 15)) --log-interval 50
}

# finetune INPUTS VARIANT [OPTION...]
finetune() {
    local inputs="$1" run="$OUT/gap_${1}_$2"
    shift 2
    train "$run" "$STORE" --task moleblend_finetune --criterion property_prediction --arch "moleblend_$ARCH" \
        --targets gap --inputs "$inputs" --regression-loss mae --batch-size 64 --max-update "$FINETUNE_UPDATES" --seed 1 --num-workers 0 \
        --optimizer adam --adam-betas '(0.9, 0.999)' --clip-norm 5 \
        --lr 1e-3 --lr-scheduler cosine --warmup-updates $((FINETUNE_UPDATES / 12)) --log-interval 100 "$@"
    [ -f "$run/test.json" ] || moleblend evaluate "$run/checkpoint_best.pt" "$STORE" --split test --json "$run/test.json" >/dev/null
}

from_scratch() {
    finetune 2d scratch
    finetune 2d+3d scratch
}
START=(--finetune-from-model "$OUT/pretrain/checkpoint_best.pt")
pretrained_2d() { finetune 2d pretrained "${START[@]}"; }
pretrained_3d() { finetune 2d+3d pretrained "${START[@]}"; }

echo "== 1/4  molecules -> $STORE"
preprocess "$STORE" qm9 "$ROOT/examples/quickstart/qm9_sample.csv.xz"
echo "== 2/4  pretraining by blend-then-predict; beside it, the HOMO-LUMO gap from scratch"
both pretrain from_scratch
echo "== 3/4  the HOMO-LUMO gap from the pretrained weights"
both pretrained_2d pretrained_3d
echo "== 4/4  report"
moleblend report "$OUT" --output "$OUT/report.html" --title "MoleBlend quickstart: 4,000 molecules of QM9"
echo "done in $(((SECONDS - started) / 60)) min $(((SECONDS - started) % 60)) s; open $OUT/report.html"
