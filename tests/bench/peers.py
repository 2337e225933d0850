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


def is_mount(path):
    """Also of a file."""
    with open('/proc/self/mounts', encoding='utf-8') as table:
        return any(line.split()[1] == path for line in table)


def drop_caches():
    os.sync()
    with open('/proc/sys/vm/drop_caches', 'w', encoding='ascii') as caches:
        caches.write('3')


class System:
    """Something that needs a directory of its own and its programs. Use with `with`: it stands until the end."""
    name = ''
    programs = ()
    packages = ()

    def __init__(self, work):
        self.directory = os.path.join(work, self.name.replace(' ', '-'))
        self.ended = contextlib.ExitStack()

    @classmethod
    def missing(cls):
        """Why it cannot run here; None when it can."""
        gone = [program for program in cls.programs if shutil.which(program) is None]
        return f'{", ".join(gone)} not installed (Debian: {" ".join(cls.packages)})' if gone else None

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
        pass

    def path(self, *names):
        return os.path.join(self.directory, *names)

    def _daemon(self, *words, **options):
        process = subprocess.Popen([str(word) for word in words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL, **options)

        def end():
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.ended.callback(end)
        self.process = process.pid
        return process

    @staticmethod
    def _unmount(where):
        for _ in range(100):
            if subprocess.run(['umount', where], stderr=subprocess.DEVNULL, check=False).returncode == 0:
                return
            time.sleep(0.1)
        subprocess.run(['umount', '-l', where], check=False)

    def _unmount_at_end(self, where):
        self.ended.callback(self._unmount, where)


class Peer(System):
    """`image` is a file of `size` bytes, of zeros at first."""

    def __init__(self, work, size):
        super().__init__(work)
        self.size = size
        self.image = self.path('disk.img')

    def snapshot(self, number):
        """As durable as the system makes it. None: it has none."""
        return None

    def _plain(self, path):
        with open(path, 'wb') as image:
            image.truncate(self.size)


class Raw(Peer):
    name = 'plain file'

    def start(self):
        self._plain(self.image)


class Varve(Peer):
    name = 'varve'
    varve = None
    compression = None

    def start(self):
        self.store = self.path('store')
        self.mount = self.path('mnt')
        os.mkdir(self.mount)
        run(self.varve, 'init', self.store, *(['--compression', self.compression] if self.compression else []))
        self.enter()
        self.ended.callback(self.leave)
        self.disk = os.path.join(self.mount, 'd')
        self.image = os.path.join(self.disk, 'disk.img')
        os.mkdir(self.disk)
        self._plain(self.image)

    def enter(self):
        run(self.varve, 'mount', self.store, self.mount)
        with open(os.path.join(self.store, 'lock'), encoding='utf-8') as lock:
            self.process = lock.read().rsplit('process ', 1)[1].split()[0]

    def leave(self):
        """Unmounts; after that the daemon closes the store."""
        self._unmount(self.mount)
        wait_for(lambda: not os.path.exists(f'/proc/{self.process}'), 'end of the daemon', 60)

    def snapshot(self, number):
        os.mkdir(os.path.join(self.disk, f's{number}'))

    def snapshot_image(self, number):
        return os.path.join(self.disk, f's{number}', 'disk.img')

    def disks(self):
        with open(os.path.join(self.mount, '.varve', 'status.json'), encoding='utf-8') as status:
            return json.load(status)['disks']

    def pending(self):
        return any(disk['snapshots']['pending'] for disk in self.disks())

    def settle(self):
        wait_for(lambda: not self.pending(), 'commits', 1800)

    def rest(self):
        """Until what was written meanwhile is home again."""
        wait_for(lambda: not any(disk['live']['detour_chunks'] for disk in self.disks()), 'detours', 600)


class VarveZstd1(Varve):
    name = 'varve zstd 1'
    compression = 'zstd:1'


class VarveZstd3(Varve):
    name = 'varve zstd 3'
    compression = 'zstd:3'


class Passthrough(Peer):
    name = 'passthrough'
    program = None
    words = ()

    def start(self):
        where = self.path('mnt')
        backing = self.path('backing.img')
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
    packages = ('qemu-system-common', 'qemu-utils')
    driver = 'raw'
    cache = 'off'

    def start(self):
        self.files = self.path('image.0')
        run('qemu-img', 'create', '-q', '-f', self.driver, self.files, self.size)
        self._plain(self.image)
        path = self.path('qmp')
        self._daemon('qemu-storage-daemon', '--chardev', f'socket,path={path},server=on,wait=off,id=c',
                     '--monitor', 'chardev=c', '--blockdev', self._node('n0', self.files),
                     '--export', f'type=fuse,id=e,node-name=n0,mountpoint={self.image},writable=on')
        wait_for(lambda: is_mount(self.image), self.name)
        self._unmount_at_end(self.image)
        self.socket = self.ended.enter_context(socket.socket(socket.AF_UNIX))
        self.socket.connect(path)
        self.replies = self.ended.enter_context(self.socket.makefile('r'))
        self.replies.readline()
        self.ask('qmp_capabilities')
        self.overlays = 0

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

    def snapshot(self, number):
        """An overlay on top: what libvirt does for an external snapshot."""
        below = f'n{self.overlays}'
        self.overlays += 1
        self.ask('blockdev-snapshot-sync', **{
            'node-name': below, 'snapshot-file': self.path(f'image.{self.overlays}'),
            'snapshot-node-name': f'n{self.overlays}', 'format': 'qcow2'})


class Btrfs(Peer):
    name = 'btrfs loop'
    programs = ('mkfs.btrfs', 'btrfs')
    packages = ('btrfs-progs',)

    def start(self):
        beneath = self.path('btrfs.img')
        where = self.path('mnt')
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


class Readable(System):
    """A plain image that the system gives back: `image`, read-only."""

    def __init__(self, work, raw):
        super().__init__(work)
        self.raw = raw
        self.where = self.path('mnt')

    def start(self):
        os.mkdir(self.where)
        self.pack()

    def pack(self):
        raise NotImplementedError


class Squashfuse(Readable):
    programs = ('mksquashfs', 'squashfuse')
    packages = ('squashfs-tools', 'squashfuse')
    block = ''

    def pack(self):
        run('mksquashfs', self.raw, self.path('packed'), '-comp', 'zstd', '-Xcompression-level', '3', '-b', self.block,
            '-noappend')
        run('squashfuse', self.path('packed'), self.where)
        self._unmount_at_end(self.where)
        self.image = os.path.join(self.where, os.path.basename(self.raw))


class Squashfuse128(Squashfuse):
    name = 'squashfuse 128K'
    block = '128K'


class Squashfuse1M(Squashfuse):
    name = 'squashfuse 1M'
    block = '1M'


class QemuImage(Readable):
    name = 'q-s-d qcow2 zstd'
    programs = Qemu.programs
    packages = Qemu.packages

    def pack(self):
        run('qemu-img', 'convert', '-q', '-c', '-f', 'raw', '-O', 'qcow2', '-o', 'compression_type=zstd', self.raw,
            self.path('packed'))
        self.image = self.path('disk.img')
        with open(self.image, 'wb') as image:
            image.truncate(os.path.getsize(self.raw))
        self._daemon('qemu-storage-daemon', '--blockdev',
                     f'driver=qcow2,node-name=n,read-only=on,file.driver=file,file.filename={self.path("packed")}',
                     '--export', f'type=fuse,id=e,node-name=n,mountpoint={self.image}')
        wait_for(lambda: is_mount(self.image), self.name)
        self._unmount_at_end(self.image)


class ResticMount(Readable):
    name = 'restic mount'
    programs = ('restic', 'fusermount')
    packages = ('restic', 'fuse3')

    def pack(self):
        environment = {**os.environ, 'RESTIC_PASSWORD': 'x', 'HOME': self.directory, 'XDG_CACHE_HOME': self.path('cache')}
        run('restic', 'init', '-q', '--repo', self.path('packed'), env=environment)
        run('restic', 'backup', '-q', '--repo', self.path('packed'), self.raw, env=environment)
        self._daemon('restic', 'mount', '--repo', self.path('packed'), self.where, env=environment)
        wait_for(lambda: is_mount(self.where), self.name, 60)
        self._unmount_at_end(self.where)
        self.image = os.path.join(self.where, 'snapshots', 'latest') + os.path.abspath(self.raw)
        wait_for(lambda: os.path.exists(self.image), self.name)


class BorgMount(Readable):
    name = 'borg mount'
    programs = ('borg',)
    packages = ('borgbackup', 'python3-pyfuse3')

    def pack(self):
        environment = {**os.environ, 'BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK': 'yes', 'HOME': self.directory}
        run('borg', 'init', '--encryption', 'none', self.path('packed'), env=environment)
        run('borg', 'create', '--compression', 'zstd', f'{self.path("packed")}::s', os.path.basename(self.raw), env=environment,
            cwd=os.path.dirname(self.raw))
        run('borg', 'mount', f'{self.path("packed")}::s', self.where, env=environment)
        self._unmount_at_end(self.where)
        self.image = os.path.join(self.where, os.path.basename(self.raw))
