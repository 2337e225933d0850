// Who has which image of a disk open, and who wants it closed. An operation that needs an image closed keeps it closed
// (a Closed, below) before it takes any lock of the disk, so that opening waits for such an operation and for nothing
// else: not for the syncs of a snapshot that is being taken.
#pragma once

#include <chrono>
#include <memory>
#include <unordered_map>

#include "varve/core/sync.h"
#include "varve/store/disk.h"

namespace varve::store {

/// Any thread. The tokens it gives out keep it alive.
class ImageUses : public std::enable_shared_from_this<ImageUses> {
 public:
  /// While it exists nobody opens the image; who tries waits. Null: somebody had it open for longer than was waited.
  using Closed = std::shared_ptr<void>;

  /// Wait while somebody keeps the image closed. It may be gone after that: look again.
  [[nodiscard]] ImageUse use_live(bool for_writing) VARVE_EXCLUDES(mutex_);
  [[nodiscard]] ImageUse use_snapshot(SnapshotId id) VARVE_EXCLUDES(mutex_);

  /// Nobody has the live image open.
  [[nodiscard]] Closed keep_live_closed(std::chrono::milliseconds wait) VARVE_EXCLUDES(mutex_);
  /// At most `allowed` users have it open for writing.
  [[nodiscard]] Closed keep_writers_out(std::size_t allowed, std::chrono::milliseconds wait) VARVE_EXCLUDES(mutex_);
  [[nodiscard]] Closed keep_snapshot_closed(SnapshotId id, std::chrono::milliseconds wait) VARVE_EXCLUDES(mutex_);

 private:
  template <class Condition>
  bool wait_until(std::chrono::milliseconds limit, Condition condition) VARVE_REQUIRES(mutex_);
  /// A token that runs `undo` under the mutex and wakes those who wait.
  template <class Undo>
  [[nodiscard]] std::shared_ptr<void> token(Undo undo);

  Mutex mutex_;
  CondVar changed_;
  std::size_t live_users_ VARVE_GUARDED_BY(mutex_) = 0;
  std::size_t live_writers_ VARVE_GUARDED_BY(mutex_) = 0;
  std::size_t live_closed_ VARVE_GUARDED_BY(mutex_) = 0;  ///< how many keep it closed
  std::size_t writers_out_ VARVE_GUARDED_BY(mutex_) = 0;
  std::unordered_map<SnapshotId, std::size_t> snapshots_ VARVE_GUARDED_BY(mutex_);
  std::unordered_map<SnapshotId, std::size_t> snapshots_closed_ VARVE_GUARDED_BY(mutex_);
};

}  // namespace varve::store
