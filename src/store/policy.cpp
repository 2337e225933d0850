#include "policy.h"

#include <fmt/format.h>
#include <fnmatch.h>

#include <algorithm>
#include <array>
#include <ctime>
#include <limits>
#include <nlohmann/json.hpp>

#include "varve/catalog/names.h"

namespace varve::store {
namespace {

using catalog::quoted;
using nlohmann::json;

constexpr std::array<const char*, 7> kDays{"sun", "mon", "tue", "wed", "thu", "fri", "sat"};
constexpr int kMinutesPerDay = 24 * 60;
constexpr std::size_t kMaxPattern = 240;

tm local(time_t seconds) {
  tm parts{};
  ::localtime_r(&seconds, &parts);
  return parts;
}

Time at_second(std::int64_t seconds) {
  timespec value{};
  value.tv_sec = seconds;
  return Time::from_timespec(value);
}

Time next_multiple(std::int64_t every, std::int64_t after) {
  const std::int64_t offset = local(after).tm_gmtoff;
  const std::int64_t here = after + offset;
  // Rounded down, also before 1970.
  const std::int64_t past = here - ((here % every) + every) % every;
  return at_second(past + every - offset);
}

tl::unexpected<Error> wrong(const std::string& what) { return fail_refused(EINVAL, "the policy: " + what); }

Result<std::string> text_of(const json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_string()) return wrong(fmt::format("\"{}\" must be text", key));
  return found->get<std::string>();
}

Result<std::int64_t> integer_of(const json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_number_integer() ||
      (found->is_number_unsigned() && found->get<std::uint64_t>() > std::numeric_limits<std::int64_t>::max())) {
    return wrong(fmt::format("\"{}\" must be an integer", key));
  }
  return found->get<std::int64_t>();
}

Result<std::vector<std::string>> texts_of(const json& object, const char* key, std::size_t most) {
  std::vector<std::string> out;
  const auto found = object.find(key);
  if (found == object.end()) return out;
  if (!found->is_array() || found->size() > most) {
    return wrong(fmt::format("\"{}\" must be a list of {} texts at most", key, most));
  }
  for (const auto& element : *found) {
    if (!element.is_string()) return wrong(fmt::format("\"{}\" must be a list of texts", key));
    out.push_back(element.get<std::string>());
  }
  return out;
}

Status refuse_unknown(const json& object, bool stored) {
  static constexpr std::array<std::string_view, 7> kAsked{"name", "disks", "every", "at", "days", "pattern", "keep"};
  static constexpr std::array<std::string_view, 3> kStored{"paused", "since", "last"};
  for (const auto& item : object.items()) {
    const bool known = std::ranges::find(kAsked, item.key()) != kAsked.end() ||
                       (stored && std::ranges::find(kStored, item.key()) != kStored.end());
    if (!known) return wrong(fmt::format("{} is nothing it has", quoted(item.key())));
  }
  return {};
}

/// "02:30" as minutes since midnight.
Result<int> minute_of(const std::string& text) {
  const auto digit = [&](std::size_t i) { return text[i] >= '0' && text[i] <= '9' ? text[i] - '0' : 1000; };
  if (text.size() == 5 && text[2] == ':') {
    const int hour = digit(0) * 10 + digit(1);
    const int minute = digit(3) * 10 + digit(4);
    if (hour < 24 && minute < 60) return hour * 60 + minute;
  }
  return wrong(fmt::format("{} is no time of a day; write it as 02:30", quoted(text)));
}

Result<int> day_of(const std::string& text) {
  const auto found = std::ranges::find(kDays, text, [](const char* day) { return std::string(day); });
  if (found != kDays.end()) return static_cast<int>(found - kDays.begin());
  return wrong(fmt::format("{} is no day; write mon, tue, wed, thu, fri, sat or sun", quoted(text)));
}

template <class Parse>
Result<std::vector<int>> sorted_numbers(const json& object, const char* key, std::size_t most, Parse parse) {
  VARVE_TRY_ASSIGN(const auto words, texts_of(object, key, most));
  std::vector<int> out;
  for (const std::string& word : words) {
    VARVE_TRY_ASSIGN(const int value, parse(word));
    out.push_back(value);
  }
  std::ranges::sort(out);
  out.erase(std::unique(out.begin(), out.end()), out.end());
  return out;
}

Result<Timetable> timetable_of(const json& object) {
  Timetable times;
  if (object.contains("every")) {
    VARVE_TRY_ASSIGN(times.every, integer_of(object, "every"));
    if (times.every < 1 || times.every > kLongestEvery) {
      return wrong("\"every\" must be from a second to a year");
    }
  }
  VARVE_TRY_ASSIGN(times.at, sorted_numbers(object, "at", kMinutesPerDay, minute_of));
  VARVE_TRY_ASSIGN(times.days, sorted_numbers(object, "days", kDays.size(), day_of));
  if ((times.every == 0) == times.at.empty()) {
    return wrong("say when: either every so often (--every 6h), or at times of the day (--at 02:30,14:30)");
  }
  if (times.every != 0 && !times.days.empty()) return wrong("days are for those with times of the day (--at)");
  return times;
}

Result<PolicyRun> run_of(const json& object) {
  if (!object.is_object()) return wrong("\"last\" must be an object");
  PolicyRun run;
  VARVE_TRY_ASSIGN(const std::int64_t time, integer_of(object, "time"));
  VARVE_TRY_ASSIGN(const std::int64_t taken, integer_of(object, "taken"));
  VARVE_TRY_ASSIGN(run.skipped, texts_of(object, "skipped", kMaxSkipped));
  if (taken < 0) return wrong("\"taken\" must be a number");
  run.time = Time{time};
  run.taken = static_cast<std::uint64_t>(taken);
  return run;
}

Status read_state(const json& object, Policy& policy) {
  const auto paused = object.find("paused");
  if (paused == object.end() || !paused->is_boolean()) return wrong("\"paused\" must be true or false");
  policy.paused = paused->get<bool>();
  VARVE_TRY_ASSIGN(const std::int64_t since, integer_of(object, "since"));
  policy.since = Time{since};
  if (const auto last = object.find("last"); last != object.end()) {
    VARVE_TRY_ASSIGN(policy.last, run_of(*last));
  }
  return {};
}

}  // namespace

Time next_time(const Timetable& times, Time after) {
  const std::int64_t seconds = after.to_timespec().tv_sec;
  if (times.every != 0) return next_multiple(times.every, seconds);
  const tm today = local(seconds);
  // A week and a day: today's may all be past, and the only day may be today.
  for (int ahead = 0; ahead <= 8; ++ahead) {
    for (const int minute : times.at) {
      tm parts{};
      parts.tm_year = today.tm_year;
      parts.tm_mon = today.tm_mon;
      parts.tm_mday = today.tm_mday + ahead;
      parts.tm_hour = minute / 60;
      parts.tm_min = minute % 60;
      parts.tm_isdst = -1;
      const time_t then = ::mktime(&parts);
      const bool right_day = times.days.empty() || std::ranges::find(times.days, parts.tm_wday) != times.days.end();
      if (right_day && then > seconds) return at_second(then);
    }
  }
  return Time{std::numeric_limits<std::int64_t>::max()};
}

Time next_run(const Policy& policy, Time time) {
  Time after = policy.since;
  if (policy.last) after = std::max(after, policy.last->time);
  // A clock that was set back must not silence it until it has caught up.
  return next_time(policy.times, std::min(after, time));
}

bool covers(const Policy& policy, const std::string& disk) {
  return std::ranges::any_of(policy.disks,
                             [&](const std::string& pattern) { return ::fnmatch(pattern.c_str(), disk.c_str(), 0) == 0; });
}

Result<std::string> name_at(const Policy& policy, Time time) {
  const tm parts = local(time.to_timespec().tv_sec);
  char text[4 * catalog::kMaxNameSize];
  const std::size_t size = std::strftime(text, sizeof text, policy.pattern.c_str(), &parts);
  const std::string name(text, size);
  VARVE_TRY(catalog::validate_name(name, catalog::NameKind::snapshot));
  return name;
}

json to_json(const Policy& policy) {
  json out{{"name", policy.name},
           {"disks", policy.disks},
           {"pattern", policy.pattern},
           {"keep", to_json(policy.keep)},
           {"paused", policy.paused},
           {"since", policy.since.nanoseconds}};
  if (policy.times.every != 0) out["every"] = policy.times.every;
  for (const int minute : policy.times.at) out["at"].push_back(fmt::format("{:02}:{:02}", minute / 60, minute % 60));
  for (const int day : policy.times.days) out["days"].push_back(kDays.at(static_cast<std::size_t>(day)));
  if (policy.last) {
    out["last"] = {{"time", policy.last->time.nanoseconds},
                   {"taken", policy.last->taken},
                   {"skipped", policy.last->skipped}};
  }
  return out;
}

Result<Policy> policy_from_json(const json& object, bool stored) {
  if (!object.is_object()) return wrong("it must be an object");
  VARVE_TRY(refuse_unknown(object, stored));
  Policy policy;
  VARVE_TRY_ASSIGN(policy.name, text_of(object, "name"));
  VARVE_TRY(catalog::validate_name(policy.name, catalog::NameKind::policy));
  VARVE_TRY_ASSIGN(policy.disks, texts_of(object, "disks", kMaxDiskPatterns));
  if (policy.disks.empty()) return wrong("say of which disks: --disks 'web*'");
  for (const std::string& pattern : policy.disks) {
    if (pattern.empty() || pattern.size() > kMaxPattern || !catalog::wrong_in_text(pattern).empty()) {
      return wrong(fmt::format("{} is no pattern for names of disks", quoted(pattern)));
    }
  }
  VARVE_TRY_ASSIGN(policy.times, timetable_of(object));
  VARVE_TRY_ASSIGN(policy.pattern, text_of(object, "pattern"));
  if (policy.pattern.size() > kMaxPattern || !catalog::wrong_in_text(policy.pattern).empty()) {
    return wrong(fmt::format("{} is no pattern for names of snapshots", quoted(policy.pattern)));
  }
  if (auto name = name_at(policy, now()); !name) return tl::unexpected(name.error().in("the policy's pattern of names"));
  if (const auto keep = object.find("keep"); keep != object.end()) {
    VARVE_TRY_ASSIGN(policy.keep, retention_from_json(*keep));
  }
  if (stored) VARVE_TRY(read_state(object, policy));
  return policy;
}

}  // namespace varve::store
