#!/bin/bash
# Installs what is needed (as root), builds, and runs all tests. Ends with one line, "N passed, N failed, N skipped"; fails
# unless all passed and none was skipped.
#
#   tests/run.sh              four builds, one after the other: plain, asan, tsan, fuzz
#   tests/run.sh plain        with GCC: all tests
#   tests/run.sh asan         with clang and the address and undefined-behaviour sanitizers: all tests, fewer points each
#   tests/run.sh tsan         with clang and the thread sanitizer: what has threads
#   tests/run.sh fuzz         with clang and libFuzzer: each decoder, for VARVE_FUZZ_SECONDS (5)
#   BUILD=DIR tests/run.sh    build below DIR, which is kept (default: build-tests in the tree)
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
. tests/packages.sh

build_root=${BUILD:-$PWD/build-tests}
log_dir=$build_root/logs
wanted=${*:-plain asan tsan fuzz}
begin=$SECONDS
broken=0

export ASAN_OPTIONS=detect_container_overflow=0:detect_leaks=1:abort_on_error=1
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
# A request holds up to 64 chunks' locks, in ascending order; the deadlock detector cannot count that far.
export TSAN_OPTIONS=suppressions=$PWD/tests/tsan.supp:halt_on_error=1:detect_deadlocks=0
export LSAN_OPTIONS=suppressions=$PWD/tests/lsan.supp

say() { printf '== %4d s  %s\n' $((SECONDS - begin)) "$*"; }

# step NAME COMMAND...: quiet when it works, its last lines when it does not.
step() {
  local name=$1 log
  shift
  log=$log_dir/${name// /-}.log
  say "$name"
  "$@" >"$log" 2>&1 && return 0
  echo "FAILED: $name ($log):"
  tail -n 60 "$log"
  broken=1
  return 1
}

# configure DIR COMPILER OPTION...
configure() {
  local dir=$1 compiler=$2
  shift 2
  [ -f "$dir/build.ninja" ] && return 0
  # Asserted, unlike what is installed. Line tables are enough for a stack trace, and take a third less time than full
  # debug information.
  CXX="ccache $compiler" meson setup "$dir" -Dman=enabled -Db_ndebug=false -Dcpp_args=-g1 "$@"
}

# Counts are taken from what meson writes down, one entry a test case.
count() {
  python3 - "$@" <<'PY'
import sys, xml.etree.ElementTree as tree
passed = failed = skipped = 0
names = []
for path in sys.argv[1:]:
    try:
        cases = list(tree.parse(path).getroot().iter('testcase'))
    except (OSError, tree.ParseError):
        continue
    for case in cases:
        kinds = {child.tag for child in case}
        name = '%s.%s' % (case.get('classname'), case.get('name'))
        if kinds & {'failure', 'error'}:
            failed += 1
            names.append('failed:  ' + name)
        elif 'skipped' in kinds or case.get('result') == 'skipped' or case.get('status') == 'notrun':
            skipped += 1
            names.append('skipped: ' + name)
        else:
            passed += 1
print('\n'.join(names), file=sys.stderr)
print(passed, failed, skipped)
PY
}

# test_in CONFIGURATION ARGUMENT...: what meson test is told.
test_in() {
  local name=$1
  shift
  step "test $name" meson test -C "$build_root/$name" --no-rebuild --print-errorlogs --no-stdsplit "$@"
}

run_plain() {
  step "configure plain" configure "$build_root/plain" g++ || return
  step "build plain" ninja -C "$build_root/plain" || return
  VARVE_STORE_MODEL_OPERATIONS=${VARVE_STORE_MODEL_OPERATIONS:-300000} test_in plain
}

# clang's thread-safety analysis checks the same build.
run_asan() {
  step "configure asan" configure "$build_root/asan" clang++ -Db_sanitize=address,undefined -Db_lundef=false \
    -Doptimization=1 || return
  step "build asan" ninja -C "$build_root/asan" || return
  VARVE_TEST_STRIDE=${VARVE_TEST_STRIDE:-10} VARVE_MODEL_OPERATIONS=${VARVE_MODEL_OPERATIONS:-3000} \
    VARVE_BIT_ROT_EVERY=${VARVE_BIT_ROT_EVERY:-150} VARVE_BIT_ROT_ROUNDS=${VARVE_BIT_ROT_ROUNDS:-40} \
    VARVE_KILL_ROUNDS=${VARVE_KILL_ROUNDS:-8} test_in asan -t 4
}

# Only what runs threads against each other, and only what that needs is built. NAME FILTER; the crash and damage tests,
# which have one thread, would take most of the time.
concurrent="core *
objects JoinedFiles.AreRead*
chunks *:-Hostile*:*Delta*
disk LiveDiskThreads*:LiveDiskRules*
snapshot Collect*:Commit*:Image*:Joining.GoesOn*:ReadStreams*
store StoreRaces*:Threads*:StoreTest*:StoreModel*
fuse *
cli *"
run_tsan() {
  step "configure tsan" configure "$build_root/tsan" clang++ -Db_sanitize=thread -Db_lundef=false -Doptimization=1 \
    -Dman=disabled || return
  local targets="" name filter
  while read -r name filter; do targets="$targets tests/$name/${name}_test"; done <<<"$concurrent"
  # shellcheck disable=SC2086
  step "build tsan" ninja -C "$build_root/tsan" $targets || return
  while read -r name filter; do
    VARVE_STORE_MODEL_OPERATIONS=${VARVE_STORE_MODEL_OPERATIONS:-3000} step "test tsan $name" timeout 1200 \
      "$build_root/tsan/tests/$name/${name}_test" --gtest_filter="$filter" --gtest_brief=1 \
      --gtest_output="xml:$build_root/tsan/meson-logs/$name.junit.xml" </dev/null
  done <<<"$concurrent"
}

# Every decoder of bytes that are not trusted, VARVE_FUZZ_SECONDS each (tests/fuzz/fuzz.h).
run_fuzz() {
  step "configure fuzz" configure "$build_root/fuzz" clang++ -Dfuzz=true -Db_sanitize=address,undefined \
    -Db_lundef=false -Doptimization=1 -Dman=disabled "-Dcpp_args=-g1 -fsanitize=fuzzer-no-link" || return
  step "build fuzz" ninja -C "$build_root/fuzz" tests/fuzz/varve_fuzz || return
  test_in fuzz varve-fuzz
}

mkdir -p "$log_dir"
if [ "$(id -u)" -eq 0 ] || [ -n "${CI:-}" ]; then
  # shellcheck disable=SC2086
  step "packages" install_packages $BUILD_PACKAGES $TEST_PACKAGES || { echo "0 passed, 1 failed, 0 skipped"; exit 1; }
fi
rm -f "$build_root"/*/meson-logs/*.junit.xml
for name in $wanted; do "run_$name"; done

say "done"
read -r passed failed skipped < <(count "$build_root"/*/meson-logs/*.junit.xml)
if [ "$broken" -ne 0 ] && [ "$failed" -eq 0 ]; then failed=1; fi
[ "$skipped" -eq 0 ] || echo "skipped tests are failures here: they need root, /dev/fuse, loop devices and the packages above"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ] && [ "$skipped" -eq 0 ] && [ "$passed" -gt 0 ]
