#!/usr/bin/env python3
"""varve diff, export and import between two stores, as people use them, interrupted wherever it may be.

VARVE_TRANSFER_KILLS (6): how often an import, and an export, is killed on its way.
"""
import json
import os
import random
import signal
import subprocess
import time

import harness
from harness import KIB, MIB, Mount, MountTest, main, pattern, read_at, run, same_content, say, wait_for, write_at

KILLS = int(os.environ.get('VARVE_TRANSFER_KILLS', '6'))
SIZE = 96 * MIB
ORIGIN = 'user.varve-origin'
MARK = 'user.varve-import'
DAMAGED = 3


def content(path):
    with open(path, 'rb') as file:
        return file.read()


class Transfer(MountTest):
    def setUp(self):
        super().setUp()
        self.to = Mount()
        self.addCleanup(self.close_to)
        self.seed = int(os.environ.get('VARVE_SEED', random.randrange(1 << 32)))
        say(f'seed of transfer: {self.seed}')
        self.random = random.Random(self.seed)
        self.image = self.m.make_disk('web01', SIZE)
        write_at(self.image, 3 * MIB + 500, pattern(self.seed, 9 * MIB))
        write_at(self.image, 80 * MIB, b'end' * 1000)
        os.mkdir(self.m.disk('web01', 'a'))
        self.scatter(40)
        write_at(self.image, 20 * MIB, b'b' * 5000)  # which c changes again
        os.mkdir(self.m.disk('web01', 'b'))
        self.scatter(40)
        write_at(self.image, 20 * MIB, b'c' * 5000)
        os.truncate(self.image, SIZE + 5 * MIB + 4000)
        write_at(self.image, SIZE + MIB, pattern(self.seed + 1, 4 * MIB))
        os.mkdir(self.m.disk('web01', 'c'))

    def close_to(self):
        end_of_log = self.to.close()
        self.assertEqual(self.to.daemon.returncode, 0, end_of_log)

    def scatter(self, writes):
        for _ in range(writes):
            # Not where tests below put what is wrong: 50 to 51 and 70 to 71 MiB.
            at = self.random.choice([self.random.randrange(49 * MIB), self.random.randrange(52 * MIB, 69 * MIB),
                                     self.random.randrange(72 * MIB, SIZE - 70 * KIB)])
            count = self.random.choice([1, 512, 4096, 60000])
            write_at(self.image, at, bytes(count) if self.random.random() < 0.2 else self.random.randbytes(count))

    def file(self, name):
        return os.path.join(self.m.base, name)

    def varve(self, *words, code=0, **options):
        done = run(harness.varve, *words, check=False, **options)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done

    def export(self, snapshot, name, since=None, code=0):
        words = ['export', self.m.disk('web01', snapshot), self.file(name)]
        return self.varve(*words, *(['--since', since] if since else []), code=code)

    def bring(self, name, code=0, disk='copy', more=()):
        return self.varve('import', self.file(name), self.to.disk(disk), *more, code=code)

    def same(self, snapshot, disk='copy', there=None):
        there = self.to.image(disk, there or snapshot)
        self.assertTrue(same_content(there, self.m.image('web01', snapshot)), there)
        self.assertIsNotNone(os.getxattr(os.path.dirname(there), ORIGIN))

    def export_all(self):
        self.export('a', 'a')
        self.export('b', 'b', since='a')
        self.export('c', 'c', since='web01@b')

    # --- diff ---

    def test_diff_is_what_cmp_finds(self):
        for one, other in (('a', 'b'), ('b', 'c'), ('c', 'a')):
            raw = self.varve('diff', self.m.disk('web01', one), self.m.disk('web01', other), '--raw').stdout
            extents = [tuple(map(int, line.split())) for line in raw.splitlines()]
            a = read_at(self.m.image('web01', one), 0, 2 * SIZE)
            b = read_at(self.m.image('web01', other), 0, 2 * SIZE)
            size = max(len(a), len(b))
            a, b = a.ljust(size, b'\0'), b.ljust(size, b'\0')
            expected = [(at, min(4096, size - at)) for at in range(0, size, 4096) if a[at:at + 4096] != b[at:at + 4096]]
            found = [(start, min(4096, at + count - start)) for at, count in extents
                     for start in range(at, at + count, 4096)]
            self.assertEqual(found, expected)
            self.assertTrue(expected)
            answer = json.loads(self.varve('diff', '-s', self.m.store, f'web01@{one}', f'web01@{other}', '--json').stdout)
            self.assertEqual([(e['offset'], e['length']) for e in answer['extents']], extents)
            self.assertEqual(answer['bytes'], sum(count for _, count in extents))
        live = self.varve('diff', self.m.disk('web01'), 'web01@c', '--raw').stdout
        self.assertEqual(live, '')
        self.assertEqual(sorted(os.listdir(self.m.disk('web01'))), ['a', 'b', 'c', 'disk.img'])
        self.varve('diff', self.m.disk('web01', 'a'), self.to.path, code=1)
        table = self.varve('diff', self.m.disk('web01', 'a'), 'web01@b').stdout
        self.assertIn('differ in', table)
        self.m.unmount()
        unmounted = self.varve('diff', '-s', self.m.store, 'web01@c', 'web01@a', '--raw').stdout
        self.assertEqual(unmounted, raw)
        self.m.start()

    # --- there and back ---

    def test_a_full_stream_and_two_incrementals(self):
        self.export_all()
        self.assertLess(os.stat(self.file('b')).st_size, 3 * MIB)
        self.assertIn('verified', self.bring('a').stdout)
        self.same('a')
        self.bring('b')
        self.bring('c', more=['--as', 'other name'])
        self.same('b')
        self.same('c', there='other name')
        self.assertIn('already', self.bring('b').stdout)
        self.assertEqual(sorted(os.listdir(self.to.disk('copy'))), ['a', 'b', 'disk.img', 'other name'])
        self.assertNotIn(MARK, os.listxattr(self.to.disk('copy')))
        # Back into the store it came from, where the base is itself, and on from a copy.
        self.varve('import', self.file('c'), self.m.disk('web01'))
        self.to.remount()
        self.same('b')
        self.varve('export', self.to.disk('copy', 'other name'), self.file('again'), '--since', 'b')
        self.varve('clone', self.m.disk('web01', 'b'), 'web02')
        os.rmdir(self.m.disk('web01', 'c'))
        os.truncate(self.image, 0)
        self.varve('import', self.file('again'), self.m.disk('web01'), '--force', '--as', 'c')
        self.same('c', there='other name')

    def test_through_a_pipe(self):
        for snapshot, more in (('a', []), ('b', ['--since', 'a'])):
            sender = subprocess.Popen([harness.varve, 'export', self.m.disk('web01', snapshot), '-', *more],
                                      stdout=subprocess.PIPE)
            self.varve('import', '-', self.to.disk('copy'), stdin=sender.stdout)
            sender.stdout.close()
            self.assertEqual(sender.wait(60), 0)
            self.same(snapshot)
        # One that breaks off in the middle.
        whole = subprocess.run([harness.varve, 'export', self.m.disk('web01', 'c'), '-', '--since', 'b'],
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout
        broken = subprocess.Popen([harness.varve, 'import', '-', self.to.disk('copy')], stdin=subprocess.PIPE,
                                  stderr=subprocess.PIPE)
        _, said = broken.communicate(whole[:len(whole) // 2], 60)
        self.assertEqual(broken.returncode, DAMAGED, said)
        self.assertFalse(os.path.exists(self.to.disk('copy', 'c')))
        again = subprocess.run([harness.varve, 'import', '-', self.to.disk('copy')], input=whole, check=False)
        self.assertEqual(again.returncode, 0)
        self.same('c')

    def test_needs_the_mount_and_says_so(self):
        self.export('a', 'a')
        self.to.unmount()
        self.assertIn('varve mount', self.varve('import', self.file('a'), 'copy', '-s', self.to.store, code=1).stderr)
        self.assertIn('varve mount', self.varve('export', 'copy@a', self.file('x'), '-s', self.to.store, code=1).stderr)
        self.to.start()

    # --- what is wrong ---

    def test_a_flipped_byte_changes_nothing(self):
        self.export_all()
        self.bring('a')
        before = read_at(self.to.image('copy'), 0, 2 * SIZE)
        data = content(self.file('b'))
        for _ in range(15):
            at = self.random.randrange(len(data))
            with open(self.file('flipped'), 'wb') as file:
                file.write(data[:at] + bytes([data[at] ^ 1 << self.random.randrange(8)]) + data[at + 1:])
            said = self.bring('flipped', code=DAMAGED).stderr
            self.assertIn('stream', said, at)
            self.assertEqual(os.listdir(self.to.disk('copy')).count('b'), 0)
        self.assertEqual(read_at(self.to.image('copy'), 0, 2 * SIZE), before)
        with open(self.file('cut'), 'wb') as file:
            file.write(data[:-1])
        self.assertIn('not written whole', self.bring('cut', code=DAMAGED).stderr)
        self.bring('b')
        self.same('b')

    def test_the_wrong_base(self):
        self.export_all()
        self.assertIn('has not that snapshot', self.bring('b', code=1).stderr)
        self.assertFalse(os.path.exists(self.to.disk('copy')))
        self.bring('a')
        self.assertIn('has not that snapshot', self.bring('c', code=1).stderr)
        # One that bears the name and is another.
        os.rename(self.to.disk('copy', 'a'), self.to.disk('copy', 'renamed'))
        write_at(self.to.image('copy'), 0, b'mine')
        os.mkdir(self.to.disk('copy', 'a'))
        self.bring('b', code=1)
        self.bring('b', more=['--force'])
        self.same('b')
        # One that says it is the base, and lies.
        os.setxattr(self.to.disk('copy', 'a'), ORIGIN, os.getxattr(self.to.disk('copy', 'b'), ORIGIN))
        os.rmdir(self.to.disk('copy', 'b'))
        for more in ([], ['--force']):
            said = self.bring('c', code=DAMAGED, more=['--as', 'lied', *more]).stderr
            self.assertIn('other bytes', said)
        self.assertFalse(os.path.exists(self.to.disk('copy', 'lied')))

    def test_changes_of_the_live_image_are_not_overwritten(self):
        self.export_all()
        self.bring('a')
        write_at(self.to.image('copy'), 70 * MIB, b'mine')
        said = self.bring('b', code=1).stderr
        self.assertIn('--force', said)
        self.assertIn(str(70 * MIB), said)
        self.assertEqual(read_at(self.to.image('copy'), 70 * MIB, 4), b'mine')
        self.bring('a', disk='second')
        self.bring('b', disk='second')
        self.same('b', disk='second')
        self.bring('b', more=['--force'])
        self.same('b')

    def test_who_writes_meanwhile_is_found_out(self):
        self.export_all()
        for snapshot in ('a', 'b'):
            data = content(self.file(snapshot))
            importing = subprocess.Popen([harness.varve, 'import', '-', self.to.disk('copy')], stdin=subprocess.PIPE,
                                         stderr=subprocess.PIPE)
            importing.stdin.write(data[:len(data) // 2])
            importing.stdin.flush()
            wait_for(lambda: os.path.exists(self.to.image('copy')) and MARK in os.listxattr(self.to.disk('copy')), 30,
                     'the import')
            write_at(self.to.image('copy'), 70 * MIB + 1, b'mine')
            _, said = importing.communicate(data[len(data) // 2:], 60)
            self.assertEqual(importing.returncode, DAMAGED, said)
            self.assertRegex(said.decode(), f'at {70 * MIB}|at {70 * MIB + 1}')
            self.assertFalse(os.path.exists(self.to.disk('copy', snapshot)))
            if snapshot == 'a':
                os.unlink(self.to.image('copy'))
                os.rmdir(self.to.disk('copy'))
            self.bring(snapshot, more=['--force'])
            self.same(snapshot)

    # --- interrupted ---

    def kill_in_its_middle(self, snapshot):
        """Killed when it has read, and mostly written, a random part of the stream."""
        whole = content(self.file(snapshot))
        process = subprocess.Popen([harness.varve, 'import', '-', self.to.disk('copy')], stdin=subprocess.PIPE,
                                   stdout=subprocess.DEVNULL)
        try:
            process.stdin.write(whole[:self.random.randrange(len(whole))])
            process.stdin.flush()
        except BrokenPipeError:
            pass
        time.sleep(0.1 * self.random.random())
        process.kill()
        process.stdin.close()
        return process.wait() == -signal.SIGKILL

    def kill_on_its_way(self, *words, longest):
        """Killed after a random part of the time that it takes; whether it was still running."""
        with open(os.devnull, 'wb') as null:
            process = subprocess.Popen([harness.varve, *words], stdout=null, stderr=null)
        time.sleep(self.random.random() * longest)
        process.send_signal(signal.SIGKILL)
        return process.wait() == -signal.SIGKILL

    def test_an_import_goes_on_where_it_was_killed(self):
        self.export_all()
        begin = time.monotonic()
        self.bring('a', disk='timed')
        full = time.monotonic() - begin
        killed = 0
        for snapshot in ('a', 'b', 'c'):
            for i in range(KILLS):
                if i % 2 == 0:
                    killed += self.kill_in_its_middle(snapshot)
                else:
                    killed += self.kill_on_its_way('import', self.file(snapshot), self.to.disk('copy'),
                                                   longest=full * i / KILLS)
                taken = self.to.disk('copy', snapshot)
                # What bears the sign of a whole one is one.
                if os.path.exists(taken) and ORIGIN in os.listxattr(taken):
                    self.same(snapshot)
            self.bring(snapshot)
            self.same(snapshot)
        say(f'{killed} imports killed')
        self.assertGreaterEqual(killed, 3)
        self.assertEqual(sorted(name for name in os.listdir(self.to.disk('copy')) if not name.startswith('diff-')),
                         ['a', 'b', 'c', 'disk.img'])
        self.assertNotIn(MARK, os.listxattr(self.to.disk('copy')))

    def test_a_snapshot_that_an_import_left_unverified_is_verified_or_removed(self):
        self.export_all()
        self.bring('a')
        self.bring('b')
        identity = os.getxattr(self.to.disk('copy', 'b'), ORIGIN)
        for wrong in (False, True):
            # As after a kill between mkdir and the last step.
            os.setxattr(self.to.disk('copy'), MARK, identity + b' b')
            os.removexattr(self.to.disk('copy', 'b'), ORIGIN)
            if wrong:
                os.rmdir(self.to.disk('copy', 'b'))
                write_at(self.to.image('copy'), 50 * MIB, b'x')
                os.mkdir(self.to.disk('copy', 'b'))
                self.assertIn(str(50 * MIB), self.bring('b', code=DAMAGED).stderr)
                self.assertFalse(os.path.exists(self.to.disk('copy', 'b')))
                self.bring('b', more=['--force'])
            else:
                self.bring('b')
            self.same('b')

    def test_an_export_goes_on_where_it_was_interrupted(self):
        self.export_all()
        for name, since in (('a', None), ('c', 'b')):
            whole = content(self.file(name))
            for cut in [0, 1, 100, len(whole) - 1, len(whole)] + [self.random.randrange(len(whole)) for _ in range(4)]:
                torn = bytearray(whole[:cut])
                if cut > 5000 and self.random.random() < 0.5:
                    torn[self.random.randrange(4000, cut)] ^= 1
                with open(self.file('again.partial'), 'wb') as file:
                    file.write(torn)
                self.export(name, 'again', since=since)
                self.assertEqual(content(self.file('again')), whole, cut)
                self.assertFalse(os.path.exists(self.file('again.partial')))
                self.assertIn('already', self.export(name, 'again', since=since, code=1).stderr)
                os.unlink(self.file('again'))
        begin = time.monotonic()
        self.export('a', 'timed')
        full = time.monotonic() - begin
        for _ in range(KILLS):
            self.kill_on_its_way('export', self.m.disk('web01', 'a'), self.file('killed'), longest=full)
            if os.path.exists(self.file('killed')):
                break
        if not os.path.exists(self.file('killed')):
            self.export('a', 'killed')
        self.assertTrue(same_content(self.file('killed'), self.file('a')))
        # Another's beginning is not cut.
        os.rename(self.file('a'), self.file('foreign.partial'))
        self.assertIn('unfinished export of web01@a', self.export('b', 'foreign', since='a', code=1).stderr)
        with open(self.file('letter.partial'), 'wb') as file:
            file.write(b'Dear Sir' * 20000)
        self.assertIn('no export', self.export('b', 'letter', code=1).stderr)


if __name__ == '__main__':
    main()
