#!/usr/bin/env python3
"""Deleting with care, limits and policies, as people meet them: mkdir, rmdir, setfattr, the command."""
import datetime
import errno
import json
import os
import time

from harness import MIB, MountTest, errno_of, main, run, wait_for, write_at
import harness


def entries(path):
    return sorted(os.listdir(path))


class CareTest(MountTest):
    def command(self, *words, check=True):
        return run(harness.varve, *words, '--store', self.m.store, check=check)

    def answer(self, *words):
        return json.loads(self.command(*words, '--json').stdout)

    def error_of(self, path):
        return os.getxattr(path, 'user.varve.error').decode()

    def setUp(self):
        super().setUp()
        self.disk = self.m.disk('d')
        self.m.make_disk('d', MIB)


class Limits(CareTest):
    def test_mkdir_beyond_a_limit_says_which(self):
        self.command('limit', 'd', '--snapshots', '1')
        self.command('limit', '--live-bytes', '3M')
        os.mkdir(self.m.disk('d', 'one'))
        self.refused(errno.EDQUOT, os.mkdir, self.m.disk('d', 'two'))
        self.assertIn("the disk's limit of 1 snapshots", self.error_of(self.disk))
        self.assertIn("the disk's limit of 1 snapshots", self.m.log_text())
        self.assertEqual(entries(self.disk), ['disk.img', 'one'])
        os.rmdir(self.m.disk('d', 'one'))
        os.mkdir(self.m.disk('d', 'two'))
        status = self.status()
        self.assertEqual(status['limits']['live_bytes'], 3 * MIB)
        self.assertEqual(status['disks'][0]['limits']['snapshots'], 1)
        self.assertEqual(status['used'], {'snapshots': 1, 'snapshot_bytes': MIB, 'live_bytes': MIB})
        with open(self.m.disk('.varve', 'metrics'), encoding='utf-8') as metrics:
            self.assertIn('varve_limit_snapshots{disk="d"} 1\n', metrics.read())
        self.m.remount()
        self.refused(errno.EDQUOT, os.mkdir, self.m.disk('d', 'three'))
        self.command('limit', 'd', '--snapshots', 'none')
        os.mkdir(self.m.disk('d', 'three'))

    def test_nothing_makes_an_image_larger_than_allowed(self):
        self.command('limit', '--live-bytes', '2M')
        image = self.m.image('d')
        self.refused(errno.EDQUOT, os.truncate, image, 2 * MIB + 1)
        self.assertIn("the store's limit", self.error_of(self.disk))
        self.refused(errno.EDQUOT, write_at, image, 2 * MIB - 100, b'x' * 4096)
        self.assertIn("the store's limit", self.error_of(self.disk))
        os.truncate(image, 2 * MIB)
        os.mkdir(self.m.disk('d', 's'))
        self.assertNotEqual(self.command('clone', 'd@s', 'e', check=False).returncode, 0)
        self.assertEqual(entries(self.m.path), ['d'])
        os.mkdir(self.m.disk('f'))
        done = run('cp', self.m.image('d', 's'), self.m.image('f'), check=False)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn('quota', done.stderr)


class Care(CareTest):
    def test_what_is_held_stays(self):
        snapshot = self.m.disk('d', 's')
        os.mkdir(snapshot)
        self.assertEqual(errno_of(os.getxattr, snapshot, 'user.varve.hold'), errno.ENODATA)
        os.setxattr(snapshot, 'user.varve.hold', b'audit 2026, ask Ann')
        self.refused(errno.EBUSY, os.rmdir, snapshot)
        self.assertIn('audit 2026, ask Ann', self.error_of(self.disk))
        self.assertNotIn('user.varve.hold', os.listxattr(snapshot))
        os.rename(snapshot, self.m.disk('d', 't'))
        snapshot = self.m.disk('d', 't')
        self.wait_complete(snapshot)
        self.m.remount()
        self.assertEqual(os.getxattr(snapshot, 'user.varve.hold'), b'audit 2026, ask Ann')
        self.refused(errno.EBUSY, os.rmdir, snapshot)
        self.assertEqual(self.command('prune', 'd', '--keep-last', '1').returncode, 0)
        os.removexattr(snapshot, 'user.varve.hold')
        self.assertEqual(errno_of(os.removexattr, snapshot, 'user.varve.hold'), errno.ENODATA)
        os.rmdir(snapshot)

    def test_a_deadline_deletes_by_itself(self):
        snapshot = self.m.disk('d', 's')
        os.mkdir(snapshot)
        for bad in (b'tomorrow', b'2020-01-01', b'2026-13-01', b'2099-01-01T00:00:00+01:00'):
            self.refused(errno.EINVAL, os.setxattr, snapshot, 'user.varve.deadline', bad)
            self.assertTrue(self.error_of(snapshot))
        def set_deadline(seconds):
            deadline = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)
            text = deadline.strftime('%Y-%m-%dT%H:%M:%S').encode()
            os.setxattr(snapshot, 'user.varve.deadline', text + b'Z')
            return text
        self.assertEqual(set_deadline(3600), os.getxattr(snapshot, 'user.varve.deadline')[:19])
        set_deadline(5)
        wait_for(lambda: 's' not in os.listdir(self.disk), 30, 'the deadline')
        # The kernel, which knows the name, is told a moment later.
        wait_for(lambda: errno_of(os.stat, snapshot) == errno.ENOENT, 10, 'the name to go')

    def test_only_snapshot_directories_have_them(self):
        os.mkdir(self.m.disk('d', 's'))
        for path in (self.m.path, self.disk, self.m.image('d'), self.m.image('d', 's')):
            self.refused(errno.EINVAL, os.setxattr, path, 'user.varve.hold', b'x')
        self.refused(errno.EPERM, os.setxattr, self.m.disk('d', 's'), 'user.varve.state', b'x')

    def test_the_trash_hides_and_gives_back(self):
        self.command('trash', '--keep', '7d')
        write_at(self.m.image('d'), 0, b'before')
        os.mkdir(self.m.disk('d', 's'))
        os.rmdir(self.m.disk('d', 's'))
        self.assertEqual(entries(self.disk), ['disk.img'])
        self.assertEqual([one['name'] for one in self.answer('list', '--trash')['trash']], ['s'])
        write_at(self.m.image('d'), 0, b'after!')
        os.mkdir(self.m.disk('d', 's'))
        self.assertNotEqual(self.command('undelete', 'd@s', check=False).returncode, 0)
        self.command('undelete', 'd@s', '--as', 'old')
        with open(self.m.image('d', 'old'), 'rb') as file:
            self.assertEqual(file.read(6), b'before')
        # A disk of which only the trash is left, and back.
        self.assertIn('when they leave the trash', self.command('rm', 'd@s').stdout)
        os.rmdir(self.m.disk('d', 'old'))
        os.unlink(self.m.image('d'))
        os.rmdir(self.disk)
        self.assertEqual(entries(self.m.path), [])
        self.m.remount()
        self.command('undelete', self.m.disk('d', 'old'))
        self.assertEqual(entries(self.disk), ['old'])
        with open(self.m.image('d', 'old'), 'rb') as file:
            self.assertEqual(file.read(6), b'before')
        self.assertEqual(self.answer('trash', '--empty')['emptied'], 1)
        self.assertEqual(self.answer('list', '--trash')['trash'], [])


class Policies(CareTest):
    def test_a_policy_takes_and_prunes(self):
        self.command('policy', 'add', 'often', '--disks', 'd*', '--every', '1s', '--keep-last', '2')
        wait_for(lambda: len(entries(self.disk)) == 3, 60, 'two snapshots')
        time.sleep(3)
        self.command('policy', 'pause', 'often')
        wait_for(lambda: len(entries(self.disk)) == 3, 20, 'the others to go')
        newest = self.m.disk('d', entries(self.disk)[-1])
        self.assertEqual(os.getxattr(newest, 'user.varve.policy'), b'often')
        policy = self.status()['policies'][0]
        self.assertIsNone(policy['next'])
        self.assertEqual(policy['last']['taken'], 1)
        self.command('policy', 'add', 'nightly', '--disks', '*', '--at', '02:30,14:30', '--days', 'mon,tue', '--name', 'n-%F')
        self.m.remount()
        self.command('policy', 'run', 'nightly')
        self.assertTrue([name for name in entries(self.disk) if name.startswith('n-')])
        self.assertEqual(self.command('policy', 'run', 'nightly').returncode, 0)
        self.assertIn('skipped: ', self.command('policy', 'show', 'nightly').stdout)
        self.assertEqual(len(self.command('policy', 'list').stdout.splitlines()), 3)
        self.command('policy', 'remove', 'often')
        self.command('policy', 'remove', 'nightly')
        self.assertEqual(self.answer('policy', 'list')['policies'], [])

    def test_prune_says_what_and_why(self):
        for name in ('a', 'b', 'c'):
            os.mkdir(self.m.disk('d', name))
        shown = self.command('prune', 'd', '--keep-last', '2', '--dry-run').stdout
        self.assertIn('would go', shown)
        self.assertIn('last snapshot', shown)
        self.assertEqual(len(entries(self.disk)), 4)
        self.command('prune', self.disk, '--keep-last', '2')
        self.assertEqual(entries(self.disk), ['b', 'c', 'disk.img'])
        refused = self.command('prune', 'd', check=False)
        self.assertEqual(refused.returncode, 1)
        self.assertIn('--keep-last', refused.stderr)


if __name__ == '__main__':
    main()
