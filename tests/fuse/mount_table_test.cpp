#include "varve/fuse/mount_table.h"

#include <gtest/gtest.h>

namespace varve::fuse {
namespace {

constexpr std::string_view kTable =
    "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
    "40 22 0:40 / /mnt/with\\040space rw,nosuid shared:7 master:2 - fuse.varve /srv/a\\134b rw,user_id=0\n"
    "41 22 0:41 / /mnt/v rw - tmpfs tmpfs rw\n"
    "not a line of the table\n"
    "42 41 0:42 / /mnt/v rw - fuse.varve /srv/store rw\n";

TEST(MountTable, NamesAreUnescaped) {
  const auto table = parse_mount_table(kTable);
  ASSERT_EQ(table.size(), 4);
  EXPECT_EQ(table[1].mountpoint, "/mnt/with space");
  EXPECT_EQ(table[1].source, "/srv/a\\b");
  EXPECT_EQ(table[1].type, kMountType);
  EXPECT_EQ(table[1].device, "0:40");
}

TEST(MountTable, TheTopmostMountCounts) {
  const auto table = parse_mount_table(kTable);
  const auto* entry = mounted_at(table, "/mnt/v");
  ASSERT_NE(entry, nullptr);
  EXPECT_EQ(entry->device, "0:42");
  EXPECT_EQ(mounted_at(table, "/mnt"), nullptr);
}

TEST(MountTable, OfThisProcessHasARoot) {
  const auto table = read_mount_table();
  EXPECT_NE(mounted_at(table, "/"), nullptr);
}

}  // namespace
}  // namespace varve::fuse
