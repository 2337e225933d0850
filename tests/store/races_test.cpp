// What goes wrong half-way: failures at each step of an operation, operations that meet, stores that are full or odd.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "machine_store.h"
#include "support/temporary_directory.h"

namespace varve::store {
namespace {

using test::Machine;
using test::Repeat;
using Content = std::vector<std::byte>;

constexpr std::uint64_t kChunk = kMinChunkSize;
/// More changes of the storage than any operation here makes: then it was met at each of them.
constexpr std::uint64_t kMostSteps = 200;

Content pattern(std::size_t size, unsigned seed) {
  Content bytes(size);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>((i / 64 * 31 + i + seed * 97) & 0xFF);
  return bytes;
}

bool never() { return false; }

class StoreRaces : public ::testing::Test {
 protected:
  void SetUp() override { start_over(); }
  void TearDown() override {
    // The hook's captures go before the machine does.
    store_.reset();
  }
  void start_over() {
    store_.reset();
    machine_ = std::make_unique<Machine>();
    InitOptions options;
    options.chunk_size = ByteCount{kChunk};
    ASSERT_TRUE(Store::init(machine_->storage, options));
    open();
  }
  void open(bool background = false) {
    OpenOptions options;
    options.background = background;
    auto opened = Store::open(test::environment_on(*machine_), options);
    ASSERT_TRUE(opened) << opened.error().message;
    store_ = std::move(*opened);
  }
  void kill_and_open() {
    machine_->cut_off();
    store_.reset();
    machine_->kill();
    open();
    ASSERT_TRUE(store_->damaged_disks().empty()) << store_->damaged_disks().front();
  }
  std::shared_ptr<Disk> disk_with(const std::string& name, const Content& content) {
    auto disk = store_->create_disk(name, {});
    EXPECT_TRUE(disk);
    EXPECT_TRUE((*disk)->create_image({}));
    EXPECT_TRUE((*disk)->live().write(ByteOffset{0}, content));
    return *disk;
  }
  SnapshotInfo take(Disk& disk, const std::string& name) {
    auto taken = disk.take_snapshot(name, {});
    EXPECT_TRUE(taken) << (taken ? "" : taken.error().message);
    return taken.value_or(SnapshotInfo{});
  }
  void commit_all(Disk& disk) {
    for (;;) {
      const auto done = store_->step_commit(disk.id());
      ASSERT_TRUE(done) << done.error().message;
      if (!*done) return;
    }
  }
  static Content read_snapshot(Disk& disk, SnapshotId id, std::size_t size) {
    Content out(size);
    const auto got = disk.read_snapshot(id, ByteOffset{0}, out);
    EXPECT_TRUE(got) << (got ? "" : got.error().message);
    return out;
  }
  std::size_t count_called(const std::string& name) {
    std::size_t count = 0;
    for (const auto& disk : store_->disks()) count += disk->name() == name ? 1 : 0;
    return count;
  }

  std::unique_ptr<Machine> machine_;
  std::unique_ptr<Store> store_;
};

TEST_F(StoreRaces, ADiskThatCouldNotBeMadeLeavesNothingAndItsNameIsFree) {
  for (const auto repeat : {Repeat::once, Repeat::for_good}) {
    for (std::uint64_t step = 1; step < kMostSteps; ++step) {
      SCOPED_TRACE(step);
      start_over();
      machine_->storage.fail_at(step, ENOSPC, repeat);
      const bool made = store_->create_disk("a", {}).has_value();
      machine_->storage.clear_faults();
      if (!made) {
        EXPECT_EQ(store_->find_disk("a").error().code, ENOENT);
        const auto again = store_->create_disk("a", {});
        ASSERT_TRUE(again) << again.error().message;
      }
      kill_and_open();
      EXPECT_EQ(store_->disks().size(), 1U);
      EXPECT_EQ(count_called("a"), 1U);
      if (made) break;
    }
  }
}

TEST_F(StoreRaces, ACloneThatFailedLeavesNeitherDiskNorSnapshot) {
  const Content content = pattern(6 * kChunk, 1);
  for (std::uint64_t step = 1; step < kMostSteps; ++step) {
    SCOPED_TRACE(step);
    start_over();
    auto disk = disk_with("web01", content);
    const auto a = take(*disk, "a");
    commit_all(*disk);
    machine_->storage.fail_at(step, ENOSPC);
    const bool made = store_->clone({disk, a.id}, "web02", {}).has_value();
    machine_->storage.clear_faults();
    if (!made) {
      EXPECT_EQ(store_->find_disk("web02").error().code, ENOENT);
    }
    disk.reset();
    kill_and_open();
    EXPECT_EQ(store_->disks().size(), made ? 2U : 1U);
    EXPECT_EQ((*store_->find_disk("web01"))->snapshots().size(), 1U);
    if (made) return;
  }
  FAIL() << "it never worked";
}

TEST_F(StoreRaces, ARenameOfUnknownOutcomeLeavesEachNameToOneSnapshot) {
  for (std::uint64_t step = 1; step < kMostSteps; ++step) {
    SCOPED_TRACE(step);
    start_over();
    auto disk = disk_with("web01", pattern(3 * kChunk, 1));
    const auto a = take(*disk, "a");
    commit_all(*disk);
    machine_->storage.fail_at(step, EIO, Repeat::for_good);
    const bool renamed = disk->rename_snapshot(a.id, "b").has_value();
    machine_->storage.clear_faults();
    if (renamed) return;
    const auto found = disk->take_snapshot("b", {});
    const std::string first = disk->snapshot(a.id)->name;
    if (first == "b") {
      ASSERT_FALSE(found);
      EXPECT_EQ(found.error().code, EEXIST);
      EXPECT_TRUE(disk->take_snapshot("a", {}));
    } else {
      ASSERT_TRUE(found) << found.error().message;
    }
    EXPECT_EQ(disk->find_snapshot(first)->id, a.id);
    commit_all(*disk);
    disk.reset();
    kill_and_open();
    disk = *store_->find_disk("web01");
    EXPECT_EQ(disk->snapshots().size(), 2U);
    EXPECT_TRUE(disk->find_snapshot("a"));
    EXPECT_TRUE(disk->find_snapshot("b"));
  }
}

TEST_F(StoreRaces, ADeletionOfUnknownOutcomeDoesNotKeepTheName) {
  for (std::uint64_t step = 1; step < kMostSteps; ++step) {
    SCOPED_TRACE(step);
    start_over();
    auto disk = disk_with("web01", pattern(3 * kChunk, 1));
    const auto a = take(*disk, "a");
    commit_all(*disk);
    machine_->storage.fail_at(step, EIO, Repeat::for_good);
    const bool removed = disk->remove_snapshot(a.id).has_value();
    machine_->storage.clear_faults();
    if (removed) return;
    const auto again = disk->take_snapshot("a", {});
    EXPECT_EQ(again.has_value(), !disk->snapshot(a.id).has_value());
    EXPECT_EQ(disk->snapshots().size(), 1U);
    EXPECT_TRUE(disk->find_snapshot("a"));
  }
}

TEST_F(StoreRaces, ADiskRenameOfUnknownOutcomeLeavesEachNameToOneDisk) {
  for (std::uint64_t step = 1; step < kMostSteps; ++step) {
    SCOPED_TRACE(step);
    start_over();
    auto disk = disk_with("web01", pattern(kChunk, 1));
    machine_->storage.fail_at(step, EIO, Repeat::for_good);
    const bool renamed = store_->rename_disk(disk->id(), "web02").has_value();
    machine_->storage.clear_faults();
    if (renamed) return;
    (void)store_->create_disk("web02", {});
    EXPECT_TRUE(disk->change_directory_attributes([](Attributes& attributes) -> Status {
      attributes.mode = 0700;
      return {};
    }));
    const std::string name = disk->name();
    disk.reset();
    kill_and_open();
    EXPECT_EQ(count_called(name), 1U);
    EXPECT_TRUE((*store_->find_disk(name))->live().exists());
  }
}

// A commit whose log record may or may not be there: what it stands on must not be collected meanwhile.
TEST_F(StoreRaces, WhatALogRecordOfUnknownOutcomeStandsOnIsNotCollected) {
  const Content content = pattern(6 * kChunk, 1);
  for (std::uint64_t step = 1; step < kMostSteps; ++step) {
    SCOPED_TRACE(step);
    start_over();
    auto disk = disk_with("web01", content);
    const auto a = take(*disk, "a");
    machine_->storage.fail_at(step, EIO, Repeat::for_good);
    const bool committed = store_->step_commit(disk->id()).has_value();
    machine_->storage.clear_faults();
    ASSERT_TRUE(store_->collect(never));
    // Settles the log by an append that has nothing to do with it.
    EXPECT_TRUE(disk->change_directory_attributes([](Attributes& attributes) -> Status {
      attributes.mode = 0700;
      return {};
    }));
    EXPECT_EQ(read_snapshot(*disk, a.id, content.size()), content);
    (void)store_->step_commit(disk->id());
    ASSERT_TRUE(store_->collect(never));
    EXPECT_EQ(read_snapshot(*disk, a.id, content.size()), content);
    const auto report = store_->check([](std::uint64_t, std::uint64_t) {}, never);
    ASSERT_TRUE(report);
    EXPECT_TRUE(report->clean());
    disk.reset();
    kill_and_open();
    disk = *store_->find_disk("web01");
    commit_all(*disk);
    ASSERT_EQ(disk->snapshots().size(), 1U);
    EXPECT_EQ(read_snapshot(*disk, a.id, content.size()), content);
    if (committed) return;
  }
  FAIL() << "it never worked";
}

// The log has the snapshot, the live side could not say so durably: until it can, the log must not forget it (rule 4).
TEST_F(StoreRaces, DeletingASnapshotOfALatchedDiskLosesNothing) {
  const Content first = pattern(6 * kChunk, 1);
  for (std::uint64_t step = 1; step < kMostSteps; ++step) {
    SCOPED_TRACE(step);
    start_over();
    auto disk = disk_with("web01", first);
    const auto a = take(*disk, "a");
    ASSERT_TRUE(disk->live().write(ByteOffset{0}, pattern(2 * kChunk, 2)));
    const auto b = take(*disk, "b");
    Content second = first;
    std::ranges::copy(pattern(2 * kChunk, 2), second.begin());
    machine_->storage.fail_at(step, EIO, Repeat::for_good);
    const bool committed = store_->step_commit(disk->id()).has_value();
    machine_->storage.clear_faults();
    const bool logged = disk->snapshot(a.id)->state == SnapshotStateKind::complete;
    const bool removed = disk->remove_snapshot(a.id).has_value();
    if (logged && disk->live().latched()) {
      EXPECT_FALSE(removed);
    }
    (void)store_->collect(never);
    disk.reset();
    machine_->cut_off();
    store_.reset();
    machine_->lose_power(step);
    open();
    ASSERT_TRUE(store_->damaged_disks().empty()) << store_->damaged_disks().front();
    disk = *store_->find_disk("web01");
    commit_all(*disk);
    ASSERT_TRUE(store_->collect(never));
    EXPECT_EQ(disk->snapshots().size(), removed ? 1U : 2U);
    EXPECT_EQ(read_snapshot(*disk, b.id, second.size()), second);
    if (committed) return;
  }
}

TEST_F(StoreRaces, OpeningAnImageDoesNotWaitForASnapshotsSync) {
  std::mutex mutex;
  std::condition_variable changed;
  bool armed = false;
  bool stopped = false;
  bool go = false;
  store_.reset();
  machine_->kill();
  machine_->storage.calls().set_hook([&](std::string_view action, std::string_view path) {
    std::unique_lock lock(mutex);
    if (!armed || action != "sync" || path.find("/journal") == path.npos) return;
    armed = false;
    stopped = true;
    changed.notify_all();
    changed.wait(lock, [&] { return go; });
  });
  open();
  auto disk = disk_with("web01", pattern(4 * kChunk, 1));
  const auto a = take(*disk, "a");
  ASSERT_TRUE(disk->live().write(ByteOffset{0}, pattern(kChunk, 2)));
  {
    std::unique_lock lock(mutex);
    armed = true;
  }
  std::thread taker([&] { (void)take(*disk, "b"); });
  bool met = false;
  {
    std::unique_lock lock(mutex);
    met = changed.wait_for(lock, std::chrono::seconds{10}, [&] { return stopped; });
  }
  std::atomic<int> opened{0};
  std::thread opener([&] {
    opened += disk->use_image(true).has_value() ? 1 : 0;
    opened += disk->use_snapshot(a.id).has_value() ? 1 : 0;
  });
  for (int i = 0; i < 500 && opened < 2; ++i) std::this_thread::sleep_for(std::chrono::milliseconds{10});
  EXPECT_TRUE(met);
  EXPECT_EQ(opened, 2);
  {
    std::unique_lock lock(mutex);
    go = true;
    armed = false;
  }
  changed.notify_all();
  taker.join();
  opener.join();
}

TEST_F(StoreRaces, ADiskIsRemovedUnderItsUpkeep) {
  for (int round = 0; round < 100; ++round) {
    auto disk = disk_with("web01", pattern(4 * kChunk, 1));
    const DiskId id = disk->id();
    std::atomic<bool> stop{false};
    std::thread upkeep([&] {
      while (!stop) (void)store_->step_upkeep(id);
    });
    EXPECT_TRUE(disk->remove_image());
    EXPECT_TRUE(store_->remove_disk(id));
    stop = true;
    upkeep.join();
    EXPECT_EQ(disk->take_snapshot("a", {}).error().code, ENOENT);
    EXPECT_EQ(disk->use_image(true).error().code, ENOENT);
    EXPECT_TRUE(machine_->storage.list("live")->empty());
  }
}

TEST_F(StoreRaces, ASnapshotRemovedTwiceAtOnceIsRemovedOnce) {
  for (int round = 0; round < 50; ++round) {
    auto disk = round == 0 ? disk_with("web01", pattern(4 * kChunk, 1)) : *store_->find_disk("web01");
    const auto a = take(*disk, "a");
    std::atomic<int> removed{0};
    std::thread other([&] { removed += disk->remove_snapshot(a.id).has_value() ? 1 : 0; });
    std::thread commit([&] { (void)store_->step_commit(disk->id()); });
    removed += disk->remove_snapshot(a.id).has_value() ? 1 : 0;
    other.join();
    commit.join();
    EXPECT_EQ(removed, 1);
    EXPECT_TRUE(disk->snapshots().empty());
  }
}

TEST_F(StoreRaces, ACommitThatFailsIsTriedAgainNowAndThenAndNotAllTheTime) {
  store_.reset();
  machine_->kill();
  std::atomic<bool> full{true};
  std::atomic<int> attempts{0};
  auto& storage = machine_->storage;
  storage.calls().set_hook([&](std::string_view, std::string_view path) {
    if (!path.starts_with("packs")) return;
    if (full) {
      ++attempts;
      storage.fail_at(1, ENOSPC);
    }
  });
  open(/*background=*/true);
  auto disk = disk_with("web01", pattern(4 * kChunk, 1));
  const auto a = take(*disk, "a");
  std::this_thread::sleep_for(std::chrono::milliseconds{1500});
  EXPECT_GT(attempts, 0);
  EXPECT_LT(attempts, 40);
  full = false;
  EXPECT_TRUE(store_->wait_until_quiet(std::chrono::seconds{30}));
  EXPECT_EQ(disk->snapshot(a.id)->state, SnapshotStateKind::complete);
  EXPECT_TRUE(store_->close());
}

TEST_F(StoreRaces, AStoreThatIsFullOpensAndDeletes) {
  const Content content = pattern(6 * kChunk, 1);
  for (std::uint64_t step = 1; step < kMostSteps; ++step) {
    SCOPED_TRACE(step);
    start_over();
    auto disk = disk_with("web01", content);
    const auto a = take(*disk, "a");
    machine_->storage.cut_off_at(step);
    const bool committed = store_->step_commit(disk->id()).has_value();
    disk.reset();
    store_.reset();
    machine_->kill();
    machine_->storage.set_capacity(ByteCount{0});
    open();
    ASSERT_TRUE(store_->damaged_disks().empty()) << store_->damaged_disks().front();
    disk = *store_->find_disk("web01");
    EXPECT_EQ(read_snapshot(*disk, a.id, content.size()), content);
    machine_->storage.set_capacity(ByteCount{kTiB});
    commit_all(*disk);
    EXPECT_EQ(read_snapshot(*disk, a.id, content.size()), content);
    if (committed) return;
  }
  FAIL() << "it never worked";
}

// copy_file_range of a live source that is cut while it is copied.
int unreadable_home(std::string_view action, std::string_view path) {
  return action == "read" && path.ends_with("/home.img") ? EIO : 0;
}

TEST_F(StoreRaces, WhatCannotBeReadForAMomentCostsAPendingSnapshotNothing) {
  const Content content = pattern(3 * kChunk, 1);
  auto disk = disk_with("web01", content);
  const auto a = take(*disk, "a");
  machine_->storage.calls().fail_where(unreadable_home);
  for (int attempt = 0; attempt < 3; ++attempt) {
    const auto done = store_->step_commit(disk->id());
    ASSERT_FALSE(done);
    EXPECT_EQ(done.error().code, EIO) << done.error().message;
  }
  machine_->storage.calls().fail_where({});
  commit_all(*disk);
  EXPECT_EQ(disk->snapshot(a.id)->state, SnapshotStateKind::complete);
  EXPECT_EQ(read_snapshot(*disk, a.id, content.size()), content);
}

TEST_F(StoreRaces, WhatCannotBeReadForEverIsGivenUpAndNothingWaitsBehindIt) {
  const Content content = pattern(3 * kChunk, 1);
  auto disk = disk_with("web01", content);
  const auto a = take(*disk, "a");
  machine_->storage.calls().fail_where(unreadable_home);
  int failures = 0;
  while (!store_->step_commit(disk->id()) && failures < 50) ++failures;
  EXPECT_GT(failures, 3) << "given up too soon";
  EXPECT_LT(failures, 50) << "it waits for ever";
  machine_->storage.calls().fail_where({});
  EXPECT_EQ(disk->snapshot(a.id)->state, SnapshotStateKind::complete);
  Content out(kChunk);
  const auto got = disk->read_snapshot(a.id, ByteOffset{0}, out);
  ASSERT_FALSE(got) << "bytes that were never read are served";
  EXPECT_EQ(got.error().code, EIO);
  const auto b = take(*disk, "b");
  commit_all(*disk);
  EXPECT_EQ(disk->snapshot(b.id)->state, SnapshotStateKind::complete);
}

TEST_F(StoreRaces, ASourceThatShrinksUnderACopyIsFollowedByZeros) {
  auto source = disk_with("web01", pattern(64 * kChunk, 1));
  auto target = disk_with("web02", pattern(kChunk, 2));
  for (int round = 0; round < 50; ++round) {
    ASSERT_TRUE(source->live().resize(ByteCount{64 * kChunk}));
    std::thread cutter([&] { EXPECT_TRUE(source->live().resize(ByteCount{3 * kChunk / 2})); });
    const auto copied = store_->copy_range({source, SnapshotId{0}}, ByteOffset{0}, target, ByteOffset{0},
                                           ByteCount{64 * kChunk});
    cutter.join();
    ASSERT_TRUE(copied) << copied.error().message;
  }
}

TEST(StoreOddities, AStoreWithoutItsSettingsIsNotInitialisedAgain) {
  Machine machine;
  ASSERT_TRUE(Store::init(machine.storage, {}));
  ASSERT_TRUE(machine.storage.remove("store.json"));
  EXPECT_TRUE(Store::init(machine.storage, {})) << "an interrupted init is repeated";
  OpenOptions options;
  options.background = false;
  {
    auto store = Store::open(test::environment_on(machine), options);
    ASSERT_TRUE(store);
    ASSERT_TRUE((*store)->create_disk("web01", {}));
  }
  machine.kill();
  ASSERT_TRUE(machine.storage.remove("store.json"));
  ASSERT_TRUE(machine.storage.remove("lock"));
  const auto again = Store::init(machine.storage, {});
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code, ENOTEMPTY);
}

TEST(StoreOddities, SettingsThatAreAllBracketsAreRefused) {
  Machine machine;
  ASSERT_TRUE(Store::init(machine.storage, {}));
  for (const std::string& prefix : {std::string(), "\"" + std::string(1000, ']') + "\",\"\\\"[\","}) {
    std::string text = R"({"format":1,"checksum":"x","a":[)" + prefix + std::string(200'000, '[');
    text += std::string(200'000, ']') + "]}";
    ASSERT_TRUE(os::replace_file_durably(machine.storage, "store.json", std::as_bytes(std::span(text))));
    const auto opened = Store::open(test::environment_on(machine), {});
    ASSERT_FALSE(opened);
    EXPECT_EQ(opened.error().kind, ErrorKind::damaged);
  }
}

TEST(StoreOddities, AStoreIsMadeAlsoWithASlashBehindItsName) {
  test::TemporaryDirectory directory;
  const auto made = Store::init(directory.path() + "/store/", {});
  EXPECT_TRUE(made) << (made ? "" : made.error().message);
  EXPECT_EQ(Store::init(directory.path() + "/store", {}).error().code, EEXIST);
}

}  // namespace
}  // namespace varve::store
