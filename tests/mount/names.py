#!/usr/bin/env python3
"""What has names in a mount: disks, images, snapshots, attributes. DESIGN.md, section 2."""
import errno
import json
import os
import stat
import subprocess
import time

import harness
from harness import MIB, MountTest, errno_of, main, needs, pattern, read_at, run, write_at


def entries(path):
    return sorted(os.listdir(path))


class Disks(MountTest):
    def test_a_disk_is_a_directory(self):
        os.mkdir(self.m.disk('web01'), 0o750)
        status = os.stat(self.m.disk('web01'))
        self.assertEqual(stat.S_IMODE(status.st_mode), 0o750)
        self.assertEqual((status.st_uid, status.st_gid), (os.getuid(), os.getgid()))
        self.assertEqual(entries(self.m.path), ['web01'])
        self.assertEqual(entries(self.m.disk('web01')), [])
        self.assertEqual(os.stat(self.m.path).st_nlink, 3)
        os.rmdir(self.m.disk('web01'))
        self.assertEqual(entries(self.m.path), [])

    def test_names_that_are_refused_say_why(self):
        for name in ('.hidden', 'disk.img', 'line\nbreak', b'latin-\xe9'.decode('utf-8', 'surrogateescape')):
            self.refused(errno.EINVAL, os.mkdir, self.m.disk(name))
            self.assertTrue(os.getxattr(self.m.path, 'user.varve.error'))
        self.refused(errno.ENAMETOOLONG, os.mkdir, self.m.disk('x' * 241))
        os.mkdir(self.m.disk('x' * 240))
        os.mkdir(self.m.disk('grüße'))
        self.refused(errno.EEXIST, os.mkdir, self.m.disk('grüße'))
        self.refused(errno.EPERM, open, self.m.disk('file'), 'w')
        self.assertIn(b'mkdir', os.getxattr(self.m.path, 'user.varve.error'))

    def test_only_an_empty_disk_goes(self):
        self.m.make_disk('d', MIB)
        self.refused(errno.ENOTEMPTY, os.rmdir, self.m.disk('d'))
        os.mkdir(self.m.disk('d', 's'))
        os.unlink(self.m.image('d'))
        self.refused(errno.ENOTEMPTY, os.rmdir, self.m.disk('d'))
        os.rmdir(self.m.disk('d', 's'))
        os.rmdir(self.m.disk('d'))

    def test_renaming(self):
        self.m.make_disk('a', MIB)
        os.mkdir(self.m.disk('a', 'one'))
        os.mkdir(self.m.disk('a', 'two'))
        os.mkdir(self.m.disk('b'))
        inode = os.stat(self.m.image('a')).st_ino
        self.refused(errno.EEXIST, os.rename, self.m.disk('a'), self.m.disk('b'))
        os.rename(self.m.disk('a'), self.m.disk('c'))
        self.assertEqual(entries(self.m.path), ['b', 'c'])
        self.assertEqual(os.stat(self.m.image('c')).st_ino, inode)
        self.refused(errno.EEXIST, os.rename, self.m.disk('c', 'one'), self.m.disk('c', 'two'))
        os.rename(self.m.disk('c', 'one'), self.m.disk('c', 'first'))
        self.assertEqual(entries(self.m.disk('c')), ['disk.img', 'first', 'two'])
        # Not EXDEV: mv would then copy, and its mkdir would take a snapshot of the wrong disk.
        self.refused(errno.EPERM, os.rename, self.m.disk('c', 'first'), self.m.disk('b', 'first'))
        self.refused(errno.EPERM, os.rename, self.m.disk('c', 'first'), self.m.disk('first'))
        self.refused(errno.EPERM, os.rename, self.m.disk('b'), self.m.disk('c', 'b'))
        self.refused(errno.EPERM, os.rename, self.m.image('c'), self.m.disk('c', 'other.img'))
        self.refused(errno.EPERM, os.rename, self.m.image('c'), self.m.image('b'))
        done = run('mv', self.m.disk('c', 'two'), self.m.disk('b'), check=False)
        self.assertNotEqual(done.returncode, 0)
        self.assertEqual(entries(self.m.disk('b')), [])
        self.m.remount()
        self.assertEqual(entries(self.m.disk('c')), ['disk.img', 'first', 'two'])

    def test_what_a_disk_cannot_have(self):
        os.mkdir(self.m.disk('d'))
        self.refused(errno.EPERM, open, self.m.disk('d', 'other'), 'w')
        self.refused(errno.EPERM, os.symlink, 'x', self.m.disk('d', 'link'))
        self.refused(errno.EPERM, os.mkfifo, self.m.disk('d', 'fifo'))
        self.refused(errno.ENODATA, os.mkdir, self.m.disk('d', 'snapshot'))
        self.assertTrue(os.getxattr(self.m.disk('d'), 'user.varve.error'))
        os.mknod(self.m.image('d'), 0o640 | stat.S_IFREG)
        self.assertEqual(os.stat(self.m.image('d')).st_size, 0)
        self.refused(errno.EPERM, os.link, self.m.image('d'), self.m.disk('d', 'hard'))
        self.refused(errno.EEXIST, os.open, self.m.image('d'), os.O_CREAT | os.O_EXCL | os.O_WRONLY)

    def test_inode_numbers_survive_a_remount(self):
        self.m.make_disk('d', MIB)
        os.mkdir(self.m.disk('d', 's'))
        paths = [self.m.path, self.m.disk('d'), self.m.image('d'), self.m.disk('d', 's'), self.m.image('d', 's')]
        before = [os.stat(path).st_ino for path in paths]
        self.assertEqual(len(set(before)), len(before))
        self.m.remount()
        self.assertEqual([os.stat(path).st_ino for path in paths], before)

    def test_numbers_are_never_reused(self):
        self.m.make_disk('d', MIB)
        seen = {os.stat(self.m.image('d')).st_ino, os.stat(self.m.disk('d')).st_ino}
        for _ in range(3):
            os.unlink(self.m.image('d'))
            os.rmdir(self.m.disk('d'))
            self.m.make_disk('d', MIB)
            now = {os.stat(self.m.image('d')).st_ino, os.stat(self.m.disk('d')).st_ino}
            self.assertFalse(seen & now)
            seen |= now

    def test_umask_and_group_of_the_directory_hold(self):
        old = os.umask(0o027)
        try:
            self.m.make_disk('d', MIB)
            os.mkdir(self.m.disk('d', 's'))
        finally:
            os.umask(old)
        for path, mode in ((self.m.disk('d'), 0o750), (self.m.image('d'), 0o640), (self.m.disk('d', 's'), 0o750),
                           (self.m.image('d', 's'), 0o640)):
            self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), mode, path)

    def test_modes_and_owners_are_kept(self):
        self.m.make_disk('d', MIB)
        os.chmod(self.m.disk('d'), 0o711)
        os.chmod(self.m.image('d'), 0o604)
        os.mkdir(self.m.disk('d', 's'))
        os.chmod(self.m.image('d'), 0o600)
        if os.geteuid() == 0:
            os.chown(self.m.image('d'), 12, 34)
        self.m.remount()
        self.assertEqual(stat.S_IMODE(os.stat(self.m.disk('d')).st_mode), 0o711)
        self.assertEqual(stat.S_IMODE(os.stat(self.m.image('d')).st_mode), 0o600)
        self.assertEqual(stat.S_IMODE(os.stat(self.m.image('d', 's')).st_mode), 0o604)
        if os.geteuid() == 0:
            self.assertEqual(os.stat(self.m.image('d')).st_uid, 12)
            self.assertEqual(os.stat(self.m.image('d')).st_gid, 34)

    def test_the_control_directory_is_hidden_and_read_only(self):
        self.m.make_disk('d', MIB)
        self.assertNotIn('.varve', os.listdir(self.m.path))
        self.assertEqual(entries(self.m.disk('.varve')), ['metrics', 'status.json'])
        with open(self.m.disk('.varve', 'status.json'), encoding='utf-8') as file:
            self.assertIsInstance(json.load(file), dict)
        with open(self.m.disk('.varve', 'metrics'), encoding='utf-8') as file:
            self.assertIn('varve_', file.read())
        self.assertNotEqual(errno_of(open, self.m.disk('.varve', 'metrics'), 'w'), 0)
        self.refused(errno.EPERM, os.rmdir, self.m.disk('.varve'))
        self.refused(errno.EPERM, os.mkdir, self.m.disk('.varve', 'x'))
        self.refused(errno.EPERM, os.rename, self.m.disk('.varve'), self.m.disk('x'))

    def test_df_shows_the_store(self):
        status = os.statvfs(self.m.path)
        beneath = os.statvfs(self.m.base)
        self.assertEqual(status.f_bsize, 4096)
        self.assertEqual(status.f_namemax, 240)
        self.assertAlmostEqual(status.f_blocks * status.f_frsize, beneath.f_blocks * beneath.f_frsize,
                               delta=beneath.f_blocks * beneath.f_frsize / 10)
        self.assertGreater(status.f_bavail, 0)


class Snapshots(MountTest):
    def test_mkdir_takes_a_snapshot(self):
        image = self.m.make_disk('d', 4 * MIB)
        data = pattern(1, 4 * MIB)
        write_at(image, 0, data)
        before = time.time()
        os.mkdir(self.m.disk('d', 's'))
        after = time.time()
        write_at(image, MIB, pattern(2, MIB))
        self.assertEqual(read_at(self.m.image('d', 's'), 0, 8 * MIB), data)
        self.assertEqual(entries(self.m.disk('d')), ['disk.img', 's'])
        self.assertEqual(entries(self.m.disk('d', 's')), ['disk.img'])
        self.assertTrue(before - 1 <= os.stat(self.m.disk('d', 's')).st_mtime <= after + 1)
        self.assertLessEqual(os.stat(self.m.image('d', 's')).st_mtime, os.stat(self.m.disk('d', 's')).st_mtime)
        self.wait_complete(self.m.disk('d', 's'))
        self.assertEqual(read_at(self.m.image('d', 's'), 0, 8 * MIB), data)
        self.m.remount()
        self.assertEqual(read_at(self.m.image('d', 's'), 0, 8 * MIB), data)
        self.assertEqual(os.stat(self.m.disk('d')).st_nlink, 3)

    def test_a_snapshot_cannot_be_changed(self):
        self.m.make_disk('d', MIB)
        os.mkdir(self.m.disk('d', 's'))
        image = self.m.image('d', 's')
        self.refused(errno.EROFS, os.open, image, os.O_WRONLY)
        self.refused(errno.EROFS, os.open, image, os.O_RDWR)
        self.refused(errno.EROFS, os.truncate, image, 0)
        self.refused(errno.EROFS, os.unlink, image)
        self.refused(errno.EROFS, os.chmod, image, 0o777)
        self.refused(errno.EROFS, os.utime, image)
        self.refused(errno.EROFS, open, self.m.disk('d', 's', 'x'), 'w')
        self.refused(errno.EROFS, os.mkdir, self.m.disk('d', 's', 'x'))
        self.refused(errno.EROFS, os.setxattr, image, 'user.x', b'1')

    def test_an_open_snapshot_stays(self):
        self.m.make_disk('d', MIB)
        os.mkdir(self.m.disk('d', 's'))
        with open(self.m.image('d', 's'), 'rb'):
            self.refused(errno.EBUSY, os.rmdir, self.m.disk('d', 's'))
        os.rmdir(self.m.disk('d', 's'))
        self.assertEqual(entries(self.m.disk('d')), ['disk.img'])
        self.refused(errno.ENOENT, os.stat, self.m.image('d', 's'))

    def test_an_image_may_die_before_its_snapshots(self):
        image = self.m.make_disk('d', MIB)
        write_at(image, 0, b'first')
        os.mkdir(self.m.disk('d', 's'))
        with open(image, 'rb'):
            self.refused(errno.EBUSY, os.unlink, image)
        os.unlink(image)
        self.assertEqual(entries(self.m.disk('d')), ['s'])
        self.refused(errno.ENODATA, os.mkdir, self.m.disk('d', 't'))
        self.assertEqual(read_at(self.m.image('d', 's'), 0, 5), b'first')
        with open(image, 'wb') as file:
            file.write(b'second')
        os.mkdir(self.m.disk('d', 't'))
        self.assertEqual(read_at(self.m.image('d', 't'), 0, 100), b'second')
        self.assertEqual(read_at(self.m.image('d', 's'), 0, 5), b'first')

    def test_blocks_of_a_snapshot_are_its_full_size(self):
        image = self.m.make_disk('d', 64 * MIB)
        write_at(image, 0, b'x' * 4096)
        os.mkdir(self.m.disk('d', 's'))
        self.assertEqual(os.stat(self.m.image('d', 's')).st_blocks * 512, 64 * MIB)
        self.assertLess(os.stat(image).st_blocks * 512, MIB)

    def test_a_thousand_snapshots_are_listed_quickly(self):
        count = 300
        self.m.make_disk('d', MIB)
        for i in range(count):
            os.mkdir(self.m.disk('d', f's{i:04}'))
        begin = time.monotonic()
        listed = run('ls', '-l', self.m.disk('d')).stdout.splitlines()
        self.assertLess(time.monotonic() - begin, 2)
        self.assertEqual(len(listed), count + 2)
        self.assertEqual(os.stat(self.m.disk('d')).st_nlink, count + 2)
        with os.scandir(self.m.disk('d')) as directory:
            seen = [next(directory).name for _ in range(10)]
            os.rmdir(self.m.disk('d', 's0000'))
            os.rmdir(self.m.disk('d', 's0200'))
            os.mkdir(self.m.disk('d', 'new'))
            seen += [entry.name for entry in directory]
        self.assertEqual(len(seen), len(set(seen)))
        self.assertTrue({f's{i:04}' for i in range(count)} - {'s0000', 's0200'} <= set(seen))
        self.refused(errno.ENOENT, os.stat, self.m.disk('d', 's0200'))
        self.assertEqual(len(os.listdir(self.m.disk('d'))), count)


class Attributes(MountTest):
    def test_the_users_own_are_kept(self):
        self.m.make_disk('d', MIB)
        for path in (self.m.path, self.m.disk('d'), self.m.image('d')):
            os.setxattr(path, 'user.note', b'a\0b')
            os.setxattr(path, 'user.empty', b'')
            self.assertEqual(sorted(os.listxattr(path)), ['user.empty', 'user.note'])
            self.refused(errno.EEXIST, os.setxattr, path, 'user.note', b'', os.XATTR_CREATE)
            self.refused(errno.ENODATA, os.setxattr, path, 'user.none', b'', os.XATTR_REPLACE)
            os.removexattr(path, 'user.empty')
            self.refused(errno.ENODATA, os.removexattr, path, 'user.empty')
        os.mkdir(self.m.disk('d', 's'))
        os.setxattr(self.m.disk('d', 's'), 'user.why', b'upgrade')
        self.assertEqual(os.listxattr(self.m.image('d', 's')), ['user.note'])
        self.m.remount()
        self.assertEqual(os.getxattr(self.m.disk('d'), 'user.note'), b'a\0b')
        self.assertEqual(os.getxattr(self.m.image('d', 's'), 'user.note'), b'a\0b')
        self.assertEqual(os.getxattr(self.m.disk('d', 's'), 'user.why'), b'upgrade')

    def test_other_namespaces_are_refused(self):
        self.m.make_disk('d', MIB)
        for name in ('security.capability', 'trusted.x', 'system.posix_acl_access'):
            self.assertIn(errno_of(os.getxattr, self.m.image('d'), name), (errno.EOPNOTSUPP, errno.ENODATA), name)
        self.refused(errno.EOPNOTSUPP, os.setxattr, self.m.image('d'), 'security.selinux', b'x')

    def test_ours_report_and_are_not_listed(self):
        image = self.m.make_disk('d', MIB)
        write_at(image, 0, pattern(3, 100_000))
        os.mkdir(self.m.disk('d', 'a'))
        os.mkdir(self.m.disk('d', 'b'))
        directory = self.m.disk('d', 'b')
        self.wait_complete(directory)
        expected = {'state': b'complete', 'percent': b'100', 'parent': b'a', 'size': str(MIB).encode()}
        for name, value in expected.items():
            self.assertEqual(os.getxattr(directory, f'user.varve.{name}'), value, name)
            self.assertEqual(os.getxattr(self.m.image('d', 'b'), f'user.varve.{name}'), value, name)
        self.assertTrue(os.getxattr(directory, 'user.varve.btime').endswith(b'Z'))
        self.assertEqual(os.listxattr(directory), [])
        self.refused(errno.EPERM, os.setxattr, directory, 'user.varve.state', b'pending')
        self.refused(errno.EINVAL, os.setxattr, directory, 'user.varve.colour', b'red')
        self.refused(errno.ENODATA, os.getxattr, directory, 'user.varve.colour')
        self.refused(errno.ENODATA, os.getxattr, directory, 'user.varve.error')


class Others(MountTest):
    options = ('allow_other',)

    def test_set_user_id_goes_with_a_write_of_another(self):
        if os.geteuid() != 0:
            self.skipTest('needs root to be somebody else')
        image = self.m.make_disk('d', MIB)
        os.chmod(image, 0o6777)
        write_at(image, 0, b'root may')
        self.assertEqual(stat.S_IMODE(os.stat(image).st_mode), 0o6777)
        # An inherited descriptor, so that the way to the file need not be open to anybody.
        with open(image, 'r+b', buffering=0) as file:
            subprocess.run(['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups', '--inh-caps=-all',
                            '--bounding-set=-all', 'dd', 'bs=1', 'count=1', 'if=/dev/zero', 'status=none'],
                           stdout=file, check=True)
        self.assertEqual(stat.S_IMODE(os.stat(image).st_mode), 0o777)

    def test_modes_are_enforced(self):
        if os.geteuid() != 0:
            self.skipTest('needs root to be somebody else')
        os.chmod(self.m.base, 0o755)
        os.chmod(self.m.path, 0o755)

        def as_nobody(script):
            return run('setpriv', '--reuid=65534', '--regid=65534', '--clear-groups', 'sh', '-c', script,
                       check=False).returncode == 0
        self.m.make_disk('d', MIB)
        os.chmod(self.m.image('d'), 0o600)
        self.assertTrue(as_nobody(f'ls {self.m.disk("d")}'))
        self.assertFalse(as_nobody(f'cat {self.m.image("d")}'))
        self.assertFalse(as_nobody(f'mkdir {self.m.disk("d", "s")}'))
        self.assertFalse(as_nobody(f'mkdir {self.m.disk("x")}'))
        os.chmod(self.m.path, 0o1777)
        self.assertTrue(as_nobody(f'cd {self.m.path} && mkdir mine && truncate -s 1M mine/disk.img && mkdir mine/s'))
        self.assertEqual(os.stat(self.m.disk('mine')).st_uid, 65534)
        self.assertEqual(os.stat(self.m.image('mine')).st_uid, 65534)
        self.assertFalse(as_nobody(f'rmdir {self.m.disk("d")}'))


class ReadOnly(MountTest):
    def test_nothing_can_be_changed(self):
        image = self.m.make_disk('d', MIB)
        self.m.unmount()
        self.m.start(['ro'])
        self.refused(errno.EROFS, os.mkdir, self.m.disk('d', 's'))
        self.refused(errno.EROFS, os.open, image, os.O_RDWR)
        self.refused(errno.EROFS, os.rmdir, self.m.disk('d'))
        self.assertEqual(read_at(image, 0, 10), bytes(10))


class User(MountTest):
    """An ordinary user mounts, takes a snapshot and restores, through fusermount3."""

    @needs('fusermount3', 'setpriv', 'unshare')
    def test_can_do_it_alone(self):
        if os.geteuid() != 0:
            self.skipTest('needs root to be an ordinary user')
        home = os.path.join(self.m.base, 'home')
        os.chmod(self.m.base, 0o755)
        os.mkdir(home)
        os.chown(home, 65534, 65534)
        script = f'''set -e
            cd {home}; mkdir mnt
            {harness.varve} init store
            {harness.varve} mount store mnt
            mkdir mnt/d; head -c 300000 /dev/urandom > mnt/d/disk.img; cp mnt/d/disk.img copy
            mkdir mnt/d/s
            echo garbage > mnt/d/disk.img
            cp mnt/d/s/disk.img mnt/d/disk.img
            cmp mnt/d/disk.img copy
            fusermount3 -u mnt
            {harness.varve} mount store mnt -f & daemon=$!
            until mountpoint -q mnt; do sleep 0.05; done
            sleep 1 < mnt/d/s/disk.img & sleep 0.2
            kill -TERM $daemon  # in use for a second
            wait $daemon'''
        # /dev/fuse as distributions have it: for everybody.
        device = os.path.join(self.m.base, 'fuse')
        os.mknod(device, 0o666 | stat.S_IFCHR, os.stat('/dev/fuse').st_rdev)
        os.chmod(device, 0o666)
        run('unshare', '--mount', 'sh', '-c',
            f'mount --bind {device} /dev/fuse && exec setpriv --reuid=65534 --regid=65534 --clear-groups '
            '--inh-caps=-all sh -c "$0"', script)


if __name__ == '__main__':
    main()
