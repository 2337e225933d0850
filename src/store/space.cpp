#include "space.h"

#include <fmt/format.h>
#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <map>

#include "disk_entry.h"
#include "services.h"
#include "varve/core/log.h"

namespace varve::store {
namespace {

using chunks::MaybeRef;
using chunks::Ref;
using snapshot::Accounting;
using snapshot::RecordSums;

/// How old the sums in metrics may be.
constexpr std::chrono::milliseconds kFollowInterval{1000};

Accounting::Roots roots_of(DiskEntry& disk) {
  Accounting::Roots roots;
  disk.visit_roots([&](const MaybeRef& root) {
    if (root && !root->damaged()) roots.push_back(*root);
  });
  return roots;
}

void push(Accounting::Roots& roots, const MaybeRef& root) {
  if (root && !root->damaged()) roots.push_back(*root);
}

}  // namespace

CountedSpace::CountedSpace(Services& services, Disks disks)
    : services_(services), disks_(std::move(disks)), accounting_(*services.chunks) {}

CountedSpace::~CountedSpace() { stop(); }

void CountedSpace::start() {
  thread_ = std::thread([this] { run(); });
  pthread_setname_np(thread_.native_handle(), "accounting");
}

void CountedSpace::stop() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
  }
  stop_wanted_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void CountedSpace::run() {
  for (;;) {
    const auto done = catch_up({}, [this] {
      MutexLock lock(mutex_);
      return stopping_;
    });
    if (!done && done.error().code != ECANCELED) {
      // Said once: it stays so.
      log::warning("accounting: {}", done.error().message);
      return;
    }
    MutexLock lock(mutex_);
    if (!stopping_) stop_wanted_.wait_for(mutex_, kFollowInterval);
    if (stopping_) return;
  }
}

unsigned CountedSpace::percent() const {
  const std::uint64_t all = all_roots_;
  return all == 0 ? 0 : static_cast<unsigned>(std::min(counted_roots_.load(), all) * 99 / all);
}

/// Of disks that are not there any more.
std::vector<std::uint64_t> CountedSpace::owners_that_went() {
  std::set<std::uint64_t> there;
  for (const auto& disk : disks_()) there.insert(disk->id().value());
  MutexLock lock(mutex_);
  std::vector<std::uint64_t> gone;
  std::ranges::set_difference(owners_, there, std::back_inserter(gone));
  owners_ = std::move(there);
  return gone;
}

void CountedSpace::let_go() {
  const auto released = [](Status status) {
    if (!status) log::warning("accounting: {}", status.error().message);
  };
  for (const std::uint64_t owner : owners_that_went()) {
    released(accounting_.release(owner, [] { return Accounting::Roots{}; }));
  }
  for (const auto& disk : disks_()) released(accounting_.release(disk->id().value(), [&] { return roots_of(*disk); }));
}

Status CountedSpace::catch_up(const std::function<void(std::uint64_t, std::uint64_t)>& progress,
                       const std::function<bool()>& stop) {
  for (const std::uint64_t owner : owners_that_went()) {
    VARVE_TRY(accounting_.release(owner, [] { return Accounting::Roots{}; }));
  }
  const auto disks = disks_();
  const auto report = [&] {
    std::uint64_t all = 0;
    std::uint64_t counted = 0;
    for (const auto& disk : disks) {
      all += disk->log().state()->snapshots.size();
      counted += accounting_.counted_roots(disk->id().value());
    }
    all_roots_ = all;
    counted_roots_ = std::min(counted, all);
    if (progress) progress(counted_roots_, all);
  };
  for (const auto& disk : disks) {
    for (;;) {
      if (stop && stop()) return fail(ECANCELED, ErrorKind::refused, "counting was stopped");
      const auto more = accounting_.follow(disk->id().value(), [&] { return roots_of(*disk); });
      if (!more) {
        failed_ = true;
        return tl::unexpected(more.error());
      }
      if (!ready_) report();
      if (!*more) break;
    }
  }
  ready_ = true;
  return {};
}

Status CountedSpace::prepare() {
  if (!ready_) {
    return fail(EAGAIN, ErrorKind::refused, fmt::format("accounting: building {} %; ask again later", percent()));
  }
  return catch_up({}, [this] { return services_.stopping.load(); });
}

// --- what goes with snapshots ---

struct CountedSpace::Removed {
  Accounting::Roots before;  ///< that go whatever is asked about: parents whose snapshot was deleted already
  Accounting::Roots roots;
};

CountedSpace::Removed CountedSpace::removed_with(const std::vector<SnapshotName>& snapshots) const {
  Removed removed;
  std::map<DiskId, std::set<SnapshotId>> by_disk;
  for (const SnapshotName& one : snapshots) by_disk[one.disk->id()].insert(one.id);
  const auto disks = disks_();
  for (const auto& disk : disks) {
    const auto asked = by_disk.find(disk->id());
    const auto goes = [&](SnapshotId id) { return asked != by_disk.end() && asked->second.contains(id); };
    // Pending first: one that becomes complete meanwhile is seen twice, never not at all.
    const auto pending = disk->live().pending();
    const auto parent = disk->live().parent();
    const MaybeRef root = chunks::from_opaque(parent.root);
    const auto state = disk->log().state();
    bool is_a_snapshot = false;
    bool stays_one = false;
    for (const auto& [id, entry] : state->snapshots) {
      const bool is_parent = entry->incarnation == parent.incarnation && entry->root == root;
      is_a_snapshot |= is_parent;
      stays_one |= is_parent && !goes(id);
      if (goes(id)) push(removed.roots, entry->root);
    }
    if (parent.root.empty() || stays_one || parent.also_base) continue;
    const auto needs = [&](const disk::PendingInfo& one) { return one.incarnation == parent.incarnation; };
    const bool needed = std::ranges::any_of(pending, needs);
    if (std::ranges::any_of(pending, [&](const auto& one) { return needs(one) && !goes(one.id); })) continue;
    push(is_a_snapshot || needed ? removed.roots : removed.before, root);
  }
  return removed;
}

Result<RecordSums> CountedSpace::freed_by(const std::vector<SnapshotName>& snapshots) {
  const Removed removed = removed_with(snapshots);
  Accounting::Removal removal(accounting_);
  if (!removed.before.empty()) VARVE_TRY(removal.remove(removed.before));
  return removal.remove(removed.roots);
}

Result<RecordSums> CountedSpace::freed_without(const std::vector<SnapshotName>& snapshots) {
  VARVE_TRY(prepare());
  return freed_by(snapshots);
}

// --- sums ---

Result<std::uint64_t> CountedSpace::logical_of(Disk& disk, SnapshotId id) {
  VARVE_TRY(prepare());
  const auto entry = static_cast<DiskEntry&>(disk).complete(id);
  if (!entry) return entry.error().code == EAGAIN ? Result<std::uint64_t>(0) : tl::unexpected(entry.error());
  VARVE_TRY_ASSIGN(const std::uint64_t chunks, accounting_.chunks_in((*entry)->root));
  return chunks * services_.chunks->geometry().chunk_size().value();
}

Result<std::uint64_t> CountedSpace::logical_of(Disk& disk) {
  VARVE_TRY(prepare());
  std::uint64_t chunks = 0;
  const auto state = static_cast<DiskEntry&>(disk).log().state();
  for (const auto& [id, entry] : state->snapshots) {
    VARVE_TRY_ASSIGN(const std::uint64_t more, accounting_.chunks_in(entry->root));
    chunks += more;
  }
  return chunks * services_.chunks->geometry().chunk_size().value();
}

Result<SpaceSums> CountedSpace::sums_of(Disk& disk) {
  SpaceSums sums;
  VARVE_TRY_ASSIGN(sums.logical, logical_of(disk));
  Accounting::Roots roots;
  const auto state = static_cast<DiskEntry&>(disk).log().state();
  for (const auto& [id, entry] : state->snapshots) push(roots, entry->root);
  VARVE_TRY_ASSIGN(const RecordSums reached, accounting_.reached_by(roots));
  sums.unique = reached.chunks * services_.chunks->geometry().chunk_size().value();
  sums.stored = reached.stored_bytes;
  return sums;
}

SpaceSums CountedSpace::live() const {
  const RecordSums live = accounting_.live();
  return {0, live.chunks * services_.chunks->geometry().chunk_size().value(), live.stored_bytes};
}

Result<SpaceSums> CountedSpace::sums() {
  VARVE_TRY(prepare());
  SpaceSums sums = live();
  const auto disks = disks_();
  for (const auto& disk : disks) {
    VARVE_TRY_ASSIGN(const std::uint64_t logical, logical_of(*disk));
    sums.logical += logical;
  }
  return sums;
}

std::uint64_t CountedSpace::waiting() const {
  const std::uint64_t died = accounting_.died_bytes();
  // With what the last collect found and left, which is dead too, whoever left it: aborted commits are not counted here.
  return died - std::min(died, collected_.load()) + services_.collect.waiting_bytes;
}

}  // namespace varve::store
