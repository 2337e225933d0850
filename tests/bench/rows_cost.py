"""Rows 15 and 16: memory, time to mount, processor time."""
import contextlib
import os

import peers
from measuring import GIB, fill, fio, timed
from peers import drop_caches, run


def resident(process):
    with open(f'/proc/{process}/status', encoding='ascii') as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith('VmRSS:'))


def processor_seconds(process):
    with open(f'/proc/{process}/stat', encoding='ascii') as stat:
        fields = stat.read().rsplit(')', 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


def row15(bench):
    """The size of images costs nothing where nothing is written: a block here and there in each."""
    disks, snapshots = (1000, 10) if not bench.a.tiny else (5, 2)
    with contextlib.ExitStack() as stack:
        varve = bench.stand(stack, peers.Varve, 4 << 40)
        images = [varve.image]
        for number in range(disks):
            folder = os.path.join(varve.mount, f'd{number}')
            os.mkdir(folder)
            images.append(os.path.join(folder, 'disk.img'))
            with open(images[-1], 'wb') as image:
                image.truncate(10 * GIB)
        for number in range(snapshots):
            for path in images:
                with open(path, 'r+b', buffering=0) as image:
                    image.seek(number * (64 << 20))
                    image.write(os.urandom(4096))
                os.mkdir(os.path.join(os.path.dirname(path), f's{number}'))
        what = f'{disks} disks of 10 GiB and one of 4 TiB, {disks * snapshots} snapshots'
        bench.results.add(15, f'{what}: memory while they are committed', 'MB', 'varve', resident(varve.process))
        varve.settle()
        for _ in range(bench.a.rounds):
            varve.leave()
            drop_caches()
            bench.results.add(15, f'{what}: mount', 's', 'varve', timed(varve.enter) / 1000)
            run('ls', '-lR', varve.mount)
            bench.results.add(15, f'{what}: memory after a mount and ls -lR', 'MB', 'varve', resident(varve.process))


def row16(bench):
    def measure(system, number):
        gib = system.size / GIB
        steps = [('written', lambda: fill(system.image, system.size)),
                 ('read', lambda: fio(system.image, system.size, 0, '--rw=read', '--bs=1M'))]
        if isinstance(system, peers.Varve):
            steps.insert(1, ('committed', lambda: (system.snapshot(number), system.settle())))
            steps.append(('read from a snapshot', lambda: fio(system.snapshot_image(number), system.size, 0, '--rw=read',
                                                              '--bs=1M', '--readonly')))
        for name, work in steps:
            drop_caches()
            before = processor_seconds(system.process)
            work()
            bench.results.add(16, f'processor time of the daemon for a GiB {name}', 's', system.name,
                              (processor_seconds(system.process) - before) / gib)
    bench.each((peers.Varve, peers.Passthrough, peers.PassthroughDirect, peers.QemuRaw, peers.QemuQcow2), measure)
