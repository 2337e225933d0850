#!/usr/bin/env python3
"""The daemon: beginning, ending, dying, and not being held up by anybody."""
import errno
import os
import random
import signal
import subprocess
import threading
import time

import harness
from harness import (GIB, KIB, MIB, Mount, MountTest, background, errno_of, main, missing, pattern, read_at, run, say,
                     wait_for, why_no_loop_devices, write_at)


class Mounting(MountTest):
    def mount_fails(self, where, *words):
        done = run(harness.varve, 'mount', self.m.store + '2', where, '-f', check=False, timeout=20)
        self.assertNotEqual(done.returncode, 0)
        for word in words:
            self.assertIn(word, done.stderr.lower())

    def test_mistakes_are_named(self):
        run(harness.varve, 'init', self.m.store + '2')
        self.mount_fails(os.path.join(self.m.base, 'none'), 'none', 'mountpoint')
        self.mount_fails(self.m.log, 'not a directory')
        self.mount_fails(self.m.path, 'already')

    def test_unmounting_ends_it_cleanly(self):
        self.m.make_disk('d', MIB)
        write_at(self.m.image('d'), 0, b'kept')
        self.m.unmount()
        self.assertFalse(self.m.is_mounted())
        self.m.start()
        self.assertEqual(read_at(self.m.image('d'), 0, 4), b'kept')

    def test_in_the_background_it_is_ready_on_return(self):
        self.m.unmount()
        run(harness.varve, 'mount', self.m.store, self.m.path)
        try:
            os.mkdir(self.m.disk('d'))
            # Nothing of ours may be inherited from who started it.
        finally:
            self.m.umount()
        self.m.start()  # waits for the other to let go of the store
        self.assertEqual(os.listdir(self.m.path), ['d'])

    def test_a_lazy_unmount_serves_who_is_left(self):
        image = self.m.make_disk('d', MIB)
        with open(image, 'r+b', buffering=0) as file:
            run('umount', '-l', self.m.path)
            self.assertFalse(self.m.is_mounted())
            file.write(b'still here')
            self.assertEqual(os.pread(file.fileno(), 10, 0), b'still here')
            self.assertIsNone(self.m.daemon.poll())
        self.m.wait_ended()
        self.m.start()
        self.assertEqual(read_at(image, 0, 10), b'still here')

    def test_a_mount_waits_for_a_daemon_that_has_just_lost_its_own(self):
        file = open(self.m.make_disk('d', MIB), 'r+b', buffering=0)
        run('umount', '-l', self.m.path)
        release = threading.Timer(1, file.close)
        release.start()
        run(harness.varve, 'mount', self.m.store, self.m.path)
        try:
            self.assertEqual(os.listdir(self.m.path), ['d'])
        finally:
            release.join()
            self.m.umount()
        self.m.wait_ended()
        self.m.start()


class Signals(MountTest):
    def ends_on(self, number):
        self.m.make_disk('d', MIB)
        self.m.daemon.send_signal(number)
        self.m.wait_ended()
        self.assertFalse(self.m.is_mounted())

    def test_sigterm(self):
        self.ends_on(signal.SIGTERM)

    def test_sigint(self):
        self.ends_on(signal.SIGINT)

    def test_sighup(self):
        self.ends_on(signal.SIGHUP)

    def test_while_in_use_it_goes_on_serving_and_names_the_holder(self):
        image = self.m.make_disk('d', MIB)
        with open(image, 'r+b', buffering=0) as file:
            self.m.daemon.send_signal(signal.SIGTERM)
            wait_for(lambda: 'd/disk.img' in self.m.log_text(), 10, 'the holder in the log')
            self.assertIn(str(os.getpid()), self.m.log_text())
            file.write(b'written after SIGTERM')
            os.mkdir(self.m.disk('d', 's'))
            self.assertIsNone(self.m.daemon.poll())
        self.m.wait_ended()
        self.m.start()
        self.assertEqual(read_at(self.m.image('d', 's'), 0, 21), b'written after SIGTERM')

    def test_under_a_loop_device_nothing_is_lost(self):
        reason = why_no_loop_devices() or missing('mkfs.ext4')
        if reason:
            self.skipTest(reason)
        device = self.m.loop(self.m.make_disk('d', 128 * MIB), '--direct-io=on')
        run('mkfs.ext4', '-q', device)
        where = self.m.mount_device(device)
        with open(os.path.join(where, 'file'), 'wb') as file:
            file.write(pattern(1, 20 * MIB))
            self.m.daemon.send_signal(signal.SIGTERM)
            file.write(pattern(2, 20 * MIB))
        wait_for(lambda: device in self.m.log_text(), 10, 'the loop device in the log')
        time.sleep(0.5)
        self.assertIsNone(self.m.daemon.poll())
        self.m.umount_device(where)
        self.m.detach(device)
        self.m.wait_ended()
        self.m.start()
        device = self.m.loop(self.m.image('d'), '--direct-io=on')
        where = self.m.mount_device(device)
        with open(os.path.join(where, 'file'), 'rb') as file:
            self.assertEqual(file.read(), pattern(1, 20 * MIB) + pattern(2, 20 * MIB))


class Killed(MountTest):
    def test_every_acknowledged_write_is_there(self):
        image = self.m.make_disk('d', 64 * MIB)
        write_at(image, 0, pattern(1, 32 * MIB))
        os.mkdir(self.m.disk('d', 's'))
        write_at(image, 10 * MIB, pattern(2, 12 * MIB + 5))
        self.m.kill()
        self.refused(errno.ENOTCONN, os.stat, image)
        self.m.start()  # takes the dead mount away
        model = bytearray(pattern(1, 32 * MIB))
        self.assertEqual(read_at(self.m.image('d', 's'), 0, 32 * MIB), bytes(model))
        model[10 * MIB:22 * MIB + 5] = pattern(2, 12 * MIB + 5)
        self.assertEqual(read_at(image, 0, 32 * MIB), bytes(model))

    def test_again_and_again_in_the_middle_of_everything(self):
        seed = int(os.environ.get('VARVE_TEST_SEED', '1'))
        say(f'VARVE_TEST_SEED={seed}')
        choose = random.Random(seed)
        image = self.m.make_disk('d', 16 * MIB)
        model = bytearray(16 * MIB)
        snapshots = {}
        for round_number in range(6):
            unsure = None  # of an operation that the kill met, either outcome is right
            killer = threading.Timer(choose.uniform(0.1, 0.5), self.m.daemon.kill)
            killer.start()
            i = 0
            while True:
                i += 1
                at, size = choose.randrange(15 * MIB), choose.randrange(1, 300_000)
                data = choose.randbytes(size)
                unsure = ('write', at, data)
                try:
                    with open(image, 'r+b', buffering=0) as file:
                        if os.pwrite(file.fileno(), data, at) != size:
                            break  # the kill came between two requests of this write
                    model[at:at + size] = data
                    if not i % 5:
                        name = f'r{round_number}s{i}'
                        unsure = ('mkdir', name)
                        snapshots[name] = bytes(model)
                        os.mkdir(self.m.disk('d', name))
                    if not i % 17 and snapshots:
                        name = choose.choice(sorted(snapshots))
                        unsure = ('rmdir', name)
                        os.rmdir(self.m.disk('d', name))
                        del snapshots[name]
                except OSError:
                    break
            killer.join()
            self.m.daemon.wait()
            self.m.start()
            there = set(os.listdir(self.m.disk('d'))) - {'disk.img'}
            if unsure[0] in ('mkdir', 'rmdir') and unsure[1] not in there:
                snapshots.pop(unsure[1], None)
            self.assertEqual(there, set(snapshots), f'round {round_number}, {unsure[:2]}')
            content = bytearray(read_at(image, 0, 16 * MIB))
            if unsure[0] == 'write':  # in pieces that are old or new
                begin, end = unsure[1], unsure[1] + len(unsure[2])
                for at in range(begin - begin % 4096, end, 4096):
                    piece = slice(max(at, begin), min(at + 4096, end))
                    new = unsure[2][piece.start - begin:piece.stop - begin]
                    self.assertIn(bytes(content[piece]), (bytes(model[piece]), new), f'at {at}')
                model[begin:end] = content[begin:end]
            self.assertEqual(bytes(content), bytes(model), f'round {round_number}')
            for name, expected in snapshots.items():
                self.assertEqual(read_at(self.m.image('d', name), 0, 16 * MIB), expected, name)


def read_at_random(stop, path, size):
    fd = os.open(path, os.O_RDONLY)
    while not stop.is_set():
        at = random.randrange(size // 4096) * 4096
        os.posix_fadvise(fd, at, 4096, os.POSIX_FADV_DONTNEED)
        os.pread(fd, 4096, at)
    os.close(fd)


def compute(stop):
    while not stop.is_set():
        sum(range(10_000))


def read_and_compare(stop, path, expected):
    while not stop.is_set():
        try:
            fd = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            continue  # it is being renamed
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            if os.pread(fd, len(expected), 0) != expected:
                raise AssertionError(f'{path}: wrong bytes')
        finally:
            os.close(fd)


def stat_everything(stop, root):
    while not stop.is_set():
        for directory, _, files in os.walk(root):
            for name in files:
                errno_of(os.stat, os.path.join(directory, name))


class Together(MountTest):
    options = ('cache=8M',)

    def test_slow_readers_of_a_snapshot_hold_up_nobody_else(self):
        image = self.m.make_disk('read', 256 * MIB)
        write_at(image, 0, pattern(1, 256 * MIB))
        os.mkdir(self.m.disk('read', 's'))
        self.wait_complete(self.m.disk('read', 's'))
        other = self.m.make_disk('written', 64 * MIB)

        def writes_per_second(seconds=1.5):
            count, end = 0, time.monotonic() + seconds
            with open(other, 'r+b', buffering=0) as file:
                while time.monotonic() < end:
                    os.pwrite(file.fileno(), b'x' * 4096, (count % 16384) * 4096)
                    count += 1
            return count / seconds
        # They share the processors, but not the threads: as many programs that only compute are the measure.
        with background(compute, processes=24):
            beside_programs = writes_per_second()
        with background(read_at_random, self.m.image('read', 's'), 256 * MIB, processes=24):
            time.sleep(0.5)
            together = writes_per_second()
            begin = time.monotonic()
            os.mkdir(self.m.disk('written', 's'))
            mkdir_seconds = time.monotonic() - begin
        say(f'{beside_programs:.0f} writes/s beside 24 programs, {together:.0f} beside 24 readers; '
            f'mkdir {mkdir_seconds * 1000:.0f} ms')
        self.assertGreater(together, beside_programs / 8)
        self.assertLess(mkdir_seconds, 3)

    def test_renames_and_deletes_while_images_are_read(self):
        expected = pattern(4, 8 * MIB)
        write_at(self.m.make_disk('a', 8 * MIB), 0, expected)
        for i in range(12):
            os.mkdir(self.m.disk('a', f's{i}'))
        with background(read_and_compare, self.m.image('a', 's0'), expected), \
                background(read_and_compare, self.m.image('b', 's1'), expected), \
                background(stat_everything, self.m.path):
            for i in range(15):
                os.rename(self.m.disk('a'), self.m.disk('b'))
                os.rename(self.m.disk('b', 's2'), self.m.disk('b', 'two'))
                os.rename(self.m.disk('b', 'two'), self.m.disk('b', 's2'))
                if i > 5:
                    os.rmdir(self.m.disk('b', f's{i - 3}'))
                os.rename(self.m.disk('b'), self.m.disk('a'))
        left = {'disk.img'} | {f's{i}' for i in range(12)} - {f's{i - 3}' for i in range(6, 15)}
        self.assertEqual(set(os.listdir(self.m.disk('a'))), left)

    def test_notifications_of_changes_by_commands_reach_the_kernel(self):
        image = self.m.make_disk('d', 8 * MIB)
        write_at(image, 0, pattern(1, 8 * MIB))
        os.mkdir(self.m.disk('d', 's'))
        self.wait_complete(self.m.disk('d', 's'))
        with background(stat_everything, self.m.path), background(read_at_random, self.m.image('d', 's'), 8 * MIB):
            for i in range(10):
                write_at(image, i * 1000, b'changed' * 100)
                with open(image, 'rb') as reader:  # has the old content cached
                    self.assertEqual(reader.read(), read_at(image, 0, 8 * MIB))
                    done = run(harness.varve, '--store', self.m.store, 'restore', 'd@s', check=False)
                    if done.returncode != 0:
                        done = run(harness.varve, 'restore', self.m.disk('d', 's'))
                    self.assertEqual(os.pread(reader.fileno(), 8 * MIB, 0), pattern(1, 8 * MIB), f'round {i}')
                self.assertEqual(read_at(image, 0, 8 * MIB), pattern(1, 8 * MIB), f'round {i}')
                self.assertEqual(os.stat(image).st_size, 8 * MIB)
                self.assertEqual(errno_of(os.stat, self.m.disk(f'clone{i}')), errno.ENOENT)
                run(harness.varve, 'clone', self.m.disk('d', 's'), f'clone{i}')
                self.assertEqual(read_at(self.m.image(f'clone{i}'), 0, 8 * MIB), pattern(1, 8 * MIB))
                self.assertIn(f'clone{i}', os.listdir(self.m.path))


if __name__ == '__main__':
    main()
