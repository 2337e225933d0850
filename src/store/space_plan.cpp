// Which snapshots to delete for so many bytes. The best set cannot be found in reasonable time (what two snapshots free
// together is not the sum of what each frees); this finds a good one, and says exactly what it frees.
#include <algorithm>
#include <limits>

#include "space.h"

namespace varve::store {
namespace {

using snapshot::RecordSums;

/// One that may be deleted, and what it frees besides those that were chosen so far.
struct Candidate {
  SnapshotName name;
  Time time;
  std::size_t place = 0;  ///< among its disk's, oldest first
  RecordSums frees;
  bool known = false;
};

bool may_be_deleted(const SnapshotInfo& snapshot) { return snapshot.state == SnapshotStateKind::complete && !snapshot.care.hold; }

std::vector<Candidate> candidates_of(const std::vector<std::shared_ptr<Disk>>& disks) {
  std::vector<Candidate> all;
  for (const auto& disk : disks) {
    std::size_t place = 0;
    const auto snapshots = disk->snapshots();
    for (const SnapshotInfo& one : snapshots) {
      if (may_be_deleted(one)) all.push_back({{disk, one.id}, one.time, place++, {}, false});
    }
  }
  // Of equals the oldest is met first.
  std::ranges::stable_sort(all, {}, [](const Candidate& one) { return one.time.nanoseconds; });
  return all;
}

/// Whose share of data becomes their own when `gone` goes: its neighbours'. What others share with it they share with a
/// neighbour, too, more often than not.
bool is_neighbour(const Candidate& one, const Candidate& gone) {
  if (one.name.disk->id() != gone.name.disk->id()) return false;
  return one.place < gone.place ? gone.place - one.place <= 2 : one.place - gone.place <= 2;
}

}  // namespace

Result<FreePlan> CountedSpace::plan(std::uint64_t bytes, const std::vector<std::shared_ptr<Disk>>& disks,
                             const std::function<bool()>& stop) {
  VARVE_TRY(prepare());
  FreePlan plan;
  auto candidates = candidates_of(disks);
  const auto stopped = [&] { return stop && stop(); };
  const auto with = [&](const SnapshotName& more) {
    auto all = plan.snapshots;
    all.push_back(more);
    return all;
  };
  while (plan.freed.stored_bytes < bytes && !candidates.empty()) {
    auto best = candidates.end();
    for (auto one = candidates.begin(); one != candidates.end(); ++one) {
      if (stopped()) return fail(ECANCELED, ErrorKind::refused, "looking for snapshots to delete was stopped");
      if (!one->known) {
        VARVE_TRY_ASSIGN(one->frees, freed_by(with(one->name)));
        one->frees.stored_bytes -= std::min(one->frees.stored_bytes, plan.freed.stored_bytes);
        one->known = true;
      }
      if (best == candidates.end() || one->frees.stored_bytes > best->frees.stored_bytes) best = one;
    }
    // Nobody frees anything alone: the oldest, and its neighbours may have something for themselves then.
    const Candidate chosen = *best;
    candidates.erase(best);
    plan.snapshots.push_back(chosen.name);
    VARVE_TRY_ASSIGN(plan.freed, freed_by(plan.snapshots));
    for (Candidate& one : candidates) one.known = one.known && !is_neighbour(one, chosen);
  }
  plan.enough = plan.freed.stored_bytes >= bytes;
  // The last are needed; an early one may have become superfluous, and the newest is worth most.
  for (std::size_t i = 0; plan.enough && i < plan.snapshots.size();) {
    if (stopped()) return fail(ECANCELED, ErrorKind::refused, "looking for snapshots to delete was stopped");
    auto fewer = plan.snapshots;
    fewer.erase(fewer.begin() + static_cast<std::ptrdiff_t>(i));
    VARVE_TRY_ASSIGN(const RecordSums freed, freed_by(fewer));
    if (freed.stored_bytes < bytes) {
      ++i;
      continue;
    }
    plan.snapshots = std::move(fewer);
    plan.freed = freed;
  }
  return plan;
}

}  // namespace varve::store
