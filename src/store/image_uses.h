// Who has which image of a disk open. Operations that need an image closed wait a moment for a RELEASE that the
// kernel sends late (kLateReleaseWait), then refuse.
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
  [[nodiscard]] ImageUse use_live(bool for_writing) VARVE_EXCLUDES(mutex_);
  [[nodiscard]] ImageUse use_snapshot(SnapshotId id) VARVE_EXCLUDES(mutex_);

  /// True when nobody has the live image open within `limit`.
  [[nodiscard]] bool wait_live_closed(std::chrono::milliseconds limit) VARVE_EXCLUDES(mutex_);
  /// True when at most `allowed` users have it open for writing within `limit`.
  [[nodiscard]] bool wait_writers(std::size_t allowed, std::chrono::milliseconds limit) VARVE_EXCLUDES(mutex_);
  [[nodiscard]] bool wait_snapshot_closed(SnapshotId id, std::chrono::milliseconds limit) VARVE_EXCLUDES(mutex_);
  /// Without waiting: for a decision under the lock that keeps new users out.
  [[nodiscard]] bool snapshot_is_open(SnapshotId id) VARVE_EXCLUDES(mutex_);

 private:
  template <class Condition>
  bool wait_until(std::chrono::milliseconds limit, Condition condition) VARVE_REQUIRES(mutex_);

  Mutex mutex_;
  CondVar released_;
  std::size_t live_users_ VARVE_GUARDED_BY(mutex_) = 0;
  std::size_t live_writers_ VARVE_GUARDED_BY(mutex_) = 0;
  std::unordered_map<SnapshotId, std::size_t> snapshots_ VARVE_GUARDED_BY(mutex_);
};

}  // namespace varve::store
