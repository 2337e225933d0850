#!/usr/bin/env python3
"""Who may do what: users through the mount, users beside it, and what the daemon itself may still do."""
import contextlib
import errno
import json
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import unittest

import harness
from harness import MIB, MountTest, errno_of, main, missing, run, wait_for

ALICE, BOB, TEAM = 51001, 51002, 51100
OWNER = pwd.getpwnam('daemon').pw_uid  # fusermount3 wants one with a name; every system has this
CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE, CAP_SYS_ADMIN = 1 << 2, 1 << 19, 1 << 21


def as_user(user, call, *arguments, groups=(), umask=0o022, **options):
    """The errno of a call made by a process of that user, 0 when it works. `user` is its group as well."""
    child = os.fork()
    if child == 0:
        code = 255
        try:
            os.setgroups(list(groups))
            os.setgid(user)
            os.setuid(user)
            os.umask(umask)
            code = errno_of(call, *arguments, **options)
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code in (-1, 255):
        raise AssertionError(f'{call}: not an OSError')
    return code


def read_first(path):
    with open(path, 'rb') as file:
        return file.read(1)


def write_first(path):
    fd = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(fd, b'x', 0)
    finally:
        os.close(fd)


def make_image(path, size=MIB):
    with open(path, 'wb') as image:
        image.truncate(size)


class UsersTest(MountTest):
    options = ('allow_other',)

    def setUp(self):
        super().setUp()
        os.chmod(self.m.base, 0o711)
        os.chmod(self.m.path, 0o1777)  # anybody makes disks, and only whose they are removes them

    def works(self, user, call, *arguments, **options):
        code = as_user(user, call, *arguments, **options)
        self.assertEqual(errno.errorcode.get(code, code), 0, f'{call.__name__} {arguments}')

    def denied(self, user, call, *arguments, code=errno.EACCES, **options):
        got = as_user(user, call, *arguments, **options)
        self.assertEqual(errno.errorcode.get(got, got), errno.errorcode[code], f'{call.__name__} {arguments}')

    def disk_of(self, user, name, umask=0o022):
        """A disk with a complete snapshot `s`, all made by that user."""
        self.works(user, os.mkdir, self.m.disk(name), umask=umask)
        self.works(user, make_image, self.m.image(name), umask=umask)
        self.works(user, write_first, self.m.image(name))
        self.works(user, os.mkdir, self.m.disk(name, 's'), umask=umask)
        self.wait_complete(self.m.disk(name, 's'))


class Disks(UsersTest):
    def test_a_private_disk_is_its_owners_alone(self):
        self.disk_of(ALICE, 'a', umask=0o077)
        disk, image = self.m.disk('a'), self.m.image('a')
        snapshot, frozen = self.m.disk('a', 's'), self.m.image('a', 's')
        for path, mode in ((disk, 0o700), (image, 0o600), (snapshot, 0o700), (frozen, 0o600)):
            status = os.stat(path)
            self.assertEqual((status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)), (ALICE, ALICE, mode), path)

        everything = [
            (os.listdir, disk), (os.stat, image), (os.stat, snapshot), (read_first, image), (read_first, frozen),
            (write_first, image), (os.truncate, image, 0), (os.unlink, image), (os.utime, image),
            (os.mkdir, self.m.disk('a', 'by-bob')), (os.rmdir, snapshot), (os.rename, snapshot, snapshot + '2'),
            (os.chmod, image, 0o666), (os.chown, image, BOB, -1), (os.getxattr, frozen, 'user.varve.state'),
            (os.setxattr, snapshot, 'user.mine', b'x'), (os.chmod, snapshot, 0o755)]
        for call in everything:
            self.denied(BOB, *call)
            self.denied(BOB, *call, groups=[TEAM])
        for call in ((os.chmod, disk, 0o755), (os.chown, disk, BOB, BOB), (os.rename, disk, self.m.disk('b')),
                     (os.rmdir, disk)):
            self.denied(BOB, *call, code=errno.EPERM)
        self.denied(BOB, os.setxattr, disk, 'user.mine', b'x')
        self.assertEqual(os.listdir(self.m.path), ['a'])
        self.assertEqual(sorted(os.listdir(disk)), ['disk.img', 's'])

        # Nor does what is open or known from before: a handle of root's does not widen what Bob may.
        self.works(ALICE, read_first, frozen)
        self.works(ALICE, os.rename, snapshot, self.m.disk('a', 't'))
        self.works(ALICE, os.setxattr, self.m.disk('a', 't'), 'user.mine', b'x')
        self.works(ALICE, os.rmdir, self.m.disk('a', 't'))
        # Giving a disk away is root's business.
        self.denied(ALICE, os.chown, disk, BOB, -1, code=errno.EPERM)
        self.denied(ALICE, os.chown, image, -1, TEAM, code=errno.EPERM)
        self.works(ALICE, os.chown, image, -1, TEAM, groups=[TEAM])
        os.chown(disk, BOB, BOB)
        self.works(BOB, os.mkdir, self.m.disk('a', 'by-bob'))
        self.denied(BOB, read_first, image)
        self.denied(ALICE, os.listdir, disk)

    def test_a_disk_that_others_may_read_is_only_read(self):
        self.disk_of(ALICE, 'a')
        image, snapshot, frozen = self.m.image('a'), self.m.disk('a', 's'), self.m.image('a', 's')
        for call in ((os.listdir, self.m.disk('a')), (read_first, image), (read_first, frozen)):
            self.works(BOB, *call)
        for call in ((write_first, image), (os.truncate, image, 0), (os.mkdir, self.m.disk('a', 'x')),
                     (os.rmdir, snapshot), (os.rename, snapshot, snapshot + '2'), (os.unlink, image),
                     (os.setxattr, image, 'user.mine', b'x'), (os.setxattr, snapshot, 'user.mine', b'x')):
            self.denied(BOB, *call)
        for call in ((os.chmod, image, 0o666), (os.chown, snapshot, BOB, -1), (os.chmod, snapshot, 0o777)):
            self.denied(BOB, *call, code=errno.EPERM)

        # A snapshot keeps the image's modes of its time; its directory is what closes it afterwards.
        self.works(ALICE, os.chmod, image, 0o600)
        self.denied(BOB, read_first, image)
        self.works(BOB, read_first, frozen)
        self.works(ALICE, os.chmod, snapshot, 0o700)
        self.denied(BOB, read_first, frozen)
        self.works(ALICE, read_first, frozen)
        self.m.remount()
        self.denied(BOB, read_first, frozen)
        self.denied(BOB, read_first, image)
        # A clone is its maker's, and what he may not read he cannot clone.
        self.works(BOB, os.mkdir, self.m.disk('b'))
        self.denied(BOB, self.copy, frozen, self.m.image('b'))
        self.works(ALICE, os.chmod, snapshot, 0o755)
        self.works(BOB, self.copy, frozen, self.m.image('b'))
        self.assertEqual(os.stat(self.m.image('b')).st_uid, BOB)

    @staticmethod
    def copy(source, target):
        with open(source, 'rb') as read, open(target, 'wb') as write:
            os.copy_file_range(read.fileno(), write.fileno(), MIB)

    def test_a_group_shares_a_disk(self):
        disk = self.m.disk('a')
        self.works(ALICE, os.mkdir, disk)
        os.chown(disk, ALICE, TEAM)
        os.chmod(disk, 0o2770)
        self.works(ALICE, make_image, self.m.image('a'), umask=0o007, groups=[TEAM])
        self.assertEqual(os.stat(self.m.image('a')).st_gid, TEAM, 'the directory is set-group-id')
        self.works(BOB, os.mkdir, self.m.disk('a', 'bobs'), groups=[TEAM], umask=0o007)
        self.denied(BOB, os.mkdir, self.m.disk('a', 'x'))
        status = os.stat(self.m.disk('a', 'bobs'))
        self.assertEqual((status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)), (BOB, TEAM, 0o2770))
        self.works(BOB, write_first, self.m.image('a'), groups=[TEAM])
        self.works(ALICE, os.mkdir, self.m.disk('a', 'alices'), groups=[TEAM])
        self.works(BOB, os.rename, self.m.disk('a', 'alices'), self.m.disk('a', 'moved'), groups=[TEAM])
        # With the sticky bit only whose it is, and the directory's owner.
        os.chmod(disk, 0o3770)
        self.denied(BOB, os.rmdir, self.m.disk('a', 'moved'), groups=[TEAM], code=errno.EPERM)
        self.denied(BOB, os.rename, self.m.disk('a', 'moved'), self.m.disk('a', 'x'), groups=[TEAM], code=errno.EPERM)
        self.denied(BOB, os.unlink, self.m.image('a'), groups=[TEAM], code=errno.EPERM)
        self.works(BOB, os.rename, self.m.disk('a', 'bobs'), self.m.disk('a', 'bobs2'), groups=[TEAM])
        self.works(ALICE, os.rmdir, self.m.disk('a', 'bobs2'), groups=[TEAM])

    def test_the_root_is_a_directory_like_others(self):
        self.works(ALICE, os.mkdir, self.m.disk('a'))
        self.denied(BOB, os.rmdir, self.m.disk('a'), code=errno.EPERM)
        self.denied(BOB, os.rename, self.m.disk('a'), self.m.disk('b'), code=errno.EPERM)
        self.denied(BOB, os.chmod, self.m.path, 0o777, code=errno.EPERM)
        status = self.m.disk('.varve', 'status.json')
        self.works(BOB, read_first, status)
        os.chmod(self.m.path, 0o711)
        self.denied(BOB, os.listdir, self.m.path)
        self.denied(BOB, os.listdir, self.m.disk('.varve'))
        self.denied(BOB, read_first, status)
        self.denied(ALICE, os.mkdir, self.m.disk('c'))
        self.denied(ALICE, os.rmdir, self.m.disk('a'))
        self.denied(BOB, write_first, status)
        read_first(status)
        os.chmod(self.m.path, 0o1777)
        self.works(ALICE, os.rmdir, self.m.disk('a'))


class Beside(UsersTest):
    """The store and its socket, for others than root."""

    def ask(self, question):
        with socket.socket(socket.AF_UNIX) as door:
            door.connect(os.path.join(self.m.store, 'control'))
            answer = b''
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # who is refused at once is not listened to
                door.sendall(json.dumps(question).encode() + b'\n')
            with contextlib.suppress(ConnectionResetError):
                while part := door.recv(65536):
                    answer += part
        return json.loads(answer.splitlines()[-1])

    def must_be_refused(self, question):
        answer = self.ask(question)
        if 'result' in answer or answer['error']['code'] != errno.EACCES:
            raise OSError(errno.EBADMSG, str(answer))

    def test_the_store_is_closed(self):
        for path, mode in ((self.m.store, 0o700), (os.path.join(self.m.store, 'control'), 0o600)):
            self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), mode, path)
        os.mkdir(self.m.disk('d'))
        make_image(self.m.image('d'))
        for folder, folders, files in os.walk(self.m.store):
            for name in folders + files:
                path = os.path.join(folder, name)
                if 'locator' not in path:
                    self.assertEqual(stat.S_IMODE(os.lstat(path).st_mode) & 0o077, 0, path)
        self.denied(BOB, self.ask, {'command': 'status'})

    def test_the_daemon_itself_asks_who_is_at_the_door(self):
        os.chmod(self.m.store, 0o755)
        os.chmod(os.path.join(self.m.store, 'control'), 0o666)
        os.mkdir(self.m.disk('d'))
        make_image(self.m.image('d'))
        for question in ({'command': 'status'}, {'command': 'clone', 'disk': 'd', 'name': 'mine'}):
            self.works(BOB, self.must_be_refused, question)
        self.assertEqual(os.listdir(self.m.path), ['d'])
        self.assertIn('result', self.ask({'command': 'status'}))

    def test_names_do_not_lead_out_of_the_store(self):
        os.mkdir(self.m.disk('d'))
        make_image(self.m.image('d'))
        for name in ('../x', '/tmp/x', '..', '.', '', 'a/b', 'disk.img', '.hidden', 'a\0b', 'x' * 241):
            answer = self.ask({'command': 'clone', 'disk': 'd', 'name': name})
            self.assertIn(answer['error']['code'], (errno.EINVAL, errno.ENAMETOOLONG), name)
        self.assertEqual(os.listdir(self.m.path), ['d'])

    def test_a_store_that_others_may_write_to_is_refused(self):
        self.m.unmount()
        for mode in (0o777, 0o770, 0o702):
            os.chmod(self.m.store, mode)
            done = run(harness.varve, 'mount', self.m.store, self.m.path, '-f', check=False, timeout=30)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn('may write', done.stderr)
            self.assertIn(self.m.store, done.stderr)
        os.chmod(self.m.store, 0o755)
        self.m.start()


class Daemon(UsersTest):
    def statuses(self):
        """Of each thread: the fields of /proc/PID/task/TID/status."""
        tasks = f'/proc/{self.m.daemon.pid}/task'
        for task in os.listdir(tasks):
            with open(os.path.join(tasks, task, 'status'), encoding='ascii') as file:
                yield dict(line.rstrip('\n').split(':\t', 1) for line in file if ':\t' in line)

    def test_has_no_privileges_but_those_it_needs(self):
        with open('/proc/self/status', encoding='ascii') as file:
            own = int(next(line for line in file if line.startswith('CapBnd')).split()[1], 16)
        kept = CAP_DAC_READ_SEARCH | CAP_SYS_PTRACE | CAP_SYS_ADMIN
        self.assertTrue(own & ~kept, 'there is nothing to drop here: the test would prove nothing')
        os.mkdir(self.m.disk('d'))
        make_image(self.m.image('d'))
        os.mkdir(self.m.disk('d', 's'))
        self.wait_complete(self.m.disk('d', 's'))
        threads = list(self.statuses())
        self.assertGreater(len(threads), 16)
        for thread in threads:
            name = thread['Name']
            self.assertEqual(int(thread['CapEff'], 16) & ~CAP_DAC_READ_SEARCH, 0, name)
            self.assertEqual(int(thread['CapPrm'], 16) & ~kept, 0, name)
            self.assertEqual(int(thread['CapBnd'], 16) & ~kept, 0, name)
            self.assertEqual(int(thread['CapInh'], 16), 0, name)
            self.assertEqual(int(thread['CapAmb'], 16), 0, name)
            self.assertEqual(thread['NoNewPrivs'], '1', name)
        # What it kept is enough to name who holds the mount, and to end.
        holder = subprocess.Popen(['sleep', '100'], cwd=self.m.disk('d'))
        try:
            self.m.daemon.send_signal(signal.SIGTERM)
            wait_for(lambda: f'process {holder.pid} (sleep)' in self.m.log_text(), 20, 'the name of the holder')
            for thread in self.statuses():
                self.assertEqual(int(thread['CapEff'], 16) & ~CAP_DAC_READ_SEARCH, 0, 'raised for a moment only')
        finally:
            holder.kill()
            holder.wait()
        self.m.wait_ended()
        self.assertFalse(self.m.is_mounted())
        self.m.start()

    def test_serves_below_directories_of_others(self):
        """Root may have its store and its mountpoint where only somebody else may go."""
        self.m.unmount()
        os.chown(self.m.base, ALICE, ALICE)
        os.chmod(self.m.base, 0o700)
        self.m.start()
        os.mkdir(self.m.disk('d'))
        make_image(self.m.image('d'))
        for name in ('one', 'two'):
            os.mkdir(self.m.disk('d', name))
            self.wait_complete(self.m.disk('d', name))
        self.m.daemon.send_signal(signal.SIGTERM)
        self.m.wait_ended()
        self.m.start()
        self.assertNotIn('locator', self.m.log_text())


class OrdinaryUser(unittest.TestCase):
    """A store and a mount of a user who is not root, through fusermount3."""

    def setUp(self):
        reason = missing('fusermount3', 'setpriv')
        if reason:
            self.skipTest(reason)
        self.base = tempfile.mkdtemp(prefix='varve-mount-', dir=os.environ.get('VARVE_TEST_DIR', '/var/tmp'))
        self.addCleanup(shutil.rmtree, self.base, ignore_errors=True)
        os.chown(self.base, OWNER, OWNER)
        self.store, self.path = os.path.join(self.base, 'store'), os.path.join(self.base, 'mnt')
        # As udev makes it everywhere; a bare container may have it otherwise.
        self.addCleanup(os.chmod, '/dev/fuse', stat.S_IMODE(os.stat('/dev/fuse').st_mode))
        os.chmod('/dev/fuse', 0o666)
        self.shm = f'/dev/shm/varve-{OWNER}'
        self.addCleanup(self.remove_shm)
        self.remove_shm()

    def remove_shm(self):
        for name in os.listdir('/dev/shm'):
            if name.startswith(f'varve-{OWNER}'):
                shutil.rmtree(os.path.join('/dev/shm', name), ignore_errors=True)

    def command(self, *words):
        """A command line of Alice's. The program may lie where she cannot go: it is handed over open."""
        fd = os.open(harness.varve, os.O_RDONLY)
        os.set_inheritable(fd, True)
        self.addCleanup(os.close, fd)
        return dict(args=['setpriv', f'--reuid={OWNER}', f'--regid={OWNER}', '--clear-groups', f'/proc/self/fd/{fd}', *words],
                    pass_fds=[fd], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                    cwd='/')

    def start(self):
        daemon = subprocess.Popen(**self.command('mount', self.store, self.path, '-f'))

        def mounted():
            if daemon.poll() is not None:
                raise AssertionError(daemon.stdout.read())
            with open('/proc/self/mountinfo', encoding='utf-8') as table:
                return any(line.split()[4] == self.path for line in table)
        self.addCleanup(lambda: run('umount', '-l', self.path, check=False))
        self.addCleanup(daemon.stdout.close)
        self.addCleanup(daemon.wait)
        self.addCleanup(daemon.kill)
        wait_for(mounted, 30, 'mount')
        return daemon

    def test_mounts_and_unmounts_and_nobody_else_looks_in(self):
        # Bob was here first, to be given Alice's change maps.
        self.assertEqual(as_user(BOB, os.mkdir, self.shm, 0o777), 0)
        self.assertEqual(as_user(OWNER, os.mkdir, self.path), 0)
        made = subprocess.run(**self.command('init', self.store), check=False)
        self.assertEqual(made.returncode, 0, made.stdout)
        daemon = self.start()
        wait_for(lambda: as_user(OWNER, os.mkdir, os.path.join(self.path, 'd')) in (0, errno.EEXIST), 20, 'service')
        self.assertEqual(as_user(OWNER, make_image, os.path.join(self.path, 'd', 'disk.img')), 0)
        self.assertEqual(as_user(OWNER, os.mkdir, os.path.join(self.path, 'd', 's')), 0)
        self.assertEqual(os.listdir(self.shm), [], "nothing of Alice's is in what Bob made")
        for user in (BOB, 0):
            self.assertEqual(as_user(user, os.listdir, self.path), errno.EACCES, user)
        with open(f'/proc/{daemon.pid}/status', encoding='ascii') as file:
            self.assertIn('NoNewPrivs:\t0', file.read(), 'fusermount3 needs its set-user-id bit')
        daemon.send_signal(signal.SIGTERM)
        self.assertEqual(daemon.wait(30), 0)
        os.rmdir(self.shm)

    def test_another_users_store_is_refused(self):
        run(harness.varve, 'init', self.store)
        self.assertEqual(as_user(OWNER, os.mkdir, self.path), 0)
        for mode in (0o700, 0o755):
            os.chmod(self.store, mode)
            done = subprocess.run(**self.command('mount', self.store, self.path, '-f'), check=False, timeout=30)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn(self.store, done.stdout)
        os.chown(self.store, OWNER, OWNER)
        done = run(harness.varve, 'mount', self.store, self.path, '-f', check=False, timeout=30)
        self.assertNotEqual(done.returncode, 0, "root does not touch a user's store, who could swap its files")
        self.assertIn(f'user {OWNER}', done.stderr)


if __name__ == '__main__':
    main(None if os.geteuid() == 0 else 'becoming other users needs root')
