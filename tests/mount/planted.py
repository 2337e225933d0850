#!/usr/bin/env python3
"""A store in which somebody has put something else in a file's place: a link (to an exact copy, so that following it would
work), a pipe that nobody writes to, a socket, a device, a directory, a file of another user. varve says which file it is and
leaves it alone; it never follows, never waits, never changes what a link leads to, and serves no wrong byte.

VARVE_PLANTED_KINDS=all tries every kind at every place (three minutes); else each place meets a link, a pipe, and one more
in turn.
"""
import errno
import glob
import json
import os
import shutil
import socket
import stat

from harness import CHUNK, MIB, MountTest, main, pattern, read_at, run, wait_for, write_at

SOMEBODY = 54321


def link(path, original):
    os.symlink(original, path)


def pipe(path, _):
    os.mkfifo(path, 0o600)


def unix_socket(path, _):
    with socket.socket(socket.AF_UNIX) as one:
        # The address has room for 107 bytes.
        here = os.open('.', os.O_RDONLY)
        os.chdir(os.path.dirname(path))
        one.bind(os.path.basename(path))
        os.fchdir(here)
        os.close(here)


def device(path, _):
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))


def directory(path, _):
    os.mkdir(path, 0o700)


def foreign(path, original):
    """The very file, of another user."""
    if os.path.isdir(original):
        shutil.copytree(original, path)
    else:
        shutil.copy2(original, path)
    os.chown(path, SOMEBODY, SOMEBODY)


def second_name(path, original):
    os.link(original, path)


def fingerprint(path):
    """All that is below a path, and its content."""
    if os.path.islink(path) or not os.path.exists(path):
        return None
    inside = [os.path.join(folder, name) for folder, folders, files in os.walk(path) for name in folders + files]
    found = {}
    for where in [path, *inside]:
        status = os.lstat(where)
        content = read_at(where, 0, 1 << 22) if stat.S_ISREG(status.st_mode) else b''
        found[where] = (status.st_mode, status.st_uid, status.st_size, content)
    return found


class Planted(MountTest):
    def setUp(self):
        super().setUp()
        self.content = pattern(1, 4 * CHUNK)
        image = self.m.make_disk('d', MIB)
        write_at(image, 0, self.content)
        for k in range(12):
            os.mkdir(self.m.disk('d', f's{k}'))
            self.wait_complete(self.m.disk('d', f's{k}'))
        os.mkdir(self.m.disk('other'))
        wait_for(lambda: glob.glob(self.inside('disks/*1/checkpoint/*')), 20, 'a checkpoint')
        os.chmod(self.m.disk('d'), 0o750)  # a record behind it, which has to be read
        self.stop()

    def inside(self, path):
        return os.path.join(self.m.store, path)

    def stop(self):
        """As a kill would end it, so that the maps in memory count."""
        self.m.kill()
        run('umount', '-l', self.m.path)

    def one(self, pattern_):
        found = sorted(glob.glob(self.inside(pattern_)))
        self.assertTrue(found, pattern_)
        return found[-1]

    def memory(self, name):
        """A file of the store's in volatile memory."""
        with open(self.inside('store.json'), encoding='utf-8') as file:
            store = json.load(file)['id']
        found = [path for base in ('/run/varve', '/dev/shm/varve-0') for path in glob.glob(f'{base}/{store}/{name}')]
        self.assertTrue(found, name)
        return found[0]

    def try_to_serve(self):
        """(whether the mount came, all that was said)."""
        begin = os.path.getsize(self.m.log)
        try:
            self.m.start()
            served = True
        except AssertionError as error:
            if 'varve mount ended' not in str(error):
                raise  # it hangs
            served = False
        with open(self.m.log, encoding='utf-8', errors='replace') as log:
            log.seek(begin)
            return served, log.read()

    def check_what_is_served(self):
        """Exact bytes, or an error: EIO for what is there and cannot be had."""
        served = os.listdir(self.m.path)
        if 'd' not in served:
            return
        for image in (self.m.image('d'), self.m.image('d', 's0'), self.m.image('d', 's11')):
            try:
                self.assertEqual(read_at(image, 0, len(self.content)), self.content, image)
            except OSError as error:
                self.assertIn(error.errno, (errno.EIO, errno.ENOENT), f'{image}: {error}')

    def plant(self, path, kind, quiet=False):
        """`quiet`: the file is derived, and may be made anew without a word."""
        what = f'{kind.__name__} at {os.path.relpath(path, self.m.base)}'
        memory = next((base for base in ('/dev/shm', '/run') if path.startswith(base + '/')), None)
        self.aside = os.path.join(memory or self.m.base, f'aside-{os.getpid()}')
        os.rename(path, self.aside)
        try:
            before = fingerprint(self.aside)
            kind(path, self.aside)
            served, said = self.try_to_serve()
            if served:
                self.check_what_is_served()
                with open(self.m.log, encoding='utf-8', errors='replace') as log:
                    said = log.read()[-20000:]
                self.stop()
            if not quiet:
                self.assertIn(os.path.basename(path), said, what)
            after = fingerprint(self.aside)
            self.assertEqual(before, after, f'{what}: what it leads to was changed')
        finally:
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path)
            elif os.path.lexists(path):
                os.unlink(path)
            os.rename(self.aside, path)
        return served

    def kinds_for(self, number, more):
        if os.environ.get('VARVE_PLANTED_KINDS') == 'all':
            return [link, pipe, *more]
        return [link, pipe, more[number % len(more)]]

    def plant_all(self, places, more):
        """`places`: path, whether the mount still comes (None: with some kinds)."""
        for number, (path, comes) in enumerate(places):
            for kind in self.kinds_for(number, more):
                with self.subTest(path=os.path.relpath(path, self.m.base), kind=kind.__name__):
                    served = self.plant(path, kind)
                    if comes is not None:
                        self.assertEqual(served, comes)

    def tearDown(self):
        self.m.start()
        self.check_what_is_served()
        self.assertEqual(sorted(os.listdir(self.m.path)), ['d', 'other'], 'all is as it was')
        self.assertEqual(read_at(self.m.image('d', 's3'), 0, len(self.content)), self.content)

    # A file that is written must be ours alone; packs and records are only read, and may have been copied by links.
    WRITTEN = (unix_socket, device, directory, foreign, second_name)
    READ = (unix_socket, device, directory, foreign)

    def test_files_of_the_store(self):
        self.plant_all([(self.inside('store.json'), False)], self.READ)
        self.plant_all([(self.inside('lock'), False)], self.WRITTEN)

    def test_files_of_a_disk(self):
        """The disk that has them is not served; the others are."""
        self.plant_all([(self.inside(f'live/00000001/{name}'), True) for name in ('journal', 'home.img', 'detour.img')],
                       self.WRITTEN)

    def test_records_of_a_disk(self):
        self.plant_all([(self.one('disks/00000001/log/*'), True), (self.one('disks/00000001/checkpoint/*'), True)],
                       self.READ)

    def test_packs(self):
        self.plant_all([(self.one('packs/*/*.pack'), True)], self.READ)

    def test_directories(self):
        places = [(self.inside('disks/00000001'), True), (self.inside('disks/00000001/log'), True),
                  (self.inside('live/00000001'), True), (self.inside('packs'), True), (self.one('packs/*'), True),
                  (self.inside('disks'), None), (self.inside('live'), None), (self.inside('locator'), True)]
        for number, (path, comes) in enumerate(places):
            for kind in (link, (pipe, unix_socket, device)[number % 3]):
                with self.subTest(path=os.path.relpath(path, self.m.base), kind=kind.__name__):
                    served = self.plant(path, kind)
                    if comes is not None:
                        self.assertEqual(served, comes)

    def test_memory(self):
        self.plant_all([(self.memory('disk-1.witness'), True)], (unix_socket, device, directory))
        self.plant_all([(self.memory('disk-1.changes.*'), True)], (unix_socket, device))

    def test_the_locator_is_not_opened_with_something_else_in_it(self):
        for name, kind in (('CURRENT', pipe), ('CURRENT', link), ('IDENTITY', second_name)):
            with self.subTest(name=name, kind=kind.__name__):
                self.assertTrue(self.plant(self.inside(f'locator/{name}'), kind))

    def test_the_control_socket(self):
        control = self.inside('control')
        for kind in (link, pipe, device, directory):
            if os.path.lexists(control):
                os.unlink(control)
            target = os.path.join(self.m.base, 'target')
            with open(target, 'w', encoding='ascii') as file:
                file.write('kept')
            kind(control, target)
            served, said = self.try_to_serve()
            self.assertFalse(served)
            self.assertIn(control, said)
            self.assertEqual(read_at(target, 0, 9), b'kept')
            shutil.rmtree(control) if kind is directory else os.unlink(control)
        # A socket there is a dead daemon's and makes way.
        unix_socket(control, None)


if __name__ == '__main__':
    main(None if os.geteuid() == 0 else 'devices and files of others need root')
