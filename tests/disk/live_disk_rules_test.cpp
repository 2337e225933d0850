// The rules of DESIGN.md, section 5, one by one, and what a user is promised of the live image.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <functional>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "modeled_disk.h"
#include "support/expect.h"

namespace varve::disk {
namespace {

using test::Calls;
using test::Content;
using test::End;
using test::kTestChunk;
using test::kTestGeometry;
using test::ModeledDisk;
using test::Repeat;
using test::SparseImage;

constexpr std::uint64_t kChunks = 8;

/// The changes made to the machine while it lives, by action and file: "sync journal" -> 2.
class Counted {
 public:
  explicit Counted(test::Machine& machine) : machine_(machine) {
    machine_.storage.calls().set_hook([this](std::string_view action, std::string_view path) {
      MutexLock lock(mutex_);
      ++calls_[std::string(action) + " " + std::string(os::leaf_of(path))];
    });
  }
  ~Counted() { machine_.storage.calls().set_hook({}); }
  Counted(const Counted&) = delete;
  Counted& operator=(const Counted&) = delete;
  std::uint64_t of(const std::string& call) {
    MutexLock lock(mutex_);
    const auto it = calls_.find(call);
    return it == calls_.end() ? 0 : it->second;
  }
  std::uint64_t all(std::string_view action) {
    MutexLock lock(mutex_);
    std::uint64_t sum = 0;
    for (const auto& [call, count] : calls_) sum += call.starts_with(action) ? count : 0;
    return sum;
  }
  std::uint64_t total() { return all(""); }

 private:
  test::Machine& machine_;
  Mutex mutex_;
  std::map<std::string, std::uint64_t> calls_ VARVE_GUARDED_BY(mutex_);
};

class LiveDiskRules : public ::testing::Test {
 protected:
  LiveDiskRules() { start(kChunks); }
  void TearDown() override {
    if (HasFailure()) std::cerr << disk_->trace();
  }

  void start(std::uint64_t chunks, LiveDiskOptions options = {}, test::MemoryStorageOptions machine = {}) {
    disk_ = std::make_unique<ModeledDisk>(1, options, machine);
    ASSERT_OK(disk_->open());
    ASSERT_TRUE(disk_->create());
    ASSERT_TRUE(disk_->resize(chunks * kTestChunk));
    ASSERT_TRUE(disk_->write_stamped(0, 4 * kTestChunk));
    ASSERT_TRUE(disk_->flush());
  }
  ModeledDisk& disk() { return *disk_; }
  LiveDisk& live() { return disk_->disk(); }
  test::MemoryStorage& storage() { return disk_->machine().storage; }
  std::string path(const std::string& leaf) { return std::string(ModeledDisk::kDirectory) + "/" + leaf; }
  std::uint64_t allocated(const std::string& leaf) {
    const auto status = storage().status(path(leaf));
    return status ? status->allocated.value() : 0;
  }
  /// Three chunks are written to slots and come home: the slots are free.
  void detour_and_come_home() {
    disk().freeze();
    disk().write_stamped(0, 3 * kTestChunk);
    disk().commit();
    disk().flush();
    std::size_t moved = 0;
    disk().move_home(8, &moved);
    EXPECT_EQ(moved, 3u);
    disk().flush();
  }
  ModeledDisk::Complete some_complete(std::uint64_t chunks) {
    SparseImage image;
    for (std::uint64_t i = 0; i < chunks; ++i) {
      image.write(i * kTestChunk, Content(kTestChunk, static_cast<std::byte>(i + 1)));
    }
    return disk_->add_complete(image);
  }

  std::unique_ptr<ModeledDisk> disk_;
};

// --- rule 1: release ---

/// The detours of a dropped snapshot are free when that is durable, not before: with every seal kept from the disk,
/// later writes must not land where the sealed journal still has a snapshot.
TEST_F(LiveDiskRules, Rule1AFreedSlotIsNotReusedBeforeTheSeal) {
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    start(kChunks);
    disk().freeze();
    disk().write_stamped(0, 2 * kTestChunk);  // detours
    disk().flush();
    disk().zero(0, 2 * kTestChunk);           // lets them go, tentatively
    disk().write_stamped(2 * kTestChunk, 2 * kTestChunk);  // would take the slots
    disk().write_stamped(0, 2 * kTestChunk);
    disk().recover(End::power_loss, seed);
    disk().verify();
    disk().drain();
    if (HasFailure()) return;
  }
}

TEST_F(LiveDiskRules, Rule1AHomeIsNotWrittenWhileASnapshotStillFindsItsBytesThere) {
  disk().freeze();
  const auto before = *disk().state().pending.front().image;
  for (int i = 0; i < 5; ++i) {
    disk().zero(0, 2 * kTestChunk);
    disk().tidy();
    disk().flush();
    disk().tidy();
    disk().write_stamped(0, 2 * kTestChunk);
    disk().flush();
    disk().move_home(8);
    disk().tidy();
    disk().verify();
  }
  disk().drain();
}

/// A snapshot that is dropped leaves its successor the slot where only it froze a chunk.
TEST_F(LiveDiskRules, Rule1ASlotThatTheSuccessorHasInheritedIsNotReused) {
  disk().freeze();
  disk().write_stamped(0, kTestChunk);  // in a detour
  disk().freeze();                      // the one that is dropped: it froze chunk 0 there
  disk().commit();
  disk().flush();
  std::size_t moved = 0;
  disk().move_home(8, &moved);
  ASSERT_EQ(moved, 1u);
  disk().write_stamped(2 * kTestChunk, 100);
  disk().freeze();  // the successor, which has not changed chunk 0
  disk().drop(0);
  disk().flush();
  disk().tidy();  // what nothing names is free now
  disk().write_stamped(2 * kTestChunk, kTestChunk);
  disk().write_stamped(0, kTestChunk);
  disk().flush();
  disk().verify();
  disk().drain();
}

/// Neither the old bytes nor the new ones would be there after a power loss.
TEST_F(LiveDiskRules, Rule1AHomeThatWasLeftIsNotPunchedBeforeTheSeal) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    start(kChunks);
    disk().recover(End::kill, 0);  // from here on tidy() looks for Homes that nobody needs
    disk().splice(0, 2, some_complete(2), 0, 0);
    disk().tidy();
    disk().recover(End::power_loss, seed);
    disk().verify();
    disk().drain();
    if (HasFailure()) return;
  }
}

TEST_F(LiveDiskRules, Rule1ARootIsNamedUntilTheSealThatForgetsIt) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    start(kChunks);
    disk().splice(4, 2, some_complete(2), 0, 0);
    disk().flush();
    while (!disk().complete().empty()) disk().forget_complete(0);
    disk().splice(4, 2, some_complete(3), 1, 0);  // L does not say it any more, the sealed journal does
    disk().collect();
    disk().recover(End::power_loss, seed);
    disk().verify();
    if (HasFailure()) return;
  }
}

/// The Home of a chunk whose slot has a part of it is read through the slot, also when no snapshot finds it there any more.
TEST_F(LiveDiskRules, Rule1AHomeIsKeptForASlotThatHasAPartOfItsChunk) {
  disk().freeze();
  disk().write_stamped(4096, 4096);
  disk().write_stamped(kTestChunk + 8192, 100);
  EXPECT_EQ(live().counters().partial_slots, 2u);
  disk().freeze();  // finds them in their slots
  disk().commit();  // and Home is nobody's but through these
  disk().flush();
  disk().tidy();
  disk().zero(0, kTestChunk);  // the live image leaves the slot, the snapshot does not
  disk().flush();
  disk().tidy();
  disk().write_stamped(0, kTestChunk);
  disk().write_stamped(kTestChunk, kTestChunk);
  std::size_t moved = 0;
  disk().move_home(8, &moved);
  EXPECT_EQ(moved, 0u);
  disk().verify();
  for (const End how : {End::kill, End::power_loss}) {
    disk().flush();
    disk().recover(how, 3);
    disk().verify();
  }
  disk().drain();
  disk().settle();
}

/// What was a part of a chunk for the sealed journal is read at Home after a power loss.
TEST_F(LiveDiskRules, Rule1AHomeWaitsForTheSealThatMakesTheSlotWholeOrGone) {
  for (const bool completed : {false, true}) {
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
      start(kChunks);
      disk().freeze();
      disk().write_stamped(4096, 4096);
      disk().commit();
      disk().freeze();
      disk().flush();
      if (completed) disk().write_stamped(8192, kTestChunk - 8192);
      if (completed) disk().write_stamped(0, 4096);
      if (!completed) disk().zero(0, kTestChunk);
      disk().write_stamped(0, kTestChunk);
      disk().write_stamped(0, kTestChunk);
      disk().recover(End::power_loss, seed);
      disk().verify();
      disk().drain();
      if (HasFailure()) return;
    }
  }
}

TEST_F(LiveDiskRules, FreeSlotsKeepTheirStorageForTheNextUntilSpaceIsShort) {
  LiveDiskOptions options;
  options.keep_slots = std::chrono::hours{1};
  start(kChunks, options);
  const auto detour_and_back = [&] {
    detour_and_come_home();
    disk().tidy();
    disk().verify();
  };
  detour_and_back();
  EXPECT_EQ(live().counters().free_slots, live().counters().slots);
  const std::uint64_t kept = allocated("detour.img");
  EXPECT_GE(kept, 3 * kTestChunk);
  detour_and_back();
  EXPECT_EQ(allocated("detour.img"), kept);
  storage().set_capacity(ByteCount{4 * kMiB});
  Content rest(storage().capacity()->available.value() - 64 * kKiB, std::byte{1});
  auto other = storage().open("other", {.write = true, .create = true});
  ASSERT_OK(other);
  ASSERT_OK((*other)->write(ByteOffset{0}, rest));
  disk().tidy();
  EXPECT_EQ(allocated("detour.img"), 0u);
  detour_and_back();
  disk().drain();
}

TEST_F(LiveDiskRules, FreeSlotsThatNobodyTookForAPeriodGiveTheirStorageBack) {
  LiveDiskOptions options;
  options.keep_slots = std::chrono::milliseconds{1};
  start(kChunks, options);
  detour_and_come_home();
  EXPECT_GE(allocated("detour.img"), 3 * kTestChunk);
  // One that begins while they are free, and ends.
  for (int looks = 0; looks < 3; ++looks) {
    disk().tidy();
    std::this_thread::sleep_for(2 * options.keep_slots);
  }
  EXPECT_EQ(allocated("detour.img"), 0u);
  EXPECT_EQ(live().counters().stored_slots, 0u);
  disk().verify();
  disk().drain();
}

/// A slot with many blocks, left behind by a second snapshot: its successor has the whole chunk.
TEST_F(LiveDiskRules, AChunkWithManyBlocksInASlotMovesWhole) {
  disk().freeze();
  for (std::uint64_t block = 0; block < kTestChunk / 4096; block += 2) disk().write_stamped(block * 4096, 4096);
  disk().freeze();
  {
    Counted calls(disk().machine());
    disk().write_stamped(4096, 4096);
    EXPECT_EQ(calls.of("write detour.img"), 1u);
  }
  EXPECT_EQ(live().counters().partial_slots, 1u);
  disk().verify();
  disk().recover(End::kill, 1);
  disk().verify();
  disk().commit();
  disk().commit();
  disk().flush();
  disk().drain();
}

/// A first write to a pinned chunk moves what it writes, and is durable like any: by the flush that comes, and no other.
TEST_F(LiveDiskRules, TheFirstWriteToAPinnedChunkWritesNoMoreThanItsBlocks) {
  disk().freeze();
  disk().flush();
  const std::uint64_t before = allocated("detour.img");
  {
    Counted calls(disk().machine());
    disk().write_stamped(4096, 4096);
    disk().write_stamped(kTestChunk + 4096 + 512, 512);
    EXPECT_EQ(calls.of("write detour.img"), 2u);
    EXPECT_EQ(calls.all("write journal"), 2u);
    EXPECT_EQ(calls.total(), 4u);
  }
  EXPECT_EQ(live().counters().partial_slots, 2u);
  EXPECT_LE(allocated("detour.img") - before, 2 * 4096u);
  disk().write_stamped(4096 + 100, 100);  // it is there: no record
  disk().write_stamped(2 * kTestChunk + 100, 2 * 4096 - 100);  // only the first block is cut, or the last
  disk().write_stamped(3 * kTestChunk, 4096 + 100);
  disk().verify();
  disk().flush();
  disk().recover(End::power_loss, 1);
  disk().verify();
  disk().commit();
  disk().flush();
  {
    Counted calls(disk().machine());
    std::size_t moved = 0;
    disk().move_home(8, &moved);
    EXPECT_EQ(moved, 4u);
    EXPECT_EQ(calls.of("write home.img"), 4u);
  }
  disk().verify();
  disk().settle();
}

/// A slot's blocks are read in one piece with what lies between them, which may be what the medium does not give back.
TEST_F(LiveDiskRules, WhatLiesBetweenTheBlocksOfASlotNeedNotBeReadable) {
  disk().freeze();
  disk().write_stamped(0, 4096);
  disk().write_stamped(8192, 4096);
  disk().commit();
  disk().flush();
  storage().fail_at(1, EIO, Repeat::once, Calls::reads);
  std::size_t moved = 0;
  disk().move_home(8, &moved);
  EXPECT_EQ(moved, 1u);
  storage().clear_faults();
  disk().verify();
  disk().drain();
}

/// Of a part of a block too: killed between the bytes and the record, or the record and the answer.
TEST_F(LiveDiskRules, BlocksOfAPartialSlotAreExactAfterAKillAtAnyCall) {
  for (std::uint64_t call = 1; call < 20; ++call) {
    start(kChunks);
    disk().freeze();
    disk().die_at(call);
    disk().write_stamped(4096, 4096);
    disk().write_stamped(100, 200);
    disk().write_stamped(8192 + 100, 5000);
    const bool died = disk().dead();
    disk().recover(End::kill, 0);
    disk().verify();
    disk().drain();
    disk().settle();
    if (HasFailure() || !died) return;
  }
}

TEST_F(LiveDiskRules, Rule1WhatIsFreeIsReused) {
  for (int round = 0; round < 30; ++round) {
    disk().freeze();
    disk().write_stamped(0, 4 * kTestChunk);
    disk().commit();
    disk().move_home(8);
    disk().flush();
    disk().tidy();
  }
  EXPECT_LE(live().counters().slots, 12u) << "detours grow although all of them are free again and again";
  disk().settle();
}

TEST_F(LiveDiskRules, Rule1AReaderOfASnapshotKeepsItsPlaceWhileItReads) {
  disk().freeze();
  disk().write_stamped(0, kTestChunk);
  const SnapshotId id = disk().state().pending.front().id;
  const Content expected = disk().state().pending.front().image->read(0, 4 * kTestChunk);
  std::atomic<bool> stop{false};
  std::thread reader([&] {
    Content out(4 * kTestChunk);
    while (!stop) {
      const auto got = live().read_pending(id, ByteOffset{0}, out);
      if (!got) {
        EXPECT_EQ(got.error().code, ENOENT);
        return;
      }
      EXPECT_TRUE(out == expected);
    }
  });
  for (int i = 0; i < 200 && !HasFailure(); ++i) {
    if (i == 150) disk().drop(0);
    disk().write_stamped(0, 4 * kTestChunk);
    disk().zero(0, 4 * kTestChunk);
    disk().flush();
    disk().tidy();
    disk().move_home(4);
  }
  stop = true;
  reader.join();
}

/// The same for a slot: the snapshot is dropped, and its slot is to be punched, while a reader is at it.
TEST_F(LiveDiskRules, Rule1AReaderOfASlotHasItUntilItHasRead) {
  disk().freeze();
  disk().write_stamped(0, kTestChunk);
  disk().freeze();
  disk().write_stamped(0, kTestChunk);
  const SnapshotId id = disk().state().pending.back().id;
  const Content expected = disk().state().pending.back().image->read(0, kTestChunk);
  std::atomic<bool> reading{false};
  std::atomic<bool> may_read{false};
  std::atomic<bool> punched{false};
  storage().calls().set_read_hook([&](std::string_view action, std::string_view path) {
    if (action != "read" || !path.ends_with("detour.img") || reading.exchange(true)) return;
    while (!may_read) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  });
  storage().calls().set_hook([&](std::string_view action, std::string_view path) {
    if (action == "punch" && path.ends_with("detour.img")) punched = true;
  });
  Content out(kTestChunk);
  std::thread reader([&] { EXPECT_OK(live().read_pending(id, ByteOffset{0}, out)); });
  while (!reading) std::this_thread::yield();
  EXPECT_TRUE(disk().drop(1));
  std::thread sweeper([&] { EXPECT_OK(live().tidy()); });
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_FALSE(punched) << "under the reader";
  may_read = true;
  reader.join();
  sweeper.join();
  storage().calls().set_hook({});
  storage().calls().set_read_hook({});
  EXPECT_TRUE(out == expected);
  EXPECT_TRUE(punched) << "the test is about a slot that is given back";
  disk().verify();
}

// --- rule 2: the mover ---

TEST_F(LiveDiskRules, Rule2AMoveHomeIsDurableBeforeTheSlotIsReused) {
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    start(kChunks);
    disk().freeze();
    disk().write_stamped(0, 2 * kTestChunk);
    disk().flush();
    disk().commit();
    std::size_t moved = 0;
    disk().move_home(8, &moved);
    EXPECT_EQ(moved, 2u);
    disk().freeze();
    disk().write_stamped(2 * kTestChunk, 2 * kTestChunk);  // takes the slots, if they are free
    disk().recover(End::power_loss, seed);
    disk().verify();
    disk().drain();
    if (HasFailure()) return;
  }
}

TEST_F(LiveDiskRules, Rule2AWriteDuringTheMoveWins) {
  disk().freeze();
  disk().write_stamped(0, kTestChunk);
  disk().commit();
  // A write slips in when the mover has read the detour and is about to write home.
  std::atomic<bool> written{false};
  const Content bytes(4096, std::byte{0x77});
  std::thread writer;
  storage().calls().set_hook([&](std::string_view action, std::string_view path) {
    if (action != "write" || !path.ends_with("home.img") || written.exchange(true)) return;
    writer = std::thread([&] { EXPECT_OK(live().write(ByteOffset{4096}, bytes)); });
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  });
  EXPECT_TRUE(disk().move_home(8));
  ASSERT_TRUE(written);
  writer.join();
  storage().calls().set_hook({});
  Content found(4096);
  ASSERT_OK(live().read(ByteOffset{4096}, found));
  EXPECT_TRUE(found == bytes);
  disk().write(4096, bytes);  // the model learns of it
  disk().verify();
  disk().settle();
  disk().verify();
  disk().recover(End::kill, 0);
  disk().verify();
}

// --- rule 3: shrink, discard, rm ---

TEST_F(LiveDiskRules, Rule3WhatWasCutOffIsZerosWhenTheImageGrowsAgain) {
  for (const std::uint64_t size : {std::uint64_t{0}, std::uint64_t{100}, kTestChunk, kTestChunk + 5000}) {
    for (const bool frozen : {false, true}) {
      start(kChunks);
      if (frozen) disk().freeze();
      disk().resize(size);
      disk().resize(kChunks * kTestChunk);
      disk().verify();
      disk().recover(End::power_loss, size);
      disk().verify();
      disk().drain();
      if (HasFailure()) return;
    }
  }
}

TEST_F(LiveDiskRules, Rule3ThePartialLastChunkHasAZeroTailAfterShrinkAndGrow) {
  disk().resize(2 * kTestChunk + 1234);
  disk().flush();
  disk().freeze();
  disk().resize(2 * kTestChunk + 100);
  disk().resize(2 * kTestChunk + 5000);
  Content out(5000 - 100);
  ASSERT_OK(live().read(ByteOffset{2 * kTestChunk + 100}, out));
  EXPECT_TRUE(std::ranges::all_of(out, [](std::byte b) { return b == std::byte{0}; }));
  disk().drain();
}

TEST_F(LiveDiskRules, Rule3BytesOfAGrowthThatAPowerLossTookBackDoNotShowWhenItGrowsAgain) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    start(kChunks);
    disk().resize(2 * kTestChunk + 1234);
    disk().flush();
    disk().write_stamped(2 * kTestChunk + 2000, 10'000);
    disk().recover(seed % 4 == 0 ? End::assumed_loss : End::power_loss, seed);
    if (seed % 3 == 0) disk().close_and_open();
    disk().resize(4 * kTestChunk);
    disk().verify();
    disk().drain();
    if (HasFailure()) return;
  }
}

TEST_F(LiveDiskRules, Rule3ADiscardGivesStorageBackAfterTheSeal) {
  const std::uint64_t before = allocated("home.img");
  ASSERT_GE(before, 4 * kTestChunk);
  disk().zero(0, 4 * kTestChunk);
  EXPECT_EQ(allocated("home.img"), before) << "punched before the seal";
  disk().flush();
  disk().tidy();
  EXPECT_LE(allocated("home.img") + 4 * kTestChunk, before);
}

TEST_F(LiveDiskRules, Rule3AnImageRemovedIsANewIncarnation) {
  disk().freeze();
  disk().commit();
  const auto old = live().info().incarnation;
  disk().freeze();
  disk().remove();
  EXPECT_FAILS(live().remove_image(), ENOENT);
  EXPECT_FAILS(live().freeze(SnapshotId{100}, SnapshotId{0}, "n", ""), ENODATA);
  disk().verify();
  disk().create();
  EXPECT_FAILS(live().create_image(), EEXIST);
  EXPECT_GT(live().info().incarnation, old);
  disk().resize(kChunks * kTestChunk);
  disk().write_stamped(kTestChunk, 100);
  disk().freeze();
  disk().verify();
  disk().commit();  // of the old incarnation
  disk().commit();  // of the new one: nothing of the old may show through as unchanged
  disk().drain();
}

// --- rule 4: P ---

TEST_F(LiveDiskRules, Rule4TheRootOfACommitIsTheParentFromThenOn) {
  disk().freeze();
  disk().write_stamped(0, 100);
  disk().freeze();
  disk().commit();
  EXPECT_EQ(live().parent_root(), disk().complete().back().root);
  disk().recover(End::power_loss, 3);
  EXPECT_EQ(live().parent_root(), disk().complete().back().root);
  const auto roots = live().roots();
  EXPECT_NE(std::ranges::find(roots, live().parent_root()), roots.end());
  disk().drain();
}

/// Between the freezes of two snapshots a chunk may move without being changed. The later one reads it from where the
/// earlier one froze it; when that one is dropped, it must not look where the chunk went and was overwritten.
TEST_F(LiveDiskRules, Rule4ADroppedSnapshotLeavesItsSuccessorWhatOnlyItFroze) {
  disk().freeze();
  disk().write_stamped(0, kTestChunk);  // in a detour
  disk().freeze();                      // the one that is dropped: it froze chunk 0 there
  disk().commit();
  disk().flush();
  std::size_t moved = 0;
  disk().move_home(8, &moved);
  ASSERT_EQ(moved, 1u);
  disk().write_stamped(3 * kTestChunk, 100);
  disk().freeze();
  disk().write_stamped(2 * kTestChunk, 100);
  disk().freeze();                  // the successor
  disk().drop(1);                   // makes the successor's map durable: what it has not changed is not pinned for it
  disk().write_stamped(0, 4096);    // in place, at home
  disk().verify();
  disk().drop(0);
  disk().verify();
  disk().recover(End::power_loss, 1);
  disk().verify();
  disk().drain();
}

/// What was cut off before a snapshot is not in it, nor in a later and longer one, whatever an older one has there, and
/// whoever of them is dropped.
TEST_F(LiveDiskRules, Rule4AShorterSnapshotHidesWhatAnOlderOneHasBehindItsEnd) {
  for (const bool committed : {false, true}) {
    for (std::size_t dropped = 0; dropped < 3; ++dropped) {
      start(kChunks);
      disk().write_stamped(6 * kTestChunk, kTestChunk);
      disk().freeze();
      if (committed) disk().commit();
      disk().resize(4 * kTestChunk + 100);
      disk().freeze();
      disk().resize(kChunks * kTestChunk);
      disk().freeze();
      disk().verify();
      disk().drop(dropped);
      disk().verify();
      disk().recover(End::power_loss, dropped);
      disk().verify();
      disk().drain();
      if (HasFailure()) return;
    }
  }
}

// --- rule 5: ids ---

TEST_F(LiveDiskRules, Rule5SnapshotIdsOnlyGrow) {
  disk().freeze();
  disk().freeze();
  const SnapshotId high = live().high_water();
  EXPECT_FALSE(live().freeze(high, SnapshotId{0}, "again", ""));
  EXPECT_FALSE(live().freeze(SnapshotId{1}, SnapshotId{0}, "again", ""));
  disk().drop(1);
  EXPECT_EQ(live().high_water(), high);
  disk().drop(0);
  disk().tidy();
  disk().recover(End::power_loss, 1);
  EXPECT_EQ(live().high_water(), high);
  disk().close_and_open();
  EXPECT_EQ(live().high_water(), high);
  EXPECT_FALSE(live().freeze(high, SnapshotId{0}, "again", ""));
}

TEST_F(LiveDiskRules, Rule5ADroppedSnapshotDoesNotReturn) {
  for (std::uint64_t seed = 0; seed < 10; ++seed) {
    start(kChunks);
    disk().freeze();
    disk().write_stamped(0, 100);
    disk().freeze();
    disk().drop(0);
    disk().recover(End::power_loss, seed);
    ASSERT_EQ(live().pending().size(), 1u);
    disk().drop(0);
    disk().recover(End::power_loss, seed);
    ASSERT_EQ(live().pending().size(), 0u);
    disk().verify();
  }
}

// --- rule 6: sharing ---

TEST_F(LiveDiskRules, Rule6OnlyRootsAreSharedFrozenAndWrittenChunksAreBytes) {
  disk().freeze();
  disk().write_stamped(0, 100);
  const auto runs = live().describe_pending(disk().state().pending.front().id, ChunkIndex{0}, ChunkCount{kChunks}, 100);
  ASSERT_OK(runs);
  for (const CopyRun& run : *runs) EXPECT_NE(run.kind, CopyRun::Kind::shared);
  disk().commit();
  disk().move_home(8);
  const auto described = live().describe(ChunkIndex{0}, ChunkCount{kChunks}, 100);
  ASSERT_OK(described);
  std::uint64_t shared = 0;
  for (const CopyRun& run : *described) {
    if (run.kind == CopyRun::Kind::shared) shared += run.count.value();
    EXPECT_FALSE(run.kind == CopyRun::Kind::shared && run.first == ChunkIndex{0}) << "chunk 0 was changed";
  }
  EXPECT_GE(shared, 3u) << "unchanged chunks of a complete parent can be shared";
  disk().verify();
}

// --- rule 7: latches ---

TEST_F(LiveDiskRules, Rule7AFailedSyncLatchesUntilReopened) {
  for (const char* file : {"home.img", "detour.img", "/journal"}) {  // the journal may have been renamed since
    start(kChunks);
    disk().freeze();
    disk().write_stamped(0, kTestChunk);                    // a detour, and a tentative record
    disk().write_stamped(6 * kTestChunk, 2 * kTestChunk);   // a new home
    // The syncs of the next flush, in any order: fail the one of `file`.
    std::atomic<bool> failed{false};
    storage().calls().set_hook([&](std::string_view action, std::string_view path) {
      if (action == "sync" && path.find(file) != path.npos && !failed.exchange(true)) storage().fail_at(1, EIO);
    });
    EXPECT_FAILS(live().flush(), EIO);
    storage().calls().set_hook({});
    ASSERT_TRUE(failed) << file;
    EXPECT_TRUE(live().latched()) << file;
    for (int i = 0; i < 2; ++i) {
      const Status again = live().flush();
      ASSERT_FALSE(again) << file;
      EXPECT_EQ(again.error().code, EIO);
      EXPECT_EQ(again.error().kind, ErrorKind::latched);
      const auto frozen = live().freeze(SnapshotId{50}, SnapshotId{0}, "n", "");
      ASSERT_FALSE(frozen) << file;
      EXPECT_EQ(frozen.error().kind, ErrorKind::latched);
    }
    Content out(kTestChunk);
    EXPECT_OK(live().read(ByteOffset{0}, out));
    disk().recover(End::assumed_loss, 0);
    EXPECT_FALSE(live().latched());
    disk().verify();
    EXPECT_TRUE(disk().flush());
    disk().drain();
    if (HasFailure()) return;
  }
}

/// Two that wait for a flush to end are served by the next one, together, and only when that one went well.
TEST_F(LiveDiskRules, Rule7AFlushThatFailsServesNobodyElse) {
  for (std::uint64_t seed = 0; seed < 5; ++seed) {
    start(kChunks);
    const Content bytes(kTestChunk, std::byte{0x3C});
    std::atomic<bool> started{false};
    std::atomic<int> journal_writes{0};
    std::vector<std::thread> others;
    std::atomic<int> succeeded{0};
    ASSERT_OK(live().write(ByteOffset{6 * kTestChunk}, bytes));
    storage().calls().set_hook([&](std::string_view action, std::string_view path) {
      if (action == "sync" && path.ends_with("home.img") && !started.exchange(true)) {
        ASSERT_OK(live().write(ByteOffset{7 * kTestChunk}, bytes));  // not covered by the flush that runs
        for (int i = 0; i < 2; ++i) others.emplace_back([&] { succeeded += live().flush() ? 1 : 0; });
        std::this_thread::sleep_for(std::chrono::milliseconds(30));
      } else if (action == "write" && started && path.find("/journal") != path.npos && ++journal_writes == 3) {
        storage().fail_at(1, EIO);  // the second seal; nothing is latched by it
      }
    });
    EXPECT_OK(live().flush());
    for (std::thread& other : others) other.join();
    storage().calls().set_hook({});
    EXPECT_EQ(succeeded, 1) << "one met the failure, the other tried again";
    disk().end(End::power_loss, seed);
    ASSERT_OK(disk().open());
    Content out(kTestChunk);
    ASSERT_OK(live().read(ByteOffset{7 * kTestChunk}, out));
    EXPECT_TRUE(out == bytes) << "a flush succeeded that was none";
  }
}

/// A record that lands in the journal while a flush syncs the data speaks of data that this flush may have missed.
TEST_F(LiveDiskRules, ASealCoversNothingThatCameDuringItsFlush) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    start(kChunks);
    disk().zero(0, kTestChunk);  // its Home keeps the old bytes until it is punched
    disk().flush();
    disk().freeze();
    disk().write_stamped(kTestChunk, kTestChunk);  // a detour to sync, behind home.img
    const Content late(kTestChunk, std::byte{0x5A});
    std::atomic<bool> written{false};
    storage().calls().set_hook([&](std::string_view action, std::string_view path) {
      if (action != "sync" || !path.ends_with("detour.img") || written.exchange(true)) return;
      EXPECT_OK(live().write(ByteOffset{0}, late));
    });
    disk().flush();
    storage().calls().set_hook({});
    ASSERT_TRUE(written);
    disk().write(0, late);  // the model learns of it
    disk().recover(End::power_loss, seed);
    disk().verify();
    disk().drain();
    if (HasFailure()) return;
  }
}

// --- rule 8: durable means its directories too ---

TEST(LiveDiskBirth, Rule8AFlushedImageOfANewDiskSurvivesAPowerLossWithItsDirectories) {
  for (std::uint64_t seed = 0; seed < 30; ++seed) {
    ModeledDisk disk(seed);
    ASSERT_OK(disk.open());
    EXPECT_EQ(disk.disk().how_opened(), Opened::fresh);
    disk.create();
    disk.resize(4 * kTestChunk);
    disk.write_stamped(0, kTestChunk);
    disk.flush();
    disk.recover(End::power_loss, seed);
    disk.verify();
    ASSERT_TRUE(disk.disk().exists());
  }
}

/// A detour.img that somebody removed while it held nothing is made again, and its name is durable before it is used.
TEST_F(LiveDiskRules, Rule8AFileThatHadToBeMadeAgainSurvivesWithItsName) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    start(kChunks);
    disk().end(End::kill, 0);
    ASSERT_OK(storage().remove(path("detour.img")));
    ASSERT_OK(storage().sync_directory(ModeledDisk::kDirectory));
    ASSERT_OK(disk().open());
    disk().freeze();
    disk().write_stamped(0, 2 * kTestChunk);
    disk().flush();
    disk().recover(End::power_loss, seed);
    if (!disk().is_open()) return;
    disk().verify();
    disk().drain();
    if (HasFailure()) return;
  }
}

// --- rule 9: how it ended ---

TEST_F(LiveDiskRules, Rule9TheWayItEndedIsKnown) {
  disk().close_and_open();
  EXPECT_EQ(live().how_opened(), Opened::clean);
  disk().recover(End::kill, 0);
  EXPECT_EQ(live().how_opened(), Opened::killed);
  disk().recover(End::kill, 0);
  EXPECT_EQ(live().how_opened(), Opened::killed);
  disk().recover(End::power_loss, 0);
  EXPECT_EQ(live().how_opened(), Opened::power_lost);
  disk().recover(End::assumed_loss, 0);
  EXPECT_EQ(live().how_opened(), Opened::power_lost);
  disk().verify();
}

TEST_F(LiveDiskRules, Rule9AfterACleanCloseNothingCountsAsChangedThatWasNot) {
  disk().freeze();
  disk().commit();
  disk().write_stamped(kTestChunk, 4096);
  const std::uint64_t changed = live().counters().changed_blocks;
  EXPECT_EQ(changed, 1u);
  disk().close_and_open();
  EXPECT_EQ(live().counters().changed_blocks, changed);
  disk().recover(End::kill, 0);
  EXPECT_EQ(live().counters().changed_blocks, changed);
  disk().close_and_open();
  EXPECT_EQ(live().counters().changed_blocks, changed);
  disk().drain();
}

TEST_F(LiveDiskRules, Rule9AfterAPowerLossAllCountsAsChanged) {
  disk().freeze();
  disk().commit();
  disk().write_stamped(kTestChunk, 4096);
  disk().flush();
  disk().recover(End::power_loss, 0);
  EXPECT_GE(live().counters().changed_blocks, kChunks * kTestGeometry.blocks_per_chunk());
  disk().drain();
}

/// A mount of old: whatever lies in shared memory under our names is not ours when the journal is another.
TEST_F(LiveDiskRules, Rule9AChangeMapOfAnotherLifeIsNotTrusted) {
  disk().freeze();
  disk().commit();
  disk().write_stamped(kTestChunk, 4096);
  disk().flush();
  // The machine goes down; a copy of the old change maps comes back with it.
  auto& memory = disk().machine().memory;
  const auto names = memory.list();
  ASSERT_OK(names);
  std::map<std::string, std::vector<std::pair<std::uint64_t, Content>>> kept;
  std::map<std::string, std::uint64_t> sizes;
  for (const std::string& name : *names) {
    const auto file = memory.open_existing(name);
    ASSERT_OK(file);
    sizes[name] = (*file)->bytes().size();
    const auto extents = (*file)->reserved();
    ASSERT_OK(extents);
    for (const os::Extent& extent : *extents) {
      const auto bytes = (*file)->bytes().subspan(static_cast<std::size_t>(extent.begin.value()),
                                                  static_cast<std::size_t>(extent.length.value()));
      kept[name].push_back({extent.begin.value(), Content(bytes.begin(), bytes.end())});
    }
  }
  disk().write_stamped(2 * kTestChunk, 4096);  // not in the copy
  disk().flush();
  disk().end(End::power_loss, 0);
  for (const auto& [name, pieces] : kept) {
    const auto file = memory.open(name, ByteCount{sizes[name]});
    ASSERT_OK(file);
    for (const auto& [at, bytes] : pieces) {
      ASSERT_OK((*file)->reserve(ByteOffset{at}, ByteCount{bytes.size()}));
      std::ranges::copy(bytes, (*file)->bytes().begin() + static_cast<std::ptrdiff_t>(at));
    }
  }
  ASSERT_OK(disk().open());
  EXPECT_EQ(live().how_opened(), Opened::power_lost);
  disk().adopt();
  disk().verify();
  disk().drain();
}

// --- rule 10: unreadable ---

TEST_F(LiveDiskRules, Rule10AnUnreadableFrozenChunkIsReportedAndHoldsNothingUp) {
  disk().freeze();
  const SnapshotId id = disk().state().pending.front().id;
  Content out(kTestChunk);
  storage().fail_at(1, EIO, Repeat::once, Calls::reads);
  EXPECT_FAILS(live().read_frozen(id, ChunkIndex{0}, out), EIO);
  EXPECT_FALSE(live().latched());
  EXPECT_OK(live().read_frozen(id, ChunkIndex{0}, out));
  disk().drain();
}

// --- rule 11: a full disk ---

TEST_F(LiveDiskRules, Rule11NoSpaceForADetourFailsTheWriteAndNothingElse) {
  disk().freeze();
  const auto used = storage().capacity();
  ASSERT_OK(used);
  storage().set_capacity(ByteCount{used->total.value() - used->free.value()});
  disk().expect_faults({ENOSPC});
  for (std::uint64_t chunk = 0; chunk < 4; ++chunk) disk().write_stamped(chunk * kTestChunk + 100, 4096);
  EXPECT_GE(disk().failures(), 1u);
  EXPECT_FALSE(live().latched());
  disk().verify();
  const std::uint64_t slots = live().counters().slots;
  for (int i = 0; i < 20; ++i) EXPECT_FALSE(disk().write_stamped(100, 4096));
  EXPECT_LE(live().counters().slots, slots) << "a slot whose write failed is lost";
  EXPECT_TRUE(disk().flush());
  // Deleting needs no space: that is what the journal's reserve is for.
  EXPECT_TRUE(disk().drop(0));
  disk().verify();
  EXPECT_TRUE(disk().write_stamped(0, 4096)) << "home is free again";
  disk().recover(End::power_loss, 0);
  disk().verify();
  storage().set_capacity(ByteCount{kTiB});
  disk().drain();
}

TEST_F(LiveDiskRules, Rule11FreezesAndDropsGoOnForLongOnAFullDisk) {
  const auto used = storage().capacity();
  ASSERT_OK(used);
  storage().set_capacity(ByteCount{used->total.value() - used->free.value()});
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(disk().freeze());
    ASSERT_TRUE(disk().drop(0));
    ASSERT_TRUE(disk().write_stamped(0, 4096));
    ASSERT_TRUE(disk().flush());
  }
  disk().verify();
}

TEST_F(LiveDiskRules, Rule11WithoutSharedMemoryAllCountsAsChanged) {
  disk().freeze();
  disk().commit();
  disk().machine().memory.set_capacity(ByteCount{0});
  EXPECT_TRUE(disk().write_stamped(kTestChunk, 100));
  EXPECT_TRUE(disk().write_stamped(5 * kTestChunk, 100));
  disk().verify();
  EXPECT_TRUE(disk().freeze()) << "a snapshot needs no shared memory";
  EXPECT_TRUE(disk().write_stamped(2 * kTestChunk, 100));
  disk().recover(End::kill, 0);
  disk().verify();
  disk().machine().memory.set_capacity(ByteCount{kGiB});
  disk().drain();
}

// --- rule 13: the sweep ---

TEST_F(LiveDiskRules, Rule13HomesOfChunksThatLiveElsewhereAndOrphansAreFreedAfterOpening) {
  disk().freeze();
  disk().write_stamped(0, 4 * kTestChunk);
  disk().flush();
  disk().commit();     // the old homes are nobody's now; the chunks are in detours
  disk().zero(0, 4 * kTestChunk);
  disk().flush();
  disk().recover(End::kill, 0);  // what was to be freed was in memory only
  for (int i = 0; i < 8; ++i) disk().tidy();
  EXPECT_LE(allocated("home.img"), kTestChunk);
  EXPECT_LE(allocated("detour.img"), kTestChunk);
  const LiveDiskCounters counters = live().counters();
  EXPECT_EQ(counters.free_slots, counters.slots);
  disk().verify();
}

TEST_F(LiveDiskRules, Rule13ChangeMapsThatNobodyNamesAreRemoved) {
  for (int i = 0; i < 10; ++i) {
    disk().freeze();
    disk().write_stamped(0, 100);
    disk().commit();
    if (i % 3 == 0) disk().recover(End::kill, 0);
    if (i % 3 == 1) disk().close_and_open();
    disk().tidy();
  }
  const auto names = disk().machine().memory.list();
  ASSERT_OK(names);
  EXPECT_LE(names->size(), 3u);
}

// --- cost ---

TEST_F(LiveDiskRules, TheCostOfAFreezeFollowsNeitherSizeNorWhatWasFlushed) {
  std::vector<std::uint64_t> costs;
  for (const std::uint64_t chunks : {std::uint64_t{4}, std::uint64_t{400}, std::uint64_t{4'000'000}}) {
    for (const std::uint64_t dirty : {std::uint64_t{1}, std::uint64_t{4}, std::uint64_t{64}}) {
      start(chunks);
      for (std::uint64_t i = 0; i < std::min(chunks, dirty); ++i) disk().write_stamped(i * kTestChunk, 100);
      disk().flush();
      Counted counted(disk().machine());
      EXPECT_TRUE(disk().freeze());
      costs.push_back(counted.total());
      EXPECT_LE(counted.all("sync"), 4u);
    }
  }
  EXPECT_EQ(*std::ranges::min_element(costs), *std::ranges::max_element(costs));
  EXPECT_LE(costs.front(), 10u);
}

TEST_F(LiveDiskRules, InSteadyStateAWriteIsOneWriteAndAFlushOneSync) {
  disk().freeze();
  disk().commit();
  disk().write_stamped(0, 4 * kTestChunk);
  disk().flush();
  Counted counted(disk().machine());
  const std::uint64_t journal = live().counters().journal_bytes;
  for (std::uint64_t i = 0; i < 4; ++i) disk().write_stamped(i * kTestChunk + 4096, 4096);
  EXPECT_EQ(counted.total(), 4u);
  EXPECT_EQ(counted.of("write home.img"), 4u);
  disk().flush();
  EXPECT_EQ(counted.all("sync"), 1u);
  EXPECT_EQ(counted.total(), 5u);
  EXPECT_EQ(live().counters().journal_bytes, journal);
  disk().flush();
  EXPECT_LE(counted.total(), 6u);
}

TEST_F(LiveDiskRules, TheJournalIsCompactedWhenItIsLong) {
  LiveDiskOptions options;
  options.compact_journal_at = 16 * kKiB;
  start(64, options);
  for (int i = 0; i < 400; ++i) {
    disk().freeze();
    disk().write_stamped(static_cast<std::uint64_t>(i % 60) * kTestChunk, 100);
    disk().commit();
    disk().tidy();
    if (disk().complete().size() > 2) disk().forget_complete(0);
  }
  disk().flush();
  disk().tidy();
  EXPECT_LE(live().counters().journal_bytes, 64 * kKiB);
  disk().recover(End::kill, 0);
  disk().verify();
  disk().recover(End::power_loss, 0);
  disk().verify();
  disk().drain();
}

// --- the image as a disk ---

TEST_F(LiveDiskRules, AnImageGrowsInUse) {
  disk().write_stamped(kChunks * kTestChunk - 10, 20);
  EXPECT_EQ(live().info().size.value(), kChunks * kTestChunk + 10);
  disk().write_stamped(20 * kTestChunk + 17, 3);
  disk().verify();
  disk().flush();
  disk().recover(End::power_loss, 0);
  EXPECT_EQ(live().info().size.value(), 20 * kTestChunk + 20);
  disk().verify();
}

TEST_F(LiveDiskRules, AnImageTooLargeIsRefused) {
  EXPECT_FAILS(live().resize(ByteCount{kTestGeometry.max_image_size().value() + 1}), EFBIG);
  const Content bytes(10, std::byte{1});
  EXPECT_FAILS(live().write(ByteOffset{UINT64_MAX - 5}, bytes), EFBIG);
  EXPECT_FAILS(live().write(ByteOffset{kTestGeometry.max_image_size().value()}, bytes), EFBIG);
  disk().verify();
}

TEST_F(LiveDiskRules, WritesOfAnyAlignmentAreExact) {
  std::mt19937_64 random(7);
  for (const bool frozen : {false, true}) {
    if (frozen) disk().freeze();
    for (int i = 0; i < 300 && !HasFailure(); ++i) {
      const std::uint64_t at = random() % (kChunks * kTestChunk - 1);
      const std::uint64_t most = std::min<std::uint64_t>(i % 3 == 0 ? 3 * kTestChunk : 700, kChunks * kTestChunk - at);
      disk().write_stamped(at, 1 + random() % most);
      if (i % 20 == 0) disk().verify();
    }
    disk().verify();
  }
  disk().drain();
}

TEST_F(LiveDiskRules, ReadsAreShortOnlyAtTheEndAndOfAnyAlignment) {
  disk().resize(2 * kTestChunk + 777);
  Content out(3 * kTestChunk + 1);
  for (const std::size_t shift : {std::size_t{0}, std::size_t{1}, std::size_t{512}}) {
    const std::span<std::byte> space = std::span(out).subspan(shift);
    for (const std::uint64_t at : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{4095}, kTestChunk - 1}) {
      const auto got = live().read(ByteOffset{at}, space);
      ASSERT_OK(got);
      EXPECT_EQ(*got, std::min<std::uint64_t>(space.size(), 2 * kTestChunk + 777 - at));
      EXPECT_TRUE(std::ranges::equal(space.first(*got), disk().state().live->read(at, *got)));
    }
  }
  const auto behind = live().read(ByteOffset{2 * kTestChunk + 777}, out);
  ASSERT_OK(behind);
  EXPECT_EQ(*behind, 0u);
}

TEST_F(LiveDiskRules, SeekSaysENXIOAtTheEndAndNeverHoleOverData) {
  const std::uint64_t size = kChunks * kTestChunk;
  EXPECT_FAILS(live().seek(ByteOffset{size}, true), ENXIO);
  EXPECT_FAILS(live().seek(ByteOffset{size}, false), ENXIO);
  EXPECT_FAILS(live().seek(ByteOffset{4 * kTestChunk}, true), ENXIO) << "only holes from here on";
  auto hole = live().seek(ByteOffset{0}, false);
  ASSERT_OK(hole);
  EXPECT_EQ(hole->value(), 4 * kTestChunk);
  disk().write_stamped(6 * kTestChunk, 1);
  auto data = live().seek(ByteOffset{4 * kTestChunk}, true);
  ASSERT_OK(data);
  EXPECT_EQ(data->value() / kTestChunk, 6u);
  hole = live().seek(*data, false);
  ASSERT_OK(hole);
  EXPECT_EQ(hole->value(), 7 * kTestChunk);
  disk().resize(7 * kTestChunk - 5);
  hole = live().seek(*data, false);
  ASSERT_OK(hole);
  EXPECT_EQ(hole->value(), 7 * kTestChunk - 5);
  disk().splice(0, 4, some_complete(2), 0, 0);
  disk().verify();
  disk().freeze();
  disk().verify();
}

TEST_F(LiveDiskRules, PreallocatedSpaceIsThereWhenTheDiskIsFull) {
  ASSERT_TRUE(disk().preallocate(4 * kTestChunk, 4 * kTestChunk));
  disk().verify();
  ASSERT_TRUE(disk().flush());
  const auto used = storage().capacity();
  ASSERT_OK(used);
  storage().set_capacity(ByteCount{used->total.value() - used->free.value()});
  EXPECT_TRUE(disk().write_stamped(4 * kTestChunk, 4 * kTestChunk));
  disk().verify();
}

TEST_F(LiveDiskRules, TimesAreKept) {
  const Time time{1'700'000'000'123'456'789};
  ASSERT_OK(live().set_modified(time));
  EXPECT_EQ(live().info().modified, time);
  disk().freeze();
  EXPECT_EQ(live().pending().front().image_modified, time);
  disk().close_and_open();
  EXPECT_EQ(live().info().modified, time);
  disk().recover(End::kill, 0);
  EXPECT_GE(live().info().modified, time) << "what came later is known by the files' times only";
  EXPECT_EQ(live().pending().front().image_modified, time);
  const Time before = now();
  disk().write_stamped(0, 1);
  EXPECT_GE(live().info().modified, before);
}

TEST_F(LiveDiskRules, AReadOfABaseThatFailsIsAnErrorAndAPartialWriteThereToo) {
  disk().replace(some_complete(kChunks));
  disk().base().fail_with(EIO);
  Content out(100);
  EXPECT_FAILS(live().read(ByteOffset{0}, out), EIO);
  EXPECT_FAILS(live().write(ByteOffset{10}, out), EIO);
  EXPECT_TRUE(live().reads_base(ByteOffset{0}, ByteCount{100}));
  EXPECT_TRUE(live().writes_base(ByteOffset{10}, ByteCount{100}));
  EXPECT_TRUE(live().writes_base(ByteOffset{0}, ByteCount{kTestChunk}));  // it may be the same
  disk().write_stamped(kTestChunk, kTestChunk);  // needs nothing of the base
  EXPECT_FALSE(live().reads_base(ByteOffset{kTestChunk}, ByteCount{100}));
  disk().base().fail_with(0);
  disk().verify();
  disk().drain();
}

TEST_F(LiveDiskRules, AWriteOfWhatTheBaseHasStoresNothing) {
  const auto from = some_complete(kChunks);
  disk().replace(from);
  {
    Counted calls(disk().machine());
    disk().write(0, from.image->read(0, kChunks * kTestChunk));
    disk().write(2 * kTestChunk + 4096, from.image->read(2 * kTestChunk + 4096, 8192));
    disk().write(3 * kTestChunk + 100, from.image->read(3 * kTestChunk + 100, kTestChunk + 17));
    EXPECT_EQ(calls.total(), 0u);
  }
  EXPECT_EQ(live().counters().base_chunks, kChunks);
  disk().verify();
}

/// Also where snapshots are pending, and its bytes at Home or in a detour are given back like any others.
TEST_F(LiveDiskRules, AChunkThatIsWrittenBackToWhatTheBaseHasIsBaseAgain) {
  const auto from = some_complete(kChunks);
  const Content image = from.image->read(0, kChunks * kTestChunk);
  for (const bool pinned : {false, true}) {
    for (const End how : {End::kill, End::power_loss}) {
      start(kChunks);
      const auto base = disk().add_complete(*from.image);
      disk().replace(base);
      disk().zero(0, kTestChunk);
      disk().write_stamped(2 * kTestChunk, 2 * kTestChunk);
      if (pinned) disk().freeze();
      if (pinned) disk().write_stamped(3 * kTestChunk, kTestChunk);
      disk().flush();
      {
        Counted calls(disk().machine());
        disk().write(0, image);
        EXPECT_EQ(calls.of("write home.img") + calls.of("write detour.img"), 0u);
        EXPECT_EQ(calls.total(), calls.all("write journal"));
      }
      EXPECT_EQ(live().counters().base_chunks, kChunks);
      disk().verify();
      if (how == End::kill || pinned) disk().flush();
      disk().recover(how, 5);
      disk().verify();
      disk().write(0, image);
      disk().drain();
      EXPECT_EQ(live().counters().base_chunks, kChunks);
      disk().flush();
      disk().tidy();
      EXPECT_EQ(allocated("home.img"), 0u);
      disk().settle();
      if (HasFailure()) return;
    }
  }
}

/// What was compared before the gate may be what another write or a splice has replaced since.
TEST_F(LiveDiskRules, AWriteThatWasTheSameIsStoredWhereTheBaseIsAnotherNow) {
  const auto from = some_complete(kChunks);
  disk().replace(from);
  disk().write_stamped(0, kTestChunk);
  std::atomic<bool> asked{false};
  disk().base().set_hook([&] {
    if (asked.exchange(true)) return;
    ASSERT_OK(live().splice(ChunkIndex{0}, ChunkCount{1}, some_complete(3).root, ChunkIndex{2}, ByteCount{0}));
  });
  const Content bytes = from.image->read(0, kTestChunk);
  ASSERT_OK(live().write(ByteOffset{0}, bytes));
  disk().base().set_hook({});
  EXPECT_TRUE(asked);
  Content out(kTestChunk);
  ASSERT_OK(live().read(ByteOffset{0}, out));
  EXPECT_TRUE(out == bytes);
  EXPECT_EQ(live().counters().base_chunks, kChunks - 1);
}

/// A fill from far away must not hold up a freeze, and must not undo what happened meanwhile.
TEST_F(LiveDiskRules, ASlowFillHoldsUpNoFreezeAndIsNotOutdated) {
  disk().replace(some_complete(kChunks));
  disk().flush();
  std::atomic<bool> asked{false};
  std::atomic<bool> go{false};
  disk().base().set_hook([&] {
    if (asked.exchange(true)) return;
    while (!go) std::this_thread::yield();
  });
  const Content bytes(100, std::byte{0x66});
  std::thread writer([&] { EXPECT_OK(live().write(ByteOffset{50}, bytes)); });
  while (!asked) std::this_thread::yield();
  const auto frozen = live().freeze(SnapshotId{1}, SnapshotId{0}, "while it waits", "");
  ASSERT_OK(frozen);
  const Content whole(kTestChunk, std::byte{0x44});
  ASSERT_OK(live().write(ByteOffset{0}, whole));
  go = true;
  writer.join();
  disk().base().set_hook({});
  Content expected = whole;
  std::ranges::copy(bytes, expected.begin() + 50);
  Content out(kTestChunk);
  ASSERT_OK(live().read(ByteOffset{0}, out));
  EXPECT_TRUE(out == expected);
  ASSERT_OK(live().read_pending(SnapshotId{1}, ByteOffset{0}, out));
  EXPECT_TRUE(out == Content(kTestChunk, std::byte{1})) << "a write issued before and not acknowledged may be in it "
                                                           "only whole; this one came after";
  ASSERT_OK(live().drop_pending(SnapshotId{1}));
}

TEST_F(LiveDiskRules, ManySplicesEndInE2BIGAndNotInAnEndlessList) {
  start(12'000);
  const auto from = some_complete(4);
  bool refused = false;
  for (std::uint64_t i = 0; i < 5000 && !refused; ++i) {
    const Status spliced = live().splice(ChunkIndex{2 * i}, ChunkCount{1}, from.root, ChunkIndex{i % 4}, ByteCount{0});
    if (!spliced) {
      ASSERT_EQ(spliced.error().code, E2BIG);
      refused = true;
    }
  }
  EXPECT_TRUE(refused);
  Content out(kTestChunk);
  ASSERT_OK(live().read(ByteOffset{2 * 1001 * kTestChunk}, out));
  EXPECT_EQ(out[0], std::byte{2});
  EXPECT_OK(live().flush());
  ASSERT_OK(live().freeze(SnapshotId{1}, SnapshotId{0}, "n", ""));
}

TEST_F(LiveDiskRules, ARequestMakesItInUseForAWhile) {
  using std::chrono::milliseconds;
  // Once, but where this test is kept from the processor for longer than it looks back.
  const auto makes_it_so = [&](const std::function<void()>& request) {
    for (int i = 0; i < 100; ++i) {
      std::this_thread::sleep_for(milliseconds{50});
      EXPECT_FALSE(live().in_use(milliseconds{40}));
      request();
      if (live().in_use(milliseconds{40})) return true;
    }
    return false;
  };
  Content out(kTestChunk);
  EXPECT_TRUE(makes_it_so([&] { EXPECT_OK(live().read(ByteOffset{0}, out)); }));
  EXPECT_TRUE(makes_it_so([&] { EXPECT_TRUE(disk().write_stamped(0, kTestChunk)); }));
}

TEST_F(LiveDiskRules, AJournalThatIsSoundVerifies) {
  disk().freeze();
  disk().write_stamped(0, 100);
  disk().end(End::kill, 0);
  EXPECT_OK(verify_journal(storage(), ModeledDisk::kDirectory, ModeledDisk::kId, kTestGeometry));
  EXPECT_FALSE(verify_journal(storage(), ModeledDisk::kDirectory, DiskId{8}, kTestGeometry));
  EXPECT_FALSE(verify_journal(storage(), ModeledDisk::kDirectory, ModeledDisk::kId, Geometry(ByteCount{64 * kKiB})));
  ASSERT_OK(disk().open());
  disk().adopt();
  disk().verify();
}

}  // namespace
}  // namespace varve::disk
