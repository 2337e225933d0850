#include "varve/core/bytes.h"

#include <gtest/gtest.h>

namespace varve {
namespace {

TEST(Bytes, AreLittleEndianOnDisk) {
  std::vector<std::byte> out;
  ByteWriter writer(out);
  writer.put(std::uint8_t{0x01});
  writer.put(std::uint16_t{0x0203});
  writer.put(std::uint32_t{0x04050607});
  const std::vector<std::byte> expected{std::byte{1}, std::byte{3}, std::byte{2}, std::byte{7},
                                        std::byte{6}, std::byte{5}, std::byte{4}};
  EXPECT_EQ(out, expected);
}

TEST(Bytes, ReadBackWhatWasWritten) {
  std::vector<std::byte> out;
  ByteWriter writer(out);
  writer.put(std::uint64_t{0xfedcba9876543210});
  writer.put(std::uint8_t{0xff});
  writer.put_text("varve");
  ByteReader reader(out);
  EXPECT_EQ(reader.get<std::uint64_t>(), 0xfedcba9876543210U);
  EXPECT_EQ(reader.get<std::uint8_t>(), 0xffU);
  EXPECT_EQ(reader.remaining(), 5U);
  EXPECT_FALSE(reader.finished());
  const auto text = reader.get_bytes(5);
  EXPECT_EQ(std::string_view(reinterpret_cast<const char*>(text.data()), text.size()), "varve");
  EXPECT_TRUE(reader.finished());
}

TEST(Bytes, AReaderThatRanOutStaysFailed) {
  const std::vector<std::byte> three(3, std::byte{0x55});
  ByteReader reader(three);
  EXPECT_EQ(reader.get<std::uint32_t>(), 0U);
  EXPECT_TRUE(reader.failed());
  EXPECT_EQ(reader.get<std::uint8_t>(), 0U) << "bytes are left, but nothing after a failure may be believed";
  EXPECT_TRUE(reader.get_bytes(1).empty());
  EXPECT_EQ(reader.remaining(), 0U);
  EXPECT_FALSE(reader.finished());
}

TEST(Bytes, ALengthFromAFileCannotOverrunByOverflow) {
  const std::vector<std::byte> three(3);
  ByteReader reader(three);
  reader.get<std::uint8_t>();
  EXPECT_TRUE(reader.get_bytes(SIZE_MAX).empty());
  EXPECT_TRUE(reader.failed());
}

}  // namespace
}  // namespace varve
