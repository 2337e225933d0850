#!/usr/bin/env python3
"""The power is cut at random moments: what was synced is there, every snapshot whose mkdir returned is exact.

Each round: a guest (guest.py) boots, mounts the store on its disk, and exercisers work on two disks; what they were
acknowledged comes over its consoles. SIGKILL; sometimes a second guest that is cut while it recovers; then the image is
mounted here, varve recovers, and everything is compared and checked. The next round goes on with the same store. There
are two stores, one on ext4 and one on xfs.

VARVE_POWER_CUTS=100 for the long run (default 16); VARVE_TEST_SEED repeats one, but for the moments.
"""
import concurrent.futures
import os
import random
import time
import unittest

import harness
from exercise import Exercised, why_no_exerciser
from guest import Guest, why_no_guests
from harness import main, missing, run, say

CUTS = int(os.environ.get('VARVE_POWER_CUTS', '16'))
SEED = int(os.environ.get('VARVE_TEST_SEED', str(random.randrange(1_000_000))))
AT_ONCE = 2
# Below the store. What commits seldom loses more that nobody synced.
FILESYSTEMS = {'ext4': ('commit=300', 'commit=1'), 'xfs': ('defaults',)}
IGNORE_SYNC = os.environ.get('VARVE_IGNORE_SYNC', '')


class Lane:
    """One store and its guests, one after another."""

    def __init__(self, number):
        self.choose = random.Random(SEED * 10 + number)
        self.filesystem = list(FILESYSTEMS)[number % len(FILESYSTEMS)]
        self.guest = Guest(filesystem=self.filesystem)
        self.disks = [Exercised(self.guest.base, 'alone'), Exercised(self.guest.base, 'together', threads=3)]
        self.guest.mount_disk()
        run(harness.varve, 'init', self.guest.store)
        self.guest.mount()
        for disk in self.disks:
            directory = os.path.join(self.guest.mnt, disk.name)
            os.mkdir(directory)
            with open(os.path.join(directory, 'disk.img'), 'wb') as image:
                image.truncate(disk.capacity)
        self.guest.umount()
        self.guest.umount_disk()

    def job(self):
        # What nobody synced stays in the guest's memory, for the cut to take.
        lines = ['echo 30000 >/proc/sys/vm/dirty_writeback_centisecs\n']
        for i, disk in enumerate(self.disks):
            words = disk.work_words(self.guest.mnt, self.guest.store, harness.varve, self.choose.randrange(1 << 24))
            lines.append(' '.join(words) + f' >/dev/tty{i + 1} &\n')
        return ''.join(lines)

    def cut(self, preload='', at_least=0):
        """One power cut in the middle of work, after so many operations at least."""
        for disk in self.disks:
            with open(disk.trace, 'wb'):
                pass
        self.guest.boot(self.job(), traces=[disk.trace for disk in self.disks], preload=preload,
                        options=FILESYSTEMS[self.filesystem][0] if preload else
                        self.choose.choice(FILESYSTEMS[self.filesystem]))
        self.guest.wait_for_line('guest: mounted')
        end = time.monotonic() + 60
        while min(disk.lines() for disk in self.disks) <= at_least:
            if time.monotonic() > end:
                raise AssertionError(f'no work in the guest:\n{self.guest.console_text()}')
            time.sleep(0.01)
        time.sleep(self.choose.choice((0.1, 0.5, 1.5)) * self.choose.random())
        self.guest.cut()

    def cut_recovery(self):
        self.guest.boot('', options=FILESYSTEMS[self.filesystem][0])
        self.guest.wait_for_line('guest: disk')
        time.sleep(self.choose.uniform(0, 0.6))
        self.guest.cut()

    def problems(self):
        """Mounts what is left, here, and compares. Sentences, none when all is as it must be."""
        found = []
        self.guest.mount_disk()
        self.guest.mount()
        for disk in self.disks:
            found += [f'disk {disk.name}, seed {disk.seed}: {line}' for line in disk.problems(self.guest.mnt, 'power')]
        checked = run(harness.varve, 'check', self.guest.mnt, check=False)
        if checked.returncode != 0:
            found.append(f'varve check: {checked.stdout}{checked.stderr}')
        self.guest.umount()
        self.guest.umount_disk()
        return found

    def rounds(self, count):
        for i in range(count):
            self.cut()
            if self.choose.random() < 0.3:
                self.cut_recovery()
            found = self.problems()
            if found:
                traces = '\n'.join(disk.last_lines() for disk in self.disks)
                raise AssertionError(f'power cut {i}:\n' + '\n'.join(found) + '\nthe traces end with\n' + traces)


class PowerCuts(unittest.TestCase):
    def lane(self, number):
        lane = Lane(number)
        self.addCleanup(lane.guest.close)
        return lane

    def setUp(self):
        say(f'VARVE_TEST_SEED={SEED} VARVE_POWER_CUTS={CUTS}')

    def test_what_was_synced_is_there_and_snapshots_are_exact(self):
        begin = time.monotonic()
        lanes = [self.lane(i) for i in range(min(AT_ONCE, CUTS))]
        with concurrent.futures.ThreadPoolExecutor(len(lanes)) as pool:
            for done in [pool.submit(lane.rounds, -(-CUTS // len(lanes))) for lane in lanes]:
                done.result()
        disks = [disk for lane in lanes for disk in lane.disks]
        say(f'{CUTS} power cuts in {time.monotonic() - begin:.0f} s, '
            f'{sum(disk.acknowledged for disk in disks)} operations acknowledged, '
            f'{sum(disk.snapshots for disk in disks)} snapshots compared')
        self.assertGreater(sum(disk.acknowledged for disk in disks), CUTS)

    def test_a_disk_that_ignores_syncs_is_noticed(self):
        """The negative control: the same without syncs loses what was acknowledged, and is found out."""
        lane = self.lane(AT_ONCE)
        lane.cut(preload=IGNORE_SYNC, at_least=100)
        try:
            found = lane.problems()
        except AssertionError as error:  # the store does not even open
            found = [str(error)]
        say(f'without syncs: {len(found)} problems, {found[:1]}')
        self.assertTrue(found, 'the loss of what was acknowledged was not noticed')


if __name__ == '__main__':
    main(why_no_exerciser() or why_no_guests() or missing('mkfs.xfs') or
         (None if os.path.exists(IGNORE_SYNC) else 'VARVE_IGNORE_SYNC does not name the library'))
