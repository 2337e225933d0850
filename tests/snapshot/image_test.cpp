#include "varve/snapshot/image.h"

#include <algorithm>
#include <set>
#include <thread>

#include "chunks/memory_objects.h"
#include "support/seed.h"
#include "world.h"

namespace varve::snapshot::test {
namespace {

constexpr std::uint64_t kChunks = 700;
constexpr std::size_t kChunkBytes = kGeometry.chunk_bytes();

/// Data, holes of several sizes, and a last chunk that the image's end cuts.
Model some_model(std::uint64_t chunks = kChunks) {
  Model model;
  for (std::uint64_t chunk = 0; chunk < chunks; ++chunk) {
    const bool hole = chunk % 7 == 3 || (chunk >= 100 && chunk < 400);
    if (!hole) model[chunk] = 1 + chunk % 350;
  }
  return model;
}

Bytes flatten(const Model& model, std::uint64_t size) {
  Bytes bytes(kGeometry.chunks_in(ByteCount{size}).value() * kChunkBytes);
  for (const auto& [chunk, number] : model) {
    if (chunk * kChunkBytes >= bytes.size()) continue;
    const Bytes one = content(number);
    std::ranges::copy(one, bytes.begin() + static_cast<std::ptrdiff_t>(chunk * kChunkBytes));
  }
  bytes.resize(size);
  return bytes;
}

class ImageTest : public ::testing::Test {
 protected:
  static constexpr std::uint64_t kSize = kChunks * kChunkBytes - 5000;
  World world;
  const Model model = some_model();
  const Bytes bytes = flatten(model, kSize);
  const MaybeRef root = world.build({}, model);
  std::unique_ptr<SnapshotImage> image = open();

  std::unique_ptr<SnapshotImage> open() {
    world.reopen();
    return std::make_unique<SnapshotImage>(*world.store, root, ByteCount{kSize}, world.prefetchers);
  }
  void expect_read(std::uint64_t at, std::size_t count) {
    Bytes out(count, std::byte{0xEE});
    const auto got = read_into(*image, ByteOffset{at}, out);
    ASSERT_TRUE(got) << got.error().message;
    const std::size_t expected = at >= kSize ? 0 : std::min<std::size_t>(count, kSize - at);
    ASSERT_EQ(*got, expected);
    ASSERT_TRUE(std::equal(out.begin(), out.begin() + static_cast<std::ptrdiff_t>(expected),
                           bytes.begin() + static_cast<std::ptrdiff_t>(std::min<std::uint64_t>(at, kSize))))
        << "at " << at << ", " << count;
  }
  std::uint64_t loaded() {
    world.prefetchers.drain();
    return world.store->counters().records_loaded;
  }
};

TEST_F(ImageTest, RandomReadsAreTheModelsBytes) {
  std::mt19937_64 random(varve::test::seed_for("image reads"));
  for (int i = 0; i < 500; ++i) expect_read(random() % (kSize + 1000), 1 + random() % (5 * kChunkBytes));
}

TEST_F(ImageTest, ReadsAreShortOnlyAtTheEnd) {
  expect_read(kSize - 1, 10);
  expect_read(kSize, 10);
  expect_read(kSize + kGiB, 10);
  expect_read(0, 0);
}

TEST_F(ImageTest, SeekAgreesWithTheModel) {
  const auto is_data = [&](std::uint64_t chunk) { return model.contains(chunk); };
  std::mt19937_64 random(varve::test::seed_for("image seeks"));
  for (int i = 0; i < 2000; ++i) {
    const std::uint64_t at = random() % kSize;
    const bool data = random() % 2 == 0;
    std::uint64_t chunk = at / kChunkBytes;
    while (chunk < kChunks && is_data(chunk) != data) ++chunk;
    const auto got = image->seek(ByteOffset{at}, data);
    if (chunk == kChunks && data) {
      ASSERT_FALSE(got);
      EXPECT_EQ(got.error().code, ENXIO);
      continue;
    }
    ASSERT_TRUE(got);
    const std::uint64_t expected = chunk == kChunks ? kSize : std::max(at, chunk * kChunkBytes);
    ASSERT_EQ(got->value(), expected) << at << (data ? " data" : " hole");
  }
  EXPECT_EQ(image->seek(ByteOffset{kSize}, true).error().code, ENXIO);
  EXPECT_EQ(image->seek(ByteOffset{kSize}, false).error().code, ENXIO);
}

TEST_F(ImageTest, AViewKeepsWhatItShowsWhenTheCacheDoesNot) {
  constexpr std::uint64_t kCount = 10 * kChunkBytes;
  const auto view = image->view(ByteOffset{100}, ByteCount{kCount});
  ASSERT_TRUE(view);
  image.reset();
  world.prefetchers.drain();
  world.store->drop_caches();
  image = open();
  expect_read(kSize / 2, 64 * kChunkBytes);  // other bytes where those were
  Bytes out(kCount);
  ASSERT_EQ(view->size(), out.size());
  view->copy_to(out);
  EXPECT_TRUE(std::equal(out.begin(), out.end(), bytes.begin() + 100));
}

TEST_F(ImageTest, AnEmptyMapIsZeros) {
  SnapshotImage empty(*world.store, {}, ByteCount{3 * kChunkBytes}, world.prefetchers);
  Bytes out(3 * kChunkBytes, std::byte{1});
  ASSERT_TRUE(read_into(empty, ByteOffset{0}, out));
  EXPECT_EQ(out, Bytes(out.size()));
  EXPECT_EQ(empty.seek(ByteOffset{5}, true).error().code, ENXIO);
  EXPECT_EQ(empty.seek(ByteOffset{5}, false)->value(), 5u);
}

TEST_F(ImageTest, SequentialReadersArePrefetchedAndNothingIsLoadedTwice) {
  std::set<std::uint64_t> distinct;
  for (const auto& [chunk, number] : model) distinct.insert(number);
  constexpr std::size_t kRequest = 4096;
  std::uint64_t most_ahead = 0;
  std::set<std::uint64_t> needed;
  for (std::uint64_t at = 0; at < kSize; at += kRequest) {
    expect_read(at, kRequest);
    if (model.contains(at / kChunkBytes)) needed.insert(model.at(at / kChunkBytes));
    if (at % kChunkBytes == 0) most_ahead = std::max(most_ahead, loaded() - std::min(loaded(), needed.size() + 8));
  }
  EXPECT_GT(most_ahead, 8u);
  // Every record once: the chunks, and the nodes (root, two inner ones, three leaves).
  EXPECT_EQ(loaded(), distinct.size() + 6);
}

TEST_F(ImageTest, RandomReadersLoadWhatTheyReadAndNoMore) {
  // Far apart, so that no two reads look like a stream.
  std::set<std::uint64_t> needed;
  for (std::uint64_t i = 0; i < 16; ++i) {
    const std::uint64_t chunk = (i * 37 % 16) * 43;
    expect_read(chunk * kChunkBytes + 100, 4096);
    if (model.contains(chunk)) needed.insert(model.at(chunk));
  }
  EXPECT_EQ(loaded(), needed.size() + 6);
}

TEST_F(ImageTest, WhatIsReadAheadOfASequentialReaderIsAskedForAsSuch) {
  varve::test::MemoryObjects objects;
  for (const std::string& name : world.pack_files()) {
    objects.set(name, os::read_file(world.storage, name, ByteCount{chunks::kMaxPackSize}).value());
  }
  chunks::ChunkStore store(objects, *world.locator, world.registry, kGeometry, {});
  SnapshotImage here(store, root, ByteCount{kSize}, world.prefetchers);
  Bytes out(4096);
  for (std::uint64_t i = 0; i < 16; ++i) {
    ASSERT_TRUE(read_into(here, ByteOffset{(i * 37 % 16) * 43 * kChunkBytes}, out));
  }
  world.prefetchers.drain();
  EXPECT_EQ(objects.sequential_parts, 0u);
  for (std::uint64_t chunk = 500; chunk < 600; ++chunk) {
    ASSERT_TRUE(read_into(here, ByteOffset{chunk * kChunkBytes}, out));
  }
  world.prefetchers.drain();
  EXPECT_GT(objects.sequential_parts, 50u);
}

TEST_F(ImageTest, ReadersInManyThreadsGetTheirBytes) {
  std::vector<std::thread> threads;
  for (std::uint64_t t = 0; t < 4; ++t) {
    threads.emplace_back([this, t] {
      for (std::uint64_t at = t * 1000; at < kSize; at += 40000) {
        Bytes out(40000);
        const auto got = read_into(*image, ByteOffset{at}, out);
        ASSERT_TRUE(got);
        ASSERT_TRUE(std::equal(out.begin(), out.begin() + static_cast<std::ptrdiff_t>(*got),
                               bytes.begin() + static_cast<std::ptrdiff_t>(at)));
      }
    });
  }
  for (auto& thread : threads) thread.join();
}

TEST_F(ImageTest, MayGoWhilePrefetchesAreQueued) {
  for (int i = 0; i < 20; ++i) {
    image = open();
    for (std::uint64_t at = 0; at < 20; ++at) expect_read(at * kChunkBytes, kChunkBytes);
    image.reset();
  }
  world.prefetchers.drain();
}

TEST_F(ImageTest, CachedMeansAnsweredWithoutLoading) {
  EXPECT_FALSE(image->cached(ByteOffset{0}, ByteCount{10}));
  expect_read(0, 10);
  EXPECT_TRUE(image->cached(ByteOffset{5}, ByteCount{100}));
  EXPECT_FALSE(image->cached(ByteOffset{0}, ByteCount{kChunkBytes + 1}));
  EXPECT_TRUE(image->cached(ByteOffset{kSize}, ByteCount{10}));
  EXPECT_TRUE(image->cached(ByteOffset{150 * kChunkBytes}, ByteCount{kChunkBytes}));  // a hole in a known leaf
}

TEST_F(ImageTest, ADamagedChunkIsNamedAndItsNeighboursAreNot) {
  const auto with_damage = [&] {
    chunks::RootRegistry::Hold hold(world.registry);
    chunks::RecordWriter writer(*world.store, hold);
    chunks::MapBuilder builder(*world.store, writer, root);
    EXPECT_TRUE(builder.set(ChunkIndex{5}, Ref::make_damaged()));
    const auto built = builder.finish();
    EXPECT_TRUE(built);
    EXPECT_TRUE(writer.finish());
    return *built;
  }();
  SnapshotImage damaged(*world.store, with_damage, ByteCount{kSize}, world.prefetchers);
  Bytes out(kChunkBytes);
  const auto got = read_into(damaged, ByteOffset{5 * kChunkBytes}, out);
  ASSERT_FALSE(got);
  EXPECT_EQ(got.error().code, EIO);
  EXPECT_EQ(got.error().kind, ErrorKind::damaged);
  EXPECT_NE(got.error().message.find("chunk 5 "), std::string::npos) << got.error().message;
  EXPECT_TRUE(read_into(damaged, ByteOffset{4 * kChunkBytes}, out));
  EXPECT_TRUE(read_into(damaged, ByteOffset{6 * kChunkBytes}, out));
}

TEST_F(ImageTest, BytesThatRottedAreNeverServed) {
  for (const auto& file : world.pack_files()) world.flip_byte(file, 40);  // the first record, whatever it is
  image = open();
  std::uint64_t refused = 0;
  for (std::uint64_t chunk = 0; chunk < kChunks; ++chunk) {
    Bytes out(kChunkBytes);
    const auto got = read_into(*image, ByteOffset{chunk * kChunkBytes}, out);
    if (!got) {
      ++refused;
      EXPECT_EQ(got.error().code, EIO);
      EXPECT_NE(got.error().message.find("pack "), std::string::npos) << got.error().message;
      continue;
    }
    ASSERT_TRUE(std::equal(out.begin(), out.begin() + static_cast<std::ptrdiff_t>(*got),
                           bytes.begin() + static_cast<std::ptrdiff_t>(chunk * kChunkBytes)));
  }
  EXPECT_GT(refused, 0u);
  EXPECT_LT(refused, 10u);
}

TEST_F(ImageTest, MapSourceIsTheSameContent) {
  MapSource source(*world.store);
  const OpaqueRoot opaque = chunks::to_opaque(root);
  Bytes out(kChunkBytes);
  for (const std::uint64_t chunk : {0u, 3u, 99u, 250u, 699u}) {
    ASSERT_TRUE(source.read_chunk(opaque, ChunkIndex{chunk}, out));
    EXPECT_EQ(out, content(model.contains(chunk) ? model.at(chunk) : 0)) << chunk;
  }
  ASSERT_TRUE(source.read_chunk(OpaqueRoot{}, ChunkIndex{0}, out));
  EXPECT_EQ(out, Bytes(kChunkBytes));
  const auto next = [&](std::uint64_t from, std::uint64_t end, bool data) {
    return source.next(opaque, ChunkIndex{from}, ChunkIndex{end}, data)->value();
  };
  EXPECT_EQ(next(0, 10, false), 3u);
  EXPECT_EQ(next(3, 10, true), 4u);
  EXPECT_EQ(next(100, 700, true), 400u);
  EXPECT_EQ(next(100, 300, true), 300u);
  EXPECT_EQ(next(4, 6, false), 6u);
  EXPECT_EQ(next(8, 8, true), 8u);
}

/// Rule 5: a guest chooses its bytes, and so their digest.
TEST(MapSourceTest, ADigestMatchAloneNeverMakesBytesWhatTheBaseHas) {
  chunks::ChunkStoreOptions options;
  options.digest = [](std::span<const std::byte> bytes) {
    return Digest{1, bytes.empty() ? 0 : static_cast<std::uint64_t>(bytes[0]) % 2};
  };
  World world(kGeometry, options);
  const Model model{{0, 1}, {1, 2}, {2, 3}};
  const OpaqueRoot root = chunks::to_opaque(world.build({}, model));
  MapSource source(*world.store);
  for (std::uint64_t number = 1; number < 20; ++number) {
    EXPECT_EQ(source.holds(root, ChunkIndex{1}, content(number)), number == 2) << number;
  }
  EXPECT_FALSE(source.holds(root, ChunkIndex{3}, Bytes(kChunkBytes))) << "what has no record is not told";
  EXPECT_FALSE(source.holds(OpaqueRoot{}, ChunkIndex{1}, content(2)));
}

}  // namespace
}  // namespace varve::snapshot::test
