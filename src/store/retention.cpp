#include "retention.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <ctime>
#include <nlohmann/json.hpp>

#include "varve/catalog/names.h"

namespace varve::store {
namespace {

using nlohmann::json;

/// More than anybody has, and far from where calendars and integers end.
constexpr int kMost = 1'000'000;
constexpr int kMostSpan = 9999;

tm local(Time time) {
  const time_t seconds = time.to_timespec().tv_sec;
  tm parts{};
  ::localtime_r(&seconds, &parts);
  return parts;
}

/// A number that tells the periods of one kind from each other.
using Period = std::int64_t (*)(const tm& parts, std::int64_t position);

std::int64_t each(const tm&, std::int64_t position) { return position; }
std::int64_t year(const tm& t, std::int64_t) { return t.tm_year; }
std::int64_t month(const tm& t, std::int64_t position) { return year(t, position) * 100 + t.tm_mon; }
std::int64_t day(const tm& t, std::int64_t position) { return month(t, position) * 100 + t.tm_mday; }
std::int64_t hour(const tm& t, std::int64_t position) { return day(t, position) * 100 + t.tm_hour; }
std::int64_t week(const tm& t, std::int64_t) {
  char text[32];
  std::strftime(text, sizeof text, "%G%V", &t);
  return std::strtoll(text, nullptr, 10);
}

struct Rule {
  const char* key;
  int Retention::*count;
  Period period;
  std::string_view what;
};
constexpr std::array<Rule, 6> kRules{{{"last", &Retention::last, each, "last snapshot"},
                                      {"hourly", &Retention::hourly, hour, "hourly snapshot"},
                                      {"daily", &Retention::daily, day, "daily snapshot"},
                                      {"weekly", &Retention::weekly, week, "weekly snapshot"},
                                      {"monthly", &Retention::monthly, month, "monthly snapshot"},
                                      {"yearly", &Retention::yearly, year, "yearly snapshot"}}};

Time before(Time time, const Span& span) {
  tm parts = local(time);
  parts.tm_year -= span.years;
  parts.tm_mon -= span.months;
  parts.tm_mday -= span.days;
  parts.tm_isdst = -1;
  timespec value = time.to_timespec();
  value.tv_sec = ::mktime(&parts) - std::int64_t{span.hours} * 3600;
  return Time::from_timespec(value);
}

/// The newest that is not in the future; the earliest instant when all are.
Time newest(const std::vector<SnapshotInfo>& snapshots, Time time) {
  Time latest{INT64_MIN};
  for (const auto& snapshot : snapshots) {
    if (snapshot.time <= time) latest = std::max(latest, snapshot.time);
  }
  return latest;
}

/// What is left of one rule.
struct Counter {
  Rule rule;
  int left;
  std::int64_t last = -1;

  /// Why it keeps the snapshot; nothing when it does not.
  std::string keeps(const tm& parts, std::int64_t position, bool oldest) {
    if (left == 0) return {};
    const std::int64_t value = rule.period(parts, position);
    const bool first = value != last;
    if (!first && !oldest) return {};
    last = value;
    if (left > 0) --left;
    return first ? std::string(rule.what) : fmt::format("oldest {}", rule.what);
  }
};

}  // namespace

std::vector<Judged> judge(std::vector<SnapshotInfo> snapshots, const Retention& retention, Time time) {
  std::ranges::sort(snapshots, [](const SnapshotInfo& a, const SnapshotInfo& b) {
    return a.time != b.time ? a.time > b.time : a.id > b.id;
  });
  std::vector<Counter> counters;
  for (const Rule& rule : kRules) counters.push_back({rule, retention.*rule.count});
  const Time latest = newest(snapshots, time);
  const bool spans = retention.within != Span{} && latest.nanoseconds != INT64_MIN;
  const Time since = spans ? before(latest, retention.within) : Time{INT64_MAX};
  std::vector<Judged> judged;
  for (std::size_t i = 0; i < snapshots.size(); ++i) {
    Judged one{std::move(snapshots[i]), {}};
    if (one.snapshot.care.hold) one.reasons.push_back("held: " + *one.snapshot.care.hold);
    if (spans && one.snapshot.time > since) one.reasons.push_back("within " + to_text(retention.within));
    const tm parts = local(one.snapshot.time);
    for (Counter& counter : counters) {
      auto reason = counter.keeps(parts, static_cast<std::int64_t>(i), i + 1 == snapshots.size());
      if (!reason.empty()) one.reasons.push_back(std::move(reason));
    }
    judged.push_back(std::move(one));
  }
  return judged;
}

Result<Span> parse_span(std::string_view text) {
  const auto refuse = [text] {
    return fail_refused(EINVAL, fmt::format("{} is no span of time; write it as 2y5m7d3h, with numbers up to {}",
                                            catalog::quoted(text), kMostSpan));
  };
  Span span;
  int value = -1;
  std::string_view units = "ymdh";
  for (const char c : text) {
    if (c >= '0' && c <= '9') {
      value = std::min(std::max(value, 0) * 10 + (c - '0'), kMostSpan + 1);
      continue;
    }
    // In this order, each once.
    const auto unit = units.find(c);
    if (unit == std::string_view::npos || value < 0 || value > kMostSpan) return refuse();
    int* const members[] = {&span.years, &span.months, &span.days, &span.hours};
    *members[4 - units.size() + unit] = value;
    units.remove_prefix(unit + 1);
    value = -1;
  }
  if (value < 0 && span != Span{}) return span;
  return refuse();
}

std::string to_text(const Span& span) {
  std::string text;
  for (const auto& [value, unit] : {std::pair(span.years, 'y'), std::pair(span.months, 'm'), std::pair(span.days, 'd'),
                                    std::pair(span.hours, 'h')}) {
    if (value != 0) text += fmt::format("{}{}", value, unit);
  }
  return text;
}

json to_json(const Retention& retention) {
  json out = json::object();
  for (const Rule& rule : kRules) {
    const int count = retention.*rule.count;
    if (count != 0) out[rule.key] = count == kKeepAll ? json("all") : json(count);
  }
  if (retention.within != Span{}) out["within"] = to_text(retention.within);
  return out;
}

Result<Retention> retention_from_json(const json& object) {
  if (!object.is_object()) return fail_refused(EINVAL, "\"keep\" must be an object");
  Retention retention;
  for (const auto& [key, value] : object.items()) {
    if (key == "within" && value.is_string()) {
      VARVE_TRY_ASSIGN(retention.within, parse_span(value.get_ref<const std::string&>()));
      continue;
    }
    const auto rule = std::ranges::find(kRules, key, [](const Rule& one) { return std::string_view(one.key); });
    if (rule == kRules.end()) {
      return fail_refused(EINVAL, fmt::format("{} is nothing that \"keep\" knows", catalog::quoted(key)));
    }
    if (value.is_string() && value == "all") {
      retention.*rule->count = kKeepAll;
    } else if (value.is_number_integer() && value >= 0 && value <= kMost) {
      retention.*rule->count = value.get<int>();
    } else {
      return fail_refused(EINVAL, fmt::format("\"{}\" of \"keep\" must be \"all\" or a number up to {}", key, kMost));
    }
  }
  return retention;
}

}  // namespace varve::store
