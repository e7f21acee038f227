#!/usr/bin/env bash
# Pretrained weights from a GPU machine that is there for a short while: molecules are brought along, their structures and descriptors are
# made on its cores, the rest of the time is training, and weights with their card come back.
#
#   scripts/gpu_pretrain.sh --pack                         with network and data: wheels/, and in it the corpus
#   scripts/gpu_pretrain.sh --budget SECONDS [OPTION...]   there; further options go to both trainings (fairseq-train's)
#   scripts/gpu_pretrain.sh --rehearse --budget ...        the same, small, on a CPU: does everything work?
#
#   OUT=gpu_pretrained        gets gpu_pretrained.tar.gz (weights, logs); the run itself is kept there for the same command to go on
#   ARCH=base  NAME=$ARCH     size and name of the weights
#   OBJECTIVE=blend,descriptors  SIDECARS=descriptors     what is learned
#   CONFORMERS=1  CONFORMER_STEPS=0     structures of a molecule (ETKDG), and steps of the force field, which take half of the time
#   MOSES_SAMPLE=60000  MUV_SAMPLE=50000  CORPUS="hiv tox21 toxcast muv moses"     the corpus, as examples/pretrain_box/run.sh has it
#   STORES=$OUT/data          the corpus; one that was made before and brought along needs no rdkit there:
#                             UPDATES=0 CONFORMERS=1 CONFORMER_STEPS=0 OUT=... examples/pretrain_box/run.sh makes it
#   ENDS=90                   seconds that are kept for the starts of two trainings, and validation
#   BATCH=512  LR=5e-4  WORKERS=(the cores, 16 at most)            and what else examples/pretrain_box/run.sh has
#   DATA=../shared/data/moleculenet  MOSES=molsets    for --pack: MoleculeNet's files, and the table of MOSES or the installed package
#   PYTHON, WHEELS, WHEELS_PYTHON, MOLEBLEND_SHARED   as gpu_check.sh has them
#
# All the steps are those of examples/pretrain_box/run.sh. How many updates fit into the budget is measured.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
OUT="${OUT:-gpu_pretrained}" PACKED_MOSES=400000 # molecules, the first of its table
source scripts/_gpu.sh

pack() {
    local data="${DATA:-${MOLEBLEND_SHARED:-../shared}/data/moleculenet}" corpus="$WHEELS/corpus" name file
    mkdir -p "$corpus"
    for name in hiv muv tox21 toxcast esol freesolv lipo bbbp bace clintox sider; do
        file="$data/$name.csv.gz"
        [ -f "$file" ] || file="$data/$name.csv"
        [ -f "$file" ] || { echo "no $data/$name.csv.gz; say where MoleculeNet's files are: DATA=FOLDER" >&2; return 2; }
        cp --force --no-preserve=mode "$file" "$corpus/"
    done
    fetch_wheels || return 1
    "$PYTHON" - "${MOSES:-molsets}" "$corpus/moses.csv.gz" "$PACKED_MOSES" <<'PYTHON'
import gzip, sys
from moleblend_fs.sources.moses import table_of
with gzip.open(table_of(sys.argv[1]), "rt") as whole, gzip.open(sys.argv[2], "wt") as part:
    for number, line in zip(range(1 + int(sys.argv[3])), whole):
        part.write(line)
PYTHON
    du -sh "$WHEELS"
}

# left: seconds of the budget. SECONDS counts from the script's start.
left() { echo $((BUDGET - SECONDS)); }

# run UPDATES COOLDOWN OUT OPTION...: the example, ended in time
run() {
    local updates="$1" cooldown="$2" out="$3"
    shift 3
    (($(left) > SPARE)) || { echo "nothing is left of $BUDGET s; the same command goes on from there" >&2; return 1; }
    UPDATES="$updates" COOLDOWN="$cooldown" OUT="$out" timeout --signal=TERM $(($(left) - SPARE)) \
        examples/pretrain_box/run.sh --num-workers "$WORKERS" "$@"
}

# planned: how many updates fit into what is left, in $OUT/plan, once
planned() {
    [ ! -f "$OUT/plan" ] || return 0
    echo "== $(left) s left: the corpus, and $TRIED updates to learn how long they take"
    run "$TRIED" 0 "$OUT/trial" "$@" || { echo "no plan within $BUDGET s: the same command goes on from there" >&2; return 1; }
    "$PYTHON" - "$OUT/trial/pretrain/train.log" "$(left)" "$ENDS" >"$OUT/plan" <<'PYTHON'
import json, sys
entries = [json.loads(line[line.index("{"):]) for line in open(sys.argv[1]) if 'ups":' in line]
updates = float(entries[-1].get("ups") or entries[-1]["train_ups"]) * max(int(sys.argv[2]) - int(sys.argv[3]), 0)
print(max(int(0.8 * updates), 1), max(int(0.2 * updates), 1))
PYTHON
}

# settings DEVICE: those of the example that differ on a GPU, or are small
settings() {
    export OBJECTIVE="${OBJECTIVE:-blend,descriptors}" SIDECARS="${SIDECARS-descriptors}" CONFORMERS="${CONFORMERS:-1}" CONFORMER_STEPS="${CONFORMER_STEPS:-0}" PROBES="${PROBES:-0}"
    export DATA="$WHEELS/corpus" MOSES="$WHEELS/corpus/moses.csv.gz" STORES="${STORES:-$OUT/data}" WORKERS="${WORKERS:-$(($(nproc) < 16 ? $(nproc) : 16))}"
    if [ "$1" = cpu ]; then
        export SCALE=tiny CUDA_VISIBLE_DEVICES="" ARCH="${ARCH:-tiny}"
        TRIED=4 ENDS=$BUDGET SPARE=5
    else
        export BATCH="${BATCH:-512}" LR="${LR:-5e-4}" ARCH="${ARCH:-base}"
        TRIED=200 ENDS="${ENDS:-90}" SPARE=20 # updates; seconds for two starts and validation, and for packing
    fi
    export NAME="${NAME:-$ARCH}"
}

# pretrain DEVICE OPTION...
pretrain() {
    local updates cooldown code=0 last weights device="$1"
    shift
    settings "$device"
    weights="$OUT/weights/$NAME"
    carried_packages
    if [ "$device" != cpu ]; then
        on_a_gpu || { echo "torch sees no GPU; examples/pretrain_box/run.sh is for a CPU, and $0 --rehearse for a trial" >&2; return 1; }
        set -- --bf16 "$@"
    fi
    mkdir -p "$OUT"
    planned "$@"
    read -r updates cooldown <"$OUT/plan"
    echo "== $(left) s left: $updates updates, then $cooldown while the learning rate falls"
    run "$updates" "$cooldown" "$OUT" "$@" || code=$?
    if [ ! -d "$weights" ]; then
        last="$OUT/cooldown/checkpoint_last.pt"
        [ -f "$last" ] || last="$OUT/pretrain/checkpoint_last.pt"
        [ -f "$last" ] || return "$code"
        echo "not all updates were made in time; these weights are of $last, and another call goes on from it" >&2
        weights="$OUT/unfinished/$NAME"
        rm -rf "$weights"
        moleblend convert "$last" "$weights" --half --note "Made by scripts/gpu_pretrain.sh, which ran out of time: not all of $updates and $cooldown updates."
    fi
    tar --exclude='*.pt' --exclude=tensorboard --exclude=data --exclude=gpu_pretrained.tar.gz -czf "$WHEELS/packed" -C "$OUT" .
    mv -f "$WHEELS/packed" "$OUT/gpu_pretrained.tar.gz"
    ls -l "$OUT/gpu_pretrained.tar.gz"
    return "$code"
}

device=cuda
if [ "${1:-}" = --rehearse ]; then device=cpu && shift; fi
case "${1:---help}" in
    --help | -h) sed -n '2,/^set/p' "${BASH_SOURCE[0]}" | sed '$d; s/^# \{0,1\}//' ;;
    --pack) pack ;;
    --budget)
        BUDGET="${2:-}"
        [[ "$BUDGET" =~ ^[1-9][0-9]*$ ]] || { echo "--budget needs a number of seconds, got '$BUDGET'" >&2; exit 2; }
        shift 2
        pretrain "$device" "$@"
        ;;
    *)
        echo "$0: ${1:-} is unknown; $0 --help tells what there is" >&2
        exit 2
        ;;
esac
