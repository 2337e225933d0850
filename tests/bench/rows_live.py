"""Rows 4, 5 and 6: the live image, alone and while a commit runs."""
import peers
from measuring import GIB, fill, fio
from peers import drop_caches

LIVE = {
    '4K randread QD1': ('--rw=randread', '--bs=4k', '--iodepth=1'),
    '4K randwrite QD1': ('--rw=randwrite', '--bs=4k', '--iodepth=1'),
    '4K randread QD16': ('--rw=randread', '--bs=4k', '--iodepth=16'),
    '4K randwrite QD16': ('--rw=randwrite', '--bs=4k', '--iodepth=16'),
    '4K write + fdatasync': ('--rw=randwrite', '--bs=4k', '--fdatasync=1'),
    '64K randwrite QD4': ('--rw=randwrite', '--bs=64k', '--iodepth=4'),
}


def row4(bench):
    def measure(system, number):
        if number == 0:
            fill(system.image, system.size)
        for name, options in LIVE.items():
            if 'randread' in name:
                # The disk below may be a file on some host, and then fast or slow by what that has in its memory.
                fio(system.image, system.size, 0, '--rw=read', '--bs=1M')
            got = fio(system.image, system.size, bench.a.seconds, *options)
            unit = 'iops' if '4K' in name and '64K' not in name else 'mbps'
            bench.results.add(4, name, {'iops': 'a second', 'mbps': 'MB/s'}[unit], system.name, got[unit])
            bench.results.add(4, name + ', p99', 'us', system.name, got['p99'])
        got = fio(system.image, system.size, 0, '--rw=write', '--bs=1M', '--end_fsync=1', '--ioengine=psync', direct=False)
        bench.results.add(4, '1M sequential write + fsync', 'MB/s', system.name, got['mbps'])
        drop_caches()
        for name in ('cold', 'warm'):
            got = fio(system.image, system.size, 0, '--rw=read', '--bs=1M', '--ioengine=psync', '--invalidate=0', direct=False)
            bench.results.add(4, f'1M sequential read, {name}', 'MB/s', system.name, got['mbps'])
    bench.each((peers.Varve, peers.Raw, peers.Passthrough, peers.PassthroughDirect, peers.QemuRaw,
               peers.QemuRawDirect, peers.QemuQcow2, peers.Btrfs), measure)


def while_committing(bench, row, name, options, rewrite):
    """Beside the commit of a disk that was at rest, and of the snapshot that comes as soon as that one is complete."""
    def measure(system, number):
        if number == 0:
            fill(system.image, system.size)
        system.settle()
        system.rest()
        quiet = fio(system.image, system.size, bench.a.seconds, *options)
        bench.results.add(row, f'{name}, quiet', 'a second', system.name, quiet['iops'])
        system.rest()
        for turn, which in enumerate(('a commit', 'the next commit')):
            system.settle()
            fill(system.image, system.size if rewrite else min(system.size, GIB))
            system.snapshot(2 * number + turn)
            busy = fio(system.image, system.size, bench.a.seconds, *options)
            state = f'while {which} runs' if system.pending() else f'while {which} ran, part of the time'
            bench.results.add(row, f'{name}, {state}', 'a second', system.name, busy['iops'])
            bench.results.add(row, f'{name}, {state}: p99 / quiet p99', 'times', system.name,
                             busy['p99'] / max(quiet['p99'], 1))
    bench.each((peers.Varve,), measure)


def row5(bench):
    for name in ('4K randread QD16', '4K randwrite QD16', '4K write + fdatasync'):
        while_committing(bench, 5, name, LIVE[name], False)


def row6(bench):
    while_committing(bench, 6, 'first overwrites, 4K QD16', LIVE['4K randwrite QD16'], True)
