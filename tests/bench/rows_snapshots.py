"""Rows 1, 2, 3, 7 and 14: taking snapshots, committing and deleting them."""
import contextlib
import os
import re
import shutil
import threading
import time

import peers
from measuring import GIB, MIB, dirty, fill, fio, timed
from peers import run


def latency(bench, row, sync):
    amounts = [0, 64 * MIB, GIB] if not bench.a.tiny else [0, 4 * MIB]
    for amount in amounts:
        def measure(system, number, amount=amount):
            if number == 0:
                fill(system.image, system.size)
                system.snapshot(1000)
            dirty(system.image, system.size, amount, sync, number)
            bench.results.add(row, f'snapshot, {amount // MIB} MiB dirty', 'ms', system.name,
                             timed(system.snapshot, number))
        bench.each((peers.Varve, peers.QemuQcow2, peers.Btrfs), measure)


def row1(bench):
    latency(bench, 1, True)
    for size, what in ((4 * GIB, '4 GiB'), (4 << 40, '4 TiB')):
        def measure(system, number, what=what):
            dirty(system.image, system.size, MIB, True, number)
            bench.results.add(1, f'snapshot, image of {what}', 'ms', system.name, timed(system.snapshot, number))
        bench.each((peers.Varve,), measure, size)
    counts = (1, 100, 1000, 10000) if not bench.a.tiny else (1, 20)
    with contextlib.ExitStack() as stack:
        varve = bench.stand(stack, peers.Varve, bench.a.size)
        taken = 0
        for count in counts:
            while taken < count:
                dirty(varve.image, varve.size, 0, False, taken)
                varve.snapshot(taken)
                taken += 1
            varve.settle()
            for number in range(5 * bench.a.rounds):
                bench.results.add(1, f'snapshot, {count} there already', 'ms', 'varve', timed(varve.snapshot, f'{count}-{number}'))


def row2(bench):
    latency(bench, 2, False)


def row3(bench):
    for depth in (1, 16):
        def measure(system, turn, depth=depth):
            fill(system.image, system.size)
            system.settle()
            system.rest()
            options = ('--rw=randwrite', '--bs=4k', f'--iodepth={depth}')
            quiet = fio(system.image, system.size, bench.a.seconds, *options)
            stop = threading.Event()

            def take():
                number = 0
                while not stop.wait(0.05):
                    system.snapshot(f'{turn}-{number}')
                    number += 1
            taker = threading.Thread(target=take)
            taker.start()
            try:
                busy = fio(system.image, system.size, 5 + bench.a.seconds, *options)
            finally:
                stop.set()
                taker.join()
            for name, value in (('without snapshots', quiet), ('with a snapshot every 50 ms', busy)):
                for figure in ('p999', 'longest'):
                    bench.results.add(3, f'writer, {depth} deep, {name}: {figure}', 'us', system.name, value[figure])
        bench.each((peers.Varve,), measure)


def zstd_alone(bench, image, level):
    """MB a second of `zstd -b` on a part of the image, in pieces of a chunk; None without it."""
    if shutil.which('zstd') is None:
        return None
    sample = os.path.join(bench.a.work, 'sample')
    with open(image, 'rb') as source, open(sample, 'wb') as out:
        out.write(source.read(64 * MIB))
    line = run('zstd', f'-b{level}', '-B65536', f'-T{os.cpu_count()}', '-i1', sample).replace('\r', '\n')
    os.unlink(sample)
    speeds = re.findall(r'([0-9.]+) MB/s', line)
    return float(speeds[-2]) if len(speeds) > 1 else None


def row7(bench):
    def measure(system, number):
        size = min(system.size, GIB)
        level = system.compression[-1]
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
            bench.results.add(7, f'commit at level {level}, {name}', 'MB/s', 'varve', size / 1e6 / (time.monotonic() - begin))
        alone = zstd_alone(bench, system.image, level)
        if alone:
            bench.results.add(7, f'commit at level {level}, new data', 'MB/s', 'zstd -b', alone)
    bench.each((peers.VarveZstd1, peers.VarveZstd3), measure)


def row14(bench):
    count = 100 if not bench.a.tiny else 5
    with peers.Varve(bench.a.work, bench.a.size) as varve:
        fill(varve.image, bench.a.size)
        begin = time.monotonic()
        for number in range(count):
            dirty(varve.image, bench.a.size, bench.a.size // 100, True, number)
            varve.snapshot(number)
            varve.settle()
        bench.results.add(14, f'{count} snapshots of 1 % each: written and committed', 's', 'varve',
                         time.monotonic() - begin)
        for number in range(count):
            bench.results.add(14, 'delete one', 'ms', 'varve',
                             timed(os.rmdir, os.path.join(varve.disk, f's{number}')))
        bench.results.add(14, 'collect all', 's', 'varve', timed(run, varve.varve, 'collect', varve.store) / 1000)
