#!/usr/bin/env python3
"""Little memory, and a buffered loop device on a live image: the kernel wants memory back that only varve can clean.

A guest (guest.py) with 96 MiB, a quarter of which its kernel takes; ext4 on a buffered loop device on our live image;
more than its memory is written by several at once, while snapshots are taken and read. Nothing hangs, nobody is killed
for memory, and every byte is right, on the live image and in the snapshots.

VARVE_MEMORY_ROUNDS=20 for the long run (default 1).
"""
import os
import random
import re
import unittest

import harness
from guest import Guest, why_no_guests
from harness import MIB, main, run, same_content, say

ROUNDS = int(os.environ.get('VARVE_MEMORY_ROUNDS', '1'))
WRITERS = 4
PIECE = 32 * MIB
SNAPSHOTS = 3
# A hang is for ever; this is only for a slow machine.
PATIENCE = 400
# Of <linux/sched.h>: what PR_SET_IO_FLUSHER sets.
PF_MEMALLOC_NOIO, PF_LOCAL_THROTTLE = 0x00080000, 0x00100000

JOB = f"""
loop=$(losetup -f --show "$GUEST_BASE/mnt/d/disk.img")
mkfs.ext4 -q "$loop"
mkdir /run/fs
mount "$loop" /run/fs
for i in $(seq {WRITERS}); do
  dd if="$GUEST_BASE/data$i" of=/run/fs/file$i bs=1M status=none &
  writers="$writers $!"
done
echo "guest: writing"
for i in $(seq {SNAPSHOTS}); do
  sleep 0.5
  mkdir "$GUEST_BASE/mnt/d/s$i"
  echo "guest: snapshot $i"
  cat "$GUEST_BASE/mnt/d/s$i/disk.img" >/dev/null
  echo "guest: snapshot $i was read"
done
wait $writers
echo "guest: written"
umount /run/fs
losetup -d "$loop"
echo "guest: synced"
mkdir "$GUEST_BASE/mnt/d/last"
echo "guest: oom_score_adj $(cat "/proc/$daemon/oom_score_adj")"
echo "guest: peak $(grep VmHWM "/proc/$daemon/status")"
cut -d' ' -f2,9 /proc/$daemon/task/*/stat | while read -r thread; do echo "guest: thread $thread"; done
umount "$GUEST_BASE/mnt"
wait "$daemon"
echo "guest: daemon ended with $?"
umount "$GUEST_BASE/disk"
"""


class Memory(unittest.TestCase):
    def setUp(self):
        self.guest = Guest(1536 * MIB, memory='96M')
        self.addCleanup(self.guest.close)
        for i in range(1, WRITERS + 1):
            with open(self.data(i), 'wb') as file:
                file.write(random.Random(i).randbytes(PIECE))

    def data(self, number):
        return os.path.join(self.guest.base, f'data{number}')

    def image(self, *snapshot):
        return os.path.join(self.guest.mnt, 'd', *snapshot, 'disk.img')

    def make_store(self):
        self.guest.mount_disk()
        run(harness.varve, 'init', self.guest.store)
        self.guest.mount()
        os.mkdir(os.path.join(self.guest.mnt, 'd'))
        with open(self.image(), 'wb') as image:
            image.truncate(256 * MIB)
        self.guest.umount()
        self.guest.umount_disk()

    def check_console(self, text):
        say(re.search('guest: (peak.*)', text).group(1))
        self.assertNotRegex(text, '(?i)out of memory|oom-kill|hung|blocked for more')
        self.assertIn('guest: daemon ended with 0', text)
        self.assertIn('guest: oom_score_adj -900', text)
        flags = [int(found) for found in re.findall(r'guest: thread .*\) (\d+)', text)]
        self.assertGreater(len(flags), 10)
        for each in flags:
            self.assertEqual(each & PF_MEMALLOC_NOIO, PF_MEMALLOC_NOIO, 'a thread that is no PR_SET_IO_FLUSHER')
            self.assertEqual(each & PF_LOCAL_THROTTLE, PF_LOCAL_THROTTLE, 'a thread that is no PR_SET_IO_FLUSHER')

    def check_content(self):
        """All files on the live image and in the last snapshot; the snapshots of the middle are filesystems."""
        self.guest.mount_disk()
        self.guest.mount()
        run('e2fsck', '-fn', self.image())
        self.assertTrue(same_content(self.image(), self.image('last')))
        where = os.path.join(self.guest.base, 'fs')
        os.makedirs(where, exist_ok=True)
        run('mount', '-o', 'loop,ro,noload', self.image('last'), where)
        try:
            for i in range(1, WRITERS + 1):
                self.assertTrue(same_content(os.path.join(where, f'file{i}'), self.data(i)), f'file {i}')
        finally:
            run('umount', where)
        for i in range(1, SNAPSHOTS + 1):
            copy = os.path.join(self.guest.base, 'copy')
            run('cp', '--sparse=always', self.image(f's{i}'), copy)
            run('e2fsck', '-fp', copy, check=False)  # replays the journal
            run('e2fsck', '-fn', copy)
        run(harness.varve, 'check', self.guest.mnt)
        self.guest.umount()
        self.guest.umount_disk()

    def test_a_buffered_loop_with_little_memory(self):
        for i in range(ROUNDS):
            self.guest.format()
            self.make_store()
            self.guest.boot(JOB, mount='', options='defaults')
            try:
                self.guest.wait_for_line('guest: done', PATIENCE)
            except AssertionError as error:
                raise AssertionError(f'round {i}: a hang; the console says how far it came') from error
            self.guest.cut()
            self.check_console(self.guest.console_text())
            self.check_content()


if __name__ == '__main__':
    main(why_no_guests())
