#!/usr/bin/env python3
"""How fast varve is beside its peers, side by side in one run: each figure is taken from all systems in turn, several
times over, and given as the median with its ratio to varve's. Machines are noisy: compare the columns.

    sudo tests/bench/speed.py VARVE PASSTHROUGH [--rows 1,4,8] [--size 2G] [--rounds 5] [--seconds 4]
                              [--directory /var/tmp] [--json FILE] [--tiny]

VARVE is the command, PASSTHROUGH what passthrough.cpp becomes (build/tests/bench/passthrough). Rows:
    1  mkdir, everything flushed before           8  a snapshot read in one go, cold
    2  mkdir with the writer's data unflushed     9  the same, warm
    3  how long a writer stalls at a snapshot     10 a snapshot read here and there, cold
    4  the live image, no snapshot pending        11 8 and 10 by the number of snapshots
    5  the live image while a commit runs         12 restore
    6  first writes to pinned chunks              14 deleting and collecting
    7  commit, against zstd alone                 16 processor time
All of them take about an hour. Debian's packages for the peers: qemu-system-common qemu-utils btrfs-progs squashfuse
squashfs-tools; one that is missing is left out, and said so. --tiny: seconds, only to see that it works.
"""
import argparse
import contextlib
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import peers
from peers import drop_caches, run

MIB, GIB = 1 << 20, 1 << 30
SKIPPED = 77


class Results:
    """Figures by row, what was measured, and system."""

    def __init__(self):
        self.figures = {}  # (row, what, unit) -> system -> [values]

    def add(self, row, what, unit, system, value):
        self.figures.setdefault((row, what, unit), {}).setdefault(system, []).append(value)
        print(f'  row {row:2}  {what:48} {system:20} {value:12.2f} {unit}', file=sys.stderr, flush=True)

    def print(self):
        for (row, what, unit), systems in sorted(self.figures.items(), key=lambda item: item[0][0]):
            print(f'\nrow {row}: {what}, {unit}')
            own = statistics.median(systems['varve']) if 'varve' in systems else None
            for system, values in systems.items():
                middle = statistics.median(values)
                ratio = f'{own / middle:8.2f}' if own and middle else ' ' * 8
                print(f'  {system:24} {middle:12.2f}   {min(values):12.2f} to {max(values):12.2f}   varve / it {ratio}')

    def write(self, path):
        with open(path, 'w', encoding='utf-8') as file:
            json.dump([{'row': row, 'what': what, 'unit': unit, 'systems': systems}
                       for (row, what, unit), systems in sorted(self.figures.items(), key=lambda item: item[0][0])],
                      file, indent=1)


def fio(path, size, seconds, *options, direct=True):
    """Operations a second, MB/s, the 99th and 99.9th percentile and the longest, in microseconds."""
    words = ['fio', '--name=x', f'--filename={path}', f'--size={size}', '--ioengine=libaio', f'--direct={int(direct)}',
             '--norandommap', '--randrepeat=0', '--output-format=json', *options]
    if seconds:
        words += ['--time_based', f'--runtime={seconds}']
    out = run(*words)
    job = json.loads(out[out.index('{'):])['jobs'][0]
    side = max((job['read'], job['write']), key=lambda s: s['iops'])
    late = side['clat_ns'].get('percentile', {})
    return {'iops': side['iops'], 'mbps': side['bw_bytes'] / 1e6, 'p99': late.get('99.000000', 0) / 1e3,
            'p999': late.get('99.900000', 0) / 1e3, 'longest': side['clat_ns']['max'] / 1e3}


def fill(path, size):
    """Data that compresses about 2.5 to 1."""
    fio(path, size, 0, '--rw=write', '--bs=1M', '--iodepth=4', '--buffer_compress_percentage=60', '--refill_buffers')


def dirty(path, size, amount, sync, seed):
    """`amount` bytes in pieces of 1 MiB here and there, through the page cache."""
    dice = random.Random(seed)
    piece = dice.randbytes(MIB)
    image = os.open(path, os.O_WRONLY)
    try:
        for index in dice.sample(range(size // MIB), min(amount, size) // MIB):
            os.pwrite(image, piece, index * MIB)
        if sync:
            os.fsync(image)
    finally:
        os.close(image)


def timed(call, *arguments):
    """Milliseconds."""
    begin = time.monotonic()
    call(*arguments)
    return (time.monotonic() - begin) * 1000


class Bench:
    def __init__(self, arguments, results):
        self.a = arguments
        self.results = results

    def systems(self, *kinds):
        for kind in kinds:
            reason = kind.missing()
            if reason:
                print(f'  {kind.name}: left out, {reason}', file=sys.stderr)
            else:
                yield kind

    def each(self, kinds, measure, size=None):
        """All systems stand side by side; `measure(system, round)` goes through them in turn."""
        with contextlib.ExitStack() as stack:
            there = [stack.enter_context(kind(self.a.work, size or self.a.size)) for kind in self.systems(*kinds)]
            for round_number in range(self.a.rounds):
                for system in there:
                    measure(system, round_number)

    # --- rows 1 to 3: snapshots ---

    def latency(self, row, sync):
        amounts = [0, 64 * MIB, GIB] if not self.a.tiny else [0, 4 * MIB]
        for amount in amounts:
            def measure(system, number, amount=amount):
                if number == 0:
                    fill(system.image, system.size)
                    system.snapshot(1000)
                dirty(system.image, system.size, amount, sync, number)
                self.results.add(row, f'snapshot, {amount // MIB} MiB dirty', 'ms', system.name,
                                 timed(system.snapshot, number))
            self.each((peers.Varve, peers.QemuQcow2, peers.Btrfs), measure)

    def row1(self):
        self.latency(1, True)
        for size, what in ((4 * GIB, '4 GiB'), (4 << 40, '4 TiB')):
            def measure(system, number, what=what):
                dirty(system.image, system.size, MIB, True, number)
                self.results.add(1, f'snapshot, image of {what}', 'ms', system.name, timed(system.snapshot, number))
            self.each((peers.Varve,), measure, size)

    def row2(self):
        self.latency(2, False)

    def row3(self):
        for depth in (1, 16):
            def measure(system, _, depth=depth):
                fill(system.image, system.size)
                options = ('--rw=randwrite', '--bs=4k', f'--iodepth={depth}')
                quiet = fio(system.image, system.size, self.a.seconds, *options)
                stop = threading.Event()

                def take():
                    number = 0
                    while not stop.wait(0.05):
                        system.snapshot(number)
                        number += 1
                taker = threading.Thread(target=take)
                taker.start()
                try:
                    busy = fio(system.image, system.size, 5 + self.a.seconds, *options)
                finally:
                    stop.set()
                    taker.join()
                for name, value in (('without snapshots', quiet), ('with a snapshot every 50 ms', busy)):
                    for figure in ('p999', 'longest'):
                        self.results.add(3, f'writer, {depth} deep, {name}: {figure}', 'us', system.name, value[figure])
            rounds, self.a.rounds = self.a.rounds, 1
            self.each((peers.Varve,), measure)
            self.a.rounds = rounds

    # --- rows 4 to 6: the live image ---

    LIVE = {
        '4K randread QD1': ('--rw=randread', '--bs=4k', '--iodepth=1'),
        '4K randwrite QD1': ('--rw=randwrite', '--bs=4k', '--iodepth=1'),
        '4K randread QD16': ('--rw=randread', '--bs=4k', '--iodepth=16'),
        '4K randwrite QD16': ('--rw=randwrite', '--bs=4k', '--iodepth=16'),
        '4K write + fdatasync': ('--rw=randwrite', '--bs=4k', '--fdatasync=1'),
        '64K randwrite QD4': ('--rw=randwrite', '--bs=64k', '--iodepth=4'),
    }

    def row4(self):
        def measure(system, number):
            if number == 0:
                fill(system.image, system.size)
            for name, options in self.LIVE.items():
                got = fio(system.image, system.size, self.a.seconds, *options)
                unit = 'iops' if '4K' in name and '64K' not in name else 'mbps'
                self.results.add(4, name, {'iops': 'a second', 'mbps': 'MB/s'}[unit], system.name, got[unit])
                self.results.add(4, name + ', p99', 'us', system.name, got['p99'])
            got = fio(system.image, system.size, 0, '--rw=write', '--bs=1M', '--end_fsync=1', '--ioengine=psync', direct=False)
            self.results.add(4, '1M sequential write + fsync', 'MB/s', system.name, got['mbps'])
            drop_caches()
            for name in ('cold', 'warm'):
                got = fio(system.image, system.size, 0, '--rw=read', '--bs=1M', '--ioengine=psync', '--invalidate=0', direct=False)
                self.results.add(4, f'1M sequential read, {name}', 'MB/s', system.name, got['mbps'])
        self.each((peers.Varve, peers.Raw, peers.Passthrough, peers.PassthroughDirect, peers.QemuRaw,
                   peers.QemuRawDirect, peers.QemuQcow2, peers.Btrfs), measure)

    def while_committing(self, row, name, options, rewrite):
        def measure(system, number):
            if number == 0:
                fill(system.image, system.size)
            system.settle()
            quiet = fio(system.image, system.size, self.a.seconds, *options)
            fill(system.image, system.size if rewrite else min(system.size, GIB))
            system.snapshot(number)
            busy = fio(system.image, system.size, self.a.seconds, *options)
            state = 'while a commit runs' if system.pending() else 'while a commit ran, part of the time'
            self.results.add(row, f'{name}, quiet', 'a second', system.name, quiet['iops'])
            self.results.add(row, f'{name}, {state}', 'a second', system.name, busy['iops'])
            self.results.add(row, f'{name}, {state}: p99 / quiet p99', 'times', system.name,
                             busy['p99'] / max(quiet['p99'], 1))
        self.each((peers.Varve,), measure)

    def row5(self):
        for name in ('4K randread QD16', '4K randwrite QD16', '4K write + fdatasync'):
            self.while_committing(5, name, self.LIVE[name], False)

    def row6(self):
        self.while_committing(6, 'first overwrites, 4K QD16', self.LIVE['4K randwrite QD16'], True)

    # --- row 7: commit ---

    def row7(self):
        def measure(system, number):
            size = min(system.size, GIB)
            for name in ('new data', 'rewritten unchanged'):
                if name == 'new data':
                    fill(system.image, size)
                else:
                    with open(system.image, 'r+b', buffering=0) as image:
                        for at in range(0, size, MIB):
                            piece = os.pread(image.fileno(), MIB, at)
                            os.pwrite(image.fileno(), piece, at)
                begin = time.monotonic()
                system.snapshot(f'{name[0]}{number}')
                system.settle()
                self.results.add(7, f'commit, {name}', 'MB/s', system.name, size / 1e6 / (time.monotonic() - begin))
            if shutil.which('zstd'):
                sample = os.path.join(self.a.work, 'sample')
                with open(system.image, 'rb') as image, open(sample, 'wb') as out:
                    out.write(image.read(64 * MIB))
                line = run('zstd', '-b1', '-B64K', f'-T{os.cpu_count()}', '-i1', sample).replace('\r', '\n').strip()
                os.unlink(sample)
                speed = line.split(',')[-2].split('MB/s')[0].split()[-1] if 'MB/s' in line else '0'
                self.results.add(7, 'commit, new data', 'MB/s', 'zstd -b1', float(speed))
        self.each((peers.Varve,), measure)

    # --- rows 8 to 11: reading snapshots ---

    def squashfuse(self, source, block):
        """The image in a squashfs of zstd, mounted with squashfuse: returns the path and how to end it."""
        where = tempfile.mkdtemp(dir=self.a.work)
        packed = where + '.squashfs'
        run('mksquashfs', source, packed, '-comp', 'zstd', '-Xcompression-level', '1', '-b', block, '-noappend')
        run('squashfuse', packed, where)

        def end():
            run('umount', where)
            os.unlink(packed)
        return os.path.join(where, 'disk.img'), end

    def row8(self, rows=(8, 9, 10)):
        with peers.Varve(self.a.work, self.a.size) as varve, peers.Raw(self.a.work, self.a.size) as raw:
            fill(raw.image, self.a.size)
            run('cp', '--sparse=always', raw.image, varve.image)
            varve.snapshot(0)
            varve.settle()
            paths = {'varve': varve.snapshot_image(0), 'plain file': raw.image}
            ends = []
            if shutil.which('squashfuse') and shutil.which('mksquashfs'):
                for block in ('128K', '1M'):
                    paths[f'squashfuse {block}'], end = self.squashfuse(raw.image, block)
                    ends.append(end)
            try:
                for _ in range(self.a.rounds):
                    for name, path in paths.items():
                        self.read_image(name, path, rows)
            finally:
                for end in ends:
                    end()

    def read_image(self, name, path, rows):
        size = self.a.size
        if 8 in rows:
            drop_caches()
            got = fio(path, size, 0, '--rw=read', '--bs=1M', '--ioengine=psync', '--readonly', direct=False)
            self.results.add(8, 'snapshot, sequential, cold', 'MB/s', name, got['mbps'])
        if 9 in rows:
            subprocess.run(['cat', path], stdout=subprocess.DEVNULL, check=True)
            got = fio(path, size, 0, '--rw=read', '--bs=1M', '--ioengine=psync', '--readonly', '--invalidate=0', direct=False)
            self.results.add(9, 'snapshot, sequential, warm', 'MB/s', name, got['mbps'])
        if 10 in rows:
            for threads in (1, 4):
                drop_caches()
                got = fio(path, size, self.a.seconds, '--rw=randread', '--bs=4k', '--ioengine=psync', '--readonly',
                          f'--numjobs={threads}', '--group_reporting', direct=False)
                self.results.add(10, f'snapshot, 4K random, cold, {threads} threads', 'a second', name, got['iops'])

    def row11(self):
        depths = [1, 10, 100, 300, 1000] if not self.a.tiny else [1, 5]
        with peers.Varve(self.a.work, self.a.size) as varve:
            fill(varve.image, self.a.size)
            dice = random.Random(1)
            for number in range(max(depths)):
                with open(varve.image, 'r+b', buffering=0) as image:
                    for _ in range(self.a.size // MIB // 16):
                        image.seek(dice.randrange(self.a.size // 4096) * 4096)
                        image.write(dice.randbytes(4096))
                varve.snapshot(number)
            varve.settle()
            for _ in range(self.a.rounds):
                for depth in depths:
                    path = varve.snapshot_image(depth - 1)
                    drop_caches()
                    got = fio(path, self.a.size, 0, '--rw=read', '--bs=1M', '--ioengine=psync', '--readonly', direct=False)
                    self.results.add(11, 'sequential, cold, by depth', 'MB/s', f'depth {depth}', got['mbps'])
                    drop_caches()
                    got = fio(path, self.a.size, self.a.seconds, '--rw=randread', '--bs=4k', '--ioengine=psync', '--readonly',
                              direct=False)
                    self.results.add(11, '4K random, cold, by depth', 'a second', f'depth {depth}', got['iops'])

    # --- rows 12, 14, 16 ---

    def row12(self):
        def measure(system, number):
            if number == 0:
                fill(system.image, system.size)
                system.snapshot(0)
                system.settle()
            source = system.snapshot_image(0)
            self.results.add(12, 'restore with cp', 'ms', system.name, timed(run, 'cp', source, system.image))
            drop_caches()
            took = timed(run, 'dd', f'if={source}', f'of={system.image}', 'bs=4M', 'conv=notrunc,fsync')
            self.results.add(12, 'restore with dd, nothing changed', 'MB/s', system.name, system.size / 1e3 / took)
        self.each((peers.Varve,), measure)

    def row14(self):
        count = 100 if not self.a.tiny else 5
        with peers.Varve(self.a.work, self.a.size) as varve:
            fill(varve.image, self.a.size)
            begin = time.monotonic()
            for number in range(count):
                dirty(varve.image, self.a.size, self.a.size // 100, True, number)
                varve.snapshot(number)
                varve.settle()
            self.results.add(14, f'{count} snapshots of 1 % each: written and committed', 's', 'varve',
                             time.monotonic() - begin)
            for number in range(count):
                self.results.add(14, 'delete one', 'ms', 'varve',
                                 timed(os.rmdir, os.path.join(varve.disk, f's{number}')))
            self.results.add(14, 'collect all', 's', 'varve', timed(run, varve.varve, 'collect', varve.store) / 1000)

    def row16(self):
        def seconds(system):
            with open(f'/proc/{system.process}/stat', encoding='ascii') as stat:
                fields = stat.read().rsplit(')', 1)[1].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')
        with peers.Varve(self.a.work, self.a.size) as varve:
            gib = self.a.size / GIB
            for name, work in (('written', lambda: fill(varve.image, self.a.size)),
                               ('committed', lambda: (varve.snapshot(0), varve.settle())),
                               ('read, live', lambda: fio(varve.image, self.a.size, 0, '--rw=read', '--bs=1M')),
                               ('read, snapshot', lambda: fio(varve.snapshot_image(0), self.a.size, 0, '--rw=read',
                                                              '--bs=1M', '--readonly'))):
                drop_caches()
                before = seconds(varve)
                work()
                self.results.add(16, f'processor time of the daemon for a GiB {name}', 's', 'varve',
                                 (seconds(varve) - before) / gib)


def bytes_of(text):
    units = {'K': 1 << 10, 'M': 1 << 20, 'G': 1 << 30, 'T': 1 << 40}
    return int(float(text[:-1]) * units[text[-1]]) if text[-1] in units else int(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('varve')
    parser.add_argument('passthrough')
    parser.add_argument('--rows', default='1,2,3,4,5,6,7,8,11,12,14,16', help='8 stands for 8, 9 and 10')
    parser.add_argument('--size', type=bytes_of, default=2 * GIB)
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--seconds', type=int, default=4)
    parser.add_argument('--directory', default='/var/tmp')
    parser.add_argument('--json')
    parser.add_argument('--tiny', action='store_true')
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        print('SKIPPED: only root can drop caches and mount the peers')
        sys.exit(SKIPPED)
    if arguments.tiny:
        arguments.size, arguments.rounds, arguments.seconds = 32 * MIB, 1, 1
    peers.Varve.varve = os.path.realpath(arguments.varve)
    peers.Passthrough.program = os.path.realpath(arguments.passthrough)
    results = Results()
    arguments.work = tempfile.mkdtemp(prefix='varve-speed-', dir=arguments.directory)
    try:
        bench = Bench(arguments, results)
        for row in arguments.rows.split(','):
            print(f'row {row}', file=sys.stderr, flush=True)
            getattr(bench, f'row{row}')()
    finally:
        shutil.rmtree(arguments.work, ignore_errors=True)
    results.print()
    if arguments.json:
        results.write(arguments.json)


if __name__ == '__main__':
    main()
