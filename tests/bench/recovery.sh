#!/bin/bash
# How soon a store is usable after each kind of end: a live image of 1 TiB and 1,000 snapshots; 10,000 snapshots; 1,000
# disks. Takes ten minutes. What is compared with other systems is in speed.py.
#
#   sudo tests/bench/recovery.sh VARVE [DIRECTORY]     VARVE: the command; DIRECTORY: where (default /var/tmp)
set -euo pipefail
varve=$(readlink -f "${1:?usage: recovery.sh VARVE [DIRECTORY]}")
work=$(mktemp -d "${2:-/var/tmp}/varve-bench.XXXXXX")
cd "$work"
clean_up() {
  cd /
  for _ in $(seq 50); do mountpoint -q "$work/v" || break; umount "$work/v" 2>/dev/null || sleep 0.1; done
  mountpoint -q "$work/v" && umount -l "$work/v"
  rm -rf --one-file-system "$work"
}
trap clean_up EXIT

timed() { # NAME COMMAND...
  local name=$1 begin=$EPOCHREALTIME
  shift
  "$@" >/dev/null
  LC_ALL=C awk -v n="$name" -v a="$begin" -v b="$EPOCHREALTIME" 'BEGIN { printf "  %-44s %9.1f ms\n", n, (b - a) * 1000 }'
}
drop_caches() { sync; echo 3 >/proc/sys/vm/drop_caches; }

# status EXPRESSION: of .varve/status.json, which is `s`.
status() { python3 -c 'import json, sys; s = json.load(open("v/.varve/status.json")); print(eval(sys.argv[1]))' "$1"; }
# snapshots FIRST LAST: takes them, each after three small writes far apart; prints how long mkdir took.
snapshots() {
  python3 - "$1" "$2" <<'PY'
import os, random, sys, time
first, last = int(sys.argv[1]), int(sys.argv[2])
dice = random.Random(first)
image = os.open('v/d/disk.img', os.O_WRONLY)
took = []
for k in range(first, last):
    for _ in range(3):
        os.pwrite(image, dice.randbytes(4096), dice.randrange(1 << 28) * 4096)
    begin = time.monotonic()
    os.mkdir(f'v/d/s{k:05}')
    took.append((time.monotonic() - begin) * 1000)
took.sort()
print('  %-44s %9.1f ms   p99 %7.2f ms' % (f'mkdir, snapshots {first} to {last}', took[len(took) // 2], took[len(took) * 99 // 100]))
PY
}
memory() { printf '  %-44s %9d MB\n' "$1" $(($(awk '/VmRSS/ { print $2 }' "/proc/$(daemon)/status") / 1024)); }
daemon() { sed 's/.*process \([0-9]*\).*/\1/' store/lock; }
# wait_until NAME EXPRESSION: of the status; prints how long that was not so.
wait_until() {
  local begin=$EPOCHREALTIME
  while [ "$(status "$2")" != True ]; do sleep 0.1; done
  LC_ALL=C awk -v n="$1" -v a="$begin" -v b="$EPOCHREALTIME" 'BEGIN { printf "  %-44s %9.1f s\n", n, b - a }'
}
no_pending='not any(d["snapshots"]["pending"] for d in s["disks"])'
swept='not any(d["live"] and d["live"]["unswept_chunks"] for d in s["disks"])'
started='all(t["state"] == "done" for t in s["background"].values())'
# Until the daemon has let go of the store, which may be after what ended it.
wait_gone() { while [ -d "/proc/$1" ]; do sleep 0.05; done; }
unmount() {
  local process
  process=$(daemon)
  umount v
  wait_gone "$process"
  drop_caches
}
kill_daemon() {
  local process
  process=$(daemon)
  kill -KILL "$process"
  wait_gone "$process"
  umount -l v
  drop_caches
}
die() { # ends the daemon with a pending snapshot
  python3 -c 'import os, sys, random
image = os.open("v/d/disk.img", os.O_WRONLY)
for i in range(200): os.pwrite(image, random.randbytes(65536), random.randrange(1 << 24) << 16)
os.mkdir("v/d/" + sys.argv[1])' "$1"
  kill_daemon
}
recovery() {
  "$varve" init store >/dev/null
  "$varve" mount store v
  mkdir v/d
  truncate -s 1T v/d/disk.img
  echo "a live image of 1 TiB, 1,000 snapshots"
  snapshots 0 1000
  wait_until "commits" "$no_pending"
  unmount
  timed "mount" "$varve" mount store v
  die killed
  timed "mount after a kill" "$varve" mount store v
  wait_until "  commit, sweep, locator, garbage after it" "$no_pending and $swept and $started"
  die lost
  timed "mount after a power loss" "$varve" mount store v -o assume_power_loss
  wait_until "  commit, sweep, locator, garbage after it" "$no_pending and $swept and $started"
  timed "first mkdir after a power loss" mkdir v/d/compared
  wait_until "  its commit, which compares" "$no_pending"
  unmount
  rm -r store/locator
  timed "mount without a locator" "$varve" mount store v
  wait_until "  locator and garbage after it" "$started"
  echo "10,000 snapshots"
  snapshots 1000 10000
  wait_until "commits" "$no_pending"
  timed "ls -l" ls -l v/d
  unmount
  timed "mount" "$varve" mount store v
  wait_until "  locator and garbage after it" "$started"
  memory "memory of the daemon"
  timed "ls -l" ls -l v/d
  snapshots 10000 10100
  timed "delete a snapshot" rmdir v/d/s05000
  unmount
  rm -rf store
  echo "1,000 disks"
  "$varve" init store >/dev/null
  "$varve" mount store v
  timed "mkdir and truncate, all" python3 -c 'import os
for i in range(1000):
    os.mkdir(f"v/d{i}")
    with open(f"v/d{i}/disk.img", "wb") as image: image.truncate(1 << 40)
    with open(f"v/d{i}/disk.img", "r+b") as image: image.write(b"x" * 4096)
    os.mkdir(f"v/d{i}/s")'
  wait_until "commits" "$no_pending"
  unmount
  timed "mount" "$varve" mount store v
  kill_daemon
  timed "mount after a kill" "$varve" mount store v
  wait_until "  sweep, locator, garbage after it" "$swept and $started"
  memory "memory of the daemon"
  timed "unmount" umount v
}

echo "$(nproc) processors, $(uname -r), $(stat -f -c %T .), $("$varve" --version)"
mkdir v
recovery
