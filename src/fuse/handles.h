// What is open through the mount. The kernel holds a pointer to each until its RELEASE; the set frees those whose
// RELEASE never comes because the mount went away.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "node.h"
#include "varve/core/sync.h"

namespace varve::fuse {

/// An open image or control file. Not changed once it is open.
struct OpenFile {
  NodeId node;
  std::shared_ptr<store::Disk> disk;
  store::ImageUse use;
  bool writable = false;
  /// Of a control file, as it was when it was opened. Shared with who answers from it: the reader may have closed the
  /// file before the call that answered him has returned.
  std::shared_ptr<const std::string> text;

  [[nodiscard]] bool is_live() const { return node.kind == NodeKind::live_image; }
  [[nodiscard]] bool is_image() const { return is_live() || node.kind == NodeKind::snapshot_image; }
};

struct DirectoryEntry {
  std::string name;
  Ino ino = 0;
  bool directory = true;
};

/// An open directory: what it had when reading began, so that seeking back and forth finds the same.
struct OpenDirectory {
  Ino ino = 0;
  Mutex mutex;
  std::vector<DirectoryEntry> entries VARVE_GUARDED_BY(mutex);
  bool begun VARVE_GUARDED_BY(mutex) = false;
};

/// Any thread.
template <class T>
class HandleSet {
 public:
  std::uint64_t add(std::unique_ptr<T> handle) VARVE_EXCLUDES(mutex_) {
    const auto number = reinterpret_cast<std::uint64_t>(handle.get());
    MutexLock lock(mutex_);
    handles_.emplace(number, std::move(handle));
    return number;
  }
  /// Valid until remove(): the kernel sends nothing for a handle after its RELEASE.
  [[nodiscard]] static T& get(std::uint64_t number) { return *reinterpret_cast<T*>(number); }
  void remove(std::uint64_t number) VARVE_EXCLUDES(mutex_) {
    std::unique_ptr<T> gone;  // destroyed outside the lock
    MutexLock lock(mutex_);
    const auto it = handles_.find(number);
    if (it == handles_.end()) return;
    gone = std::move(it->second);
    handles_.erase(it);
  }

 private:
  Mutex mutex_;
  std::unordered_map<std::uint64_t, std::unique_ptr<T>> handles_ VARVE_GUARDED_BY(mutex_);
};

}  // namespace varve::fuse
