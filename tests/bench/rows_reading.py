"""Rows 8 to 13: reading snapshots, and restoring."""
import contextlib
import os
import random
import subprocess

import peers
import space
from measuring import MIB, fill, fio, timed
from peers import drop_caches, run

SEQUENTIAL = ('--rw=read', '--bs=1M', '--ioengine=psync', '--readonly')
RANDOM = ('--rw=randread', '--bs=4k', '--ioengine=psync', '--readonly')


def images_of(bench, stack, raw):
    """The same image as each system gives it back: name to path. `raw` is the plain file."""
    varve = bench.stand(stack, peers.Varve, bench.a.size)
    run('cp', '--sparse=always', raw, varve.image)
    varve.snapshot(0)
    varve.settle()
    paths = {'varve': varve.snapshot_image(0), 'plain file': raw}
    for kind in (peers.Squashfuse128, peers.Squashfuse1M, peers.QemuImage, peers.ResticMount, peers.BorgMount):
        system = bench.stand(stack, kind, raw)
        if system is not None:
            paths[system.name] = system.image
    return paths


def real_disk(bench, stack):
    """A plain file with an ext4 of real files."""
    raw = os.path.join(bench.a.work, 'disk.img')
    stack.callback(os.unlink, raw)
    space.real_files('/usr', raw, bench.a.size, bench.a.work)
    return raw


def read_image(bench, name, path):
    size = bench.a.size
    drop_caches()
    got = fio(path, size, 0, *SEQUENTIAL, direct=False)
    bench.results.add(8, 'snapshot, sequential, cold', 'MB/s', name, got['mbps'])
    subprocess.run(['cat', path], stdout=subprocess.DEVNULL, check=True)
    got = fio(path, size, 0, *SEQUENTIAL, '--invalidate=0', direct=False)
    bench.results.add(9, 'snapshot, sequential, warm', 'MB/s', name, got['mbps'])
    for threads in (1, 4):
        drop_caches()
        got = fio(path, size, bench.a.seconds, *RANDOM, f'--numjobs={threads}', '--group_reporting', direct=False)
        bench.results.add(10, f'snapshot, 4K random, cold, {threads} threads', 'a second', name, got['iops'])


def row8(bench):
    """And 9 and 10."""
    with contextlib.ExitStack() as stack:
        paths = images_of(bench, stack, real_disk(bench, stack))
        for _ in range(bench.a.rounds):
            for name, path in paths.items():
                read_image(bench, name, path)


def row11(bench):
    depths = [1, 10, 100, 300, 1000] if not bench.a.tiny else [1, 5]
    with contextlib.ExitStack() as stack:
        varve = bench.stand(stack, peers.Varve, bench.a.size)
        fill(varve.image, bench.a.size)
        dice = random.Random(1)
        for number in range(max(depths)):
            with open(varve.image, 'r+b', buffering=0) as image:
                for _ in range(bench.a.size // MIB // 16):
                    image.seek(dice.randrange(bench.a.size // 4096) * 4096)
                    image.write(dice.randbytes(4096))
            varve.snapshot(number)
        varve.settle()
        for _ in range(bench.a.rounds):
            for depth in depths:
                path = varve.snapshot_image(depth - 1)
                for what, unit, seconds, options in (('sequential', 'MB/s', 0, SEQUENTIAL),
                                                     ('4K random', 'a second', bench.a.seconds, RANDOM)):
                    drop_caches()
                    got = fio(path, bench.a.size, seconds, *options, direct=False)
                    bench.results.add(11, f'{what}, cold, by depth', unit, f'depth {depth}',
                                      got['mbps' if unit == 'MB/s' else 'iops'])


def row12(bench):
    def measure(system, number):
        if number == 0:
            fill(system.image, system.size)
            system.snapshot(0)
            system.settle()
        source = system.snapshot_image(0)
        bench.results.add(12, 'restore with cp', 'ms', system.name, timed(run, 'cp', source, system.image))
        drop_caches()
        took = timed(run, 'dd', f'if={source}', f'of={system.image}', 'bs=4M', 'conv=notrunc,fsync')
        bench.results.add(12, 'restore with dd, nothing changed', 'MB/s', system.name, system.size / 1e3 / took)
        drop_caches()
        plain = os.path.join(bench.a.work, 'copy')
        took = timed(run, 'dd', f'if={source}', f'of={plain}', 'bs=4M', 'conv=fsync')
        bench.results.add(12, 'restore with dd, nothing changed', 'MB/s', 'dd to a plain file', system.size / 1e3 / took)
        os.unlink(plain)
    bench.each((peers.Varve,), measure)


def row13(bench):
    with contextlib.ExitStack() as stack:
        paths = images_of(bench, stack, real_disk(bench, stack))
        where = os.path.join(bench.a.work, 'files')
        os.mkdir(where)
        stack.callback(os.rmdir, where)

        def tar():
            run('mount', '-o', 'loop,ro,noload', path, where)
            try:
                # Into a pipe: tar does not read what goes to /dev/null.
                run('sh', '-c', 'tar -cf - -C "$1" . | cat >/dev/null', 'sh', where)
            finally:
                run('umount', where)
        for _ in range(bench.a.rounds):
            for name, path in paths.items():
                drop_caches()
                bench.results.add(13, 'mount -o loop,ro and tar of all files, cold', 's', name, timed(tar) / 1000)
