#!/usr/bin/env bash
# Brings a real Slurm up for tests: munged, slurmctld and NODES slurmd on this machine. As root, without systemd.
#
#   slurm_up.sh LAB     LAB: a new folder for configuration, keys, spool, logs; a Slurm of the machine's own is left alone
#
#   NODES=2  CPUS=4  INSTALL=1     INSTALL=0: fail instead of installing Debian's packages where they are missing
#
# Afterwards LAB/env.sh holds what a client needs: `. LAB/env.sh; sinfo`. Down again: slurm_down.sh LAB.
# Nothing outside LAB changes but installed packages. The nodes n1, n2, ... share this machine's addresses; their names are known inside
# jobs only, by a hosts file in the mount namespace of each slurmd.
set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
LAB="${1:?usage: slurm_up.sh LAB}"
NODES="${NODES:-2}"
CPUS="${CPUS:-4}"
[ "$(id -u)" = 0 ] || { echo "slurm_up.sh: needs root" >&2; exit 2; }

if ! { command -v slurmctld && command -v slurmd && command -v munged && command -v sbatch; } >/dev/null; then
    [ "${INSTALL:-1}" = 1 ] || { echo "slurm_up.sh: Slurm is not installed" >&2; exit 2; }
    apt-get update -qq >/dev/null
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge >/dev/null
fi

mkdir -p "$LAB"
LAB="$(cd "$LAB" && pwd)"
[ ! -e "$LAB/env.sh" ] || { echo "slurm_up.sh: $LAB is in use" >&2; exit 2; }
chmod 755 "$LAB"
mkdir -p "$LAB"/{munge,state,log,spool}
chmod 700 "$LAB/munge"
HOST="$(hostname -s)"

free_ports() {
    python3 - "$1" <<'PYTHON'
import socket, sys
taken = [socket.socket() for _ in range(int(sys.argv[1]))]
for one in taken:
    one.bind(("", 0))
print(*(one.getsockname()[1] for one in taken))
PYTHON
}
read -r -a PORTS <<<"$(free_ports $((NODES + 1)))"

cat >"$LAB/slurm.conf" <<CONF
ClusterName=lab
SlurmctldHost=$HOST(127.0.0.1)
SlurmctldPort=${PORTS[0]}
AuthType=auth/munge
AuthInfo=socket=$LAB/munge/socket,cred_expire=5
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$LAB/state
SlurmdSpoolDir=$LAB/spool/%n
SlurmctldPidFile=$LAB/slurmctld.pid
SlurmdPidFile=$LAB/slurmd-%n.pid
SlurmctldLogFile=$LAB/log/slurmctld.log
SlurmdLogFile=$LAB/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
PreemptMode=OFF
ReturnToService=2
JobRequeue=1
KillWait=10
SlurmctldTimeout=60
SlurmdTimeout=60
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2,requeue_delay=1
CONF
{ cat /etc/hosts && for ((i = 1; i <= NODES; i++)); do echo "127.0.0.1 n$i"; done; } >"$LAB/hosts"
for ((i = 1; i <= NODES; i++)); do
    mkdir -p "$LAB/spool/n$i"
    echo "NodeName=n$i NodeHostname=$HOST NodeAddr=127.0.0.1 Port=${PORTS[$i]} CPUs=$CPUS Boards=1 SocketsPerBoard=1" \
        "CoresPerSocket=$CPUS ThreadsPerCore=1 RealMemory=8000 State=UNKNOWN" >>"$LAB/slurm.conf"
done
echo "PartitionName=main Nodes=n[1-$NODES] Default=YES MaxTime=INFINITE State=UP" >>"$LAB/slurm.conf"
export SLURM_CONF="$LAB/slurm.conf"

trap '"$HERE/slurm_down.sh" "$LAB" || true' ERR
mungekey --create --keyfile="$LAB/munge/key"
munged --socket="$LAB/munge/socket" --key-file="$LAB/munge/key" --pid-file="$LAB/munge/pid" --seed-file="$LAB/munge/seed" \
    --log-file="$LAB/munge/log" --force
slurmctld
for ((i = 1; i <= NODES; i++)); do
    unshare --mount sh -c 'mount --bind "$1" /etc/hosts && exec slurmd -N "$2"' sh "$LAB/hosts" "n$i"
done
for ((wait = 0; wait < 120; wait++)); do
    [ "$(sinfo -h -N -t idle -o %N 2>/dev/null | wc -l)" = "$NODES" ] && break
    sleep 0.5
done
[ "$wait" -lt 120 ] || { sinfo >&2; tail -n 20 "$LAB"/log/*.log >&2; false; }
echo "export SLURM_CONF=$LAB/slurm.conf" >"$LAB/env.sh"
