// What the invariants that open live_disk.cpp say, looked at while it runs. In builds with NDEBUG: nothing.
#include <algorithm>
#include <cassert>

#include "implementation.h"

namespace varve::disk {

/// 3 and 5: nobody else finds bytes where these are about to be written. The caller has looked, and its locks keep it so.
/// A snapshot may have been committed since: until the seal it counts as pinning any place, and the Homes that it kept, if
/// only for chunks that it reads elsewhere, as unsealed. Neither is asked about here.
void LiveDisk::Implementation::assert_may_write([[maybe_unused]] ChunkIndex first,
                                                [[maybe_unused]] std::size_t chunks,
                                                [[maybe_unused]] Place place, [[maybe_unused]] std::size_t within,
                                                [[maybe_unused]] std::size_t count) const {
#ifndef NDEBUG
  MutexLock lock(state_mutex);
  if (place.kind == PlaceKind::home && chunks == 1 && state.partial_slots(first) > 0) {
    // 1 in partial.cpp: the move home of the only partial slot, of blocks that are read there.
    assert(state.partial_slots(first) == 1);
    const BlockMask there = state.blocks_at(first, state.places().get(first));
    assert(there != kAllBlocks && (blocks_of(within, count) & ~there) == 0);
  }
  for (ChunkIndex chunk = first; chunk < first + ChunkCount{chunks}; chunk += ChunkCount{1}) {
    assert(chunks == 1 || place.kind != PlaceKind::home || state.partial_slots(chunk) == 0);
    if (place.kind == PlaceKind::home || state.places().get(chunk) == place) {
      assert(!pinned_by_pending(chunk, place));
    } else {
      assert(place.kind == PlaceKind::detour && chunks == 1);
      assert(place.slot < slot_count && !free_slots.contains(place.slot) && !stored_slots.contains(place.slot));
    }
  }
#endif
}

/// What memory holds beside the state agrees with it; costs as much as there are slots.
void LiveDisk::Implementation::assert_consistent() const {
#ifndef NDEBUG
  assert(frozen.size() == state.pending().size());
  for (std::size_t i = 0; i < frozen.size(); ++i) {
    const PendingState& pending = state.pending()[i];
    assert(frozen[i]->id == pending.id && frozen[i]->incarnation == pending.incarnation);
    assert(i == 0 || state.pending()[i - 1].id < pending.id);
    assert(pending.id <= state.high_water());
    // What it may overwrite in place is known for good (3).
    assert(!frozen[i]->map_durable || pending.map_kept || frozen[i]->all_changed);
  }
  assert(home_chunks >= state.chunks().value());
  // 5: a slot is in use, or waits for a seal or for its readers, or is free.
  const auto used = state.used_slots();
  assert(used);
  assert(used->empty() || *used->rbegin() < slot_count);
  std::set<Slot> seen = *used;
  for (const Slot slot : free_slots) assert(seen.insert(slot).second);
  for (const Slot slot : stored_slots) assert(seen.insert(slot).second);
  for (const Slot slot : left_slots) assert(seen.insert(slot).second);
  for (const auto& [position, slot] : unsealed_slots) assert(seen.insert(slot).second);
  // Positions only grow, and what a seal covers was let go of.
  assert(std::ranges::is_sorted(unsealed_slots, {}, [](const auto& entry) { return entry.first; }));
  assert(std::ranges::is_sorted(unsealed_snapshots, {}, [](const auto& entry) { return entry.first; }));
#endif
}

}  // namespace varve::disk
