#include <fmt/format.h>

#include <utility>

#include "attributes.h"
#include "disk_entry.h"
#include "varve/catalog/names.h"
#include "varve/core/log.h"

namespace varve::store {
namespace {

using catalog::quoted;

/// Commits that fail for chunks which cannot be read, before those are committed as damaged (rule 10): with the pauses
/// of Background half a minute. A cable that was out for a moment must not cost a snapshot anything for good.
constexpr int kUnreadableAttempts = 6;

}  // namespace

/// After this returns no commit of `id` runs, and none starts until the caller spares it.
void DiskEntry::doom(SnapshotId id) {
  MutexLock lock(commit_mutex_);
  doomed_.insert(id);
  if (committing_ == id) cancel_ = true;
  while (committing_ == id) commit_ended_.wait(commit_mutex_);
}

void DiskEntry::spare(SnapshotId id) {
  {
    MutexLock lock(commit_mutex_);
    doomed_.erase(doomed_.find(id));
  }
  if (live_->pending_count() > 0) commit_wanted_();
}

/// The oldest pending snapshot, if it may be committed now. Chosen under the lock that doom() takes: what is dropped
/// after the look is not committed.
std::optional<disk::PendingInfo> DiskEntry::begin_commit() {
  MutexLock lock(commit_mutex_);
  if (removed_ || committing_ != SnapshotId{0}) return std::nullopt;
  auto oldest = live_->oldest_pending();
  if (!oldest || doomed_.contains(oldest->id)) return std::nullopt;
  committing_ = oldest->id;
  cancel_ = false;
  progress_.chunks_done = 0;
  progress_.chunks_total = 0;
  progress_.met_unreadable = false;
  return oldest;
}

void DiskEntry::end_commit() {
  {
    MutexLock lock(commit_mutex_);
    committing_ = SnapshotId{0};
  }
  commit_ended_.notify_all();
}

Result<bool> DiskEntry::commit_one() {
  const auto oldest = begin_commit();
  if (!oldest) return false;
  auto done = commit(*oldest);
  end_commit();
  if (!done) return tl::unexpected(std::move(done).error());
  return true;
}

/// Nothing is committed that could not be logged; and what the log has needs no commit.
Result<bool> DiskEntry::settle_before_commit(SnapshotId id) {
  MutexLock lock(operations_);
  VARVE_TRY(settle_log());
  if (id > log_->state()->high_water) return true;
  VARVE_TRY(settle_logged(id));
  return false;
}

Status DiskEntry::commit(const disk::PendingInfo& oldest) {
  VARVE_TRY_ASSIGN(const bool wanted, settle_before_commit(oldest.id));
  if (!wanted) return {};
  auto hold = std::make_unique<chunks::RootRegistry::Hold>(services_.registry);
  snapshot::CommitOptions options{*services_.encoders, services_.readers.get()};
  options.stop = [this] { return cancel_ || services_.stopping; };
  options.unreadable = patience_with(oldest.id);
  const auto committed =
      snapshot::commit_oldest(*live_, oldest, *services_.chunks, *hold, progress_, options);
  if (!committed) {
    ++services_.garbage;  // what it wrote
    if (progress_.met_unreadable) note_unreadable(oldest.id);
    return tl::unexpected(committed.error());
  }
  return hand_over(oldest, *committed, hold);
}

snapshot::Unreadable DiskEntry::patience_with(SnapshotId id) {
  MutexLock lock(commit_mutex_);
  const bool enough = unreadable_ == id && unreadable_attempts_ >= kUnreadableAttempts;
  return enough ? snapshot::Unreadable::keep_as_damaged : snapshot::Unreadable::fail;
}

void DiskEntry::note_unreadable(SnapshotId id) {
  MutexLock lock(commit_mutex_);
  if (unreadable_ != id) unreadable_attempts_ = 0;
  unreadable_ = id;
  ++unreadable_attempts_;
}

/// The durable order's last steps: log record, then the live side makes its root P and lets go of the pins.
Status DiskEntry::hand_over(const disk::PendingInfo& frozen, const snapshot::Committed& committed,
                            std::unique_ptr<chunks::RootRegistry::Hold>& hold) {
  MutexLock lock(operations_);
  const auto pending = find_pending(frozen.id);
  if (!pending) return {};
  if (!log_->state()->snapshots.contains(frozen.id)) {
    VARVE_TRY_ASSIGN(auto attributes, decode_pending_attributes(pending->attributes));
    catalog::SnapshotEntry entry;
    entry.id = pending->id;
    entry.parent = pending->parent;
    entry.name = pending->name;
    entry.time = pending->time;
    entry.image_modified = pending->image_modified;
    entry.size = pending->size;
    entry.incarnation = pending->incarnation;
    entry.root = committed.root;
    entry.changed_bytes = committed.changed_bytes;
    entry.stored_bytes = committed.stored_bytes;
    entry.directory = std::move(attributes.directory);
    entry.image = std::move(attributes.image);
    entry.care = std::move(attributes.care);
    auto appended = logged([&] { return log_->append_snapshot(entry); });
    if (!appended) {
      // Invariant 5.
      if (log_in_doubt_) doubtful_.push_back(std::move(hold));
      return appended;
    }
  }
  if (committed.damaged_chunks > 0) {
    log::error("disk {}, snapshot {}: {} chunks could not be read from the live image and are committed as damaged",
               quoted(name()), quoted(pending->name), committed.damaged_chunks);
  }
  return settle_one(frozen.id);
}

Status DiskEntry::settle_one(SnapshotId id) {
  const auto state = log_->state();
  const auto it = state->snapshots.find(id);
  if (it == state->snapshots.end()) return {};
  auto settled = live_->committed(id, chunks::to_opaque(it->second->root));
  // It is gone from the live side's memory all the same, perhaps: but not for good.
  if (!settled) unsettled_.insert(id);
  return settled;
}

}  // namespace varve::store
