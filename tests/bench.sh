#!/bin/bash
# The numbers in README.md: a live image against a plain file beside the store, on the same filesystem; snapshots, restore
# and clone; reading a snapshot. Takes three minutes.
#
#   sudo tests/bench.sh VARVE [DIRECTORY]      VARVE: the command; DIRECTORY: where (default /var/tmp)
set -euo pipefail
varve=$(readlink -f "${1:?usage: bench.sh VARVE [DIRECTORY]}")
work=$(mktemp -d "${2:-/var/tmp}/varve-bench.XXXXXX")
cd "$work"
clean_up() {
  cd /
  for _ in $(seq 50); do mountpoint -q "$work/v" || break; umount "$work/v" 2>/dev/null || sleep 0.1; done
  mountpoint -q "$work/v" && umount -l "$work/v"
  rm -rf --one-file-system "$work"
}
trap clean_up EXIT
size=2G
seconds=8

# fio NAME FILE OPTION...: prints operations a second, megabytes a second and the 99th percentile in milliseconds.
fio_line() {
  local name=$1 file=$2
  shift 2
  fio --name=x --filename="$file" --size="$size" --ioengine=libaio --direct=1 --runtime="$seconds" --time_based \
    --norandommap --randrepeat=0 --output-format=json "$@" 2>/dev/null | python3 -c '
import json, sys
job = json.load(sys.stdin)["jobs"][0]
side = max((job["read"], job["write"]), key=lambda s: s["iops"])
p99 = side["clat_ns"].get("percentile", {}).get("99.000000", 0) / 1e6
print("  %-44s %9.0f /s %8.0f MB/s   p99 %7.2f ms" % (sys.argv[1], side["iops"], side["bw_bytes"] / 1e6, p99))' "$name"
}
compare() { # NAME OPTION...
  local name=$1
  shift
  fio_line "$name, plain file" plain.img "$@"
  fio_line "$name, live image" v/d/disk.img "$@"
}
timed() { # NAME COMMAND...
  local name=$1 begin=$EPOCHREALTIME
  shift
  "$@" >/dev/null
  LC_ALL=C awk -v n="$name" -v a="$begin" -v b="$EPOCHREALTIME" 'BEGIN { printf "  %-44s %9.1f ms\n", n, (b - a) * 1000 }'
}
drop_caches() { sync; echo 3 >/proc/sys/vm/drop_caches; }
# Waits until no snapshot is pending.
settle() { while "$varve" list v/d --json | grep -q '"pending"'; do sleep 0.2; done; }

echo "$(nproc) processors, $(uname -r), $(stat -f -c %T .), $("$varve" --version)"
mkdir v
"$varve" init store >/dev/null
"$varve" mount store v -o cache=64M
mkdir v/d
echo "live image"
for file in plain.img v/d/disk.img; do
  fio --name=fill --filename="$file" --size="$size" --rw=write --bs=1M --direct=1 --buffer_compress_percentage=60 \
    --refill_buffers >/dev/null
done
compare "random 4 KiB writes, 16 deep" --rw=randwrite --bs=4k --iodepth=16
compare "random 4 KiB writes, each fdatasync" --rw=randwrite --bs=4k --fdatasync=1
compare "random 4 KiB reads, 16 deep" --rw=randread --bs=4k --iodepth=16
compare "sequential writes" --rw=write --bs=1M --iodepth=4
compare "sequential reads" --rw=read --bs=1M --iodepth=4
echo "snapshots of $size, all of it changed at first"
timed "first" mkdir v/d/s0
timed "second, the first still pending" mkdir v/d/s1
fio_line "random 4 KiB writes while both are pending" v/d/disk.img --rw=randwrite --bs=4k --iodepth=16
settle
timed "third, 100,000 blocks changed" mkdir v/d/s2
settle
drop_caches
fio_line "sequential reads of a snapshot, cold" v/d/s0/disk.img --rw=read --bs=1M --direct=0 --ioengine=psync \
  --runtime=5 --readonly
drop_caches
fio_line "random 4 KiB reads of a snapshot, cold, 16 deep" v/d/s0/disk.img --rw=randread --bs=4k --iodepth=16 --readonly
timed "restore with cp" cp v/d/s0/disk.img v/d/disk.img
timed "restore with varve restore" "$varve" restore "$work/v/d/s1"
timed "clone with cp -rT" cp -rT v/d/s0 v/e
timed "delete a snapshot" rmdir v/d/s1
timed "check everything" "$varve" check store
timed "unmount" umount v
timed "mount" "$varve" mount store v
kill -KILL "$(sed 's/.*process \([0-9]*\).*/\1/' store/lock)"
sleep 1
timed "mount after kill -9" "$varve" mount store v
