#!/usr/bin/env python3
"""Restoring, cloning and backing up with the tools that people have."""
import errno
import os
import re
import subprocess
import time

from harness import GIB, KIB, MIB, MountTest, main, needs, pattern, read_at, run, same_content, say, write_at


class Copies(MountTest):
    def setUp(self):
        super().setUp()
        self.data = pattern(7, 3 * MIB + 777)
        self.image = self.m.make_disk('d', 64 * MIB)
        write_at(self.image, 5 * MIB + 123, self.data)
        self.expected = os.path.join(self.m.base, 'expected')
        run('cp', '--sparse=never', self.image, self.expected)
        os.setxattr(self.image, 'user.note', b'kept')
        os.chmod(self.image, 0o640)
        os.mkdir(self.m.disk('d', 's'))
        self.wait_complete(self.m.disk('d', 's'))
        self.snapshot = self.m.image('d', 's')
        write_at(self.image, 5 * MIB, b'later' * 1000)

    def check_restored(self, image=None):
        image = image or self.image
        self.assertTrue(same_content(image, self.expected), image)
        # Nothing of it only looked right in the kernel's cache.
        self.m.remount()
        self.assertTrue(same_content(image, self.expected), image)
        self.assertTrue(same_content(self.snapshot, self.expected))

    def test_cp_restores(self):
        run('cp', self.snapshot, self.image)
        self.check_restored()

    def test_cp_of_a_pending_snapshot_restores(self):
        write_at(self.image, 0, pattern(8, 32 * MIB))
        run('cp', self.image, self.expected)
        os.mkdir(self.m.disk('d', 'pending'))
        write_at(self.image, 0, pattern(9, MIB))
        run('cp', self.m.image('d', 'pending'), self.image)
        self.assertTrue(same_content(self.image, self.expected))

    def test_cp_shares_instead_of_copying(self):
        big = self.m.make_disk('big', 20 * GIB)
        write_at(big, 7 * GIB, self.data)
        write_at(big, 15 * GIB + 1, self.data)
        os.mkdir(self.m.disk('big', 's'))
        self.wait_complete(self.m.disk('big', 's'))
        write_at(big, 7 * GIB, b'x' * MIB)
        begin = time.monotonic()
        run('cp', self.m.image('big', 's'), big)
        seconds = time.monotonic() - begin
        say(f'cp of 20 GiB: {seconds:.2f} s')
        self.assertLess(seconds, 10)
        self.assertEqual(os.stat(big).st_size, 20 * GIB)
        self.assertEqual(read_at(big, 7 * GIB, len(self.data)), self.data)
        self.assertEqual(read_at(big, 15 * GIB + 1, len(self.data)), self.data)
        self.assertEqual(read_at(big, 7 * GIB + len(self.data), MIB), bytes(MIB))

    def test_dd_restores(self):
        run('dd', f'if={self.snapshot}', f'of={self.image}', 'bs=1M', 'status=none')
        self.check_restored()

    def test_dd_without_zeros_restores(self):
        # conv=sparse seeks over zeros, so the file must be cut first, as dd does without conv=notrunc.
        run('dd', f'if={self.snapshot}', f'of={self.image}', 'bs=64k', 'conv=sparse', 'status=none')
        self.check_restored()

    def test_dd_direct_restores(self):
        run('dd', f'if={self.snapshot}', f'of={self.image}', 'bs=1M', 'iflag=direct', 'oflag=direct', 'conv=notrunc',
            'status=none')
        self.check_restored()

    def test_cp_r_makes_a_disk_of_a_snapshot(self):
        run('cp', '-r', self.m.disk('d', 's'), self.m.disk('new'))
        self.check_restored(self.m.image('new'))
        self.assertEqual(os.listdir(self.m.disk('new')), ['disk.img'])

    def test_cp_rT_into_an_existing_disk(self):
        os.mkdir(self.m.disk('new'))
        run('cp', '-rT', self.m.disk('d', 's'), self.m.disk('new'))
        self.check_restored(self.m.image('new'))

    def test_cp_a_keeps_what_it_can(self):
        os.setxattr(self.m.disk('d', 's'), 'user.why', b'test')
        done = run('cp', '-a', self.m.disk('d', 's'), self.m.disk('new'))
        self.assertEqual(done.stderr, '')
        self.assertEqual(os.getxattr(self.m.image('new'), 'user.note'), b'kept')
        self.assertEqual(os.getxattr(self.m.disk('new'), 'user.why'), b'test')
        self.assertEqual(os.stat(self.m.image('new')).st_mode & 0o777, 0o640)
        self.assertEqual(os.stat(self.m.image('new')).st_mtime_ns, os.stat(self.snapshot).st_mtime_ns)
        self.check_restored(self.m.image('new'))

    def test_cp_preserve_all(self):
        done = run('cp', '--preserve=all', self.snapshot, self.image)
        self.assertEqual(done.stderr, '')
        self.assertEqual(os.stat(self.image).st_mtime_ns, os.stat(self.snapshot).st_mtime_ns)
        self.check_restored()

    @needs('rsync')
    def test_rsync_both_ways(self):
        backup = os.path.join(self.m.base, 'backup')
        os.mkdir(backup)
        run('rsync', '-aX', self.snapshot, backup)
        self.assertTrue(same_content(os.path.join(backup, 'disk.img'), self.expected))
        self.assertEqual(os.getxattr(os.path.join(backup, 'disk.img'), 'user.note'), b'kept')
        run('rsync', '-aX', '--inplace', '--no-whole-file', '--ignore-times', os.path.join(backup, 'disk.img'), self.m.disk('d') + '/')
        self.check_restored()

    @needs('tar')
    def test_tar(self):
        archive = os.path.join(self.m.base, 'archive.tar')
        run('tar', '-C', self.m.disk('d', 's'), '-S', '-cf', archive, 'disk.img')
        os.mkdir(self.m.disk('new'))
        run('tar', '-C', self.m.disk('new'), '--overwrite', '-xf', archive)
        self.check_restored(self.m.image('new'))

    def test_mv_to_another_disk_is_refused_and_takes_no_snapshot(self):
        self.m.make_disk('other', MIB)
        done = run('mv', self.m.disk('d', 's'), self.m.disk('other'), check=False)
        self.assertNotEqual(done.returncode, 0)
        self.assertEqual(os.listdir(self.m.disk('other')), ['disk.img'])
        self.assertEqual(sorted(os.listdir(self.m.disk('d'))), ['disk.img', 's'])

    @needs('qemu-img')
    def test_qemu_img(self):
        self.assertIn('identical', run('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', self.snapshot,
                                       self.expected).stdout)
        os.mkdir(self.m.disk('new'))
        run('qemu-img', 'convert', '-f', 'raw', '-O', 'raw', '-t', 'none', '-T', 'none', self.snapshot,
            self.m.image('new'))
        run('qemu-img', 'convert', '-n', '-f', 'raw', '-O', 'raw', self.snapshot, self.image)
        self.check_restored(self.m.image('new'))
        self.assertTrue(same_content(self.image, self.expected))

    def test_a_copy_within_one_image(self):
        with open(self.image, 'r+b', buffering=0) as image:
            left, source, target = 4 * MIB, 5 * MIB, 40 * MIB
            want = read_at(self.image, source, left)
            self.assertNotEqual(read_at(self.image, target, left), want)  # now it is in the kernel's cache
            while left:
                done = os.copy_file_range(image.fileno(), image.fileno(), left, source, target)
                self.assertGreater(done, 0)
                left, source, target = left - done, source + done, target + done
            self.assertEqual(read_at(self.image, 40 * MIB, 4 * MIB), want)
            self.refused(errno.EINVAL, os.copy_file_range, image.fileno(), image.fileno(), MIB, 0, 512 * KIB)

    def test_an_image_in_use_is_not_cut(self):
        with open(self.image, 'r+b'):
            done = run('cp', self.snapshot, self.image, check=False)
            self.assertNotEqual(done.returncode, 0)
            self.assertTrue(re.search('busy', done.stderr, re.IGNORECASE), done.stderr)
            # Within it one may write, as dd does to a device.
            run('dd', f'if={self.snapshot}', f'of={self.image}', 'bs=1M', 'conv=notrunc', 'status=none')
            self.assertTrue(same_content(self.image, self.expected))
            with open(self.image, 'r+b') as second:
                self.refused(errno.EBUSY, second.truncate, MIB)
                second.truncate(65 * MIB)
                second.truncate(65 * MIB)
        os.truncate(self.image, MIB)
        self.assertEqual(os.stat(self.image).st_size, MIB)

    def test_late_releases_do_not_matter(self):
        # RELEASE is sent after close(2) has returned: two cp in a row meet the first one's.
        for i in range(100):
            done = subprocess.run(['cp', self.snapshot, self.image], stderr=subprocess.PIPE, text=True, check=False)
            self.assertEqual(done.returncode, 0, f'round {i}: {done.stderr}')
        for i in range(50):
            with open(self.image, 'r+b') as image:
                image.write(b'x')
            os.truncate(self.image, 0)
            os.mkdir(self.m.disk('d', f'r{i}'))
            with open(self.m.image('d', f'r{i}'), 'rb') as image:
                image.read(1)
            os.rmdir(self.m.disk('d', f'r{i}'))


class RealBlocks(MountTest):
    options = ('real_blocks',)

    def test_backup_tools_find_the_holes(self):
        image = self.m.make_disk('d', GIB)
        write_at(image, 100 * MIB, pattern(1, MIB))
        os.mkdir(self.m.disk('d', 's'))
        self.wait_complete(self.m.disk('d', 's'))
        snapshot = self.m.image('d', 's')
        self.assertLess(os.stat(snapshot).st_blocks * 512, 2 * MIB)
        self.assertGreaterEqual(os.stat(snapshot).st_blocks * 512, MIB)
        self.m.remount()
        run('ls', '-l', self.m.disk('d', 's'))
        self.assertLess(os.stat(snapshot).st_blocks * 512, 2 * MIB)
        backup = os.path.join(self.m.base, 'backup')
        begin = time.monotonic()
        run('cp', snapshot, backup)
        self.assertLess(time.monotonic() - begin, 5)
        self.assertLess(os.stat(backup).st_blocks * 512, 8 * MIB)
        self.assertEqual(read_at(backup, 100 * MIB, MIB), pattern(1, MIB))


if __name__ == '__main__':
    main()
