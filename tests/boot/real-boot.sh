#!/bin/bash
# A real boot: Debian with systemd as PID 1, in systemd-nspawn. Shows that saved apps come back after a reboot,
# that killed parts of rsm take no app along, that a stop leaves nothing behind, and that a reload under load
# fails no request. Takes two minutes, root, and some 400 MB; run by hand:
#
#     cargo build --release && tests/boot/real-boot.sh target/release/rsm [DIRECTORY]
#
# The Debian root is made once in DIRECTORY (/var/tmp/rsm-boot) and used again.
set -euo pipefail

unset RSM_HOME # inside, each has their own
binary=$(realpath "$1")
work=${2:-/var/tmp/rsm-boot}
root=$work/root

if [ -z "${RSM_BOOT_INSIDE:-}" ]; then
    for tool in debootstrap systemd-nspawn nsenter; do
        command -v $tool > /dev/null || { echo "error: $tool is missing: apt-get install debootstrap systemd-container util-linux" >&2; exit 1; }
    done
    if [ ! -e "$root/.made" ]; then
        mkdir -p "$work"
        debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,procps,curl,nodejs,libpam-systemd bookworm "$root" http://deb.debian.org/debian
        touch "$root/.made"
    fi
    # nspawn wants a /run of its own; and what is mounted here shall end with us.
    RSM_BOOT_INSIDE=1 exec unshare -m --propagation private "$0" "$binary" "$work"
fi

mount -t tmpfs tmpfs /run
install -m 755 "$binary" "$root/usr/local/bin/rsm"
rm -rf "$root"/home/bob/.rsm "$root"/home/bob/.config "$root"/var/lib/systemd/linger/bob "$root"/etc/systemd/system/rsm-*.service "$root"/etc/systemd/system/*/rsm-*.service
chroot "$root" sh -c 'id bob > /dev/null 2>&1 || useradd -m -s /bin/bash bob'
cat > "$root/home/bob/server.js" <<'JS'
require('http').createServer((_, answer) => setTimeout(() => answer.end(`${process.pid}\n`), 20)).listen(3000)
process.on('SIGINT', () => setTimeout(() => process.exit(0), 500))
JS
cat > "$root/home/bob/ecosystem.toml" <<'TOML'
[[apps]]
name = "web"
script = "./server.js"
instances = 2
exec_mode = "cluster"
TOML

# With --keep-unit it ends with 133 for a reboot, and leaves the next start to its caller.
(
    while :; do
        code=0
        systemd-nspawn -q -D "$root" -M "rsm-boot-$$" --register=no --keep-unit --console=pipe --private-network \
            -b systemd.unified_cgroup_hierarchy=1 > "$work/console.log" 2>&1 < /dev/null || code=$?
        [ $code = 133 ] || exit $code
    done
) &
machine=$!
trap '{ pkill -KILL -P $machine; kill -KILL $machine; wait; } > /dev/null 2>&1 || true' EXIT

leader() { pgrep -P "$(pgrep -P $machine -x systemd-nspawn)" -x systemd; }
fail() { echo "FAILED: $*" >&2; exit 1; }
inside() { nsenter -t "$(leader)" -m -u -i -n -p -C -- "$@"; }
bob() { inside runuser -u bob -- env -C /home/bob HOME=/home/bob PATH=/usr/local/bin:/usr/bin:/bin "$@"; }
until_true() { # at most a minute
    local what=$1; shift
    for _ in $(seq 300); do "$@" > /dev/null 2>&1 && return; sleep 0.2; done
    fail "never so: $what"
}
up() { inside systemctl is-system-running | grep -Eq 'running|degraded'; }
pids() { bob rsm pid web | sort | tr '\n' ' '; }
active() { [ "$(inside systemctl is-active rsm-bob)" = active ]; }
answers() { inside curl -sf http://127.0.0.1:3000/; }

until_true "the machine is up" up
echo "1. bob starts apps by hand and saves them; root has them started with the machine"
bob rsm -s start ecosystem.toml
bob rsm save
by_hand=$(pids)
inside rsm startup --user bob
active || fail "the unit is not active"
[ "$(pids)" = "$by_hand" ] || fail "what ran already was started again"
inside rsm startup --user bob 2>&1 | grep -q 'is as it should be' || fail "done twice it changes something"

echo "2. reboot: the apps are back"
former=$(leader)
inside systemctl reboot
rebooted() { local now; now=$(leader) && [ "$now" != "$former" ]; }
until_true "the machine goes down and comes back" rebooted
until_true "the machine is up again" up
until_true "the unit is active" active
until_true "the server answers" answers
[ "$(bob rsm jlist | grep -o '"status":"online"' | wc -l)" = 2 ] || fail "not both instances are online"
inside systemctl show rsm-bob -p MainPID -p NRestarts -p Delegate -p KillMode

echo "3. kill -9 of the daemon, the keeper, the unit's main process: no app notices"
before=$(pids)
for victim in rsm-daemon rsm-keeper main; do
    case $victim in
    main) inside sh -c 'kill -9 $(systemctl show -P MainPID rsm-bob)' ;;
    *) inside pkill -9 -x $victim ;;
    esac
    sleep 2
    until_true "the unit is active" active
    [ "$(pids)" = "$before" ] || fail "after kill -9 of $victim: apps were $before, are $(pids)"
done

echo "4. systemctl reload under load"
inside sh -c 'rm -f /tmp/stop; for n in 1 2 3 4; do (until [ -e /tmp/stop ]; do curl -sf -m 10 http://127.0.0.1:3000/ > /dev/null && echo ok || echo failed; done > /tmp/load.$n) & done; systemctl reload rsm-bob; sleep 1; touch /tmp/stop; wait'
load=$(inside sh -c 'sort /tmp/load.? | uniq -c | tr "\n" " "')
echo "   requests: $load"
case $load in *failed*) fail "requests failed" ;; esac
[ "$(pids)" != "$before" ] || fail "nothing was reloaded"

echo "5. systemctl stop: nothing is left"
bob sh -c 'setsid env -i sleep 7777 > /dev/null 2>&1 &' # bob's own, of no app
bob rsm -s start 'setsid env -i setsid sleep 6666 & exec sleep 5555' --name escapes
inside systemctl stop rsm-bob
left=$(inside ps -u bob -o pid=,args= | grep -v 7777 || true)
[ -z "$left" ] || fail "left: $left"
[ "$(inside systemctl show -P Result rsm-bob)" = success ] || fail "the unit failed"

echo "6. start brings them back; unstartup leaves them alone"
inside systemctl start rsm-bob
until_true "the server answers" answers
before=$(pids)
inside rsm unstartup --user bob
[ "$(pids)" = "$before" ] || fail "unstartup touched apps"
bob rsm -s kill
ended() { ! active; }
until_true "the unit has ended" ended
echo "7. a unit of bob's own, which lingers, after a reboot"
own() { bob env XDG_RUNTIME_DIR="/run/user/$(inside id -u bob)" "$@"; }
inside systemctl start "user@$(inside id -u bob)"
own rsm -s start 'sleep 4444' --name own
own rsm save
own rsm startup
[ "$(own systemctl --user is-active rsm)" = active ] || fail "bob's own unit is not active"
inside loginctl enable-linger bob
former=$(leader)
inside systemctl reboot
until_true "the machine goes down and comes back" rebooted
until_true "the machine is up again" up
until_true "bob's app is back without a login" inside pgrep -u bob -x -f 'sleep 4444'
own systemctl --user stop rsm
if inside pgrep -u bob -f 'sleep 4444|rsm'; then fail "something is left"; fi
own rsm unstartup
inside loginctl disable-linger bob
echo "all is as it should be"
