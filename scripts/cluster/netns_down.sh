#!/usr/bin/env bash
# netns_down.sh NAME: ends all processes on the two hosts of netns_up.sh and removes them.
NAME="${1:?usage: netns_down.sh NAME}"
for n in 1 2; do
    [ -e "/run/netns/$NAME$n" ] || continue
    found="$(ip netns pids "$NAME$n" 2>/dev/null)"
    [ -z "$found" ] || kill -9 $found
    ip netns del "$NAME$n"
    rm -rf "/etc/netns/$NAME$n"
done
