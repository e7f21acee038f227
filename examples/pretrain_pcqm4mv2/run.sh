#!/usr/bin/env bash
# The paper's pretraining: PCQM4Mv2 (3.4 million molecules with DFT structures), base model, 1,000,000 updates of 4,096 molecules.
#
#   IN=data/pcqm4mv2      folder that holds pcqm4m-v2/ and pcqm4m-v2-train.sdf (README.md says how to get them)
#   STORE=runs/data/pcqm4mv2
#   OUT=runs/pretrain_pcqm4mv2
#   ARCH=base             tiny, small, base, large or huge
#   GPUS=                 number of processes on this host (default: its GPUs, at least 1)
#   BATCH=                molecules per process and step (default: 1,024)
#   GLOBAL_BATCH=4096     molecules per update, over all processes; the gap is filled by accumulating gradients
#   UPDATES=1000000  WARMUP=100000  LR=1e-5  SEED=1  WORKERS=8  PRECISION=bf16 (bf16, fp16 or fp32)
#
# The released weights were trained with GLOBAL_BATCH=4096 UPDATES=200000 WARMUP=20000. More options are passed on to fairseq-train.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
STORE="${STORE:-runs/data/pcqm4mv2}"
OUT="${OUT:-runs/pretrain_pcqm4mv2}"
GPUS="${GPUS:-$(python -c 'import torch; print(max(1, torch.cuda.device_count()))')}"
BATCH="${BATCH:-1024}"
GLOBAL_BATCH="${GLOBAL_BATCH:-4096}"
whole GPUS BATCH GLOBAL_BATCH
paths STORE OUT
ACCUMULATE=$((GLOBAL_BATCH / (BATCH * GPUS)))
PRECISION="${PRECISION:-bf16}"
if [ $((ACCUMULATE * BATCH * GPUS)) -ne "$GLOBAL_BATCH" ]; then
    echo "GLOBAL_BATCH=$GLOBAL_BATCH must be a multiple of BATCH x GPUS = $BATCH x $GPUS; choose another BATCH" >&2
    exit 2
fi
HALF=()
[ "$PRECISION" = fp32 ] || HALF=("--$PRECISION")

preprocess "$STORE" pcqm4mv2 "${IN:-data/pcqm4mv2}"
train "$OUT" "$STORE" --task moleblend --criterion blend_then_predict --arch "moleblend_${ARCH:-base}" \
    --batch-size "$BATCH" --update-freq "$ACCUMULATE" --distributed-world-size "$GPUS" \
    --max-update "${UPDATES:-1000000}" --seed "${SEED:-1}" --num-workers "${WORKERS:-8}" \
    "${HALF[@]}" \
    --blend-ratio 0.2,0.2,0.6 --noise-scale 0.2 \
    --optimizer adam --adam-betas '(0.9, 0.999)' --adam-eps 1e-8 --weight-decay 0 --clip-norm 5 \
    --lr "${LR:-1e-5}" --lr-scheduler cosine --warmup-updates "${WARMUP:-100000}" \
    --log-interval 100 --validate-interval-updates 10000 --save-interval-updates 10000 --keep-interval-updates 3 "$@"
