#!/usr/bin/env python3
"""What snapshots take: attributes, du, rm, free, df; and that what was promised comes back."""
import errno
import json
import os

import harness
from harness import CHUNK, MIB, MountTest, main, pattern, run, wait_for, write_at


class Space(MountTest):
    def varve(self, *words, check=True):
        return run(harness.varve, *words, '--store', self.m.store, check=check)

    def json(self, *words):
        return json.loads(self.varve(*words, '--json').stdout)

    def attribute(self, path, name):
        """Waits until the store has been counted."""
        def known():
            try:
                os.getxattr(path, f'user.varve.{name}')
                return True
            except OSError as error:
                self.assertEqual(error.errno, errno.EAGAIN)
                return False
        wait_for(known, 30, 'accounting')
        return int(os.getxattr(path, f'user.varve.{name}'))

    def snapshot(self, disk, name, writes):
        for seed, chunk, chunks in writes:
            write_at(self.m.image(disk), chunk * CHUNK, pattern(seed, chunks * CHUNK))
        os.mkdir(self.m.disk(disk, name))
        self.wait_complete(self.m.disk(disk, name))

    def packs(self):
        return sum(os.stat(os.path.join(folder, name)).st_size
                   for folder, _, names in os.walk(os.path.join(self.m.store, 'packs')) for name in names)

    def three(self):
        self.m.make_disk('a', 8 * MIB)
        self.snapshot('a', 's1', [(1, 0, 20)])
        self.snapshot('a', 's2', [(2, 0, 10)])
        self.snapshot('a', 's3', [(3, 5, 10)])

    def test_attributes_say_what_deleting_frees(self):
        self.three()
        logical = self.attribute(self.m.disk('a', 's1'), 'logical')
        self.assertEqual(logical, 20 * CHUNK)
        freed = [self.attribute(self.m.disk('a', name), 'freed') for name in ('s1', 's2', 's3')]
        # s1 alone has 10 chunks of its own, s2 the 5 that s3 wrote over, s3 its 10.
        for got, chunks in zip(freed, (10, 5, 10)):
            self.assertGreaterEqual(got, chunks * CHUNK)
            self.assertLess(got, (chunks + 1) * CHUNK)
        self.assertGreater(self.attribute(self.m.disk('a'), 'freed'), sum(freed))
        self.assertEqual(self.attribute(self.m.image('a', 's2'), 'freed'), freed[1])
        self.assertNotIn('user.varve.freed', os.listxattr(self.m.disk('a', 's1')))

    def test_du_shows_a_store_a_disk_and_snapshots(self):
        self.three()
        store = self.json('du')
        self.assertEqual([disk['disk'] for disk in store['disks']], ['a'])
        self.assertEqual(store['disks'][0]['freed'], store['store']['stored'])
        disk = self.json('du', 'a')['disks'][0]
        self.assertEqual([one['name'] for one in disk['snapshots']], ['s1', 's2', 's3'])
        self.assertEqual(disk['stored'], store['store']['stored'])
        both = self.json('du', 'a@s1', self.m.disk('a', 's2'))
        self.assertEqual(both['freed'], self.json('rm', '--dry-run', 'a@s1', 'a@s2')['freed'])
        self.assertGreaterEqual(both['freed'], sum(one['freed'] for one in both['snapshots']))
        for words in (('du',), ('du', 'a'), ('du', 'a@s1', 'a@s3')):
            self.assertIn('FREED', self.varve(*words).stdout)
        self.assertNotEqual(self.varve('du', 'nobody', check=False).returncode, 0)

    def test_rm_promises_and_frees(self):
        self.three()
        before = self.json('du')['store']['stored']
        promise = self.json('rm', '--dry-run', 'a@s2', 'a@s3')
        self.assertEqual(sorted(os.listdir(self.m.disk('a'))), ['disk.img', 's1', 's2', 's3'])
        done = self.json('rm', 'a@s2', 'a@s3')
        self.assertEqual(done['freed'], promise['freed'])
        self.assertEqual(sorted(os.listdir(self.m.disk('a'))), ['disk.img', 's1'])
        # The live image's parent falls back a moment later.
        wait_for(lambda: self.json('du')['store']['stored'] == before - promise['freed'], 20, 'what was promised')
        full = self.packs()
        wait_for(lambda: self.varve('collect') and self.packs() < full, 20, 'collect')
        self.assertEqual(self.varve('rm', 'a@s1').returncode, 0)
        self.assertEqual(os.listdir(self.m.disk('a')), ['disk.img'])

    def test_one_that_is_open_stays_and_the_others_go(self):
        self.three()
        with open(self.m.image('a', 's2'), 'rb'):
            done = self.varve('rm', 'a@s1', 'a@s2', check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn('deleted a@s1', done.stdout)
        self.assertIn('a@s2', done.stderr)
        self.assertEqual(sorted(os.listdir(self.m.disk('a'))), ['disk.img', 's2', 's3'])

    def test_free_proposes_and_does_it_on_yes(self):
        self.three()
        plan = self.json('free', '300K')
        # One is enough: that which frees most.
        freed = {one['name']: one['freed'] for one in self.json('du', 'a')['disks'][0]['snapshots']}
        best = max(freed, key=freed.get)
        self.assertEqual([one['snapshot'] for one in plan['proposed']], [best])
        self.assertIn('--yes', self.varve('free', '300K').stdout)
        self.assertEqual(self.varve('free', '1T', check=False).returncode, 1)
        self.assertEqual(self.varve('free', '1T', '--yes', check=False).returncode, 1)
        self.assertEqual(len(os.listdir(self.m.disk('a'))), 4)
        done = self.json('free', '300K', '--disk', 'a', '--yes')
        self.assertEqual(done['freed'], plan['freed'])
        left = {'disk.img', 's1', 's2', 's3'} - {best}
        self.assertEqual(sorted(os.listdir(self.m.disk('a'))), sorted(left))

    def test_status_and_metrics_follow(self):
        self.three()
        wait_for(lambda: self.status()['accounting']['state'] == 'ready', 20, 'accounting')
        stored = self.json('du')['store']['stored']
        wait_for(lambda: self.status()['accounting']['stored'] == stored, 20, 'the sums')
        with open(self.m.disk('.varve', 'metrics'), encoding='utf-8') as file:
            self.assertIn(f'varve_stored_bytes {stored}\n', file.read())

    def test_after_a_mount_it_is_counted_again(self):
        self.three()
        def counted():
            disk = self.json('du', 'a')['disks'][0]
            return {key: disk[key] for key in ('snapshots', 'freed', 'logical', 'unique', 'stored')}
        before = counted()
        self.m.remount()
        self.assertEqual(counted(), before)
        self.m.unmount()
        self.assertEqual(counted(), before)
        self.m.start()

    def test_df_says_what_can_be_written(self):
        own, below = os.statvfs(self.m.path), os.statvfs(self.m.store)
        self.assertAlmostEqual(own.f_bavail * own.f_bsize, below.f_bavail * below.f_frsize, delta=64 * MIB)


if __name__ == '__main__':
    main()
