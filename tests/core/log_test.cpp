#include "varve/core/log.h"

#include <gtest/gtest.h>

#include <string>

namespace varve {
namespace {

std::string printed(const std::string& text, log::Level level = log::Level::warning) {
  ::testing::internal::CaptureStderr();
  log::write(level, text);
  return ::testing::internal::GetCapturedStderr();
}

TEST(Log, OneLineAnEventAndNoNameCanForgeAnother) {
  EXPECT_EQ(printed("disk \"a\nvarve: error: b\x1b[2J\" grew"),
            "varve: warning: disk \"a?varve: error: b?[2J\" grew\n");
}

TEST(Log, SaysNothingBelowItsLevel) {
  EXPECT_EQ(printed("x", log::Level::debug), "");
  log::set_level(log::Level::debug);
  EXPECT_EQ(printed("x", log::Level::debug), "varve: debug: x\n");
  log::set_level(log::Level::error);
  EXPECT_EQ(printed("x", log::Level::warning), "");
  log::set_level(log::Level::info);
  EXPECT_EQ(printed("100% {}"), "varve: warning: 100% {}\n") << "a line is not a format";
}

}  // namespace
}  // namespace varve
