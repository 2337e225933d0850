#include "space_commands.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "request_reading.h"
#include "varve/catalog/names.h"
#include "varve/store/space.h"

namespace varve::store {
namespace {

using nlohmann::json;

/// Waits for the first count: a person asked, and would ask again.
Status count_everything(Store& store, const CommandContext& context) {
  return store.space().catch_up(context.progress, context.stop);
}

/// What "images" of a request names, each once.
Result<std::vector<ImageName>> requested_images(Store& store, const json& request, Wanted wanted) {
  const auto images = request.find("images");
  if (images == request.end()) return std::vector<ImageName>{};
  if (!images->is_array()) return fail_refused(EINVAL, "\"images\" of a request must be a list");
  std::vector<ImageName> all;
  for (const json& one : *images) {
    if (!one.is_object()) return fail_refused(EINVAL, "each of the \"images\" of a request must be an object");
    VARVE_TRY_ASSIGN(auto image, requested_image(store, one, wanted));
    const auto same = [&](const ImageName& other) {
      return other.disk->id() == image.disk->id() && other.snapshot == image.snapshot;
    };
    if (std::ranges::none_of(all, same)) all.push_back(std::move(image));
  }
  return all;
}

json ratio(std::uint64_t of, std::uint64_t to) {
  return to == 0 ? json(nullptr) : json(static_cast<double>(of) / static_cast<double>(to));
}

void add_sums(json& out, const SpaceSums& sums) {
  out["logical"] = sums.logical;
  out["unique"] = sums.unique;
  out["stored"] = sums.stored;
  out["dedup_ratio"] = ratio(sums.logical, sums.unique);
  out["compression_ratio"] = ratio(sums.unique, sums.stored);
}

void add_live(json& out, Store& store, Disk& disk) {
  const auto counters = disk.live().counters();
  const std::uint64_t chunk = store.settings().geometry.chunk_size().value();
  out["home"] = counters.home_chunks * chunk;
  const std::uint64_t without_storage = counters.free_slots - counters.stored_slots;
  out["detour"] = (counters.slots - std::min(counters.slots, without_storage)) * chunk;
}

Result<json> space_of(Store& store, const std::shared_ptr<Disk>& disk, const SnapshotInfo& snapshot) {
  Space& space = store.space();
  VARVE_TRY_ASSIGN(const std::uint64_t logical, space.logical_of(*disk, snapshot.id));
  VARVE_TRY_ASSIGN(const auto freed, space.freed_without({{disk, snapshot.id}}));
  return json{{"name", snapshot.name},
              {"id", snapshot.id.value()},
              {"state", snapshot.state == SnapshotStateKind::complete ? "complete" : "pending"},
              {"time", to_iso8601(snapshot.time)},
              {"size", snapshot.size.value()},
              {"logical", logical},
              {"changed", snapshot.changed_bytes},
              {"added", snapshot.stored_bytes},
              {"freed", freed.stored_bytes},
              {"freed_records", freed.records}};
}

/// Short: one of the many rows of a store. Whole: with its snapshots, and what costs a walk.
enum class Detail { row, whole };

Result<json> space_of(Store& store, const std::shared_ptr<Disk>& disk, Detail detail, const CommandContext& context) {
  Space& space = store.space();
  const auto snapshots = disk->snapshots();
  std::vector<SnapshotName> all;
  std::uint64_t size = 0;
  std::uint64_t added = 0;
  for (const SnapshotInfo& one : snapshots) {
    all.push_back({disk, one.id});
    size += one.size.value();
    added += one.stored_bytes;
  }
  VARVE_TRY_ASSIGN(const auto freed, space.freed_without(all));
  json out{{"disk", disk->name()},         {"snapshots", snapshots.size()}, {"size", size},
           {"added", added},               {"freed", freed.stored_bytes},   {"freed_records", freed.records}};
  add_live(out, store, *disk);
  if (detail == Detail::row) {
    VARVE_TRY_ASSIGN(const std::uint64_t logical, space.logical_of(*disk));
    out["logical"] = logical;
    return out;
  }
  VARVE_TRY_ASSIGN(const SpaceSums sums, space.sums_of(*disk));
  add_sums(out, sums);
  json rows = json::array();
  for (const SnapshotInfo& one : snapshots) {
    if (context.stop()) return fail(ECANCELED, ErrorKind::refused, "stopped");
    auto row = space_of(store, disk, one);
    if (!row && row.error().code == ENOENT) continue;  // deleted meanwhile
    if (!row) return row;
    rows.push_back(*std::move(row));
  }
  out["snapshots"] = std::move(rows);
  return out;
}

Result<json> space_of_store(Store& store, const CommandContext& context) {
  VARVE_TRY_ASSIGN(const SpaceSums sums, store.space().sums());
  auto disks = store.disks();
  std::ranges::sort(disks, {}, [](const auto& disk) { return disk->name(); });
  json rows = json::array();
  std::uint64_t home = 0;
  std::uint64_t detour = 0;
  for (const auto& disk : disks) {
    VARVE_TRY_ASSIGN(json row, space_of(store, disk, Detail::row, context));
    home += row.at("home").get<std::uint64_t>();
    detour += row.at("detour").get<std::uint64_t>();
    rows.push_back(std::move(row));
  }
  json total{{"home", home}, {"detour", detour}, {"waiting", store.space().waiting()}};
  add_sums(total, sums);
  if (const auto capacity = store.capacity()) total["available"] = capacity->available.value();
  return json{{"store", std::move(total)}, {"disks", std::move(rows)}};
}

json name_of(const SnapshotName& one) {
  const auto snapshot = one.disk->snapshot(one.id);
  return json{{"disk", one.disk->name()},
              {"snapshot", snapshot ? snapshot->name : std::string()},
              {"id", one.id.value()},
              {"time", snapshot ? json(to_iso8601(snapshot->time)) : json(nullptr)}};
}

/// One after the other, as rmdir does it. Who is refused does not keep the others.
enum class Trash { use, pass };
json delete_all(Store& store, const std::vector<SnapshotName>& snapshots, Trash trash, const CommandContext& context) {
  json deleted = json::array();
  json failed = json::array();
  for (const SnapshotName& one : snapshots) {
    json name = name_of(one);
    Status done = context.stop() ? Status(fail(ECANCELED, ErrorKind::refused, "stopped before it"))
                                 : store.remove_snapshot(one.disk, one.id);
    // Where there is no trash it is gone already.
    if (done && trash == Trash::pass) done = one.disk->delete_snapshot(one.id);
    if (done || done.error().code == ENOENT) {
      deleted.push_back(std::move(name));
    } else {
      name["error"] = done.error().message;
      failed.push_back(std::move(name));
    }
  }
  return json{{"deleted", std::move(deleted)}, {"failed", std::move(failed)}};
}

json names_of(const std::vector<SnapshotName>& snapshots) {
  json names = json::array();
  for (const SnapshotName& one : snapshots) names.push_back(name_of(one));
  return names;
}

}  // namespace

Result<json> run_du(Store& store, const json& request, const CommandContext& context) {
  VARVE_TRY_ASSIGN(const auto images, requested_images(store, request, Wanted::image));
  VARVE_TRY(count_everything(store, context));
  if (images.empty()) return space_of_store(store, context);
  json disks = json::array();
  json snapshots = json::array();
  std::vector<SnapshotName> together;
  for (const ImageName& image : images) {
    if (image.snapshot == SnapshotId{}) {
      VARVE_TRY_ASSIGN(json disk, space_of(store, image.disk, Detail::whole, context));
      disks.push_back(std::move(disk));
      const auto all = image.disk->snapshots();
      for (const SnapshotInfo& one : all) together.push_back({image.disk, one.id});
    } else {
      VARVE_TRY_ASSIGN(const auto info, image.disk->snapshot(image.snapshot));
      VARVE_TRY_ASSIGN(json row, space_of(store, image.disk, info));
      row["disk"] = image.disk->name();
      snapshots.push_back(std::move(row));
      together.push_back({image.disk, image.snapshot});
    }
  }
  VARVE_TRY_ASSIGN(const auto freed, store.space().freed_without(together));
  return json{{"disks", std::move(disks)},
              {"snapshots", std::move(snapshots)},
              {"freed", freed.stored_bytes},
              {"freed_records", freed.records}};
}

Result<json> run_rm(Store& store, const json& request, const CommandContext& context) {
  VARVE_TRY_ASSIGN(const auto images, requested_images(store, request, Wanted::snapshot));
  if (images.empty()) return fail_refused(EINVAL, "the request lacks \"images\"");
  VARVE_TRY_ASSIGN(const bool dry_run, flag(request, "dry_run"));
  VARVE_TRY(count_everything(store, context));
  std::vector<SnapshotName> snapshots;
  for (const ImageName& image : images) snapshots.push_back({image.disk, image.snapshot});
  VARVE_TRY_ASSIGN(const auto freed, store.space().freed_without(snapshots));
  json out{{"dry_run", dry_run},
           {"trash", store.trash_keep().count() > 0},
           {"freed", freed.stored_bytes},
           {"freed_records", freed.records}};
  if (dry_run) {
    out["deleted"] = names_of(snapshots);
    out["failed"] = json::array();
    return out;
  }
  out.update(delete_all(store, snapshots, Trash::use, context));
  // With those that stayed it is less.
  if (!out.at("failed").empty()) out["freed"] = nullptr;
  return out;
}

Result<json> run_free(Store& store, const json& request, const CommandContext& context) {
  const auto bytes = request.find("bytes");
  if (bytes == request.end() || !bytes->is_number_unsigned()) {
    return fail_refused(EINVAL, "\"bytes\" of a request must be a number");
  }
  VARVE_TRY_ASSIGN(const bool yes, flag(request, "yes"));
  VARVE_TRY_ASSIGN(const auto name, optional_string(request, "disk"));
  std::vector<std::shared_ptr<Disk>> disks = store.disks();
  if (name) {
    VARVE_TRY_ASSIGN(const auto disk, find_disk(store, *name));
    disks = {disk};
  }
  VARVE_TRY(count_everything(store, context));
  VARVE_TRY_ASSIGN(const FreePlan plan, store.space().plan(bytes->get<std::uint64_t>(), disks, context.stop));
  json out{{"wanted", *bytes},
           {"freed", plan.freed.stored_bytes},
           {"freed_records", plan.freed.records},
           {"enough", plan.enough},
           {"proposed", names_of(plan.snapshots)},
           {"done", yes && plan.enough}};
  if (!yes) return out;
  if (!plan.enough) {
    return fail_refused(ENOSPC, fmt::format("deleting all {} snapshots that may be deleted frees {} bytes only; nothing "
                                            "was deleted",
                                            plan.snapshots.size(), plan.freed.stored_bytes));
  }
  out.update(delete_all(store, plan.snapshots, Trash::pass, context));
  return out;
}

}  // namespace varve::store
