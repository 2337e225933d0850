// The extents of a diff are exactly the blocks that differ. VARVE_DIFF_ROUNDS (40): pairs of random images.
#include "varve/snapshot/diff.h"

#include <algorithm>
#include <cstring>

#include "support/expect.h"
#include "support/seed.h"
#include "world.h"

namespace varve::snapshot::test {
namespace {

/// An image byte for byte, and its map.
struct Image {
  Bytes bytes;
  MaybeRef root;
};

class DiffTest : public ::testing::Test {
 protected:
  World world;

  MaybeRef map_of(const Bytes& bytes) {
    chunks::RootRegistry::Hold hold(world.registry);
    chunks::RecordWriter writer(*world.store, hold);
    chunks::MapBuilder builder(*world.store, writer, {});
    const std::size_t size = kGeometry.chunk_bytes();
    for (std::size_t at = 0; at < bytes.size(); at += size) {
      Bytes chunk(size);
      std::memcpy(chunk.data(), bytes.data() + at, std::min(size, bytes.size() - at));
      if (std::ranges::all_of(chunk, [](std::byte b) { return b == std::byte{0}; })) continue;
      const auto ref = writer.put_chunk(chunk);
      EXPECT_OK(ref);
      EXPECT_OK(builder.set(ChunkIndex{at / size}, *ref));
    }
    const auto root = builder.finish();
    EXPECT_OK(root);
    EXPECT_OK(writer.finish());
    world.roots.add(*root);
    return *root;
  }
  Image image_of(Bytes bytes) {
    auto root = map_of(bytes);
    return {std::move(bytes), std::move(root)};
  }
  Result<std::vector<Extent>> diff(const DiffSide& a, const DiffSide& b) {
    std::vector<Extent> found;
    VARVE_TRY(diff_images(*world.store, a, b, [&](const Extent& extent) -> Status {
      found.push_back(extent);
      return {};
    }, {}, {}));
    return found;
  }
  Result<std::vector<Extent>> diff(const Image& a, const Image& b) {
    return diff({a.root, ByteCount{a.bytes.size()}}, {b.root, ByteCount{b.bytes.size()}});
  }
  /// Block by block, with no map.
  static std::vector<Extent> expected(const Bytes& a, const Bytes& b) {
    const std::size_t end = std::max(a.size(), b.size());
    const auto byte = [](const Bytes& bytes, std::size_t at) { return at < bytes.size() ? bytes[at] : std::byte{0}; };
    std::vector<Extent> out;
    for (std::size_t at = 0; at < end; at += kBlockSize) {
      const std::size_t block_end = std::min<std::size_t>(at + kBlockSize, end);
      bool differs = false;
      for (std::size_t i = at; i < block_end && !differs; ++i) differs = byte(a, i) != byte(b, i);
      if (!differs) continue;
      if (!out.empty() && out.back().at + out.back().count == ByteOffset{at}) {
        out.back().count += ByteCount{block_end - at};
      } else {
        out.push_back({ByteOffset{at}, ByteCount{block_end - at}});
      }
    }
    return out;
  }
};

Bytes random_image(std::mt19937_64& random, std::size_t most_chunks) {
  Bytes bytes(random() % (most_chunks * kGeometry.chunk_bytes()));
  for (std::size_t writes = random() % 12; writes > 0 && !bytes.empty(); --writes) {
    const std::size_t at = random() % bytes.size();
    const std::size_t count = std::min<std::size_t>(bytes.size() - at, 1 + random() % (3 * kGeometry.chunk_bytes()));
    const std::uint64_t word = random();
    for (std::size_t i = 0; i < count; ++i) bytes[at + i] = static_cast<std::byte>((word >> (i % 8 * 8)) + i / 97);
  }
  return bytes;
}

/// Some bytes changed, put back, or zeroed; perhaps another size.
Bytes changed(Bytes bytes, std::mt19937_64& random) {
  if (random() % 3 == 0) bytes.resize(random() % (bytes.size() + 3 * kGeometry.chunk_bytes()));
  for (std::size_t edits = random() % 6; edits > 0 && !bytes.empty(); --edits) {
    const std::size_t at = random() % bytes.size();
    const bool large = random() % 4 == 0;
    const std::size_t count = std::min<std::size_t>(bytes.size() - at, 1 + random() % (large ? 100'000 : 5'000));
    if (random() % 3 == 0) {
      std::fill_n(bytes.begin() + static_cast<std::ptrdiff_t>(at), count, std::byte{0});
    } else {
      bytes[at] ^= std::byte{1};
      bytes[at + count - 1] ^= std::byte{2};
    }
  }
  return bytes;
}

TEST_F(DiffTest, FindsExactlyTheBlocksThatDiffer) {
  std::mt19937_64 random(varve::test::seed_for("diff"));
  std::size_t differing = 0;
  for (std::uint64_t rounds = varve::test::number_from("VARVE_DIFF_ROUNDS", 40); rounds > 0; --rounds) {
    const Image a = image_of(random_image(random, 40));
    const Image b = image_of(random() % 8 == 0 ? random_image(random, 40) : changed(a.bytes, random));
    const auto extents = expected(a.bytes, b.bytes);
    differing += extents.size();
    world.store->drop_caches();
    const auto there = diff(a, b);
    ASSERT_OK(there);
    ASSERT_EQ(world.store->counters().chunk_cache_used, 0U) << "what guests read was pushed out";
    ASSERT_EQ(*there, extents);
    const auto back = diff(b, a);
    ASSERT_OK(back);
    ASSERT_EQ(*back, extents);
    ASSERT_EQ(diff(a, a)->size(), 0U);
  }
  EXPECT_GT(differing, 0U);
}

TEST_F(DiffTest, OneMapReadUpToTwoEndsDiffersBehindTheFirst) {
  const Bytes bytes(5 * kGeometry.chunk_bytes() - 777, std::byte{1});
  const Image image = image_of(bytes);
  for (const std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{4096}, std::size_t{16384}, std::size_t{20000},
                                 bytes.size() - 1}) {
    Bytes cut(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size));
    const auto found = diff({image.root, ByteCount{size}}, {image.root, ByteCount{bytes.size()}});
    ASSERT_OK(found);
    EXPECT_EQ(*found, expected(cut, bytes)) << size;
  }
}

TEST_F(DiffTest, EqualSubtreesAreNotLoaded) {
  Model model;
  for (std::uint64_t chunk = 0; chunk < 3000; chunk += 2) model[chunk] = 1 + chunk % 5;
  const auto a = world.build({}, model);
  const auto b = world.build(a, {{777, 9}});
  world.reopen();
  const auto found = diff({a, ByteCount{3000 * kGeometry.chunk_bytes()}}, {b, ByteCount{3000 * kGeometry.chunk_bytes()}});
  ASSERT_OK(found);
  ASSERT_EQ(found->size(), 1U);
  EXPECT_EQ(found->front().at, kGeometry.start_of(ChunkIndex{777}));
  // One path of each map, and one chunk: what the other has there is zeros.
  EXPECT_LE(world.store->counters().records_loaded, 2U * chunks::kMapHeight + 1);
}

TEST_F(DiffTest, AnUnreadableChunkIsNamedByItsOffset) {
  const auto a = world.build({}, {{3, 1}, {5, 2}});
  const auto b = world.build(a, {{5, 3}});
  const auto files = world.pack_files();
  ASSERT_EQ(files.size(), 2U);
  for (const auto& file : files) world.flip_byte(file, world.payload_offset(file, 0));
  world.reopen();
  const auto found = diff({a, ByteCount{kMiB}}, {b, ByteCount{kMiB}});
  EXPECT_FAILS(found, EIO);
  ASSERT_FALSE(found);
  EXPECT_EQ(found.error().kind, ErrorKind::damaged);
}

TEST_F(DiffTest, StopsWhenToldAndWhenTheVisitorFails) {
  const Image a = image_of(Bytes(10 * kGeometry.chunk_bytes()));
  Bytes other(10 * kGeometry.chunk_bytes());
  for (std::size_t at = 0; at < other.size(); at += 2 * kBlockSize) other[at] = std::byte{1};
  const Image b = image_of(std::move(other));
  const DiffSide first{a.root, ByteCount{a.bytes.size()}};
  const DiffSide second{b.root, ByteCount{b.bytes.size()}};
  EXPECT_FAILS(diff_images(*world.store, first, second, [](const Extent&) { return Status{}; }, {}, [] { return true; }),
               ECANCELED);
  std::size_t seen = 0;
  const auto full = [&](const Extent&) -> Status {
    return ++seen == 3 ? Status(fail_system(ENOSPC, "noting it")) : Status{};
  };
  EXPECT_FAILS(diff_images(*world.store, first, second, full, {}, {}), ENOSPC);
  EXPECT_EQ(seen, 3U);
}

}  // namespace
}  // namespace varve::snapshot::test
