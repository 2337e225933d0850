#!/bin/bash
# The main job, shown on this machine: a disk made of its own files, on ext4, on a loop device, over a live image of varve;
# files change, two snapshots are taken, both are mounted and looked at, the first is restored with cp. Everything is
# verified and timed, and everything is unmounted and removed at the end, also after a failure.
#
#   sudo tests/demo.sh
#   DEMO_MIB=8192 sudo -E tests/demo.sh      another size of disk (default 2048 MiB)
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" -eq 0 ] || { echo "demo.sh mounts filesystems and attaches loop devices: run it as root (sudo $0)" >&2; exit 1; }
. tests/packages.sh

size_mib=${DEMO_MIB:-2048}
build=${BUILD:-$PWD/build-demo}
work=$(mktemp -d /var/tmp/varve-demo.XXXXXX)
loops=()

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
timed() {
  local begin=$EPOCHREALTIME
  printf '  $ %s\n' "$*"
  "$@"
  LC_ALL=C awk -v a="$begin" -v b="$EPOCHREALTIME" 'BEGIN { printf "    %.3f s\n", b - a }'
}
detach_all() {
  for path in x1 x2 live; do mountpoint -q "$work/$path" && umount "$work/$path"; done
  for loop in "${loops[@]}"; do losetup -d "$loop" 2>/dev/null || true; done
  loops=()
}
clean_up() {
  local code=$?
  set +e
  cd /
  mountpoint -q "$work/live" && fsfreeze -u "$work/live" 2>/dev/null
  detach_all
  if mountpoint -q "$work/v"; then
    for _ in $(seq 50); do umount "$work/v" 2>/dev/null && break; sleep 0.1; done
    mountpoint -q "$work/v" && umount -l "$work/v"
  fi
  rm -rf --one-file-system "$work"
  [ "$code" -eq 0 ] && say "Done: everything was as it had to be, and everything is cleaned up." ||
    printf '\nThe demo FAILED (exit %d); everything is unmounted and removed.\n' "$code" >&2
  exit "$code"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

attach() { # attach IMAGE OPTION...: prints the loop device
  local image=$1
  shift
  losetup -f --show "$@" "$image"
}
snapshot() { # a clean snapshot: the filesystem holds still for as long as mkdir takes
  fsfreeze -f "$work/live"
  timed mkdir "v/demo/$1"
  fsfreeze -u "$work/live"
}
manifest() { (cd "$1" && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 -r sha256sum) ; }
same() { # same WHAT A B
  cmp "$2" "$3" && echo "  verified: $1"
}

say "Packages and build"
# shellcheck disable=SC2086
install_packages $BUILD_PACKAGES $DEMO_PACKAGES
[ -f "$build/build.ninja" ] || CXX="ccache g++" meson setup "$build" -Dtests=false -Dman=disabled >"$work/build.log" 2>&1 ||
  { cat "$work/build.log"; exit 1; }
ninja -C "$build" >"$work/build.log" 2>&1 || { tail -n 40 "$work/build.log"; exit 1; }
export PATH=$build/src/cli:$PATH
varve --version
cd "$work"

say "A store, mounted: two commands"
mkdir v live x1 x2
timed varve init store
timed varve mount store v

say "A disk of $size_mib MiB with this machine's own files, ext4 on a loop device"
mkdir v/demo
truncate -s "${size_mib}M" v/demo/disk.img
loop=$(attach v/demo/disk.img --direct-io=on)
loops+=("$loop")
mkfs.ext4 -q "$loop"
mount "$loop" live
budget=$((size_mib * 1024 * 6 / 10))
for source in /etc /usr/bin /usr/share /usr/lib; do
  used=$(du -sk "$source" 2>/dev/null | cut -f1)
  [ "$used" -lt "$budget" ] || continue
  budget=$((budget - used))
  mkdir -p "live$source"
  timed cp -a --one-file-system "$source/." "live$source/"
done
sync -f live
df -h live | sed 's/^/    /'

say "Snapshot one"
snapshot monday
manifest live >monday.sums

say "Files change, disappear and appear; snapshot two"
date >live/etc/changed-by-the-demo
echo "overwritten" >live/etc/passwd
rm -rf live/usr/share/doc
dd if=/dev/urandom of=live/etc/random bs=1M count=64 status=none
snapshot tuesday
manifest live >tuesday.sums
echo "and after that nothing is what it was" >live/etc/passwd
rm -rf live/usr/bin
sync -f live

say "Both snapshots, mounted read-only at once"
timed mount -o loop,ro v/demo/monday/disk.img x1
timed mount -o loop,ro v/demo/tuesday/disk.img x2
manifest x1 >monday.seen
manifest x2 >tuesday.seen
same "monday: every file as it was" monday.sums monday.seen
same "tuesday: every file as it was" tuesday.sums tuesday.seen
timed cp -a x1/etc/passwd live/etc/passwd
same "one file taken back" /etc/passwd live/etc/passwd
varve list v/demo | sed 's/^/    /'

say "The whole disk restored with cp"
detach_all
timed cp v/demo/monday/disk.img v/demo/disk.img
timed sync v/demo/disk.img
timed cmp v/demo/monday/disk.img v/demo/disk.img
loop=$(attach v/demo/disk.img --direct-io=on)
loops+=("$loop")
mount "$loop" live
manifest live >restored.sums
same "restored: every file as on monday" monday.sums restored.sums
detach_all

say "Delete one, check everything, unmount"
timed rmdir v/demo/monday
timed varve check store
timed umount v
