#!/usr/bin/env bash
# Starts `moleblend train` with several processes, on one host or many: by torchrun, by the deepspeed launcher, or as a rank that srun started.
#
#   launch.sh [--dry-run | --help] STORE OPTION...        OPTIONs are fairseq-train's; --user-dir is added
#
#   LAUNCHER=torchrun    torchrun: run the same command on every host; they find each other at MASTER
#                        deepspeed: run it once, hosts are reached by pdsh over ssh, in HOSTFILE's order; or on every host with NODE_RANK set
#                        srun: this process is one rank of a Slurm step and replaces itself by the training
#   PROCS                processes on each host (default: its GPUs; 1 where there are none)
#   NODES=1              hosts; MIN:MAX lets torchrun begin with fewer and take up more after a restart
#   MASTER               HOST[:PORT] of the first host, as all hosts can reach it (port 29500); needed with NODES over 1
#   LOCAL_ADDR           torchrun: this host's address, where its name does not lead to it
#   JOB=moleblend        torchrun: name of the rendezvous; another one for each job at the same MASTER
#   RESTARTS=0           torchrun: how often all processes are started anew, from the last checkpoint, after one of them failed
#   GRACE=300            torchrun: seconds to finish the update and save, after SIGTERM, SIGINT or SIGUSR1 (deepspeed on one host gives about 30)
#   HOSTFILE  NODE_RANK  deepspeed: "HOST slots=N" lines; this host's number in them, from 0, if no ssh is to be used
#   VENV=.venv           virtual environment whose commands are used, where it exists
#
# Exit code: the launcher's; but 0, or MOLEBLEND_PREEMPTED_EXIT, where a signal stopped the training and everything was saved.
# --dry-run prints the command and the settings that go with it, and starts nothing.
set -euo pipefail
ROOT="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
LAUNCHER="${LAUNCHER:-torchrun}"
NODES="${NODES:-1}"
PORT=29500

fail() {
    echo "launch.sh: $*" >&2
    exit 2
}

# GPUs that programs started here may use.
gpus() {
    if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
        tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c . || true
    else
        { command -v nvidia-smi >/dev/null && nvidia-smi --list-gpus 2>/dev/null || true; } | grep -c '^GPU' || true
    fi
}

# torchrun or deepspeed with all of its own options, as the array COMMAND.
by_torchrun() {
    COMMAND=(torchrun --nproc-per-node "$PROCS" --max-restarts "${RESTARTS:-0}")
    # As settings, not options: torch before 2.9 passes over the first one, and has no option of that name.
    # Without it SIGUSR1 would end torchrun alone and leave its processes behind.
    SETTINGS+=("PET_SIGNALS_TO_HANDLE=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1" "TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${GRACE:-300}")
    if [ "$NODES" = 1 ]; then
        COMMAND+=(--standalone)
    else
        COMMAND+=(--nnodes "$NODES" --rdzv-backend c10d --rdzv-id "${JOB:-moleblend}" --rdzv-endpoint "$MASTER")
        # torch 2.13: a host that joins waits for an address that the first host told those of the beginning only, unless it is told anew.
        [[ "$NODES" != *:* ]] || SETTINGS+=("TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1")
        [ -z "${LOCAL_ADDR:-}" ] || COMMAND+=(--local-addr "$LOCAL_ADDR")
    fi
    COMMAND+=(--no-python moleblend train)
}

by_deepspeed() {
    [[ "$NODES" != *:* ]] || fail "NODES=$NODES: only torchrun takes MIN:MAX"
    local script
    script="$(PATH="$WITH_VENV" command -v deepspeed || echo deepspeed)"
    COMMAND=(deepspeed)
    [[ "$script" != *" "* ]] || COMMAND=(python "$script") # its first line names the environment, where the system takes no blank
    COMMAND+=(--num_gpus "$PROCS" --master_port "${MASTER##*:}")
    [ "$(gpus)" != 0 ] || SETTINGS+=("DS_ACCELERATOR=cpu")
    if [ "$NODES" != 1 ]; then
        [ -f "${HOSTFILE:-}" ] || fail "LAUNCHER=deepspeed with NODES=$NODES needs HOSTFILE, a file of lines \"HOST slots=N\" (got \"${HOSTFILE:-}\")"
        COMMAND+=(--hostfile "$HOSTFILE" --num_nodes "$NODES" --master_addr "${MASTER%:*}")
        if [ -n "${NODE_RANK:-}" ]; then
            COMMAND+=(--no_ssh --node_rank "$NODE_RANK")
        else
            mapfile -t HOSTS < <(sed -n 's/^[[:space:]]*\([^#[:space:]]\+\)[[:space:]].*slots=.*/\1/p' <"$HOSTFILE" | head -n "$NODES")
            [ "${#HOSTS[@]}" = "$NODES" ] || fail "NODES=$NODES, but HOSTFILE=$HOSTFILE has ${#HOSTS[@]} lines \"HOST slots=N\""
            local host
            for host in "${HOSTS[@]}"; do
                # Words of other kinds would be options of ssh, or be read by a shell.
                [[ "$host" =~ ^[A-Za-z0-9_]([A-Za-z0-9_.@-]*[A-Za-z0-9_])?$ ]] || fail "HOSTFILE=$HOSTFILE: \"$host\" is no name of a host"
            done
            [[ "$PWD" =~ ^[A-Za-z0-9_./,:@%+=-]+$ ]] || fail "deepspeed does not quote this folder's name on other hosts: $PWD; start from another one"
            COMMAND+=(--no_ssh_check) # reachable does the same for all of the hosts
        fi
    fi
    COMMAND+=(--no_python --no_local_rank)
    [ "${#HOSTS[@]}" != 0 ] || COMMAND+=(moleblend train)
}

# on_hosts: makes of the training's words in WORDS what pdsh is to start. deepspeed passes on variables of NCCL and Python; our own come
# along here, and a name by which `tell` finds the processes again.
on_hosts() {
    local ours variable word
    ours="$(PATH="$WITH_VENV" command -v moleblend || echo moleblend)"
    while read -r variable; do SETTINGS+=("$variable=${!variable}"); done < <(compgen -e | grep '^MOLEBLEND_')
    COMMAND+=(env)
    for word in "MOLEBLEND_LAUNCH=$LAUNCH" "${SETTINGS[@]}" "$ours" train "${WORDS[@]}"; do
        word="${word//%/%%}" # pdsh puts the host's name and number for %h and %n
        # deepspeed itself puts quotation marks around a word with a blank, and nothing around others.
        if [[ "$word" == *" "* ]]; then word="$(sed 's/[\\$`]/\\&/g' <<<"$word")"; else word="$(printf %q "$word")"; fi
        COMMAND+=("$word")
    done
}

# reachable: ends with a message where a host cannot be reached, before any of them has begun to wait for it.
reachable() {
    local command host said
    for command in ssh pdsh; do
        command -v "$command" >/dev/null || fail "LAUNCHER=deepspeed with HOSTFILE needs the command $command, which is not installed here" \
            "(Debian: apt-get install openssh-client pdsh); without it, run this on every host with NODE_RANK set, or use torchrun"
    done
    for host in "${HOSTS[@]}"; do
        said="$(ssh -o BatchMode=yes -o ConnectTimeout=15 -- "$host" true 2>&1 </dev/null)" ||
            fail "$host, of HOSTFILE=$HOSTFILE, cannot be reached by ssh without a password: $said"
    done
}

# save_folder ARGUMENT...: where checkpoints go.
save_folder() {
    local folder=checkpoints
    while [ $# -gt 0 ]; do
        case "$1" in
        --save-dir) folder="${2:-}" ;;
        --save-dir=*) folder="${1#*=}" ;;
        esac
        shift
    done
    printf '%s\n' "$folder"
}

# tell PID SIGNAL: passes a signal on. deepspeed would leave behind what it started, so that everything there gets a SIGTERM; on other
# hosts it would cut off the output and end at once, so that the training processes get the signal, and all ends with them.
tell() {
    local host told="" each='cd /proc; for p in [0-9]*; do ! grep -qszFx "MOLEBLEND_LAUNCH=%s" $p/environ || kill -%s $p && echo $p; done'
    # shellcheck disable=SC2059
    for host in "${HOSTS[@]}"; do
        told+="$(ssh -o BatchMode=yes -o ConnectTimeout=15 -- "$host" "$(printf "$each" "$LAUNCH" "$2")" </dev/null || true)"
    done
    [ -z "$told" ] || return 0
    if [ "$LAUNCHER" = deepspeed ]; then kill -TERM -- "-$1"; else kill "-$2" "$1"; fi 2>/dev/null || true
}

# supervise FOLDER: runs COMMAND, passes signals on to it, waits for all that it started. Training that was stopped by a signal leaves
# a file `preempted` beside its checkpoints; the launchers themselves report such an end as a failure.
supervise() {
    local begun child="" early="" code=0 marker="$1/preempted"
    begun="$(date +%s)"
    # From before there is a child, which may have begun before its number is known here.
    trap 'if [ -n "$child" ]; then tell "$child" TERM; else early=TERM; fi' TERM INT HUP
    trap 'if [ -n "$child" ]; then tell "$child" USR1; else early=USR1; fi' USR1
    set -m # a process group of its own, so that Ctrl-C in a terminal comes to it once, from here
    "${COMMAND[@]}" </dev/null &
    child=$!
    set +m
    [ -z "$early" ] || tell "$child" "$early"
    while kill -0 "$child" 2>/dev/null; do wait "$child" || true; done
    wait "$child" || code=$?
    while kill -0 -- "-$child" 2>/dev/null; do sleep 0.2; done
    if [ "$code" != 0 ] && [ -f "$marker" ] && [ "$(stat -c %Y -- "$marker")" -ge "$begun" ]; then
        echo "launch.sh: $(cat "$marker"); the same command goes on from there"
        code="${MOLEBLEND_PREEMPTED_EXIT:-0}"
    fi
    exit "$code"
}

dry=
case "${1:-}" in
-h | --help) sed -n '2,/^set /{/^set /!s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit ;;
--dry-run) dry=1; shift ;;
esac
[ $# -gt 0 ] || fail "no store given; see launch.sh --help"
[[ "$1" != -* ]] || fail "the store comes first, then options (got \"$1\")"
[[ "$NODES" =~ ^[1-9][0-9]*(:[1-9][0-9]*)?$ ]] || fail "NODES must be a number of hosts, or MIN:MAX, got \"$NODES\""
PROCS="${PROCS:-$(gpus)}"
[ "$PROCS" != 0 ] || PROCS=1
[[ "$PROCS" =~ ^[1-9][0-9]*$ ]] || fail "PROCS must be a number of processes, got \"$PROCS\""
if [ "$NODES" != 1 ] && [ -z "${MASTER:-}" ] && [ "$LAUNCHER" != srun ]; then
    fail "NODES=$NODES needs MASTER=HOST[:PORT], the first host as the others reach it"
fi
MASTER="${MASTER:-127.0.0.1}"
[[ "$MASTER" == *:* ]] || MASTER="$MASTER:$PORT"

VENV="${VENV:-$ROOT/.venv}"
WITH_VENV="$([ ! -d "$VENV/bin" ] || echo "$VENV/bin:")$PATH"
SETTINGS=()
HOSTS=() # that deepspeed reaches by ssh
LAUNCH="$(hostname)-$$-$(date +%s)"
case "$LAUNCHER" in
torchrun) by_torchrun ;;
deepspeed) by_deepspeed ;;
srun)
    [ -n "${SLURM_PROCID:-}" ] || [ -n "$dry" ] || fail "LAUNCHER=srun is for processes that srun started; see scripts/slurm/pretrain.sbatch"
    COMMAND=(moleblend train)
    ;;
*) fail "LAUNCHER must be torchrun, deepspeed or srun, got \"$LAUNCHER\"" ;;
esac
# Many processes on a host share its cores; torchrun says the same, srun does not.
SETTINGS+=("OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}")
WORDS=("$@")
USER_DIR=(--user-dir "$ROOT/moleblend_fs")
for word; do [[ "$word" != --user-dir && "$word" != --user-dir=* ]] || USER_DIR=(); done
WORDS+=("${USER_DIR[@]}")
if [ "${#HOSTS[@]}" = 0 ]; then COMMAND+=("${WORDS[@]}"); else on_hosts; fi

if [ -n "$dry" ]; then
    printf '%q ' "${SETTINGS[@]}" "${COMMAND[@]}" | sed 's/ $/\n/'
    exit
fi
export PATH="$WITH_VENV"
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}" # on CPUs threads that wait leave their cores to others
command -v "${COMMAND[0]}" >/dev/null || fail "the command ${COMMAND[0]} is not installed; see README.md, or name an environment: VENV=FOLDER"
export "${SETTINGS[@]}"
[ "$LAUNCHER" != srun ] || exec "${COMMAND[@]}"
[ "${#HOSTS[@]}" = 0 ] || reachable
supervise "$(save_folder "$@")"
