#!/usr/bin/env python3
"""How many bytes a full snapshot and its successors take, in varve and in its peers: an ext4 image of real files, then
step by step 1 % of it overwritten in random places with new data that compresses about 2.2 to 1, first in writes of 4 KiB,
then, from the start, in writes of 64 KiB. After each step a snapshot (a backup, an overlay), and what is stored then.

    sudo tests/bench/space.py VARVE [--size 2G] [--steps 10] [--source /usr] [--directory /var/tmp]
                              [--systems varve,qcow2,…] [--json FILE] [--install] [--tiny]

VARVE is the command (build/src/cli/varve). Systems, and Debian's packages for them: qcow2, qcow2-subclusters and
qcow2-zstd (qemu-utils), btrfs (btrfs-progs), restic, borg (borgbackup); one that is missing is left out, and said so;
--install gets them. Stored means: allocated blocks of packs and logs (varve), of overlays (qcow2), used bytes (btrfs),
files of the repository (restic, borg). Takes half an hour and eight times the size; --tiny seconds: only to see that it works.
"""
import argparse
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time

from peers import System, run

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
SKIPPED = 77
GRAINS = (4 * KIB, 64 * KIB)
#: Twelve letters: 3.6 bits a byte.
LETTERS = bytes(b'etaoinshrdlu'[i * 12 // 256] for i in range(256))


def say(text):
    print(text, file=sys.stderr, flush=True)


def allocated(path):
    """Bytes of blocks of a file, or of all files below a directory."""
    if not os.path.isdir(path):
        return os.stat(path).st_blocks * 512
    return sum(os.lstat(os.path.join(folder, name)).st_blocks * 512
               for folder, _, names in os.walk(path) for name in names)


def real_files(source, image, size, work):
    """An ext4 filesystem of `size` bytes, filled to 75 % with files of `source`, in the order of their names."""
    staging = os.path.join(work, 'files')
    os.mkdir(staging)
    left = size * 75 // 100
    count = 0
    for folder, folders, names in os.walk(source):
        folders.sort()
        target = os.path.join(staging, os.path.relpath(folder, source))
        made = False
        for name in sorted(names):
            path = os.path.join(folder, name)
            if os.path.islink(path) or not os.path.isfile(path):
                continue
            bytes_there = os.path.getsize(path) + 4 * KIB
            if bytes_there > left or count > size // (24 * KIB):
                continue
            if not made:
                os.makedirs(target, exist_ok=True)
                made = True
            try:
                os.link(path, os.path.join(target, name))
            except OSError:
                shutil.copyfile(path, os.path.join(target, name))
            left -= bytes_there
            count += 1
        if left < 64 * KIB:
            break
    run('mke2fs', '-q', '-t', 'ext4', '-m', '0', '-d', staging, image, f'{size // KIB}k')
    shutil.rmtree(staging)


def changes(size, grain, step, seed):
    """(offset, bytes) of 1 % of the image, in random places."""
    dice = random.Random(f'{seed}-{grain}-{step}')
    places = sorted(dice.sample(range(size // grain), max(1, size // 100 // grain)))
    for place in places:
        yield place * grain, dice.randbytes(grain).translate(LETTERS)


def overwrite(path, writes):
    file = os.open(path, os.O_WRONLY)
    try:
        for at, data in writes:
            os.pwrite(file, data, at)
        os.fsync(file)
    finally:
        os.close(file)


class Chain(System):
    """A full one and what follows. `raw` is the image as it is at each step."""

    def __init__(self, arguments, work):
        super().__init__(work)
        self.a = arguments

    def full(self, raw):
        raise NotImplementedError

    def step(self, raw, number, writes):
        raise NotImplementedError

    def stored(self):
        raise NotImplementedError


class Varve(Chain):
    name = 'varve'

    def start(self):
        os.mkdir(self.path('mnt'))
        run(self.a.varve, 'init', self.path('store'))
        run(self.a.varve, 'mount', self.path('store'), self.path('mnt'))
        self.ended.callback(self.unmount)
        os.mkdir(self.path('mnt', 'd'))

    def unmount(self):
        for _ in range(100):
            if subprocess.run(['umount', self.path('mnt')], stderr=subprocess.DEVNULL, check=False).returncode == 0:
                break
            time.sleep(0.1)
        # The daemon may still be closing the store.
        run(self.a.varve, 'list', '--store', self.path('store'))

    def snapshot(self, number):
        path = self.path('mnt', 'd', f's{number}')
        os.mkdir(path)
        while os.getxattr(path, 'user.varve.state') != b'complete':
            time.sleep(0.05)

    def full(self, raw):
        # Zeros stay holes.
        run('cp', '--sparse=always', raw, self.path('mnt', 'd', 'disk.img'))
        self.snapshot(0)

    def step(self, raw, number, writes):
        overwrite(self.path('mnt', 'd', 'disk.img'), writes)
        self.snapshot(number)

    def stored(self):
        os.sync()
        folders = [self.path('store', folder) for folder in ('packs', 'joined', 'disks')]
        return sum(allocated(folder) for folder in folders if os.path.isdir(folder))


class Qcow2(Chain):
    """A file for the first, and an overlay for each that follows."""
    name = 'qcow2'
    programs = ('qemu-img', 'qemu-io')
    packages = ('qemu-utils',)
    options = 'lazy_refcounts=off'
    compressed = False

    def image(self, number):
        return self.path(f'{number}.qcow2')

    def full(self, raw):
        words = ['qemu-img', 'convert', '-q', '-f', 'raw', '-O', 'qcow2', '-o', self.options]
        run(*words, *(['-c'] if self.compressed else []), raw, self.image(0))

    def step(self, raw, number, writes):
        overlay = self.path('new.qcow2')
        run('qemu-img', 'create', '-q', '-f', 'qcow2', '-o', self.options, '-F', 'qcow2', '-b', self.image(number - 1), overlay)
        folder = self.path('data')
        os.mkdir(folder)
        commands = []
        for index, (at, data) in enumerate(writes):
            piece = os.path.join(folder, str(index))
            with open(piece, 'wb') as file:
                file.write(data)
            commands.append(f'write -q -s {piece} {at} {len(data)}')
        run('qemu-io', '-f', 'qcow2', overlay, input='\n'.join(commands) + '\n')
        shutil.rmtree(folder)
        if not self.compressed:
            os.rename(overlay, self.image(number))
            return
        run('qemu-img', 'convert', '-q', '-c', '-f', 'qcow2', '-O', 'qcow2', '-o', self.options, '-F', 'qcow2', '-B',
            self.image(number - 1), overlay, self.image(number))
        os.remove(overlay)

    def stored(self):
        os.sync()
        return allocated(self.directory)


class Qcow2Subclusters(Qcow2):
    name = 'qcow2-subclusters'
    options = 'extended_l2=on,cluster_size=128k'


class Qcow2Zstd(Qcow2):
    name = 'qcow2-zstd'
    options = 'compression_type=zstd'
    compressed = True


class Btrfs(Chain):
    name = 'btrfs'
    programs = ('btrfs', 'mkfs.btrfs', 'losetup')
    packages = ('btrfs-progs',)

    def start(self):
        os.mkdir(self.path('mnt'))
        with open(self.path('btrfs.img'), 'wb') as image:
            image.truncate(max(4 * self.a.size, 256 * MIB))
        run('mkfs.btrfs', '-q', '-m', 'single', self.path('btrfs.img'))
        run('mount', '-o', 'loop,compress=zstd:3', self.path('btrfs.img'), self.path('mnt'))
        self.ended.callback(run, 'umount', self.path('mnt'))
        run('btrfs', 'subvolume', 'create', self.path('mnt', 'd'))
        self.empty = self.used()

    def used(self):
        run('btrfs', 'filesystem', 'sync', self.path('mnt'))
        for line in run('btrfs', 'filesystem', 'usage', '-b', self.path('mnt')).splitlines():
            if line.strip().startswith('Used:'):
                return int(line.split()[1])
        raise RuntimeError('btrfs does not say what is used')

    def full(self, raw):
        run('cp', '--sparse=always', '--reflink=never', raw, self.path('mnt', 'd', 'disk.img'))
        run('btrfs', 'subvolume', 'snapshot', '-r', self.path('mnt', 'd'), self.path('mnt', 's0'))

    def step(self, raw, number, writes):
        overwrite(self.path('mnt', 'd', 'disk.img'), writes)
        run('btrfs', 'subvolume', 'snapshot', '-r', self.path('mnt', 'd'), self.path('mnt', f's{number}'))

    def stored(self):
        return self.used() - self.empty


class Repository(Chain):
    """A backup of the raw image into a repository at each step."""
    environment = {}

    def run(self, *words):
        home = {'HOME': self.directory, 'XDG_CACHE_HOME': self.path('cache'), **self.environment}
        return run(*words, env={**os.environ, **home}, cwd=os.path.dirname(self.a.raw))

    def backup(self, number):
        raise NotImplementedError

    def full(self, raw):
        self.backup(0)

    def step(self, raw, number, writes):
        self.backup(number)

    def stored(self):
        os.sync()
        return allocated(self.path('repository'))


class Restic(Repository):
    name = 'restic'
    programs = ('restic',)
    packages = ('restic',)
    environment = {'RESTIC_PASSWORD': 'x'}

    def start(self):
        self.run('restic', 'init', '-q', '--repo', self.path('repository'))

    def backup(self, number):
        self.run('restic', 'backup', '-q', '--repo', self.path('repository'), os.path.basename(self.a.raw))


class Borg(Repository):
    name = 'borg'
    programs = ('borg',)
    packages = ('borgbackup',)
    environment = {'BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK': 'yes'}

    def start(self):
        self.run('borg', 'init', '--encryption', 'none', self.path('repository'))

    def backup(self, number):
        self.run('borg', 'create', '--compression', 'zstd', f'{self.path("repository")}::s{number}',
                 os.path.basename(self.a.raw))


SYSTEMS = (Varve, Qcow2, Qcow2Subclusters, Qcow2Zstd, Btrfs, Restic, Borg)


def series(arguments, systems, grain, results, skipped):
    """The whole story once, with writes of `grain`."""
    raw = arguments.raw
    shutil.copyfile(arguments.image, raw)
    with tempfile.TemporaryDirectory(dir=arguments.work) as work, contextlib.ExitStack() as stack:
        alive = []
        for system in systems:
            try:
                alive.append(stack.enter_context(system(arguments, work)))
            except (OSError, RuntimeError) as error:
                skipped[system.name] = str(error)
                say(f'{system.name}: left out: {error}')
        for number in range(arguments.steps + 1):
            writes = list(changes(arguments.size, grain, number, arguments.seed)) if number else []
            if number:
                overwrite(raw, writes)
            for system in alive:
                system.step(raw, number, writes) if number else system.full(raw)
                bytes_stored = system.stored()
                results.setdefault(system.name, {}).setdefault(str(grain // KIB), []).append(bytes_stored)
                say(f'{grain // KIB:3} KiB  step {number:2}/{arguments.steps}  {system.name:18} {bytes_stored / 1e6:10.2f} MB')


def print_table(results, steps):
    print(f'\nMB stored: the full one, then the mean of {steps} incrementals, then all of them')
    print(f'{"":20} {"full":>10} {"each 4K":>10} {"all 4K":>10} {"each 64K":>10} {"all 64K":>10}')
    for name, by_grain in results.items():
        row = [by_grain['4'][0]]
        for grain in ('4', '64'):
            figures = by_grain[grain]
            row += [(figures[-1] - figures[0]) / max(1, len(figures) - 1), figures[-1]]
        print(f'{name:20} ' + ' '.join(f'{value / 1e6:10.2f}' for value in row))


def size_of(text):
    units = {'K': KIB, 'M': MIB, 'G': GIB}
    return int(text[:-1]) * units[text[-1]] if text[-1] in units else int(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('varve')
    parser.add_argument('--size', type=size_of, default=2 * GIB)
    parser.add_argument('--steps', type=int, default=10)
    parser.add_argument('--source', default='/usr')
    parser.add_argument('--directory', default='/var/tmp')
    parser.add_argument('--systems', default=','.join(system.name for system in SYSTEMS))
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--json')
    parser.add_argument('--install', action='store_true')
    parser.add_argument('--tiny', action='store_true')
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        print('mounting needs root')
        return SKIPPED
    arguments.varve = os.path.abspath(arguments.varve)
    if arguments.tiny:
        arguments.size, arguments.steps = 32 * MIB, 1
    wanted = arguments.systems.split(',')
    systems = [system for system in SYSTEMS if system.name in wanted]
    if arguments.install:
        packages = sorted({package for system in systems if system.missing() for package in system.packages})
        if packages:
            run('apt-get', 'install', '-y', '--no-install-recommends', *packages)
    skipped = {system.name: system.missing() for system in systems if system.missing()}
    for name, reason in skipped.items():
        say(f'{name}: left out: {reason}')
    results = {}
    with tempfile.TemporaryDirectory(dir=arguments.directory, prefix='varve-space-') as work:
        arguments.work = work
        arguments.image, arguments.raw = os.path.join(work, 'image'), os.path.join(work, 'raw')
        real_files(arguments.source, arguments.image, arguments.size, work)
        for grain in GRAINS:
            series(arguments, [system for system in systems if system.name not in skipped], grain, results, skipped)
    print_table(results, arguments.steps)
    if arguments.json:
        with open(arguments.json, 'w', encoding='utf-8') as file:
            json.dump({'size': arguments.size, 'steps': arguments.steps, 'seed': arguments.seed, 'stored': results,
                       'left_out': skipped}, file, indent=1)
    return 0 if Varve.name not in wanted or Varve.name in results else 1


if __name__ == '__main__':
    sys.exit(main())
