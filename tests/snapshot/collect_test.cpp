#include "varve/snapshot/collect.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <random>
#include <thread>

#include "support/seed.h"
#include "world.h"

namespace varve::snapshot::test {
namespace {

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

TEST(Collect, RemovesWhatNoRootReachesAndNothingElse) {
  World world;
  const Model first = numbered(0, 40, 1000);
  const MaybeRef a = world.build({}, first);
  const MaybeRef b = world.build(a, numbered(300, 20, 2000));
  const MaybeRef c = world.build({}, numbered(0, 30, 3000));
  EXPECT_EQ(collect(world).packs_removed, 0u);
  world.roots.remove(c);
  const auto size_of_c = world.store->pack_size(c->pack);
  const Collected collected = collect(world);
  EXPECT_EQ(collected.packs_removed, 1u);
  EXPECT_EQ(collected.bytes_removed, size_of_c->value());
  EXPECT_EQ(collected.packs_seen, 3u);
  world.reopen();
  world.expect_content(a, first, 40);
  Model both = first;
  both.merge(numbered(300, 20, 2000));
  world.expect_content(b, both, 320);

  // b stands on a's pack: a may go, its chunks stay.
  world.roots.remove(a);
  EXPECT_EQ(collect(world).packs_removed, 0u);
  world.roots.remove(b);
  EXPECT_EQ(collect(world).packs_removed, 2u);
  EXPECT_TRUE(world.pack_files().empty());
}

TEST(Collect, CountsLiveRecordsOnce) {
  World world;
  const MaybeRef a = world.build({}, numbered(0, 10, 1));
  world.build(a, {});
  world.build(a, {{5, 99}});
  // 10 + 1 chunks; a's four nodes and the four of the other map.
  EXPECT_EQ(collect(world).live_records, 19u);
}

TEST(Collect, KeepsWhatADeltaStandsOnThatAForgedOneStandsOn) {
  World world;
  const MaybeRef full = world.build({}, {{7, 1}});
  const auto put_delta = [&](chunks::RootRegistry::Hold& hold, const Ref& base, Bytes& bytes) {
    const Bytes before = bytes;
    bytes[bytes.size() / 2] ^= std::byte{1};
    chunks::RecordWriter writer(*world.store, hold);
    const auto plain = std::make_shared<const chunks::Bytes>(before);
    auto delta = chunks::encode_chunk_delta({base, plain, plain, {}, {}}, bytes, {}).value();
    const Ref ref = writer.append_delta(world.store->digest(bytes), std::move(*delta)).value();
    EXPECT_TRUE(writer.finish());
    return ref;
  };
  MaybeRef root;
  Bytes bytes = content(1);
  Bytes wanted;
  {
    chunks::RootRegistry::Hold hold(world.registry);
    const Ref delta = put_delta(hold, *chunks::ChunkMap(*world.store, full).find(ChunkIndex{7}).value(), bytes);
    wanted = bytes;
    const Ref forged = put_delta(hold, delta, bytes);
    chunks::RecordWriter writer(*world.store, hold);
    chunks::MapBuilder builder(*world.store, writer, {});
    // The forged one is met first.
    ASSERT_TRUE(builder.set(ChunkIndex{1}, forged));
    ASSERT_TRUE(builder.set(ChunkIndex{2}, delta));
    root = builder.finish().value();
    ASSERT_TRUE(writer.finish());
    world.roots.add(root);
  }
  world.roots.remove(full);
  collect(world);
  world.reopen();
  const Ref ref = *chunks::ChunkMap(*world.store, root).find(ChunkIndex{2}).value();
  const auto read = world.store->load_chunk(ref);
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_TRUE(**read == wanted);
}

/// Of a row of maps in which one block changes at a time, any may go: the others stay exact.
TEST(Collect, KeepsWhatLendsBlocks) {
  std::mt19937_64 random(varve::test::seed_for("collect and lenders"));
  for (int round = 0; round < 8; ++round) {
    World world;
    const MaybeRef full = world.build({}, {{7, 1}});
    std::map<Ref, Bytes> wanted;
    Ref chunk = *chunks::ChunkMap(*world.store, full).find(ChunkIndex{7}).value();
    Bytes bytes = content(1);
    const std::size_t blocks = bytes.size() / kBlockSize;
    MaybeRef before = full;
    for (std::size_t i = 0; i < blocks / 2; ++i) {
      bytes[2 * i * kBlockSize + 5] ^= std::byte{0x41};
      chunks::RootRegistry::Hold hold(world.registry);
      chunks::RecordWriter writer(*world.store, hold);
      auto delta = chunks::encode_chunk_delta(world.store->load_delta_parent(chunk).value(), bytes, {}).value();
      ASSERT_TRUE(delta && delta->supports.size() == 1 + i);
      chunk = writer.append_delta(world.store->digest(bytes), std::move(*delta)).value();
      chunks::MapBuilder builder(*world.store, writer, before);
      ASSERT_TRUE(builder.set(ChunkIndex{7}, chunk));
      before = builder.finish().value();
      ASSERT_TRUE(writer.finish());
      world.roots.add(before);
      wanted.emplace(*before, bytes);
    }
    world.roots.remove(full);
    while (!wanted.empty()) {
      const auto gone = std::next(wanted.begin(), static_cast<std::ptrdiff_t>(random() % wanted.size()));
      world.roots.remove(gone->first);
      wanted.erase(gone);
      collect(world);
      world.reopen();
      for (const auto& [root, plain] : wanted) {
        const auto read = world.store->load_chunk(*chunks::ChunkMap(*world.store, root).find(ChunkIndex{7}).value());
        ASSERT_TRUE(read) << read.error().message;
        EXPECT_TRUE(**read == plain);
      }
    }
    EXPECT_EQ(world.store->list_packs()->size(), 0u);
  }
}

TEST(Collect, KeepsWhatAHoldKeeps) {
  World world;
  auto hold = std::make_unique<chunks::RootRegistry::Hold>(world.registry);
  const Model model = numbered(0, 10, 1);
  const auto root = world.build(*hold, {}, model);
  ASSERT_TRUE(root);
  EXPECT_EQ(collect(world).packs_removed, 0u);
  world.expect_content(*root, model, 10);
  hold.reset();
  EXPECT_EQ(collect(world).packs_removed, 1u);
}

TEST(Collect, AnUnreadableNodeKeepsEverything) {
  World world;
  // The map in a pack of its own: all its chunks are in the first already.
  world.build({}, numbered(0, 20, 1));
  const MaybeRef shifted = world.build({}, numbered(1000, 20, 1));
  const MaybeRef garbage = world.build({}, numbered(0, 5, 5000));
  world.roots.remove(garbage);
  ASSERT_EQ(world.pack_files().size(), 3u);
  for (const auto& file : world.pack_files()) {
    const std::string id = chunks::to_text(*shifted).substr(5, 16);
    if (file.find(id) != std::string::npos) world.flip_byte(file, 20);
  }
  world.reopen();
  const auto collected = collect_garbage(*world.store, {});
  ASSERT_FALSE(collected);
  EXPECT_EQ(collected.error().code, EIO);
  EXPECT_EQ(world.pack_files().size(), 3u);
  // Once the snapshot is gone nobody asks for that node any more.
  world.roots.remove(shifted);
  EXPECT_EQ(collect(world).packs_removed, 2u);
}

TEST(Collect, ADamagedChunkStandsForNothing) {
  World world;
  chunks::RootRegistry::Hold hold(world.registry);
  chunks::RecordWriter writer(*world.store, hold);
  chunks::MapBuilder builder(*world.store, writer, {});
  ASSERT_TRUE(builder.set(ChunkIndex{1}, Ref::make_damaged()));
  const auto root = builder.finish();
  ASSERT_TRUE(root);
  ASSERT_TRUE(writer.finish());
  world.roots.add(*root);
  const MaybeRef garbage = world.build({}, numbered(0, 5, 5000));
  world.roots.remove(garbage);
  EXPECT_EQ(collect(world).packs_removed, 1u);
}

TEST(Collect, WhatComesIntoBeingMeanwhileIsNotTouched) {
  World world;
  world.build({}, numbered(0, 5, 1));
  /// Writes a pack of garbage when its roots are asked for: after the packs were listed.
  struct LateWriter final : chunks::RootOwner {
    World& world;
    chunks::RootRegistry::Registration registration;
    explicit LateWriter(World& w) : world(w), registration(w.registry.add(*this)) {}
    void visit_roots(const std::function<void(const MaybeRef&)>&) override {
      if (written) return;
      written = true;
      std::thread([this] {
        chunks::RootRegistry::Hold hold(world.registry);
        EXPECT_TRUE(world.build(hold, {}, numbered(0, 5, 7000)));
      }).join();
    }
    bool written = false;
  } late(world);
  EXPECT_EQ(collect(world).packs_removed, 0u);
  EXPECT_EQ(world.pack_files().size(), 2u);
  EXPECT_EQ(collect(world).packs_removed, 1u);
}

TEST(Collect, ARootThatMovesFromAHoldToAnOwnerJustVisitedStays) {
  World world;
  /// Gets the root of one finished commit after each of its visits, and lets go of that commit's hold.
  struct Receiver final : chunks::RootOwner {
    World& world;
    std::vector<std::unique_ptr<chunks::RootRegistry::Hold>> holds;
    std::vector<MaybeRef> held;
    std::vector<MaybeRef> owned;
    chunks::RootRegistry::Registration registration;
    explicit Receiver(World& w) : world(w), registration(w.registry.add(*this)) {}
    void visit_roots(const std::function<void(const MaybeRef&)>& visit) override {
      for (const auto& root : owned) visit(root);
      if (holds.empty()) return;
      owned.push_back(held.back());
      held.pop_back();
      holds.pop_back();
    }
  } receiver(world);
  for (std::uint64_t i = 0; i < 5; ++i) {
    receiver.holds.push_back(std::make_unique<chunks::RootRegistry::Hold>(world.registry));
    const auto root = world.build(*receiver.holds.back(), {}, numbered(0, 5, 1000 * (i + 1)));
    ASSERT_TRUE(root);
    receiver.held.push_back(*root);
  }
  EXPECT_EQ(collect(world).packs_removed, 0u);
  EXPECT_EQ(collect(world).packs_removed, 0u);
  EXPECT_EQ(world.pack_files().size(), 5u);
}

TEST(Collect, ADeadPackThatACommitSharesJustAfterTheLastVisitStays) {
  World world;
  world.roots.remove(world.build({}, numbered(0, 5, 1)));
  /// After its second visit a whole commit runs that finds the dead chunks by digest, and becomes its own.
  struct LateOwner final : chunks::RootOwner {
    World& world;
    MaybeRef root;
    int visits = 0;
    chunks::RootRegistry::Registration registration;
    explicit LateOwner(World& w) : world(w), registration(w.registry.add(*this)) {}
    void visit_roots(const std::function<void(const MaybeRef&)>& visit) override {
      if (root) visit(root);
      if (++visits != 2) return;
      chunks::RootRegistry::Hold hold(world.registry);
      root = world.build(hold, {}, numbered(300, 5, 1)).value_or(MaybeRef{});
    }
  } late(world);
  EXPECT_EQ(collect(world).packs_removed, 0u);
  EXPECT_EQ(world.pack_files().size(), 2u);
  world.reopen();
  world.expect_content(late.root, numbered(300, 5, 1), 305);
}

TEST(Collect, APackThatCannotGoDoesNotKeepTheOthers) {
  World world;
  for (std::uint64_t i = 0; i < 3; ++i) world.roots.remove(world.build({}, numbered(0, 3, 100 * (i + 1))));
  world.storage.fail_at(1, EIO);
  const auto collected = collect_garbage(*world.store, {});
  ASSERT_FALSE(collected);
  EXPECT_EQ(collected.error().code, EIO);
  EXPECT_EQ(world.pack_files().size(), 1u);
  EXPECT_EQ(collect(world).packs_removed, 1u);
}

TEST(Collect, StopsWhenTold) {
  World world;
  world.build({}, numbered(0, 50, 1));
  world.roots.remove(world.build({}, numbered(0, 5, 700)));
  int asked = 0;
  const auto collected = collect_garbage(*world.store, {.stop = [&] { return ++asked > 10; }, .progress = {}, .pace = {}});
  ASSERT_FALSE(collected);
  EXPECT_EQ(collected.error().code, ECANCELED);
  EXPECT_EQ(asked, 11);
  EXPECT_EQ(world.pack_files().size(), 2u);
}

/// Commits, shares, deletes and restores at random while collect runs over and over: what is owned stays readable.
class Committer {
 public:
  Committer(World& world, Roots& roots, std::uint64_t seed) : world_(world), roots_(roots), random_(seed) {}

  void run(int rounds) {
    for (int i = 0; i < rounds; ++i) {
      commit();
      if (snapshots_.size() > 4 || (snapshots_.size() > 1 && random_() % 3 == 0)) remove();
      if (random_() % 4 == 0) verify(snapshots_[random_() % snapshots_.size()]);
    }
    for (const auto& snapshot : snapshots_) verify(snapshot);
  }
  void verify_all() {
    for (const auto& snapshot : snapshots_) verify(snapshot);
  }
  void remove_all() {
    while (!snapshots_.empty()) remove();
  }

 private:
  struct Snapshot {
    MaybeRef root;
    Model model;
  };

  /// Content numbers are few, so that committers find each other's chunks, dying ones included, by digest.
  void commit() {
    Snapshot snapshot =
        snapshots_.empty() || random_() % 5 == 0 ? Snapshot{} : snapshots_[random_() % snapshots_.size()];
    Model changes;
    for (int i = 0; i < 6; ++i) changes[random_() % kSpan] = random_() % kContents;
    chunks::RootRegistry::Hold hold(world_.registry);
    const auto root = world_.build(hold, snapshot.root, changes);
    ASSERT_TRUE(root) << root.error().message;
    for (const auto& [chunk, number] : changes) snapshot.model[chunk] = number;
    snapshot.root = *root;
    roots_.add(*root);
    snapshots_.push_back(std::move(snapshot));
  }
  void remove() {
    const auto at = snapshots_.begin() + static_cast<std::ptrdiff_t>(random_() % snapshots_.size());
    const MaybeRef root = at->root;
    snapshots_.erase(at);
    // Equal contents have equal roots: the last one takes it away.
    if (std::ranges::none_of(snapshots_, [&](const auto& other) { return other.root == root; })) roots_.remove(root);
  }
  void verify(const Snapshot& snapshot) {
    if (random_() % 2 == 0) world_.store->drop_caches();
    world_.expect_content(snapshot.root, snapshot.model, kSpan);
  }

  static constexpr std::uint64_t kSpan = 600;
  static constexpr std::uint64_t kContents = 60;
  World& world_;
  Roots& roots_;
  std::mt19937_64 random_;
  std::vector<Snapshot> snapshots_;
};

TEST(Collect, NeverRemovesWhatARootOrHoldReachesWhileOthersCommit) {
  World world;
  const std::uint64_t seed = varve::test::seed_for("collect while others commit");
  constexpr int kThreads = 3;
  constexpr int kRounds = 60;
  std::vector<std::unique_ptr<Roots>> roots;
  std::vector<std::unique_ptr<Committer>> committers;
  for (std::uint64_t i = 0; i < kThreads; ++i) {
    roots.push_back(std::make_unique<Roots>(world.registry));
    committers.push_back(std::make_unique<Committer>(world, *roots.back(), seed + i));
  }
  std::atomic<bool> done{false};
  std::atomic<std::uint64_t> removed{0};
  std::thread collector([&] {
    while (!done) removed += collect(world).packs_removed;
  });
  std::vector<std::thread> threads;
  for (auto& committer : committers) threads.emplace_back([&] { committer->run(kRounds); });
  for (auto& thread : threads) thread.join();
  done = true;
  collector.join();
  removed += collect(world).packs_removed;
  EXPECT_GT(removed.load(), 0u);
  world.reopen();
  for (auto& committer : committers) committer->verify_all();
  for (auto& committer : committers) committer->remove_all();
  collect(world);
  EXPECT_TRUE(world.pack_files().empty());
}

}  // namespace
}  // namespace varve::snapshot::test
