#!/bin/sh
# The first process of the guest (guest.py), whose root is this machine's, read-only. Its environment is the kernel's
# command line: GUEST_BASE is a directory with mountpoints and what else belongs to the test, GUEST_VARVE the program,
# GUEST_OPTIONS those of the filesystem on the disk, GUEST_MOUNT those of varve, GUEST_PRELOAD what varve is to load,
# GUEST_JOB a script that goes on.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs run /run
modules=/usr/lib/uml/modules/$(uname -r)/kernel
insmod "$modules/fs/fuse/fuse.ko"
insmod "$modules/drivers/block/loop.ko"
mount -o "$GUEST_OPTIONS" /dev/ubda "$GUEST_BASE/disk"
echo "guest: disk"
LD_PRELOAD=$GUEST_PRELOAD "$GUEST_VARVE" mount -f ${GUEST_MOUNT:+-o "$GUEST_MOUNT"} \
  "$GUEST_BASE/disk/store" "$GUEST_BASE/mnt" &
daemon=$!
until [ -d "$GUEST_BASE/mnt/.varve" ]; do
  [ -d "/proc/$daemon" ] || break
  sleep 0.02
done
echo "guest: mounted"
. "$GUEST_JOB"
echo "guest: done"
wait
echo o >/proc/sysrq-trigger
sleep 60
