#!/bin/bash
# The unit: systemd understands it, it rates well, and it keeps the host's mount namespace, without which nobody would see
# the mount. Each check is shown to fail on a unit that deserves it.
#
#   unit_test.sh UNIT VARVE       UNIT: src/systemd/varve@.service.in
set -uo pipefail
template=$1
varve=$2
# Ten times the exposure that `systemd-analyze security` finds. What is left is what a mount for everybody needs.
most_exposure=31
command -v systemd-analyze >/dev/null || { echo "SKIPPED: systemd-analyze is missing"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unit=$work/varve@.service
failed=0
fail() { echo "FAILED: $*"; failed=1; }

# unit_with SED-EXPRESSION: the unit as it would be installed, changed so.
unit_with() { sed -e "s,@bindir@/varve,$varve," -e "$1" "$template" >"$unit"; }
understood() {
  local said
  said=$(systemd-analyze verify --man=no "$unit" 2>&1) || return 1
  [ -z "$said" ] || { echo "$said"; return 1; }
}
rates_well() { systemd-analyze security --offline=true --no-pager --threshold="$most_exposure" "$unit" >"$work/rating" 2>&1; }
# What is known to make a mount namespace: systemd.exec(5).
hiding='^(ProtectSystem|ProtectHome|(ReadWrite|ReadOnly|Inaccessible|Exec|NoExec|Bind|BindReadOnly)Paths|TemporaryFileSystem|PrivateTmp'
hiding+='|PrivateDevices|PrivateIPC|PrivateUsers|PrivatePIDs|ProtectKernel(Tunables|Modules|Logs)|ProtectControlGroups'
hiding+='|ProtectProc|ProcSubset|ProtectHostname|Root(Directory|Image)|DynamicUser|MountFlags|(Runtime|State|Cache|Logs)Directory)='
keeps_the_namespace() { ! grep -Eq "$hiding" "$unit" && grep -qx 'PrivateMounts=no' "$unit"; }

unit_with ''
understood || fail "systemd-analyze verify"
rates_well || { cat "$work/rating"; fail "systemd-analyze security: more than $most_exposure"; }
tail -n 1 "$work/rating"
keeps_the_namespace || fail "the mount would be hidden"

unit_with 's/^NoNewPrivileges=/NoNewPrivilegs=/'
understood >/dev/null && fail "a misspelt option was not noticed"
unit_with '/^CapabilityBoundingSet=/d'
rates_well && fail "a unit with all capabilities rates well"
unit_with 's/^UMask=.*/PrivateTmp=yes/'
keeps_the_namespace && fail "a mount namespace was not noticed"
unit_with '/^PrivateMounts=/d'
keeps_the_namespace && fail "an implied mount namespace was not noticed"
exit "$failed"
