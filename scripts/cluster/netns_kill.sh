#!/usr/bin/env bash
# netns_kill.sh NAME N: kill -9 for all processes on host N of netns_up.sh, as when it loses power; the host itself stays.
set -euo pipefail
found="$(ip netns pids "${1:?usage: netns_kill.sh NAME N}${2:?usage: netns_kill.sh NAME N}")"
[ -z "$found" ] || kill -9 $found
