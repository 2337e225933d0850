"""The systems that varve is held against, each as a file that can be written: brought up, and taken down again."""
import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import time

# linux/btrfs.h: BTRFS_IOC_SNAP_CREATE_V2, BTRFS_SUBVOL_RDONLY
SNAP_CREATE_V2 = 0x50009417
SUBVOLUME_READ_ONLY = 2


def run(*words, **options):
    done = subprocess.run([str(word) for word in words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors='replace', check=False, **options)
    if done.returncode != 0:
        raise RuntimeError(f'{" ".join(map(str, words))}: exit code {done.returncode}\n{done.stdout[-2000:]}')
    return done.stdout


def wait_for(condition, what, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f'{what}: not within {seconds} s')
        time.sleep(0.02)


def drop_caches():
    os.sync()
    with open('/proc/sys/vm/drop_caches', 'w', encoding='ascii') as caches:
        caches.write('3')


class Peer:
    """Use with `with`: afterwards `image` is a file of `size` bytes, of zeros at first."""
    name = ''
    programs = ()

    def __init__(self, work, size):
        self.size = size
        self.directory = os.path.join(work, self.name.replace(' ', '-'))
        self.image = os.path.join(self.directory, 'disk.img')
        self.ended = contextlib.ExitStack()

    @classmethod
    def missing(cls):
        """Why it cannot run here; None when it can."""
        gone = [program for program in cls.programs if shutil.which(program) is None]
        return f'{", ".join(gone)} not installed' if gone else None

    def __enter__(self):
        os.makedirs(self.directory)
        self.ended.callback(shutil.rmtree, self.directory, ignore_errors=True)
        try:
            self.start()
        except BaseException:
            self.ended.close()
            raise
        return self

    def __exit__(self, *_):
        self.ended.close()

    def start(self):
        raise NotImplementedError

    def snapshot(self, number):
        """As durable as the system makes it. None: it has none."""
        return None

    def _plain(self, path):
        with open(path, 'wb') as image:
            image.truncate(self.size)

    def _daemon(self, *words):
        process = subprocess.Popen([str(word) for word in words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)

        def end():
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.ended.callback(end)
        return process

    def _unmount_at_end(self, where):
        def unmount():
            for _ in range(100):
                if subprocess.run(['umount', where], stderr=subprocess.DEVNULL, check=False).returncode == 0:
                    return
                time.sleep(0.1)
            subprocess.run(['umount', '-l', where], check=False)
        self.ended.callback(unmount)


class Raw(Peer):
    name = 'plain file'

    def start(self):
        self._plain(self.image)


class Varve(Peer):
    name = 'varve'
    varve = None
    options = ''

    def start(self):
        self.store = os.path.join(self.directory, 'store')
        self.mount = os.path.join(self.directory, 'mnt')
        os.mkdir(self.mount)
        run(self.varve, 'init', self.store)
        words = [self.varve, 'mount', self.store, self.mount] + (['-o', self.options] if self.options else [])
        run(*words)
        with open(os.path.join(self.store, 'lock'), encoding='utf-8') as lock:
            self.process = lock.read().rsplit('process ', 1)[1].split()[0]
        # After the unmount the daemon closes the store.
        self.ended.callback(wait_for, lambda: not os.path.exists(f'/proc/{self.process}'), 'end of the daemon', 60)
        self._unmount_at_end(self.mount)
        self.disk = os.path.join(self.mount, 'd')
        self.image = os.path.join(self.disk, 'disk.img')
        os.mkdir(self.disk)
        self._plain(self.image)

    def snapshot(self, number):
        os.mkdir(os.path.join(self.disk, f's{number}'))

    def snapshot_image(self, number):
        return os.path.join(self.disk, f's{number}', 'disk.img')

    def pending(self):
        return '"pending"' in run(self.varve, 'list', self.disk, '--json')

    def settle(self):
        wait_for(lambda: not self.pending(), 'commits', 600)


class Passthrough(Peer):
    name = 'passthrough'
    program = None
    words = ()

    def start(self):
        where = os.path.join(self.directory, 'mnt')
        backing = os.path.join(self.directory, 'backing.img')
        os.mkdir(where)
        self._plain(backing)
        self._daemon(self.program, backing, where, *self.words)
        self._unmount_at_end(where)
        self.image = os.path.join(where, 'disk.img')
        wait_for(lambda: os.path.exists(self.image), self.name)


class PassthroughDirect(Passthrough):
    name = 'passthrough direct'
    words = ('direct',)


class Qemu(Peer):
    """qemu-storage-daemon, exported with FUSE, driven over QMP."""
    programs = ('qemu-storage-daemon', 'qemu-img')
    driver = 'raw'
    cache = 'off'

    def start(self):
        self.files = os.path.join(self.directory, 'image.0')
        run('qemu-img', 'create', '-q', '-f', self.driver, self.files, self.size)
        self._plain(self.image)
        path = os.path.join(self.directory, 'qmp')
        self._daemon('qemu-storage-daemon', '--chardev', f'socket,path={path},server=on,wait=off,id=c',
                     '--monitor', 'chardev=c', '--blockdev', self._node('n0', self.files),
                     '--export', f'type=fuse,id=e,node-name=n0,mountpoint={self.image},writable=on')
        wait_for(lambda: os.path.ismount(self.image) or self._is_mount(), self.name)
        self._unmount_at_end(self.image)
        self.socket = self.ended.enter_context(socket.socket(socket.AF_UNIX))
        self.socket.connect(path)
        self.replies = self.ended.enter_context(self.socket.makefile('r'))
        self.replies.readline()
        self.ask('qmp_capabilities')
        self.overlays = 0

    def _is_mount(self):
        with open('/proc/self/mounts', encoding='utf-8') as table:
            return any(line.split()[1] == self.image for line in table)

    def _node(self, name, path):
        direct = 'on' if self.cache == 'direct' else 'off'
        return f'driver={self.driver},node-name={name},discard=unmap,file.driver=file,file.filename={path},' \
               f'file.cache.direct={direct},cache.direct={direct}'

    def ask(self, command, **arguments):
        self.socket.sendall((json.dumps({'execute': command, 'arguments': arguments}) + '\n').encode())
        while True:
            reply = json.loads(self.replies.readline())
            if 'error' in reply:
                raise RuntimeError(f'{self.name}: {command}: {reply["error"]["desc"]}')
            if 'return' in reply:
                return reply['return']


class QemuRaw(Qemu):
    name = 'q-s-d raw'


class QemuRawDirect(Qemu):
    name = 'q-s-d raw direct'
    cache = 'direct'


class QemuQcow2(Qemu):
    name = 'q-s-d qcow2'
    driver = 'qcow2'
    programs = Qemu.programs

    def snapshot(self, number):
        """An overlay on top: what libvirt does for an external snapshot."""
        below = f'n{self.overlays}'
        self.overlays += 1
        self.ask('blockdev-snapshot-sync', **{
            'node-name': below, 'snapshot-file': os.path.join(self.directory, f'image.{self.overlays}'),
            'snapshot-node-name': f'n{self.overlays}', 'format': 'qcow2'})


class Btrfs(Peer):
    name = 'btrfs loop'
    programs = ('mkfs.btrfs', 'btrfs')

    def start(self):
        beneath = os.path.join(self.directory, 'btrfs.img')
        where = os.path.join(self.directory, 'mnt')
        os.mkdir(where)
        with open(beneath, 'wb') as image:
            image.truncate(self.size * 4 + (1 << 30))
        run('mkfs.btrfs', '-q', beneath)
        device = run('losetup', '--direct-io=on', '-f', '--show', beneath).strip()
        self.ended.callback(subprocess.run, ['losetup', '-d', device], check=False)
        run('mount', '-o', 'compress=zstd:1', device, where)
        self._unmount_at_end(where)
        self.volume = os.path.join(where, 'd')
        run('btrfs', 'subvolume', 'create', self.volume)
        self.image = os.path.join(self.volume, 'disk.img')
        self._plain(self.image)

    def snapshot(self, number):
        """As `btrfs subvolume snapshot -r` does it, without a process; the transaction is committed on return."""
        volume = os.open(self.volume, os.O_RDONLY)
        above = os.open(os.path.dirname(self.volume), os.O_RDONLY)
        try:
            # A bytearray: immutable arguments are cut at 1 KiB.
            fcntl.ioctl(above, SNAP_CREATE_V2, bytearray(
                struct.pack('=qQQ32x4040s', volume, 0, SUBVOLUME_READ_ONLY, f'd.s{number}'.encode())))
        finally:
            os.close(volume)
            os.close(above)
