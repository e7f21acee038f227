# Sourced by the run.sh of every example: finds the package, and runs the steps of a run so that a second call goes on where one stopped.

set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$ROOT"
export PATH="$ROOT/.venv/bin:$PATH"
command -v moleblend >/dev/null || {
    echo "The command moleblend is not installed: run ./scripts/quickstart.sh, or see README.md." >&2
    exit 2
}

# preprocess STORE SOURCE IN [OPTION...]: makes a store unless it is there.
preprocess() {
    local store="$1"
    shift
    [ -f "$store/manifest.json" ] || moleblend preprocess "$1" "$2" "$store" "${@:3}"
}

# train RUN STORE OPTION...: fairseq-train with logs and checkpoints under RUN. Everything that it says goes to RUN/output.txt;
# the terminal gets a line for every logged interval and validation. A finished run is left alone, a stopped one is resumed.
train() {
    local run="$1" store="$2"
    shift 2
    if [ -f "$run/finished" ]; then
        echo "$run: finished before; delete the folder to train again"
        return
    fi
    mkdir -p "$run"
    fairseq-train "$store" --user-dir "$ROOT/moleblend_fs" --save-dir "$run" \
        --log-format json --log-file "$run/train.log" --tensorboard-logdir "$run/tensorboard" \
        --no-epoch-checkpoints "$@" </dev/null 2>&1 | tee -a "$run/output.txt" | python examples/progress.py "$(basename "$run")" || {
        echo "fairseq-train failed; the end of $run/output.txt:" >&2
        tail -n 15 "$run/output.txt" >&2
        return 1
    }
    touch "$run/finished"
}
