// Wall-clock instants as they are stored: nanoseconds since 1970-01-01 UTC.
#pragma once

#include <compare>
#include <cstdint>
#include <ctime>
#include <functional>
#include <string>
#include <string_view>

#include "varve/core/result.h"

namespace varve {

struct Time {
  std::int64_t nanoseconds = 0;
  friend constexpr auto operator<=>(Time, Time) = default;
  [[nodiscard]] timespec to_timespec() const;
  static Time from_timespec(const timespec& value);
};

[[nodiscard]] Time now();
/// Where what waits for an hour gets the time from; a test puts its own here.
using Clock = std::function<Time()>;
/// ISO-8601 UTC with nanoseconds: 2026-01-31T23:59:59.123456789Z
[[nodiscard]] std::string to_iso8601(Time time);
/// The same, from the date on as short as one likes: 2026-01-31T23:59Z, 2026-01-31 (its first instant). EINVAL (refused)
/// with a sentence for anything else, such as another time zone or a day that no month has.
[[nodiscard]] Result<Time> parse_iso8601(std::string_view text);

}  // namespace varve
