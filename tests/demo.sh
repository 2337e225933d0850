#!/bin/bash
# The main job, shown on this machine: a disk made of its own files, on ext4, on a loop device, over a live image of varve;
# files change, two snapshots are taken, both are mounted and looked at, the first is restored with cp. Everything is
# verified and timed, and everything is unmounted and removed at the end, also after a failure.
#
#   sudo tests/demo.sh
#   DEMO_MIB=2048 sudo -E tests/demo.sh      another size of disk (default 4096 MiB)
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" -eq 0 ] || { echo "demo.sh mounts filesystems and attaches loop devices: run it as root (sudo $0)" >&2; exit 1; }
. tests/packages.sh

size_mib=${DEMO_MIB:-4096}
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
  timed mkdir "$work/v/demo/$1"
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
varve=$build/src/cli/varve
"$varve" --version

say "A store, mounted: two commands"
mkdir "$work/v" "$work/live" "$work/x1" "$work/x2"
timed "$varve" init "$work/store"
timed "$varve" mount "$work/store" "$work/v"

say "A disk of $size_mib MiB with this machine's own files, ext4 on a loop device"
mkdir "$work/v/demo"
truncate -s "${size_mib}M" "$work/v/demo/disk.img"
loop=$(attach "$work/v/demo/disk.img" --direct-io=on)
loops+=("$loop")
mkfs.ext4 -q "$loop"
mount "$loop" "$work/live"
budget=$((size_mib * 1024 * 6 / 10))
for source in /etc /usr/bin /usr/share /usr/lib; do
  used=$(du -sk "$source" 2>/dev/null | cut -f1)
  [ "$used" -lt "$budget" ] || continue
  budget=$((budget - used))
  mkdir -p "$work/live$source"
  timed cp -a --one-file-system "$source/." "$work/live$source/"
done
sync -f "$work/live"
df -h "$work/live" | sed 's/^/    /'

say "Snapshot one"
snapshot monday
manifest "$work/live" >"$work/monday.sums"

say "Files change, disappear and appear; snapshot two"
date >"$work/live/etc/changed-by-the-demo"
echo "overwritten" >"$work/live/etc/passwd"
rm -rf "$work/live/usr/share/doc"
dd if=/dev/urandom of="$work/live/etc/random" bs=1M count=64 status=none
snapshot tuesday
manifest "$work/live" >"$work/tuesday.sums"
echo "and after that nothing is what it was" >"$work/live/etc/passwd"
rm -rf "$work/live/usr/bin"
sync -f "$work/live"

say "Both snapshots, mounted read-only at once"
timed mount -o loop,ro "$work/v/demo/monday/disk.img" "$work/x1"
timed mount -o loop,ro "$work/v/demo/tuesday/disk.img" "$work/x2"
manifest "$work/x1" >"$work/monday.seen"
manifest "$work/x2" >"$work/tuesday.seen"
same "monday: every file as it was" "$work/monday.sums" "$work/monday.seen"
same "tuesday: every file as it was" "$work/tuesday.sums" "$work/tuesday.seen"
timed cp -a "$work/x1/etc/passwd" "$work/live/etc/passwd"
same "one file taken back" /etc/passwd "$work/live/etc/passwd"
"$varve" list "$work/v/demo" | sed 's/^/    /'

say "The whole disk restored with cp"
detach_all
timed cp "$work/v/demo/monday/disk.img" "$work/v/demo/disk.img"
timed sync "$work/v/demo/disk.img"
timed cmp "$work/v/demo/monday/disk.img" "$work/v/demo/disk.img"
loop=$(attach "$work/v/demo/disk.img" --direct-io=on)
loops+=("$loop")
mount "$loop" "$work/live"
manifest "$work/live" >"$work/restored.sums"
same "restored: every file as on monday" "$work/monday.sums" "$work/restored.sums"
detach_all

say "Delete one, check everything, unmount"
timed rmdir "$work/v/demo/monday"
timed "$varve" check "$work/store"
timed umount "$work/v"
