// Runs collect by itself: some time after something was deleted, once for many deletions, and slowly; and joins small
// packs when many were written and nothing was deleted.
#pragma once

#include <chrono>
#include <functional>
#include <thread>

#include "services.h"
#include "varve/core/sync.h"
#include "varve/snapshot/collect.h"

namespace varve::store {

/// One thread. Deletions are counted in Services::garbage by whoever makes them.
class Collector {
 public:
  using Collect = std::function<Status(const snapshot::CollectOptions&)>;
  /// `short_of_space`: then nothing is put off, and nothing slowed down.
  Collector(Services& services, Collect collect, std::function<bool()> short_of_space);
  ~Collector();  ///< stop()
  void start();
  /// Ends when the work under way has noticed services.stopping.
  void stop() VARVE_EXCLUDES(mutex_);

 private:
  using Clock = std::chrono::steady_clock;
  void loop() VARVE_EXCLUDES(mutex_);
  /// False: it stops.
  [[nodiscard]] bool sleep(Clock::duration time) VARVE_EXCLUDES(mutex_);
  [[nodiscard]] bool due(Clock::time_point now);
  void run();
  [[nodiscard]] bool join_due(Clock::time_point now) const;
  void join();
  void slow_down(std::uint64_t records, std::uint64_t bytes) VARVE_EXCLUDES(mutex_);

  Services& services_;
  const Collect collect_;
  const std::function<bool()> short_of_space_;
  // The thread's own.
  std::uint64_t done_ = 0;  ///< of Services::garbage
  std::uint64_t seen_ = 0;
  Clock::time_point first_wanted_;
  Clock::time_point last_wanted_;
  Clock::time_point not_before_;
  std::size_t joined_at_ = 0;  ///< of packs written
  Clock::time_point join_not_before_;

  Mutex mutex_;
  CondVar stop_wanted_;
  bool stopping_ VARVE_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace varve::store
