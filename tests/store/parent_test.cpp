// What only a deleted snapshot had comes back, also when that was the newest, which the live disk stands on.
#include <gtest/gtest.h>

#include <condition_variable>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "store_fixture.h"
#include "support/expect.h"

namespace varve::store {
namespace {

using Content = std::vector<std::byte>;

constexpr std::uint64_t kChunk = kDefaultChunkSize;

/// Does not compress, and is never the same twice.
Content noise(std::size_t size) {
  static std::mt19937_64 random(7);
  Content bytes(size);
  for (auto& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

class ParentFallsBack : public StoreFixture {
 protected:
  void SetUp() override {
    StoreFixture::SetUp();
    auto made = store_->create_disk("a", Attributes{0, 0, 0755, {}});
    ASSERT_TRUE(made);
    disk_ = *made;
    ASSERT_TRUE(disk_->create_image(Attributes{0, 0, 0644, {}}));
    write(0, 8);
  }
  void write(std::uint64_t chunk, std::uint64_t chunks) {
    ASSERT_TRUE(disk_->live().write(ByteOffset{chunk * kChunk}, noise(chunks * kChunk)));
  }
  SnapshotId take(const std::string& name) {
    const auto taken = disk_->take_snapshot(name, Attributes{0, 0, 0755, {}});
    EXPECT_TRUE(taken);
    return taken ? taken->id : SnapshotId{};
  }
  SnapshotId complete(const std::string& name) {
    const SnapshotId id = take(name);
    EXPECT_TRUE(store_->step_commit(disk_->id()).value_or(false));
    return id;
  }
  void remove(SnapshotId id) { EXPECT_TRUE(disk_->remove_snapshot(id)); }
  void upkeep() { EXPECT_TRUE(store_->step_upkeep(disk_->id())); }
  std::size_t packs_after_collect() {
    EXPECT_TRUE(store_->collect({}));
    std::size_t packs = 0;
    const auto folders = machine_.storage.list("packs").value();
    for (const auto& folder : folders) packs += machine_.storage.list("packs/" + folder.name).value().size();
    return packs;
  }
  Content live() {
    Content bytes(8 * kChunk);
    EXPECT_EQ(disk_->live().read(ByteOffset{0}, bytes).value_or(0), bytes.size());
    return bytes;
  }
  Content content_of(SnapshotId id) {
    Content bytes(8 * kChunk);
    EXPECT_EQ(disk_->read_snapshot(id, ByteOffset{0}, bytes).value_or(0), bytes.size());
    return bytes;
  }

  std::shared_ptr<Disk> disk_;
};

TEST_F(ParentFallsBack, AndTheNewestSnapshotsSpaceComesBackAtOnce) {
  const SnapshotId first = complete("s1");
  const std::size_t with_one = packs_after_collect();
  const Content before = live();
  write(2, 4);
  const SnapshotId second = complete("s2");
  EXPECT_GT(packs_after_collect(), with_one);
  remove(second);
  upkeep();
  EXPECT_EQ(packs_after_collect(), with_one);
  EXPECT_EQ(content_of(first), before);
  const Content now = live();
  const SnapshotId third = complete("s3");  // nothing was written since
  EXPECT_EQ(content_of(third), now);
}

TEST_F(ParentFallsBack, ToNothingWithTheLastSnapshot) {
  remove(complete("s1"));
  upkeep();
  EXPECT_EQ(packs_after_collect(), 0U);
  const Content now = live();
  EXPECT_EQ(content_of(complete("s2")), now);
}

TEST_F(ParentFallsBack, NotWhileAPendingSnapshotNeedsIt) {
  remove(complete("s1"));
  write(1, 1);
  const SnapshotId second = take("s2");
  const Content then = live();
  upkeep();
  EXPECT_GT(packs_after_collect(), 0U);
  EXPECT_EQ(content_of(second), then);
  EXPECT_TRUE(store_->step_commit(disk_->id()).value_or(false));
  EXPECT_EQ(content_of(second), then);
  remove(second);
  upkeep();
  EXPECT_EQ(packs_after_collect(), 0U);
}

TEST_F(ParentFallsBack, AlsoWhenThePendingOneIsDeletedAsWell) {
  remove(complete("s1"));
  write(1, 1);
  remove(take("s2"));
  upkeep();
  EXPECT_EQ(packs_after_collect(), 0U);
  const Content now = live();
  EXPECT_EQ(content_of(complete("s3")), now);
}

TEST_F(ParentFallsBack, AfterTheNextMountIfNotBefore) {
  remove(complete("s1"));
  ASSERT_TRUE(store_->close());
  disk_.reset();
  store_.reset();
  open();
  disk_ = store_->find_disk("a").value();
  upkeep();
  EXPECT_EQ(packs_after_collect(), 0U);
}

TEST_F(ParentFallsBack, NotWhileItsSnapshotIsThere) {
  (void)complete("s1");
  write(0, 1);
  (void)complete("s2");
  const auto before = disk_->live().parent_root();
  upkeep();
  EXPECT_EQ(disk_->live().parent_root(), before);
  EXPECT_EQ(disk_->live().counters().changed_blocks, 0U);
}

TEST_F(ParentFallsBack, WithTheImageThatIsRemoved) {
  remove(complete("s1"));
  ASSERT_TRUE(disk_->remove_image());
  upkeep();
  EXPECT_EQ(packs_after_collect(), 0U);
}

/// Both have begun before either goes on: with their locks in different orders neither would end.
TEST_F(ParentFallsBack, WhileItsDiskIsRemoved) {
  remove(complete("s1"));
  ASSERT_TRUE(disk_->remove_image());
  const DiskId id = disk_->id();
  std::mutex mutex;
  std::condition_variable changed;
  bool tidies = false;
  bool logs = false;
  machine_.storage.calls().set_hook([&](std::string_view action, std::string_view path) {
    std::unique_lock lock(mutex);
    if (action == "punch" && path.ends_with("home.img") && !tidies) {
      tidies = true;
      changed.notify_all();
      changed.wait(lock, [&] { return logs; });
    } else if (path.starts_with("disks/")) {
      logs = true;
      changed.notify_all();
    }
  });
  std::thread upkeep([&] { (void)store_->step_upkeep(id); });
  {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return tidies; });
  }
  EXPECT_TRUE(store_->remove_disk(id));
  upkeep.join();
  machine_.storage.calls().set_hook({});
  disk_.reset();
  EXPECT_EQ(packs_after_collect(), 0U);
}

}  // namespace
}  // namespace varve::store
