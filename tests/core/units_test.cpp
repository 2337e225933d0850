#include "varve/core/units.h"

#include <gtest/gtest.h>

#include <type_traits>

namespace varve {
namespace {

static_assert(!std::is_convertible_v<std::uint64_t, ByteOffset>);
static_assert(!std::is_convertible_v<ByteOffset, ByteCount>);
static_assert(!std::is_constructible_v<ByteOffset, ByteCount>);

TEST(Geometry, AcceptsPowersOfTwoBetweenItsBounds) {
  EXPECT_TRUE(Geometry::valid_chunk_size(16 * kKiB));
  EXPECT_TRUE(Geometry::valid_chunk_size(kDefaultChunkSize));
  EXPECT_TRUE(Geometry::valid_chunk_size(4 * kMiB));
  for (const std::uint64_t size : {std::uint64_t{0}, 8 * kKiB, 48 * kKiB, 64 * kKiB + 1, 8 * kMiB}) {
    EXPECT_FALSE(Geometry::valid_chunk_size(size)) << size;
  }
}

TEST(Geometry, ConvertsAtChunkBorders) {
  const Geometry geometry(ByteCount{64 * kKiB});
  EXPECT_EQ(geometry.blocks_per_chunk(), 16U);
  EXPECT_EQ(geometry.chunk_of(ByteOffset{64 * kKiB - 1}), ChunkIndex{0});
  EXPECT_EQ(geometry.chunk_of(ByteOffset{64 * kKiB}), ChunkIndex{1});
  EXPECT_EQ(geometry.within_chunk(ByteOffset{64 * kKiB + 7}), 7U);
  EXPECT_EQ(geometry.start_of(ChunkIndex{3}), ByteOffset{192 * kKiB});
  EXPECT_EQ(geometry.bytes_in(ChunkCount{2}), ByteCount{128 * kKiB});
}

TEST(Geometry, CountsAPartialLastChunk) {
  const Geometry geometry(ByteCount{64 * kKiB});
  EXPECT_EQ(geometry.chunks_in(ByteCount{0}), ChunkCount{0});
  EXPECT_EQ(geometry.chunks_in(ByteCount{1}), ChunkCount{1});
  EXPECT_EQ(geometry.chunks_in(ByteCount{64 * kKiB}), ChunkCount{1});
  EXPECT_EQ(geometry.chunks_in(ByteCount{64 * kKiB + 1}), ChunkCount{2});
  EXPECT_EQ(geometry.chunks_in(ByteCount{UINT64_MAX}), ChunkCount{std::uint64_t{1} << 48})
      << "no overflow on the way to refusing a size";
}

TEST(Geometry, LargestImageIsWhatTheMapCanHold) {
  const Geometry geometry(ByteCount{64 * kKiB});
  EXPECT_EQ(geometry.max_image_size(), ByteCount{256 * kTiB});
  EXPECT_EQ(geometry.chunks_in(geometry.max_image_size()).value(), kMaxChunksPerImage);
}

}  // namespace
}  // namespace varve
