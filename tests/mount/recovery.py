#!/usr/bin/env python3
"""A mount after any end is usable at once, whatever the store holds; the rest runs behind it, and can be watched.

Nothing here is timed: what a mount reads is counted, and so is what is left to do. VARVE_RECOVERY_SNAPSHOTS=1000 is the full
size (one minute; tests/bench/recovery.sh prints times).
"""
import json
import os
import random
import shutil

import harness
from harness import CHUNK, MIB, MountTest, main, pattern, read_at, run, say, wait_for, write_at

TIB = 1 << 40
SNAPSHOTS = int(os.environ.get('VARVE_RECOVERY_SNAPSHOTS', '200'))
BULK = 96 * MIB


class Recovery(MountTest):
    def setUp(self):
        super().setUp()
        self.random = random.Random(7)
        self.image = self.m.make_disk('d', TIB)
        self.bulk = pattern(3, BULK)
        write_at(self.image, TIB // 2, self.bulk)
        self.expected = {}  # offset -> what a chunk there holds
        with open(self.image, 'r+b', buffering=0) as file:
            for k in range(SNAPSHOTS):
                for _ in range(3):
                    self.change(file.fileno())
                os.mkdir(self.m.disk('d', f's{k:05}'))
        self.m.make_disk('second', MIB)
        self.settle()

    def change(self, fd):
        at = self.random.randrange(TIB // 4 // CHUNK) * CHUNK
        self.expected[at] = self.random.randbytes(4096)
        os.pwrite(fd, self.expected[at], at)

    def disk_status(self):
        return next(disk for disk in self.status()['disks'] if disk['name'] == 'd')

    def info(self, snapshot):
        return json.loads(run(harness.varve, 'info', self.m.disk('d', snapshot), '--json').stdout)

    def settle(self):
        """Until nothing runs in the background any more."""
        wait_for(lambda: not self.disk_status()['snapshots']['pending'], 300, 'commits')
        wait_for(lambda: all(task['state'] == 'done' for task in self.status()['background'].values()), 60, 'start')
        wait_for(lambda: self.disk_status()['live']['unswept_chunks'] == 0, 60, 'sweep')

    def bytes_read(self):
        with open(f'/proc/{self.m.daemon.pid}/io', encoding='ascii') as file:
            return int(next(line for line in file if line.startswith('rchar')).split()[1])

    def leave_a_pending_snapshot(self, name):
        """And a write after it. What ends the daemon comes next."""
        with open(self.image, 'r+b', buffering=0) as file:
            for _ in range(50):
                self.change(file.fileno())
            self.frozen = dict(self.expected)
            os.mkdir(self.m.disk('d', name))
            self.change(file.fileno())
            os.fsync(file.fileno())

    def check(self, name, opened):
        """Before anything in the background need have ended."""
        status = self.disk_status()
        self.assertEqual(status['opened'], opened)
        self.assertIn(name, os.listdir(self.m.disk('d')))
        self.assertEqual(len(os.listdir(self.m.disk('d'))), status['snapshots']['complete'] +
                         len(status['snapshots']['pending']) + 1)
        for path, expected in ((self.image, self.expected), (self.m.image('d', name), self.frozen)):
            for at in self.random.sample(sorted(expected), 40):
                self.assertEqual(read_at(path, at, 4096), expected[at])
        with open(self.image, 'r+b', buffering=0) as file:
            self.change(file.fileno())
            os.fsync(file.fileno())

    def kill(self):
        self.m.kill()
        run('umount', '-l', self.m.path)

    def test_after_a_clean_end(self):
        self.m.remount()
        self.assertEqual(self.disk_status()['opened'], 'clean')
        self.settle()
        read = self.bytes_read()
        say(f'{read / MIB:.1f} MiB read by a mount of {SNAPSHOTS} snapshots')
        self.assertLess(read, BULK // 2, 'a mount reads what describes the store, not what it holds')
        self.assertEqual(read_at(self.image, TIB // 2, BULK), self.bulk)
        self.without_its_locator()

    def test_after_a_kill(self):
        for round_ in range(3):
            self.leave_a_pending_snapshot(f'p{round_}')
            self.kill()
            self.m.start()
            self.check(f'p{round_}', 'after a kill')
        self.settle()
        read = self.bytes_read()
        say(f'{read / MIB:.1f} MiB read by a mount after a kill')
        self.assertLess(read, BULK // 2, 'what did not change is not read')
        self.m.remount()
        self.assertEqual(self.disk_status()['opened'], 'clean')

    def test_after_a_power_loss(self):
        """The next commits compare instead of trusting. That reads all that is there, but only that."""
        self.leave_a_pending_snapshot('p')
        self.kill()
        self.m.start(['assume_power_loss'])
        self.check('p', 'after a power loss')
        self.assertEqual(self.disk_status()['live']['changed'], TIB, 'everything counts as changed')
        self.settle()
        os.mkdir(self.m.disk('d', 'after'))
        self.wait_complete(self.m.disk('d', 'after'), 300)
        after = self.info('after')
        self.assertLess(after['stored'], 8 * MIB, 'compared, it was nearly nothing')
        self.assertGreater(self.bytes_read(), BULK, 'it was compared')
        self.assertLess(self.bytes_read(), 8 * BULK + 256 * MIB, 'of the holes nothing is read')
        self.assertEqual(read_at(self.m.image('d', 'after'), TIB // 2, BULK), self.bulk)
        for at in self.random.sample(sorted(self.expected), 40):
            self.assertEqual(read_at(self.m.image('d', 'after'), at, 4096), self.expected[at])
        # From there on it is trusted again.
        with open(self.image, 'r+b', buffering=0) as file:
            self.change(file.fileno())
        os.mkdir(self.m.disk('d', 'later'))
        later = self.info('later')
        self.assertLess(later['changed'], MIB)

    def without_its_locator(self):
        self.m.unmount()
        shutil.rmtree(os.path.join(self.m.store, 'locator'))
        self.m.start()
        self.assertEqual(read_at(self.m.image('d', 's00000'), TIB // 2, MIB), self.bulk[:MIB])
        self.settle()
        # Most of them share files by now.
        self.assertGreaterEqual(self.status()['background']['locator']['packs'], SNAPSHOTS // 2, 'each pack was looked at')
        self.m.remount()
        self.settle()
        self.assertLess(self.status()['background']['locator']['packs'], 10, 'now they are known')


if __name__ == '__main__':
    main()
