#!/usr/bin/env bash
# netns_exec.sh NAME N COMMAND...: a command on host N of netns_up.sh, with that host's name, addresses and interface for gloo.
set -euo pipefail
NAME="$1" N="$2"
shift 2
export GLOO_SOCKET_IFNAME="ve$N" TP_SOCKET_IFNAME="ve$N" NCCL_SOCKET_IFNAME="ve$N"
exec ip netns exec "$NAME$N" unshare --uts sh -c 'hostname "$1"; shift; exec "$@"' sh "host$N" "$@"
