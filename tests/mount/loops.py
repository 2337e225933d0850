#!/usr/bin/env python3
"""Filesystems on loop devices on live images: in use while snapshots are taken, whole in every snapshot.

The long run of test_many_snapshots_under_load: VARVE_LOOP_GIB=4 VARVE_LOOP_SNAPSHOTS=50, fifteen minutes.
"""
import hashlib
import os
import random
import shutil
import time

from harness import GIB, MIB, MountTest, background, main, needs, pattern, read_at, run, say, wait_for, why_no_loop_devices

SIZE = int(float(os.environ.get('VARVE_LOOP_GIB', '0.25')) * GIB)
SNAPSHOTS = int(os.environ.get('VARVE_LOOP_SNAPSHOTS', '10'))
SEED = int(os.environ.get('VARVE_TEST_SEED', str(random.randrange(1_000_000))))


def content_of(path):
    """A digest of all data and where it is; holes are skipped, and blocks of zeros count as holes."""
    digest = hashlib.blake2b()
    with open(path, 'rb') as image:
        end = image.seek(0, os.SEEK_END)
        at = 0
        while at < end:
            try:
                at = os.lseek(image.fileno(), at, os.SEEK_DATA)
            except OSError:  # ENXIO: zeros to the end
                break
            until = os.lseek(image.fileno(), at, os.SEEK_HOLE)
            at -= at % MIB  # where data begins and ends may be told more or less finely
            while at < until:
                image.seek(at)
                piece = image.read(MIB)
                if piece.count(0) != len(piece):
                    digest.update(b'%d:' % at + piece)
                at += len(piece)
    return digest.hexdigest()


def keep_changing(stop, directory, largest=200_000):
    """Files come, grow and go, and are synced now and then."""
    i = 0
    while not stop.is_set():
        path = os.path.join(directory, f'file{i % 50}')
        with open(path, 'wb') as file:
            file.write(pattern(i, 1000 + (i * 7919) % largest))
            if not i % 10:
                os.fsync(file.fileno())
        if not i % 3 and os.path.exists(os.path.join(directory, f'file{(i * 7) % 50}')):
            os.unlink(os.path.join(directory, f'file{(i * 7) % 50}'))
        i += 1


def kernel_has(filesystem):
    with open('/proc/filesystems', encoding='utf-8') as known:
        return filesystem in known.read() or run('modprobe', filesystem, check=False).returncode == 0


class Filesystems(MountTest):
    def prepare(self, make, size):
        image = self.m.make_disk('d', size)
        device = self.m.loop(image, '--direct-io=on')
        run(*make, device)
        return device

    def snapshots_in_use(self, where, count=3):
        with background(keep_changing, where):
            for i in range(count):
                time.sleep(0.4)
                os.mkdir(self.m.disk('d', f'crash{i}'))
            with open(os.path.join(where, 'marker'), 'w', encoding='utf-8') as file:
                file.write('frozen')
            run('fsfreeze', '--freeze', where)
            try:
                os.mkdir(self.m.disk('d', 'frozen'))
            finally:
                run('fsfreeze', '--unfreeze', where)
            time.sleep(0.2)

    @needs('mkfs.ext4', 'e2fsck', 'fsfreeze')
    def test_ext4(self):
        device = self.prepare(('mkfs.ext4', '-q'), 256 * MIB)
        where = self.m.mount_device(device)
        self.snapshots_in_use(where)
        # A frozen filesystem is clean but for the journal it may replay; e2fsck -n must find nothing to repair.
        done = run('e2fsck', '-fn', self.m.image('d', 'frozen'), check=False)
        self.assertIn(done.returncode, (0,), done.stdout)
        frozen = self.m.loop(self.m.image('d', 'frozen'), '-r')
        there = self.m.mount_device(frozen, '-o', 'ro,noload')
        with open(os.path.join(there, 'marker'), encoding='utf-8') as file:
            self.assertEqual(file.read(), 'frozen')
        self.m.umount_device(there)
        self.m.detach(frozen)
        # One that was not frozen is as after a power cut: its journal makes it whole.
        for i in range(3):
            shutil.copytree(self.m.disk('d', f'crash{i}'), self.m.disk(f'check{i}'))
            run('e2fsck', '-p', self.m.image(f'check{i}'), check=False)
            done = run('e2fsck', '-fn', self.m.image(f'check{i}'), check=False)
            self.assertEqual(done.returncode, 0, done.stdout)
        self.m.umount_device(where)
        self.m.detach(device)
        self.assertEqual(run('e2fsck', '-fn', self.m.image('d'), check=False).returncode, 0)

    @needs('mkfs.ext4', 'e2fsck', 'fsfreeze')
    def test_many_snapshots_under_load(self):
        """Each is byte-stable from mkdir on, clean when it was frozen, and indifferent to the deletion of others."""
        say(f'seed {SEED}, {SIZE >> 20} MiB, {SNAPSHOTS} snapshots')
        dice = random.Random(SEED)
        device = self.prepare(('mkfs.ext4', '-q'), SIZE)
        where = self.m.mount_device(device)
        with open(os.path.join(where, 'fill'), 'wb') as file:
            file.write(pattern(SEED, SIZE // 8))
        content = {}
        with background(keep_changing, where, SIZE // 1000):
            for i in range(SNAPSHOTS):
                frozen = i % 2 == 0
                if frozen:
                    run('fsfreeze', '--freeze', where)
                try:
                    os.mkdir(self.m.disk('d', f's{i}'))
                finally:
                    if frozen:
                        run('fsfreeze', '--unfreeze', where)
                content[i] = content_of(self.m.image('d', f's{i}'))  # most likely still pending
                if frozen:
                    done = run('e2fsck', '-fn', self.m.image('d', f's{i}'), check=False)
                    self.assertEqual(done.returncode, 0, f'snapshot {i}: {done.stdout}')
                    reader = self.m.loop(self.m.image('d', f's{i}'), '-r')
                    there = self.m.mount_device(reader, '-o', 'ro,noload')
                    self.assertGreater(len(os.listdir(there)), 1)
                    self.m.umount_device(there)
                    self.m.detach(reader)
            self.assertGreater(len(set(content.values())), SNAPSHOTS // 2, 'the load changed nothing')
            gone = dice.sample(sorted(content), SNAPSHOTS // 2)
            for i in gone:
                os.rmdir(self.m.disk('d', f's{i}'))
        for i in sorted(set(content) - set(gone)):
            self.assertEqual(content_of(self.m.image('d', f's{i}')), content[i], f'snapshot {i}')
        self.m.umount_device(where)
        self.m.detach(device)
        self.m.remount()
        for i in sorted(set(content) - set(gone)):
            self.assertEqual(content_of(self.m.image('d', f's{i}')), content[i], f'snapshot {i} after a remount')
        self.assertEqual(sorted(os.listdir(self.m.disk('d'))),
                         sorted(['disk.img'] + [f's{i}' for i in set(content) - set(gone)]))

    @needs('mkfs.xfs', 'xfs_repair', 'fsfreeze')
    def test_xfs(self):
        if not kernel_has('xfs'):
            self.skipTest('this kernel has no xfs')
        device = self.prepare(('mkfs.xfs', '-q'), 320 * MIB)
        where = self.m.mount_device(device)
        self.snapshots_in_use(where)
        self.m.umount_device(where)
        self.m.detach(device)
        for name in ('crash0', 'frozen'):
            shutil.copytree(self.m.disk('d', name), self.m.disk(name))
            copy = self.m.loop(self.m.image(name), '--direct-io=on')
            self.m.umount_device(self.m.mount_device(copy, '-o', 'nouuid'))  # replays the log
            self.m.detach(copy)
            run('xfs_repair', '-n', self.m.image(name))
        run('xfs_repair', '-n', self.m.image('d'))

    @needs('mkfs.btrfs', 'btrfs')
    def test_btrfs(self):
        if not kernel_has('btrfs'):
            self.skipTest('this kernel has no btrfs')
        device = self.prepare(('mkfs.btrfs', '-q'), 320 * MIB)
        where = self.m.mount_device(device)
        self.snapshots_in_use(where)
        self.m.umount_device(where)
        self.m.detach(device)
        for name in ('crash0', 'frozen'):
            run('btrfs', 'check', self.m.image('d', name))

    @needs('mkfs.ext4', 'fstrim')
    def test_fstrim_gives_space_back(self):
        device = self.prepare(('mkfs.ext4', '-q'), 256 * MIB)
        where = self.m.mount_device(device)
        for i in range(10):
            with open(os.path.join(where, f'f{i}'), 'wb') as file:
                file.write(pattern(i, 8 * MIB))
        os.sync()
        full = os.stat(self.m.image('d')).st_blocks
        for i in range(9):
            os.unlink(os.path.join(where, f'f{i}'))
        os.sync()
        run('fstrim', where)
        wait_for(lambda: os.stat(self.m.image('d')).st_blocks < full / 2, 20, 'space given back')
        with open(os.path.join(where, 'f9'), 'rb') as file:
            self.assertEqual(file.read(), pattern(9, 8 * MIB))

    @needs('mkfs.ext4', 'resize2fs')
    def test_growing_in_use(self):
        device = self.prepare(('mkfs.ext4', '-q'), 64 * MIB)
        where = self.m.mount_device(device)
        os.truncate(self.m.image('d'), 256 * MIB)
        run('losetup', '-c', device)
        self.assertEqual(int(run('blockdev', '--getsize64', device).stdout), 256 * MIB)
        # Not while it is mounted: that takes CAP_SYS_RESOURCE, which root has not in every container.
        self.m.umount_device(where)
        run('e2fsck', '-fp', device)
        run('resize2fs', device)
        where = self.m.mount_device(device)
        self.assertGreater(os.statvfs(where).f_blocks * os.statvfs(where).f_frsize, 200 * MIB)

    @needs('mkfs.ext4')
    def test_a_buffered_loop_works_too(self):
        image = self.m.make_disk('d', 64 * MIB)
        device = self.m.loop(image)
        run('mkfs.ext4', '-q', device)
        where = self.m.mount_device(device)
        with open(os.path.join(where, 'file'), 'wb') as file:
            file.write(pattern(1, 5 * MIB))
        self.m.umount_device(where)
        os.mkdir(self.m.disk('d', 's'))
        self.assertEqual(run('e2fsck', '-fn', self.m.image('d', 's'), check=False).returncode, 0)

    def test_snapshots_on_loops_are_read_only_and_exact(self):
        image = self.m.make_disk('d', 8 * MIB)
        with open(image, 'r+b') as file:
            file.write(pattern(3, 8 * MIB))
        os.mkdir(self.m.disk('d', 's'))
        device = self.m.loop(self.m.image('d', 's'), '-r', '--direct-io=on')
        self.assertEqual(read_at(device, 0, 8 * MIB), pattern(3, 8 * MIB))


if __name__ == '__main__':
    main(why_no_loop_devices())
