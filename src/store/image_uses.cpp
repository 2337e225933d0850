#include "image_uses.h"

namespace varve::store {
namespace {

void count_down(std::unordered_map<SnapshotId, std::size_t>& counts, SnapshotId id) {
  if (--counts[id] == 0) counts.erase(id);
}

}  // namespace

template <class Undo>
std::shared_ptr<void> ImageUses::token(Undo undo) {
  // The token is the count: its deleter is the only way down.
  return std::shared_ptr<void>(this, [self = shared_from_this(), undo](void*) {
    {
      MutexLock lock(self->mutex_);
      undo(*self);
    }
    self->changed_.notify_all();
  });
}

ImageUse ImageUses::use_live(bool for_writing) {
  MutexLock lock(mutex_);
  while (live_closed_ > 0 || (for_writing && writers_out_ > 0)) changed_.wait(mutex_);
  ++live_users_;
  if (for_writing) ++live_writers_;
  return ImageUse(token([for_writing](ImageUses& self) VARVE_NO_ANALYSIS {
    --self.live_users_;
    if (for_writing) --self.live_writers_;
  }));
}

ImageUse ImageUses::use_snapshot(SnapshotId id) {
  MutexLock lock(mutex_);
  while (snapshots_closed_.contains(id)) changed_.wait(mutex_);
  ++snapshots_[id];
  return ImageUse(token([id](ImageUses& self) VARVE_NO_ANALYSIS { count_down(self.snapshots_, id); }));
}

template <class Condition>
bool ImageUses::wait_until(std::chrono::milliseconds limit, Condition condition) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  while (!condition()) {
    const auto left = deadline - std::chrono::steady_clock::now();
    if (left <= std::chrono::steady_clock::duration::zero()) return false;
    changed_.wait_for(mutex_, left);
  }
  return true;
}

ImageUses::Closed ImageUses::keep_live_closed(std::chrono::milliseconds wait) {
  MutexLock lock(mutex_);
  if (!wait_until(wait, [this]() VARVE_NO_ANALYSIS { return live_users_ == 0; })) return nullptr;
  ++live_closed_;
  return token([](ImageUses& self) VARVE_NO_ANALYSIS { --self.live_closed_; });
}

ImageUses::Closed ImageUses::keep_writers_out(std::size_t allowed, std::chrono::milliseconds wait) {
  MutexLock lock(mutex_);
  if (!wait_until(wait, [this, allowed]() VARVE_NO_ANALYSIS { return live_writers_ <= allowed; })) return nullptr;
  ++writers_out_;
  return token([](ImageUses& self) VARVE_NO_ANALYSIS { --self.writers_out_; });
}

ImageUses::Closed ImageUses::keep_snapshot_closed(SnapshotId id, std::chrono::milliseconds wait) {
  MutexLock lock(mutex_);
  if (!wait_until(wait, [this, id]() VARVE_NO_ANALYSIS { return !snapshots_.contains(id); })) return nullptr;
  ++snapshots_closed_[id];
  return token([id](ImageUses& self) VARVE_NO_ANALYSIS { count_down(self.snapshots_closed_, id); });
}

}  // namespace varve::store
