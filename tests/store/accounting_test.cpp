// Bytes promised are bytes freed: random histories of disks that share data, random deletions, and what a look at the packs
// says afterwards. VARVE_SEED repeats a run, VARVE_ACCOUNTING_SNAPSHOTS=1000 makes it longer.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "store_fixture.h"
#include "support/expect.h"
#include "support/seed.h"
#include "varve/catalog/disk_log.h"
#include "varve/store/commands.h"
#include "varve/store/space.h"

namespace varve::store {
namespace {

using nlohmann::json;
using snapshot::RecordSums;
using test::Machine;
using Content = std::vector<std::byte>;

constexpr std::uint64_t kChunk = kMinChunkSize;
constexpr std::uint64_t kChunks = 48;
const Attributes kDirectory{0, 0, 0755, {}};

std::uint64_t number_of_snapshots() {
  const char* text = std::getenv("VARVE_ACCOUNTING_SNAPSHOTS");
  return text != nullptr ? std::strtoull(text, nullptr, 10) : 200;
}

/// What all roots of a store reach, found by other means than the store's own: its files.
class Reader {
 public:
  explicit Reader(Machine& machine)
      : objects_(objects::make_directory_objects(machine.storage)),
        locator_(chunks::make_memory_locator()),
        store_(*objects_, *locator_, registry_, Geometry{ByteCount{kChunk}}, {}) {}

  RecordSums live(Store& store) {
    RecordSums sums;
    std::set<std::pair<std::uint64_t, std::uint32_t>> walked;
    std::set<std::pair<std::uint64_t, std::uint32_t>> seen;
    const auto note = [&](const chunks::Ref& ref, chunks::RecordKind kind) {
      if (!seen.insert({ref.pack.value(), ref.ordinal}).second) return;
      ++sums.records;
      sums.chunks += kind == chunks::RecordKind::full ? 1 : 0;
      sums.stored_bytes += store_.record(ref).value().stored_bytes;
    };
    chunks::RecordVisitor visitor;
    visitor.first_visit = [&](const chunks::Ref& ref, chunks::RecordKind kind) {
      if (ref.damaged()) return false;
      note(ref, kind);
      return walked.insert({ref.pack.value(), ref.ordinal}).second;
    };
    visitor.visit_support = note;
    visitor.on_damage = [](const chunks::Ref&, const Error& error) { ADD_FAILURE() << error.message; };
    const auto disks = store.disks();
    for (const auto& disk : disks) {
      const auto live_roots = disk->live().roots();
      for (const auto& root : live_roots) chunks::walk_records(store_, chunks::from_opaque(root), visitor);
      const auto log = catalog::DiskLog::open(*objects_, disk->id());
      EXPECT_TRUE(log);
      const auto state = (*log)->state();
      for (const auto& [id, entry] : state->snapshots) chunks::walk_records(store_, entry->root, visitor);
    }
    return sums;
  }

 private:
  std::unique_ptr<objects::ObjectStore> objects_;
  std::unique_ptr<chunks::Locator> locator_;
  chunks::RootRegistry registry_;
  chunks::ChunkStore store_;
};

class AccountingOfAStore : public StoreFixture {
 protected:
  AccountingOfAStore() : StoreFixture(kChunk) {}
  std::uint64_t below(std::uint64_t limit) { return random_() % limit; }
  std::shared_ptr<Disk> make_disk(const std::string& name) {
    return StoreFixture::make_disk(name, kChunks * kChunk, kDirectory);
  }
  /// Sometimes what another has, sometimes a few bytes, sometimes zeros.
  void write(Disk& disk) {
    const std::uint64_t chunk = below(kChunks);
    if (below(10) == 0) {
      EXPECT_OK(disk.live().zero(ByteOffset{chunk * kChunk}, ByteCount{kChunk}));
      return;
    }
    Content bytes(below(3) == 0 ? 600 : kChunk);
    std::mt19937_64 source(below(4) == 0 ? below(20) : random_());
    for (std::size_t i = 0; i < bytes.size(); i += 2) bytes[i] = static_cast<std::byte>(source());
    EXPECT_OK(disk.live().write(ByteOffset{chunk * kChunk}, bytes));
  }
  SnapshotName take(const std::shared_ptr<Disk>& disk, bool commit = true) {
    const auto taken = disk->take_snapshot("s" + std::to_string(++names_), kDirectory);
    EXPECT_OK(taken);
    if (commit) commit_all(*disk);
    return {disk, taken ? taken->id : SnapshotId{}};
  }
  /// Snapshots of a few disks, some of them clones of others, restored now and then.
  std::vector<SnapshotName> history(std::uint64_t count) {
    std::vector<std::shared_ptr<Disk>> disks{make_disk("a"), make_disk("b")};
    std::vector<SnapshotName> all;
    while (all.size() < count) {
      auto disk = disks[below(disks.size())];
      for (std::uint64_t i = 0, n = below(6); i < n; ++i) write(*disk);
      all.push_back(take(disk));
      if (below(30) == 0 && disks.size() < 6) {
        const auto& from = all[below(all.size())];
        disks.push_back(store_->clone({from.disk, from.id}, "c" + std::to_string(disks.size()), kDirectory).value());
      }
      if (below(25) == 0) {
        const auto& from = all[below(all.size())];
        EXPECT_OK(store_->restore(from.disk, from.id, disk));
      }
    }
    return all;
  }
  void settle() {
    const auto disks = store_->disks();
    for (const auto& disk : disks) EXPECT_OK(store_->step_upkeep(disk->id()));
  }
  RecordSums counted() {
    EXPECT_OK(store_->space().catch_up({}, {}));
    return store_->space().counted();
  }
  RecordSums promised(const std::vector<SnapshotName>& snapshots) {
    EXPECT_OK(store_->space().catch_up({}, {}));
    const auto freed = store_->space().freed_without(snapshots);
    EXPECT_OK(freed);
    return freed.value_or(RecordSums{});
  }
  void remove(const std::vector<SnapshotName>& snapshots) {
    for (const auto& one : snapshots) EXPECT_OK(store_->remove_snapshot(one.disk, one.id));
  }
  Result<json> run(const json& request) { return run_command(*store_, request, {}); }

  std::mt19937_64 random_{test::seed_for("the accounting of a store")};
  std::uint64_t names_ = 0;
};

RecordSums minus(const RecordSums& a, const RecordSums& b) {
  return {a.records - b.records, a.chunks - b.chunks, a.stored_bytes - b.stored_bytes};
}

TEST_F(AccountingOfAStore, BytesPromisedAreBytesFreedToTheRecord) {
  auto all = history(number_of_snapshots());
  ASSERT_EQ(counted(), Reader(machine_).live(*store_));
  std::ranges::shuffle(all, random_);
  std::size_t left = all.size() / 2;
  std::uint64_t left_waiting = 0;
  while (left > 0 && !HasFailure()) {
    const std::size_t now = std::min<std::size_t>(left, 1 + below(left));
    const std::vector<SnapshotName> some(all.end() - static_cast<std::ptrdiff_t>(now), all.end());
    all.resize(all.size() - now);
    left -= now;
    const RecordSums before = Reader(machine_).live(*store_);
    const RecordSums promise = promised(some);
    remove(some);
    settle();
    const RecordSums after = Reader(machine_).live(*store_);
    EXPECT_EQ(minus(before, after), promise) << promise.records << " records promised";
    EXPECT_EQ(counted(), after);
    const auto collected = store_->collect({});
    ASSERT_OK(collected);
    EXPECT_EQ(Reader(machine_).live(*store_), after);
    EXPECT_EQ(store_->space().waiting(), collected->waiting_bytes);
    left_waiting += collected->waiting_bytes;
  }
  EXPECT_GT(left_waiting, 0u) << "no collect left anything";
  const auto difference = store_->space().verify();
  ASSERT_OK(difference);
  EXPECT_FALSE(*difference) << **difference;
  for (const auto& one : all) {
    Content bytes(kChunks * kChunk);
    EXPECT_OK(one.disk->read_snapshot(one.id, ByteOffset{0}, bytes));
  }
}

TEST_F(AccountingOfAStore, TheSameIsCountedAfterAMount) {
  (void)history(30);
  const RecordSums before = counted();
  ASSERT_OK(store_->close());
  store_.reset();
  open();
  EXPECT_FALSE(store_->space().ready());
  EXPECT_EQ(store_->space().freed_without({}).error().code, EAGAIN);
  EXPECT_EQ(counted(), before);
}

TEST_F(AccountingOfAStore, TheNewestSnapshotFreesItsDataAlthoughTheLiveDiskStandsOnIt) {
  auto disk = make_disk("a");
  (void)take(disk);
  ASSERT_OK(disk->live().write(ByteOffset{kChunk}, Content(kChunk, std::byte{2})));
  const SnapshotName newest = take(disk);
  const RecordSums before = counted();
  const RecordSums promise = promised({newest});
  EXPECT_GT(promise.stored_bytes, 0u);
  remove({newest});
  settle();
  EXPECT_EQ(minus(before, counted()), promise);
}

TEST_F(AccountingOfAStore, WhatAPendingSnapshotNeedsIsNotPromised) {
  auto disk = make_disk("a");
  ASSERT_OK(disk->live().write(ByteOffset{0}, Content(kChunk, std::byte{1})));
  const SnapshotName first = take(disk);
  ASSERT_OK(disk->live().write(ByteOffset{kChunk}, Content(kChunk, std::byte{2})));
  const SnapshotName pending = take(disk, false);
  EXPECT_EQ(promised({first}), RecordSums{});
  EXPECT_EQ(promised({pending}), RecordSums{});
  const RecordSums both = promised({first, pending});
  EXPECT_EQ(both, counted());
  remove({first});
  settle();
  EXPECT_EQ(promised({pending}), both);
  remove({pending});
  settle();
  EXPECT_EQ(counted(), RecordSums{});
}

TEST_F(AccountingOfAStore, ARemovedDiskHoldsNothing) {
  auto disk = make_disk("a");
  ASSERT_OK(disk->live().write(ByteOffset{0}, Content(kChunk, std::byte{1})));
  const SnapshotName one = take(disk);
  EXPECT_GT(counted().records, 0u);
  remove({one});
  ASSERT_OK(disk->remove_image());
  ASSERT_OK(store_->remove_disk(disk->id()));
  ASSERT_OK(store_->collect({}));
  EXPECT_EQ(counted(), RecordSums{});
}

TEST_F(AccountingOfAStore, DuTellsTheStoreADiskAndASnapshot) {
  auto disk = make_disk("a");
  Content bytes(4 * kChunk, std::byte{1});
  ASSERT_OK(disk->live().write(ByteOffset{0}, bytes));
  (void)take(disk);
  write(*disk);
  (void)take(disk);
  const auto store = run({{"command", "du"}});
  ASSERT_OK(store);
  EXPECT_EQ(store->at("store").at("stored"), counted().stored_bytes);
  EXPECT_GE(store->at("store").at("logical"), 2 * 4 * kChunk - kChunk);
  EXPECT_EQ(store->at("disks").at(0).at("freed"), counted().stored_bytes);
  const auto one = run({{"command", "du"}, {"images", json::array({json{{"image", "a"}}, json{{"image", "a@s1"}}})}});
  ASSERT_OK(one);
  EXPECT_EQ(one->at("disks").at(0).at("snapshots").size(), 2u);
  EXPECT_EQ(one->at("disks").at(0).at("stored"), counted().stored_bytes);
  EXPECT_EQ(one->at("snapshots").at(0).at("name"), "s1");
  EXPECT_EQ(one->at("freed"), counted().stored_bytes);
  for (const json& wrong : {json{{"images", 5}}, json{{"images", json::array({5})}},
                            json{{"images", json::array({json{{"image", "nobody"}}})}}}) {
    json question = wrong;
    question["command"] = "du";
    EXPECT_FALSE(run(question)) << question;
  }
}

TEST_F(AccountingOfAStore, RmDeletesAndSaysWhatItFreesAndADryRunOnlySays) {
  const auto all = history(6);
  json images = json::array();
  for (const auto& one : all) {
    images.push_back(json{{"disk", one.disk->name()}, {"snapshot", one.disk->snapshot(one.id)->name}});
  }
  const auto only = run({{"command", "rm"}, {"images", images}, {"dry_run", true}});
  ASSERT_OK(only);
  EXPECT_EQ(only->at("deleted").size(), 6u);
  EXPECT_GT(only->at("freed"), 0u);
  EXPECT_TRUE(all.front().disk->snapshot(all.front().id));
  const auto use = all.back().disk->use_snapshot(all.back().id);
  const auto most = run({{"command", "rm"}, {"images", images}});
  ASSERT_OK(most);
  EXPECT_EQ(most->at("deleted").size(), 5u);
  EXPECT_EQ(most->at("failed").size(), 1u);
  EXPECT_TRUE(most->at("freed").is_null());
  EXPECT_FALSE(all.front().disk->snapshot(all.front().id));
  EXPECT_EQ(run({{"command", "rm"}, {"images", json::array()}}).error().code, EINVAL);
}

TEST_F(AccountingOfAStore, FreeProposesFewSnapshotsAndDeletesThemOnYes) {
  auto disk = make_disk("a");
  std::vector<SnapshotName> all;
  const auto fill = [&](std::uint64_t chunks) {
    Content bytes(chunks * kChunk);
    for (auto& byte : bytes) byte = static_cast<std::byte>(random_());
    EXPECT_OK(disk->live().write(ByteOffset{0}, bytes));
    all.push_back(take(disk));
  };
  for (const std::uint64_t chunks : {1U, 2U, 20U, 3U, 1U}) fill(chunks);
  // The third has what nobody else has: 17 chunks are still the fourth's.
  const auto plan = run({{"command", "free"}, {"bytes", 2 * kChunk}});
  ASSERT_OK(plan);
  EXPECT_TRUE(plan->at("enough").get<bool>());
  EXPECT_FALSE(plan->at("done").get<bool>());
  ASSERT_EQ(plan->at("proposed").size(), 1u);
  EXPECT_EQ(plan->at("freed"), promised({all[2]}).stored_bytes);
  EXPECT_EQ(plan->at("proposed").at(0).at("snapshot"), "s3");
  const auto more = run({{"command", "free"}, {"bytes", 18 * kChunk}});
  ASSERT_OK(more);
  EXPECT_TRUE(more->at("enough").get<bool>());
  const auto none = run({{"command", "free"}, {"bytes", 1000 * kChunk}});
  ASSERT_OK(none);
  EXPECT_FALSE(none->at("enough").get<bool>());
  EXPECT_EQ(run({{"command", "free"}, {"bytes", 1000 * kChunk}, {"yes", true}}).error().code, ENOSPC);
  EXPECT_EQ(disk->snapshot_count(), 5u);
  const RecordSums before = counted();
  const auto done = run({{"command", "free"}, {"bytes", 18 * kChunk}, {"yes", true}, {"disk", "a"}});
  ASSERT_OK(done);
  EXPECT_TRUE(done->at("done").get<bool>());
  settle();
  EXPECT_EQ(before.stored_bytes - counted().stored_bytes, done->at("freed").get<std::uint64_t>());
  EXPECT_EQ(run({{"command", "free"}, {"bytes", -1}}).error().code, EINVAL);
  EXPECT_EQ(run({{"command", "free"}, {"bytes", std::uint64_t{1}}, {"disk", "nobody"}}).error().code, ENOENT);
}

TEST_F(AccountingOfAStore, TheReserveIsNotSpaceForWriters) {
  const auto capacity = store_->capacity();
  const auto storage = machine_.storage.capacity();
  ASSERT_OK(capacity);
  ASSERT_OK(storage);
  EXPECT_LE(capacity->available, storage->available);
}

}  // namespace
}  // namespace varve::store
