// Store::diff of whatever images there are: complete, pending, live, of one disk and of two.
#include <gtest/gtest.h>

#include "machine_store.h"
#include "support/expect.h"
#include "varve/store/store.h"

namespace varve::store {
namespace {

using snapshot::Extent;
using test::Machine;

constexpr std::uint64_t kChunk = kDefaultChunkSize;

class StoreDiff : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_OK(Store::init(machine_.storage, {})); }
  void open(bool background) {
    OpenOptions options;
    options.background = background;
    auto opened = Store::open(test::environment_on(machine_), options);
    ASSERT_OK(opened);
    store_ = std::move(*opened);
    auto disk = store_->create_disk("web01", {});
    ASSERT_OK(disk);
    disk_ = *disk;
    ASSERT_OK(disk_->create_image({}));
    ASSERT_OK(disk_->live().resize(ByteCount{100 * kChunk}));
  }
  void write(std::uint64_t block, std::size_t blocks, int value) {
    const std::vector<std::byte> bytes(blocks * kBlockSize, std::byte(value));
    ASSERT_OK(disk_->live().write(ByteOffset{block * kBlockSize}, bytes));
  }
  SnapshotId take(const std::string& name) {
    const auto taken = disk_->take_snapshot(name, {});
    EXPECT_OK(taken);
    return taken ? taken->id : SnapshotId{};
  }
  Result<std::vector<Extent>> diff(const ImageName& a, const ImageName& b) {
    std::vector<Extent> found;
    VARVE_TRY(store_->diff(a, b, [&](const Extent& extent) -> Status {
      found.push_back(extent);
      return {};
    }, {}, {}));
    return found;
  }
  ImageName snapshot(SnapshotId id) { return {disk_, id}; }
  ImageName live() { return {disk_, SnapshotId{}}; }
  static std::vector<Extent> blocks(std::initializer_list<std::pair<std::uint64_t, std::uint64_t>> extents) {
    std::vector<Extent> out;
    for (const auto& [block, count] : extents) out.push_back({ByteOffset{block * kBlockSize}, ByteCount{count * kBlockSize}});
    return out;
  }

  Machine machine_;
  std::unique_ptr<Store> store_;
  std::shared_ptr<Disk> disk_;
};

TEST_F(StoreDiff, PendingSnapshotsAreCompletedAndTheLiveImageIsTakenForAMoment) {
  open(false);
  write(3, 40, 1);
  const auto a = take("a");
  write(5, 1, 2);
  write(700, 3, 2);
  const auto b = take("b");
  write(6, 1, 3);
  ASSERT_EQ(disk_->live().pending_count(), 2U);
  EXPECT_EQ(diff(snapshot(a), snapshot(b)), blocks({{5, 1}, {700, 3}}));
  EXPECT_EQ(disk_->snapshot(b)->state, SnapshotStateKind::complete);
  EXPECT_EQ(diff(snapshot(b), live()), blocks({{6, 1}}));
  EXPECT_EQ(diff(live(), snapshot(a)), blocks({{5, 2}, {700, 3}}));
  EXPECT_EQ(diff(live(), live()), blocks({}));
  EXPECT_EQ(disk_->snapshot_count(), 2U) << "a snapshot that was taken for the diff stays";
  // A block written with what was there before does not differ.
  write(6, 1, 1);
  EXPECT_EQ(diff(snapshot(b), live()), blocks({}));
}

TEST_F(StoreDiff, OfTwoDisks) {
  open(false);
  write(0, 50, 1);
  const auto a = take("a");
  const auto other = store_->clone(snapshot(a), "web02", {});
  ASSERT_OK(other);
  EXPECT_EQ(diff(snapshot(a), {*other, SnapshotId{}}), blocks({}));
  const std::vector<std::byte> bytes(kBlockSize, std::byte{9});
  ASSERT_OK((*other)->live().write(ByteOffset{17 * kBlockSize}, bytes));
  EXPECT_EQ(diff(snapshot(a), {*other, SnapshotId{}}), blocks({{17, 1}}));
  EXPECT_EQ(diff({*other, SnapshotId{}}, live()), blocks({{17, 1}}));
}

TEST_F(StoreDiff, WithTheBackgroundAtWork) {
  open(true);
  write(0, 300, 1);
  const auto a = take("a");
  write(100, 1, 2);
  EXPECT_EQ(diff(snapshot(a), live()), blocks({{100, 1}}));
}

TEST_F(StoreDiff, SnapshotsMayBeDeletedAndCollectedMeanwhile) {
  open(false);
  write(0, 300, 1);
  const auto a = take("a");
  for (std::uint64_t block = 0; block < 300; block += 2) write(block, 1, 2);
  const auto b = take("b");
  ASSERT_OK(diff(snapshot(a), snapshot(b)));
  std::size_t seen = 0;
  const auto compared = store_->diff(snapshot(a), snapshot(b), [&](const Extent&) -> Status {
    if (++seen > 1) return {};
    VARVE_TRY(disk_->remove_snapshot(a));
    VARVE_TRY(disk_->remove_snapshot(b));
    VARVE_TRY(disk_->remove_image());
    VARVE_TRY(store_->collect({}));
    return {};
  }, {}, {});
  ASSERT_OK(compared);
  EXPECT_EQ(seen, 150U);
  EXPECT_FAILS(diff(snapshot(a), snapshot(b)), ENOENT);
  EXPECT_FAILS(diff(live(), live()), ENODATA);
}

TEST_F(StoreDiff, IsStoppedWhileItWaitsForACommit) {
  open(false);
  write(0, 10, 1);
  const auto a = take("a");
  EXPECT_FAILS(store_->diff(snapshot(a), live(), [](const Extent&) { return Status{}; }, {}, [] { return true; }), ECANCELED);
  EXPECT_EQ(disk_->snapshot_count(), 1U);
}

TEST_F(StoreDiff, ACommitThatFailsTimeAndAgainIsNotWaitedForForEver) {
  open(true);
  write(0, 10, 1);
  machine_.storage.fill_up();
  const auto a = take("a");
  EXPECT_FAILS(diff(snapshot(a), live()), ENOSPC);
  machine_.storage.set_capacity(ByteCount{kGiB});
  // And when there is space again it is.
  EXPECT_TRUE(store_->wait_until_quiet(std::chrono::minutes{1}));
  EXPECT_EQ(diff(snapshot(a), live()), blocks({}));
}

}  // namespace
}  // namespace varve::store
