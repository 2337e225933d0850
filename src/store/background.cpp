#include "background.h"

#include <pthread.h>

#include "varve/catalog/names.h"
#include "varve/core/log.h"

namespace varve::store {
namespace {

using catalog::quoted;

/// Commits of different disks run side by side; one disk's run in order.
constexpr std::size_t kCommitThreads = 2;
/// Between rounds of upkeep when the last one found nothing to do.
constexpr std::chrono::milliseconds kUpkeepInterval{1000};
/// Between slices while there is work, so that live I/O comes first.
constexpr std::chrono::milliseconds kUpkeepPause{2};

}  // namespace

Background::Background(Services& services, std::function<std::vector<std::shared_ptr<DiskEntry>>()> disks,
                       std::function<void()> at_start)
    : services_(services), disks_(std::move(disks)), at_start_(std::move(at_start)) {}

Background::~Background() { stop(); }

void Background::start() {
  for (std::size_t i = 0; i < kCommitThreads; ++i) {
    threads_.emplace_back([this] { commit_loop(); });
    pthread_setname_np(threads_.back().native_handle(), "commit");
  }
  threads_.emplace_back([this] { upkeep_loop(); });
  pthread_setname_np(threads_.back().native_handle(), "upkeep");
  for (const auto& disk : disks_()) {
    if (!disk->live().pending().empty()) want_commit(disk->id());
  }
}

void Background::stop() {
  services_.stopping = true;
  {
    MutexLock lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  for (auto& thread : threads_) thread.join();
  threads_.clear();
}

void Background::want_commit(DiskId id) {
  {
    MutexLock lock(mutex_);
    wanted_.insert(id);
  }
  changed_.notify_all();
}

std::shared_ptr<DiskEntry> Background::next_to_commit() {
  for (;;) {
    DiskId chosen;
    {
      MutexLock lock(mutex_);
      const auto ready = [this]() VARVE_NO_ANALYSIS {
        for (const DiskId id : wanted_) {
          if (!running_.contains(id)) return id;
        }
        return DiskId{0};
      };
      while (!stopping_ && (chosen = ready()) == DiskId{0}) changed_.wait(mutex_);
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
    commit_all_of(*disk);
    {
      MutexLock lock(mutex_);
      running_.erase(disk->id());
    }
    changed_.notify_all();
  }
}

void Background::commit_all_of(DiskEntry& disk) {
  for (;;) {
    auto more = disk.commit_one();
    if (more && !*more) return;
    if (more) continue;
    // Cancelled ones are wanted again by whoever cancelled; the rest is tried again by the next round of upkeep.
    if (more.error().code != ECANCELED) {
      log::error("disk {}: a snapshot stays pending, its commit is tried again: {}", quoted(disk.name()),
                 more.error().message);
    }
    return;
  }
}

void Background::upkeep_loop() {
  at_start_();
  for (;;) {
    const bool more = upkeep_round();
    MutexLock lock(mutex_);
    if (stopping_) return;
    // Woken by every wish to commit too; a spurious round costs nothing.
    changed_.wait_for(mutex_, more ? kUpkeepPause : kUpkeepInterval);
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
    if (!disk->live().pending().empty()) {
      MutexLock lock(mutex_);
      // Only those that failed before: a running one would find its successor by itself.
      if (!running_.contains(disk->id())) wanted_.insert(disk->id());
    }
  }
  changed_.notify_all();
  return more;
}

}  // namespace varve::store
