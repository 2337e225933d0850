#include "size.h"

#include <gtest/gtest.h>

#include "support/expect.h"

namespace varve::cli {
namespace {

TEST(ParseSize, TakesBytesAndPowersOf1024) {
  EXPECT_EQ(parse_size("0")->value(), 0u);
  EXPECT_EQ(parse_size("65536")->value(), 65536u);
  EXPECT_EQ(parse_size("64K")->value(), 65536u);
  EXPECT_EQ(parse_size("64k")->value(), 65536u);
  EXPECT_EQ(parse_size("64KiB")->value(), 65536u);
  EXPECT_EQ(parse_size("7B")->value(), 7u);
  EXPECT_EQ(parse_size("3M")->value(), 3 * kMiB);
  EXPECT_EQ(parse_size("2T")->value(), 2 * kTiB);
  EXPECT_EQ(parse_size("9223372036854775807")->value(), 9223372036854775807u);
}

TEST(ParseSize, RefusesEverythingElseWithASentence) {
  for (const char* bad : {"", " ", "K", "-1", "+1", "1.5G", "64KB", "64Ki", "64 K", "0x10", "1e9", "64KK", "K64", "６４"}) {
    EXPECT_FAILS(parse_size(bad), EINVAL) << bad;
  }
}

TEST(ParseSize, RefusesWhatOverflows) {
  for (const char* large : {"9223372036854775808", "18446744073709551615", "18446744073709551616", "16777216T", "8192P",
                            "9007199254740993K", "99999999999999999999999999"}) {
    const auto parsed = parse_size(large);
    ASSERT_TRUE(::varve::test::failed_with(parsed, EINVAL)) << large;
    EXPECT_NE(parsed.error().message.find("too large"), std::string::npos) << parsed.error().message;
  }
}

TEST(ReadableSize, SaysOneDigitWhereItMatters) {
  EXPECT_EQ(readable_size(0), "0 B");
  EXPECT_EQ(readable_size(1023), "1023 B");
  EXPECT_EQ(readable_size(20 * kGiB), "20 GiB");
  EXPECT_EQ(readable_size(1536), "1.5 KiB");
  EXPECT_EQ(readable_size(~std::uint64_t{0}), "16 EiB");
}

}  // namespace
}  // namespace varve::cli
