#include "varve/catalog/names.h"

#include <gtest/gtest.h>

namespace varve::catalog {
namespace {

int code_of(std::string_view name) {
  const auto status = validate_name(name, NameKind::snapshot);
  if (!status) {
    EXPECT_EQ(status.error().kind, ErrorKind::refused);
  }
  return status ? 0 : status.error().code;
}

TEST(Names, PlainAndForeignNamesAreAccepted) {
  for (const char* name : {"a", "before-upgrade", "with space", "Überblick", "日本語", "😀", "a.b", "-rf", "disk.img2",
                           "\xEF\xBF\xBD", "\xF4\x8F\xBF\xBF"}) {
    EXPECT_EQ(code_of(name), 0) << name;
  }
  EXPECT_EQ(code_of(std::string(240, 'x')), 0);
}

TEST(Names, WhatCannotBeAFileNameOrIsReservedIsRefused) {
  for (const char* name : {"", ".", "..", ".hidden", ".varve", "a/b", "/", "disk.img"})
    EXPECT_EQ(code_of(name), EINVAL);
  EXPECT_EQ(code_of(std::string_view("a\0b", 3)), EINVAL);
  EXPECT_EQ(code_of(std::string(241, 'x')), ENAMETOOLONG);
}

TEST(Names, ControlCharactersAreRefused) {
  for (const char* name : {"a\nb", "\x1b[2J", "\x7f", "\xC2\x80", "\xC2\x9F"}) {
    EXPECT_EQ(code_of(name), EINVAL);
  }
}

TEST(Names, WhatIsNotStrictUtf8IsRefused) {
  for (const char* name :
       {"\xFF", "\x80", "a\xC3", "\xC0\xAF", "\xC1\x81", "\xE0\x80\xAF", "\xF0\x80\x80\xAF", "\xED\xA0\x80",
        "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xE2\x82", "\xF8\x88\x80\x80\x80"}) {
    EXPECT_EQ(code_of(name), EINVAL) << quoted(name);
  }
}

TEST(Names, TheSentenceNamesTheNameEscaped) {
  const auto status = validate_name("a\x1b[31mred", NameKind::disk);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().message, R"("a\x1b[31mred" cannot be the name of a disk: it has a control character)");
}

TEST(Names, QuotedShowsAnyBytesOnOneLine) {
  EXPECT_EQ(quoted("plain ü"), "\"plain ü\"");
  EXPECT_EQ(quoted("q\"\\"), R"("q\"\\")");
  EXPECT_EQ(quoted("\xFF\n"), R"("\xff\x0a")");
  EXPECT_EQ(quoted("\xC2\x85"), R"("\xc2\x85")");
  EXPECT_LT(quoted(std::string(5000, 'x')).size(), 100u);
  EXPECT_TRUE(quoted(std::string(5000, 'x')).ends_with("...\""));
}

}  // namespace
}  // namespace varve::catalog
