// Which of many snapshots are kept: so many of the last, and of those that were the last of an hour, a day, a week, a month,
// a year. The same rules as `restic forget` has, so that who knows one knows both:
//   - from the newest to the oldest each rule keeps the first that it meets in each of its periods, as long as it has some
//     left to keep;
//   - the oldest of all is kept by each rule that has some left, so that a history is not shorter than it might be;
//   - periods are those of the local time zone; weeks are those of ISO 8601;
//   - what is within a span of time before the newest is kept;
//   - what is held is kept, and counts as any other.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "varve/core/result.h"
#include "varve/core/time.h"
#include "varve/store/disk.h"

namespace varve::store {

/// "1y6m14d12h": of calendar years, months and days, and hours.
struct Span {
  int years = 0;
  int months = 0;
  int days = 0;
  int hours = 0;
  friend bool operator==(const Span&, const Span&) = default;
};

/// How many a rule keeps: 0 none, kKeepAll all.
inline constexpr int kKeepAll = -1;
struct Retention {
  int last = 0;
  int hourly = 0;
  int daily = 0;
  int weekly = 0;
  int monthly = 0;
  int yearly = 0;
  Span within;
  [[nodiscard]] bool empty() const { return *this == Retention{}; }
  friend bool operator==(const Retention&, const Retention&) = default;
};

struct Judged {
  SnapshotInfo snapshot;
  std::vector<std::string> reasons;  ///< why it is kept; none: it is not
};

/// Newest first. `retention` is not empty; `time`: what lies behind it is not the newest of anything.
[[nodiscard]] std::vector<Judged> judge(std::vector<SnapshotInfo> snapshots, const Retention& retention, Time time);

/// EINVAL (refused) with a sentence.
[[nodiscard]] Result<Span> parse_span(std::string_view text);
[[nodiscard]] std::string to_text(const Span& span);
/// An object with those members that keep something: numbers, or "all"; "within" is text.
[[nodiscard]] nlohmann::json to_json(const Retention& retention);
/// EINVAL (refused) for anything else; never throws.
[[nodiscard]] Result<Retention> retention_from_json(const nlohmann::json& json);

}  // namespace varve::store
