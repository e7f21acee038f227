#!/usr/bin/env bash
# Blend-then-predict pretraining on all of QM9 (130,831 molecules with DFT structures).
#
#   IN=qm9pack            the installed package qm9pack, its CSV, or a folder with gdb9.sdf and gdb9.sdf.csv
#   HYDROGENS=none        none: heavy atoms, for all of the finetuning examples; explicit: for HYDROGENS=explicit finetune_qm9
#   STORE=runs/data/qm9   the store, made at the first call; both with _explicit at the end for explicit hydrogens
#   OUT=runs/pretrain_qm9
#   ARCH=small            tiny, small, base, large or huge
#   UPDATES=600  BATCH=128  LR=5e-4  WARMUP=60  SEED=1  WORKERS=2
#
# More options are passed on to fairseq-train: run.sh --fp16 --blend-ratio 0.1,0.1,0.8
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
HYDROGENS="${HYDROGENS:-none}"
suffix="$([ "$HYDROGENS" = none ] || echo "_$HYDROGENS")"
STORE="${STORE:-runs/data/qm9$suffix}"
OUT="${OUT:-runs/pretrain_qm9$suffix}"
UPDATES="${UPDATES:-600}"
paths STORE OUT

preprocess "$STORE" qm9 "${IN:-qm9pack}" --hydrogens "$HYDROGENS"
train "$OUT" "$STORE" --task moleblend --criterion blend_then_predict --arch "moleblend_${ARCH:-small}" \
    --batch-size "${BATCH:-128}" --max-update "$UPDATES" --seed "${SEED:-1}" --num-workers "${WORKERS:-2}" \
    --optimizer adam --adam-betas '(0.9, 0.999)' --clip-norm 5 \
    --lr "${LR:-5e-4}" --lr-scheduler cosine --warmup-updates "${WARMUP:-60}" \
    --log-interval 20 --validate-interval-updates 200 --save-interval-updates 200 --keep-interval-updates 1 "$@"
moleblend report "$OUT" --output "$OUT/report.html" --store "$STORE"
