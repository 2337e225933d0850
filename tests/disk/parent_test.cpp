// P, when the snapshot whose map it was is deleted.
#include <gtest/gtest.h>

#include <algorithm>
#include <thread>
#include <vector>

#include "modeled_disk.h"
#include "support/expect.h"

namespace varve::disk {
namespace {

using test::End;
using test::kTestChunk;
using test::ModeledDisk;

constexpr std::uint64_t kChunks = 8;

class ParentOfALiveDisk : public ::testing::Test {
 protected:
  /// Two complete snapshots: the second changed chunks 1 and 2. P is the second's map.
  void SetUp() override {
    ASSERT_TRUE(disk_.open());
    disk_.create();
    disk_.resize(kChunks * kTestChunk);
    disk_.write_stamped(0, 4 * kTestChunk);
    disk_.freeze();
    disk_.commit();
    disk_.write_stamped(kTestChunk, 2 * kTestChunk);
    disk_.freeze();
    disk_.commit();
  }
  LiveDisk& live() { return disk_.disk(); }
  OpaqueRoot older() const { return disk_.complete().front().root; }
  OpaqueRoot newer() const { return disk_.complete().back().root; }
  [[nodiscard]] bool names(const OpaqueRoot& root) {
    const auto roots = live().roots();
    return std::ranges::find(roots, root) != roots.end();
  }
  ModeledDisk disk_;
};

TEST_F(ParentOfALiveDisk, IsKnown) {
  const auto parent = live().parent();
  EXPECT_EQ(parent.root, newer());
  EXPECT_TRUE(parent.needed_live);
  EXPECT_FALSE(parent.needed_pending);
  EXPECT_FALSE(parent.also_base);
  disk_.freeze();
  EXPECT_TRUE(live().parent().needed_pending);
  disk_.splice(0, 1, disk_.complete().back(), 0, 0);
  EXPECT_TRUE(live().parent().also_base);
}

TEST_F(ParentOfALiveDisk, FallsBackAndTheOldRootIsFree) {
  const OpaqueRoot gone = newer();
  ASSERT_TRUE(disk_.replace_parent(older()));
  EXPECT_EQ(live().parent_root(), older());
  EXPECT_FALSE(names(gone));
  disk_.forget_complete(1);
  disk_.collect();
  disk_.verify();
  disk_.drain();  // the next snapshot is exact although nothing was written since
}

TEST_F(ParentOfALiveDisk, CanBeNothing) {
  ASSERT_TRUE(disk_.replace_parent({}));
  disk_.forget_complete(0);
  disk_.forget_complete(0);
  disk_.collect();
  EXPECT_TRUE(live().roots().empty());
  disk_.drain();
}

/// The marks go with the freeze: who comes next would lack them.
TEST_F(ParentOfALiveDisk, IsNotSwitchedWhenASnapshotWasTakenMeanwhile) {
  const OpaqueRoot before = newer();
  const auto done = live().replace_parent(before, older(), [&](const MarkChunks& mark) -> Status {
    mark(ChunkIndex{1}, ChunkCount{2});
    disk_.freeze();
    return {};
  });
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().code, EAGAIN);
  EXPECT_EQ(live().parent_root(), before);
  disk_.drain();
}

TEST_F(ParentOfALiveDisk, IsNotSwitchedWhenASnapshotWasTakenAndDroppedMeanwhile) {
  const auto done = live().replace_parent(newer(), older(), [&](const MarkChunks& mark) -> Status {
    mark(ChunkIndex{1}, ChunkCount{2});
    disk_.freeze();
    disk_.drop(0);
    return {};
  });
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().code, EAGAIN);
  disk_.drain();
}

TEST_F(ParentOfALiveDisk, OldOrNewAfterEveryDeathWithItsRootNamed) {
  for (std::uint64_t seed = 0; seed < 8; ++seed) {
    for (std::uint64_t nth = 1;; ++nth) {
      ModeledDisk disk(seed);
      ASSERT_TRUE(disk.open());
      disk.create();
      disk.resize(kChunks * kTestChunk);
      disk.write_stamped(0, 4 * kTestChunk);
      disk.freeze();
      disk.commit();
      disk.write_stamped(kTestChunk, 2 * kTestChunk);
      disk.freeze();
      disk.commit();
      const OpaqueRoot before = disk.disk().parent_root();
      const OpaqueRoot after = disk.complete().front().root;
      disk.forget_complete(1);
      disk.die_at(nth);
      disk.replace_parent(after);
      const bool reached = disk.dead();
      disk.recover(seed % 2 == 0 ? End::kill : End::power_loss, seed);
      disk.collect();
      const OpaqueRoot found = disk.disk().parent_root();
      EXPECT_TRUE(found == before || found == after);
      disk.verify();
      disk.drain();
      if (HasFailure()) return;
      if (!reached) break;
    }
  }
}

/// Until the seal a power loss brings the old one back.
TEST_F(ParentOfALiveDisk, Rule1TheOldOneIsNamedUntilTheSealThatForgetsIt) {
  const OpaqueRoot gone = newer();
  int syncs = 0;
  disk_.machine().storage.calls().set_hook([&](std::string_view action, std::string_view path) {
    if (action != "sync" || !os::leaf_of(path).starts_with("journal")) return;
    ++syncs;
    EXPECT_TRUE(names(gone));
  });
  EXPECT_TRUE(disk_.replace_parent(older()));
  disk_.machine().storage.calls().set_hook({});
  EXPECT_GT(syncs, 0);
  EXPECT_FALSE(names(gone));
}

/// What an image of another time has no use for is let go of without looking at it.
TEST_F(ParentOfALiveDisk, OfAnImageThatIsGoneIsNeededByNobody) {
  disk_.remove();
  EXPECT_FALSE(live().parent().needed_live);
  disk_.create();
  EXPECT_FALSE(live().parent().needed_live);
  ASSERT_TRUE(disk_.replace_parent({}));
  EXPECT_TRUE(live().roots().empty());
  disk_.resize(kTestChunk);
  disk_.drain();
}

TEST_F(ParentOfALiveDisk, CanBeOfAnImageThatWasLarger) {
  disk_.resize(2 * kTestChunk);
  disk_.freeze();
  disk_.commit();
  ASSERT_TRUE(disk_.replace_parent(older()));
  disk_.resize(kChunks * kTestChunk);
  disk_.verify();
  disk_.drain();
}

TEST_F(ParentOfALiveDisk, ChangesUnderWritersAndLosesNothing) {
  std::thread writer([&] {
    const test::Content bytes(kTestChunk, std::byte{7});
    for (int i = 0; i < 200; ++i) {
      EXPECT_TRUE(live().write(ByteOffset{static_cast<std::uint64_t>(i % 8) * kTestChunk}, bytes));
    }
  });
  for (int i = 0; i < 20; ++i) {
    const OpaqueRoot to = i % 2 == 0 ? older() : newer();
    EXPECT_TRUE(live().replace_parent(live().parent_root(), to, [&](const MarkChunks& mark) -> Status {
      mark(ChunkIndex{1}, ChunkCount{2});
      return {};
    }));
  }
  writer.join();
  const auto frozen = live().freeze(SnapshotId{100}, SnapshotId{0}, "s", "{}");
  ASSERT_TRUE(frozen);
  EXPECT_EQ(frozen->changed_blocks, kChunks * kTestChunk / kBlockSize);
}

}  // namespace
}  // namespace varve::disk
