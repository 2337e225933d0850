// Deleting with care: limits, holds, deadlines, and the trash of a disk.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "attributes.h"
#include "disk_entry.h"
#include "varve/catalog/names.h"
#include "varve/core/log.h"

namespace varve::store {
namespace {

using catalog::quoted;

/// Before what could not be deleted, because its image is open or the store fails, is tried again.
constexpr std::int64_t kRetry = std::int64_t{60} * 1'000'000'000;

bool for_want_of_space(const Error& error) { return error.code == ENOSPC || error.code == EDQUOT; }

/// When a snapshot goes by itself, as things are.
Time end_of(const SnapshotInfo& info) {
  Time end = kNever;
  if (info.care.deadline && !info.care.hold) end = *info.care.deadline;
  if (info.care.trashed) end = std::min(end, info.care.trashed->until);
  return end;
}

}  // namespace

Status DiskEntry::set_limits(const Limits& limits) {
  MutexLock lock(operations_);
  VARVE_TRY(refuse_if_removed());
  if (limits == log_->state()->limits) return {};
  VARVE_TRY(services_.reserve->spend([&]() VARVE_NO_ANALYSIS {
    return logged([&] { return log_->append_limits(limits); });
  }));
  services_.quota->set_limits(id_, limits);
  return {};
}

// --- holds and deadlines ---

Status DiskEntry::refuse_if_held(const SnapshotInfo& info, const std::string& disk) {
  if (!info.care.hold) return {};
  return fail_refused(EBUSY, fmt::format("snapshot {} of {} is held{}{}; `setfattr -x user.varve.hold` lifts that",
                                         quoted(info.name), quoted(disk), info.care.hold->empty() ? "" : ": ",
                                         *info.care.hold));
}

/// Name and care in one durable step, wherever the snapshot is.
Status DiskEntry::set_care(const SnapshotInfo& info, const std::string& name, const Care& care) {
  VARVE_TRY(catalog::validate(care));
  if (info.state == SnapshotStateKind::complete) {
    return logged([&] { return log_->append_snapshot_care(info.id, name, care); });
  }
  const auto pending = find_pending(info.id);
  if (!pending) return fail(ENOENT, ErrorKind::absent, fmt::format("there is no snapshot {}", quoted(info.name)));
  VARVE_TRY_ASSIGN(auto attributes, decode_pending_attributes(pending->attributes));
  attributes.care = care;
  return on_live([&] { return live_->update_pending(info.id, name, encode(attributes)); });
}

Status DiskEntry::change_snapshot_care(SnapshotId id, const std::function<Status(Care&)>& change) {
  MutexLock lock(operations_);
  VARVE_TRY(refuse_if_removed());
  VARVE_TRY(settle_log());
  VARVE_TRY_ASSIGN(SnapshotInfo info, snapshot(id));
  Care care = info.care;
  VARVE_TRY(change(care));
  if (care == info.care) return {};
  VARVE_TRY(set_care(info, info.name, care));
  info.care = std::move(care);
  note_end(info);
  return {};
}

// --- the trash ---

Status DiskEntry::remove_snapshot(SnapshotId id) {
  const std::int64_t keep = services_.trash_keep;
  if (keep == 0) return delete_snapshot(id);
  const Time time = services_.clock();
  const auto moved = move_to_trash(id, {time, Time{time.nanoseconds + std::min(keep, kNever.nanoseconds - time.nanoseconds)}});
  if (moved || !for_want_of_space(moved.error())) return moved;
  // Deleting needs no space, and the trash is there only as long as there is some.
  log::warning("disk {}: a snapshot is deleted for good, there is no space to note that it is in the trash: {}",
               quoted(name()), moved.error().message);
  return delete_snapshot(id);
}

Status DiskEntry::move_to_trash(SnapshotId id, Trashed trashed) {
  VARVE_TRY_ASSIGN(SnapshotInfo info, snapshot(id));
  VARVE_TRY(refuse_if_held(info, name()));
  const auto closed = uses_->keep_snapshot_closed(id, kLateReleaseWait);
  if (closed == nullptr) {
    return fail_refused(EBUSY, fmt::format("the image of snapshot {} of {} is open; close or unmount it first",
                                           quoted(info.name), quoted(name())));
  }
  MutexLock lock(operations_);
  VARVE_TRY(refuse_if_removed());
  VARVE_TRY(settle_log());
  VARVE_TRY_ASSIGN(info, snapshot(id));
  VARVE_TRY(refuse_if_held(info, name()));
  info.care.trashed = trashed;
  VARVE_TRY(services_.reserve->spend([&]() VARVE_NO_ANALYSIS { return set_care(info, info.name, info.care); }));
  names_.remove(info.name, id);
  forget_image(id);
  note_end(info);
  touch();
  return {};
}

std::vector<SnapshotInfo> DiskEntry::trash() const {
  // As all_snapshots(), without describing ten thousand to find two.
  const auto pending = live_->pending();
  const auto state = log_->state();
  std::vector<SnapshotInfo> trashed;
  for (const auto& [id, entry] : state->snapshots) {
    if (entry->care.trashed) trashed.push_back(describe(*entry));
  }
  for (const auto& one : pending) {
    if (one.id <= state->high_water) continue;
    SnapshotInfo info = describe(one);
    if (info.care.trashed) trashed.push_back(std::move(info));
  }
  return trashed;
}

Status DiskEntry::undelete_snapshot(SnapshotId id, const std::string& name) {
  VARVE_TRY(catalog::validate_name(name, catalog::NameKind::snapshot));
  MutexLock lock(operations_);
  VARVE_TRY(refuse_if_removed());
  VARVE_TRY(refuse_name_in_use(name));
  VARVE_TRY_ASSIGN(SnapshotInfo info, any_snapshot(id));
  if (!info.care.trashed) return fail_refused(EEXIST, fmt::format("snapshot {} is not in the trash", quoted(info.name)));
  if (info.care.deadline && *info.care.deadline <= services_.clock()) {
    return fail_refused(EINVAL, fmt::format("the deadline of snapshot {} has passed, {}: it is being deleted",
                                            quoted(info.name), to_iso8601(*info.care.deadline)));
  }
  auto place = services_.quota->take_place(id_, info.size);
  if (!place) return tl::unexpected(place.error().in("disk " + quoted(this->name())));
  info.care.trashed.reset();
  VARVE_TRY(set_care(info, name, info.care));
  names_.add(name, {id, info.size}, std::move(*place));
  touch();
  return {};
}

Status DiskEntry::set_hidden(bool hidden) {
  MutexLock lock(operations_);
  VARVE_TRY(refuse_if_removed());
  VARVE_TRY(settle_log());
  if (hidden && !empty()) {
    return fail_refused(ENOTEMPTY, fmt::format("disk {} still has a live image or snapshots; remove those first",
                                               quoted(name())));
  }
  VARVE_TRY(services_.reserve->spend([&]() VARVE_NO_ANALYSIS {
    return logged([&] { return log_->append_hidden(hidden); });
  }));
  if (hidden) serve_as("");
  return {};
}

// --- what ends by itself ---

void DiskEntry::note_end(const SnapshotInfo& info) {
  const std::int64_t end = end_of(info).nanoseconds;
  std::int64_t known = next_end_;
  while (end < known && !next_end_.compare_exchange_weak(known, end)) {
  }
}

void DiskEntry::forget_image(SnapshotId id) {
  MutexLock lock(images_mutex_);
  images_.erase(id);
}

std::vector<SnapshotInfo> DiskEntry::end_what_is_over(Time time) {
  std::vector<SnapshotInfo> ended;
  if (next_end_ > time.nanoseconds || removed_) return ended;
  // First: what is noted meanwhile must not be lost.
  next_end_ = kNever.nanoseconds;
  for (SnapshotInfo& info : all_snapshots()) {
    if (end_of(info) > time) {
      note_end(info);
      continue;
    }
    const auto deleted = delete_while(info.id, [time](const SnapshotInfo& now) { return end_of(now) <= time; });
    if (!deleted && deleted.error().code == ECANCELED) {
      if (const auto changed = any_snapshot(info.id)) note_end(*changed);
    } else if (!deleted && deleted.error().code != ENOENT) {
      log::warning("snapshot {} of {} is to be deleted by itself and stays: {}", quoted(info.name), quoted(name()),
                   deleted.error().message);
      info.care = {};
      info.care.deadline = Time{time.nanoseconds + kRetry};
      note_end(info);
    } else if (deleted && !info.care.trashed) {
      log::info("snapshot {} of {} was deleted: its deadline was {}", quoted(info.name), quoted(name()),
                to_iso8601(*info.care.deadline));
      ended.push_back(std::move(info));
    }
  }
  return ended;
}

}  // namespace varve::store
