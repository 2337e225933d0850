#!/usr/bin/env python3
"""Bytes of live images and snapshots, by every way the kernel has to ask for them."""
import ctypes
import errno
import mmap
import multiprocessing
import os
import struct
import threading
import time

from harness import CHUNK, GIB, KIB, MIB, MountTest, errno_of, main, pattern, read_at, run, say, wait_for, write_at

libc = ctypes.CDLL(None, use_errno=True)
KEEP_SIZE, PUNCH_HOLE, COLLAPSE_RANGE, ZERO_RANGE = 1, 2, 8, 16


def fallocate(fd, mode, at, size):
    if libc.fallocate(fd, mode, ctypes.c_int64(at), ctypes.c_int64(size)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def aligned(data):
    """In memory that O_DIRECT takes."""
    memory = mmap.mmap(-1, max(len(data), mmap.PAGESIZE))
    memory[:len(data)] = data
    return memory


def extents(path):
    """(start, end) of what SEEK_DATA finds."""
    found = []
    with open(path, 'rb', buffering=0) as file:
        at = 0
        while True:
            try:
                begin = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError as error:
                assert error.errno == errno.ENXIO
                return found
            at = os.lseek(file.fileno(), begin, os.SEEK_HOLE)
            found.append((begin, at))


class Content(MountTest):
    def setUp(self):
        super().setUp()
        self.image = self.m.make_disk('d', 64 * MIB)

    def test_odd_pieces(self):
        model = bytearray(4 * MIB)
        for i in range(200):
            data = pattern(i, 1 + i * 131)
            at = (i * 7_654_321) % (4 * MIB - len(data))
            write_at(self.image, at, data)
            model[at:at + len(data)] = data
        self.assertEqual(read_at(self.image, 0, 4 * MIB), bytes(model))
        self.m.remount()
        self.assertEqual(read_at(self.image, 0, 4 * MIB), bytes(model))

    def test_stat_follows_writes(self):
        with open(self.image, 'r+b', buffering=0) as file:
            before = os.fstat(file.fileno())
            time.sleep(0.02)
            os.pwrite(file.fileno(), b'x' * CHUNK, 0)
            after = os.fstat(file.fileno())
            self.assertGreater(after.st_mtime_ns, before.st_mtime_ns)
            self.assertGreater(after.st_blocks, before.st_blocks)
            os.pwrite(file.fileno(), b'x', 70 * MIB)
            self.assertEqual(os.stat(self.image).st_size, 70 * MIB + 1)
            os.truncate(file.fileno(), 3)
            self.assertEqual(os.stat(self.image).st_size, 3)
            self.assertEqual(os.read(file.fileno(), 10), b'xxx')
            os.truncate(file.fileno(), 10)
            self.assertEqual(os.pread(file.fileno(), 10, 0), b'xxx' + bytes(7))
        wanted = 1_500_000_000_123_456_789
        os.utime(self.image, ns=(wanted, wanted))
        self.assertEqual(os.stat(self.image).st_mtime_ns, wanted)
        self.m.remount()
        self.assertEqual(os.stat(self.image).st_mtime_ns, wanted)

    def test_one_name_cut_another_read(self):
        write_at(self.image, 0, pattern(1, 8 * MIB))
        with open(self.image, 'rb', buffering=0) as reader:
            self.assertEqual(os.pread(reader.fileno(), MIB, MIB), pattern(1, 8 * MIB)[MIB:2 * MIB])
            os.truncate(self.image, MIB + 10)
            self.assertEqual(len(os.pread(reader.fileno(), MIB, MIB)), 10)
            os.truncate(self.image, 8 * MIB)
            self.assertEqual(os.pread(reader.fileno(), MIB, MIB + 10), bytes(MIB))

    def test_direct(self):
        fd = os.open(self.image, os.O_RDWR | os.O_DIRECT)
        try:
            with aligned(pattern(5, MIB)) as data, aligned(bytes(MIB)) as back:
                self.assertEqual(os.pwritev(fd, [data], 3 * MIB), MIB)
                self.assertEqual(read_at(self.image, 3 * MIB, MIB), data[:])
                self.assertEqual(os.preadv(fd, [back], 3 * MIB), MIB)
                self.assertEqual(back[:], data[:])
                # A buffered reader has it in the cache now: the next direct write must show there.
                with aligned(pattern(6, 4096)) as page:
                    os.pwritev(fd, [page], 3 * MIB + 8192)
                    self.assertEqual(read_at(self.image, 3 * MIB + 8192, 4096), page[:])
                # As a loop device writes: sectors.
                with aligned(pattern(7, 512)) as sector:
                    os.pwritev(fd, [memoryview(sector)[:512]], 3 * MIB + 512)
                self.assertEqual(read_at(self.image, 3 * MIB + 512, 512), pattern(7, 512))
        finally:
            os.close(fd)

    def test_mapped(self):
        write_at(self.image, 0, pattern(1, MIB))
        os.mkdir(self.m.disk('d', 's'))
        with open(self.m.image('d', 's'), 'rb') as file, \
                mmap.mmap(file.fileno(), MIB, prot=mmap.PROT_READ, flags=mmap.MAP_SHARED) as memory:
            self.assertEqual(memory[:], pattern(1, MIB))
        with open(self.image, 'r+b') as file, mmap.mmap(file.fileno(), MIB) as memory:
            self.assertEqual(memory[:100], pattern(1, MIB)[:100])
            write_at(self.image, 50, b'written')
            self.assertEqual(memory[50:57], b'written')
            memory[5000:5010] = b'by mapping'
            memory.flush()
        self.assertEqual(read_at(self.image, 5000, 10), b'by mapping')
        self.m.remount()
        self.assertEqual(read_at(self.image, 5000, 10), b'by mapping')

    def test_holes_are_found(self):
        big = self.m.make_disk('big', 1024 * GIB)
        write_at(big, 512 * GIB + 5, b'data')
        write_at(big, 900 * GIB, pattern(1, MIB))
        os.mkdir(self.m.disk('big', 's'))
        self.wait_complete(self.m.disk('big', 's'))
        for path in (big, self.m.image('big', 's')):
            begin = time.monotonic()
            found = extents(path)
            self.assertLess(time.monotonic() - begin, 2, path)
            self.assertEqual(len(found), 2, path)
            self.assertLessEqual(found[0][0], 512 * GIB + 5)
            self.assertGreaterEqual(found[0][1], 512 * GIB + 9)
            self.assertEqual(found[1], (900 * GIB, 900 * GIB + MIB))
            with open(path, 'rb') as file:
                self.refused(errno.ENXIO, os.lseek, file.fileno(), 1024 * GIB, os.SEEK_HOLE)
                self.assertEqual(os.lseek(file.fileno(), 1024 * GIB - 1, os.SEEK_HOLE), 1024 * GIB - 1)

    def test_punching(self):
        data = pattern(2, 4 * MIB)
        write_at(self.image, 0, data)
        os.mkdir(self.m.disk('d', 's'))
        model = bytearray(data + bytes(60 * MIB))
        with open(self.image, 'r+b', buffering=0) as file:
            fd = file.fileno()
            self.assertEqual(os.pread(fd, 64 * MIB, 0), bytes(model))
            for mode, at, size in ((PUNCH_HOLE | KEEP_SIZE, MIB, MIB), (PUNCH_HOLE | KEEP_SIZE, 100, 5000),
                                   (ZERO_RANGE, 3 * MIB - 7, 100_000), (ZERO_RANGE | KEEP_SIZE, 64 * MIB - 10, MIB)):
                fallocate(fd, mode, at, size)
                end = min(at + size, 64 * MIB)
                model[at:end] = bytes(end - at)
                self.assertEqual(os.pread(fd, 64 * MIB, 0), bytes(model), f'{mode:#x} at {at}')
            self.assertEqual(os.fstat(fd).st_size, 64 * MIB)
            fallocate(fd, ZERO_RANGE, 64 * MIB, MIB)
            self.assertEqual(os.fstat(fd).st_size, 65 * MIB)
            fallocate(fd, 0, 65 * MIB, MIB)
            self.assertEqual(os.fstat(fd).st_size, 66 * MIB)
            fallocate(fd, KEEP_SIZE, 70 * MIB, MIB)
            self.assertEqual(os.fstat(fd).st_size, 66 * MIB)
            self.refused(errno.EOPNOTSUPP, fallocate, fd, COLLAPSE_RANGE, 0, MIB)
        self.assertEqual(read_at(self.m.image('d', 's'), 0, 4 * MIB), data)
        self.m.remount()
        self.assertEqual(read_at(self.image, 0, 64 * MIB), bytes(model))
        self.assertEqual(read_at(self.m.image('d', 's'), 0, 4 * MIB), data)

    def test_the_cache_outlives_opening_and_writing(self):
        write_at(self.image, 0, pattern(1, 8 * MIB))
        os.mkdir(self.m.disk('d', 's'))
        for path in (self.image, self.m.image('d', 's')):
            with open(path, 'rb') as file:
                file.read()
        write_at(self.image, 20 * MIB, b'elsewhere')
        for path in (self.image, self.m.image('d', 's')):
            with open(path, 'rb') as file, mmap.mmap(file.fileno(), 8 * MIB, prot=mmap.PROT_READ) as memory:
                # What mincore(2) says of one's own file.
                pages = 8 * MIB // mmap.PAGESIZE
                present = (ctypes.c_ubyte * pages)()
                # The mapping's address: ctypes can't take it from a read-only mapping.
                where = address_of(path)
                self.assertEqual(libc.mincore(ctypes.c_void_p(where), ctypes.c_size_t(8 * MIB), present), 0)
                self.assertGreater(sum(flag & 1 for flag in present), pages * 0.9, path)

    def test_set_attributes_beyond_reason(self):
        self.refused(errno.EFBIG, os.truncate, self.image, 1 << 61)
        self.assertEqual(os.stat(self.image).st_size, 64 * MIB)


def address_of(path):
    """Where this process has `path` mapped."""
    with open('/proc/self/maps', encoding='utf-8') as maps:
        for line in maps:
            if line.rstrip().endswith(path):
                return int(line.split('-')[0], 16)
    raise AssertionError('not mapped')


WRITERS = 8
BLOCK = 4 * KIB
BLOCKS_EACH = 16384  # of which a test uses what it gets to


def write_in_order(stop, path, number, acknowledged, direct):
    """Block after block, each holding its number; `acknowledged` counts those whose write has returned."""
    fd = os.open(path, os.O_RDWR | (os.O_DIRECT if direct else 0))
    with aligned(bytes(BLOCK)) as block:
        for i in range(BLOCKS_EACH):
            if stop.is_set():
                break
            struct.pack_into('<QQ', block, 0, number + 1, i + 1)
            os.pwritev(fd, [block], (number * BLOCKS_EACH + i) * BLOCK)
            acknowledged[number] = i + 1
            if not i % 97:
                os.fsync(fd)
    os.close(fd)


class OneInstant(MountTest):
    """Promise 1: each of eight writers finds exactly a prefix of its writes in every snapshot: all that were
    acknowledged before mkdir was called, none that was issued after it returned."""

    def check(self, direct):
        image = self.m.make_disk('d', WRITERS * BLOCKS_EACH * BLOCK)
        context = multiprocessing.get_context('fork')
        acknowledged = context.Array('Q', WRITERS, lock=False)
        stop = context.Event()
        workers = [context.Process(target=write_in_order, args=(stop, image, i, acknowledged, direct))
                   for i in range(WRITERS)]
        bounds = []
        for worker in workers:
            worker.start()
        try:
            wait_for(lambda: min(acknowledged) > 10, 30, 'first writes')
            for i in range(12):
                before = list(acknowledged)
                os.mkdir(self.m.disk('d', f's{i}'))
                bounds.append((before, list(acknowledged)))
                time.sleep(0.1)
            at_end = list(acknowledged)
        finally:
            stop.set()
            for worker in workers:
                worker.join()
        self.assertEqual([worker.exitcode for worker in workers], [0] * WRITERS)
        say(f'{sum(at_end)} writes in {len(bounds)} snapshots')
        for _ in range(2):
            for i, (before, after) in enumerate(bounds):
                with open(self.m.image('d', f's{i}'), 'rb', buffering=0) as snapshot:
                    for writer in range(WRITERS):
                        count = self.prefix(snapshot.fileno(), writer, after[writer] + 20)
                        # One more may have been on its way, acknowledged but not yet counted.
                        self.assertTrue(before[writer] <= count <= after[writer] + 1,
                                        f's{i}, writer {writer}: {before[writer]} <= {count} <= {after[writer]}')
            self.m.remount()

    def prefix(self, fd, writer, most):
        """The blocks that a snapshot has of a writer, after checking that nothing is behind the first gap."""
        data = os.pread(fd, most * BLOCK, writer * BLOCKS_EACH * BLOCK)
        numbers = [struct.unpack_from('<QQ', data, at) for at in range(0, len(data), BLOCK)]
        count = next((i for i, number in enumerate(numbers) if number == (0, 0)), len(numbers))
        self.assertEqual(numbers[:count], [(writer + 1, i + 1) for i in range(count)])
        self.assertEqual(set(numbers[count:]) | {(0, 0)}, {(0, 0)})
        return count

    def test_buffered(self):
        self.check(direct=False)

    def test_direct(self):
        self.check(direct=True)


if __name__ == '__main__':
    main()
