#include "background.h"

#include <pthread.h>

#include <algorithm>

#include "varve/catalog/names.h"
#include "varve/core/log.h"
#include "varve/core/thread_pool.h"

namespace varve::store {
namespace {

using catalog::quoted;

/// Commits of different disks run side by side; one disk's run in order.
constexpr std::size_t kCommitThreads = 2;
/// Between rounds of upkeep when the last one found nothing to do.
constexpr std::chrono::milliseconds kUpkeepInterval{1000};
constexpr std::chrono::milliseconds kScheduleInterval{1000};
/// Between slices while there is work, so that live I/O comes first.
constexpr std::chrono::milliseconds kUpkeepPause{2};
/// Before a commit that failed is tried again: a full store stays full for a while, and each attempt reads and compresses
/// all from the start.
constexpr std::chrono::milliseconds kFirstRetry{500};
constexpr std::chrono::milliseconds kLongestRetry{30'000};
/// Some four seconds: what a passing trouble takes.
constexpr int kFailuresInARow = 4;

}  // namespace

Background::Background(Services& services, std::function<std::vector<std::shared_ptr<DiskEntry>>()> disks,
                       std::function<void()> at_start, std::function<void()> schedule)
    : services_(services),
      disks_(std::move(disks)),
      at_start_(std::move(at_start)),
      schedule_(std::move(schedule)) {}

Background::~Background() { stop(); }

void Background::start() {
  for (std::size_t i = 0; i < kCommitThreads; ++i) {
    threads_.emplace_back([this] {
      give_way();
      commit_loop();
    });
    pthread_setname_np(threads_.back().native_handle(), "commit");
  }
  threads_.emplace_back([this] { upkeep_loop(); });
  pthread_setname_np(threads_.back().native_handle(), "upkeep");
  // Beside upkeep: it takes a minute with ten thousand snapshots, and detours and freed space cannot wait for that.
  threads_.emplace_back([this] { at_start_(); });
  pthread_setname_np(threads_.back().native_handle(), "start");
  threads_.emplace_back([this] { schedule_loop(); });
  pthread_setname_np(threads_.back().native_handle(), "schedule");
  for (const auto& disk : disks_()) {
    if (disk->live().pending_count() > 0) want_commit(disk->id());
  }
}

void Background::stop() {
  services_.stopping = true;
  {
    MutexLock lock(mutex_);
    stopping_ = true;
  }
  commit_wanted_.notify_all();
  stop_wanted_.notify_all();
  for (auto& thread : threads_) thread.join();
  threads_.clear();
}

void Background::want_commit(DiskId id) {
  {
    MutexLock lock(mutex_);
    wanted_.insert(id);
  }
  commit_wanted_.notify_one();
}

std::shared_ptr<DiskEntry> Background::next_to_commit() {
  for (;;) {
    DiskId chosen;
    {
      MutexLock lock(mutex_);
      const auto ready = [this]() VARVE_NO_ANALYSIS {
        const auto now = std::chrono::steady_clock::now();
        for (const DiskId id : wanted_) {
          const auto retry = retries_.find(id);
          if (!running_.contains(id) && (retry == retries_.end() || retry->second.not_before <= now)) return id;
        }
        return DiskId{0};
      };
      while (!stopping_ && (chosen = ready()) == DiskId{0}) {
        // What is wanted and not ready runs, or waits for its time.
        if (wanted_.empty()) {
          commit_wanted_.wait(mutex_);
        } else {
          commit_wanted_.wait_for(mutex_, kFirstRetry);
        }
      }
      if (stopping_) return nullptr;
      wanted_.erase(chosen);
      running_.insert(chosen);
    }
    for (auto& disk : disks_()) {
      if (disk->id() == chosen) return disk;
    }
    MutexLock lock(mutex_);
    running_.erase(chosen);
  }
}

void Background::commit_loop() {
  while (auto disk = next_to_commit()) {
    commit_ended(disk->id(), commit_all_of(*disk));
  }
}

void Background::commit_ended(DiskId id, const Status& ended) {
  {
    MutexLock lock(mutex_);
    running_.erase(id);
    if (!ended) {
      Retry& retry = retries_[id];
      ++retry.failures;
      retry.last = ended.error();
      retry.pause = std::clamp(retry.pause * 2, kFirstRetry, kLongestRetry);
      retry.not_before = std::chrono::steady_clock::now() + retry.pause;
      wanted_.insert(id);
    } else {
      retries_.erase(id);
    }
  }
  // What was wanted of this disk meanwhile may begin.
  commit_wanted_.notify_one();
}

Status Background::trouble_with(DiskId id) {
  MutexLock lock(mutex_);
  const auto retry = retries_.find(id);
  if (retry == retries_.end() || retry->second.failures < kFailuresInARow) return {};
  return tl::unexpected(retry->second.last.in("the snapshot cannot be completed for now"));
}

Status Background::commit_all_of(DiskEntry& disk) {
  for (;;) {
    auto more = disk.commit_one();
    if (more && !*more) return {};
    if (more) continue;
    // A cancelled one is wanted again by whoever cancelled it.
    if (more.error().code == ECANCELED) return {};
    log::error("disk {}: a snapshot stays pending, its commit is tried again: {}", quoted(disk.name()),
               more.error().message);
    return tl::unexpected(std::move(more).error());
  }
}

void Background::upkeep_loop() {
  for (;;) {
    const bool more = upkeep_round();
    MutexLock lock(mutex_);
    if (stopping_) return;
    stop_wanted_.wait_for(mutex_, more ? kUpkeepPause : kUpkeepInterval);
    if (stopping_) return;
  }
}

/// By the clock of the wall, which may jump: asked again and again, not slept for.
void Background::schedule_loop() {
  for (;;) {
    schedule_();
    MutexLock lock(mutex_);
    if (!stopping_) stop_wanted_.wait_for(mutex_, kScheduleInterval);
    if (stopping_) return;
  }
}

bool Background::upkeep_round() {
  bool more = false;
  for (const auto& disk : disks_()) {
    if (services_.stopping) return false;
    auto done = disk->upkeep();
    if (!done) {
      log::warning("disk {}: upkeep: {}", quoted(disk->name()), done.error().message);
      continue;
    }
    more |= *done;
  }
  return more;
}

}  // namespace varve::store
