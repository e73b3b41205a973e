#!/bin/bash
# sysv-init, OpenRC and runit, for real: a Debian root with their tools, in namespaces of its own. Shows that
# `rsm startup` can be done twice, that each verb of the scripts does what it says, that a stop leaves nothing
# behind, and that `rsm unstartup` leaves apps alone. Takes a minute, root, and some 300 MB; run by hand:
#
#     cargo build && tests/boot/other-inits.sh target/debug/rsm [DIRECTORY]
#
# The Debian root is made once in DIRECTORY (/var/tmp/rsm-inits) and used again.
set -euo pipefail

if [ "$1" != --inside ]; then
    binary=$(realpath "$1")
    root=${2:-/var/tmp/rsm-inits}/root
    if [ ! -e "$root/.made" ]; then
        mkdir -p "$root"
        debootstrap --variant=minbase --include=procps,runit,openrc bookworm "$root" http://deb.debian.org/debian
        touch "$root/.made"
    fi
    install -m 755 "$binary" "$root/usr/local/bin/rsm"
    install -m 755 "$0" "$root/root/test.sh"
    # shellcheck disable=SC2016 # expanded inside
    exec unshare -m -p -f --kill-child env -i root="$root" TERM=dumb PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin bash -ec '
        mount --make-rprivate /
        mount -t proc proc $root/proc; mount -t tmpfs tmpfs $root/run
        mount --rbind /sys $root/sys; mount --rbind /dev $root/dev
        chroot $root bash /root/test.sh --inside'
fi

fail() { echo "FAILED: $*" >&2; exit 1; }
bob() { su bob -c "cd; $*"; }
apps() {
    [ "$(pgrep -u bob -c sleep)" = "$1" ] || fail "$2: $(pgrep -u bob -c sleep) of $1 apps run"
    grep -q "^Groups:.*\b$(getent group audio | cut -d: -f3)\b" "/proc/$(pgrep -u bob -n sleep)/status" || fail "$2: an app lacks a group of bob's"
}
nothing() { ! pgrep -u bob > /dev/null || fail "$1: left: $(pgrep -u bob -a)"; }
until_true() { # at most half a minute
    local what=$1; shift
    for _ in $(seq 150); do "$@" > /dev/null 2>&1 && return; sleep 0.2; done
    fail "never so: $what"
}
twice() { rsm startup "$@" --user bob; rsm startup "$@" --user bob 2>&1 | grep -q 'is as it should be' || fail "done twice it changes something"; }
verbs() { # the command that takes verbs
    "$@" start; apps 3 start
    "$@" status; "$@" start; apps 3 "start again"
    "$@" reload; apps 3 reload
    "$@" restart; apps 3 restart
    "$@" stop; nothing stop
    ! "$@" status || fail "the status of what was stopped is no failure"
    "$@" start; apps 3 "start after stop"
}

id bob > /dev/null 2>&1 || useradd -m -s /bin/bash -G audio bob
rm -rf /home/bob/.rsm /etc/sv/rsm-bob /etc/service/rsm-bob /etc/init.d/rsm-bob
bob 'rsm -s start "exec sleep 5555" --name one -i 2; rsm -s start "exec sleep 4444" --name two; rsm save; rsm -s kill'

echo "1. sysv-init"
twice sysv
ls /etc/rc2.d/S*rsm-bob
verbs /etc/init.d/rsm-bob
rsm unstartup sysv --user bob; apps 3 unstartup
bob rsm -s kill
! ls /etc/rc?.d/*rsm-bob /etc/init.d/rsm-bob 2> /dev/null || fail "something is left"

echo "2. OpenRC"
grep -q '^rc_sys="lxc"' /etc/rc.conf || echo 'rc_sys="lxc"' >> /etc/rc.conf
openrc sysinit; openrc boot; openrc default
twice; apps 3 startup
rc-service rsm-bob stop; nothing stop
verbs rc-service rsm-bob
rsm unstartup --user bob; apps 3 unstartup
bob rsm -s kill
rm -rf /run/openrc

echo "3. runit"
mkdir -p /run/runit
runsvdir /etc/service > /dev/null 2>&1 &
twice
up() { [ "$(pgrep -u bob -c sleep)" = 3 ] && bob rsm ping; }
until_true "runit starts the apps" up
apps 3 "runit"
before=$(pgrep -u bob sleep | sort)
for victim in rsm-daemon rsm-keeper; do
    pkill -9 -x $victim
    until_true "rsm answers again" bob rsm ping
done
[ "$(pgrep -u bob sleep | sort)" = "$before" ] || fail "apps noticed that parts of rsm were killed"
sv -w 30 stop rsm-bob; nothing "sv stop"
sv -w 30 start rsm-bob; until_true "sv start" up
bob rsm -s kill
down() { sv status rsm-bob | grep -q ^down; }
until_true "rsm kill lasts" down
sv start rsm-bob; until_true "sv start" up
rsm unstartup --user bob
sleep 8 # runsvdir looks every five seconds
apps 3 unstartup
bob rsm -s kill; sleep 2; nothing "the end"
echo "all is as it should be"
