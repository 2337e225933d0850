#include "varve/core/xxh3.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <span>
#include <vector>

#include "plain_xxhash.h"
#include "varve/core/digest.h"

namespace varve::test {
namespace {

std::vector<std::byte> some_bytes(std::size_t count) {
  std::mt19937 random(1);
  std::vector<std::byte> bytes(count);
  for (auto& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

/// Those with more than 240 bytes come to the processor's widest vectors.
std::vector<std::size_t> lengths() {
  std::vector<std::size_t> all{4096, 65536, 1048576};
  for (std::size_t length = 0; length < 1100; ++length) all.push_back(length);
  return all;
}

TEST(Xxh3, AnyVectorsGiveTheSameDigest) {
  const auto bytes = some_bytes(1048576 + 3);
  for (const std::size_t length : lengths()) {
    for (const std::size_t start : {0U, 1U, 3U}) {
      const auto piece = std::span(bytes).subspan(start, length);
      ASSERT_EQ(digest_of(piece), plain_digest_of(piece)) << length << " bytes from " << start;
    }
  }
}

TEST(Xxh3, AnyVectorsGiveTheSameSeededHash) {
  constexpr std::uint64_t kSeed = 0x0123456789abcdef;
  const auto bytes = some_bytes(1048576);
  for (const std::size_t length : lengths()) {
    const auto piece = std::span(bytes).first(length);
    const std::uint64_t expected = plain_hash_of(piece, kSeed);
    ASSERT_EQ(XXH3_64bits_withSeed(piece.data(), piece.size(), kSeed), expected) << length;
    XXH3_state_t state;
    XXH3_INITSTATE(&state);
    XXH3_64bits_reset_withSeed(&state, kSeed);
    const std::size_t first = std::min<std::size_t>(length, 8);
    XXH3_64bits_update(&state, piece.data(), first);
    XXH3_64bits_update(&state, piece.data() + first, length - first);
    ASSERT_EQ(XXH3_64bits_digest(&state), expected) << length << " in two pieces";
  }
}

/// As `xxhsum -H2` has it: stored digests depend on it for ever.
TEST(Xxh3, AChunkOfZerosHasTheDigestItAlwaysHad) {
  EXPECT_EQ(to_hex(digest_of(std::vector<std::byte>(65536))), "fd5ee061c8433a0f33b202d302b65caa");
}

}  // namespace
}  // namespace varve::test
