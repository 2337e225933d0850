#include "care_commands.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "care_report.h"
#include "request_reading.h"
#include "retention.h"
#include "varve/catalog/names.h"

namespace varve::store {
namespace {

using catalog::quoted;
using nlohmann::json;

/// The limits that a request sets, on top of those there are.
Result<Limits> changed_limits(Limits limits, const json& set) {
  if (!set.is_object()) return fail_refused(EINVAL, "\"set\" of a request must be an object");
  for (const auto& [key, value] : set.items()) {
    std::optional<std::uint64_t>* limit = key == "snapshots"        ? &limits.snapshots
                                          : key == "snapshot_bytes" ? &limits.snapshot_bytes
                                          : key == "live_bytes"     ? &limits.live_bytes
                                                                    : nullptr;
    if (limit == nullptr) return fail_refused(EINVAL, fmt::format("there is no limit {}", quoted(key)));
    if (!value.is_null() && !value.is_number_unsigned()) {
      return fail_refused(EINVAL, fmt::format("the limit \"{}\" must be a number or null", key));
    }
    *limit = value.is_null() ? std::nullopt : std::optional(value.get<std::uint64_t>());
  }
  return limits;
}

/// The trash, or what in it is of one disk by the name it had.
std::vector<TrashedSnapshot> trash_of(Store& store, const std::optional<std::string>& disk) {
  auto trash = store.trash();
  if (disk) std::erase_if(trash, [&](const TrashedSnapshot& one) { return one.disk_name != *disk; });
  return trash;
}

json summary_of(const TrashedSnapshot& one) {
  json out{{"disk", one.disk_name},
           {"disk_removed", one.disk_removed},
           {"name", one.info.name},
           {"id", one.info.id.value()},
           {"time", to_iso8601(one.info.time)},
           {"size", one.info.size.value()},
           {"deleted", to_iso8601(one.info.care.trashed->since)},
           {"until", to_iso8601(one.info.care.trashed->until)}};
  add_care(out, one.info.care);
  return out;
}

bool is_called(const TrashedSnapshot& one, const std::string& text) {
  return text.size() == one.disk_name.size() + 1 + one.info.name.size() && text.starts_with(one.disk_name) &&
         text[one.disk_name.size()] == '@' && text.ends_with(one.info.name);
}

/// Of several that had the name, the one that was deleted last.
Result<TrashedSnapshot> requested_trash(Store& store, const json& request) {
  VARVE_TRY_ASSIGN(const auto image, optional_string(request, "image"));
  VARVE_TRY_ASSIGN(const auto disk, optional_string(request, "disk"));
  VARVE_TRY_ASSIGN(const auto snapshot, optional_string(request, "snapshot"));
  if (!image && (!disk || !snapshot)) {
    return fail_refused(EINVAL, "say which snapshot is to come back: DISK@SNAPSHOT");
  }
  const auto trash = store.trash();
  const auto found = std::find_if(trash.rbegin(), trash.rend(), [&](const TrashedSnapshot& one) {
    return image ? is_called(one, *image) : one.disk_name == *disk && one.info.name == *snapshot;
  });
  if (found != trash.rend()) return *found;
  return fail(ENOENT, ErrorKind::absent, fmt::format("{} is not in the trash; `varve list --trash` shows what is",
                                                     quoted(image ? *image : *disk + "@" + *snapshot)));
}

}  // namespace

Result<json> run_limit(Store& store, const json& request, const CommandContext&) {
  VARVE_TRY_ASSIGN(const auto name, optional_string(request, "disk"));
  std::shared_ptr<Disk> disk;
  if (name) {
    VARVE_TRY_ASSIGN(disk, find_disk(store, *name));
  }
  if (const auto set = request.find("set"); set != request.end()) {
    VARVE_TRY_ASSIGN(const auto limits, changed_limits(disk ? disk->limits() : store.limits(), *set));
    VARVE_TRY(disk ? disk->set_limits(limits) : store.set_limits(limits));
  }
  json out = disk ? describe_limits(disk->limits(), disk->usage()) : describe_limits(store.limits(), store.usage());
  if (disk) out["disk"] = disk->name();
  return out;
}

Result<json> list_trash(Store& store, const json& request, const CommandContext&) {
  VARVE_TRY_ASSIGN(const auto disk, optional_string(request, "disk"));
  json trash = json::array();
  for (const auto& one : trash_of(store, disk)) trash.push_back(summary_of(one));
  return json{{"trash", std::move(trash)}};
}

Result<json> run_trash(Store& store, const json& request, const CommandContext&) {
  if (const auto keep = request.find("keep"); keep != request.end()) {
    if (!keep->is_number_unsigned() || keep->get<std::uint64_t>() > INT64_MAX) {
      return fail_refused(EINVAL, "\"keep\" of a request must be a number of seconds");
    }
    VARVE_TRY(store.set_trash_keep(std::chrono::seconds{keep->get<std::int64_t>()}));
  }
  VARVE_TRY_ASSIGN(const bool empty, flag(request, "empty"));
  std::size_t emptied = 0;
  if (empty) {
    VARVE_TRY_ASSIGN(emptied, store.empty_trash());
  }
  const auto trash = store.trash();
  std::uint64_t bytes = 0;
  for (const auto& one : trash) bytes += one.info.size.value();
  json out{{"keep_seconds", store.trash_keep().count()}, {"snapshots", trash.size()}, {"bytes", bytes}};
  if (empty) out["emptied"] = emptied;
  return out;
}

Result<json> run_undelete(Store& store, const json& request, const CommandContext&) {
  VARVE_TRY_ASSIGN(const auto which, requested_trash(store, request));
  VARVE_TRY_ASSIGN(const auto as, optional_string(request, "as"));
  const std::string name = as ? *as : which.info.name;
  auto undeleted = store.undelete(which, name);
  if (!undeleted) {
    if (undeleted.error().code != EEXIST || as || which.disk_removed) return tl::unexpected(undeleted.error());
    return fail_refused(EEXIST, fmt::format("disk {} has another snapshot {} now; say how this one is to be called: --as NAME",
                                            quoted(which.disk_name), quoted(name)));
  }
  return json{{"disk", which.disk->name()}, {"name", name}, {"size", which.info.size.value()}};
}

Result<json> run_prune(Store& store, const json& request, const CommandContext& context) {
  VARVE_TRY_ASSIGN(const auto name, required_string(request, "disk"));
  VARVE_TRY_ASSIGN(const auto disk, find_disk(store, name));
  const auto keep = request.find("keep");
  if (keep == request.end()) return fail_refused(EINVAL, "the request lacks \"keep\"");
  VARVE_TRY_ASSIGN(const Retention retention, retention_from_json(*keep));
  if (retention.empty()) {
    return fail_refused(EINVAL, "nothing is said about what to keep, so nothing is deleted; say --keep-last 7, for example");
  }
  VARVE_TRY_ASSIGN(const bool dry_run, flag(request, "dry_run"));
  json kept = json::array();
  json removed = json::array();
  json failed = json::array();
  for (const Judged& one : judge(disk->snapshots(), retention, now())) {
    json entry{{"name", one.snapshot.name}, {"id", one.snapshot.id.value()}, {"time", to_iso8601(one.snapshot.time)}};
    if (!one.reasons.empty()) {
      entry["reasons"] = one.reasons;
      kept.push_back(std::move(entry));
      continue;
    }
    if (context.stop()) return fail_refused(ECANCELED, "stopped; some snapshots may have been deleted already");
    // One that somebody else deleted meanwhile is as it should be; one that is open or held since does not end the rest.
    const Status done = dry_run ? Status{} : store.remove_snapshot(disk, one.snapshot.id);
    const bool gone = done || done.error().code == ENOENT;
    if (!gone) entry["error"] = done.error().message;
    (gone ? removed : failed).push_back(std::move(entry));
  }
  return json{{"disk", disk->name()}, {"dry_run", dry_run}, {"kept", kept}, {"removed", removed}, {"failed", failed}};
}

}  // namespace varve::store
