#!/bin/bash
# run.sh VARVE_FUZZ: every target, VARVE_FUZZ_SECONDS each (default 5), from its seeds and what once failed. Fails when one
# does; what made it fail is then in VARVE_FUZZ_FOUND (default: the working directory), and belongs into corpus/TARGET/
# when it is mended. No input justifies more than 64 MiB in one piece, nor 10 seconds.
fuzzer=$(readlink -f "$1")
here=$(cd "$(dirname "$0")" && pwd)
found=${VARVE_FUZZ_FOUND:-$PWD}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export ASAN_OPTIONS=detect_container_overflow=0:detect_leaks=1:allocator_may_return_null=0
passed=0
failed=""
for target in ${VARVE_FUZZ_TARGETS:-$("$fuzzer" --list)}; do
  mkdir -p "$work/$target" "$found"
  "$fuzzer" "$target" --seeds "$work/$target" || exit 1
  known=""
  [ -d "$here/corpus/$target" ] && known=$here/corpus/$target
  # shellcheck disable=SC2086
  if "$fuzzer" "$target" -max_total_time="${VARVE_FUZZ_SECONDS:-5}" -timeout=10 -rss_limit_mb=1024 -malloc_limit_mb=64 \
    -max_len=20000 -print_final_stats=1 -verbosity=0 -artifact_prefix="$found/$target-" "$work/$target" $known \
    >"$work/$target.log" 2>&1; then
    echo "$target: $(awk '/number_of_executed_units/ {print $2}' "$work/$target.log") inputs"
    passed=$((passed + 1))
  else
    tail -n 60 "$work/$target.log"
    failed="$failed $target"
  fi
done
echo "$passed decoders hold"
[ -z "$failed" ] || { echo "these do not:$failed"; exit 1; }
