// Small packs share files in a store, by collect and by itself; check tells of damage to such a file, and repair mends it.
#include <gtest/gtest.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>

#include "machine_store.h"
#include "support/expect.h"
#include "varve/store/commands.h"
#include "varve/store/store.h"

namespace varve::store {
namespace {

using nlohmann::json;

constexpr std::uint64_t kSnapshots = 70;
constexpr std::uint64_t kChunks = 8;

class JoinedPacks : public testing::Test {
 protected:
  JoinedPacks() {
    EXPECT_OK(Store::init(machine_.storage, {}));
    open(false);
    disk_ = store_->create_disk("d", Attributes{0, 0, 0755, {}}).value();
    EXPECT_OK(disk_->create_image(Attributes{0, 0, 0644, {}}));
    EXPECT_OK(disk_->live().resize(ByteCount{kChunks * kDefaultChunkSize}));
  }
  void open(bool background) {
    disk_.reset();
    if (store_) {
      EXPECT_OK(store_->close());
    }
    store_.reset();
    OpenOptions options;
    options.background = background;
    store_ = Store::open(test::environment_on(machine_), options).value();
    if (auto found = store_->find_disk("d")) disk_ = *found;
  }
  /// Each in a pack of its own.
  void take(std::uint64_t from, std::uint64_t to) {
    for (std::uint64_t i = from; i < to; ++i) {
      EXPECT_OK(disk_->live().write(place(i), bytes(i)));
      const auto taken = disk_->take_snapshot("s" + std::to_string(i), Attributes{0, 0, 0755, {}});
      EXPECT_OK(taken);
      ids_.push_back(taken->id);
      EXPECT_TRUE(store_->wait_until_quiet(std::chrono::seconds(30)));
    }
  }
  static ByteOffset place(std::uint64_t i) { return ByteOffset{i % kChunks * kDefaultChunkSize + i % 16 * kBlockSize}; }
  static std::vector<std::byte> bytes(std::uint64_t i) {
    return std::vector<std::byte>(kBlockSize, static_cast<std::byte>(i + 1));
  }
  void expect_content() {
    for (std::uint64_t i = 0; i < ids_.size(); ++i) {
      std::vector<std::byte> found(kBlockSize);
      EXPECT_OK(disk_->read_snapshot(ids_[i], place(i), found));
      EXPECT_TRUE(found == bytes(i)) << i;
    }
  }
  std::vector<std::string> files() {
    std::vector<std::string> found;
    const auto entries = machine_.storage.list("joined");
    for (const auto& entry : entries.value_or(std::vector<os::DirectoryEntry>{})) found.push_back("joined/" + entry.name);
    return found;
  }
  std::size_t own_files() {
    std::size_t count = 0;
    const auto folders = machine_.storage.list("packs");
    for (const auto& folder : folders.value_or(std::vector<os::DirectoryEntry>{})) {
      count += machine_.storage.list("packs/" + folder.name)->size();
    }
    return count;
  }

  test::Machine machine_;
  std::unique_ptr<Store> store_;
  std::shared_ptr<Disk> disk_;
  std::vector<SnapshotId> ids_;
};

TEST_F(JoinedPacks, CollectMakesThemCheckReadsThemAndRepairMendsTheirTable) {
  take(0, kSnapshots);
  ASSERT_GE(own_files(), kSnapshots);
  const auto collected = run_command(*store_, {{"command", "collect"}}, {});
  ASSERT_OK(collected);
  EXPECT_GE(collected->at("packs_joined"), kSnapshots);
  EXPECT_EQ(store_->status()["collect"]["packs_joined"], collected->at("packs_joined"));
  EXPECT_EQ(own_files(), 0u);
  ASSERT_EQ(files().size(), 1u);
  open(false);
  expect_content();
  EXPECT_TRUE(store_->check({}, {})->clean());

  const std::byte wrong{0xEE};
  machine_.storage.corrupt(files().at(0), ByteOffset{100}, {&wrong, 1});
  open(false);
  expect_content();
  EXPECT_EQ(store_->check({}, {})->problems.size(), 1u);
  const auto repaired = store_->repair({}, {});
  ASSERT_OK(repaired);
  EXPECT_EQ(repaired->repaired.repaired.size(), 1u);
  EXPECT_TRUE(repaired->after.clean());
  EXPECT_EQ(files().size(), 1u);
  open(false);
  expect_content();
  EXPECT_TRUE(store_->check({}, {})->clean());
}

TEST_F(JoinedPacks, AreMadeByItselfWhenManyWereWritten) {
  open(true);
  take(0, kSnapshots);
  for (int i = 0; i < 3000 && files().empty(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_FALSE(files().empty());
  expect_content();
}

TEST_F(JoinedPacks, LeaveWithTheirSnapshots) {
  take(0, kSnapshots);
  ASSERT_OK(store_->collect({}));
  ASSERT_EQ(files().size(), 1u);
  const std::uint64_t before = machine_.storage.status(files().at(0))->allocated.value();
  while (ids_.size() > 1) {
    ASSERT_OK(store_->remove_snapshot(disk_, ids_.front()));
    ids_.erase(ids_.begin());
  }
  ASSERT_TRUE(store_->wait_until_quiet(std::chrono::seconds(30)));
  ASSERT_OK(store_->collect({}));
  open(false);
  ASSERT_OK(store_->collect({}));
  EXPECT_TRUE(files().empty() || machine_.storage.status(files().at(0))->allocated.value() < before);
  std::vector<std::byte> found(kBlockSize);
  ASSERT_OK(disk_->read_snapshot(ids_[0], place(kSnapshots - 1), found));
  EXPECT_TRUE(found == bytes(kSnapshots - 1));
  EXPECT_TRUE(store_->check({}, {})->clean());
}

}  // namespace
}  // namespace varve::store
