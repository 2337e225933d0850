#include "varve/chunks/ref.h"

#include <gtest/gtest.h>

#include <array>

namespace varve::chunks {
namespace {

const Ref kRef{PackId{0x0102030405060700}, 0x0A0B0C0D, Digest{0x1112131415161718, 0x2122232425262728}};

std::array<std::byte, Ref::kEncodedSize> encoded(const Ref& ref) {
  std::array<std::byte, Ref::kEncodedSize> bytes;
  encode(ref, bytes);
  return bytes;
}

TEST(Ref, HasItsDocumentedBytes) {
  const std::array<unsigned char, Ref::kEncodedSize> expected{
      0x00, 0x07, 0x06, 0x05, 0x04, 0x03, 0x02, 0x01, 0x0D, 0x0C, 0x0B, 0x0A, 0x11, 0x12,
      0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x28};
  const auto bytes = encoded(kRef);
  for (std::size_t i = 0; i < bytes.size(); ++i) EXPECT_EQ(std::to_integer<int>(bytes[i]), expected[i]) << i;
  EXPECT_EQ(decode(bytes), kRef);
}

TEST(Ref, OnlyAllZerosMeansZeros) {
  EXPECT_EQ(decode(encoded(Ref{})), std::nullopt);
  EXPECT_TRUE(decode(encoded(Ref::make_damaged()))->damaged());
  // Bytes that we never write must not read as zeros: that would be wrong data without an error.
  EXPECT_TRUE(decode(encoded(Ref{PackId{0}, 1, Digest{}}))->damaged());
  EXPECT_TRUE(decode(encoded(Ref{PackId{0}, 0, Digest{0, 1}}))->damaged());
}

TEST(Ref, SurvivesTheDiskLayer) {
  EXPECT_TRUE(to_opaque(std::nullopt).empty());
  EXPECT_EQ(from_opaque(to_opaque(std::nullopt)), std::nullopt);
  EXPECT_EQ(from_opaque(to_opaque(kRef)), kRef);
}

TEST(Ref, SurvivesTheDiskLog) {
  EXPECT_EQ(to_log_text(kRef), "0102030405060700:168496141:11121314151617182122232425262728");
  for (const MaybeRef& ref : {MaybeRef{}, MaybeRef{kRef}, MaybeRef{Ref::make_damaged()}}) {
    EXPECT_EQ(parse_log_text(to_log_text(ref)).value(), ref);
  }
}

TEST(Ref, RefusesForeignLogText) {
  for (const char* text :
       {":", "::", "0102030405060700", "0102030405060700:1", "0102030405060700:1:",
        "0102030405060700:01:1112131415161718"
        "2122232425262728",
        "0102030405060700:4294967296:11121314151617182122232425262728",
        "0102030405060700:-1:11121314151617182122232425262728", "0000000000000000:5:11121314151617182122232425262728",
        "0102030405060700:1:1112131415161718212223242526272", "0102030405060700:1:111213141516171821222324252627289",
        "010203040506070G:1:11121314151617182122232425262728", "0102030405060700:1:1112131415161718212223242526272A",
        "0000000000000000:0:00000000000000000000000000000000", " 102030405060700:1:11121314151617182122232425262728"}) {
    const auto parsed = parse_log_text(text);
    EXPECT_FALSE(parsed) << text;
  }
}

}  // namespace
}  // namespace varve::chunks
