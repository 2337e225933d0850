// The live image: reading, writing, flushing.
//
// Invariants (the rules of DESIGN.md's section on the live disk, as this code keeps them)
//  1. What is on the disk is what the journal says. A place changes in three steps, under the chunk's exclusive lock:
//     the whole chunk is written at the new place; the record is appended; memory follows. A crash between any two
//     leaves the old place, untouched. (Of a chunk that leaves a pinned Home only some blocks: partial.cpp.)
//  2. A block is marked in the current change map before it is written. A spurious mark costs a block, a missing one
//     loses data.
//  3. A pinned place is never written. c's place X is pinned while some pending snapshot j finds c at X, and c is one
//     of the chunks that j reads from its place: those its frozen map has, or all while that map is not durable (a power
//     loss would take the map, and then j must read all its chunks from their places). c's Home is also pinned while a
//     partial slot of c is named.
//  4. Whoever reads at a place holds the chunk's lock; whoever gives a place to another use has held it exclusively
//     since the place was left. So a reader finds old bytes or new ones, never another chunk's.
//  5. A slot or Home that a record let go of is reused or punched only after a seal behind that record (rule 1).
//  6. Once a sync failed nothing is acknowledged as durable until the disk is opened again (rule 7).
//
// Places of a live chunk, and what moves it
//
//              write (Home free)              write (Home pinned or unsealed)
//     Zero  ------------------------> Home    ------------------------------> Detour
//     Base  ------------------------> Home    ------------------------------> Detour
//     Home  -- write, not pinned ---> Home    -- write, pinned -------------> Detour
//     Detour - write, not pinned ---> Detour  -- write, pinned -------------> Home if free, else another Detour
//     Detour - move_home, Home free -> Home   (free but for this very slot, when it is partial)
//     any   -- zero, shrink, remove -> Zero   -- splice, replace -----------> Base
//     any   -- write of the whole chunk, and the bytes are what L has ------> Base, without a byte being stored
#include "varve/disk/live_disk.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "implementation.h"
#include "varve/core/log.h"

namespace varve::disk {

// --- Stripes ---

Stripes::Lock::Lock(Stripes& stripes, ChunkIndex first, std::size_t count, Mode mode) : stripes_(stripes), mode_(mode) {
  // Consecutive chunks have consecutive stripes, all different as long as there are fewer than kStripes.
  for (std::size_t i = 0; i < count; ++i) held_[i] = static_cast<std::uint16_t>((first.value() + i) % kStripes);
  count_ = count;
  std::sort(held_.begin(), held_.begin() + static_cast<std::ptrdiff_t>(count_));
  for (std::size_t i = 0; i < count_; ++i) {
    if (mode_ == Mode::shared) {
      stripes_.locks_[held_[i]].lock_shared();
    } else {
      stripes_.locks_[held_[i]].lock();
    }
  }
}

Stripes::Lock::~Lock() {
  for (std::size_t i = count_; i-- > 0;) {
    if (mode_ == Mode::shared) {
      stripes_.locks_[held_[i]].unlock_shared();
    } else {
      stripes_.locks_[held_[i]].unlock();
    }
  }
}

// --- small steps ---

LiveDisk::Implementation::Implementation(os::Storage& storage_in, os::VolatileStorage& maps_in,
                                         std::string directory_in, DiskId id_in, Geometry geometry_in,
                                         BaseSource& base_in, const LiveDiskOptions& options_in)
    : storage(storage_in),
      volatile_storage(maps_in),
      directory(std::move(directory_in)),
      id(id_in),
      geometry(geometry_in),
      base(base_in),
      options(options_in),
      chunk_buffers(geometry_in.chunk_bytes(), 16),
      bounce_buffers(kBounceBytes, 8),
      state(geometry_in) {}

void LiveDisk::Implementation::latch(std::string_view what, const Error& error) {
  if (!latched.exchange(true)) {
    // What a failed sync dropped may be what unsealed records speak of: the next open must not believe them (rule 9).
    if (witness != nullptr) witness->disown();
    log::error("disk {}: {} failed, nothing is durable until it is opened again: {}", id.value(), what, error.message);
  }
}

Status LiveDisk::Implementation::refuse_if_latched() const {
  if (!latched) return {};
  return fail(EIO, ErrorKind::latched,
              fmt::format("an earlier sync of disk {} failed; unmount and mount the store again", id.value()));
}

Status LiveDisk::Implementation::refuse_if_absent() const {
  if (state.exists()) return {};
  return fail(ENOENT, ErrorKind::absent, fmt::format("disk {} has no live image", id.value()));
}

Status LiveDisk::Implementation::record_and_apply(const Record& record) {
  const auto* splice = std::get_if<record::Splice>(&record);
  const bool may_free_roots =
      (splice != nullptr && state.segments().overlaps(ChunkIndex{splice->first}, ChunkCount{splice->count})) ||
      std::holds_alternative<record::Replace>(record) || std::holds_alternative<record::Image>(record) ||
      std::holds_alternative<record::SegmentsCleared>(record) ||
      std::holds_alternative<record::ParentReplaced>(record) ||
      std::holds_alternative<record::Committed>(record) || std::holds_alternative<record::PendingDropped>(record);
  const auto roots = may_free_roots ? named_roots() : std::vector<OpaqueRoot>{};
  VARVE_TRY(journal->append(record));
  Released released;
  if (auto applied = state.apply(record, released); !applied) {
    // The record was made from the state it is applied to: this is a bug, and the journal has it.
    latch("applying a record", applied.error());
    return applied;
  }
  const std::uint64_t position = journal->end();
  for (const Slot slot : released.slots) unsealed_slots.emplace_back(position, slot);
  for (const auto& homes : released.homes) unsealed_homes.add(homes.first, homes.count, position);
  if (!roots.empty()) {
    const auto left = named_roots();
    for (const OpaqueRoot& root : roots) {
      if (!std::binary_search(left.begin(), left.end(), root)) unsealed_roots.emplace_back(position, root);
    }
  }
  return {};
}

bool LiveDisk::Implementation::pinned_by_pending(ChunkIndex chunk, Place place) const {
  // From the newest to the oldest, with the place that the chunk had at each freeze: one pass, however many are
  // pending.
  Place then = state.places().get(chunk);
  for (std::size_t i = frozen.size(); i-- > 0;) {
    then = state.pending()[i].saved.get(chunk).value_or(then);
    const Frozen& f = *frozen[i];
    if (chunk.value() >= f.chunks.value()) continue;
    if (f.map_durable && !f.changed(chunk, blocks_per_chunk())) continue;
    if (state.inherited_place(i, chunk).value_or(then) == place) return true;
  }
  return false;
}

bool LiveDisk::Implementation::pinned(ChunkIndex chunk, Place place) const {
  return (place.kind == PlaceKind::home && state.partial_slots(chunk) > 0) || pinned_by_snapshot(chunk, place);
}

bool LiveDisk::Implementation::pinned_by_snapshot(ChunkIndex chunk, Place place) const {
  if (pinned_by_pending(chunk, place)) return true;
  // Gone from memory, not yet from the sealed journal. Which place it had is not known any more: any.
  for (const auto& [position, f] : unsealed_snapshots) {
    if (chunk.value() < f->chunks.value() && (!f->map_durable || f->changed(chunk, blocks_per_chunk()))) return true;
  }
  return false;
}

bool LiveDisk::Implementation::home_is_free(ChunkIndex chunk) const {
  return !unsealed_homes.contains(chunk) && !pinned(chunk, {PlaceKind::home, 0});
}

Resolved LiveDisk::Implementation::resolve_live(ChunkIndex chunk) const {
  Resolved resolved{state.places().get(chunk), {}, {}};
  resolved.blocks = state.blocks_at(chunk, resolved.place);
  if (resolved.place.kind == PlaceKind::base) {
    if (const auto found = state.segments().find(chunk)) {
      resolved.root = found->root;
      resolved.source = found->source;
    }
  }
  return resolved;
}

/// Space for the slots that come next, at once: a block that the filesystem must find for each small write costs three
/// times the write. Not for a few: then it is the space that counts. Failing that, they are written all the same.
void LiveDisk::Implementation::prepare_slots() {
  if (!state.has_block_masks()) return;
  const Slot first = free_slots.empty() ? slot_count : *free_slots.begin();
  if (first >= prepared_slots.first && first < prepared_slots.second) return;
  Slot end = first;
  for (auto it = free_slots.begin(); it != free_slots.end() && *it == end && end - first < kPreparedSlots; ++it) ++end;
  if (end == slot_count && slot_count >= kPreparedSlots) end = first + kPreparedSlots;
  if (end - first < kPreparedSlots) return;
  prepared_slots = {first, end};
  const ByteOffset at = offset_of(ChunkIndex{0}, {PlaceKind::detour, first});
  (void)detour->preallocate(at, geometry.bytes_in(ChunkCount{kPreparedSlots}));
}

Slot LiveDisk::Implementation::take_slot() {
  // One that lies far behind the others would keep the file long for ever.
  if (!stored_slots.empty() && (free_slots.empty() || *stored_slots.begin() < *free_slots.begin() + kMostSlotsPassed)) {
    const Slot slot = stored_slots.extract(stored_slots.begin()).value();
    fewest_stored_slots = std::min(fewest_stored_slots, stored_slots.size());
    return slot;
  }
  prepare_slots();
  if (!free_slots.empty()) return free_slots.extract(free_slots.begin()).value();
  return slot_count++;
}

/// One that was taken and that no record names.
void LiveDisk::Implementation::give_back_slot(Slot slot) {
  MutexLock lock(state_mutex);
  stored_slots.insert(slot);
}

ByteOffset LiveDisk::Implementation::offset_of(ChunkIndex chunk, Place place) const {
  if (place.kind == PlaceKind::detour) return ByteOffset{std::uint64_t{place.slot} * geometry.chunk_size().value()};
  return geometry.start_of(chunk);
}


void LiveDisk::Implementation::mark_blocks(ByteOffset at, std::uint64_t count) {
  const std::uint64_t first = at.value() / kBlockSize;
  const std::uint64_t last = (at.value() + count - 1) / kBlockSize;
  live_maps.front()->mark(first, last - first + 1);
}

void LiveDisk::Implementation::mark_chunks(ChunkIndex first, ChunkCount count) {
  live_maps.front()->mark(first.value() * blocks_per_chunk(), count.value() * blocks_per_chunk());
}

// --- the image as a whole ---

bool LiveDisk::exists() const {
  MutexLock lock(implementation_->state_mutex);
  return implementation_->state.exists();
}

ImageInfo LiveDisk::info() const {
  const auto& self = *implementation_;
  MutexLock lock(self.state_mutex);
  ImageInfo info;
  info.exists = self.state.exists();
  info.incarnation = self.state.incarnation();
  info.size = self.state.size();
  const std::uint64_t held = self.state.places().count(PlaceKind::home) + self.state.places().count(PlaceKind::detour);
  info.allocated = self.geometry.bytes_in(ChunkCount{held});
  info.modified = Time{self.modified.load()};
  return info;
}

Status LiveDisk::create_image() {
  auto& self = *implementation_;
  VARVE_TRY(self.refuse_if_latched());
  {
    ExclusiveLock exclusive(self.gate);
    MutexLock lock(self.state_mutex);
    if (self.state.exists()) return fail_refused(EEXIST, "there is a live image already");
    VARVE_TRY(self.record_and_apply(record::Image{self.state.incarnation().value() + 1, 1}));
    self.modified = now().nanoseconds;
  }
  return self.flush();
}

Status LiveDisk::remove_image() {
  auto& self = *implementation_;
  VARVE_TRY(self.refuse_if_latched());
  {
    ExclusiveLock exclusive(self.gate);
    MutexLock lock(self.state_mutex);
    VARVE_TRY(self.refuse_if_absent());
    VARVE_TRY(self.record_and_apply(record::Image{self.state.incarnation().value(), 0}));
    // No more is there to be refused.
    if (self.options.after_size) self.options.after_size(ByteCount{0});
  }
  return self.flush();
}

Status LiveDisk::splice(ChunkIndex first, ChunkCount count, const OpaqueRoot& root, ChunkIndex source,
                        ByteCount size_at_least) {
  auto& self = *implementation_;
  if (count == ChunkCount{0}) return {};
  const ByteCount most = self.geometry.max_image_size();
  if ((first + count).value() > kMaxChunksPerImage || size_at_least > most ||
      (source + count).value() > kMaxChunksPerImage) {
    return fail_refused(EFBIG, fmt::format("no image can be larger than {} bytes", most.value()));
  }
  ExclusiveLock exclusive(self.gate);
  ByteCount size;
  {
    MutexLock lock(self.state_mutex);
    VARVE_TRY(self.refuse_if_absent());
    if (self.state.segments().size() >= Segments::kMax) {
      return fail_refused(E2BIG, "the live image shares too many pieces already; copy bytes");
    }
    size = std::max(self.state.size(), size_at_least);
    if (first + count > ChunkIndex{self.geometry.chunks_in(size).value()}) {
      return fail_refused(EINVAL, "a splice behind the image's end");
    }
  }
  Implementation::SizeChange change(self);
  VARVE_TRY(change.ask(size));
  VARVE_TRY(self.clear_tail());
  VARVE_TRY(self.make_room(size));
  self.mark_chunks(first, count);
  MutexLock lock(self.state_mutex);
  VARVE_TRY(self.record_and_apply(
      record::Splice{first.value(), count.value(), root, source.value(), size.value()}));
  self.modified = now().nanoseconds;
  return {};
}

Status LiveDisk::replace(ByteCount size, const OpaqueRoot& root) {
  auto& self = *implementation_;
  VARVE_TRY(self.refuse_if_latched());
  if (size > self.geometry.max_image_size()) {
    return fail_refused(EFBIG, fmt::format("no image can be larger than {} bytes",
                                           self.geometry.max_image_size().value()));
  }
  {
    ExclusiveLock exclusive(self.gate);
    Implementation::SizeChange change(self);
    VARVE_TRY(change.ask(size));
    VARVE_TRY(self.make_room(size));
    MutexLock lock(self.state_mutex);
    const ChunkCount touched = std::max(self.state.chunks(), self.geometry.chunks_in(size));
    self.mark_chunks(ChunkIndex{0}, touched);
    const std::uint64_t incarnation = self.state.incarnation().value() + (self.state.exists() ? 0 : 1);
    VARVE_TRY(self.record_and_apply(record::Replace{incarnation, size.value(), root}));
    self.modified = now().nanoseconds;
  }
  return self.flush();
}

bool LiveDisk::in_use(std::chrono::milliseconds within) const {
  return std::chrono::steady_clock::now() - implementation_->last_request.load(std::memory_order_relaxed) <= within;
}

Status LiveDisk::set_modified(Time time) {
  auto& self = *implementation_;
  MutexLock lock(self.state_mutex);
  VARVE_TRY(self.refuse_if_absent());
  VARVE_TRY(self.record_and_apply(record::Modified{time.nanoseconds}));
  self.modified = time.nanoseconds;
  return {};
}

// --- the rest ---

LiveDisk::LiveDisk() = default;
LiveDisk::~LiveDisk() = default;

Opened LiveDisk::how_opened() const { return implementation_->opened; }
bool LiveDisk::latched() const { return implementation_->latched; }

LiveDiskCounters LiveDisk::counters() const {
  auto& self = *implementation_;
  LiveDiskCounters counters;
  SharedLock gate(self.gate);
  for (const auto& map : self.live_maps) {
    counters.changed_blocks += map->marked_blocks();
  }
  MutexLock lock(self.state_mutex);
  const bool all = self.state.all_changed() || std::any_of(self.live_maps.begin(), self.live_maps.end(),
                                                           [](const auto& map) { return map->all(); });
  if (all) counters.changed_blocks = self.state.chunks().value() * self.blocks_per_chunk();
  counters.home_chunks = self.state.places().count(PlaceKind::home);
  counters.detour_chunks = self.state.places().count(PlaceKind::detour);
  counters.base_chunks = self.state.places().count(PlaceKind::base);
  counters.slots = self.slot_count;
  counters.free_slots = self.free_slots.size() + self.stored_slots.size();
  counters.stored_slots = self.stored_slots.size();
  counters.surplus_slots = self.surplus_slots;
  counters.partial_slots = self.state.partial_slots();
  counters.segments = self.state.segments().size();
  counters.journal_bytes = self.journal->end();
  for (const Released::Homes& homes : self.homes_to_punch) counters.unswept_chunks += homes.count.value();
  return counters;
}

}  // namespace varve::disk
