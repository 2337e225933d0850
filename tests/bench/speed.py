#!/usr/bin/env python3
"""How fast varve is beside its peers, side by side in one run: each figure is taken from all systems in turn, several
times over, and given as the median with its ratio to varve's. Machines are noisy: compare the columns.

    sudo tests/bench/speed.py VARVE PASSTHROUGH [--rows 1,4,8] [--size 2G] [--rounds 5] [--seconds 4]
                              [--directory /var/tmp] [--json FILE] [--install] [--tiny]

VARVE is the command, PASSTHROUGH what passthrough.cpp becomes (build/tests/bench/passthrough). Rows:
    1  mkdir, everything flushed before           9  a snapshot read in one go, warm
    2  mkdir with the writer's data unflushed     10 a snapshot read here and there, cold
    3  how long a writer stalls at a snapshot     11 8 and 10 by the number of snapshots
    4  the live image, no snapshot pending        12 restore
    5  the live image while a commit runs         13 the files in a snapshot, through a loop device
    6  first writes to pinned chunks              14 deleting and collecting
    7  commit, against zstd alone                 15 memory, and time to mount
    8  a snapshot read in one go, cold            16 processor time
All of them take about three hours; at the end, what was asked is set beside what was reached (targets.py). Debian's
packages for the peers: qemu-system-common qemu-utils btrfs-progs squashfuse squashfs-tools restic borgbackup zstd; one
that is missing is left out, and said so; --install gets them. --tiny: seconds, only to see that it works. plot.py draws
what --json wrote.
"""
import argparse
import os
import shutil
import sys
import tempfile

import peers
import rows_cost
import rows_live
import rows_reading
import rows_snapshots
import targets
from measuring import GIB, MIB, Bench, Results
from peers import run

SKIPPED = 77
PACKAGES = ('fio', 'qemu-system-common', 'qemu-utils', 'btrfs-progs', 'squashfuse', 'squashfs-tools', 'restic', 'borgbackup',
            'python3-pyfuse3', 'zstd')
ROWS = {1: rows_snapshots.row1, 2: rows_snapshots.row2, 3: rows_snapshots.row3, 4: rows_live.row4, 5: rows_live.row5,
        6: rows_live.row6, 7: rows_snapshots.row7, 8: rows_reading.row8, 11: rows_reading.row11, 12: rows_reading.row12,
        13: rows_reading.row13, 14: rows_snapshots.row14, 15: rows_cost.row15, 16: rows_cost.row16}


def bytes_of(text):
    units = {'K': 1 << 10, 'M': 1 << 20, 'G': 1 << 30, 'T': 1 << 40}
    return int(float(text[:-1]) * units[text[-1]]) if text[-1] in units else int(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('varve')
    parser.add_argument('passthrough')
    parser.add_argument('--rows', default=','.join(str(row) for row in ROWS), help='8 stands for 8, 9 and 10')
    parser.add_argument('--size', type=bytes_of, default=2 * GIB)
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--seconds', type=int, default=4)
    parser.add_argument('--directory', default='/var/tmp')
    parser.add_argument('--json')
    parser.add_argument('--install', action='store_true')
    parser.add_argument('--tiny', action='store_true')
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        print('SKIPPED: only root can drop caches and mount the peers')
        sys.exit(SKIPPED)
    if arguments.tiny:
        arguments.size, arguments.rounds, arguments.seconds = 32 * MIB, 1, 1
    peers.Varve.varve = os.path.realpath(arguments.varve)
    peers.Passthrough.program = os.path.realpath(arguments.passthrough)
    if arguments.install:
        run('apt-get', 'install', '-y', '--no-install-recommends', *PACKAGES)
    results = Results()
    arguments.work = tempfile.mkdtemp(prefix='varve-speed-', dir=arguments.directory)
    try:
        bench = Bench(arguments, results)
        for row in arguments.rows.split(','):
            print(f'row {row}', file=sys.stderr, flush=True)
            ROWS[int(row)](bench)
            # After each row: what is interrupted keeps what it has measured.
            if arguments.json:
                results.write(arguments.json)
    finally:
        shutil.rmtree(arguments.work, ignore_errors=True)
    results.print()
    targets.print_verdicts(results.as_list())


if __name__ == '__main__':
    main()
