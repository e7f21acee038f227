# shellcheck shell=bash
# Sourced by the scripts of this folder. Each of them is both: run on a login node it submits itself; as a job it does the work.

set -euo pipefail

ROOT="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)"
SCRIPT="$ROOT/scripts/slurm/${SCRIPT_NAME:?}"
IN_JOB=
[[ "$0" != */slurm_script ]] || IN_JOB=1

fail() {
    echo "$SCRIPT_NAME: $*" >&2
    exit 2
}

# The comment at the head of the script that sources this.
usage() {
    sed -n '2,/^[^#]/{/^#SBATCH/d;/^[^#]/!s/^# \{0,1\}//p}' "$SCRIPT"
    sed -n '/^# Where and how jobs run:/,/^$/{/^$/!s/^# \{0,1\}//p}' "$ROOT/scripts/slurm/_common.sh"
}

# Where and how jobs run:
#   PARTITION  ACCOUNT  QOS  CONSTRAINT   as the cluster asks for them; left out where empty
#   TIME=HH:MM:SS        time limit
#   CPUS  MEM            cores, memory of each task (of each node in pretrain.sbatch for MEM)
#   SBATCH_OPTIONS       more options of sbatch, separated by blanks
#   MODULES              modules to load, e.g. "python/3.11 cuda/12.8"
#   SETUP                a file to source, e.g. one that activates an environment
#   VENV=.venv           virtual environment whose commands are used, where it exists

# job_options: options of sbatch that all jobs have, as the array OPTIONS.
job_options() {
    OPTIONS=(--parsable --export=ALL --chdir="$PWD")
    [ -z "${PARTITION:-}" ] || OPTIONS+=(--partition="$PARTITION")
    [ -z "${ACCOUNT:-}" ] || OPTIONS+=(--account="$ACCOUNT")
    [ -z "${QOS:-}" ] || OPTIONS+=(--qos="$QOS")
    [ -z "${CONSTRAINT:-}" ] || OPTIONS+=(--constraint="$CONSTRAINT")
    [ -z "${TIME:-}" ] || OPTIONS+=(--time="$TIME")
    [ -z "${CPUS:-}" ] || OPTIONS+=(--cpus-per-task="$CPUS")
    [ -z "${MEM:-}" ] || OPTIONS+=(--mem="$MEM")
    local more
    read -r -d '' -a more <<<"${SBATCH_OPTIONS:-}" || true
    OPTIONS+=("${more[@]}")
}

# output PATH: a path as sbatch reads it, to whom % begins a pattern.
output() { printf '%s' "${1//%/%%}"; }

# submit WHAT OPTION... -- ARGUMENT...: submits this script; the job's number is in JOB. With DRY_RUN it prints the command instead.
submit() {
    local what="$1" given=()
    shift
    while [ "$1" != -- ]; do
        given+=("$1")
        shift
    done
    shift
    job_options
    if [ -n "${DRY_RUN:-}" ]; then
        JOB="${what^^}_JOB"
        printf '%q ' MOLEBLEND_STEP="$what" sbatch "${OPTIONS[@]}" "${given[@]}" "$SCRIPT" "$@" | sed 's/ $/\n/'
        return
    fi
    command -v sbatch >/dev/null || fail "sbatch was not found: run this where jobs are submitted (--dry-run shows what it would do)"
    JOB="$(MOLEBLEND_STEP="$what" MOLEBLEND_ROOT="$ROOT" sbatch "${OPTIONS[@]}" "${given[@]}" "$SCRIPT" "$@")" || exit 1
    JOB="${JOB%%;*}" # JOB;CLUSTER where there are several
    echo "$what: job $JOB"
}

# activate: commands of the environment first on PATH.
activate() {
    local module modules
    if [ -n "${MODULES:-}" ]; then
        if ! command -v module >/dev/null; then
            for module in /etc/profile.d/modules.sh /etc/profile.d/lmod.sh /usr/share/lmod/lmod/init/bash; do
                # shellcheck disable=SC1090
                [ ! -f "$module" ] || { source "$module"; break; }
            done
        fi
        command -v module >/dev/null || fail "MODULES=$MODULES, but there is no command module on $(hostname)"
        read -r -d '' -a modules <<<"$MODULES" || true
        for module in "${modules[@]}"; do module load "$module"; done
    fi
    # shellcheck disable=SC1090
    [ -z "${SETUP:-}" ] || source "$SETUP"
    export VENV="${VENV:-$ROOT/.venv}"
    [ ! -d "$VENV/bin" ] || export PATH="$VENV/bin:$PATH"
    command -v moleblend >/dev/null || fail "the command moleblend is not on PATH of $(hostname); set VENV, MODULES or SETUP (see --help)"
    # Since Slurm 22.05 srun does not take this over from sbatch.
    [ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"
}

# begin_again: puts this job (of an array: this task) back into the queue, unless it was there too often.
begin_again() {
    if [ "${SLURM_RESTART_COUNT:-0}" -ge "${MAX_REQUEUES:-100}" ]; then
        echo "$SCRIPT_NAME: not requeued again after ${SLURM_RESTART_COUNT} times (MAX_REQUEUES)" >&2
        return 1
    fi
    echo "$SCRIPT_NAME: requeued, time ${SLURM_RESTART_COUNT:-0}; goes on from the last checkpoint"
    scontrol requeue "$SLURM_JOB_ID" # of an array task too: the number of its own, not the array's
}
