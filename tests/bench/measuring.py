"""What the rows of speed.py share: figures, fio, and how images are filled and changed."""
import contextlib
import json
import os
import random
import statistics
import sys
import time

from peers import run

MIB, GIB = 1 << 20, 1 << 30


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

    def as_list(self):
        return [{'row': row, 'what': what, 'unit': unit, 'systems': systems}
                for (row, what, unit), systems in sorted(self.figures.items(), key=lambda item: item[0][0])]

    def write(self, path):
        with open(path, 'w', encoding='utf-8') as file:
            json.dump(self.as_list(), file, indent=1)


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
    """`a` is what the command was told, with `work`, a directory for what is made."""

    def __init__(self, arguments, results):
        self.a = arguments
        self.results = results

    def stand(self, stack, kind, *arguments):
        """The system of a kind, until the end of `stack`; None where it cannot run, and why is said."""
        reason = kind.missing()
        if not reason:
            try:
                return stack.enter_context(kind(self.a.work, *arguments))
            except (OSError, RuntimeError) as error:
                reason = str(error)
        print(f'  {kind.name}: left out, {reason}', file=sys.stderr)
        return None

    def each(self, kinds, measure, size=None):
        """All systems stand side by side; `measure(system, round)` goes through them in turn."""
        with contextlib.ExitStack() as stack:
            there = [self.stand(stack, kind, size or self.a.size) for kind in kinds]
            for number in range(self.a.rounds):
                for system in there:
                    if system is not None:
                        measure(system, number)
