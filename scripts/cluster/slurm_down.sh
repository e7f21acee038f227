#!/usr/bin/env bash
# Ends the Slurm that slurm_up.sh LAB brought up, with all its jobs; logs stay in LAB.
set -uo pipefail
LAB="$(cd "${1:?usage: slurm_down.sh LAB}" && pwd)" || exit 2
export SLURM_CONF="$LAB/slurm.conf"

# pid FILE NAME: the process of a pid file, if it still is the daemon of that name.
pid() {
    local found
    [ -s "$1" ] && found="$(cat "$1")" && [ "$(cat "/proc/$found/comm" 2>/dev/null)" = "$2" ] && echo "$found"
}

# end PID...: SIGTERM, after 10 s SIGKILL; returns when they are gone.
end() {
    local i one
    kill "$@" 2>/dev/null
    for ((i = 0; i < 100; i++)); do
        for one in "$@"; do kill -0 "$one" 2>/dev/null && break; one=; done
        [ -n "$one" ] || return 0
        sleep 0.1
    done
    kill -9 "$@" 2>/dev/null
}

if [ -n "$(pid "$LAB/slurmctld.pid" slurmctld)" ]; then
    scancel --state=PENDING --user=root 2>/dev/null
    scancel --signal=KILL --full --user=root 2>/dev/null
    scancel --user=root 2>/dev/null
    for ((i = 0; i < 60; i++)); do
        [ -n "$(squeue -h 2>/dev/null)" ] || break
        sleep 0.5
    done
fi
daemons=()
for file in "$LAB"/slurmd-*.pid; do daemons+=($(pid "$file" slurmd)); done
daemons+=($(pid "$LAB/slurmctld.pid" slurmctld) $(pid "$LAB/munge/pid" munged))
[ ${#daemons[@]} = 0 ] || end "${daemons[@]}"
rm -f "$LAB/env.sh"
