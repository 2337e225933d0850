// What a store does by itself: commits as they are wanted, upkeep at its own pace. Two threads' worth of work, never a
// FUSE worker's.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <thread>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "disk_entry.h"
#include "varve/core/sync.h"
#include "varve/core/thread_pool.h"

namespace varve::store {

class Background {
 public:
  /// `disks` is asked for every round of upkeep; `at_start` runs once, beside the rest; `schedule` about once a second.
  Background(Services& services, std::function<std::vector<std::shared_ptr<DiskEntry>>()> disks,
             std::function<void()> at_start, std::function<void()> schedule);
  ~Background();  ///< stop()
  void start();
  /// Ends when the work under way has noticed services.stopping.
  void stop() VARVE_EXCLUDES(mutex_);

  /// A disk has something pending. Any thread, never waits.
  void want_commit(DiskId id) VARVE_EXCLUDES(mutex_);
  /// The last error, when commits of a disk have failed kFailuresInARow times without one between that succeeded: they
  /// go on, but who waits for one need not. Any thread.
  [[nodiscard]] Status trouble_with(DiskId id) VARVE_EXCLUDES(mutex_);

 private:
  void commit_loop() VARVE_EXCLUDES(mutex_);
  void upkeep_loop() VARVE_EXCLUDES(mutex_);
  void schedule_loop() VARVE_EXCLUDES(mutex_);
  [[nodiscard]] std::shared_ptr<DiskEntry> next_to_commit() VARVE_EXCLUDES(mutex_);
  /// An error: a commit failed and is to be tried again.
  [[nodiscard]] Status commit_all_of(DiskEntry& disk) VARVE_EXCLUDES(mutex_);
  void commit_ended(DiskId id, const Status& ended) VARVE_EXCLUDES(mutex_);
  [[nodiscard]] bool upkeep_round();

  Services& services_;
  const std::function<std::vector<std::shared_ptr<DiskEntry>>()> disks_;
  const std::function<void()> at_start_;
  const std::function<void()> schedule_;

  Mutex mutex_;
  CondVar commit_wanted_;
  CondVar stop_wanted_;
  std::unordered_set<DiskId> wanted_ VARVE_GUARDED_BY(mutex_);
  /// Disks whose last commit failed: wanted or not, none is tried before the time.
  struct Retry {
    std::chrono::steady_clock::time_point not_before;
    std::chrono::milliseconds pause{0};
    int failures = 0;  ///< in a row
    Error last;
  };
  std::unordered_map<DiskId, Retry> retries_ VARVE_GUARDED_BY(mutex_);
  std::unordered_set<DiskId> running_ VARVE_GUARDED_BY(mutex_);
  bool stopping_ VARVE_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace varve::store
