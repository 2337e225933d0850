// A bounded pool: a fixed number of named threads and a queue of bounded length. Work that must not hold up a FUSE
// worker (mkdir, snapshot reads, copies, compression) goes here.
#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "varve/core/sync.h"

namespace varve {

enum class Urgency {
  someone_waits,
  can_wait,  ///< give_way()
};

/// From now on the calling thread gets a processor, and the disk where its scheduler goes by that, after what is more urgent:
/// nice(2), which on Linux is of the thread, and gives the priority of its requests to the disk (ioprio_set(2)). It tells
/// threads of one control group, or session (sched(7), autogroup), from each other: ours above all. Not for threads that
/// hold what guests wait for, for more than a moment.
void give_way();

class ThreadPool {
 public:
  /// Starts `threads` (>= 1) threads called `name`-N (cut to 15 characters, the kernel's limit for comm).
  ThreadPool(std::string name, std::size_t threads, std::size_t max_queued, Urgency urgency = Urgency::someone_waits);
  /// Runs what is queued, then joins.
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  /// Queues a task; waits while the queue is full. Never call from one of the pool's own threads.
  void submit(std::function<void()> task) VARVE_EXCLUDES(mutex_);
  /// Queues a task unless the queue is full; false then. May be called from the pool's own threads.
  [[nodiscard]] bool try_submit(std::function<void()> task) VARVE_EXCLUDES(mutex_);
  /// Waits until nothing is queued or running.
  void drain() VARVE_EXCLUDES(mutex_);
  [[nodiscard]] std::size_t thread_count() const { return threads_.size(); }

 private:
  void run() VARVE_EXCLUDES(mutex_);

  const std::size_t max_queued_;
  Mutex mutex_;
  CondVar work_;
  CondVar room_;
  CondVar idle_;
  std::deque<std::function<void()>> queue_ VARVE_GUARDED_BY(mutex_);
  std::size_t running_ VARVE_GUARDED_BY(mutex_) = 0;
  bool stopping_ VARVE_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace varve
