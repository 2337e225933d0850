#!/bin/bash
# The command and a mounted store: mounting in the background and by mount(8), everything through the socket, paths in
# the mount as names, the second mount, the end.
varve=$(readlink -f "$1")
[ "$(id -u)" -eq 0 ] || { echo "needs root"; exit 77; }
[ -c /dev/fuse ] && (: <>/dev/fuse) 2>/dev/null || { echo "needs /dev/fuse"; exit 77; }
work=$(mktemp -d)
clean_up() {
  cd /
  for mnt in "$work/mnt" "$work/my mnt"; do
    mountpoint -q "$mnt" && { umount "$mnt" || umount -l "$mnt"; }
  done
  rm -rf --one-file-system "$work"
}
trap clean_up EXIT
. "$(dirname "$0")/expect.sh"
unset VARVE_STORE
cd "$work" || exit 1

# wait_for COMMAND...: until it succeeds, ten seconds at most.
wait_for() {
  for _ in $(seq 100); do
    "$@" >/dev/null 2>&1 && return 0
    sleep 0.1
  done
  fail "never: $*"
}
# The daemon of the mount, from the text of the lock.
daemon() { sed 's/.*process \([0-9]*\).*/\1/' store/lock; }

succeeds "$varve" init store
mkdir mnt "my mnt"

# --- usable when mount returns, and nothing of the caller is held
exec 9>held
flock 9
succeeds "$varve" mount store mnt -o cache=16M
mountpoint -q mnt || fail "mount returned and nothing is mounted"
mkdir mnt/web01 || fail "mount returned and the mount is not usable"
exec 9>&-
flock -n held true || fail "the daemon holds a lock of whoever started it"
[ "$(readlink "/proc/$(daemon)/cwd")" = / ] || fail "the daemon's directory is $(readlink "/proc/$(daemon)/cwd")"
[ "$(stat -c %a store/control)" = 600 ] || fail "the socket's mode is $(stat -c %a store/control)"

# --- a second mount is refused and names the first; so is a mountpoint in use
refuses 1 "$work/mnt" "$varve" mount store "my mnt"
succeeds "$varve" init store2
refuses 1 "$work/mnt" "$varve" mount store2 mnt
refuses 1 "store" "$varve" mount store mnt

# --- commands through the socket; the store named by directory, mountpoint, path or current directory
dd if=/dev/urandom of=mnt/web01/disk.img bs=1M count=8 status=none
sum1=$(sha256sum <mnt/web01/disk.img)
mkdir mnt/web01/before
dd if=/dev/urandom of=mnt/web01/disk.img bs=1M count=8 conv=notrunc status=none
succeeds "$varve" -s store list
says web01
succeeds "$varve" -s mnt list --json
json "[d['name'] for d in it['disks']] == ['web01'] and it['disks'][0]['snapshots'] == 1"
succeeds "$varve" list "$work/mnt"
says before
succeeds "$varve" list ./mnt/web01
says before
succeeds "$varve" info "$work/mnt/web01/before"
says before
succeeds "$varve" info ./mnt/web01/before/disk.img --json
json "it['name'] == 'before' and it['disk'] == 'web01' and it['size'] == 8 << 20"
(cd mnt && succeeds "$varve" list && says web01 && [ "$failures" -eq 0 ]) || fail "the store of the current directory"
(cd mnt/web01 && succeeds "$varve" info ./before && [ "$failures" -eq 0 ]) || fail "a path relative to the current directory"
VARVE_STORE=mnt succeeds "$varve" list
succeeds "$varve" info mnt/web01/before
says before
refuses 1 '"mnt"' "$varve" info -s store mnt/web01
refuses 1 "no disk or snapshot" "$varve" info "$work/mnt/web01/before/etc/passwd"
refuses 1 '"nope"' "$varve" info "$work/mnt/nope"

# --- restore and clone, seen through the mount at once
succeeds "$varve" restore "$work/mnt/web01/before"
[ "$(sha256sum <mnt/web01/disk.img)" = "$sum1" ] || fail "restored, and the image is another"
exec 8<>mnt/web01/disk.img
refuses 1 "web01" "$varve" restore "$work/mnt/web01/before"
exec 8>&-
succeeds "$varve" clone web01@before web02 -s store
[ "$(sha256sum <mnt/web02/disk.img)" = "$sum1" ] || fail "cloned, and the image is another"
refuses 1 '"web02"' "$varve" clone web01 web02 -s store
succeeds "$varve" restore web01@before --to web02 --json -s store
json "it['disk'] == 'web02' and it['from'] == {'disk': 'web01', 'snapshot': 'before'}"
mkdir "mnt/odd@name" && truncate -s 1M "mnt/odd@name/disk.img" && mkdir "mnt/odd@name/s@1"
succeeds "$varve" info odd@name@s@1 -s store
succeeds "$varve" info odd@name/s@1 -s store

# --- check and collect while mounted
succeeds "$varve" check store
says "no damage"
succeeds "$varve" collect "$work/mnt"
if command -v setpriv >/dev/null; then
  chmod 755 "$work"
  refuses 1 "" setpriv --reuid 65534 --regid 65534 --clear-groups "$varve" -s store list
fi

wait_for sh -c "! '$varve' list web01 -s store --json | grep -q pending"

# --- the end: umount, and the next command need not wait for more than the close
pid=$(daemon)
umount mnt || fail "umount"
succeeds "$varve" -s store list
says web02
wait_for test ! -e "/proc/$pid"
[ ! -e store/control ] || fail "the socket is still there"

# --- mount(8) and its helper
if [ -e /sbin/mount.varve ] && [ "$(readlink -f /sbin/mount.varve)" = "$(readlink -f "$varve")" ]; then
  succeeds mount -t varve "$work/store" "$work/my mnt" -o nosuid,nodev,noatime
else
  ln -s "$varve" mount.varve
  succeeds ./mount.varve "$work/store" "$work/my mnt" -o nosuid,nodev,noatime
fi
succeeds "$varve" list "$work/my mnt"
says web01
succeeds "$varve" -s "$work/my mnt" info web01
# SIGTERM with nobody there ends it
pid=$(daemon)
kill -TERM "$pid"
wait_for test ! -e "/proc/$pid"
mountpoint -q "my mnt" && fail "SIGTERM left the mount"

# --- a killed daemon: the next mount takes its remains away
succeeds "$varve" mount store mnt
pid=$(daemon)
kill -KILL "$pid"
wait_for test ! -e "/proc/$pid"
succeeds "$varve" mount store mnt
[ "$(sha256sum <mnt/web02/disk.img)" = "$sum1" ] || fail "after a kill the image is another"
umount mnt || fail "umount"

# --- read-only, and in the foreground
"$varve" mount -f store mnt -o ro 2>log &
foreground=$!
wait_for mountpoint -q mnt
mkdir mnt/new 2>/dev/null && fail "a read-only mount made a disk"
umount mnt || fail "umount"
wait "$foreground" || fail "in the foreground it ended with $?: $(cat log)"

# --- told to systemd
if command -v python3 >/dev/null; then
  python3 - "$varve" <<'PY' || fail "READY=1 did not come"
import os, socket, subprocess, sys
path = os.path.abspath('notify')
listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
listener.bind(path)
listener.settimeout(20)
daemon = subprocess.Popen([sys.argv[1], 'mount', '-f', 'store', 'mnt'], env={**os.environ, 'NOTIFY_SOCKET': path})
ok = listener.recv(100) == b'READY=1' and os.path.ismount('mnt')
subprocess.run(['umount', 'mnt'])
daemon.wait(20)
sys.exit(0 if ok else 1)
PY
fi

# --- damage: check names the snapshot, and the exit status says what it is
succeeds "$varve" mount store mnt
cp mnt/web01/before/disk.img saved.img || fail "cp"
umount mnt || fail "umount"
pack=$(find store/packs -name '*.pack' -size +4M | head -n 1)
printf 'damaged by a test' | dd of="$pack" bs=1 seek=1000000 conv=notrunc status=none
run "$varve" check store
[ "$status" -eq 3 ] || fail "check of a damaged store exited with $status: $err"
says "web01@before"
run "$varve" check store --json
[ "$status" -eq 3 ] || fail "check --json of a damaged store exited with $status: $err"
json "not it['clean'] and 'web01@before' in [d['image'] for d in it['damaged']]"

# --- repair: what is nowhere else is named; when a live image has it again it comes back, also under a mount
run "$varve" check --repair store --json
[ "$status" -eq 3 ] || fail "a repair that repaired nothing exited with $status: $err"
json "not it['clean'] and it['repair']['records'] == 0 and it['repair']['lost'] > 0 and it['repair']['failed']"
succeeds "$varve" mount store mnt
dd if=saved.img of=mnt/web01/disk.img bs=1M conv=notrunc,fsync status=none || fail "writing it back"
succeeds "$varve" check --repair store
says "repaired: pack"
says 'the live image of "web01"'
says "no damage"
cmp saved.img mnt/web01/before/disk.img || fail "repaired, and the snapshot is another"
umount mnt || fail "umount"
succeeds "$varve" check --repair store --json
json "it['clean'] and it['repair'] == {'packs': 0, 'records': 0, 'lost': 0, 'repaired': [], 'failed': []}"

finish
