#include "instant.h"

#include <fmt/format.h>

#include <thread>

#include "varve/catalog/names.h"
#include "varve/core/log.h"

namespace varve::store {
namespace {

using catalog::quoted;
using Entry = std::shared_ptr<const catalog::SnapshotEntry>;

constexpr std::chrono::minutes kCompletionWait{10};
constexpr std::chrono::milliseconds kPollInterval{5};
/// Names of temporary snapshots that crashes left may be in use.
constexpr int kMostNames = 100;

}  // namespace

Result<Entry> wait_complete(const InstantHooks& hooks, DiskEntry& disk, SnapshotId snapshot,
                            const std::function<bool()>& stop) {
  const auto deadline = std::chrono::steady_clock::now() + kCompletionWait;
  for (;;) {
    auto entry = disk.complete(snapshot);
    if (entry || entry.error().code != EAGAIN) return entry;
    if (hooks.services.stopping || (stop && stop())) return fail(ECANCELED, ErrorKind::refused, "interrupted");
    if (std::chrono::steady_clock::now() > deadline) return entry;
    VARVE_TRY(hooks.help_commit(disk));
    std::this_thread::sleep_for(kPollInterval);
  }
}

Result<TemporarySnapshot> TemporarySnapshot::take(const InstantHooks& hooks, DiskEntry& disk,
                                                  std::string_view purpose) {
  for (int attempt = 1;; ++attempt) {
    const auto name = fmt::format("{}-{}-{}", purpose, now().nanoseconds / 1'000'000'000, attempt);
    auto taken = disk.take(name, disk.directory_attributes(), {}, DiskEntry::Limited::no);
    if (!taken && taken.error().code == EEXIST && attempt < kMostNames) continue;
    if (!taken) return tl::unexpected(std::move(taken).error());
    hooks.observe([&](Observer& observer) { observer.snapshot_appeared(disk.id(), taken->id, taken->name); });
    return TemporarySnapshot(hooks, disk, taken->id);
  }
}

TemporarySnapshot::TemporarySnapshot(TemporarySnapshot&& other) noexcept
    : hooks_(other.hooks_), disk_(std::exchange(other.disk_, nullptr)), id_(other.id_) {}

TemporarySnapshot::~TemporarySnapshot() {
  if (disk_ == nullptr) return;
  const auto info = disk_->snapshot(id_);
  if (auto removed = disk_->delete_snapshot(id_); !removed && removed.error().code != ENOENT) {
    log::warning("a snapshot of {} that was taken for a moment stays: {}", quoted(disk_->name()),
                 removed.error().message);
  } else if (info) {
    hooks_->observe([&](Observer& observer) { observer.snapshot_gone(disk_->id(), id_, info->name); });
  }
}

Result<Entry> hold_complete(const InstantHooks& hooks, DiskEntry& disk, SnapshotId snapshot,
                            chunks::RootRegistry::Hold& hold, const std::function<bool()>& stop) {
  VARVE_TRY_ASSIGN(const auto waited, wait_complete(hooks, disk, snapshot, stop));
  // Hold first, then look again: a snapshot that was deleted in between may have been collected.
  if (!hold.try_hold_root(waited->root)) {
    return fail(ENOENT, ErrorKind::absent, fmt::format("snapshot {} was deleted meanwhile", quoted(waited->name)));
  }
  return disk.complete(snapshot);
}

}  // namespace varve::store
