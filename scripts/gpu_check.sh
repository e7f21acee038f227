#!/usr/bin/env bash
# Everything that awaits a GPU, in chunks: the most out of a machine that is there for half an hour, in commands of ten minutes.
#
#   scripts/gpu_check.sh --list                      the chunks, the most wanted first, with the time that each is expected to take
#   scripts/gpu_check.sh --budget SECONDS CHUNK...   run these (all, if none is named) in their order; what does not fit into the
#                                                    budget is skipped, what takes too long is killed, and all is packed in time
#   scripts/gpu_check.sh --rehearse ...              the same, small, on a CPU and in Triton's interpreter: does everything work?
#   scripts/gpu_check.sh --wheels                    with network: fill wheels/ with what a GPU machine without network lacks
#   scripts/gpu_check.sh --collect FILE ...          append benchmark rows, brought back from elsewhere (gpu_results.tar.gz, or .json), to
#                                                    benchmarks/results.csv
#
#   OUT=gpu_results           gets two files: gpu_results.tar.gz (logs, rows, the profile) and summary.txt
#   PYTHON=python3            an interpreter with torch and triton
#   WHEELS=wheels             folder of the carried packages and data; used if fairseq, lmdb, rdkit or pytest-xdist are not installed
#   WHEELS_PYTHON=3.12        Python version of the GPU machine, for --wheels
#   MOLEBLEND_SHARED=         folder with data/moleculenet and data/pcqm4mv2 (default: $WHEELS/shared, else ../shared)
#
# Exit code: 0 if no chunk failed. Compiled kernels are kept in .gpu_cache for later calls. The GPU's settings are left as they are.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
OUT="${OUT:-gpu_results}"
source scripts/_gpu.sh

prepare() {
    carried_packages || return 1
    if [ -z "${MOLEBLEND_SHARED:-}" ] && [ -d "$WHEELS/shared" ]; then export MOLEBLEND_SHARED="$PWD/$WHEELS/shared"; fi
    if [ "$1" = cpu ]; then
        export CUDA_VISIBLE_DEVICES="" TRITON_INTERPRET=1 OMP_NUM_THREADS=1
        return 0
    fi
    on_a_gpu || {
        echo "torch sees no GPU; $0 --rehearse runs the chunks in Triton's interpreter" >&2
        return 1
    }
}

# check DEVICE SECONDS CHUNK...
check() {
    local device="$1" results budget="$2"
    shift 2
    [[ "$budget" =~ ^[0-9]+$ ]] || { echo "--budget needs a number of seconds, got '$budget'" >&2; return 2; }
    prepare "$device" || return 1
    budget=$((budget - SECONDS)) # what was installed and built took some
    results="$(mktemp -d)"
    "$PYTHON" scripts/gpu_check.py check --budget "$budget" --device "$device" --results "$results" --out "$OUT" "$@"
    local code=$?
    rm -rf "$results"
    return $code
}

device=cuda
if [ "${1:-}" = --rehearse ]; then device=cpu && shift; fi
case "${1:---help}" in
    --help | -h) sed -n '2,/^set/p' "${BASH_SOURCE[0]}" | sed '$d; s/^# \{0,1\}//' ;;
    --list) "$PYTHON" scripts/gpu_check.py list ;;
    --wheels) fetch_wheels ;;
    --collect) shift && "$PYTHON" scripts/gpu_check.py collect "$@" ;;
    --budget) shift && check "$device" "${1:-}" "${@:2}" ;;
    *)
        echo "$0: ${1:-} is unknown; $0 --help tells what there is" >&2
        exit 2
        ;;
esac
