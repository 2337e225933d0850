// Upkeep: detours move home, released storage is punched and reused, the journal is compacted. One background thread, and
// those that help it to move.
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <future>

#include "implementation.h"
#include "varve/core/log.h"
#include "varve/core/pool_task.h"

namespace varve::disk {
namespace {

/// Punched in one call of tidy(), so that it ends soon: pieces of kPieceChunks or of kPreparedSlots.
constexpr std::size_t kPunchesPerSlice = 128;
/// With less than one part in so many, or less than that, free space is short.
constexpr std::uint64_t kLittleSpaceShare = 20;
constexpr std::uint64_t kLittleSpace = 1 * kGiB;
/// Detours that are worth another thread.
constexpr std::size_t kFewestMoves = 4;
/// Pages looked at for detours in one call.
constexpr std::uint64_t kPagesPerLook = 1024;

}  // namespace

// --- moving home ---

std::vector<ChunkIndex> LiveDisk::Implementation::detours_to_move(std::size_t most) {
  std::vector<ChunkIndex> found;
  MutexLock lock(state_mutex);
  const PlaceMap& places = state.places();
  if (places.count(PlaceKind::detour) == 0 || places.page_count() == 0) return found;
  for (std::uint64_t looked = 0; looked < std::min(kPagesPerLook, places.page_count()); ++looked) {
    const std::uint64_t page = move_cursor % places.page_count();
    places.page(page).for_each_slot([&](std::uint16_t chunk, Slot) VARVE_NO_ANALYSIS {
      const ChunkIndex index{page * kPageChunks + chunk};
      if (found.size() < most && may_move_home(index)) found.push_back(index);
    });
    if (found.size() >= most) break;
    ++move_cursor;
  }
  std::sort(found.begin(), found.end());
  return found;
}

/// The copy and the switch under the chunk's lock: nobody writes in between (rule 2). The slot is free after the seal.
Result<bool> LiveDisk::Implementation::move_one_home(ChunkIndex chunk) {
  SharedLock shared(gate);
  Stripes::Lock lock(stripes, chunk, 1, Stripes::Lock::Mode::exclusive);
  Resolved from;
  {
    MutexLock state_lock(state_mutex);
    if (!may_move_home(chunk)) return false;
    from = resolve_live(chunk);
  }
  auto buffer = chunk_buffers.take();
  VARVE_TRY(from.partial() ? read_own_blocks(chunk, from, buffer.span()) : read_stored(chunk, from, 0, buffer.span()));
  const Place to{PlaceKind::home, 0};
  VARVE_TRY(write_blocks(chunk, to, from.blocks, buffer.span()));
  MutexLock state_lock(state_mutex);
  VARVE_TRY(record_and_apply(record::Places{chunk.value(), 1, to}));
  return true;
}

Result<std::size_t> LiveDisk::move_home(std::size_t max_chunks, ThreadPool* movers) {
  auto& self = *implementation_;
  const auto chunks = self.detours_to_move(max_chunks);
  std::atomic<std::size_t> next{0};
  std::atomic<std::size_t> moved{0};
  const auto move_some = [&]() -> Status {
    for (std::size_t i = next++; i < chunks.size(); i = next++) {
      VARVE_TRY_ASSIGN(const bool done, self.move_one_home(chunks[i]));
      if (done) ++moved;
    }
    return {};
  };
  /// Those that were given to others work on what is on this stack, until they have ended.
  struct Shares {
    std::vector<std::future<Status>> all;
    ~Shares() {
      for (auto& share : all) {
        if (share.valid()) share.wait();
      }
    }
  } shares;
  const std::size_t helpers = movers == nullptr ? 0 : std::min(movers->thread_count(), chunks.size() / kFewestMoves);
  shares.all.reserve(helpers);
  for (std::size_t i = 0; i < helpers; ++i) {
    shares.all.push_back(submit_to(*movers, move_some));
  }
  Status all = move_some();
  for (auto& share : shares.all) {
    if (Status done = share.get(); all) all = std::move(done);
  }
  if (moved > 0) {
    if (Status flushed = self.flush(); all) all = std::move(flushed);
  }
  VARVE_TRY(all);
  return moved;
}

// --- giving storage back ---

/// Whether nothing of the piece holds storage; then all of the hole that it lies in is passed over. After a kill the
/// whole image is looked through: what it does not hold must not take hours.
Result<bool> LiveDisk::Implementation::pass_over_hole(const Released::Homes& piece) {
  VARVE_TRY_ASSIGN(const ByteOffset data, home->next_data(geometry.start_of(piece.first)));
  if (data < geometry.start_of(piece.first + piece.count)) return false;
  MutexLock lock(state_mutex);
  // This thread alone takes from the list: what is in front is the rest of the range that the piece was cut from, or
  // the next one.
  if (homes_to_punch.empty() || homes_to_punch.front().first != piece.first + piece.count) return true;
  Released::Homes& rest = homes_to_punch.front();
  const std::uint64_t until = std::min(data.value() / geometry.chunk_size().value(), (rest.first + rest.count).value());
  rest.count = (rest.first + rest.count) - ChunkIndex{until};
  rest.first = ChunkIndex{until};
  if (rest.count == ChunkCount{0}) homes_to_punch.pop_front();
  return true;
}

Status LiveDisk::Implementation::punch_homes() {
  for (std::size_t punches = 0; punches < kPunchesPerSlice; ++punches) {
    Released::Homes piece;
    bool skip = false;
    {
      MutexLock lock(state_mutex);
      if (homes_to_punch.empty()) return {};
      Released::Homes& next = homes_to_punch.front();
      piece = {next.first, ChunkCount{std::min<std::uint64_t>(next.count.value(), kPieceChunks)}};
      // A run that is at Home is passed over whole, however long.
      const PlaceRun run = state.places().run_at(next.first, next.first + next.count);
      skip = run.place.kind == PlaceKind::home || run.place.kind == PlaceKind::detour;
      const ChunkCount step = skip ? run.count : piece.count;
      next.first += step;
      next.count = next.count - step;
      if (next.count == ChunkCount{0}) homes_to_punch.pop_front();
    }
    if (skip) continue;
    VARVE_TRY_ASSIGN(const bool hole, pass_over_hole(piece));
    if (hole) continue;
    // Exclusive: no reader of the old place is left, and no writer chooses this Home meanwhile.
    SharedLock shared(gate);
    const auto count = static_cast<std::size_t>(piece.count.value());
    Stripes::Lock lock(stripes, piece.first, count, Stripes::Lock::Mode::exclusive);
    std::size_t begin = 0;
    while (begin < count) {
      std::size_t end = begin;
      {
        MutexLock state_lock(state_mutex);
        const auto free = [&](std::size_t i) VARVE_NO_ANALYSIS {
          const ChunkIndex chunk = piece.first + ChunkCount{i};
          const PlaceKind kind = state.places().get(chunk).kind;
          // What is in a detour comes home soon.
          return kind != PlaceKind::home && kind != PlaceKind::detour && home_is_free(chunk) &&
                 chunk.value() < home_chunks;
        };
        while (end < count && free(end)) ++end;
      }
      if (end > begin) {
        auto punched = home->punch(geometry.start_of(piece.first + ChunkCount{begin}),
                                   geometry.bytes_in(ChunkCount{end - begin}));
        if (!punched && punched.error().code != EOPNOTSUPP) return punched;
      }
      begin = end + 1;
    }
  }
  return {};
}

/// A slot on its way is in nobody's list: no writer can take it. Readers of its old chunk held that chunk's lock when
/// the place was left, or hold it now: taking the lock once waits for them.
void LiveDisk::Implementation::free_left_slots() {
  std::vector<Slot> slots;
  {
    MutexLock lock(state_mutex);
    slots.swap(left_slots);
  }
  if (slots.empty()) return;
  for (std::uint64_t stripe = 0; stripe < kStripes; ++stripe) {
    Stripes::Lock barrier(stripes, ChunkIndex{stripe}, 1, Stripes::Lock::Mode::exclusive);
  }
  MutexLock lock(state_mutex);
  stored_slots.insert(slots.begin(), slots.end());
}

/// Punching waits for all direct writes to the file and they for it: slot by slot, while others are being written, it cost
/// the guest nine of ten writes. So free slots keep their storage as long as there is enough of it, but for those that were
/// too many all through the last period.
void LiveDisk::Implementation::find_surplus_slots() {
  {
    MutexLock lock(state_mutex);
    if (stored_slots.empty()) return;  // as with most disks, most of the time: no need to ask the filesystem
  }
  bool short_of_space = false;
  if (const auto capacity = storage.capacity()) {
    const ByteCount little{std::max(capacity->total.value() / kLittleSpaceShare, kLittleSpace)};
    short_of_space = capacity->available < little;
  }
  MutexLock lock(state_mutex);
  const auto now = std::chrono::steady_clock::now();
  if (short_of_space || options.keep_slots == std::chrono::milliseconds{0}) {
    surplus_slots = stored_slots.size();
  } else if (now - stored_slots_since >= options.keep_slots) {
    surplus_slots = fewest_stored_slots;
    fewest_stored_slots = stored_slots.size();
    stored_slots_since = now;
  }
  surplus_slots = std::min(surplus_slots, stored_slots.size());
}

/// Storage of surplus slots goes back, in runs.
Status LiveDisk::Implementation::punch_slots() {
  find_surplus_slots();
  for (std::size_t punches = 0; punches < kPunchesPerSlice; ++punches) {
    Slot first = 0;
    Slot end = 0;
    {
      MutexLock lock(state_mutex);
      surplus_slots = std::min(surplus_slots, stored_slots.size());
      if (surplus_slots == 0) return {};
      // From the end: writers take from the front.
      first = end = *stored_slots.rbegin() + 1;
      while (first > 0 && surplus_slots > 0 && end - first < kPreparedSlots && stored_slots.erase(first - 1) != 0) {
        --first;
        --surplus_slots;
      }
      fewest_stored_slots = std::min(fewest_stored_slots, stored_slots.size());
      prepared_slots = {};
    }
    auto punched = detour->punch(offset_of(ChunkIndex{0}, {PlaceKind::detour, first}),
                                 geometry.bytes_in(ChunkCount{end - first}));
    // A copying filesystem that is full may have space for it later; others won't by being asked again.
    const bool again = !punched && punched.error().code == ENOSPC;
    {
      MutexLock lock(state_mutex);
      auto& to = again ? stored_slots : free_slots;
      for (Slot slot = first; slot < end; ++slot) to.insert(slot);
    }
    if (!punched && punched.error().code != EOPNOTSUPP) return punched;
  }
  return {};
}

/// L keeps maps alive: once no chunk is Base, it need not.
Status LiveDisk::Implementation::clear_segments() {
  ExclusiveLock exclusive(gate);
  MutexLock lock(state_mutex);
  if (state.segments().size() == 0 || state.places().count(PlaceKind::base) != 0) return {};
  return record_and_apply(record::SegmentsCleared{});
}

// --- compaction ---

Status LiveDisk::Implementation::compact_journal() {
  {
    MutexLock lock(state_mutex);
    const std::uint64_t size = journal->end();
    if (size < options.compact_journal_at || size < 4 * compacted_bytes) return {};
  }
  VARVE_TRY(flush());
  // Nobody changes anything or flushes while the state is written; the bulk was flushed before.
  begin_flush_turn();
  Status done = [this]() -> Status {
    ExclusiveLock exclusive(gate);
    VARVE_TRY(refuse_if_latched());
    VARVE_TRY(sync_data());
    MutexLock lock(state_mutex);
    auto compacted = Journal::create(storage, directory, id, geometry, state.encode());
    if (!compacted) {
      if (compacted.error().kind == ErrorKind::latched) latch("compacting the journal", compacted.error());
      return tl::unexpected(std::move(compacted).error());
    }
    journal = std::move(*compacted);
    journal->set_witness(witness.get());
    compacted_bytes = journal->end();
    release_sealed(~std::uint64_t{0});
    return {};
  }();
  end_flush_turn();
  return done;
}

Status LiveDisk::tidy() {
  auto& self = *implementation_;
  if (self.latched) return {};
  self.free_left_slots();
  const Status slots_punched = self.punch_slots();
  const Status homes_punched = self.punch_homes();
  VARVE_TRY(self.clear_segments());
  VARVE_TRY(self.compact_journal());
  VARVE_TRY(slots_punched);
  return homes_punched;
}

}  // namespace varve::disk
