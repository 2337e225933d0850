# Sourced by the tests of the command: what is expected of one run of it. $varve is the command, $work a fresh directory
# that goes at the end.
set -u
[ -x "$varve" ] || { echo "not a program: $varve" >&2; exit 1; }
failures=0

fail() {
  failures=$((failures + 1))
  echo "FAILED: $*" >&2
}
# run COMMAND...: leaves $status, $out and $err.
run() {
  "$@" >"$work/.out" 2>"$work/.err"
  status=$?
  out=$(cat "$work/.out")
  err=$(cat "$work/.err")
}
# succeeds COMMAND...
succeeds() {
  run "$@"
  [ "$status" -eq 0 ] || fail "$* exited with $status: $err"
}
# refuses STATUS WORDS COMMAND...: this exit status, and one line on standard error that begins with "varve: " and has
# these words in it.
refuses() {
  local wanted=$1 words=$2
  shift 2
  run "$@"
  [ "$status" -eq "$wanted" ] || fail "$* exited with $status, expected $wanted: $err"
  [ "$(wc -l <"$work/.err")" -eq 1 ] || fail "$*: not one line on standard error: $err"
  case "$err" in
    "varve: "*"$words"*) ;;
    *) fail "$*: expected \"varve: ... $words\", got: $err" ;;
  esac
  [ -z "$out" ] || fail "$*: refused, and printed: $out"
}
# says WORDS: the last run printed them.
says() {
  case "$out" in
    *"$1"*) ;;
    *) fail "expected \"$1\" in: $out" ;;
  esac
}
# json EXPRESSION: true of the object `it` that the last run printed.
json() {
  printf '%s' "$out" | python3 -c "import json,sys; it=json.load(sys.stdin); sys.exit(0 if ($1) else 1)" ||
    fail "not so: $1 in $out"
}
finish() {
  [ "$failures" -eq 0 ] && echo "all as expected"
  [ "$failures" -eq 0 ]
}
