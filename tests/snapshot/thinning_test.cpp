// Packs of which a part is dead: what becomes of them, and that nothing else notices, whenever it ends.
#include <algorithm>
#include <atomic>
#include <thread>

#include "support/seed.h"
#include "varve/chunks/free_records.h"
#include "varve/chunks/pack_repair.h"
#include "varve/snapshot/check.h"
#include "varve/snapshot/collect.h"
#include "varve/snapshot/repair.h"
#include "world.h"

namespace varve::snapshot::test {
namespace {

constexpr std::uint64_t kChunks = 40;

Model numbered(std::uint64_t first, std::uint64_t count, std::uint64_t number) {
  Model model;
  for (std::uint64_t i = 0; i < count; ++i) model[first + i] = number + i;
  return model;
}

Collected collect(World& world) {
  const auto collected = collect_garbage(*world.store, {});
  EXPECT_TRUE(collected) << collected.error().message;
  return collected.value_or(Collected{});
}

/// A pack of kChunks chunks, of which those in [first, first + count) are dead with snapshot a.
struct Thinned {
  World world;
  MaybeRef a;
  MaybeRef b;
  Model model = numbered(0, kChunks, 1000);

  Thinned(std::uint64_t first, std::uint64_t count) {
    a = world.build({}, model);
    const Model changes = numbered(first, count, 5000);
    b = world.build(a, changes);
    for (const auto& [chunk, number] : changes) model[chunk] = number;
    world.roots.remove(a);
  }
  std::uint64_t bytes_of_files() {
    std::uint64_t bytes = 0;
    for (const auto& file : world.pack_files()) bytes += world.storage.status(file)->allocated.value();
    return bytes;
  }
  void expect_whole() { world.expect_content(b, model, kChunks); }
};

constexpr std::uint64_t kMost = 30;  ///< of kChunks dead: the pack is written anew
constexpr std::uint64_t kSome = 14;  ///< it gets holes
constexpr std::uint64_t kFew = 2;    ///< it stays as it is

TEST(Thinning, APackThatIsMostlyDeadIsWrittenAnew) {
  Thinned t(5, kMost);
  const std::uint64_t before = t.bytes_of_files();
  const Collected collected = collect(t.world);
  EXPECT_EQ(collected.packs_rewritten, 1u);
  EXPECT_EQ(collected.packs_removed + collected.packs_punched, 0u);
  // The chunks, and the nodes of a that b's are not deltas on.
  EXPECT_GE(collected.records_removed, kMost);
  EXPECT_GE(collected.record_bytes, kMost * kGeometry.chunk_bytes() / 2);
  EXPECT_NEAR(static_cast<double>(before - t.bytes_of_files()), static_cast<double>(collected.bytes_removed), 4096.0);
  t.expect_whole();
  t.world.reopen();
  t.expect_whole();
  const Collected again = collect(t.world);
  EXPECT_EQ(again.records_removed + again.waiting_records, 0u) << "what is gone is gone";
  EXPECT_EQ(t.world.pack_files().size(), 2u);
}

TEST(Thinning, APackWithALongDeadRunGetsHoles) {
  Thinned t(5, kSome);
  const std::uint64_t before = t.bytes_of_files();
  const Collected collected = collect(t.world);
  EXPECT_EQ(collected.packs_punched, 1u);
  EXPECT_GE(collected.records_removed, kSome);
  EXPECT_LE(t.bytes_of_files() + collected.bytes_removed, before + 4096 + (collected.bytes_written + 4095) / 4096 * 4096);
  t.expect_whole();
  t.world.reopen();
  t.expect_whole();
  EXPECT_EQ(collect(t.world).records_removed, 0u);
  t.world.roots.remove(t.b);
  EXPECT_EQ(collect(t.world).packs_removed, 2u);
  EXPECT_TRUE(t.world.pack_files().empty());
}

TEST(Thinning, FewDeadRecordsWait) {
  Thinned t(5, kFew);
  const auto files = t.world.pack_files();
  const Collected collected = collect(t.world);
  EXPECT_EQ(collected.bytes_written + collected.bytes_removed + collected.records_removed, 0u);
  EXPECT_GE(collected.waiting_records, kFew);
  EXPECT_GE(collected.waiting_bytes, kFew * kGeometry.chunk_bytes() / 2);
  EXPECT_EQ(t.world.pack_files(), files);
}

TEST(Thinning, GoesOnFromAPackWithHoles) {
  Thinned t(5, kSome);
  EXPECT_EQ(collect(t.world).packs_punched, 1u);
  const Model changes = numbered(22, 10, 7000);
  const MaybeRef c = t.world.build(t.b, changes);
  t.world.roots.remove(t.b);
  for (const auto& [chunk, number] : changes) t.model[chunk] = number;
  t.b = c;
  const Collected collected = collect(t.world);
  EXPECT_GE(collected.records_removed, 10u);
  EXPECT_EQ(collected.packs_rewritten + collected.packs_punched, 1u);
  t.world.reopen();
  t.expect_whole();
  std::vector<CheckTarget> targets{{"b", t.b, ByteCount{kChunks * kGeometry.chunk_bytes()}}};
  const auto checked = check_targets(*t.world.store, targets, {}, {});
  ASSERT_TRUE(checked);
  EXPECT_TRUE(checked->damaged.empty());
}

TEST(Thinning, AnEqualChunkThatIsDeadIsNotShared) {
  for (const std::uint64_t dead : {kMost, kSome}) {
    Thinned t(5, dead);
    collect(t.world);
    // Its digest, its bytes in the cache, an old table: nothing leads there any more.
    const MaybeRef c = t.world.build(t.b, {{5, 1005}, {6, 1006}});
    t.model[5] = 1005;
    t.model[6] = 1006;
    t.b = c;
    collect(t.world);
    t.world.reopen();
    t.expect_whole();
  }
}

TEST(Thinning, ALivingRecordIsHeldAndSharedMeanwhile) {
  Thinned t(5, kMost);
  /// Shares a living chunk of the pack when its roots are asked for the second time, so that it is in use.
  struct Sharer final : chunks::RootOwner {
    World& world;
    int visits = 0;
    std::unique_ptr<chunks::RootRegistry::Hold> hold;
    chunks::RootRegistry::Registration registration;
    explicit Sharer(World& w) : world(w), registration(w.registry.add(*this)) {}
    void visit_roots(const std::function<void(const MaybeRef&)>&) override {
      if (++visits != 2) return;
      hold = std::make_unique<chunks::RootRegistry::Hold>(world.registry);
      chunks::RecordWriter writer(*world.store, *hold);
      EXPECT_TRUE(writer.put_chunk(content(1001)));
    }
  } sharer(t.world);
  const Collected busy = collect(t.world);
  EXPECT_EQ(busy.packs_rewritten, 0u);
  EXPECT_GE(busy.waiting_records, kMost);
  sharer.hold.reset();
  EXPECT_EQ(collect(t.world).packs_rewritten, 1u);
  t.expect_whole();
}

/// Reads all the while, with tables that were read before.
TEST(Thinning, ReadersFindTheirWay) {
  for (const std::uint64_t dead : {kMost, kSome}) {
    Thinned t(5, dead);
    std::atomic<bool> done{false};
    std::vector<std::thread> readers;
    for (int i = 0; i < 3; ++i) {
      readers.emplace_back([&] {
        while (!done) {
          t.expect_whole();
          for (std::uint64_t chunk = 0; chunk < 3; ++chunk) {
            const auto ref = chunks::ChunkMap(*t.world.store, t.b).find(ChunkIndex{chunk});
            ASSERT_TRUE(ref && *ref);
            EXPECT_TRUE(t.world.store->verify_record(**ref, chunks::RecordKind::full));
          }
        }
      });
    }
    collect(t.world);
    t.world.store->drop_caches();
    collect(t.world);
    done = true;
    for (auto& reader : readers) reader.join();
    t.expect_whole();
  }
}

TEST(Thinning, WhateverItMeetsAndWhereverItEndsNothingIsLost) {
  std::mt19937_64 random(varve::test::seed_for("thinning cut off"));
  int crashes = 0;
  for (const std::uint64_t dead : {kMost, kSome}) {
    for (const bool power : {false, true}) {
      for (std::uint64_t at = 1;; ++at) {
        Thinned t(5, dead);
        const std::uint64_t before = t.world.storage.change_count();
        t.world.storage.cut_off_at(at);
        static_cast<void>(collect_garbage(*t.world.store, {}));
        const bool whole = t.world.storage.change_count() - before < at;
        t.world.store.reset();
        t.world.objects.reset();
        power ? t.world.storage.lose_power(random()) : t.world.storage.kill();
        t.world.objects = objects::make_directory_objects(t.world.storage);
        ASSERT_TRUE(objects::remove_temporaries(t.world.storage));
        t.world.locator = chunks::make_memory_locator();
        t.world.reopen();
        EXPECT_TRUE(t.world.store->reconcile_locator({}));
        SCOPED_TRACE(at);
        t.expect_whole();
        // What was dead is still there or gone, and never shared in between.
        t.b = t.world.build(t.b, {{5, 1005}});
        t.model[5] = 1005;
        collect(t.world);
        t.world.reopen();
        t.expect_whole();
        if (HasFailure()) return;
        ++crashes;
        if (whole) break;
      }
    }
  }
  EXPECT_GT(crashes, 20);
}

TEST(Thinning, AnErrorAnywhereIsReportedAndLosesNothing) {
  for (const std::uint64_t dead : {kMost, kSome}) {
    for (const int code : {EIO, ENOSPC}) {
      for (std::uint64_t at = 1;; ++at) {
        Thinned t(5, dead);
        const std::uint64_t before = t.world.storage.change_count();
        t.world.storage.fail_at(at, code, varve::test::Repeat::once);
        static_cast<void>(collect_garbage(*t.world.store, {}));
        t.world.storage.clear_faults();
        SCOPED_TRACE(at);
        t.expect_whole();
        t.b = t.world.build(t.b, {{5, 1005}});
        t.model[5] = 1005;
        collect(t.world);
        t.expect_whole();
        t.world.reopen();
        t.expect_whole();
        if (HasFailure()) return;
        if (t.world.storage.change_count() - before < at) break;
        if (at > 60) break;
      }
    }
  }
}

TEST(Thinning, AFullStoreGetsSpaceBack) {
  Thinned t(5, kSome);
  t.world.storage.fill_up();
  const Collected collected = collect(t.world);
  EXPECT_EQ(collected.packs_punched, 1u);
  EXPECT_GE(collected.bytes_removed, kSome * kGeometry.chunk_bytes() / 3);
  t.expect_whole();
}

TEST(Thinning, APackWhoseNewTableIsDamagedIsRepairedFromTheOldOne) {
  Thinned t(5, kSome);
  ASSERT_EQ(collect(t.world).packs_punched, 1u);
  for (const auto& file : t.world.pack_files()) {
    if (file.ends_with(".1.pack")) t.world.flip_byte(file, t.world.storage.status(file)->size.value() - 30);
  }
  t.world.reopen();
  const std::vector<CheckTarget> targets{{"b", t.b, ByteCount{kChunks * kGeometry.chunk_bytes()}}};
  EXPECT_FALSE(check_targets(*t.world.store, targets, {}, {})->damaged.empty());
  const auto repaired = repair_targets(*t.world.store, targets, {}, {}, {});
  ASSERT_TRUE(repaired);
  EXPECT_EQ(repaired->lost, 0u);
  t.world.reopen();
  t.expect_whole();
}

/// A chunk of a pack without a table may be a delta, and nobody knows on what.
TEST(Thinning, NothingGoesBesideAPackWithoutATableUntilARepairSettlesIt) {
  World world;
  const MaybeRef a = world.build({}, numbered(0, 10, 1));
  const Model far = numbered(1000, 10, 1);
  world.locator = chunks::make_memory_locator();
  world.reopen();
  const MaybeRef b = world.build({}, numbered(0, 10, 900));
  world.roots.remove(world.build({}, numbered(0, 5, 5000)));
  const auto ref = chunks::ChunkMap(*world.store, b).find(ChunkIndex{3});
  ASSERT_TRUE(ref && *ref);
  // A map of its own for b's chunks, so that the pack that is lost has no node.
  world.build({}, {{5000, 903}});
  const MaybeRef other = world.build({}, {{5000, 903}, {6000, 1}});
  world.roots.remove(b);
  world.roots.remove(a);
  static_cast<void>(far);
  for (const auto& file : world.pack_files()) {
    if (file.find(chunks::to_text(**ref).substr(5, 16)) == std::string::npos) continue;
    ASSERT_TRUE(world.storage.remove(file));
  }
  world.reopen();
  EXPECT_EQ(collect_garbage(*world.store, {}).error().code, EIO);
  const std::vector<CheckTarget> targets{{"other", other, ByteCount{7000 * kGeometry.chunk_bytes()}}};
  const auto repaired = repair_targets(*world.store, targets, {}, {}, {});
  ASSERT_TRUE(repaired) << repaired.error().message;
  EXPECT_EQ(repaired->lost, 1u);
  const Collected collected = collect(world);
  EXPECT_GT(collected.packs_removed, 0u);
  EXPECT_FALSE(world.store->load_chunk(**ref));
}

}  // namespace
}  // namespace varve::snapshot::test
