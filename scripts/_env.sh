# shellcheck shell=bash
# Sourced by the other scripts: finds a Python, makes .venv once, installs what is missing, puts .venv first on PATH.
#
#   ensure_environment EXTRA...     the extras of setup.py that the caller needs
#
# PYTHON   interpreter to make .venv with (default: the first fit one of python3, python3.12, python3.11)

ROOT="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="$ROOT/.venv"
STAMP="$VENV/.moleblend-installed"
TRITON=3.6.0 # of benchmarks/kernel_resources.csv

fail() {
    printf '%s\n' "$@" >&2
    exit 1
}

# What an installation depends on, as one hash: another place, other requirements or other C code mean a new one.
environment_key() {
    { echo "$ROOT"; cat setup.py pyproject.toml constraints.txt moleblend_fs/chem/*.c; } | cksum | tr ' ' -
}

is_fit() {
    "$1" - <<'PYTHON' >/dev/null 2>&1
import sys, venv, ensurepip
sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))
PYTHON
}

find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        is_fit "$PYTHON" || fail "PYTHON=$PYTHON is not a Python 3.11 or 3.12 with the venv module."
        echo "$PYTHON"
        return
    fi
    for candidate in python3 python3.12 python3.11; do
        if is_fit "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    fail "No Python 3.11 or 3.12 (with the venv module) was found; ve-fairseq has wheels for these two." \
        "Debian, Ubuntu: sudo apt-get install python3.11 python3.11-venv python3.11-dev   (or the same with 3.12)" \
        "Elsewhere: install one and name it, e.g. PYTHON=/opt/python3.12/bin/python3 $0"
}

check_compiler() {
    local headers
    command -v "${CC:-cc}" >/dev/null || command -v gcc >/dev/null ||
        fail "No C compiler was found (tried ${CC:-cc}, gcc); shortest paths are computed in C." \
            "Debian, Ubuntu: sudo apt-get install gcc"
    headers="$("$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("include"))')"
    [ -f "$headers/Python.h" ] ||
        fail "Python's C headers are missing ($headers/Python.h)." \
            "Debian, Ubuntu: sudo apt-get install $(basename "$headers")-dev"
}

is_installed() {
    local extra
    [ -x "$VENV/bin/python" ] && [ -f "$STAMP" ] && [ "$(head -n 1 "$STAMP")" = "$(environment_key)" ] || return 1
    for extra in "$@"; do
        grep -qx "$extra" "$STAMP" || return 1
    done
}

ensure_environment() {
    local python extras caller="$PWD"
    cd -- "$ROOT" || exit 1
    if ! is_installed "$@"; then
        if [ ! -x "$VENV/bin/python" ]; then
            python="$(find_python)" || exit 1
            "$python" -m venv "$VENV" || fail "$python -m venv failed; its message stands above."
        elif ! is_fit "$VENV/bin/python"; then
            fail "$VENV holds another Python than 3.11 or 3.12; delete the folder and run this again."
        fi
        check_compiler
        extras="$(printf '%s\n' "$@" $( [ -f "$STAMP" ] && tail -n +2 "$STAMP" ) | sort -u)"
        echo "Installing into .venv (a few minutes, once) ..."
        rm -f "$STAMP"
        "$VENV/bin/python" -m pip install --quiet --constraint constraints.txt \
            --editable ".[$(echo $extras | tr ' ' ,)]" </dev/null ||
            fail "The installation failed; pip's message stands above. Nothing is lost: run this again once its cause is removed."
        # torch's CUDA builds bring the triton that fits them; beside its CPU build one is needed to test the kernels.
        if grep -qw dev <<<"$extras" && ! "$VENV/bin/python" -c 'import triton' 2>/dev/null; then
            "$VENV/bin/python" -m pip install --quiet "triton==$TRITON" </dev/null || fail "triton==$TRITON could not be installed."
        fi
        { environment_key; printf '%s\n' $extras; } >"$STAMP"
    fi
    cd -- "$caller" || exit 1
    export PATH="$VENV/bin:$PATH"
}
