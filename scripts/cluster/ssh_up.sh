#!/usr/bin/env bash
# An sshd on each of the two hosts of netns_up.sh, and the commands ssh and pdsh that reach them by name without a password. As root.
#
#   ssh_up.sh NAME LAB      LAB: a new folder for keys, configuration and logs; then: PATH=LAB/bin:$PATH ssh host2 hostname
#
#   INSTALL=1               INSTALL=0: fail instead of installing Debian's openssh-server and pdsh where they are missing
#
# Nothing outside LAB changes but installed packages: keys, known hosts and sshd of the machine's own are neither used nor touched.
# netns_down.sh NAME ends both sshd.
set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
NAME="${1:?usage: ssh_up.sh NAME LAB}"
LAB="${2:?usage: ssh_up.sh NAME LAB}"
[ "$(id -u)" = 0 ] || { echo "ssh_up.sh: needs root" >&2; exit 2; }

if ! { command -v /usr/sbin/sshd && command -v ssh && command -v pdsh; } >/dev/null; then
    [ "${INSTALL:-1}" = 1 ] || { echo "ssh_up.sh: openssh-server or pdsh is not installed" >&2; exit 2; }
    apt-get update -qq >/dev/null
    # In runlevel 1 Debian's packages start no service.
    RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends openssh-server openssh-client pdsh >/dev/null
fi

mkdir -p "$LAB/bin"
LAB="$(cd "$LAB" && pwd)"
chmod 700 "$LAB"
ssh-keygen -q -t ed25519 -N '' -f "$LAB/key"
for n in 1 2; do
    ssh-keygen -q -t ed25519 -N '' -f "$LAB/host$n"
    echo "host$n,10.77.0.$n $(cut -d ' ' -f 1,2 "$LAB/host$n.pub")" >>"$LAB/known_hosts"
done

cat >"$LAB/ssh_config" <<CONF
IdentityFile $LAB/key
IdentitiesOnly yes
UserKnownHostsFile $LAB/known_hosts
GlobalKnownHostsFile /dev/null
StrictHostKeyChecking yes
LogLevel ERROR
CONF
printf '#!/bin/sh\nexec "%s" -F "%s/ssh_config" "$@"\n' "$(command -v ssh)" "$LAB" >"$LAB/bin/ssh"
chmod 755 "$LAB/bin/ssh"

for n in 1 2; do
    cat >"$LAB/sshd_config$n" <<CONF
ListenAddress 10.77.0.$n
HostKey $LAB/host$n
PidFile $LAB/sshd$n.pid
AuthorizedKeysFile $LAB/key.pub
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
CONF
    # sshd wants a folder under /run, which is another one in the mount namespace that netns_exec.sh begins.
    "$HERE/netns_exec.sh" "$NAME" "$n" sh -c 'mount -t tmpfs tmpfs /run && mkdir /run/sshd && exec /usr/sbin/sshd -f "$1" -E "$2"' \
        sh "$LAB/sshd_config$n" "$LAB/sshd$n.log"
done
for n in 1 2; do
    found="$("$HERE/netns_exec.sh" "$NAME" 1 "$LAB/bin/ssh" -o ConnectTimeout=10 -o ConnectionAttempts=5 "host$n" hostname)" ||
        { tail -n 20 "$LAB"/sshd*.log >&2; exit 1; }
    [ "$found" = "host$n" ] || { echo "ssh_up.sh: host$n calls itself $found" >&2; exit 1; }
done
