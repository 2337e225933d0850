#!/usr/bin/env python3
"""The daemon is killed at random moments of much work, again and again: nothing acknowledged is lost.

Each round: exercisers on two disks (one with all operations, one with several threads in each other's way), and fio
with verification or ext4 on a loop device; SIGKILL; sometimes another one while the next daemon recovers; then
everything is checked and the next round goes on with the same store.

VARVE_KILL_ROUNDS=300 for the long run (default 20); VARVE_TEST_SEED repeats one.
"""
import errno
import glob
import os
import random
import subprocess
import time

import harness
from exercise import READY, Exercised, why_no_exerciser
from harness import (MIB, MountTest, errno_of, main, missing, pattern, read_at, run, say, wait_for, why_no_loop_devices,
                     write_at)

ROUNDS = int(os.environ.get('VARVE_KILL_ROUNDS', '20'))
SEED = int(os.environ.get('VARVE_TEST_SEED', str(random.randrange(1_000_000))))


class Fio:
    """Writes that carry their own checksums, and what fio remembers of those that were acknowledged."""

    def __init__(self, m):
        self.m = m
        self.directory = os.path.join(m.base, 'fio')
        os.mkdir(self.directory)
        m.make_disk('fio', 16 * MIB)
        self.process = None
        self.writes = 0

    def words(self, seed, *more):
        return ['fio', '--name=kill', f'--filename={self.m.image("fio")}', '--size=16m', '--rw=randwrite', '--bs=4k',
                '--ioengine=psync', '--direct=1', f'--randseed={seed}', '--verify=crc32c', '--verify_fatal=1',
                f'--aux-path={self.directory}', *more]

    def start(self, seed):
        self.seed = seed
        before = os.stat(self.m.image('fio')).st_mtime_ns
        for old in glob.glob(os.path.join(self.directory, '*.state')):
            os.unlink(old)
        self.process = subprocess.Popen(
            self.words(seed, '--do_verify=0', '--verify_state_save=1', '--fsync=64', '--loops=1'), cwd=self.directory,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        wait_for(lambda: os.stat(self.m.image('fio')).st_mtime_ns != before, 30, 'fio')

    def wait_failed(self):
        output, _ = self.process.communicate(timeout=60)
        self.states = glob.glob(os.path.join(self.directory, '*.state'))
        if not self.states:
            say(f'fio kept no state: {output}')

    def verify(self):
        if not self.states:
            return
        done = run(*self.words(self.seed, '--verify_only', '--verify_state_load=1'), cwd=self.directory, check=False)
        if done.returncode != 0:
            raise AssertionError(f'fio: {done.stdout}{done.stderr}')
        self.writes += 1


class Ext4:
    """Files on a filesystem on a loop device; each is named when its fsync has returned."""

    def __init__(self, m):
        self.m = m
        self.image = m.make_disk('ext4', 64 * MIB)
        run('mkfs.ext4', '-q', self.image)
        self.device = self.where = None
        self.writer = None
        self.files = 0

    def start(self, seed):
        self.seed = seed
        self.device = self.m.loop(self.image, '--direct-io=on')
        self.where = self.m.mount_device(self.device)
        self.acknowledged, end = os.pipe()
        self.writer = os.fork()
        if self.writer == 0:
            self.write_files(end)
        os.close(end)

    def write_files(self, acknowledge):
        """In a process of its own: a dying filesystem must not hold up the test."""
        try:
            for i in range(1_000_000):
                path = os.path.join(self.where, f'file{i % 40}')
                with open(path + '.new', 'wb', buffering=0) as file:
                    file.write(pattern(self.seed + i, 1 + i * 7919 % 100_000))
                    os.fsync(file.fileno())
                os.rename(path + '.new', path)
                directory = os.open(self.where, os.O_RDONLY)
                os.fsync(directory)
                os.close(directory)
                os.write(acknowledge, i.to_bytes(4, 'little'))
        except OSError:
            os._exit(0)
        os._exit(1)

    def wait_failed(self):
        """EIO for who writes; a filesystem and a device that can be taken away."""
        with os.fdopen(self.acknowledged, 'rb') as pipe:
            said = pipe.read()
        _, status = os.waitpid(self.writer, 0)
        if status != 0:
            raise AssertionError('the writer on ext4 was not stopped by an error')
        self.count = len(said) // 4
        with open(self.device, 'rb', buffering=0) as device:
            got = errno_of(os.pread, device.fileno(), 4096, 40 * MIB)
        if got not in (0, errno.EIO):  # 0: of the kernel's cache
            raise AssertionError(f'reading the device of a dead daemon: {errno.errorcode[got]}')
        self.m.umount_device(self.where)
        self.m.detach(self.device)

    def verify(self):
        """Its journal is replayed, then e2fsck finds nothing to repair and every file that was synced."""
        device = self.m.loop(self.image, '--direct-io=on')
        where = self.m.mount_device(device)
        for i in range(max(0, self.count - 40), self.count):
            with open(os.path.join(where, f'file{i % 40}'), 'rb') as file:
                content = file.read()
            newer = [pattern(self.seed + i, 1 + i * 7919 % 100_000)]
            if i + 40 == self.count:  # that one may have been replaced, and nobody told
                newer.append(pattern(self.seed + i + 40, 1 + (i + 40) * 7919 % 100_000))
            if content not in newer:
                raise AssertionError(f'ext4, seed {self.seed}: file {i} of {self.count}: {len(content)} wrong bytes')
        self.files += self.count
        self.m.umount_device(where)
        self.m.detach(device)
        done = run('e2fsck', '-fn', self.image, check=False)
        if done.returncode != 0:
            raise AssertionError(f'e2fsck after round with seed {self.seed}: {done.stdout}{done.stderr}')


class Kills(MountTest):
    options = ('cache=16M',)

    def setUp(self):
        super().setUp()
        self.choose = random.Random(SEED)
        say(f'VARVE_TEST_SEED={SEED} VARVE_KILL_ROUNDS={ROUNDS}')

    def kill_recovery(self):
        """The next daemon does not live either; it is killed at some moment of opening the store or soon after."""
        with open(self.m.log, 'ab') as log:
            daemon = subprocess.Popen([harness.varve, 'mount', self.m.store, self.m.path, '-f'],
                                      stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            time.sleep(self.choose.uniform(0, 0.15))
            daemon.kill()
            daemon.wait()

    def one_round(self, exercised, others, seconds):
        working = exercised + others
        for i, each in enumerate(exercised):
            each.start(self.m.path, self.m.store, self.choose.randrange(1 << 24))
        for each in others:
            each.start(self.choose.randrange(1 << 24))
        time.sleep(seconds)
        for each in exercised:
            self.assertTrue(each.is_working(), each.name + ': ' + each.last_lines())
        self.m.kill()
        for each in working:
            each.wait_failed()
        if self.choose.random() < 0.3:
            self.kill_recovery()
        self.m.start()
        for each in exercised:
            each.verify(self.m.path, 'kill')
        for each in others:
            each.verify()
        run(harness.varve, 'check', self.m.path)

    def test_nothing_acknowledged_is_lost(self):
        exercised = [Exercised(self.m.base, 'alone'), Exercised(self.m.base, 'together', threads=4)]
        for each in exercised:
            self.addCleanup(each.stop)
            self.m.make_disk(each.name, each.capacity)
        others = [Fio(self.m), Ext4(self.m)]
        begin = time.monotonic()
        for i in range(ROUNDS):
            self.one_round(exercised, [others[i % 2]], self.choose.choice((0.05, 0.3, 0.8)) * self.choose.random() * 2)
        for each in exercised:
            say(f'disk {each.name}: {each.acknowledged} operations acknowledged, {each.snapshots} snapshots compared')
            self.assertGreater(each.acknowledged, ROUNDS)
        say(f'{ROUNDS} kills in {time.monotonic() - begin:.0f} s; {others[0].writes} checks by fio, '
            f'{others[1].files} files on ext4')


class Checker(MountTest):
    """The negative controls: whatever is not as it must be is noticed."""

    def problems(self):
        return self.disk.problems(self.m.path, 'kill')

    def prepare(self, name, threads):
        for attempt in range(20):  # some seeds end with every snapshot deleted
            self.disk = Exercised(self.m.base, f'{name}{attempt}', threads)
            image = self.m.make_disk(self.disk.name, self.disk.capacity)
            self.disk.work_through(self.m.path, self.m.store, SEED + attempt, 150)
            snapshots = sorted(set(os.listdir(self.m.disk(self.disk.name))) - {'disk.img'})
            if snapshots:
                return image, self.m.disk(self.disk.name, snapshots[-1])
        return self.fail('no work leaves a snapshot')

    def take_again(self, image, snapshot):
        """The same name, another instant."""
        os.rmdir(snapshot)
        at = os.stat(image).st_size // 2
        write_at(image, at, bytes([read_at(image, at, 1)[0] ^ 1]))
        os.mkdir(snapshot)

    def notices_everything(self, threads):
        image, snapshot = self.prepare('one', threads)
        at = os.stat(image).st_size // 2
        kept = read_at(image, at, 1)
        write_at(image, at, bytes([kept[0] ^ 1]))
        self.assertIn('live image: block', ' '.join(self.problems()), 'one bit of the live image')
        write_at(image, at, kept)

        os.mkdir(self.m.disk(self.disk.name, 'extra'))
        self.assertIn('must not be', ' '.join(self.problems()), 'a snapshot too many')
        os.rmdir(self.m.disk(self.disk.name, 'extra'))

        with open(self.disk.trace, 'r+b') as trace:
            honest = trace.read()
            for i in range(150, 200):
                trace.write(b'B 1 %d\nA 1 %d\n' % (i, i) if threads > 1 else b'B 0 %d\nA 0 %d\n' % (i, i))
        self.assertTrue(self.problems(), 'operations that were acknowledged and are lost')
        with open(self.disk.trace, 'wb') as trace:
            trace.write(honest)

        self.assertEqual(self.problems(), [], 'everything as it was')
        with open(self.disk.trace, 'wb') as trace:
            trace.write(READY)
        self.take_again(image, snapshot)
        self.assertIn(os.path.basename(snapshot) + ': block', ' '.join(self.problems()), 'an old snapshot has changed')
        os.rmdir(snapshot)
        self.assertIn('is gone', ' '.join(self.problems()), 'a snapshot too few')

        image, snapshot = self.prepare('other', threads)
        self.take_again(image, snapshot)
        self.assertIn(os.path.basename(snapshot) + ': ', ' '.join(self.problems()), 'a new snapshot of another instant')

    def test_with_one_thread(self):
        self.notices_everything(1)

    def test_with_several_threads(self):
        self.notices_everything(4)


if __name__ == '__main__':
    main(why_no_exerciser() or why_no_loop_devices() or missing('fio', 'mkfs.ext4', 'e2fsck'))
