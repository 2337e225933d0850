#include "varve/core/time.h"

#include <gtest/gtest.h>

#include <limits>

namespace varve {
namespace {

TEST(Time, PrintsIso8601) {
  EXPECT_EQ(to_iso8601(Time{0}), "1970-01-01T00:00:00.000000000Z");
  EXPECT_EQ(to_iso8601(Time{1769903999123456789}), "2026-01-31T23:59:59.123456789Z");
  EXPECT_EQ(to_iso8601(Time{-1}), "1969-12-31T23:59:59.999999999Z");
}

TEST(Time, TimespecGoesThereAndBack) {
  using Limits = std::numeric_limits<std::int64_t>;
  for (const std::int64_t ns : {std::int64_t{0}, std::int64_t{-1}, std::int64_t{1'500'000'000},
                                std::int64_t{-1'000'000'000}, Limits::max(), Limits::min() + 1'000'000'000}) {
    const timespec value = Time{ns}.to_timespec();
    EXPECT_GE(value.tv_nsec, 0);
    EXPECT_LT(value.tv_nsec, 1'000'000'000);
    EXPECT_EQ(Time::from_timespec(value), Time{ns});
  }
}

TEST(Time, ASecondBeyondTheRangeBecomesTheNearestInstant) {
  timespec value{};
  value.tv_sec = std::numeric_limits<time_t>::max();
  EXPECT_EQ(Time::from_timespec(value).nanoseconds, std::numeric_limits<std::int64_t>::max());
  value.tv_sec = std::numeric_limits<time_t>::min();
  EXPECT_EQ(Time::from_timespec(value).nanoseconds, std::numeric_limits<std::int64_t>::min());
}

TEST(Time, NowIsAfterThisWasWritten) {
  EXPECT_GT(now(), Time{1'700'000'000'000'000'000});
}

}  // namespace
}  // namespace varve
