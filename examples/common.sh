# shellcheck shell=bash
# Sourced by the run.sh of every example: finds the package, and runs the steps of a run so that a second call goes on where one stopped.
# Relative paths, given ones and defaults, are meant from the folder in which run.sh is called.

set -euo pipefail
ROOT="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
export PATH="$ROOT/.venv/bin:$PATH"
command -v moleblend >/dev/null || {
    echo "The command moleblend is not installed: run ./scripts/quickstart.sh, or see README.md." >&2
    exit 2
}

# Threads wait asleep. Waiting busily, as is the default, two threads on two cores that another program uses as well were seen
# to train five to twenty times slower.
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"

# whole NAME...: ends with a message unless these settings are whole numbers over 0. Anything else must not come near bash's arithmetic,
# which runs commands that stand in an index.
whole() {
    local name
    for name; do
        [[ "${!name}" =~ ^[1-9][0-9]{0,17}$ ]] || {
            echo "$name must be a whole number over 0, got \"${!name}\"" >&2
            exit 2
        }
    done
}

# paths NAME...: these settings as paths that no command takes for an option.
paths() {
    local name
    for name; do
        [[ "${!name}" != -* ]] || printf -v "$name" './%s' "${!name}"
    done
}

# preprocess STORE SOURCE IN [OPTION...]: makes a store unless it is there.
preprocess() {
    local store="$1"
    shift
    [ -f "$store/manifest.json" ] || moleblend preprocess "$1" "$2" "$store" "${@:3}"
}

# train RUN STORE OPTION...: `moleblend train` with logs and checkpoints under RUN. Everything that it says goes to RUN/output.txt;
# the terminal gets a line for every logged interval and validation. A finished run is left alone, a stopped one is resumed.
train() {
    local run="$1" store="$2"
    shift 2
    if [ -f "$run/finished" ]; then
        echo "$run: finished before; delete the folder to train again"
        return
    fi
    mkdir -p "$run"
    moleblend train "$store" --save-dir "$run" \
        --log-format json --log-file "$run/train.log" --tensorboard-logdir "$run/tensorboard" \
        --no-epoch-checkpoints "$@" </dev/null 2>&1 | tee -a "$run/output.txt" | python "$ROOT/examples/progress.py" "$(basename "$run")" || [ -f "$run/preempted" ] || {
        echo "moleblend train failed; the end of $run/output.txt:" >&2
        tail -n 15 "$run/output.txt" >&2
        return 1
    }
    if [ -f "$run/preempted" ]; then # left by training that a signal ended after a checkpoint
        echo "$run: $(cat "$run/preempted"); the same command goes on from there" >&2
        return 85
    fi
    touch "$run/finished"
}

# both FUNCTION FUNCTION: two at once, one thread each. Small models gain little from a second thread, and lose much where another program
# wants the core. If one fails or the script is stopped, neither goes on.
both() {
    local first second
    set -m # jobs in process groups of their own, so that they can be ended with all they started
    OMP_NUM_THREADS=1 "$1" &
    first=$!
    OMP_NUM_THREADS=1 "$2" &
    second=$!
    set +m
    # shellcheck disable=SC2064
    trap "kill -- -$first -$second 2>/dev/null" EXIT
    wait "$first"
    wait "$second"
    trap - EXIT
}
