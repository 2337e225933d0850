// Packs that share a file are collected, repaired and read like any others.
//
//   VARVE_JOINED_PACKS=N   how many small packs there are (400; 10000 is what ten thousand snapshots make)
#include <algorithm>
#include <atomic>
#include <random>
#include <thread>

#include "support/expect.h"
#include "support/seed.h"
#include "varve/chunks/join_packs.h"
#include "varve/chunks/pack_repair.h"
#include "varve/snapshot/collect.h"
#include "world.h"

namespace varve::snapshot::test {
namespace {

constexpr std::uint64_t kSpan = 600;

struct Snapshot {
  MaybeRef root;
  Model model;
};

std::vector<std::string> joined_files(World& world) {
  std::vector<std::string> files;
  const auto entries = world.storage.list("joined");
  for (const auto& entry : entries.value_or(std::vector<os::DirectoryEntry>{})) files.push_back("joined/" + entry.name);
  return files;
}

/// Each on top of the one before, with a change or two.
std::vector<Snapshot> history(World& world, std::uint64_t count, std::mt19937_64& random) {
  std::vector<Snapshot> snapshots;
  Snapshot last;
  for (std::uint64_t i = 0; i < count; ++i) {
    Model changes;
    for (std::uint64_t more = 1 + random() % 2; more > 0; --more) changes[random() % kSpan] = 1 + random() % 100'000;
    last.root = world.build(last.root, changes);
    for (const auto& [chunk, number] : changes) last.model[chunk] = number;
    snapshots.push_back(last);
  }
  return snapshots;
}

/// Forgets all that is known of the files, as a mount does.
void remount(World& world) {
  world.store.reset();
  world.objects = objects::make_directory_objects(world.storage);
  world.reopen();
}

objects::Joined join(World& world, std::size_t enough = 2) {
  const auto joined = chunks::join_packs(*world.store, {.enough = enough, .stop = {}, .pace = {}});
  EXPECT_OK(joined);
  return joined.value_or(objects::Joined{});
}

Collected collect(World& world) {
  const auto collected = collect_garbage(*world.store, {});
  EXPECT_OK(collected);
  return collected.value_or(Collected{});
}

TEST(Joining, ManySmallPacksShareFewFilesAndAreDeletedLikeAnyOthers) {
  std::mt19937_64 random(varve::test::seed_for("many small packs"));
  const std::uint64_t count = varve::test::number_from("VARVE_JOINED_PACKS", 400);
  World world;
  auto snapshots = history(world, count, random);
  ASSERT_EQ(world.pack_files().size(), count);
  const Collected first = collect(world);
  EXPECT_EQ(first.packs_joined, count);
  EXPECT_EQ(first.packs_seen, count);
  EXPECT_TRUE(world.pack_files().empty());
  EXPECT_LE(joined_files(world).size(), 1 + count / 1000);
  remount(world);
  EXPECT_EQ(world.store->list_packs()->size(), count);
  for (std::uint64_t i = 0; i < count; i += 1 + count / 50) {
    world.expect_content(snapshots[i].root, snapshots[i].model, kSpan);
  }
  // Nine of ten go, in any order; what nobody needs leaves its pack, and what is left is right.
  std::vector<Snapshot> left;
  std::ranges::shuffle(snapshots, random);
  for (std::uint64_t i = 0; i < count; ++i) {
    if (i % 10 == 0) {
      left.push_back(snapshots[i]);
    } else {
      world.roots.remove(snapshots[i].root);
    }
  }
  const Collected second = collect(world);
  EXPECT_GT(second.records_removed, count / 10);
  remount(world);
  const Collected third = collect(world);
  EXPECT_EQ(third.packs_removed + third.records_removed, 0u) << "what was removed is back";
  for (std::size_t i = 0; i < left.size(); i += 1 + left.size() / 50) {
    world.expect_content(left[i].root, left[i].model, kSpan);
  }
  for (const Snapshot& snapshot : left) world.roots.remove(snapshot.root);
  collect(world);
  EXPECT_TRUE(world.pack_files().empty());
  EXPECT_TRUE(joined_files(world).empty());
}

TEST(Joining, WaitsForEnoughOfThem) {
  std::mt19937_64 random(1);
  World world;
  history(world, chunks::kEnoughSmallPacks - 1, random);
  EXPECT_EQ(collect(world).packs_joined, 0u);
  history(world, 1, random);
  EXPECT_EQ(collect(world).packs_joined, chunks::kEnoughSmallPacks);
}

TEST(Joining, RecordsLeaveAPackThatSharesAFile) {
  World world;
  Model large;
  for (std::uint64_t i = 0; i < 40; ++i) large[i] = i + 1;
  const MaybeRef first = world.build({}, large);
  const MaybeRef other = world.build({}, {{500, 77}});
  join(world);
  ASSERT_TRUE(world.pack_files().empty());
  // Most of it dies: it is written anew, in a file of its own.
  Model most = large;
  Model changes;
  for (std::uint64_t i = 0; i < 30; ++i) changes[i] = most[i] = 1000 + i;
  const MaybeRef second = world.build(first, changes);
  world.roots.remove(first);
  const Collected collected = collect(world);
  EXPECT_EQ(collected.packs_rewritten, 1u);
  EXPECT_EQ(world.pack_files().size(), 2u);
  // A long run of the next one dies: its table is new, its bytes stay where they are, with holes.
  join(world);
  ASSERT_TRUE(world.pack_files().empty());
  Model some = most;
  changes.clear();
  for (std::uint64_t i = 0; i < 8; ++i) changes[i] = some[i] = 2000 + i;
  const MaybeRef third = world.build(second, changes);
  world.roots.remove(second);
  EXPECT_EQ(collect(world).packs_punched, 1u);
  for (int round = 0; round < 3; ++round) {
    world.expect_content(third, some, kSpan);
    world.expect_content(other, {{500, 77}}, kSpan);
    if (round == 0) join(world);
    if (round == 1) remount(world);
  }
  EXPECT_TRUE(world.pack_files().empty());
}

TEST(Joining, ARecordThatDecayedInASharedFileIsRepaired) {
  World world;
  std::mt19937_64 random(3);
  const auto snapshots = history(world, 5, random);
  const Ref lost = [&] {
    const auto& [chunk, number] = *snapshots.back().model.begin();
    return *chunks::ChunkMap(*world.store, snapshots.back().root).find(ChunkIndex{chunk}).value();
  }();
  const std::uint64_t number = snapshots.back().model.begin()->second;
  join(world);
  const std::string path = joined_files(world).at(0);
  const auto file = os::read_file(world.storage, path, ByteCount{kMiB});
  ASSERT_OK(file);
  // Where the pack lies in the file: by its first bytes and its id, which is in its last.
  const std::string name = "packs/" + chunks::to_text(lost).substr(5, 2) + "/" + chunks::to_text(lost).substr(5, 16) + ".0.pack";
  Bytes pack(world.objects->size(name)->value());
  ASSERT_OK(world.objects->read(name, ByteOffset{0}, pack));
  const auto at = std::search(file->begin(), file->end(), pack.begin(), pack.end()) - file->begin();
  const auto info = world.store->record(lost);
  ASSERT_OK(info);
  world.flip_byte(path, static_cast<std::uint64_t>(at) + 16 + 40);
  remount(world);
  std::vector<chunks::LostRecord> all;
  const auto table = world.store->pack_table(lost.pack);
  ASSERT_OK(table);
  for (const auto& record : *table) {
    const chunks::LostRecord one{{lost.pack, record.ordinal, record.digest}, chunks::content_of(record.kind)};
    if (!world.store->verify_record(one.ref, one.kind)) all.push_back(one);
  }
  ASSERT_EQ(all.size(), 1u);
  const auto repaired = chunks::repair_pack(*world.store, lost.pack, all, [&](const chunks::LostRecord&) {
    return std::make_shared<const Bytes>(content(number));
  });
  ASSERT_OK(repaired);
  EXPECT_EQ(repaired->elsewhere.size() + repaired->still_lost.size(), 1u);
  if (repaired->written) {
    EXPECT_EQ(world.pack_files().size(), 1u);
    remount(world);
    for (const Snapshot& snapshot : snapshots) world.expect_content(snapshot.root, snapshot.model, kSpan);
  }
  EXPECT_TRUE(repaired->written);
}

/// A collection of packs that share files, joining, and collecting once more; whatever ends it.
TEST(Joining, WheneverACollectionEndsWhatIsNeededIsReadableAndWhatIsGoneStaysGone) {
  const std::uint64_t seed = varve::test::seed_for("the end of a collection of joined packs");
  Model large;
  for (std::uint64_t i = 0; i < 40; ++i) large[i] = i + 1;
  std::uint64_t calls = 0;
  for (std::uint64_t call = 0; call == 0 || call <= calls; ++call) {
    for (std::uint64_t variant = 0; variant < (call == 0 ? 1u : 3u) && !HasFailure(); ++variant) {
      World world;
      std::mt19937_64 random(7);
      const MaybeRef first = world.build({}, large);
      Model most = large;
      Model changes;
      for (std::uint64_t i = 0; i < 30; ++i) changes[i] = most[i] = 1000 + i;
      const MaybeRef second = world.build(first, changes);
      auto others = history(world, 4, random);
      join(world);
      world.build({}, {{3, 12345}});  // alone in its file
      world.roots.remove(first);
      world.roots.remove(others[1].root);
      world.roots.remove(others[3].root);
      const std::uint64_t before = world.storage.change_count();
      if (call > 0) world.storage.cut_off_at(call);
      bool whole = collect_garbage(*world.store, {}).has_value();
      whole = chunks::join_packs(*world.store, {.enough = 2, .stop = {}, .pace = {}}).has_value() && whole;
      whole = collect_garbage(*world.store, {}).has_value() && whole;
      if (call == 0) {
        calls = world.storage.change_count() - before;
        ASSERT_TRUE(whole);
        ASSERT_GT(calls, 30u);
        ASSERT_TRUE(world.pack_files().empty() && !joined_files(world).empty());
      }
      const std::size_t packs = whole ? world.store->list_packs()->size() : 0;
      world.store.reset();
      if (variant == 0) {
        world.storage.kill();
      } else {
        world.storage.lose_power(seed + call * 10 + variant);
      }
      ASSERT_OK(objects::remove_temporaries(world.storage));
      remount(world);
      const auto expect_all = [&] {
        world.expect_content(second, most, kSpan);
        world.expect_content(others[0].root, others[0].model, kSpan);
        world.expect_content(others[2].root, others[2].model, kSpan);
      };
      SCOPED_TRACE("call " + std::to_string(call) + ", variant " + std::to_string(variant));
      expect_all();
      if (whole) {
        EXPECT_EQ(world.store->list_packs()->size(), packs) << "what was removed is back";
      }
      collect(world);
      join(world);
      expect_all();
      EXPECT_TRUE(chunks::check_joined_packs(*world.store)->empty());
    }
  }
}

/// Commits, deletes and reads at random while others join and collect.
TEST(Joining, GoesOnWhileOthersCommitReadAndCollect) {
  World world;
  const std::uint64_t seed = varve::test::seed_for("joining while others commit");
  std::atomic<bool> done{false};
  std::atomic<std::uint64_t> joined{0};
  std::thread joiner([&] {
    while (!done) joined += join(world).objects;
  });
  std::thread collector([&] {
    while (!done) collect(world);
  });
  std::vector<std::thread> committers;
  for (std::uint64_t i = 0; i < 2; ++i) {
    committers.emplace_back([&, i] {
      std::mt19937_64 random(seed + i);
      std::vector<Snapshot> snapshots;
      for (int round = 0; round < 60; ++round) {
        Snapshot next = snapshots.empty() ? Snapshot{} : snapshots[random() % snapshots.size()];
        Model changes;
        for (int c = 0; c < 3; ++c) changes[random() % kSpan] = 1 + i * 1'000'000 + random() % 1'000'000;
        for (const auto& [chunk, number] : changes) next.model[chunk] = number;
        next.root = world.build(next.root, changes);
        snapshots.push_back(std::move(next));
        if (random() % 2 == 0) {
          const auto at = snapshots.begin() + static_cast<std::ptrdiff_t>(random() % snapshots.size());
          world.roots.remove(at->root);
          snapshots.erase(at);
        }
        if (snapshots.empty()) continue;
        if (random() % 3 == 0) world.store->drop_caches();
        const Snapshot& one = snapshots[random() % snapshots.size()];
        world.expect_content(one.root, one.model, kSpan);
      }
    });
  }
  for (auto& committer : committers) committer.join();
  done = true;
  joiner.join();
  collector.join();
  EXPECT_GT(joined.load(), 10u);
}

}  // namespace
}  // namespace varve::snapshot::test
