#!/usr/bin/env bash
# The weights that finetuning starts from, made again: corpus, sidecars, pretraining, probes, weights with their card.
#
#   DATA=data/moleculenet     folder with hiv, muv, tox21, toxcast (.csv or .csv.gz): their molecules are learned, not their labels
#   MOSES=molsets             the installed package (pip install --no-deps molsets), or its table
#   EXCLUDE=                  sets whose molecules must not be in the corpus, separated by colons (default: esol, freesolv, lipo, bbbp, bace,
#                             clintox and sider in DATA)
#   SCALE=small               small: hours of one core; tiny: a minute, which shows that everything runs
#   CORPUS="hiv tox21 toxcast muv moses"    the stores, in this order
#   MOSES_SAMPLE=60000  MUV_SAMPLE=50000    molecules of the large ones, chosen by a hash
#   CONFORMERS=0              structures of each molecule, for objectives that need them; they take more time than all else
#   CONFORMER_STEPS=2000      of the force field on each, at most; 0: they stay as they were embedded
#   OUT=runs/pretrain_box     runs, probes.csv, and weights/NAME
#   STORES=OUT/data           the corpus; several OUT may share one
#   OBJECTIVE=descriptors     and the SIDECARS that it needs (default: descriptors)
#   UPDATES=9000  COOLDOWN=2500    at a constant learning rate, then from 0 to it and to 0 again; COOLDOWN=0: none; UPDATES=0: the corpus alone
#   READOUT=token+mean  INIT_STD=0.035      what the descriptors are predicted from, and the spread of the first weights
#   PROBES=1                  0: no probes
#   BATCH=64  LR=8e-4  WARMUP=300  SEED=1  ARCH=small  NAME=small  WORKERS=2
#
# More options are passed on to both trainings: run.sh --bf16. What is finished is not done again; a training that was stopped goes on.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
SCALE="${SCALE:-small}"
case "$SCALE" in
small) defaults=(9000 2500 64 300 small 60000 50000 1000 4000) ;;
tiny) defaults=(6 4 8 2 tiny 40 40 3 60) ;;
*)
    echo "SCALE must be small or tiny, got \"$SCALE\"" >&2
    exit 2
    ;;
esac
UPDATES="${UPDATES:-${defaults[0]}}" COOLDOWN="${COOLDOWN:-${defaults[1]}}" BATCH="${BATCH:-${defaults[2]}}" WARMUP="${WARMUP:-${defaults[3]}}"
ARCH="${ARCH:-${defaults[4]}}" MOSES_SAMPLE="${MOSES_SAMPLE:-${defaults[5]}}" MUV_SAMPLE="${MUV_SAMPLE:-${defaults[6]}}" INTERVAL="${defaults[7]}" PROBED="${defaults[8]}"
DATA="${DATA:-data/moleculenet}" MOSES="${MOSES:-molsets}" CORPUS="${CORPUS:-hiv tox21 toxcast muv moses}" NAME="${NAME:-small}"
OUT="${OUT:-runs/pretrain_box}" OBJECTIVE="${OBJECTIVE:-descriptors}" SIDECARS="${SIDECARS-descriptors}" WORKERS="${WORKERS:-2}"
STORES="${STORES:-$OUT/data}" CONFORMERS="${CONFORMERS:-0}"
[ "$UPDATES" = 0 ] || whole UPDATES
whole BATCH WARMUP MOSES_SAMPLE MUV_SAMPLE WORKERS
[ "$COOLDOWN" = 0 ] || whole COOLDOWN
[ "$CONFORMERS" = 0 ] || whole CONFORMERS
paths DATA MOSES OUT STORES

# set_file NAME: a MoleculeNet file.
set_file() {
    local file
    for file in "$DATA/$1.csv" "$DATA/$1.csv.gz"; do
        if [ -f "$file" ]; then
            printf '%s' "$file"
            return
        fi
    done
    echo "no $DATA/$1.csv or $1.csv.gz; say where the MoleculeNet files are: DATA=FOLDER" >&2
    return 2
}

if [ -n "${EXCLUDE:-}" ]; then
    paths EXCLUDE
    IFS=: read -r -a excluded <<<"$EXCLUDE"
else
    excluded=()
    for name in esol freesolv lipo bbbp bace clintox sider; do
        file="$(set_file "$name")"
        excluded+=("$file")
    done
fi
common=(--split random --split-fractions 0.96,0.02,0.02 --exclude "${excluded[@]}" --workers "$WORKERS" --no-progress)
[ "$CONFORMERS" = 0 ] || common+=(--conformers "$CONFORMERS" --conformer-steps "${CONFORMER_STEPS:-2000}")

echo "== 1/5  the corpus without the molecules of ${#excluded[@]} evaluation sets -> $STORES"
stores=''
for name in $CORPUS; do
    store="$STORES/$name"
    case "$name" in
    moses) preprocess "$store" moses "$MOSES" --sample "$MOSES_SAMPLE" "${common[@]}" ;;
    muv)
        file="$(set_file muv)"
        preprocess "$store" moleculenet "$file" --name muv --sample "$MUV_SAMPLE" "${common[@]}"
        ;;
    *)
        file="$(set_file "$name")"
        preprocess "$store" moleculenet "$file" --name "$name" "${common[@]}"
        ;;
    esac
    for sidecar in $SIDECARS; do
        [ -f "$store/sidecars/$sidecar/manifest.json" ] || moleblend preprocess-sidecar "$sidecar" "$store" --workers "$WORKERS" --no-progress
    done
    stores="${stores:+$stores:}$store"
done

if [ "$UPDATES" = 0 ]; then
    echo "UPDATES=0: no training"
    exit
fi

# pretrain RUN UPDATES OPTION...: one training on all of the corpus.
pretrain() {
    local run="$1" updates="$2"
    shift 2
    train "$run" "$stores" --task moleblend --criterion pretrain --objective "$OBJECTIVE" --arch "moleblend_$ARCH" \
        --readout "${READOUT:-token+mean}" --init-std "${INIT_STD:-0.035}" --dropout 0 --attention-dropout 0 --activation-dropout 0 --drop-path 0 \
        --optimizer adam --adam-betas '(0.9, 0.99)' --clip-norm 5 --lr "${LR:-8e-4}" --max-update "$updates" --batch-size "$BATCH" \
        --seed "${SEED:-1}" --num-workers 1 --log-interval 100 \
        --validate-interval-updates "$INTERVAL" --save-interval-updates "$INTERVAL" --keep-interval-updates 10 "$@"
}

echo "== 2/5  $UPDATES updates at a constant learning rate -> $OUT/pretrain"
pretrain "$OUT/pretrain" "$UPDATES" --lr-scheduler fixed --warmup-updates "$WARMUP" "$@"
final="$OUT/pretrain"
if [ "$COOLDOWN" != 0 ]; then
    # Adam begins anew: at once at the whole learning rate, its first steps would undo what was learned.
    echo "== 3/5  $COOLDOWN updates while it falls to 0 -> $OUT/cooldown"
    pretrain "$OUT/cooldown" "$COOLDOWN" --lr-scheduler cosine --warmup-updates "$WARMUP" --finetune-from-model "$OUT/pretrain/checkpoint_last.pt" "$@"
    final="$OUT/cooldown"
fi

probes() {
    preprocess "$STORES/qm9" qm9 "$ROOT/examples/quickstart/qm9_sample.csv.xz" --hydrogens none --limit "$PROBED" \
        --workers "$WORKERS" --no-progress
    local name probed=("$STORES/qm9")
    for name in $CORPUS; do
        case "$name" in
        hiv | tox21) probed+=("$STORES/$name") ;;
        esac
    done
    python "$ROOT/examples/pretrain_box/probe.py" "$OUT/probes.csv" --stores "${probed[@]}" \
        --checkpoints "$OUT"/pretrain/checkpoint*.pt "$final/checkpoint_last.pt"
}

if [ "${PROBES:-1}" = 0 ]; then
    echo "== 4/5  no probes"
else
    echo "== 4/5  frozen probes on development sets -> $OUT/probes.csv"
    probes
fi

echo "== 5/5  weights -> $OUT/weights/$NAME"
[ -f "$OUT/weights/$NAME/config.json" ] || moleblend convert "$final/checkpoint_last.pt" "$OUT/weights/$NAME" --half \
    --note "Made by examples/pretrain_box/run.sh: $UPDATES updates at a constant learning rate, $COOLDOWN while it fell to 0."
moleblend inspect "$OUT/weights/$NAME"
echo "MOLEBLEND_WEIGHTS=$OUT/weights moleblend finetune DATA --target NAME --weights $NAME starts from them"
