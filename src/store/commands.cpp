#include "varve/store/commands.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "care_commands.h"
#include "care_report.h"
#include "request_reading.h"
#include "space_commands.h"
#include "varve/catalog/names.h"

namespace varve::store {
namespace {

using nlohmann::json;

json summary_of(Disk& disk) {
  json out{{"name", disk.name()}, {"id", disk.id().value()}, {"created", to_iso8601(disk.created())}};
  const auto image = disk.live().info();
  if (image.exists) {
    out["size"] = image.size.value();
    out["allocated"] = image.allocated.value();
    out["modified"] = to_iso8601(image.modified);
  }
  out["has_image"] = image.exists;
  const auto snapshots = disk.snapshots();
  out["snapshots"] = snapshots.size();
  if (!snapshots.empty()) out["newest_snapshot"] = snapshots.back().name;
  return out;
}

json summary_of(const SnapshotInfo& snapshot) {
  json out{{"name", snapshot.name},
           {"id", snapshot.id.value()},
           {"state", snapshot.state == SnapshotStateKind::complete ? "complete" : "pending"},
           {"percent", snapshot.percent},
           {"time", to_iso8601(snapshot.time)},
           {"size", snapshot.size.value()},
           {"changed", snapshot.changed_bytes}};
  if (snapshot.state == SnapshotStateKind::complete) out["stored"] = snapshot.stored_bytes;
  add_care(out, snapshot.care);
  return out;
}

Result<json> run_list(Store& store, const json& request, const CommandContext& context) {
  VARVE_TRY_ASSIGN(const bool trash, flag(request, "trash"));
  if (trash) return list_trash(store, request, context);
  VARVE_TRY_ASSIGN(const auto name, optional_string(request, "disk"));
  if (name) {
    VARVE_TRY_ASSIGN(const auto disk, find_disk(store, *name));
    json snapshots = json::array();
    for (const auto& snapshot : disk->snapshots()) snapshots.push_back(summary_of(snapshot));
    return json{{"disk", disk->name()}, {"snapshots", std::move(snapshots)}};
  }
  auto disks = store.disks();
  std::sort(disks.begin(), disks.end(), [](const auto& a, const auto& b) { return a->name() < b->name(); });
  json out = json::array();
  for (const auto& disk : disks) out.push_back(summary_of(*disk));
  return json{{"disks", std::move(out)}, {"damaged", store.damaged_disks()}};
}

Result<json> run_info(Store& store, const json& request, const CommandContext&) {
  VARVE_TRY_ASSIGN(const auto image, requested_image(store, request, Wanted::image));
  return store.describe(image);
}

Result<json> run_restore(Store& store, const json& request, const CommandContext&) {
  VARVE_TRY_ASSIGN(const auto image, requested_image(store, request, Wanted::snapshot));
  VARVE_TRY_ASSIGN(const auto to_name, optional_string(request, "to"));
  auto to = image.disk;
  if (to_name) {
    auto found = store.find_disk(*to_name);
    if (!found && found.error().code == ENOENT) {
      return fail(ENOENT, ErrorKind::absent,
                  fmt::format("there is no disk {} to restore to; `varve clone` makes a new one",
                              catalog::quoted(*to_name)));
    }
    VARVE_TRY_ASSIGN(to, std::move(found));
  }
  VARVE_TRY_ASSIGN(const auto snapshot, image.disk->snapshot(image.snapshot));
  VARVE_TRY(store.restore(image.disk, image.snapshot, to));
  return json{{"disk", to->name()},
              {"from", json{{"disk", image.disk->name()}, {"snapshot", snapshot.name}}},
              {"size", snapshot.size.value()}};
}

Result<json> run_clone(Store& store, const json& request, const CommandContext& context) {
  VARVE_TRY_ASSIGN(const auto image, requested_image(store, request, Wanted::image));
  VARVE_TRY_ASSIGN(const auto name, required_string(request, "name"));
  VARVE_TRY(catalog::validate_name(name, catalog::NameKind::disk));
  Attributes directory = image.disk->directory_attributes();
  directory.owner = context.user;
  directory.group = context.group;
  directory.xattrs.clear();
  json from{{"disk", image.disk->name()}};
  if (image.snapshot != SnapshotId{}) {
    VARVE_TRY_ASSIGN(const auto snapshot, image.disk->snapshot(image.snapshot));
    from["snapshot"] = snapshot.name;
  }
  VARVE_TRY_ASSIGN(const auto made, store.clone(image, name, directory));
  return json{{"disk", made->name()}, {"from", std::move(from)}, {"size", made->live().info().size.value()}};
}

/// Extents in one part of the answer.
constexpr std::size_t kExtentsAtATime = 1024;

Result<ImageName> image_of_request(Store& store, const json& request, const char* key) {
  const auto found = request.find(key);
  if (found == request.end() || !found->is_object()) {
    return fail_refused(EINVAL, fmt::format("\"{}\" of a request must be an object that names an image", key));
  }
  return requested_image(store, *found, Wanted::image);
}

json name_of(const ImageName& image, ByteCount size) {
  json out{{"disk", image.disk->name()}, {"size", size.value()}};
  if (image.snapshot == SnapshotId{}) return out;
  // One that was deleted meanwhile was compared all the same.
  if (const auto info = image.disk->snapshot(image.snapshot)) out["snapshot"] = info->name;
  return out;
}

Result<json> run_diff(Store& store, const json& request, const CommandContext& context) {
  VARVE_TRY_ASSIGN(const auto a, image_of_request(store, request, "a"));
  VARVE_TRY_ASSIGN(const auto b, image_of_request(store, request, "b"));
  json extents = json::array();
  std::uint64_t count = 0;
  std::uint64_t bytes = 0;
  const auto send = [&]() -> Status {
    if (extents.empty()) return {};
    json part{{"extents", std::move(extents)}};
    extents = json::array();
    return context.part(part);
  };
  const auto visit = [&](const snapshot::Extent& extent) -> Status {
    ++count;
    bytes += extent.count.value();
    extents.push_back(json::array({extent.at.value(), extent.count.value()}));
    return extents.size() < kExtentsAtATime ? Status{} : send();
  };
  VARVE_TRY_ASSIGN(const auto sizes, store.diff(a, b, visit, context.progress, context.stop));
  VARVE_TRY(send());
  return json{{"a", name_of(a, sizes.a)}, {"b", name_of(b, sizes.b)}, {"extents", count}, {"bytes", bytes}};
}

json result_of(const CheckReport& report) {
  json damaged = json::array();
  for (const auto& damage : report.records.damaged) {
    damaged.push_back(json{{"image", damage.target}, {"chunks", damage.chunks}, {"first", damage.first}});
  }
  return json{{"clean", report.clean()},
              {"records", report.records.records},
              {"bytes", report.records.bytes},
              {"damaged", std::move(damaged)},
              {"problems", report.problems}};
}

Result<json> run_check(Store& store, const json& request, const CommandContext& context) {
  VARVE_TRY_ASSIGN(const bool repair, flag(request, "repair"));
  if (!repair) {
    VARVE_TRY_ASSIGN(const auto report, store.check(context.progress, context.stop));
    return result_of(report);
  }
  VARVE_TRY_ASSIGN(const auto report, store.repair(context.progress, context.stop));
  json out = result_of(report.after);
  out["repair"] = json{{"packs", report.repaired.packs},
                       {"records", report.repaired.records},
                       {"lost", report.repaired.lost},
                       {"repaired", report.repaired.repaired},
                       {"failed", report.repaired.failed}};
  return out;
}

Result<json> run_collect(Store& store, const json&, const CommandContext& context) {
  VARVE_TRY_ASSIGN(const auto collected, store.collect(context.stop, context.progress));
  return json{{"live_records", collected.live_records},
              {"packs_seen", collected.packs_seen},
              {"packs_removed", collected.packs_removed},
              {"packs_rewritten", collected.packs_rewritten},
              {"packs_punched", collected.packs_punched},
              {"packs_joined", collected.packs_joined},
              {"records_removed", collected.records_removed},
              {"record_bytes", collected.record_bytes},
              {"bytes_removed", collected.bytes_removed},
              {"bytes_written", collected.bytes_written},
              {"waiting_records", collected.waiting_records},
              {"waiting_bytes", collected.waiting_bytes}};
}

Result<json> run_status(Store& store, const json&, const CommandContext&) { return store.status(); }

struct Command {
  std::string_view name;
  Result<json> (*run)(Store&, const json&, const CommandContext&);
};

constexpr std::array kCommands{
    Command{"status", run_status}, Command{"list", run_list},   Command{"info", run_info},
    Command{"restore", run_restore}, Command{"clone", run_clone}, Command{"diff", run_diff},
    Command{"check", run_check},     Command{"collect", run_collect}, Command{"du", run_du},
    Command{"rm", run_rm},           Command{"free", run_free},
    Command{"limit", run_limit}, Command{"trash", run_trash},
    Command{"undelete", run_undelete}, Command{"prune", run_prune},
    Command{"policy", run_policy_command},
};

}  // namespace

Result<json> run_command(Store& store, const json& request, const CommandContext& context) {
  if (!request.is_object()) return fail_refused(EINVAL, "a request must be one JSON object");
  VARVE_TRY_ASSIGN(const auto name, required_string(request, "command"));
  for (const auto& command : kCommands) {
    if (command.name == name) return command.run(store, request, context);
  }
  return fail_refused(EINVAL, fmt::format("there is no command {}", catalog::quoted(name)));
}

}  // namespace varve::store
