"""A store of its own, mounted for one test, and gone afterwards whatever happens.

Run by meson (suite 'mount'), or by hand:  tests/mount/names.py BUILD/src/cli/varve [TEST ...]
What the tests need and is missing (/dev/fuse, loop devices, a program) skips them with a reason: exit code 77.
VARVE_TEST_DIR says where stores are made (default /var/tmp: tmpfs has no O_DIRECT).
"""
import contextlib
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

SKIPPED = 77
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
CHUNK = 64 * KIB
varve = None  # the program under test


def say(text):
    print(f'# {text}', flush=True)


def run(*command, check=True, **options):
    """Runs a program; on failure its output is in the exception."""
    options.setdefault('timeout', 300)
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, errors='replace', **options)
    if check and done.returncode != 0:
        raise AssertionError(f'{" ".join(map(str, command))}: exit code {done.returncode}\n{done.stdout}{done.stderr}')
    return done


def missing(*programs):
    """The reason to skip, or None."""
    for program in programs:
        if shutil.which(program) is None:
            return f'{program} is not installed'
    return None


def needs(*programs):
    reason = missing(*programs)
    return unittest.skipIf(reason is not None, reason or '')


def why_no_loop_devices():
    if os.geteuid() != 0:
        return 'loop devices need root'
    if not os.path.exists('/dev/loop-control'):
        return '/dev/loop-control is missing'
    return missing('losetup')


def wait_for(condition, seconds=10, what='condition'):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f'{what}: not within {seconds} s')
        time.sleep(0.01)


def pattern(seed, size):
    """Bytes that do not compress; of more than 64 MiB, what comes after repeats."""
    unit = random.Random(seed).randbytes(min(size, 64 * MIB))
    return (unit * (size // max(len(unit), 1) + 1))[:size]


def write_at(path, at, data, flags=0):
    fd = os.open(path, os.O_WRONLY | flags)
    try:
        done = 0
        while done < len(data):
            done += os.pwrite(fd, data[done:], at + done)
    finally:
        os.close(fd)


def read_at(path, at, size):
    with open(path, 'rb') as file:
        file.seek(at)
        return file.read(size)


def same_content(one, other):
    return run('cmp', one, other, check=False).returncode == 0


def errno_of(call, *arguments, **options):
    """The errno a call fails with, 0 when it works."""
    try:
        call(*arguments, **options)
        return 0
    except OSError as error:
        return error.errno


class Mount:
    """A store in a temporary directory and its mount. The daemon runs in the foreground as our child."""

    def __init__(self, options=(), init=(), store_in=None):
        self.base = tempfile.mkdtemp(prefix='varve-mount-', dir=os.environ.get('VARVE_TEST_DIR', '/var/tmp'))
        self.store = os.path.join(store_in or self.base, 'store')
        self.path = os.path.join(self.base, 'mnt')
        self.log = os.path.join(self.base, 'log')
        self.options = list(options)
        self.daemon = None
        self.mounts = []  # on loop devices of ours
        self.loops = []
        os.mkdir(self.path)
        run(varve, 'init', *init, self.store)
        self.start()

    def disk(self, name, *rest):
        return os.path.join(self.path, name, *rest)

    def image(self, disk, snapshot=None):
        return self.disk(disk, *([snapshot] if snapshot else []), 'disk.img')

    # --- the daemon ---

    def start(self, options=None):
        words = [varve, 'mount', self.store, self.path, '-f']
        options = self.options if options is None else options
        if options:
            words += ['-o', ','.join(options)]
        with open(self.log, 'ab') as log:
            self.daemon = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

        def ready():
            if self.daemon.poll() is not None:
                raise AssertionError(f'varve mount ended with {self.daemon.returncode}:\n{self.log_text()}')
            # Not stat, which a dead mount answers from the kernel's cache; and not the directory beneath.
            try:
                return os.statvfs(self.path).f_namemax == 240
            except OSError:
                return False
        wait_for(ready, 60, 'mount')

    def is_mounted(self):
        with open('/proc/self/mountinfo', encoding='utf-8') as table:
            return any(line.split()[4] == self.path for line in table)

    def log_text(self):
        with open(self.log, encoding='utf-8', errors='replace') as log:
            return log.read()

    def kill(self):
        """As the out-of-memory killer does it. The dead mount stays."""
        self.daemon.kill()
        self.daemon.wait()

    def wait_ended(self, seconds=30):
        self.daemon.wait(seconds)
        if self.daemon.returncode != 0:
            raise AssertionError(f'the daemon ended with {self.daemon.returncode}:\n{self.log_text()}')

    def umount(self):
        """At once; a machine's own services (an indexer, a monitor) may look in for a moment, and are waited for."""
        words = ['umount'] if os.geteuid() == 0 else ['fusermount3', '-u']
        for _ in range(20):
            if run(*words, self.path, check=False).returncode == 0:
                break
            say(f'{self.path} is busy')
            time.sleep(0.1)
        else:
            run(*words, self.path)

    def unmount(self):
        self.umount()
        self.wait_ended()

    def remount(self):
        self.unmount()
        self.start()

    # --- what stands on it ---

    def make_disk(self, name, size):
        os.mkdir(self.disk(name))
        with open(self.image(name), 'wb') as image:
            image.truncate(size)
        return self.image(name)

    def loop(self, image, *options):
        device = run('losetup', '-f', '--show', *options, image).stdout.strip()
        self.loops.append(device)
        return device

    def detach(self, device):
        run('losetup', '-d', device)
        self.loops.remove(device)
        # The kernel lets go of the file a moment later.
        wait_for(lambda: not os.path.exists(f'/sys/block/{os.path.basename(device)}/loop/backing_file'), 10, 'detach')

    def mount_device(self, device, *options):
        where = tempfile.mkdtemp(prefix='fs-', dir=self.base)
        run('mount', *options, device, where)
        self.mounts.append(where)
        return where

    def umount_device(self, where):
        run('umount', where)
        self.mounts.remove(where)

    def close(self):
        """Nothing of this test stays: mounts, loop devices, the daemon, files. Returns the end of its log."""
        for where in reversed(self.mounts):
            if run('umount', where, check=False).returncode != 0:
                run('umount', '-l', where, check=False)
        for device in self.loops:
            run('losetup', '-d', device, check=False)
        if self.daemon.poll() is None:
            for _ in range(50):
                if run('umount' if os.geteuid() == 0 else 'true', self.path, check=False).returncode == 0:
                    break
                time.sleep(0.1)
            try:
                self.daemon.wait(20)
            except subprocess.TimeoutExpired:
                say('the daemon does not end by itself: it is killed')
                self.daemon.kill()
                self.daemon.wait()
        if self.is_mounted():
            run('umount', '-l', self.path, check=False)
        end_of_log = self.log_text()[-4000:]
        shutil.rmtree(self.base, ignore_errors=True)
        return end_of_log


class MountTest(unittest.TestCase):
    """Each test has `self.m`, mounted with the class's options."""
    options = ()
    init = ()

    def setUp(self):
        self.m = Mount(self.options, self.init)
        self.addCleanup(self.close_mount)

    def close_mount(self):
        if not self._outcome.success and os.path.exists(self.m.log):
            say('the log of the daemon:')
            sys.stdout.write(self.m.log_text()[-4000:])
        sys.stdout.flush()
        was_serving = self.m.daemon.poll() is None
        end_of_log = self.m.close()
        self.assertIn(self.m.daemon.returncode, (0,) if was_serving else (0, -signal.SIGKILL), end_of_log)

    def refused(self, code, call, *arguments, **options):
        """Asserts that the call fails with this errno."""
        got = errno_of(call, *arguments, **options)
        self.assertEqual(errno.errorcode.get(got, got), errno.errorcode[code])

    def wait_complete(self, snapshot_directory, seconds=60):
        wait_for(lambda: os.getxattr(snapshot_directory, 'user.varve.state') == b'complete', seconds,
                 f'commit of {snapshot_directory}')

    def status(self):
        with open(self.m.disk('.varve', 'status.json'), encoding='utf-8') as file:
            return json.load(file)


@contextlib.contextmanager
def background(target, *arguments, processes=1):
    """Runs `target(stop, *arguments)` in other processes until the block ends; a failure there is one here."""
    import multiprocessing
    context = multiprocessing.get_context('fork')
    stop = context.Event()
    workers = [context.Process(target=target, args=(stop, *arguments)) for _ in range(processes)]
    for worker in workers:
        worker.start()
    try:
        yield stop
    finally:
        stop.set()
        for worker in workers:
            worker.join(60)
        stuck = [worker for worker in workers if worker.is_alive()]
        for worker in stuck:
            worker.kill()
    if stuck:
        raise AssertionError('a background process hangs')
    if any(worker.exitcode for worker in workers):
        raise AssertionError('a background process failed')


def main(reason_to_skip=None):
    """The program of each test file."""
    global varve
    if len(sys.argv) < 2:
        sys.exit('usage: TEST.py PATH-OF-varve [TEST ...]')
    varve = os.path.abspath(sys.argv[1])
    reason = reason_to_skip
    if not os.access('/dev/fuse', os.R_OK | os.W_OK):
        reason = '/dev/fuse is missing or may not be used'
    elif os.geteuid() != 0 and missing('fusermount3'):
        reason = 'mounting without root needs fusermount3'
    if reason:
        say(f'SKIPPED: {reason}')
        sys.exit(SKIPPED)
    program = unittest.main(module='__main__', argv=[sys.argv[0], '-v', *sys.argv[2:]], exit=False)
    result = program.result
    if not result.wasSuccessful():
        sys.exit(1)
    if result.testsRun and len(result.skipped) == result.testsRun:
        say(f'SKIPPED: {result.skipped[0][1]}')
        sys.exit(SKIPPED)
    sys.exit(0)
