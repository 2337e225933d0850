// The snapshots of a disk by name, whatever their state: those that users see. What is in the trash has no name here.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>

#include "quota.h"
#include "varve/core/sync.h"
#include "varve/core/units.h"

namespace varve::store {

struct NamedSnapshot {
  SnapshotId id;
  ByteCount size;
};

/// Any thread. The quota has the numbers of the disk as they are here.
class SnapshotNames {
 public:
  using Table = std::map<std::string, NamedSnapshot, std::less<>>;

  SnapshotNames(Quota& quota, DiskId disk) : quota_(quota), disk_(disk) {}

  void replace(Table table) VARVE_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    names_ = std::move(table);
    bytes_ = 0;
    for (const auto& [name, one] : names_) bytes_ += one.size.value();
    quota_.set_snapshots(disk_, names_.size(), bytes_, {});
  }
  void add(const std::string& name, NamedSnapshot one, Quota::Place place) VARVE_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    if (names_.emplace(name, one).second) bytes_ += one.size.value();
    quota_.set_snapshots(disk_, names_.size(), bytes_, std::move(place));
  }
  /// Nothing when the name is another's.
  void remove(const std::string& name, SnapshotId id) VARVE_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    const auto it = names_.find(name);
    if (it == names_.end() || it->second.id != id) return;
    bytes_ -= it->second.size.value();
    names_.erase(it);
    quota_.set_snapshots(disk_, names_.size(), bytes_, {});
  }
  void rename(const std::string& from, const std::string& to) VARVE_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    auto node = names_.extract(from);
    if (node.empty()) return;
    node.key() = to;
    names_.insert(std::move(node));
  }
  [[nodiscard]] std::optional<SnapshotId> find(std::string_view name) const VARVE_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    const auto it = names_.find(name);
    return it == names_.end() ? std::nullopt : std::optional(it->second.id);
  }
  [[nodiscard]] std::size_t size() const VARVE_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    return names_.size();
  }

 private:
  Quota& quota_;
  const DiskId disk_;
  mutable Mutex mutex_;
  Table names_ VARVE_GUARDED_BY(mutex_);
  std::uint64_t bytes_ VARVE_GUARDED_BY(mutex_) = 0;
};

}  // namespace varve::store
