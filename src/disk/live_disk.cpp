// The live image: reading, writing, flushing.
//
// Invariants (the rules of DESIGN.md's section on the live disk, as this code keeps them)
//  1. What is on the disk is what the journal says. A place changes in three steps, under the chunk's exclusive lock:
//     the whole chunk is written at the new place; the record is appended; memory follows. A crash between any two
//     leaves the old place, untouched.
//  2. A block is marked in the current change map before it is written. A spurious mark costs a block, a missing one
//     loses data.
//  3. A pinned place is never written. c's place X is pinned while some pending snapshot j finds c at X, and c is one of
//     the chunks that j reads from its place: those its frozen map has, or all while that map is not durable (a power
//     loss would take the map, and then j must read all its chunks from their places).
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
//     Detour - move_home, Home free -> Home
//     any   -- zero, shrink, remove -> Zero   -- splice, replace -----------> Base
#include "varve/disk/live_disk.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "implementation.h"
#include "varve/core/log.h"

namespace varve::disk {
namespace {

bool aligned(std::uint64_t value, std::uint64_t to) { return value % to == 0; }

}  // namespace

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

bool LiveDisk::Implementation::pinned(ChunkIndex chunk, Place place) const {
  // From the newest to the oldest, with the place that the chunk had at each freeze: one pass, however many are pending.
  Place then = state.places().get(chunk);
  for (std::size_t i = frozen.size(); i-- > 0;) {
    then = state.pending()[i].saved.get(chunk).value_or(then);
    const Frozen& f = *frozen[i];
    if (chunk.value() >= f.chunks.value()) continue;
    if (f.map_durable && !f.changed(chunk, blocks_per_chunk())) continue;
    if (state.inherited_place(i, chunk).value_or(then) == place) return true;
  }
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
  if (resolved.place.kind == PlaceKind::base) {
    if (const auto found = state.segments().find(chunk)) {
      resolved.root = found->root;
      resolved.source = found->source;
    }
  }
  return resolved;
}

Slot LiveDisk::Implementation::take_slot() {
  if (!free_slots.empty()) return free_slots.extract(free_slots.begin()).value();
  return slot_count++;
}

/// One that was taken and that no record names.
void LiveDisk::Implementation::give_back_slot(Slot slot) {
  MutexLock lock(state_mutex);
  free_slots.insert(slot);
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

// --- files: O_DIRECT wants everything aligned ---

Status LiveDisk::Implementation::read_file(const os::File& file, ByteOffset at, std::span<std::byte> out) {
  const std::size_t grain = file.alignment();
  const auto whole = [&](ByteOffset from, std::span<std::byte> into) -> Status {
    VARVE_TRY_ASSIGN(const std::size_t got, file.read(from, into));
    if (got == into.size()) return {};
    return fail_damaged(fmt::format("disk {}: a file of the live image is cut short at {}", id.value(),
                                    from.value() + got));
  };
  const bool fits = aligned(at.value(), grain) && aligned(out.size(), grain) &&
                    aligned(reinterpret_cast<std::uintptr_t>(out.data()), grain);
  if (fits) return whole(at, out);
  auto bounce = bounce_buffers.take();
  while (!out.empty()) {
    const std::uint64_t start = at.value() / kBlockSize * kBlockSize;
    const std::size_t skip = static_cast<std::size_t>(at.value() - start);
    const std::size_t count = std::min(out.size(), bounce.span().size() - skip);
    const std::size_t span = (skip + count + kBlockSize - 1) / kBlockSize * kBlockSize;
    VARVE_TRY(whole(ByteOffset{start}, bounce.span().first(span)));
    std::memcpy(out.data(), bounce.span().data() + skip, count);
    out = out.subspan(count);
    at += ByteCount{count};
  }
  return {};
}

/// Offset and length are whole blocks; the memory may lie anywhere.
Status LiveDisk::Implementation::write_file(os::File& file, ByteOffset at, std::span<const std::byte> bytes) {
  if (aligned(reinterpret_cast<std::uintptr_t>(bytes.data()), file.alignment())) return file.write(at, bytes);
  auto bounce = bounce_buffers.take();
  while (!bytes.empty()) {
    const std::size_t count = std::min(bytes.size(), bounce.span().size());
    std::memcpy(bounce.span().data(), bytes.data(), count);
    VARVE_TRY(file.write(at, bounce.span().first(count)));
    bytes = bytes.subspan(count);
    at += ByteCount{count};
  }
  return {};
}

/// Noted after the write: a flush that began before need not cover it, one that begins after does. Also when it failed:
/// what it did write is in the image, and in the next snapshot.
Status LiveDisk::Implementation::write_noted(Place place, ByteOffset at, std::span<const std::byte> bytes) {
  Status written = write_file(file_of(place), at, bytes);
  (place.kind == PlaceKind::home ? home_dirty : detour_dirty) = true;
  return written;
}

Status LiveDisk::Implementation::read_base(const OpaqueRoot& root, ChunkIndex source, std::size_t within,
                                           std::span<std::byte> out) {
  if (root.empty()) {
    std::memset(out.data(), 0, out.size());
    return {};
  }
  if (out.size() == geometry.chunk_bytes()) return base.read_chunk(root, source, out);
  auto buffer = chunk_buffers.take();
  VARVE_TRY(base.read_chunk(root, source, buffer.span()));
  std::memcpy(out.data(), buffer.span().data() + within, out.size());
  return {};
}

// --- reading ---

/// At most kPieceChunks chunks. Base chunks are read after the locks were dropped: they may be far away.
Status LiveDisk::Implementation::read_piece(ByteOffset at, std::span<std::byte> out) {
  const ChunkIndex first = geometry.chunk_of(at);
  const std::size_t count = static_cast<std::size_t>(
      (geometry.chunk_of(at + ByteCount{out.size() - 1}) - first).value() + 1);
  std::array<Resolved, kPieceChunks> where;
  bool any_base = false;
  const auto part_of = [&](std::size_t i, std::size_t chunks) {
    const std::uint64_t begin = std::max(at.value(), geometry.start_of(first + ChunkCount{i}).value());
    const std::uint64_t end =
        std::min(at.value() + out.size(), geometry.start_of(first + ChunkCount{i + chunks}).value());
    return std::pair(ByteOffset{begin}, out.subspan(static_cast<std::size_t>(begin - at.value()),
                                                    static_cast<std::size_t>(end - begin)));
  };
  {
    Stripes::Lock lock(stripes, first, count, Stripes::Lock::Mode::shared);
    {
      MutexLock state_lock(state_mutex);
      for (std::size_t i = 0; i < count; ++i) where[i] = resolve_live(first + ChunkCount{i});
    }
    for (std::size_t i = 0; i < count;) {
      const Place place = where[i].place;
      std::size_t run = 1;
      if (place.kind == PlaceKind::home) {
        while (i + run < count && where[i + run].place.kind == PlaceKind::home) ++run;
      }
      const auto [from, part] = part_of(i, run);
      switch (place.kind) {
        case PlaceKind::zero:
          std::memset(part.data(), 0, part.size());
          break;
        case PlaceKind::base:
          any_base = true;
          break;
        case PlaceKind::home:
          VARVE_TRY(read_file(*home, from, part));
          break;
        case PlaceKind::detour: {
          const std::size_t within = geometry.within_chunk(from);
          VARVE_TRY(read_file(*detour, offset_of(first, place) + ByteCount{within}, part));
          break;
        }
      }
      i += run;
    }
  }
  for (std::size_t i = 0; any_base && i < count; ++i) {
    if (where[i].place.kind != PlaceKind::base) continue;
    const auto [from, part] = part_of(i, 1);
    auto read = read_base(where[i].root, where[i].source, geometry.within_chunk(from), part);
    if (read) continue;
    Resolved now;
    {
      MutexLock state_lock(state_mutex);
      now = resolve_live(first + ChunkCount{i});
    }
    // The chunk was overwritten or replaced meanwhile, and what its Base stood on may be collected: look again.
    if (now == where[i]) return read;
    VARVE_TRY(read_piece(from, part));
  }
  return {};
}

Result<std::size_t> LiveDisk::read(ByteOffset at, std::span<std::byte> out) {
  auto& self = *implementation_;
  std::uint64_t size = 0;
  {
    MutexLock lock(self.state_mutex);
    VARVE_TRY(self.refuse_if_absent());
    size = self.state.size().value();
  }
  if (at.value() >= size) return 0;
  out = out.first(static_cast<std::size_t>(std::min<std::uint64_t>(out.size(), size - at.value())));
  const std::size_t total = out.size();
  const std::uint64_t piece_bytes = kPieceChunks * self.geometry.chunk_size().value();
  while (!out.empty()) {
    const std::uint64_t left = piece_bytes - at.value() % self.geometry.chunk_size().value();
    const auto piece = out.first(static_cast<std::size_t>(std::min<std::uint64_t>(out.size(), left)));
    VARVE_TRY(self.read_piece(at, piece));
    out = out.subspan(piece.size());
    at += ByteCount{piece.size()};
  }
  return total;
}

bool LiveDisk::reads_base(ByteOffset at, ByteCount count) const {
  const auto& self = *implementation_;
  if (count == ByteCount{0}) return false;
  MutexLock lock(self.state_mutex);
  const PlaceMap& places = self.state.places();
  if (places.count(PlaceKind::base) == 0) return false;
  const ChunkIndex end = self.geometry.chunk_of(ByteOffset{at.value() + count.value() - 1}) + ChunkCount{1};
  for (ChunkIndex c = self.geometry.chunk_of(at); c < end;) {
    const PlaceRun run = places.run_at(c, end);
    if (run.place.kind == PlaceKind::base) return true;
    c += run.count;
  }
  return false;
}

/// Only chunks that are written in part are asked for: the first or the last.
bool LiveDisk::writes_base(ByteOffset at, ByteCount count) const {
  const auto& self = *implementation_;
  if (count == ByteCount{0}) return false;
  const ByteOffset end = at + count;
  MutexLock lock(self.state_mutex);
  const PlaceMap& places = self.state.places();
  if (places.count(PlaceKind::base) == 0) return false;
  const auto partly = [&](ChunkIndex chunk) {
    const ByteOffset start = self.geometry.start_of(chunk);
    return start < at || end < start + self.geometry.chunk_size();
  };
  const ChunkIndex first = self.geometry.chunk_of(at);
  const ChunkIndex last = self.geometry.chunk_of(ByteOffset{end.value() - 1});
  return (partly(first) && places.get(first).kind == PlaceKind::base) ||
         (partly(last) && places.get(last).kind == PlaceKind::base);
}

// --- writing ---

Result<std::optional<Fill>> LiveDisk::Implementation::fetch_fill(ChunkIndex chunk) {
  Resolved resolved;
  {
    MutexLock lock(state_mutex);
    resolved = resolve_live(chunk);
  }
  if (resolved.place.kind != PlaceKind::base) return std::nullopt;
  Fill fill{chunk, resolved.root, resolved.source, std::make_shared<AlignedBuffer>(geometry.chunk_bytes())};
  auto read = read_base(fill.root, fill.source, 0, fill.bytes->span());
  if (read) return fill;
  MutexLock lock(state_mutex);
  // Replaced meanwhile: what was asked for may be gone. Whoever uses the fills finds it out of date.
  if (resolve_live(chunk) != resolved) return std::nullopt;
  return tl::unexpected(std::move(read).error());
}

/// Base chunks that a write covers in part: at most its first and its last.
Result<std::vector<Fill>> LiveDisk::Implementation::fetch_fills(ByteOffset at, std::uint64_t count) {
  std::vector<Fill> fills;
  const ByteOffset end = at + ByteCount{count};
  const ChunkIndex first = geometry.chunk_of(at);
  const ChunkIndex last = geometry.chunk_of(ByteOffset{end.value() - 1});
  const bool first_part = geometry.within_chunk(at) != 0 || end < geometry.start_of(first + ChunkCount{1});
  const bool last_part = last != first && geometry.within_chunk(end) != 0;
  for (const auto& [chunk, wanted] : {std::pair(first, first_part), std::pair(last, last_part)}) {
    if (!wanted) continue;
    VARVE_TRY_ASSIGN(auto fill, fetch_fill(chunk));
    if (fill) fills.push_back(std::move(*fill));
  }
  return fills;
}

Status LiveDisk::write(ByteOffset at, std::span<const std::byte> bytes) {
  auto& self = *implementation_;
  if (bytes.empty()) return {};
  const ByteCount most = self.geometry.max_image_size();
  if (at.value() > most.value() || bytes.size() > most.value() - at.value()) {
    return fail_refused(EFBIG, fmt::format("no image can be larger than {} bytes", most.value()));
  }
  const ByteCount end{at.value() + bytes.size()};
  for (;;) {
    VARVE_TRY_ASSIGN(const auto fills, self.fetch_fills(at, bytes.size()));
    bool grow = false;
    {
      SharedLock gate(self.gate);
      {
        MutexLock lock(self.state_mutex);
        VARVE_TRY(self.refuse_if_absent());
        grow = self.state.size() < end;
      }
      if (!grow) {
        VARVE_TRY_ASSIGN(const bool written, self.write_in_gate(at, bytes, fills));
        if (written) return {};
      }
    }
    if (grow) VARVE_TRY(self.grow(end));
  }
}

Result<bool> LiveDisk::Implementation::write_in_gate(ByteOffset at, std::span<const std::byte> bytes,
                                                     const std::vector<Fill>& fills) {
  const std::uint64_t chunk_size = geometry.chunk_size().value();
  while (!bytes.empty()) {
    const std::uint64_t left = kPieceChunks * chunk_size - at.value() % chunk_size;
    const auto piece = bytes.first(static_cast<std::size_t>(std::min<std::uint64_t>(bytes.size(), left)));
    VARVE_TRY_ASSIGN(const bool in_place, write_in_place(at, piece));
    if (!in_place) {
      ByteOffset from = at;
      auto rest = piece;
      while (!rest.empty()) {
        const std::size_t within = geometry.within_chunk(from);
        const auto part = rest.first(std::min(rest.size(), geometry.chunk_bytes() - within));
        VARVE_TRY_ASSIGN(const bool written, write_chunk(geometry.chunk_of(from), within, part, fills));
        if (!written) return false;
        rest = rest.subspan(part.size());
        from += ByteCount{part.size()};
      }
    }
    bytes = bytes.subspan(piece.size());
    at += ByteCount{piece.size()};
  }
  modified = now().nanoseconds;
  return true;
}

/// Whole blocks to chunks that are all writable where they are: the steady state. False when it is not that.
Result<bool> LiveDisk::Implementation::write_in_place(ByteOffset at, std::span<const std::byte> bytes) {
  if (!aligned(at.value(), kBlockSize) || !aligned(bytes.size(), kBlockSize)) return false;
  const ChunkIndex first = geometry.chunk_of(at);
  const std::size_t count = static_cast<std::size_t>(
      (geometry.chunk_of(at + ByteCount{bytes.size() - 1}) - first).value() + 1);
  std::array<Place, kPieceChunks> where;
  Stripes::Lock lock(stripes, first, count, Stripes::Lock::Mode::shared);
  {
    MutexLock state_lock(state_mutex);
    for (std::size_t i = 0; i < count; ++i) {
      const ChunkIndex chunk = first + ChunkCount{i};
      where[i] = state.places().get(chunk);
      const bool writable = where[i].kind == PlaceKind::home || where[i].kind == PlaceKind::detour;
      if (!writable || pinned(chunk, where[i])) return false;
    }
  }
  mark_blocks(at, bytes.size());
  for (std::size_t i = 0; i < count;) {
    std::size_t run = 1;
    while (where[i].kind == PlaceKind::home && i + run < count && where[i + run].kind == PlaceKind::home) ++run;
    const std::size_t length = static_cast<std::size_t>(std::min<std::uint64_t>(
        bytes.size(), run * geometry.chunk_bytes() - geometry.within_chunk(at)));
    const ByteOffset to = offset_of(first + ChunkCount{i}, where[i]) + ByteCount{geometry.within_chunk(at)};
    VARVE_TRY(write_noted(where[i], to, bytes.first(length)));
    bytes = bytes.subspan(length);
    at += ByteCount{length};
    i += run;
  }
  return true;
}

/// Part of one chunk, in place by read-modify-write, or with the whole chunk to a new place. False: no fill, or one
/// that is out of date.
Result<bool> LiveDisk::Implementation::write_chunk(ChunkIndex chunk, std::size_t within,
                                                   std::span<const std::byte> bytes, const std::vector<Fill>& fills) {
  Stripes::Lock lock(stripes, chunk, 1, Stripes::Lock::Mode::exclusive);
  Resolved from;
  bool in_place = false;
  {
    MutexLock state_lock(state_mutex);
    from = resolve_live(chunk);
    const bool writable = from.place.kind == PlaceKind::home || from.place.kind == PlaceKind::detour;
    in_place = writable && !pinned(chunk, from.place);
  }
  const ByteOffset at = geometry.start_of(chunk) + ByteCount{within};
  if (in_place) {
    mark_blocks(at, bytes.size());
    VARVE_TRY(overwrite(chunk, from.place, within, bytes));
    return true;
  }

  auto buffer = chunk_buffers.take();
  const auto whole = buffer.span();
  if (bytes.size() < whole.size()) {
    // The rest of the chunk moves along; never trusting what the new place holds.
    if (from.place.kind == PlaceKind::zero) {
      std::memset(whole.data(), 0, whole.size());
    } else if (from.place.kind == PlaceKind::base) {
      const auto fill = std::find_if(fills.begin(), fills.end(), [&](const Fill& f) {
        return f.chunk == chunk && f.root == from.root && f.source == from.source;
      });
      if (fill == fills.end()) return false;
      std::memcpy(whole.data(), fill->bytes->data(), whole.size());
    } else {
      VARVE_TRY(read_file(file_of(from.place), offset_of(chunk, from.place), whole));
    }
  }
  std::memcpy(whole.data() + within, bytes.data(), bytes.size());

  Place to;
  {
    MutexLock state_lock(state_mutex);
    to = home_is_free(chunk) ? Place{PlaceKind::home, 0} : Place{PlaceKind::detour, take_slot()};
  }
  mark_blocks(at, bytes.size());
  auto written = write_noted(to, offset_of(chunk, to), whole);
  if (written) {
    MutexLock state_lock(state_mutex);
    written = record_and_apply(record::Places{chunk.value(), 1, to});
  }
  if (!written) {
    if (to.kind == PlaceKind::detour) give_back_slot(to.slot);
    return tl::unexpected(std::move(written).error());
  }
  return true;
}

/// Any bytes within a chunk that may be written in place; the chunk's lock is held exclusively.
Status LiveDisk::Implementation::overwrite(ChunkIndex chunk, Place place, std::size_t within,
                                           std::span<const std::byte> bytes) {
  const ByteOffset start = offset_of(chunk, place);
  if (aligned(within, kBlockSize) && aligned(bytes.size(), kBlockSize)) {
    VARVE_TRY(write_noted(place, start + ByteCount{within}, bytes));
  } else {
    const std::size_t begin = within / kBlockSize * kBlockSize;
    const std::size_t end = (within + bytes.size() + kBlockSize - 1) / kBlockSize * kBlockSize;
    auto buffer = chunk_buffers.take();
    const auto blocks = buffer.span().first(end - begin);
    VARVE_TRY(read_file(file_of(place), start + ByteCount{begin}, blocks));
    std::memcpy(blocks.data() + (within - begin), bytes.data(), bytes.size());
    VARVE_TRY(write_noted(place, start + ByteCount{begin}, blocks));
  }
  return {};
}

// --- size ---

/// home.img and the change map for an image of this size. Never shrinks them.
Status LiveDisk::Implementation::make_room(ByteCount size) {
  const std::uint64_t chunks = geometry.chunks_in(size).value();
  std::uint64_t have = 0;
  {
    MutexLock lock(state_mutex);
    have = home_chunks;
  }
  if (chunks > have) {
    VARVE_TRY(home->resize(geometry.bytes_in(ChunkCount{chunks})));
    home_dirty = true;
    MutexLock lock(state_mutex);
    home_chunks = chunks;
  }
  return live_maps.front()->set_blocks(chunks * blocks_per_chunk());
}

/// Before the image grows. A power loss may have taken back a growth and not the bytes that were written behind the old
/// end, in its last chunk: they must not appear when it grows again. Once per open, for nothing else leaves any.
Status LiveDisk::Implementation::clear_tail() {
  if (tail_is_clear) return {};
  ByteOffset end;
  PlaceKind kind = PlaceKind::zero;
  {
    MutexLock lock(state_mutex);
    end = ByteOffset{state.size().value()};
    kind = state.places().get(geometry.chunk_of(end)).kind;
  }
  const std::size_t within = geometry.within_chunk(end);
  if (within != 0 && (kind == PlaceKind::home || kind == PlaceKind::detour)) {
    auto zeros = chunk_buffers.take();
    const auto bytes = zeros.span().first(geometry.chunk_bytes() - within);
    std::memset(bytes.data(), 0, bytes.size());
    VARVE_TRY(write_chunk(geometry.chunk_of(end), within, bytes, {}));
  }
  tail_is_clear = true;
  return {};
}

Status LiveDisk::Implementation::grow(ByteCount size) {
  ExclusiveLock exclusive(gate);
  {
    MutexLock lock(state_mutex);
    VARVE_TRY(refuse_if_absent());
    if (state.size() >= size) return {};
  }
  VARVE_TRY(clear_tail());
  VARVE_TRY(make_room(size));
  MutexLock lock(state_mutex);
  VARVE_TRY(record_and_apply(record::Size{size.value()}));
  modified = now().nanoseconds;
  return {};
}

/// The cut chunk's tail becomes zeros by an ordinary write, so that growing again shows zeros (rule 3).
Status LiveDisk::Implementation::shrink(ByteCount size) {
  const ChunkIndex cut = geometry.chunk_of(ByteOffset{size.value()});
  const std::size_t within = geometry.within_chunk(ByteOffset{size.value()});
  for (;;) {
    std::vector<Fill> fills;
    if (within != 0) {
      VARVE_TRY_ASSIGN(auto fill, fetch_fill(cut));
      if (fill) fills.push_back(std::move(*fill));
    }
    ExclusiveLock exclusive(gate);
    ChunkCount before;
    bool tail = false;
    {
      MutexLock lock(state_mutex);
      VARVE_TRY(refuse_if_absent());
      if (state.size() <= size) return {};
      before = state.chunks();
      tail = within != 0 && state.places().get(cut).kind != PlaceKind::zero;
    }
    if (tail) {
      auto zeros = chunk_buffers.take();
      const auto bytes = zeros.span().first(geometry.chunk_bytes() - within);
      std::memset(bytes.data(), 0, bytes.size());
      VARVE_TRY_ASSIGN(const bool written, write_chunk(cut, within, bytes, fills));
      if (!written) continue;
    }
    const ChunkCount after = geometry.chunks_in(size);
    mark_chunks(ChunkIndex{after.value()}, before - after);
    MutexLock lock(state_mutex);
    VARVE_TRY(record_and_apply(record::Size{size.value()}));
    modified = now().nanoseconds;
    return {};
  }
}

Status LiveDisk::resize(ByteCount size) {
  auto& self = *implementation_;
  if (size > self.geometry.max_image_size()) {
    return fail_refused(EFBIG, fmt::format("no image can be larger than {} bytes",
                                           self.geometry.max_image_size().value()));
  }
  ByteCount current;
  {
    MutexLock lock(self.state_mutex);
    VARVE_TRY(self.refuse_if_absent());
    current = self.state.size();
  }
  if (size == current) return {};
  return size > current ? self.grow(size) : self.shrink(size);
}

// --- discard ---

Status LiveDisk::Implementation::zero_chunks(ChunkIndex first, ChunkCount count) {
  ExclusiveLock exclusive(gate);
  {
    MutexLock lock(state_mutex);
    VARVE_TRY(refuse_if_absent());
    const ChunkIndex end = std::min(first + count, ChunkIndex{state.chunks().value()});
    if (first >= end) return {};
    count = end - first;
    bool all_zero = true;
    for (ChunkIndex c = first; c < end && all_zero;) {
      const PlaceRun run = state.places().run_at(c, end);
      all_zero = run.place.kind == PlaceKind::zero;
      c += run.count;
    }
    if (all_zero) return {};
  }
  mark_chunks(first, count);
  MutexLock lock(state_mutex);
  VARVE_TRY(record_and_apply(record::Places{first.value(), count.value(), Place{}}));
  modified = now().nanoseconds;
  return {};
}

/// Less than a chunk: written, unless it is Zero already.
Status LiveDisk::Implementation::zero_part(ByteOffset at, std::uint64_t count) {
  for (;;) {
    VARVE_TRY_ASSIGN(const auto fills, fetch_fills(at, count));
    SharedLock shared(gate);
    {
      MutexLock lock(state_mutex);
      VARVE_TRY(refuse_if_absent());
      if (at.value() >= state.size().value()) return {};
      if (state.places().get(geometry.chunk_of(at)).kind == PlaceKind::zero) return {};
    }
    auto zeros = chunk_buffers.take();
    const auto bytes = zeros.span().first(static_cast<std::size_t>(count));
    std::memset(bytes.data(), 0, bytes.size());
    VARVE_TRY_ASSIGN(const bool written, write_in_gate(at, bytes, fills));
    if (written) return {};
  }
}

Status LiveDisk::zero(ByteOffset at, ByteCount count) {
  auto& self = *implementation_;
  std::uint64_t size = 0;
  {
    MutexLock lock(self.state_mutex);
    VARVE_TRY(self.refuse_if_absent());
    size = self.state.size().value();
  }
  if (at.value() >= size || count == ByteCount{0}) return {};
  const std::uint64_t chunk = self.geometry.chunk_size().value();
  const std::uint64_t end = at.value() + std::min(count.value(), size - at.value());
  const std::uint64_t first = (at.value() + chunk - 1) / chunk;
  // The image's last chunk counts as covered when its end is.
  const std::uint64_t last = end == size ? self.geometry.chunks_in(ByteCount{size}).value() : end / chunk;
  if (at.value() % chunk != 0) {
    VARVE_TRY(self.zero_part(at, std::min(first * chunk, end) - at.value()));
  }
  if (first < last) VARVE_TRY(self.zero_chunks(ChunkIndex{first}, ChunkCount{last - first}));
  if (last >= first && last * chunk < end) VARVE_TRY(self.zero_part(ByteOffset{last * chunk}, end - last * chunk));
  return {};
}

Status LiveDisk::preallocate(ByteOffset at, ByteCount count) {
  auto& self = *implementation_;
  {
    MutexLock lock(self.state_mutex);
    VARVE_TRY(self.refuse_if_absent());
  }
  if (count == ByteCount{0}) return {};
  const std::uint64_t chunk = self.geometry.chunk_size().value();
  const std::uint64_t begin = at.value() / chunk * chunk;
  const std::uint64_t end = (at.value() + count.value() + chunk - 1) / chunk * chunk;
  ExclusiveLock exclusive(self.gate);
  std::uint64_t room = 0;
  {
    MutexLock lock(self.state_mutex);
    room = self.home_chunks * chunk;
  }
  if (begin >= std::min(end, room)) return {};
  self.home_dirty = true;
  return self.home->preallocate(ByteOffset{begin}, ByteCount{std::min(end, room) - begin});
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

Status LiveDisk::set_modified(Time time) {
  auto& self = *implementation_;
  MutexLock lock(self.state_mutex);
  VARVE_TRY(self.refuse_if_absent());
  VARVE_TRY(self.record_and_apply(record::Modified{time.nanoseconds}));
  self.modified = time.nanoseconds;
  return {};
}

Result<ByteOffset> LiveDisk::seek(ByteOffset at, bool data) {
  auto& self = *implementation_;
  ChunkIndex chunk = self.geometry.chunk_of(at);
  for (;;) {
    PlaceRun run;
    Resolved resolved;
    std::uint64_t size = 0;
    {
      MutexLock lock(self.state_mutex);
      VARVE_TRY(self.refuse_if_absent());
      size = self.state.size().value();
      if (at.value() >= size) return fail(ENXIO, ErrorKind::refused, "the offset lies behind the image's end");
      const ChunkIndex end{self.state.chunks().value()};
      if (chunk >= end) {
        if (data) return fail(ENXIO, ErrorKind::refused, "there is no data behind the offset");
        return ByteOffset{size};
      }
      run = self.state.places().run_at(chunk, end);
      if (run.place.kind == PlaceKind::base) {
        resolved = self.resolve_live(chunk);
        if (const auto found = self.state.segments().find(chunk)) run.count = std::min(run.count, found->left);
      }
    }
    const bool is_data = run.place.kind == PlaceKind::home || run.place.kind == PlaceKind::detour;
    const auto found_at = [&](ChunkIndex c) {
      return ByteOffset{std::min(std::max(at.value(), self.geometry.start_of(c).value()), size)};
    };
    if (run.place.kind == PlaceKind::base && !resolved.root.empty()) {
      const ChunkIndex end = resolved.source + run.count;
      auto next = self.base.next(resolved.root, resolved.source, end, data);
      if (!next) {
        // In doubt it is data.
        if (data) return found_at(chunk);
        next = end;
      }
      if (*next < end) return found_at(chunk + (*next - resolved.source));
    } else if (is_data == data) {
      return found_at(chunk);
    }
    chunk += run.count;
  }
}

// --- flushing ---

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
    slots_to_punch.push_back(unsealed_slots.front().second);
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
  counters.free_slots = self.free_slots.size();
  counters.segments = self.state.segments().size();
  counters.journal_bytes = self.journal->end();
  for (const Released::Homes& homes : self.homes_to_punch) counters.unswept_chunks += homes.count.value();
  return counters;
}

}  // namespace varve::disk
