// Tells the kernel of changes that it did not make itself (DESIGN.md, rule 12): from threads of its own, holding no
// lock. The kernel takes the lock of the directory or of pages that a request under way may hold until we answer it;
// so one thread serves directories and another images, and neither ever serves requests.
#pragma once

#include <chrono>
#include <deque>
#include <string>
#include <thread>
#include <variant>

#include "libfuse.h"
#include "varve/core/sync.h"
#include "varve/fuse/inode.h"

namespace varve::fuse {

/// Cached pages and attributes of a file are stale.
struct StaleData {
  Ino ino = 0;
};
/// Cached attributes are stale.
struct StaleAttributes {
  Ino ino = 0;
};
/// What a name means is stale.
struct StaleEntry {
  Ino directory = 0;
  std::string name;
};
/// The thing is gone, and its name with it.
struct Gone {
  Ino directory = 0;
  Ino child = 0;
  std::string name;
};
using Notification = std::variant<StaleData, StaleAttributes, StaleEntry, Gone>;

/// Sends in order. Any thread.
class NotificationQueue {
 public:
  NotificationQueue(fuse_session* session, const char* thread_name);
  /// Drops what is left: with the mount, what the kernel remembers of it goes as well.
  ~NotificationQueue();
  NotificationQueue(const NotificationQueue&) = delete;
  NotificationQueue& operator=(const NotificationQueue&) = delete;

  void push(Notification notification) VARVE_EXCLUDES(mutex_);
  /// True when all that was pushed before has been sent within `limit`.
  bool wait_until_sent(std::chrono::milliseconds limit) VARVE_EXCLUDES(mutex_);

 private:
  void run() VARVE_EXCLUDES(mutex_);

  fuse_session* const session_;
  Mutex mutex_;
  CondVar changed_;
  std::deque<Notification> queue_ VARVE_GUARDED_BY(mutex_);
  std::uint64_t pushed_ VARVE_GUARDED_BY(mutex_) = 0;
  std::uint64_t sent_ VARVE_GUARDED_BY(mutex_) = 0;
  bool stopping_ VARVE_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

/// Must not be destroyed before the mount is gone: a notification that waits for a lock is let go by that.
class Notifier {
 public:
  explicit Notifier(fuse_session* session) : directories_(session, "notify-dirs"), images_(session, "notify-images") {}
  void push(Notification notification);
  bool wait_until_sent(std::chrono::milliseconds limit);

 private:
  NotificationQueue directories_;
  NotificationQueue images_;
};

}  // namespace varve::fuse
