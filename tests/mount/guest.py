"""A machine whose power can be cut: user-mode-linux, with this machine's root as its own, read-only, and a disk image.

What the guest has written to its disk is in the image file at once, its disk has no cache. What is in the guest's own
memory, synced by nobody, is gone with SIGKILL: a power cut for the image.
"""
import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
import time

import harness
from harness import MIB, missing, run, say, wait_for

PR_SET_CHILD_SUBREAPER = 36
HERE = os.path.dirname(os.path.abspath(__file__))


def why_no_guests():
    if os.geteuid() != 0:
        return 'the guest shares the root of this machine, and its disk goes on a loop device: that takes root'
    return missing('linux.uml', 'insmod', 'mkfs.ext4', 'losetup')


def adopt_orphans():
    """The guest's processes are orphans once its first one is dead: only who can wait for them knows when it is off."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class Guest:
    """A directory that both sides see, a disk image, and at times a running guest or a mount on this side."""

    def __init__(self, image_size=512 * MIB, memory='192M', filesystem='ext4'):
        adopt_orphans()
        self.base = tempfile.mkdtemp(prefix='varve-guest-', dir=os.environ.get('VARVE_TEST_DIR', '/var/tmp'))
        self.image = os.path.join(self.base, 'disk.raw')
        self.disk = os.path.join(self.base, 'disk')  # where the image is mounted, in the guest or here
        self.store = os.path.join(self.disk, 'store')
        self.mnt = os.path.join(self.base, 'mnt')
        self.console = os.path.join(self.base, 'console')
        self.log = os.path.join(self.base, 'log')
        self.memory = memory
        self.process = None
        self.daemon = None
        os.mkdir(self.disk)
        os.mkdir(self.mnt)
        self.image_size = image_size
        self.filesystem = filesystem
        self.format()

    def format(self):
        """An empty disk."""
        with open(self.image, 'wb') as image:
            image.truncate(self.image_size)
        run(f'mkfs.{self.filesystem}', '-q', self.image)

    # --- the guest ---

    def boot(self, job, options='defaults', mount='cache=8M', preload='', traces=()):
        """Starts it; `traces` are files for what comes on its second, third ... console (/dev/tty1, /dev/tty2 ...)."""
        files = [open(path, 'ab') for path in (self.console, *traces)]  # pylint: disable=consider-using-with
        consoles = [f'con{i}=null,fd:{file.fileno()}' for i, file in enumerate(files)]
        job_script = os.path.join(self.base, 'job.sh')
        with open(job_script, 'w', encoding='utf-8') as script:
            script.write(job)
        environment = {'GUEST_BASE': self.base, 'GUEST_VARVE': harness.varve, 'GUEST_OPTIONS': options,
                       'GUEST_MOUNT': mount, 'GUEST_PRELOAD': preload, 'GUEST_JOB': job_script}
        words = ['linux.uml', f'mem={self.memory}', 'root=/dev/root', 'rootfstype=hostfs', 'rootflags=/', 'ro', 'quiet',
                 f'ubd0={self.image}', 'con=null', *consoles, 'init=/bin/sh',
                 *(f'{name}={value}' for name, value in environment.items()), '--', os.path.join(HERE, 'guest.sh')]
        os.truncate(self.console, 0)
        self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=files[0], pass_fds=[file.fileno() for file in files],
                                        start_new_session=True)
        for file in files:
            file.close()

    def console_text(self):
        with open(self.console, encoding='utf-8', errors='replace') as console:
            return console.read()

    def wait_for_line(self, line, seconds=60):
        def there():
            off = self.process.poll() is not None
            if line in self.console_text():
                return True
            if off:
                raise AssertionError(f'the guest ended by itself:\n{self.console_text()[-4000:]}')
            return False
        try:
            wait_for(there, seconds, f'"{line}" on the console of the guest')
        except AssertionError:
            say(self.console_text()[-4000:])
            raise

    def cut(self):
        """The power. Returns when nothing of the guest can write to the image any more."""
        group = self.process.pid
        try:
            os.killpg(group, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it has gone off by itself
        while True:
            try:
                os.waitpid(-group, 0)
            except ChildProcessError:
                break
        self.process.returncode = -signal.SIGKILL
        self.process = None

    # --- this side ---

    def mount_disk(self):
        run('mount', '-o', 'loop', self.image, self.disk)

    def umount_disk(self):
        run('umount', self.disk)

    def mount(self):
        with open(self.log, 'ab') as log:
            self.daemon = subprocess.Popen([harness.varve, 'mount', '-f', '-o', 'cache=8M', self.store, self.mnt],
                                           stdin=subprocess.DEVNULL, stdout=log, stderr=log)

        def ready():
            if self.daemon.poll() is not None:
                with open(self.log, encoding='utf-8') as log:
                    raise AssertionError(f'varve mount ended with {self.daemon.returncode}:\n{log.read()[-4000:]}')
            return os.statvfs(self.mnt).f_namemax == 240
        wait_for(ready, 60, 'mount')

    def umount(self):
        for _ in range(50):
            if run('umount', self.mnt, check=False).returncode == 0:
                break
            time.sleep(0.1)
        self.daemon.wait(60)
        self.daemon = None

    def close(self):
        if self.process is not None:
            self.cut()
        if self.daemon is not None:
            self.daemon.kill()
            self.daemon.wait()
            run('umount', '-l', self.mnt, check=False)
        if os.path.ismount(self.disk):
            run('umount', self.disk, check=False)
        shutil.rmtree(self.base, ignore_errors=True)
