#!/usr/bin/env bash
# Two "hosts" on one machine for tests of multi-node training: network namespaces NAME1 (10.77.0.1) and NAME2 (10.77.0.2), joined by a
# link that can be cut. As root.
#
#   netns_up.sh NAME        then: netns_exec.sh NAME 1 COMMAND...     runs a command on host 1
#                                 netns_cut.sh NAME                   cuts the link; packets vanish, nobody is told
#                                 netns_down.sh NAME                  ends what still runs there and removes both
#   TCP_RETRIES=5           net.ipv4.tcp_retries2 of both: a connection without answers is given up after some seconds, not 15 minutes
set -euo pipefail
NAME="${1:?usage: netns_up.sh NAME}"
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
[ "$(id -u)" = 0 ] || { echo "netns_up.sh: needs root" >&2; exit 2; }
command -v ip >/dev/null || { echo "netns_up.sh: needs the command ip (Debian: apt-get install iproute2)" >&2; exit 2; }
trap '"$HERE/netns_down.sh" "$NAME"' ERR
for n in 1 2; do
    ip netns add "$NAME$n"
    ip netns exec "$NAME$n" sh -c 'echo "$1" >/proc/sys/net/ipv4/tcp_retries2' sh "${TCP_RETRIES:-5}"
    mkdir -p "/etc/netns/$NAME$n"
    printf '127.0.0.1 localhost\n10.77.0.1 host1\n10.77.0.2 host2\n' >"/etc/netns/$NAME$n/hosts"
done
ip link add ve1 netns "${NAME}1" type veth peer name ve2 netns "${NAME}2"
for n in 1 2; do
    ip -n "$NAME$n" addr add "10.77.0.$n/24" dev "ve$n"
    ip -n "$NAME$n" link set lo up
    ip -n "$NAME$n" link set "ve$n" up
done
