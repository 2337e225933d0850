// An image at one instant, as a complete snapshot that others cannot take away: what clone, restore and diff stand on.
#pragma once

#include <functional>
#include <memory>
#include <string_view>

#include "disk_entry.h"
#include "varve/store/store.h"

namespace varve::store {

/// What the store does for it.
struct InstantHooks {
  Services& services;
  /// Helps the oldest pending snapshot of a disk along, and returns soon. An error: that cannot succeed.
  std::function<Status(DiskEntry&)> help_commit;
  std::function<void(const std::function<void(Observer&)>&)> observe;
};

/// Waits until a snapshot is complete: its commit goes on anyway, and is faster than reading what is pending. ENOENT when
/// there is none, or it goes meanwhile; ECANCELED when `stop` (may be empty) said so, or the store is being closed; EAGAIN
/// after ten minutes; the commit's error when that fails time and again.
[[nodiscard]] Result<std::shared_ptr<const catalog::SnapshotEntry>> wait_complete(const InstantHooks& hooks,
                                                                                  DiskEntry& disk, SnapshotId snapshot,
                                                                                  const std::function<bool()>& stop);

/// The live image at one instant is a snapshot: taken for a purpose, and removed when this goes. A crash leaves it.
class TemporarySnapshot {
 public:
  /// `purpose`: a word that its name begins with. Errors as Disk::take_snapshot. `hooks` and `disk` must outlive it.
  [[nodiscard]] static Result<TemporarySnapshot> take(const InstantHooks& hooks, DiskEntry& disk,
                                                      std::string_view purpose);
  TemporarySnapshot(TemporarySnapshot&& other) noexcept;
  TemporarySnapshot& operator=(TemporarySnapshot&&) = delete;
  ~TemporarySnapshot();
  [[nodiscard]] SnapshotId id() const { return id_; }

 private:
  TemporarySnapshot(const InstantHooks& hooks, DiskEntry& disk, SnapshotId id)
      : hooks_(&hooks), disk_(&disk), id_(id) {}
  const InstantHooks* hooks_;
  DiskEntry* disk_;  ///< null: moved away
  SnapshotId id_;
};

/// Completes a snapshot and holds its root: it may be deleted from then on, its data stays while `hold` does.
[[nodiscard]] Result<std::shared_ptr<const catalog::SnapshotEntry>> hold_complete(const InstantHooks& hooks,
                                                                                  DiskEntry& disk, SnapshotId snapshot,
                                                                                  chunks::RootRegistry::Hold& hold,
                                                                                  const std::function<bool()>& stop);

}  // namespace varve::store
