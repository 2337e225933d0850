#!/bin/bash
# Everything that varve is measured by, beside its peers, in one go: installs those, measures, draws. Three hours.
#
#   sudo tests/bench/all.sh BUILD RESULTS [OPTION...]     BUILD: a build directory; RESULTS: where tables, JSON and plots go
#
# Options are handed to speed.py and space.py alike (--size 512M, --directory DIR, --tiny).
set -euo pipefail
build=$(readlink -f "${1:?usage: all.sh BUILD RESULTS [OPTION...]}")
results=${2:?usage: all.sh BUILD RESULTS [OPTION...]}
shift 2
mkdir -p "$results"
results=$(readlink -f "$results")
cd "$(dirname "$0")"
ninja -C "$build" src/cli/varve tests/bench/passthrough
apt-get install -y --no-install-recommends gnuplot-nox >/dev/null
./speed.py "$build/src/cli/varve" "$build/tests/bench/passthrough" --install --json "$results/speed.json" "$@" |
  tee "$results/speed.txt"
./space.py "$build/src/cli/varve" --install --json "$results/space.json" "$@" | tee "$results/space.txt"
./plot.py "$results" --speed "$results/speed.json" --space "$results/space.json"
