#include "care_report.h"

#include <fmt/format.h>

#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>

namespace varve::store {
namespace {

using nlohmann::json;

json or_null(const std::optional<std::uint64_t>& value) { return value ? json(*value) : json(nullptr); }

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\' || c == '"') out.push_back('\\');
    out.push_back(c);
  }
  return out;
}

/// A metric of the store (no label) and of its disks.
class Family {
 public:
  Family(std::string& out, std::string_view name, std::string_view help) : out_(out), name_(name) {
    fmt::format_to(std::back_inserter(out_), "# HELP {0} {1}\n# TYPE {0} gauge\n", name_, help);
  }
  void add(const std::optional<std::uint64_t>& value) {
    if (value) fmt::format_to(std::back_inserter(out_), "{} {}\n", name_, *value);
  }
  void add(std::string_view disk, const std::optional<std::uint64_t>& value) {
    if (value) fmt::format_to(std::back_inserter(out_), "{}{{disk=\"{}\"}} {}\n", name_, escaped(disk), *value);
  }

 private:
  std::string& out_;
  const std::string_view name_;
};

}  // namespace

json describe_limits(const Limits& limits, const Usage& used) {
  return json{{"limits",
               {{"snapshots", or_null(limits.snapshots)},
                {"snapshot_bytes", or_null(limits.snapshot_bytes)},
                {"live_bytes", or_null(limits.live_bytes)}}},
              {"used",
               {{"snapshots", used.snapshots},
                {"snapshot_bytes", used.snapshot_bytes},
                {"live_bytes", used.live_bytes}}}};
}

json describe(const Policy& policy, Time time) {
  json out = to_json(policy);
  out.erase("since");
  const Time next = next_run(policy, time);
  out["next"] = policy.paused || next == Time{INT64_MAX} ? json(nullptr) : json(to_iso8601(next));
  if (policy.last) out["last"]["time"] = to_iso8601(policy.last->time);
  return out;
}

void add_care(json& snapshot, const Care& care) {
  if (care.hold) snapshot["hold"] = *care.hold;
  if (care.deadline) snapshot["deadline"] = to_iso8601(*care.deadline);
  if (!care.policy.empty()) snapshot["policy"] = care.policy;
}

void add_care(json& report, const Store& store) {
  report.update(describe_limits(store.limits(), store.usage()));
  for (json& disk : report["disks"]) {
    const auto found = store.disk(DiskId{disk.value("id", std::uint64_t{0})});
    if (found) disk.update(describe_limits((*found)->limits(), (*found)->usage()));
  }
  const auto trash = store.trash();
  std::uint64_t bytes = 0;
  for (const auto& one : trash) bytes += one.info.size.value();
  json policies = json::array();
  for (const auto& policy : store.policies().all()) policies.push_back(describe(policy, store.time()));
  report["policies"] = std::move(policies);
  report["trash"] = {{"keep_seconds", store.trash_keep().count()}, {"snapshots", trash.size()}, {"bytes", bytes}};
}

void add_care(json& report, const ImageName& image) {
  if (!report.is_object()) return;
  if (image.snapshot != SnapshotId{0}) {
    if (const auto info = image.disk->snapshot(image.snapshot)) add_care(report, info->care);
    return;
  }
  report.update(describe_limits(image.disk->limits(), image.disk->usage()));
}

std::string care_metrics(const Store& store) {
  struct Kind {
    std::string_view name;
    std::string_view what;
    std::optional<std::uint64_t> Limits::*limit;
    std::uint64_t Usage::*used;
  };
  static constexpr Kind kKinds[] = {
      {"snapshots", "Snapshots", &Limits::snapshots, &Usage::snapshots},
      {"snapshot_bytes", "Sizes of all snapshots' images", &Limits::snapshot_bytes, &Usage::snapshot_bytes},
      {"live_bytes", "Sizes of live images", &Limits::live_bytes, &Usage::live_bytes}};
  std::string out;
  const auto disks = store.disks();
  for (const Kind& kind : kKinds) {
    const std::string used_name = fmt::format("varve_used_{}", kind.name);
    Family used(out, used_name, fmt::format("{} that count against the limits; without a label of the store.", kind.what));
    used.add(store.usage().*kind.used);
    for (const auto& disk : disks) used.add(disk->name(), disk->usage().*kind.used);
    const std::string limit_name = fmt::format("varve_limit_{}", kind.name);
    Family limit(out, limit_name, fmt::format("{} allowed, where there is a limit.", kind.what));
    limit.add(store.limits().*kind.limit);
    for (const auto& disk : disks) limit.add(disk->name(), disk->limits().*kind.limit);
  }
  Family(out, "varve_trash_snapshots", "Snapshots in the trash.").add(store.trash().size());
  return out;
}

}  // namespace varve::store
