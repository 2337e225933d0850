#include "varve/core/time.h"

#include <fmt/format.h>

#include <cstdint>
#include <limits>

namespace varve {
namespace {

constexpr std::int64_t kNanosecondsPerSecond = 1'000'000'000;

/// Seconds rounded down, so that instants before 1970 have a positive fraction as timespec wants it.
std::int64_t whole_seconds(Time time) {
  const std::int64_t seconds = time.nanoseconds / kNanosecondsPerSecond;
  return time.nanoseconds % kNanosecondsPerSecond < 0 ? seconds - 1 : seconds;
}

}  // namespace

timespec Time::to_timespec() const {
  timespec value{};
  value.tv_sec = whole_seconds(*this);
  // Not by subtracting whole seconds: that product overflows for the earliest second.
  const std::int64_t fraction = nanoseconds % kNanosecondsPerSecond;
  value.tv_nsec = fraction < 0 ? fraction + kNanosecondsPerSecond : fraction;
  return value;
}

Time Time::from_timespec(const timespec& value) {
  // A caller of utimensat(2) may name any second; what 64 bits of nanoseconds cannot hold (before 1677, after 2262)
  // becomes the nearest instant they can.
  std::int64_t product = 0;
  if (__builtin_mul_overflow(static_cast<std::int64_t>(value.tv_sec), kNanosecondsPerSecond, &product) ||
      __builtin_add_overflow(product, static_cast<std::int64_t>(value.tv_nsec), &product)) {
    using Limits = std::numeric_limits<std::int64_t>;
    return Time{value.tv_sec < 0 ? Limits::min() : Limits::max()};
  }
  return Time{product};
}

Time now() {
  timespec value{};
  clock_gettime(CLOCK_REALTIME, &value);
  return Time::from_timespec(value);
}

std::string to_iso8601(Time time) {
  const timespec value = time.to_timespec();
  tm parts{};
  gmtime_r(&value.tv_sec, &parts);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:09}Z", parts.tm_year + 1900, parts.tm_mon + 1,
                     parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec, value.tv_nsec);
}

}  // namespace varve
