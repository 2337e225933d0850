#include "varve/fuse/inode.h"

#include <gtest/gtest.h>

#include <random>

namespace varve::fuse {
namespace {

NodeId node(NodeKind kind, std::uint64_t disk, std::uint64_t minor = 0) {
  NodeId id{.kind = kind, .disk = DiskId{disk}, .snapshot = {}, .incarnation = {}};
  if (kind == NodeKind::live_image) id.incarnation = Incarnation{minor};
  if (kind == NodeKind::snapshot || kind == NodeKind::snapshot_image) id.snapshot = SnapshotId{minor};
  return id;
}

// The numbers are promised to be stable across versions: backup tools keep them.
TEST(Inode, NumbersAreAsDocumented) {
  EXPECT_EQ(to_ino(node(NodeKind::root, 0)), 1);
  EXPECT_EQ(to_ino(node(NodeKind::control_directory, 0)), 2);
  EXPECT_EQ(to_ino(node(NodeKind::status_file, 0)), 3);
  EXPECT_EQ(to_ino(node(NodeKind::metrics_file, 0)), 4);
  EXPECT_EQ(to_ino(node(NodeKind::disk, 7)), 0x7'0000'0000);
  EXPECT_EQ(to_ino(node(NodeKind::live_image, 7, 3)), 0x7'0000'000d);
  EXPECT_EQ(to_ino(node(NodeKind::snapshot, 7, 3)), 0x7'0000'000e);
  EXPECT_EQ(to_ino(node(NodeKind::snapshot_image, 7, 3)), 0x7'0000'000f);
}

TEST(Inode, EveryNumberSaysWhatItNames) {
  for (const NodeKind kind : {NodeKind::disk, NodeKind::live_image, NodeKind::snapshot, NodeKind::snapshot_image}) {
    for (const std::uint64_t disk : {std::uint64_t{1}, std::uint64_t{77}, kDiskIdLimit - 1}) {
      for (const std::uint64_t minor : {std::uint64_t{1}, std::uint64_t{12345}, kMinorIdLimit - 1}) {
        const NodeId id = node(kind, disk, kind == NodeKind::disk ? 0 : minor);
        const auto ino = to_ino(id);
        ASSERT_TRUE(ino);
        EXPECT_EQ(from_ino(*ino), id);
      }
    }
  }
}

TEST(Inode, IdsThatDoNotFitHaveNoNumber) {
  EXPECT_FALSE(to_ino(node(NodeKind::disk, 0)));
  EXPECT_FALSE(to_ino(node(NodeKind::disk, kDiskIdLimit)));
  EXPECT_FALSE(to_ino(node(NodeKind::snapshot, 1, 0)));
  EXPECT_FALSE(to_ino(node(NodeKind::snapshot, 1, kMinorIdLimit)));
  EXPECT_FALSE(to_ino(node(NodeKind::live_image, 1, kMinorIdLimit)));
}

TEST(Inode, AnyNumberIsUnderstoodOrRefused) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 100'000; ++i) {
    const Ino ino = random() >> (random() % 64);
    const auto id = from_ino(ino);
    EXPECT_TRUE(!id || to_ino(*id) == ino) << ino;
  }
  EXPECT_FALSE(from_ino(0));
  EXPECT_FALSE(from_ino(5));
}

}  // namespace
}  // namespace varve::fuse
