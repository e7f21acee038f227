#!/usr/bin/env bash
# Everything that awaits a GPU, in chunks of less than ten minutes: results go to files, one call a chunk.
#
#   scripts/gpu_check.sh --list          the chunks
#   scripts/gpu_check.sh CHUNK           run one
#   scripts/gpu_check.sh --all           run all, one after the other; goes on after a failure and says what failed
#   scripts/gpu_check.sh --wheels        with network: fill wheels/ with what a GPU machine without network lacks
#   scripts/gpu_check.sh --collect FILE.json ...   append benchmark rows, brought back from elsewhere, to benchmarks/results.csv
#
#   OUT=gpu_results           where results go: CHUNK.log, and CHUNK.json for benchmarks and the comparison of training runs
#   PYTHON=python3            an interpreter with torch and triton
#   MOLEBLEND_DEVICE=cuda     "cpu" runs the same chunks small and in Triton's interpreter, to see that they work
#   WHEELS=wheels             folder of the carried packages and data; used if fairseq, lmdb or rdkit are not installed
#   WHEELS_PYTHON=3.12        Python version of the GPU machine, for --wheels
#   MOLEBLEND_SHARED=         folder with data/moleculenet and data/pcqm4mv2 (default: $WHEELS/shared, else ../shared)
#
# Exit code: 0 if the chunk passed. The GPU's settings are left as they are.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
OUT="${OUT:-gpu_results}"
PYTHON="${PYTHON:-python3}"
DEVICE="${MOLEBLEND_DEVICE:-cuda}"
WHEELS="${WHEELS:-wheels}"
KERNELS="$(for file in moleblend_fs/ops/*/launch.py; do basename "$(dirname "$file")"; done)"
BENCHMARKS="data relation_bias attention pair_projection step end_to_end"
LACKING="ve-fairseq rdkit ogb lmdb hydra-core omegaconf bitarray cffi pycparser outdated littleutils portalocker colorama tabulate"

list() {
    echo "environment              device, versions, self-tests of the kernels"
    for op in $KERNELS; do printf 'kernels_%-16s %s\n' "$op" "its tests on the device"; done
    echo "resources                registers, shared memory and spills of all kernels, compiled there"
    for name in $BENCHMARKS; do printf 'bench_%-18s %s\n' "$name" "python -m benchmarks $name"; done
    echo "train                    200 updates in float32 with and without kernels: the same loss curve"
    echo "train_bf16               the same in bf16, dropout on: the same curve but for noise"
}

fetch_wheels() {
    local shared="${MOLEBLEND_SHARED:-../shared}" options
    options=(--quiet --no-deps --constraint constraints.txt)
    mkdir -p "$WHEELS"
    # shellcheck disable=SC2086
    "$PYTHON" -m pip download "${options[@]}" --dest "$WHEELS" --only-binary=:all: --python-version "$WHEELS_PYTHON" \
        --implementation cp --abi "cp${WHEELS_PYTHON/./}" --abi abi3 --abi none \
        --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --platform any $LACKING &&
        "$PYTHON" -m pip wheel "${options[@]}" --wheel-dir "$WHEELS" antlr4-python3-runtime || return 1
    if [ -d "$shared/data" ]; then
        mkdir -p "$WHEELS/shared/data/moleculenet"
        cp "$shared"/data/moleculenet/{lipo,hiv}.csv.gz "$WHEELS/shared/data/moleculenet/"
        cp -r --no-preserve=mode "$shared/data/pcqm4mv2" "$WHEELS/shared/data/"
    else
        echo "no data at $shared/data: bench_data will not run there" >&2
    fi
    du -sh "$WHEELS"
}

# Installs carried packages beside the ones that are there, without touching them, and builds the C extension in place.
prepare() {
    export PYTHONPATH="$PWD/.gpu_site:$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
    if ! "$PYTHON" -c 'import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, ("fairseq", "lmdb", "rdkit", "ogb"))))'; then
        ls "$WHEELS"/*.whl >/dev/null 2>&1 || {
            echo "fairseq, lmdb, rdkit or ogb are missing; make $WHEELS/ with $0 --wheels where there is a network, and bring it here" >&2
            return 1
        }
        "$PYTHON" -m pip install --quiet --no-index --no-deps --target .gpu_site "$WHEELS"/*.whl || return 1
    fi
    "$PYTHON" -c 'import moleblend_fs.chem._paths' 2>/dev/null || "$PYTHON" setup.py --quiet build_ext --inplace || return 1
    if [ -z "${MOLEBLEND_SHARED:-}" ] && [ -d "$WHEELS/shared" ]; then export MOLEBLEND_SHARED="$PWD/$WHEELS/shared"; fi
    if [ "$DEVICE" = cpu ]; then
        export CUDA_VISIBLE_DEVICES="" TRITON_INTERPRET=1 OMP_NUM_THREADS=1
    elif ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
        echo "torch sees no GPU; MOLEBLEND_DEVICE=cpu runs the chunks in Triton's interpreter" >&2
        return 1
    fi
}

environment() {
    if [ "$DEVICE" = cuda ]; then nvidia-smi; fi
    "$PYTHON" -c 'from benchmarks.harness import versions, commit; print(versions(), commit())'
    MOLEBLEND_OPS="${MOLEBLEND_OPS:-triton}" "$PYTHON" -m moleblend_fs.cli.main doctor | tee "$OUT/doctor.txt"
    [ "$(grep -c 'self-test passed' "$OUT/doctor.txt")" -eq "$(grep -c '^op ' "$OUT/doctor.txt")" ]
}

kernels() {
    "$PYTHON" -m pytest -p no:cacheprovider -q --durations=5 "tests/ops/kernels/test_$1.py"
}

bench() {
    "$PYTHON" -m benchmarks --no-save --device "$DEVICE" --json "$OUT/bench_$1.json" "$1"
}

# train NAME TOLERANCE OPTION...: with the kernels, then without; the curves are compared.
train() (
    name="$1" tolerance="$2" updates=200 size=(--arch moleblend_small --batch-size 256) limit=()
    shift 2
    if [ "$DEVICE" = cpu ]; then updates=6 size=(--arch moleblend_tiny --layers 1 --gaussians 8 --pair-dim 8 --batch-size 4) limit=(--limit 48); fi
    work="$(mktemp -d)"
    trap 'rm -rf "$work"' EXIT
    "$PYTHON" -m moleblend_fs.cli.main preprocess qm9 examples/quickstart/qm9_sample.csv.xz "$work/store" --no-progress "${limit[@]}" || return 1
    for ops in triton reference; do
        MOLEBLEND_OPS=$ops "$PYTHON" -m fairseq_cli.train "$work/store" --user-dir moleblend_fs --task moleblend \
            --criterion blend_then_predict "${size[@]}" --max-update $updates --seed 1 --num-workers 2 --optimizer adam \
            --adam-betas '(0.9, 0.999)' --clip-norm 5 --lr 2e-4 --lr-scheduler fixed --warmup-updates 20 --log-format json \
            --log-interval 1 --no-save --disable-validation --save-dir "$work/$ops" "$@" >"$work/$ops.log" 2>&1 ||
            { tail -n 30 "$work/$ops.log"; return 1; }
    done
    "$PYTHON" scripts/gpu_check.py compare "$work/triton.log" "$work/reference.log" --updates $updates --tolerance "$tolerance" \
        --json "$OUT/$name.json"
)

run() {
    case "$1" in
        environment) environment ;;
        kernels_*) kernels "${1#kernels_}" ;;
        resources) env -u TRITON_INTERPRET "$PYTHON" -m benchmarks --no-save kernel_resources --check ;;
        bench_*) bench "${1#bench_}" ;;
        # The kernels add in another order: float32 runs drift apart by rounding, which Adam's first steps magnify.
        train) train "$1" 0.01 --attention-dropout 0 --activation-dropout 0 --drop-path 0 ;;
        # Other draws of dropout, other rounding: single updates differ by some percent, their means by less.
        train_bf16) train "$1" 0.1 --bf16 ;;
    esac
}

check() {
    local code
    mkdir -p "$OUT"
    echo "== $1"
    { time run "$1"; } >"$OUT/$1.log" 2>&1 </dev/null
    code=$?
    tail -n 25 "$OUT/$1.log"
    [ $code -eq 0 ] && echo "passed: $1" || echo "FAILED ($code): $1, see $OUT/$1.log"
    return $code
}

WHEELS_PYTHON="${WHEELS_PYTHON:-3.12}"
CHUNKS="$(list | cut -d' ' -f1)"
case "${1:---help}" in
    --help | -h) sed -n '2,/^set/p' "${BASH_SOURCE[0]}" | sed '$d; s/^# \{0,1\}//' ;;
    --list) list ;;
    --wheels) fetch_wheels ;;
    --collect) shift && "$PYTHON" scripts/gpu_check.py collect "$@" ;;
    --all)
        prepare || exit 1
        failed=()
        for chunk in $CHUNKS; do check "$chunk" || failed+=("$chunk"); done
        [ ${#failed[@]} -eq 0 ] || { echo "FAILED: ${failed[*]}" >&2; exit 1; }
        ;;
    *)
        grep -qxF -- "$1" <<<"$CHUNKS" || { echo "there is no chunk $1; $0 --list tells them" >&2; exit 2; }
        prepare && check "$1"
        ;;
esac
