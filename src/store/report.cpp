#include "report.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <nlohmann/json.hpp>

#include "varve/store/space.h"

namespace varve::store {
namespace {

using nlohmann::json;

std::string_view state_word(SnapshotStateKind state) {
  return state == SnapshotStateKind::pending ? "pending" : "complete";
}

std::string_view opened_word(disk::Opened opened) {
  switch (opened) {
    case disk::Opened::fresh:
      return "fresh";
    case disk::Opened::clean:
      return "clean";
    case disk::Opened::killed:
      return "after a kill";
    case disk::Opened::power_lost:
      return "after a power loss";
  }
  return "unknown";
}

json describe_task(const StartupTask& task, std::string_view what) {
  constexpr std::array<const char*, 4> kWords{"waiting", "running", "done", "failed"};
  return json{{"state", kWords.at(static_cast<std::size_t>(task.state.load()))}, {what, task.looked_at.load()}};
}

json describe_collect(const Services& services) {
  const CollectState& state = services.collect;
  return json{{"running", state.running > 0},
              {"packs_done", state.packs_done.load()},
              {"packs_total", state.packs_total.load()},
              {"deletions_waiting", services.garbage - state.collected},
              {"runs", state.runs.load()},
              {"records_removed", state.records_removed.load()},
              {"bytes_removed", state.bytes_removed.load()},
              {"packs_joined", state.packs_joined.load()},
              {"waiting_records", state.waiting_records.load()},
              {"waiting_bytes", state.waiting_bytes.load()}};
}

json describe_live(Disk& disk) {
  const auto info = disk.live().info();
  if (!info.exists) return nullptr;
  const auto counters = disk.live().counters();
  return json{{"size", info.size.value()},
              {"allocated", info.allocated.value()},
              {"modified", to_iso8601(info.modified)},
              {"incarnation", info.incarnation.value()},
              {"changed", counters.changed_blocks * kBlockSize},
              {"home_chunks", counters.home_chunks},
              {"detour_chunks", counters.detour_chunks},
              {"base_chunks", counters.base_chunks},
              {"unswept_chunks", counters.unswept_chunks},
              {"latched", disk.live().latched()}};
}

json describe_snapshot(const SnapshotInfo& info) {
  return json{{"id", info.id.value()},
              {"name", info.name},
              {"state", state_word(info.state)},
              {"percent", info.percent},
              {"time", to_iso8601(info.time)},
              {"size", info.size.value()},
              {"parent", info.parent == SnapshotId{0} ? json(nullptr) : json(info.parent.value())},
              {"changed", info.changed_bytes},
              {"stored", info.state == SnapshotStateKind::complete ? json(info.stored_bytes) : json(nullptr)}};
}

json describe_disk(Disk& disk) {
  // Not all of them: there may be ten thousand, and most are complete.
  json pending = json::array();
  for (const auto& one : disk.live().pending()) {
    const auto snapshot = disk.snapshot(one.id);
    if (!snapshot || snapshot->state == SnapshotStateKind::complete) continue;
    pending.push_back({{"name", snapshot->name}, {"percent", snapshot->percent}});
  }
  const std::size_t complete = disk.snapshot_count() - std::min(disk.snapshot_count(), pending.size());
  return json{{"id", disk.id().value()},
              {"name", disk.name()},
              {"created", to_iso8601(disk.created())},
              {"opened", opened_word(disk.live().how_opened())},
              {"live", describe_live(disk)},
              {"snapshots", {{"complete", complete}, {"pending", pending}}}};
}

/// One metric of Prometheus' text format: help and type once, then a line a label set.
class Metric {
 public:
  Metric(std::string& out, std::string name, std::string_view type, std::string_view help)
      : out_(out), name_(std::move(name)) {
    fmt::format_to(std::back_inserter(out_), "# HELP {0} {2}\n# TYPE {0} {1}\n", name_, type, help);
  }
  void add(std::uint64_t value) { fmt::format_to(std::back_inserter(out_), "{} {}\n", name_, value); }
  void add(std::string_view disk, std::uint64_t value) {
    fmt::format_to(std::back_inserter(out_), "{}{{disk=\"{}\"}} {}\n", name_, escape(disk), value);
  }

 private:
  /// Backslash, quote and newline; names have no control characters.
  static std::string escape(std::string_view text) {
    std::string escaped;
    for (const char c : text) {
      if (c == '\\' || c == '"') escaped.push_back('\\');
      escaped.push_back(c);
    }
    return escaped;
  }
  std::string& out_;
  const std::string name_;
};

json describe_space(const Store& store) {
  Space& space = store.space();
  if (space.failed()) return json{{"state", "failed"}};
  if (!space.ready()) return json{{"state", "building"}, {"percent", space.percent()}};
  const SpaceSums live = space.live();
  return json{{"state", "ready"},
              {"unique", live.unique},
              {"stored", live.stored},
              {"waiting", space.waiting()},
              {"memory", space.memory_bytes()}};
}

}  // namespace

json report_status(const Store& store, Services& services) {
  const auto& settings = store.settings();
  const auto counters = services.chunks->counters();
  json disks = json::array();
  for (const auto& disk : store.disks()) disks.push_back(describe_disk(*disk));
  json status{{"store",
               {{"id", settings.id},
                {"created", to_iso8601(settings.created)},
                {"chunk_size", settings.geometry.chunk_size().value()},
                {"compression", settings.compression.to_text()}}},
              {"disks", disks},
              {"damaged_disks", store.damaged_disks()},
              {"collect", describe_collect(services)},
              {"background",
               {{"locator", describe_task(services.locator_check, "packs")},
                {"collect", describe_task(services.first_collect, "records")}}},
              {"accounting", describe_space(store)},
              {"cache",
               {{"chunk_bytes", counters.chunk_cache_used},
                {"chunk_hits", counters.chunk_cache_hits},
                {"chunk_misses", counters.chunk_cache_misses},
                {"node_bytes", counters.node_cache_used}}},
              {"records_loaded", counters.records_loaded},
              {"damaged_loads", counters.damaged_loads}};
  if (const auto capacity = store.capacity()) {
    status["capacity"] = {{"total", capacity->total.value()},
                          {"free", capacity->free.value()},
                          {"available", capacity->available.value()}};
  }
  return status;
}

std::string report_metrics(const Store& store, Services& services) {
  std::string out;
  const auto disks = store.disks();
  const auto counters = services.chunks->counters();
  const auto per_disk = [&](std::string name, std::string_view help, auto value) {
    Metric metric(out, std::move(name), "gauge", help);
    for (const auto& disk : disks) metric.add(disk->name(), value(*disk));
  };
  per_disk("varve_live_size_bytes", "Size of the live image.",
           [](Disk& disk) { return disk.live().info().size.value(); });
  per_disk("varve_live_allocated_bytes", "Bytes of the live image held locally.",
           [](Disk& disk) { return disk.live().info().allocated.value(); });
  per_disk("varve_live_changed_bytes", "Bytes changed since the newest snapshot.",
           [](Disk& disk) { return disk.live().counters().changed_blocks * kBlockSize; });
  per_disk("varve_home_chunks", "Chunks of the live image at home.",
           [](Disk& disk) { return disk.live().counters().home_chunks; });
  per_disk("varve_detour_chunks", "Chunks of the live image that wait to move home.",
           [](Disk& disk) { return disk.live().counters().detour_chunks; });
  per_disk("varve_journal_bytes", "Size of the live image's journal.",
           [](Disk& disk) { return disk.live().counters().journal_bytes; });
  per_disk("varve_latched", "1 when a failed sync made the disk refuse until it is opened again.",
           [](Disk& disk) { return disk.live().latched() ? std::uint64_t{1} : std::uint64_t{0}; });
  per_disk("varve_snapshots", "Snapshots, pending ones included.",
           [](Disk& disk) { return std::uint64_t{disk.snapshot_count()}; });
  per_disk("varve_snapshots_pending", "Snapshots whose data is not in packs yet.",
           [](Disk& disk) { return std::uint64_t{disk.live().pending_count()}; });
  Metric(out, "varve_chunk_cache_bytes", "gauge", "Bytes in the chunk cache.").add(counters.chunk_cache_used);
  Metric(out, "varve_chunk_cache_hits_total", "counter", "Chunks found in the cache.").add(counters.chunk_cache_hits);
  Metric(out, "varve_chunk_cache_misses_total", "counter", "Chunks that had to be loaded.")
      .add(counters.chunk_cache_misses);
  Metric(out, "varve_records_loaded_total", "counter", "Records loaded from packs.").add(counters.records_loaded);
  Metric(out, "varve_loaded_bytes_total", "counter", "Bytes loaded from packs.").add(counters.bytes_loaded);
  Metric(out, "varve_damaged_loads_total", "counter", "Loads that failed their check.").add(counters.damaged_loads);
  if (store.space().ready() && !store.space().failed()) {
    const SpaceSums live = store.space().live();
    Metric(out, "varve_unique_bytes", "gauge", "Distinct chunks that are kept, as they are read.").add(live.unique);
    Metric(out, "varve_stored_bytes", "gauge", "Records that are kept, as they are stored.").add(live.stored);
    Metric(out, "varve_waiting_bytes", "gauge", "Records that nothing needs any more, until collect has them.")
        .add(store.space().waiting());
  }
  const CollectState& collect = services.collect;
  Metric(out, "varve_collect_running", "gauge", "1 while space of deleted snapshots is being given back.")
      .add(collect.running > 0 ? 1 : 0);
  Metric(out, "varve_collect_deletions_waiting", "gauge", "Deletions whose space was not looked for yet.")
      .add(services.garbage - collect.collected);
  Metric(out, "varve_collect_waiting_bytes", "gauge", "Bytes of dead records that are not worth a pack's rewriting yet.")
      .add(collect.waiting_bytes);
  Metric(out, "varve_collect_runs_total", "counter", "Collections since the mount.").add(collect.runs);
  Metric(out, "varve_collect_removed_records_total", "counter", "Records removed.").add(collect.records_removed);
  Metric(out, "varve_collect_removed_bytes_total", "counter", "Bytes given back.").add(collect.bytes_removed);
  Metric(out, "varve_collect_joined_packs_total", "counter", "Small packs that share a file since.").add(collect.packs_joined);
  if (const auto capacity = store.capacity()) {
    Metric(out, "varve_store_total_bytes", "gauge", "Size of the store's filesystem.").add(capacity->total.value());
    Metric(out, "varve_store_available_bytes", "gauge", "Free bytes there.").add(capacity->available.value());
  }
  return out;
}

json report_image(const ImageName& image) {
  if (image.snapshot == SnapshotId{0}) {
    json report = describe_disk(*image.disk);
    json snapshots = json::array();
    for (const auto& snapshot : image.disk->snapshots()) snapshots.push_back(describe_snapshot(snapshot));
    report["snapshots"] = std::move(snapshots);
    return report;
  }
  const auto info = image.disk->snapshot(image.snapshot);
  if (!info) return nullptr;
  json report = describe_snapshot(*info);
  report["disk"] = image.disk->name();
  if (info->parent != SnapshotId{0}) {
    const auto parent = image.disk->snapshot(info->parent);
    report["parent_name"] = parent ? json(parent->name) : json(nullptr);
  }
  return report;
}

}  // namespace varve::store
