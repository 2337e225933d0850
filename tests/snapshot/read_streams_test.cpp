#include "read_streams.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

#include "support/seed.h"

namespace varve::snapshot {
namespace {

constexpr Geometry kGeometry{ByteCount{64 * kKiB}};
constexpr std::uint64_t kDeepest = 32;

/// Every chunk that was said, for one note.
std::set<std::uint64_t> chunks_of(ReadStreams::Ahead ahead) {
  std::set<std::uint64_t> chunks;
  for (std::uint64_t i = 0; i < ahead.count.value(); ++i) chunks.insert(ahead.first.value() + i);
  return chunks;
}

TEST(ReadStreams, ASequentialReaderIsReadAheadOfEverDeeperAndEachChunkIsSaidOnce) {
  ReadStreams streams(kGeometry, kDeepest);
  std::set<std::uint64_t> said;
  std::uint64_t deepest_seen = 0;
  for (std::uint64_t at = 0; at < 64 * kMiB; at += 32 * kKiB) {
    for (const std::uint64_t chunk : chunks_of(streams.note(ByteOffset{at}, ByteCount{32 * kKiB}))) {
      EXPECT_TRUE(said.insert(chunk).second) << chunk;
      EXPECT_GT(chunk, at / kGeometry.chunk_bytes());
      deepest_seen = std::max(deepest_seen, chunk - at / kGeometry.chunk_bytes());
    }
  }
  EXPECT_EQ(deepest_seen, kDeepest);
  EXPECT_GE(said.size(), 1020u);  // all but the first few
}

TEST(ReadStreams, ThirdReadInARowIsTheFirstToBeTrusted) {
  ReadStreams streams(kGeometry, kDeepest);
  const auto note = [&](std::uint64_t at) {
    return chunks_of(streams.note(ByteOffset{at}, ByteCount{4 * kKiB})).size();
  };
  EXPECT_EQ(note(0), 0u);
  EXPECT_EQ(note(4 * kKiB), 0u);
  EXPECT_EQ(note(8 * kKiB), 2u);
}

TEST(ReadStreams, OnlyATrustedStreamIsCalledSequential) {
  ReadStreams streams(kGeometry, kDeepest);
  const auto access = [&](std::uint64_t at) { return streams.note(ByteOffset{at}, ByteCount{256 * kKiB}).access; };
  EXPECT_EQ(access(0), objects::Access::random);
  EXPECT_EQ(access(kGiB), objects::Access::random);
  EXPECT_EQ(access(256 * kKiB), objects::Access::random);
  EXPECT_EQ(access(512 * kKiB), objects::Access::sequential);
  EXPECT_EQ(access(768 * kKiB), objects::Access::sequential);
}

TEST(ReadStreams, ShuffledRequestsOfOneReaderAreOneStream) {
  ReadStreams streams(kGeometry, kDeepest);
  constexpr std::uint64_t kRequest = 128 * kKiB;
  std::set<std::uint64_t> said;
  for (std::uint64_t group = 0; group < 32; ++group) {
    for (const std::uint64_t i : {2u, 0u, 3u, 1u}) {
      said.merge(chunks_of(streams.note(ByteOffset{(group * 4 + i) * kRequest}, ByteCount{kRequest})));
    }
  }
  EXPECT_GE(said.size(), 240u);
}

TEST(ReadStreams, EightReadersAtOnceAreToldApart) {
  ReadStreams streams(kGeometry, kDeepest);
  std::uint64_t said = 0;
  for (std::uint64_t step = 0; step < 64; ++step) {
    for (std::uint64_t reader = 0; reader < 8; ++reader) {
      said += streams.note(ByteOffset{reader * kGiB + step * 64 * kKiB}, ByteCount{64 * kKiB}).count.value();
    }
  }
  EXPECT_GE(said, 8u * 64u);
}

TEST(ReadStreams, RandomReadersAreLeftAlone) {
  ReadStreams streams(kGeometry, kDeepest);
  std::mt19937_64 random(varve::test::seed_for("random readers"));
  std::uint64_t said = 0;
  for (int i = 0; i < 1000; ++i) {
    said += streams.note(ByteOffset{random() % (100 * kGiB / 4096) * 4096}, ByteCount{4096}).count.value();
  }
  EXPECT_LE(said, 8u);
}

TEST(ReadStreams, WithoutRoomInTheCacheNothingIsReadAhead) {
  ReadStreams streams(kGeometry, 0);
  for (std::uint64_t at = 0; at < 4 * kMiB; at += 256 * kKiB) {
    EXPECT_EQ(streams.note(ByteOffset{at}, ByteCount{256 * kKiB}).count, ChunkCount{0});
  }
}

TEST(ReadStreams, ALargeReadIsSplitAmongThePrefetchersAtOnce) {
  ReadStreams streams(kGeometry, kDeepest);
  EXPECT_EQ(chunks_of(streams.note(ByteOffset{0}, ByteCount{256 * kKiB})), (std::set<std::uint64_t>{1, 2, 3}));
}

}  // namespace
}  // namespace varve::snapshot
