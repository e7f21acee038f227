#!/usr/bin/env bash
# netns_cut.sh NAME: cuts the link between the two hosts of netns_up.sh. Interfaces stay up and nobody is told, as when a switch between
# them dies: each host sends its packets to a hardware address that nobody has.
set -euo pipefail
for n in 1 2; do ip -n "$1$n" neigh replace 10.77.0.$((3 - n)) lladdr 02:00:00:00:00:99 dev "ve$n" nud permanent; done
