#!/usr/bin/env python3
"""A store on a real filesystem that is 100 % full: deleting works and frees space, nothing else is harmed, all goes on."""
import errno
import os
import shutil
import tempfile

from harness import MIB, Mount, MountTest, main, needs, pattern, read_at, run, say, wait_for, why_no_loop_devices
import harness

SIZE = 224 * MIB
BLOCK = 4096


@needs('mkfs.ext4')
class FullFilesystem(MountTest):
    def setUp(self):
        self.outside = tempfile.mkdtemp(prefix='varve-full-', dir=os.environ.get('VARVE_TEST_DIR', '/var/tmp'))
        self.addCleanup(shutil.rmtree, self.outside, True)
        file = os.path.join(self.outside, 'ext4')
        with open(file, 'wb') as image:
            image.truncate(SIZE)
        # Nothing is kept for root: the daemon is root here.
        run('mkfs.ext4', '-q', '-m', '0', file)
        self.filesystem = os.path.join(self.outside, 'mnt')
        os.mkdir(self.filesystem)
        device = run('losetup', '-f', '--show', file).stdout.strip()
        self.addCleanup(run, 'losetup', '-d', device)
        run('mount', device, self.filesystem)
        self.addCleanup(run, 'umount', self.filesystem)
        # Nor for itself.
        with open(f'/sys/fs/ext4/{os.path.basename(device)}/reserved_clusters', 'w', encoding='ascii') as reserved:
            reserved.write('0')
        self.m = Mount(store_in=self.filesystem)
        self.addCleanup(self.close_mount)

    def free(self):
        state = os.statvfs(self.filesystem)
        return state.f_bfree * state.f_frsize

    def fill_up(self):
        """To the last block, and all that the store puts back a moment later."""
        def full():
            fd = os.open(os.path.join(self.filesystem, 'filler'), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            try:
                for size in (MIB, 64 * 1024, BLOCK):
                    try:
                        while True:
                            os.write(fd, b'x' * size)
                    except OSError as error:
                        self.assertEqual(error.errno, errno.ENOSPC)
                    os.fsync(fd)
            finally:
                os.close(fd)
            return self.free() < 64 * 1024
        wait_for(full, 20, 'a full filesystem')

    def collect(self):
        run(harness.varve, 'collect', self.m.store)

    def write(self, disk, at, data):
        with open(self.m.image(disk), 'r+b') as image:
            image.seek(at)
            image.write(data)
            image.flush()
            os.fsync(image.fileno())

    def snapshot(self, disk, name, data):
        """Of an image that is made of nothing but `data`: its packs are its own."""
        self.write(disk, 0, data)
        os.mkdir(self.m.disk(disk, name))
        self.wait_complete(self.m.disk(disk, name))

    def prepare(self):
        """a: two snapshots that have nothing in common; b: one."""
        self.first, self.second, self.other = pattern(1, 24 * MIB), pattern(2, 24 * MIB), pattern(3, 8 * MIB)
        self.m.make_disk('a', 24 * MIB)
        self.m.make_disk('b', 8 * MIB)
        self.snapshot('a', 's1', self.first)
        self.snapshot('a', 's2', self.second)
        self.snapshot('b', 't1', self.other)

    def holds(self, path, data):
        self.assertTrue(read_at(path, 0, len(data) + 1) == data, path)

    def everything_else_is_exact(self):
        self.holds(self.m.image('a'), self.second)
        self.holds(self.m.image('a', 's2'), self.second)
        self.holds(self.m.image('b', 't1'), self.other)

    def all_goes_on(self):
        self.write('a', MIB, pattern(4, MIB))
        self.second = self.second[:MIB] + pattern(4, MIB) + self.second[2 * MIB:]
        os.mkdir(self.m.disk('a', 'afterwards'))
        self.wait_complete(self.m.disk('a', 'afterwards'))
        self.holds(self.m.image('a', 'afterwards'), self.second)
        checked = run(harness.varve, 'check', self.m.store, check=False)
        self.assertEqual(checked.returncode, 0, checked.stdout + checked.stderr)

    def test_rmdir_and_collect_free_space(self):
        self.prepare()
        self.fill_up()
        os.rmdir(self.m.disk('a', 's1'))
        self.everything_else_is_exact()
        # The daemon may have begun by itself.
        self.collect()
        self.assertGreater(self.free(), 20 * MIB)
        self.all_goes_on()

    def test_so_they_do_after_a_kill_and_a_mount_on_it(self):
        self.prepare()
        self.fill_up()
        self.m.kill()
        run('umount', '-l', self.m.path)
        self.fill_up()
        self.m.start()
        os.rmdir(self.m.disk('a', 's1'))
        self.everything_else_is_exact()
        self.collect()
        self.assertGreater(self.free(), 20 * MIB)
        self.all_goes_on()

    def test_a_write_that_needs_space_fails_alone(self):
        """In place is room; a detour, for what a pending snapshot still needs, has none."""
        self.prepare()
        os.mkdir(self.m.disk('b', 'x'))  # nothing of it is new, and its commit may be done or not
        self.fill_up()
        self.write('a', 0, self.second[:MIB])
        refused = 0
        new = pattern(5, 8 * MIB)
        after = self.second[:4 * MIB] + new + self.second[12 * MIB:]
        for name in ('y', 'z'):
            try:
                os.mkdir(self.m.disk('a', name))
            except OSError as error:
                self.assertEqual(error.errno, errno.ENOSPC)
                refused += 1
                continue
            try:
                # New bytes over what that snapshot has not got into packs.
                self.write('a', 4 * MIB, new)
                self.second = after
            except OSError as error:
                self.assertEqual(error.errno, errno.ENOSPC)
                refused += 1
                live = read_at(self.m.image('a'), 0, 24 * MIB)
                for at in range(0, 24 * MIB, BLOCK):
                    self.assertTrue(live[at:at + BLOCK] in (self.second[at:at + BLOCK], after[at:at + BLOCK]), at)
                self.second = live
        say(f'{refused} refusals on a full store')
        self.holds(self.m.image('b', 't1'), self.other)
        os.rmdir(self.m.disk('a', 's1'))
        self.collect()
        self.holds(self.m.image('a'), self.second)
        self.all_goes_on()

    def test_a_whole_disk_can_go(self):
        self.prepare()
        self.fill_up()
        os.unlink(self.m.image('b'))
        os.rmdir(self.m.disk('b', 't1'))
        os.rmdir(self.m.disk('b'))
        self.assertFalse(os.path.exists(self.m.disk('b')))
        self.holds(self.m.image('a', 's1'), self.first)
        self.holds(self.m.image('a', 's2'), self.second)
        self.collect()
        wait_for(lambda: self.free() > 12 * MIB, 30, 'the space of the disk')
        self.all_goes_on()


if __name__ == '__main__':
    main(why_no_loop_devices())
