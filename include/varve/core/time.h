// Wall-clock instants as they are stored: nanoseconds since 1970-01-01 UTC.
#pragma once

#include <compare>
#include <cstdint>
#include <ctime>
#include <string>

namespace varve {

struct Time {
  std::int64_t nanoseconds = 0;
  friend constexpr auto operator<=>(Time, Time) = default;
  [[nodiscard]] timespec to_timespec() const;
  static Time from_timespec(const timespec& value);
};

[[nodiscard]] Time now();
/// ISO-8601 UTC with nanoseconds: 2026-01-31T23:59:59.123456789Z
[[nodiscard]] std::string to_iso8601(Time time);

}  // namespace varve
