#include "image_uses.h"

namespace varve::store {

ImageUse ImageUses::use_live(bool for_writing) {
  MutexLock lock(mutex_);
  ++live_users_;
  if (for_writing) ++live_writers_;
  // The token is the count: its deleter is the only way down.
  return ImageUse(std::shared_ptr<void>(this, [self = shared_from_this(), for_writing](void*) {
    MutexLock release(self->mutex_);
    --self->live_users_;
    if (for_writing) --self->live_writers_;
    self->released_.notify_all();
  }));
}

ImageUse ImageUses::use_snapshot(SnapshotId id) {
  MutexLock lock(mutex_);
  ++snapshots_[id];
  return ImageUse(std::shared_ptr<void>(this, [self = shared_from_this(), id](void*) {
    MutexLock release(self->mutex_);
    if (--self->snapshots_[id] == 0) self->snapshots_.erase(id);
    self->released_.notify_all();
  }));
}

template <class Condition>
bool ImageUses::wait_until(std::chrono::milliseconds limit, Condition condition) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  while (!condition()) {
    const auto left = deadline - std::chrono::steady_clock::now();
    if (left <= std::chrono::steady_clock::duration::zero()) return false;
    released_.wait_for(mutex_, left);
  }
  return true;
}

bool ImageUses::wait_live_closed(std::chrono::milliseconds limit) {
  MutexLock lock(mutex_);
  return wait_until(limit, [this]() VARVE_NO_ANALYSIS { return live_users_ == 0; });
}

bool ImageUses::wait_writers(std::size_t allowed, std::chrono::milliseconds limit) {
  MutexLock lock(mutex_);
  return wait_until(limit, [this, allowed]() VARVE_NO_ANALYSIS { return live_writers_ <= allowed; });
}

bool ImageUses::wait_snapshot_closed(SnapshotId id, std::chrono::milliseconds limit) {
  MutexLock lock(mutex_);
  return wait_until(limit, [this, id]() VARVE_NO_ANALYSIS { return !snapshots_.contains(id); });
}

bool ImageUses::snapshot_is_open(SnapshotId id) {
  MutexLock lock(mutex_);
  return snapshots_.contains(id);
}

}  // namespace varve::store
