// A policy: snapshots of chosen disks, by themselves, at chosen times, of which some are kept.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "retention.h"
#include "varve/core/result.h"
#include "varve/core/time.h"

namespace varve::store {

/// By the local time zone. Either each so many seconds, counted from midnight of some day long ago, so that 15 minutes mean
/// :00, :15, :30, :45 and 6 hours mean 0:00, 6:00, 12:00, 18:00; or at minutes of chosen weekdays.
struct Timetable {
  std::int64_t every = 0;   ///< seconds; 0: at
  std::vector<int> at;      ///< minutes since midnight, ascending
  std::vector<int> days;    ///< of the week, ascending, 0 Sunday; empty: each
  friend bool operator==(const Timetable&, const Timetable&) = default;
};

/// What became of a run.
struct PolicyRun {
  Time time;
  std::uint64_t taken = 0;
  std::vector<std::string> skipped;  ///< a sentence for each disk of which none was taken; kMaxSkipped at most
  friend bool operator==(const PolicyRun&, const PolicyRun&) = default;
};

inline constexpr std::size_t kMaxSkipped = 20;
inline constexpr std::size_t kMaxDiskPatterns = 100;
inline constexpr std::int64_t kLongestEvery = std::int64_t{366} * 86'400;

struct Policy {
  std::string name;
  std::vector<std::string> disks;  ///< patterns as of a shell: "web*"
  Timetable times;
  std::string pattern;  ///< of the snapshots' names, as strftime(3) has it
  Retention keep;       ///< of the snapshots that this policy took; empty: all
  bool paused = false;
  Time since;  ///< only what is due after it is done
  std::optional<PolicyRun> last;
  friend bool operator==(const Policy&, const Policy&) = default;
};

/// The first instant after `after`.
[[nodiscard]] Time next_time(const Timetable& times, Time after);
/// When the policy is due, which is in the past when it was missed: then once, however often it was.
[[nodiscard]] Time next_run(const Policy& policy, Time time);
[[nodiscard]] bool covers(const Policy& policy, const std::string& disk);
/// EINVAL when it makes no possible name.
[[nodiscard]] Result<std::string> name_at(const Policy& policy, Time time);

/// All of it, times in nanoseconds.
[[nodiscard]] nlohmann::json to_json(const Policy& policy);
/// Of who asks for one (`stored` false: neither "paused", "since" nor "last"), or of the file. EINVAL (refused), with a
/// sentence that names what is wrong; never throws.
[[nodiscard]] Result<Policy> policy_from_json(const nlohmann::json& json, bool stored);

}  // namespace varve::store
