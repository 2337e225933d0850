#include <algorithm>

#include "open_store.h"
#include "varve/catalog/names.h"
#include "varve/core/log.h"

namespace varve::store {
namespace {

using catalog::quoted;

/// Below so much free space the trash is emptied.
constexpr ByteCount kMostTrashReserve{10 * kGiB};
ByteCount trash_reserve(ByteCount total) {
  return std::min(ByteCount{total.value() / 20}, kMostTrashReserve);
}

bool is_in_trash(const SnapshotInfo& info) {
  return info.care.trashed.has_value();
}

}  // namespace

// --- limits and the trash ---

Status OpenStore::store_settings(const Limits& limits, std::chrono::seconds keep) {
  return services_.reserve->spend([&] {
    return write_settings(*services_.storage, {settings_, root_attributes(), limits, keep});
  });
}

Status OpenStore::set_limits(const Limits& limits) {
  MutexLock operations(disk_operations_);
  VARVE_TRY(store_settings(limits, trash_keep()));
  services_.quota->set_limits(limits);
  return {};
}

std::chrono::seconds OpenStore::trash_keep() const {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::nanoseconds{services_.trash_keep});
}

Status OpenStore::set_trash_keep(std::chrono::seconds keep) {
  if (keep.count() < 0 || static_cast<std::uint64_t>(keep.count()) > kMaxTrashKeep) {
    return fail_refused(EINVAL,
                        fmt::format("the trash can keep snapshots for {} days at most", kMaxTrashKeep / 86'400));
  }
  MutexLock operations(disk_operations_);
  VARVE_TRY(store_settings(limits(), keep));
  services_.trash_keep = std::chrono::nanoseconds(keep).count();
  return {};
}

std::vector<TrashedSnapshot> OpenStore::trash() const {
  std::vector<TrashedSnapshot> all;
  for (const auto& disk : entries()) {
    for (auto& info : disk->trash()) all.push_back({disk, disk->name(), disk->hidden(), std::move(info)});
  }
  std::ranges::stable_sort(all, {}, [](const TrashedSnapshot& one) { return one.info.care.trashed->since; });
  return all;
}

Status OpenStore::undelete(const TrashedSnapshot& which, const std::string& as) {
  const auto disk = std::static_pointer_cast<DiskEntry>(which.disk);
  if (!disk->hidden()) {
    VARVE_TRY(disk->undelete_snapshot(which.info.id, as));
  } else {
    VARVE_TRY(show_again(disk, as, which.info.id));
    observe([&](Observer& observer) { observer.disk_appeared(disk->id(), disk->name()); });
  }
  observe([&](Observer& observer) { observer.snapshot_appeared(disk->id(), which.info.id, as); });
  return {};
}

/// The disk comes back for its snapshot, and goes again if that cannot come.
Status OpenStore::show_again(const std::shared_ptr<DiskEntry>& disk, const std::string& snapshot, SnapshotId id) {
  MutexLock operations(disk_operations_);
  auto reserved = reserve(disk->name());
  if (!reserved) {
    return fail_refused(reserved.error().code,
                        fmt::format("the disk {} of this snapshot was removed, and there is another "
                                    "of that name now; rename that one first",
                                    quoted(disk->name())));
  }
  VARVE_TRY(disk->set_hidden(false));
  if (auto undeleted = disk->undelete_snapshot(id, snapshot); !undeleted) {
    if (auto hidden = disk->set_hidden(true); hidden) return undeleted;
    log::warning("the disk {} came back from the trash without a snapshot", quoted(disk->name()));
    MutexLock lock(table_mutex_);
    names_.emplace(disk->name(), disk->id());
    return undeleted;
  }
  MutexLock lock(table_mutex_);
  names_.emplace(disk->name(), disk->id());
  root_modified_ = now();
  return {};
}

Result<std::size_t> OpenStore::empty_trash() {
  std::size_t count = 0;
  for (const TrashedSnapshot& one : trash()) {
    const auto deleted = static_cast<DiskEntry&>(*one.disk).delete_while(one.info.id, is_in_trash);
    if (deleted) ++count;
    // What went, or came back, meanwhile is not in the trash.
    if (!deleted && deleted.error().code != ENOENT && deleted.error().code != ECANCELED) {
      return tl::unexpected(deleted.error());
    }
  }
  remove_hidden_disks();
  return count;
}

Status OpenStore::remove_snapshot(const std::shared_ptr<Disk>& disk, SnapshotId id) {
  VARVE_TRY_ASSIGN(const SnapshotInfo info, disk->snapshot(id));
  VARVE_TRY(disk->remove_snapshot(id));
  observe([&](Observer& observer) { observer.snapshot_gone(disk->id(), id, info.name); });
  return {};
}

/// Nothing is left of them, not even in the trash.
void OpenStore::remove_hidden_disks() {
  MutexLock operations(disk_operations_);
  for (const auto& disk : entries()) {
    if (!disk->hidden() || !disk->trash().empty()) continue;
    if (auto removed = disk->remove(); !removed) {
      log::warning("what is left of disk {} stays: {}", quoted(disk->name()), removed.error().message);
      continue;
    }
    MutexLock lock(table_mutex_);
    disks_.erase(disk->id());
  }
}

/// One at a time, the oldest first: what it held comes back only when it is collected.
void OpenStore::make_space_from_trash() {
  const auto there = capacity();
  if (!there || there->available >= trash_reserve(there->total)) return;
  for (const TrashedSnapshot& one : trash()) {
    if (!static_cast<DiskEntry&>(*one.disk).delete_while(one.info.id, is_in_trash)) continue;
    log::info("snapshot {} of {} was deleted from the trash: the store is nearly full", quoted(one.info.name),
              quoted(one.disk_name));
    return;
  }
}

}  // namespace varve::store
