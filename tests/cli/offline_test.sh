#!/bin/bash
# The command on a store that is not mounted: every command, and everything that must be refused with a sentence.
varve=$(readlink -f "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
. "$(dirname "$0")/expect.sh"
unset VARVE_STORE
cd "$work" || exit 1

# --- the command line itself
succeeds "$varve" --version
says "varve 0."
for command in "" init mount list info restore clone check collect; do
  # shellcheck disable=SC2086
  succeeds "$varve" $command --help
  says "Usage: varve"
done
refuses 2 "subcommand is required" "$varve"
refuses 2 "frobnicate" "$varve" frobnicate
refuses 2 "STORE is required" "$varve" init
refuses 2 "--wrong" "$varve" list --wrong
refuses 2 "extra" "$varve" check a extra

# --- init
for size in 0 1 8K 15K 3M 8M 65537 -1 64KB 1.5M 99999999999999999999 18014398509481984K "" "64 K" x; do
  refuses 2 "--chunk-size" "$varve" init never --chunk-size "$size"
done
for method in zstd zstd:0 zstd:20 zstd:x zstd:-1 zstd:99999999999 gzip "" "none "; do
  refuses 2 "--compression" "$varve" init never --compression "$method"
done
[ ! -e never ] || fail "a refused init made something"
succeeds "$varve" init store --chunk-size 128K --compression zstd:3
says "$work/store"
[ "$(stat -c %a store)" = 700 ] || fail "a store is not private: $(stat -c %a store)"
refuses 1 "store already" "$varve" init store
mkdir full && touch full/file
refuses 1 "not empty" "$varve" init full
refuses 1 "nowhere" "$varve" init nowhere/store
touch file
refuses 1 "file" "$varve" init file
mkdir empty && succeeds "$varve" init empty --json
json "it['store'].endswith('/empty') and it['chunk_size'] == 65536"

# --- which store
refuses 1 "which store" "$varve" list
succeeds "$varve" -s store list
succeeds "$varve" list -s store
succeeds "$varve" list "$work/store"
VARVE_STORE=store succeeds "$varve" list
refuses 1 "not a varve store" "$varve" -s full list
refuses 1 "nowhere" "$varve" -s nowhere list
refuses 1 "file" "$varve" -s file list
refuses 1 "empty" "$varve" -s "" list
refuses 1 "not of" "$varve" -s store info "$work/empty"
refuses 1 "twice" "$varve" check store -s empty

# --- names
VARVE_STORE=$work/store
export VARVE_STORE
succeeds "$varve" list
says "DISK"
succeeds "$varve" list --json
json "it == {'disks': [], 'damaged': []}"
succeeds "$varve" info
says "chunk size"
succeeds "$varve" info --json
json "it['store']['compression'] == 'zstd:3' and it['store']['chunk_size'] == 131072 and it['disks'] == []"
refuses 1 '"web01"' "$varve" list web01
refuses 1 '"web01"' "$varve" info web01
refuses 1 '"web01"' "$varve" info web01@before
refuses 1 '"web01"' "$varve" restore web01@before
refuses 1 '"web01"' "$varve" clone web01 web02
refuses 1 "DISK" "$varve" info a/b/c
refuses 1 "UTF-8" "$varve" info "$(printf 'caf\351')"
refuses 1 "UTF-8" "$varve" info "$(printf 'caf\351@x')"
refuses 1 "240 are allowed" "$varve" info "$(printf 'x%.0s' $(seq 300))"
refuses 1 "snapshot" "$varve" list web01/before
run "$varve" info "$(printf 'a\nvarve: forged')"
[ "$(wc -l <"$work/.err")" -eq 1 ] || fail "a name forged a line: $err"

# --- check and collect
succeeds "$varve" check
says "no damage"
succeeds "$varve" check store --json
json "it['clean'] and it['damaged'] == [] and it['problems'] == []"
succeeds "$varve" collect
succeeds "$varve" collect --json
json "it['packs_removed'] == 0"

# --- a format that is newer, and settings that are damaged: refused, and nothing is touched
cp -a store newer
sed -i 's/"format": 1/"format": 2/' newer/store.json
sums=$(find newer -type f -print0 | sort -z | xargs -0 sha256sum)
refuses 1 "newer varve" "$varve" -s newer list
refuses 1 "newer varve" "$varve" check newer
[ "$sums" = "$(find newer -type f -print0 | sort -z | xargs -0 sha256sum)" ] || fail "a store of a newer format was changed"
cp -a store broken
sed -i 's/"chunk_size": 131072/"chunk_size": 65536/' broken/store.json
refuses 1 "checksum" "$varve" -s broken list
refuses 3 "checksum" "$varve" check broken
: >broken/store.json
refuses 3 "store.json" "$varve" check broken

# --- another user's store
if [ "$(id -u)" -eq 0 ] && command -v setpriv >/dev/null; then
  chmod 755 "$work"
  refuses 1 "" setpriv --reuid 65534 --regid 65534 --clear-groups "$varve" list
  chown 65534 empty
  refuses 1 "belongs to user 65534" "$varve" -s empty list
fi

# --- mount: what can be refused without mounting
refuses 2 '"alow_other"' "$varve" mount store mnt -o rw,alow_other
refuses 2 "cache" "$varve" mount store mnt -o cache=1
refuses 1 "mnt" "$varve" mount store mnt
refuses 1 "nowhere" "$varve" mount nowhere mnt
mkdir mnt
refuses 1 "within" "$varve" mount store "$work"
mkdir -p store/sub
refuses 1 "within" "$varve" mount store store/sub
rmdir store/sub
refuses 1 "not a directory" "$varve" mount store file
refuses 1 "not a varve store" "$varve" mount full mnt
refuses 1 "not a varve store" "$varve" mount -f full mnt
refuses 1 "newer varve" "$varve" mount newer mnt
ln -s "$varve" mount.varve
refuses 1 "a store and a mountpoint" ./mount.varve
refuses 1 '"alow_other"' ./mount.varve store mnt -o alow_other
refuses 32 "not a varve store" ./mount.varve full mnt
succeeds ./mount.varve store mnt -f -o rw,nofail,x-systemd.automount
if [ -e /dev/full ]; then
  "$varve" list >/dev/full 2>"$work/.err" && fail "what could not be printed was a success"
fi

finish
