#!/usr/bin/env bash
# Finetunes one MoleculeNet set, from pretrained weights and from scratch, with several seeds; scaffold split 8:1:1.
#
#   run.sh NAME [OPTION...]     NAME: bace bbbp clintox esol freesolv hiv lipo muv sider tox21 toxcast
#
#   DATA=data/moleculenet       folder with NAME.csv or NAME.csv.gz
#   PRETRAINED=runs/pretrain_qm9/checkpoint_best.pt      any checkpoint of ours; "none" trains from scratch only
#   SCRATCH=1                   0 leaves the runs from scratch out
#   INPUTS=2d                   2d, 3d or 2d+3d; the last two need CONFORMERS=1 or more
#   CONFORMERS=0                ETKDG conformers per molecule, at most 11
#   SEEDS="0 1 2"               of initialisation and order; the split is always the same
#   ARCH=small  OUT=runs/moleculenet
#   EPOCHS, BATCH, LR           default: by the size of the set, within the paper's Table 9
#   ONLY                        "store": only make the store; "runs": no report (for jobs that share a store and a folder of runs)
#
# OPTIONs are passed on to fairseq-train.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
NAME="${1:-}"
case "$NAME" in
bace | bbbp | clintox | esol | freesolv | hiv | lipo | muv | sider | tox21 | toxcast) ;;
*)
    echo "usage: run.sh NAME [OPTION...], NAME one of: bace bbbp clintox esol freesolv hiv lipo muv sider tox21 toxcast" >&2
    exit 2
    ;;
esac
shift
DATA="${DATA:-data/moleculenet}"
PRETRAINED="${PRETRAINED:-runs/pretrain_qm9/checkpoint_best.pt}"
INPUTS="${INPUTS:-2d}"
CONFORMERS="${CONFORMERS:-0}"
OUT="${OUT:-runs/moleculenet}"
STORE="${STORE:-runs/data/${NAME}_c$CONFORMERS}"

case "$NAME" in
hiv) EPOCHS="${EPOCHS:-5}" BATCH="${BATCH:-128}" ;;
muv) EPOCHS="${EPOCHS:-20}" BATCH="${BATCH:-128}" ;;
*) EPOCHS="${EPOCHS:-40}" BATCH="${BATCH:-32}" ;;
esac
whole EPOCHS BATCH
paths DATA PRETRAINED OUT STORE
FILE="$DATA/$NAME.csv"
[ -f "$FILE" ] || FILE+=.gz
if [ ! -f "$FILE" ] && [ ! -f "$STORE/manifest.json" ]; then
    echo "no $DATA/$NAME.csv or $DATA/$NAME.csv.gz; say where the files are: DATA=FOLDER $0 $NAME" >&2
    exit 2
fi
MORE=()
[ "$CONFORMERS" = 0 ] || MORE=(--conformers "$CONFORMERS")
preprocess "$STORE" moleculenet "$FILE" --name "$NAME" "${MORE[@]}"
[ "${ONLY:-}" != store ] || exit 0
TRAIN_MOLECULES="$(python -c 'import json, sys; print(json.load(open(sys.argv[1]))["splits"]["train"]["molecules"])' "$STORE/manifest.json")"
whole TRAIN_MOLECULES
UPDATES=$((EPOCHS * ((TRAIN_MOLECULES + BATCH - 1) / BATCH)))

# finetune SEED VARIANT [OPTION...]
finetune() {
    local run="$OUT/${NAME}_${INPUTS}/seed${1}_$2"
    train "$run" "$STORE" --task moleblend_finetune --criterion property_prediction --arch "moleblend_${ARCH:-small}" \
        --inputs "$INPUTS" --batch-size "$BATCH" --max-epoch "$EPOCHS" --max-update "$UPDATES" --seed "$1" --num-workers 0 \
        --optimizer adam --adam-betas '(0.9, 0.999)' --weight-decay 5e-5 --clip-norm 5 \
        --lr "${LR:-1e-4}" --lr-scheduler cosine --warmup-updates $((UPDATES / 10)) --log-interval 50 "${@:3}"
    [ -f "$run/test.json" ] || moleblend evaluate "$run/checkpoint_best.pt" "$STORE" --split test --json "$run/test.json" >/dev/null
}

for seed in ${SEEDS:-0 1 2}; do
    [ "${SCRATCH:-1}" = 0 ] || finetune "$seed" scratch "$@"
    [ "$PRETRAINED" = none ] || finetune "$seed" pretrained --finetune-from-model "$PRETRAINED" "$@"
done
[ "${ONLY:-}" = runs ] || moleblend report "$OUT/${NAME}_$INPUTS" --output "$OUT/${NAME}_$INPUTS/report.html" --store "$STORE" --title "$NAME, $INPUTS"
