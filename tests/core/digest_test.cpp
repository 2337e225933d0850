#include "varve/core/digest.h"

#include <gtest/gtest.h>

namespace varve {
namespace {

TEST(Digest, IsTheOneOfTheSpecification) {
  // XXH3_128bits of no bytes with seed 0, as xxhsum -H2 prints it. Stored digests depend on it for ever.
  EXPECT_EQ(to_hex(digest_of({})), "99aa06d3014798d86001c324468d497f");
}

TEST(Digest, HexKeepsLeadingZeros) {
  EXPECT_EQ(to_hex(Digest{1, 2}), "00000000000000010000000000000002");
}

TEST(Digest, EmptyRootIsAllZeros) {
  OpaqueRoot root;
  EXPECT_TRUE(root.empty());
  root.bytes[27] = std::byte{1};
  EXPECT_FALSE(root.empty());
}

}  // namespace
}  // namespace varve
