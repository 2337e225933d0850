// What is checked, image by image, while all of them may change.
//
// Every root is held before it is walked, and looked up once more after it was: what went in between may have been
// collected, and is nobody's damage. A snapshot that completes meanwhile is checked as what it has become.
#include "check.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "varve/catalog/names.h"
#include "varve/chunks/join_packs.h"
#include "varve/snapshot/repair.h"

namespace varve::store {
namespace {

using catalog::quoted;
using chunks::RootRegistry;
using snapshot::CheckPart;
using snapshot::CheckTarget;

constexpr std::size_t kRunsAtATime = 1024;

using VisitPart = std::function<Status(const CheckPart&)>;

/// One of a live image or a pending snapshot. False: its map is not theirs any more.
bool still_needed(DiskEntry& disk, RootRegistry::Hold& hold, std::set<OpaqueRoot>& held, const OpaqueRoot& root) {
  if (held.contains(root)) return true;
  if (!hold.try_hold_root(chunks::from_opaque(root))) return false;
  const auto roots = disk.live().roots();
  if (std::ranges::find(roots, root) == roots.end()) return false;
  held.insert(root);
  return true;
}

class Targets {
 public:
  Targets(const std::vector<std::shared_ptr<DiskEntry>>& disks, RootRegistry::Hold& hold) : hold_(hold) {
    for (const auto& disk : disks) add(disk);
  }
  [[nodiscard]] const std::vector<CheckTarget>& all() const { return targets_; }
  /// Whose image it is.
  [[nodiscard]] DiskEntry& owner(std::size_t target) const { return *owners_[target]; }
  /// Targets that are no image, but what a disk's next snapshot will stand on.
  [[nodiscard]] bool is_foundation(const std::string& target) const { return foundations_.contains(target); }

 private:
  void add(const std::shared_ptr<DiskEntry>& disk) {
    const std::string name = disk->name();
    // Pending first: it goes from there to the log, never back.
    const auto pending = disk->live().pending();
    const auto state = disk->log().state();
    std::set<chunks::MaybeRef> complete;
    for (const auto& [id, entry] : state->snapshots) {
      if (!hold_.try_hold_root(entry->root) || !disk->complete(id)) continue;
      push({name + "@" + entry->name, entry->root, entry->size}, disk);
      complete.insert(entry->root);
    }
    for (const auto& frozen : pending) {
      if (frozen.id <= state->high_water) continue;
      CheckTarget target{name + "@" + frozen.name, {}, {}};
      target.parts = [this, disk, id = frozen.id](const VisitPart& visit) { return visit_pending(*disk, id, visit); };
      push(std::move(target), disk);
    }
    CheckTarget live{name, {}, {}};
    live.parts = [this, disk](const VisitPart& visit) { return visit_live(*disk, visit); };
    push(std::move(live), disk);
    add_foundation(disk, complete);
  }

  void push(CheckTarget target, const std::shared_ptr<DiskEntry>& disk) {
    target.disk = disk->id();
    targets_.push_back(std::move(target));
    owners_.push_back(disk);
  }

  /// P, unless it is the map of a snapshot that is checked anyway: the next snapshot shares from it what is unchanged.
  void add_foundation(const std::shared_ptr<DiskEntry>& disk, const std::set<chunks::MaybeRef>& complete) {
    const OpaqueRoot parent = disk->live().parent_root();
    const auto root = chunks::from_opaque(parent);
    if (!root || complete.contains(root) || !still_needed(*disk, hold_, held_[disk->id()], parent)) return;
    const std::string name =
        fmt::format("disk {}, what its next snapshot shares with a deleted one", quoted(disk->name()));
    push({name, root, disk->live().info().size}, disk);
    foundations_.insert(name);
  }

  Status visit_runs(DiskEntry& disk, const std::vector<disk::CopyRun>& runs, const VisitPart& visit) {
    for (const disk::CopyRun& run : runs) {
      if (run.kind != disk::CopyRun::Kind::shared) continue;
      if (!still_needed(disk, hold_, held_[disk.id()], run.root)) continue;
      VARVE_TRY(visit({chunks::from_opaque(run.root), run.source, run.count, run.first}));
    }
    return {};
  }

  Status visit_live(DiskEntry& disk, const VisitPart& visit) {
    ChunkIndex next;
    for (;;) {
      const auto runs = disk.live().base_runs(next, kRunsAtATime);
      if (runs.empty()) return {};
      VARVE_TRY(visit_runs(disk, runs, visit));
      next = runs.back().first + runs.back().count;
    }
  }

  Status visit_pending(DiskEntry& disk, SnapshotId id, const VisitPart& visit) {
    ChunkIndex next;
    for (;;) {
      const auto runs = disk.live().describe_pending(id, next, ChunkCount{kMaxChunksPerImage}, kRunsAtATime);
      if (!runs) return visit_completed(disk, id, visit);
      if (runs->empty()) return {};
      VARVE_TRY(visit_runs(disk, *runs, visit));
      next = runs->back().first + runs->back().count;
    }
  }

  /// It was pending when the check began; nothing when it was deleted.
  Status visit_completed(DiskEntry& disk, SnapshotId id, const VisitPart& visit) {
    const auto entry = disk.complete(id);
    if (!entry || !hold_.try_hold_root((*entry)->root) || !disk.complete(id)) return {};
    return visit({(*entry)->root, ChunkIndex{0}, ChunkCount{kMaxChunksPerImage}, ChunkIndex{0}});
  }

  RootRegistry::Hold& hold_;
  std::vector<CheckTarget> targets_;
  std::vector<std::shared_ptr<DiskEntry>> owners_;  ///< of each target
  std::set<std::string> foundations_;
  std::map<DiskId, std::set<OpaqueRoot>> held_;
};

Status check_logs(Services& services, std::vector<std::string>& problems) {
  VARVE_TRY_ASSIGN(const auto ids, catalog::DiskLog::list(*services.objects));
  for (const DiskId id : ids) VARVE_TRY(catalog::verify_log(*services.objects, id, problems));
  return {};
}

Status check_packs(Services& services, std::vector<std::string>& problems) {
  VARVE_TRY_ASSIGN(const auto packs, services.chunks->list_packs());
  for (const PackId pack : packs) {
    auto table = services.chunks->pack_table(pack);
    // One that went meanwhile was collected.
    if (!table && table.error().code != ENOENT) problems.push_back(table.error().message);
  }
  VARVE_TRY_ASSIGN(const auto joined, chunks::check_joined_packs(*services.chunks));
  problems.insert(problems.end(), joined.begin(), joined.end());
  return {};
}

/// What of joined files is damaged once is written anew from what is whole.
Status repair_joined_packs(Services& services, snapshot::Repaired& repaired) {
  VARVE_TRY_ASSIGN(const auto before, chunks::check_joined_packs(*services.chunks));
  if (before.empty()) return {};
  VARVE_TRY(chunks::join_packs(*services.chunks, {.enough = SIZE_MAX, .stop = {}, .pace = {}}));
  VARVE_TRY_ASSIGN(const auto after, chunks::check_joined_packs(*services.chunks));
  for (const std::string& problem : before) {
    if (std::ranges::find(after, problem) == after.end()) repaired.repaired.push_back(problem + ": written anew");
  }
  return {};
}

/// What the live image and the pending snapshots of a disk have there that is not in packs: raw bytes, which only their
/// digest can tell.
void offer_live_bytes(Services& services, DiskEntry& disk, ChunkIndex chunk, const snapshot::AcceptBytes& accept) {
  const Geometry geometry = services.chunks->geometry();
  std::vector<std::byte> bytes(geometry.chunk_bytes());
  const ByteOffset at = geometry.start_of(chunk);
  const auto offer = [&](const Result<std::size_t>& got, const std::string& from) {
    if (!got) return false;
    // Behind the end is nothing.
    std::fill(bytes.begin() + static_cast<std::ptrdiff_t>(*got), bytes.end(), std::byte{0});
    return accept(bytes, from);
  };
  const std::string name = disk.name();
  if (disk.live().exists() && offer(disk.live().read(at, bytes), "the live image of " + quoted(name))) return;
  for (const auto& pending : disk.live().pending()) {
    if (offer(disk.live().read_pending(pending.id, at, bytes), fmt::format("{}@{}, which is pending", name, pending.name))) {
      return;
    }
  }
}

}  // namespace

Result<CheckReport> check_store(Services& services, const std::vector<std::shared_ptr<DiskEntry>>& disks,
                                const std::vector<std::string>& damaged,
                                const std::function<void(std::uint64_t, std::uint64_t)>& progress,
                                const std::function<bool()>& stop) {
  CheckReport report;
  report.problems = damaged;
  VARVE_TRY(check_logs(services, report.problems));
  VARVE_TRY(check_packs(services, report.problems));
  RootRegistry::Hold hold(services.registry);
  const Targets targets(disks, hold);
  VARVE_TRY_ASSIGN(report.records, snapshot::check_targets(*services.chunks, targets.all(), progress, stop));
  std::erase_if(report.records.damaged, [&](const snapshot::Damage& damage) {
    if (!targets.is_foundation(damage.target)) return false;
    report.problems.push_back(fmt::format("{}: {}", damage.target, damage.first));
    return true;
  });
  return report;
}

Result<RepairReport> repair_store(Services& services, const std::vector<std::shared_ptr<DiskEntry>>& disks,
                                  const std::vector<std::string>& damaged,
                                  const std::function<void(std::uint64_t, std::uint64_t)>& progress,
                                  const std::function<bool()>& stop) {
  RepairReport report;
  {
    RootRegistry::Hold hold(services.registry);
    const Targets targets(disks, hold);
    const auto offer = [&](std::size_t target, ChunkIndex chunk, const snapshot::AcceptBytes& accept) {
      offer_live_bytes(services, targets.owner(target), chunk, accept);
    };
    VARVE_TRY_ASSIGN(report.repaired,
                     snapshot::repair_targets(*services.chunks, targets.all(), offer, progress, stop));
    VARVE_TRY(repair_joined_packs(services, report.repaired));
  }
  VARVE_TRY_ASSIGN(report.after, check_store(services, disks, damaged, progress, stop));
  return report;
}

}  // namespace varve::store
