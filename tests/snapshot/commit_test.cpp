// Commits of a live disk, through freeze and LiveDisk::committed as the store does it, against a plain copy of the
// image's bytes.
#include "varve/snapshot/commit.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>

#include "chunk_encoder.h"
#include "support/memory_volatile_storage.h"
#include "support/seed.h"
#include "varve/snapshot/collect.h"
#include "world.h"

namespace varve::snapshot::test {
namespace {

/// A disk beside a store of packs, each on a storage of its own so that one can fail alone.
class DiskWorld : public World {
 public:
  explicit DiskWorld(Geometry geometry = kGeometry, chunks::ChunkStoreOptions options = {})
      : World(geometry, std::move(options)) {
    open_disk();
    EXPECT_TRUE(live->create_image());
  }

  void open_disk(bool after_power_loss = false) {
    source = std::make_unique<MapSource>(*store);
    disk::LiveDiskOptions disk_options;
    disk_options.assume_power_loss = after_power_loss;
    live.reset();
    auto opened = disk::LiveDisk::open(disk_storage, memory, "live/1", DiskId{1}, geometry, *source, disk_options);
    ASSERT_TRUE(opened) << opened.error().message;
    live = std::move(*opened);
  }

  // --- the image and its model ---

  void write(std::uint64_t at, const Bytes& bytes) {
    ASSERT_TRUE(live->write(ByteOffset{at}, bytes));
    if (image.size() < at + bytes.size()) image.resize(at + bytes.size());
    std::ranges::copy(bytes, image.begin() + static_cast<std::ptrdiff_t>(at));
  }
  void write_chunk(std::uint64_t chunk, std::uint64_t number) {
    write(chunk * geometry.chunk_bytes(), content(number, geometry));
  }
  void resize(std::uint64_t size) {
    ASSERT_TRUE(live->resize(ByteCount{size}));
    image.resize(size);
  }
  void zero(std::uint64_t at, std::uint64_t count) {
    ASSERT_TRUE(live->zero(ByteOffset{at}, ByteCount{count}));
    std::fill_n(image.begin() + static_cast<std::ptrdiff_t>(at), count, std::byte{0});
  }
  void splice_chunks(std::uint64_t first, std::uint64_t count, const MaybeRef& root, const Bytes& from,
                     std::uint64_t from_chunk) {
    const std::size_t chunk = geometry.chunk_bytes();
    ASSERT_TRUE(live->splice(ChunkIndex{first}, ChunkCount{count}, chunks::to_opaque(root), ChunkIndex{from_chunk},
                             ByteCount{(first + count) * chunk}));
    if (image.size() < (first + count) * chunk) image.resize((first + count) * chunk);
    std::copy_n(from.begin() + static_cast<std::ptrdiff_t>(from_chunk * chunk), count * chunk,
                image.begin() + static_cast<std::ptrdiff_t>(first * chunk));
  }

  // --- snapshots ---

  void freeze() {
    ++last_id;
    const auto frozen = live->freeze(SnapshotId{last_id}, SnapshotId{last_id - 1}, "s" + std::to_string(last_id), "");
    ASSERT_TRUE(frozen) << frozen.error().message;
    frozen_images.push_back(image);
  }
  Result<Committed> try_commit(chunks::RootRegistry::Hold& hold, const std::function<bool()>& stop = {}) {
    const auto pending = live->pending();
    if (pending.empty()) return fail(ENOENT, ErrorKind::absent, "nothing is pending");
    // By turns, for both to be tested.
    ThreadPool* const ahead = pending.front().id.value() % 2 == 0 ? &readers : nullptr;
    return commit_oldest(*live, pending.front(), *store, hold, progress, {encoders, ahead, stop});
  }
  /// Commits the oldest pending snapshot, hands over, and compares what was kept with the image at the freeze.
  Committed commit() {
    chunks::RootRegistry::Hold hold(registry);
    const auto committed = try_commit(hold);
    EXPECT_TRUE(committed) << committed.error().message;
    if (!committed) return {};
    EXPECT_EQ(progress.chunks_done, progress.chunks_total);
    roots.add(committed->root);
    EXPECT_TRUE(live->committed(live->pending().front().id, chunks::to_opaque(committed->root)));
    if (committed->damaged_chunks == 0) expect_image(committed->root, frozen_images.front());
    frozen_images.erase(frozen_images.begin());
    return *committed;
  }
  Committed take() {
    freeze();
    return commit();
  }

  Bytes read_image(const MaybeRef& root, std::size_t size) {
    SnapshotImage reader(*store, root, ByteCount{size}, prefetchers);
    Bytes out(size);
    const auto got = read_into(reader, ByteOffset{0}, out);
    EXPECT_TRUE(got) << got.error().message;
    return out;
  }
  void expect_image(const MaybeRef& root, const Bytes& expected) {
    EXPECT_TRUE(read_image(root, expected.size()) == expected);
    const auto behind =
        chunks::ChunkMap(*store, root).next_data(ChunkIndex{geometry.chunks_in(ByteCount{expected.size()}).value()});
    EXPECT_TRUE(behind);
    EXPECT_EQ(behind->value(), kMaxChunksPerImage) << "there is something behind the end";
  }

  varve::test::MemoryStorage disk_storage;
  varve::test::MemoryVolatileStorage memory;
  std::unique_ptr<MapSource> source;
  std::unique_ptr<disk::LiveDisk> live;
  Bytes image;
  std::vector<Bytes> frozen_images;
  std::uint64_t last_id = 0;
  CommitProgress progress;
};

constexpr std::size_t kChunkBytes = kGeometry.chunk_bytes();

/// Most reads of home.img that went on at once while all chunks were committed. `busy`: each comes with a request for the
/// live image.
int most_reads_at_once(DiskWorld& world, bool busy) {
  constexpr std::uint64_t kChunks = 64;
  while (world.last_id % 2 == 0) world.take();  // the next one is read by readers
  for (std::uint64_t chunk = 0; chunk < kChunks; ++chunk) world.write_chunk(chunk, world.last_id * kChunks + chunk);
  world.freeze();
  std::this_thread::sleep_for(std::chrono::milliseconds{150});
  const auto ask = [&] {
    Bytes nothing(1);
    if (busy) static_cast<void>(world.live->read(ByteOffset{world.image.size()}, nothing));
  };
  std::atomic<int> now{0};
  std::atomic<int> most{0};
  world.disk_storage.calls().set_read_hook([&](std::string_view, std::string_view path) {
    if (!path.ends_with("home.img")) return;
    const int count = ++now;
    for (int seen = most; seen < count && !most.compare_exchange_weak(seen, count);) {
    }
    ask();
    std::this_thread::sleep_for(std::chrono::milliseconds{2});
    --now;
  });
  ask();
  world.commit();
  world.disk_storage.calls().set_read_hook({});
  return most;
}

TEST(Commit, ReadsSeveralChunksAtOnceAndOneByOneBesideGuests) {
  DiskWorld world;
  EXPECT_GT(most_reads_at_once(world, false), 1);
  // Once, but where this test is kept from the processor for so long that the guest seems to have gone.
  int most = 0;
  for (int i = 0; i < 5 && most != 1; ++i) most = most_reads_at_once(world, true);
  EXPECT_EQ(most, 1);
}

TEST(Commit, KeepsTheImageChunkByChunk) {
  DiskWorld world;
  std::mt19937_64 random(varve::test::seed_for("commit"));
  world.resize(300 * kChunkBytes + 777);
  for (int snapshot = 0; snapshot < 8; ++snapshot) {
    for (int i = 0; i < 40; ++i) {
      const std::uint64_t at = random() % (world.image.size() - 40000);
      Bytes bytes = content(1 + random() % 50);
      bytes.resize(1 + random() % bytes.size());
      world.write(at, bytes);
    }
    const Committed committed = world.take();
    EXPECT_EQ(committed.damaged_chunks, 0u);
    EXPECT_GT(committed.changed_bytes, 0u);
  }
}

TEST(Commit, SeveralPendingSnapshotsBecomeCompleteInOrder) {
  DiskWorld world;
  for (std::uint64_t snapshot = 0; snapshot < 4; ++snapshot) {
    for (std::uint64_t chunk = 0; chunk < 10; ++chunk)
      world.write_chunk(chunk * (snapshot + 1), 100 * snapshot + chunk + 1);
    world.freeze();
  }
  for (int i = 0; i < 4; ++i) world.commit();
}

TEST(Commit, EqualChunksAreStoredOnce) {
  DiskWorld world;
  for (std::uint64_t chunk = 0; chunk < 200; ++chunk) world.write_chunk(chunk, 1 + chunk % 3);
  const Committed first = world.take();
  EXPECT_EQ(first.new_chunks, 3u);
  EXPECT_EQ(first.shared_chunks, 197u);
  for (std::uint64_t chunk = 300; chunk < 310; ++chunk) world.write_chunk(chunk, 1 + chunk % 3);
  const Committed second = world.take();
  EXPECT_EQ(second.new_chunks, 0u);
  EXPECT_EQ(second.shared_chunks, 10u);
}

TEST(Commit, RewritingTheSameDataStoresNothing) {
  DiskWorld world;
  for (std::uint64_t chunk = 0; chunk < 600; chunk += 2) world.write_chunk(chunk, chunk + 1);
  const Committed first = world.take();
  for (std::uint64_t chunk = 0; chunk < 600; chunk += 2) world.write_chunk(chunk, chunk + 1);
  const Committed second = world.take();
  EXPECT_EQ(second.stored_bytes, 0u);
  EXPECT_EQ(second.new_chunks, 0u);
  EXPECT_EQ(second.shared_chunks, 300u);
  EXPECT_EQ(second.root, first.root);
}

TEST(Commit, WithoutChangesTheMapIsTheParents) {
  DiskWorld world;
  world.write_chunk(3, 1);
  const Committed first = world.take();
  const Committed second = world.take();
  EXPECT_EQ(second.root, first.root);
  EXPECT_EQ(second.stored_bytes, 0u);
}

TEST(Commit, ZerosStoreNothing) {
  DiskWorld world;
  world.write(0, Bytes(20 * kChunkBytes));
  const Committed zeros = world.take();
  EXPECT_EQ(zeros.root, MaybeRef{});
  EXPECT_EQ(zeros.stored_bytes, 0u);

  for (std::uint64_t chunk = 0; chunk < 20; ++chunk) world.write_chunk(chunk, chunk + 1);
  world.take();
  world.zero(0, 10 * kChunkBytes);
  world.write(10 * kChunkBytes, Bytes(10 * kChunkBytes));
  const Committed again = world.take();
  EXPECT_EQ(again.root, MaybeRef{});
}

TEST(Commit, RestoredRangesShareSubtrees) {
  DiskWorld world;
  for (std::uint64_t chunk = 0; chunk < 1024; ++chunk) world.write_chunk(chunk, 1 + chunk % 200);
  const Committed first = world.take();
  const Bytes original = world.image;
  for (std::uint64_t chunk = 0; chunk < 1024; chunk += 100) world.write_chunk(chunk, 9000 + chunk);
  const Committed second = world.take();
  EXPECT_NE(second.root, first.root);

  // The whole image back: the same map, nothing stored.
  world.splice_chunks(0, 1024, first.root, original, 0);
  const Committed restored = world.take();
  EXPECT_EQ(restored.root, first.root);
  EXPECT_EQ(restored.stored_bytes, 0u);

  // A part of it elsewhere: leaves are shared where both sides are aligned, chunks everywhere.
  world.splice_chunks(2048, 512, first.root, original, 256);
  world.splice_chunks(3001, 100, first.root, original, 7);
  const Committed moved = world.take();
  EXPECT_EQ(moved.new_chunks, 0u);
}

TEST(Commit, BaseAndWrittenChunksInAlternation) {
  DiskWorld world;
  for (std::uint64_t chunk = 0; chunk < 300; ++chunk) world.write_chunk(chunk, 1 + chunk);
  const Committed first = world.take();
  const Bytes original = world.image;
  for (std::uint64_t chunk = 0; chunk < 300; chunk += 2)
    world.splice_chunks(chunk, 1, first.root, original, 299 - chunk);
  for (std::uint64_t chunk = 1; chunk < 300; chunk += 6) world.write_chunk(chunk, 5000 + chunk);
  world.zero(100 * kChunkBytes, 3 * kChunkBytes);
  world.take();
}

TEST(Commit, ShrunkAndGrownAgainTheOldDataDoesNotComeBack) {
  DiskWorld world;
  for (std::uint64_t chunk = 0; chunk < 600; ++chunk) world.write_chunk(chunk, 1 + chunk);
  world.take();
  world.resize(100 * kChunkBytes + 500);
  world.take();
  world.resize(600 * kChunkBytes);
  world.take();
  world.resize(50 * kChunkBytes);
  world.resize(400 * kChunkBytes + 1);
  world.take();
}

TEST(Commit, AfterAPowerLossAllIsComparedAndWhatIsTheSameCostsNothing) {
  DiskWorld world;
  for (std::uint64_t chunk = 0; chunk < 600; chunk += 2) world.write_chunk(chunk, 1 + chunk);
  const Committed first = world.take();
  world.splice_chunks(700, 100, first.root, world.image, 0);
  world.write_chunk(2, 9999);
  const Committed second = world.take();
  ASSERT_TRUE(world.live->flush());
  world.open_disk(true);
  world.store->drop_caches();
  const Committed third = world.take();
  EXPECT_EQ(third.root, second.root);
  EXPECT_EQ(third.stored_bytes, 0u);
  EXPECT_EQ(third.new_chunks, 0u);
  world.open_disk(true);
  world.write_chunk(4, 8888);
  EXPECT_EQ(world.take().new_chunks, 1u);
}

TEST(Commit, AnUnreadableChunkIsKeptAsDamagedAndNoOtherSuffers) {
  DiskWorld world;
  for (std::uint64_t chunk = 0; chunk < 20; ++chunk) world.write_chunk(chunk, 1 + chunk);
  world.take();
  for (const std::uint64_t chunk : {3u, 4u, 11u}) world.write_chunk(chunk, 100 + chunk);
  world.freeze();
  ASSERT_TRUE(world.live->flush());
  world.disk_storage.fail_at(1, EIO, varve::test::Repeat::for_good, varve::test::Calls::reads);
  chunks::RootRegistry::Hold hold(world.registry);
  const auto committed = world.try_commit(hold);
  world.disk_storage.clear_faults();
  ASSERT_TRUE(committed) << committed.error().message;
  EXPECT_EQ(committed->damaged_chunks, 3u);
  EXPECT_EQ(committed->new_chunks, 0u);
  SnapshotImage image(*world.store, committed->root, ByteCount{world.image.size()}, world.prefetchers);
  for (std::uint64_t chunk = 0; chunk < 20; ++chunk) {
    Bytes out(kChunkBytes);
    const auto got = read_into(image, ByteOffset{chunk * kChunkBytes}, out);
    const bool damaged = chunk == 3 || chunk == 4 || chunk == 11;
    EXPECT_EQ(got.has_value(), !damaged) << chunk;
    if (damaged) {
      EXPECT_EQ(got.error().code, EIO);
    } else {
      EXPECT_EQ(out, content(1 + chunk));
    }
  }
  // The next snapshot has what is written then; the chunk that was lost is compared with nothing.
  world.roots.add(committed->root);
  ASSERT_TRUE(world.live->committed(world.live->pending().front().id, chunks::to_opaque(committed->root)));
  world.frozen_images.clear();
  for (const std::uint64_t chunk : {3u, 4u, 11u}) world.write_chunk(chunk, 200 + chunk);
  world.take();
}

TEST(Commit, OneReadErrorThatGoesAwayCostsNothing) {
  DiskWorld world;
  for (std::uint64_t chunk = 0; chunk < 5; ++chunk) world.write_chunk(chunk, 1 + chunk);
  world.freeze();
  world.disk_storage.fail_at(3, EIO, varve::test::Repeat::once, varve::test::Calls::reads);
  EXPECT_EQ(world.commit().damaged_chunks, 0u);
}

TEST(Commit, StoppedItLeavesNothingBehindButGarbage) {
  DiskWorld world;
  for (std::uint64_t chunk = 0; chunk < 500; ++chunk) world.write_chunk(chunk, 1 + chunk);
  const Committed first = world.take();
  for (std::uint64_t chunk = 0; chunk < 500; ++chunk) world.write_chunk(chunk, 1001 + chunk);
  world.freeze();
  const auto packs = world.pack_files();
  for (const int when : {0, 1, 7, 100, 300, 490}) {
    int asked = 0;
    chunks::RootRegistry::Hold hold(world.registry);
    const auto stopped = world.try_commit(hold, [&] { return asked++ >= when; });
    ASSERT_FALSE(stopped) << when;
    EXPECT_EQ(stopped.error().code, ECANCELED);
  }
  EXPECT_TRUE(collect_garbage(*world.store, {}));
  EXPECT_EQ(world.pack_files(), packs);
  world.commit();
  EXPECT_TRUE(world.read_image(first.root, kChunkBytes) == content(1));
}

TEST(Commit, ACrashBeforeTheLogRecordLeavesPacksThatCollectRemovesAndNoOther) {
  DiskWorld world;
  for (std::uint64_t chunk = 0; chunk < 50; ++chunk) world.write_chunk(chunk, 1 + chunk);
  world.take();
  const auto before = world.pack_files();
  for (std::uint64_t chunk = 20; chunk < 70; ++chunk) world.write_chunk(chunk, 1001 + chunk);
  world.freeze();
  {
    chunks::RootRegistry::Hold hold(world.registry);
    ASSERT_TRUE(world.try_commit(hold));
    EXPECT_EQ(world.pack_files().size(), before.size() + 1);
    const auto kept = collect_garbage(*world.store, {});
    ASSERT_TRUE(kept);
    EXPECT_EQ(kept->packs_removed, 0u);
  }
  // The log never had it: the process went here, and with it the hold.
  world.reopen();
  const auto collected = collect_garbage(*world.store, {});
  ASSERT_TRUE(collected);
  EXPECT_EQ(collected->packs_removed, 1u);
  EXPECT_EQ(world.pack_files(), before);
  world.commit();
}

TEST(Commit, AFullStoreFailsItAndItSucceedsLater) {
  DiskWorld world;
  for (std::uint64_t chunk = 0; chunk < 100; ++chunk) world.write_chunk(chunk, 1 + chunk);
  world.freeze();
  world.storage.set_capacity(ByteCount{64 * kKiB});
  {
    chunks::RootRegistry::Hold hold(world.registry);
    const auto failed = world.try_commit(hold);
    ASSERT_FALSE(failed);
    EXPECT_EQ(failed.error().code, ENOSPC);
  }
  EXPECT_EQ(world.live->pending().size(), 1u);
  world.storage.set_capacity(ByteCount{kGiB});
  world.commit();
}

TEST(Commit, ADigestMatchAloneNeverMakesTwoChunksOne) {
  chunks::ChunkStoreOptions options;
  options.digest = [](std::span<const std::byte> bytes) {
    return Digest{1, bytes.empty() ? 0 : static_cast<std::uint64_t>(bytes[0]) % 2};
  };
  DiskWorld world(kGeometry, options);
  for (std::uint64_t chunk = 0; chunk < 40; ++chunk) world.write_chunk(chunk, 1 + chunk % 20);
  world.take();
  for (std::uint64_t chunk = 0; chunk < 40; ++chunk) world.write_chunk(chunk, 7 + chunk % 20);
  world.take();
}

TEST(Commit, LargeChunksGoThroughASmallWindow) {
  constexpr Geometry kLarge{ByteCount{4 * kMiB}};
  DiskWorld world(kLarge);
  for (std::uint64_t chunk = 0; chunk < 12; ++chunk) world.write_chunk(chunk, 1 + chunk % 9);
  const Committed committed = world.take();
  EXPECT_LE(committed.new_chunks, 12u);
  EXPECT_GE(committed.new_chunks, 9u);
}

/// As a forged table has it: a delta on a delta reads well while the lower one is in the cache. None is made on such.
TEST(Commit, NoDeltaIsMadeOnADelta) {
  World world;
  chunks::RootRegistry::Hold hold(world.registry);
  chunks::RecordWriter writer(*world.store, hold);
  Bytes bytes = content(1);
  Ref below = writer.put_chunk(bytes).value();
  ASSERT_TRUE(writer.finish());
  for (int i = 0; i < 2; ++i) {
    const auto base = world.store->load_chunk(below).value();
    bytes[0] ^= std::byte{1};
    bytes[1] ^= static_cast<std::byte>(1 + i);
    auto delta = chunks::encode_chunk_delta({below, base, base, {}, {}}, bytes, {}).value();
    ASSERT_TRUE(delta);
    below = writer.append_delta(world.store->digest(bytes), std::move(*delta)).value();
    ASSERT_TRUE(writer.finish());
  }
  ASSERT_TRUE(world.store->load_chunk(below));
  bytes[2] ^= std::byte{1};
  EncoderTask task{*world.store, bytes, bytes.size(), below, {}, true, world.store->digest(bytes), {}};
  const auto outcome = task.run();
  ASSERT_TRUE(outcome) << outcome.error().message;
  EXPECT_EQ(outcome->kind, Outcome::Kind::full);
}

}  // namespace
}  // namespace varve::snapshot::test
