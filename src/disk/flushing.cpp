// The live image: making durable, and what a seal sets free. live_disk.cpp opens with the invariants.
#include <algorithm>

#include "implementation.h"

namespace varve::disk {

Status LiveDisk::flush() { return implementation_->flush(); }

Status LiveDisk::Implementation::flush() {
  flush_mutex.lock();
  const std::uint64_t mine = ++flushes_wanted;
  while (flush_running && flushes_done < mine) flush_ended.wait(flush_mutex);
  if (flushes_done >= mine) {
    // Somebody's flush began after this call did, and has ended well. (After one that failed everybody tries again.)
    flush_mutex.unlock();
    return refuse_if_latched();
  }
  flush_running = true;
  const std::uint64_t served = flushes_wanted;
  flush_mutex.unlock();
  Status done = flush_now();
  flush_mutex.lock();
  flush_running = false;
  if (done) flushes_done = std::max(flushes_done, served);
  flush_mutex.unlock();
  flush_ended.notify_all();
  return done;
}

void LiveDisk::Implementation::begin_flush_turn() {
  MutexLock lock(flush_mutex);
  while (flush_running) flush_ended.wait(flush_mutex);
  flush_running = true;
}

void LiveDisk::Implementation::end_flush_turn() {
  {
    MutexLock lock(flush_mutex);
    flush_running = false;
  }
  flush_ended.notify_all();
}

Status LiveDisk::Implementation::sync_data() {
  if (home_dirty.exchange(false)) {
    if (auto done = home->sync_data(); !done) {
      latch("syncing home.img", done.error());
      return done;
    }
  }
  if (detour_dirty.exchange(false)) {
    if (auto done = detour->sync_data(); !done) {
      latch("syncing detour.img", done.error());
      return done;
    }
  }
  return {};
}

/// Data first, then the seal that speaks for it, then the journal. In steady state nothing is unsealed: one flush.
Status LiveDisk::Implementation::flush_now() {
  VARVE_TRY(refuse_if_latched());
  std::uint64_t position = 0;
  {
    MutexLock lock(state_mutex);
    position = journal->end();
  }
  VARVE_TRY(sync_data());
  {
    MutexLock lock(state_mutex);
    if (!journal->unsealed()) return {};
    // Records that came since speak of data that may not be durable: this seal does not cover them.
    VARVE_TRY(journal->append_seal(position));
  }
  if (auto done = journal->sync(); !done) {
    latch("syncing the journal", done.error());
    return done;
  }
  MutexLock lock(state_mutex);
  journal->note_sealed(position);
  release_sealed(position);
  return {};
}

void LiveDisk::Implementation::release_sealed(std::uint64_t position) {
  while (!unsealed_slots.empty() && unsealed_slots.front().first <= position) {
    left_slots.push_back(unsealed_slots.front().second);
    unsealed_slots.pop_front();
  }
  for (const auto& homes : unsealed_homes.take_sealed(position)) homes_to_punch.push_back(homes);
  while (!unsealed_snapshots.empty() && unsealed_snapshots.front().first <= position) unsealed_snapshots.pop_front();
  while (!unsealed_roots.empty() && unsealed_roots.front().first <= position) unsealed_roots.pop_front();
}

// --- UnsealedHomes ---

void UnsealedHomes::add(ChunkIndex first, ChunkCount count, std::uint64_t position) {
  std::uint64_t begin = first.value();
  std::uint64_t end = begin + count.value();
  // Positions only grow: a new range takes over whatever it overlaps or touches.
  auto it = ranges_.upper_bound(begin);
  if (it != ranges_.begin() && std::prev(it)->second.end >= begin) --it;
  while (it != ranges_.end() && it->first <= end) {
    begin = std::min(begin, it->first);
    end = std::max(end, it->second.end);
    it = ranges_.erase(it);
  }
  ranges_[begin] = {end, position};
}

bool UnsealedHomes::contains(ChunkIndex chunk) const {
  if (ranges_.empty()) return false;
  auto it = ranges_.upper_bound(chunk.value());
  return it != ranges_.begin() && std::prev(it)->second.end > chunk.value();
}

std::vector<Released::Homes> UnsealedHomes::take_sealed(std::uint64_t position) {
  std::vector<Released::Homes> sealed;
  for (auto it = ranges_.begin(); it != ranges_.end();) {
    if (it->second.position > position) {
      ++it;
      continue;
    }
    sealed.push_back({ChunkIndex{it->first}, ChunkCount{it->second.end - it->first}});
    it = ranges_.erase(it);
  }
  return sealed;
}

}  // namespace varve::disk
