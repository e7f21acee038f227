# shellcheck shell=bash
# Sourced by gpu_check.sh and gpu_pretrain.sh: packages and data for a GPU machine that has torch and Triton, but no network.
#
#   fetch_wheels       with network: fill $WHEELS
#   carried_packages   there: make sure that the package and what it needs can be imported; commands are first on PATH
#
# PYTHON, WHEELS, WHEELS_PYTHON, MOLEBLEND_SHARED: as gpu_check.sh --help tells them

PYTHON="${PYTHON:-python3}"
WHEELS="${WHEELS:-wheels}"
WHEELS_PYTHON="${WHEELS_PYTHON:-3.12}"
LACKING="ve-fairseq rdkit ogb lmdb hydra-core omegaconf bitarray cffi pycparser outdated littleutils portalocker colorama tabulate
    pytest pytest-xdist execnet iniconfig pluggy safetensors tqdm"
NEEDED="fairseq lmdb rdkit ogb xdist"

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
        cp --force --no-preserve=mode "$shared"/data/moleculenet/{lipo,hiv}.csv.gz "$WHEELS/shared/data/moleculenet/"
        cp -r --no-preserve=mode "$shared/data/pcqm4mv2" "$WHEELS/shared/data/"
    else
        echo "no data at $shared/data: attention, step and end_to_end will lack molecules there" >&2
    fi
    du -sh "$WHEELS"
}

# has_needed PYTHON: whether it can import all that is carried along.
has_needed() {
    # shellcheck disable=SC2086
    "$1" -c 'import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, sys.argv[1:])))' $NEEDED
}

# Carried packages go into .gpu_site, an environment beside the one that has torch, which is left as it is; the C extension is built in place.
carried_packages() {
    local own="$PWD/.gpu_site/bin/python"
    export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
    if [ -x "$own" ] && has_needed "$own"; then
        PYTHON="$own"
    elif ! has_needed "$PYTHON"; then
        ls "$WHEELS"/*.whl >/dev/null 2>&1 || {
            echo "one of $NEEDED is missing; make $WHEELS/ by gpu_check.sh --wheels where there is a network, and bring it here" >&2
            return 1
        }
        "$PYTHON" -m venv --without-pip .gpu_site &&
            "$PYTHON" -c 'import site; print("\n".join(site.getsitepackages()))' >"$("$own" -c 'import site; print(site.getsitepackages()[0])')/outer.pth" &&
            "$own" -m pip install --quiet --no-index --no-deps "$WHEELS"/*.whl || return 1
        PYTHON="$own"
    fi
    PATH="$(cd -- "$(dirname -- "$(command -v "$PYTHON")")" && pwd):$PATH"
    if ! command -v moleblend >/dev/null; then # the package is not installed, but imported from here
        mkdir -p .gpu_site/bin
        printf '#!/bin/sh\nexec "%s" -m moleblend_fs.cli.main "$@"\n' "$PYTHON" >.gpu_site/bin/moleblend
        chmod +x .gpu_site/bin/moleblend
        PATH="$PWD/.gpu_site/bin:$PATH"
    fi
    "$PYTHON" -c 'import moleblend_fs.chem._paths' 2>/dev/null || "$PYTHON" setup.py --quiet build_ext --inplace || return 1
}

# Whether torch sees a GPU. What is compiled for it is kept for the next command.
on_a_gpu() {
    export TRITON_CACHE_DIR="$PWD/.gpu_cache/triton" TORCHINDUCTOR_CACHE_DIR="$PWD/.gpu_cache/inductor"
    export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True PYTORCH_ALLOC_CONF=expandable_segments:True
    "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'
}
