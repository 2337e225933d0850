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

namespace {

/// `digits` decimal digits at the beginning of `text`, taken off it; -1 when they are not there.
int take_number(std::string_view& text, std::size_t digits) {
  if (text.size() < digits) return -1;
  int value = 0;
  for (const char c : text.substr(0, digits)) {
    if (c < '0' || c > '9') return -1;
    value = value * 10 + (c - '0');
  }
  text.remove_prefix(digits);
  return value;
}

bool take(std::string_view& text, char wanted) {
  if (text.empty() || text.front() != wanted) return false;
  text.remove_prefix(1);
  return true;
}

/// The digits of a fraction of a second, nine at most; -1 when there are none.
std::int64_t take_nanoseconds(std::string_view& text) {
  std::int64_t value = 0;
  std::int64_t unit = kNanosecondsPerSecond;
  while (!text.empty() && text.front() >= '0' && text.front() <= '9' && unit > 1) {
    unit /= 10;
    value += unit * (text.front() - '0');
    text.remove_prefix(1);
  }
  return unit == kNanosecondsPerSecond ? -1 : value;
}

/// Whether `text` is one of the forms; `parts` and `nanoseconds` get what it says.
bool read_iso8601(std::string_view text, tm& parts, std::int64_t& nanoseconds) {
  const int year = take_number(text, 4);
  if (year < 0 || !take(text, '-')) return false;
  const int month = take_number(text, 2);
  if (month < 1 || month > 12 || !take(text, '-')) return false;
  parts.tm_year = year - 1900;
  parts.tm_mon = month - 1;
  parts.tm_mday = take_number(text, 2);
  if (parts.tm_mday < 1 || text.empty()) return parts.tm_mday >= 1;
  if (!take(text, 'T')) return false;
  parts.tm_hour = take_number(text, 2);
  if (parts.tm_hour < 0 || !take(text, ':')) return false;
  parts.tm_min = take_number(text, 2);
  if (parts.tm_min < 0) return false;
  if (take(text, ':')) {
    parts.tm_sec = take_number(text, 2);
    if (parts.tm_sec < 0) return false;
    if (take(text, '.')) nanoseconds = take_nanoseconds(text);
  }
  return nanoseconds >= 0 && text == "Z";
}

}  // namespace

Result<Time> parse_iso8601(std::string_view text) {
  tm parts{};
  std::int64_t nanoseconds = 0;
  timespec value{};
  bool good = read_iso8601(text, parts, nanoseconds);
  if (good) {
    const tm wanted = parts;
    value.tv_sec = timegm(&parts);
    value.tv_nsec = nanoseconds;
    // What no calendar has was carried over into the next unit.
    good = parts.tm_mday == wanted.tm_mday && parts.tm_hour == wanted.tm_hour && parts.tm_min == wanted.tm_min &&
           parts.tm_sec == wanted.tm_sec;
  }
  if (good) return Time::from_timespec(value);
  return fail_refused(EINVAL, fmt::format("\"{}\" is no instant in UTC; write it as 2026-01-31T23:59:59Z",
                                          text.size() > 40 ? "..." : text));
}

}  // namespace varve
