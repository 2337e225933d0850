// The live image: writing. live_disk.cpp opens with the invariants.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "implementation.h"
#include "varve/core/same_bytes.h"

namespace varve::disk {
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
/// `chunks` is 1 unless the place is Home.
Status LiveDisk::Implementation::write_noted(ChunkIndex first, std::size_t chunks, Place place, std::size_t within,
                                             std::span<const std::byte> bytes) {
  assert_may_write(first, chunks, place, within, bytes.size());
  Status written = write_file(file_of(place), offset_of(first, place) + ByteCount{within}, bytes);
  (place.kind == PlaceKind::home ? home_dirty : detour_dirty) = true;
  return written;
}

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

/// Chunks that the write covers whole and makes, or leaves, what L has for them.
void LiveDisk::Implementation::find_same(ByteOffset at, std::span<const std::byte> bytes, std::vector<Fill>& fills) {
  const std::size_t size = geometry.chunk_bytes();
  const std::size_t skip = (size - geometry.within_chunk(at)) % size;
  ChunkIndex chunk = geometry.chunk_of(at + ByteCount{skip});
  for (std::size_t done = skip; done + size <= bytes.size(); done += size, chunk += ChunkCount{1}) {
    std::optional<Segments::Found> there;
    {
      MutexLock lock(state_mutex);
      if (state.segments().size() == 0) return;
      there = state.segments().find(chunk);
    }
    if (there && base.holds(there->root, there->source, bytes.subspan(done, size))) {
      fills.push_back({chunk, there->root, there->source, nullptr});
    }
  }
}

bool LiveDisk::Implementation::is_same(ChunkIndex chunk, const std::vector<Fill>& fills) const {
  const auto fill = std::ranges::find_if(fills, [&](const Fill& f) { return f.chunk == chunk && f.bytes == nullptr; });
  if (fill == fills.end()) return false;
  const auto there = state.segments().find(chunk);
  return there && there->root == fill->root && there->source == fill->source;
}

Status LiveDisk::write(ByteOffset at, std::span<const std::byte> bytes) {
  auto& self = *implementation_;
  if (bytes.empty()) return {};
  self.note_request();
  const ByteCount most = self.geometry.max_image_size();
  if (at.value() > most.value() || bytes.size() > most.value() - at.value()) {
    return fail_refused(EFBIG, fmt::format("no image can be larger than {} bytes", most.value()));
  }
  const ByteCount end{at.value() + bytes.size()};
  for (;;) {
    VARVE_TRY_ASSIGN(auto fills, self.fetch_fills(at, bytes.size()));
    self.find_same(at, bytes, fills);
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
    VARVE_TRY_ASSIGN(const bool in_place, write_in_place(at, piece, fills));
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

/// Whole blocks to chunks that are all writable where they are, and are to stay there: the steady state. False when it is
/// not that.
Result<bool> LiveDisk::Implementation::write_in_place(ByteOffset at, std::span<const std::byte> bytes,
                                                      const std::vector<Fill>& fills) {
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
      const bool writable = where[i].kind == PlaceKind::home ||
                            (where[i].kind == PlaceKind::detour && has_blocks(chunk, where[i], at, bytes.size()));
      if (!writable || is_same(chunk, fills) || pinned(chunk, where[i])) return false;
    }
  }
  mark_blocks(at, bytes.size());
  for (std::size_t i = 0; i < count;) {
    std::size_t run = 1;
    while (where[i].kind == PlaceKind::home && i + run < count && where[i + run].kind == PlaceKind::home) ++run;
    const std::size_t length = static_cast<std::size_t>(std::min<std::uint64_t>(
        bytes.size(), run * geometry.chunk_bytes() - geometry.within_chunk(at)));
    VARVE_TRY(write_noted(first + ChunkCount{i}, run, where[i], geometry.within_chunk(at), bytes.first(length)));
    bytes = bytes.subspan(length);
    at += ByteCount{length};
    i += run;
  }
  return true;
}

/// Part of one chunk, in place by read-modify-write, or with the whole chunk to a new place; or none, where it becomes what
/// L has. False: no fill, or one that is out of date.
Result<bool> LiveDisk::Implementation::write_chunk(ChunkIndex chunk, std::size_t within,
                                                   std::span<const std::byte> bytes, const std::vector<Fill>& fills) {
  Stripes::Lock lock(stripes, chunk, 1, Stripes::Lock::Mode::exclusive);
  Resolved from;
  bool in_place = false;
  bool in_part = false;
  {
    MutexLock state_lock(state_mutex);
    from = resolve_live(chunk);
    if (bytes.size() == geometry.chunk_bytes() && is_same(chunk, fills)) {
      if (from.place.kind == PlaceKind::base) return true;
      // Marked before it changes, as any write.
      mark_blocks(geometry.start_of(chunk), bytes.size());
      VARVE_TRY(record_and_apply(record::Places{chunk.value(), 1, {PlaceKind::base, 0}}));
      return true;
    }
    const bool writable = from.place.kind == PlaceKind::home || from.place.kind == PlaceKind::detour;
    in_place = writable && !pinned(chunk, from.place);
    in_part = !in_place && may_move_in_part(from, within, bytes.size()) && !home_is_free(chunk);
  }
  const ByteOffset at = geometry.start_of(chunk) + ByteCount{within};
  if (in_place || in_part) {
    mark_blocks(at, bytes.size());
    VARVE_TRY(in_part          ? move_in_part(chunk, from, within, bytes)
              : from.partial() ? write_in_part(chunk, from, within, bytes)
                               : overwrite(chunk, from.place, within, bytes));
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
        return f.chunk == chunk && f.bytes != nullptr && f.root == from.root && f.source == from.source;
      });
      if (fill == fills.end()) return false;
      if (same_bytes(std::span<const std::byte>(fill->bytes->span()).subspan(within, bytes.size()), bytes)) return true;
      std::memcpy(whole.data(), fill->bytes->data(), whole.size());
    } else {
      VARVE_TRY(read_stored(chunk, from, 0, whole));
    }
  }
  std::memcpy(whole.data() + within, bytes.data(), bytes.size());

  Place to;
  {
    MutexLock state_lock(state_mutex);
    to = home_is_free(chunk) ? Place{PlaceKind::home, 0} : Place{PlaceKind::detour, take_slot()};
  }
  mark_blocks(at, bytes.size());
  auto written = write_noted(chunk, 1, to, 0, whole);
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
  if (aligned(within, kBlockSize) && aligned(bytes.size(), kBlockSize)) {
    VARVE_TRY(write_noted(chunk, 1, place, within, bytes));
  } else {
    const std::size_t begin = within / kBlockSize * kBlockSize;
    const std::size_t end = (within + bytes.size() + kBlockSize - 1) / kBlockSize * kBlockSize;
    auto buffer = chunk_buffers.take();
    const auto blocks = buffer.span().first(end - begin);
    VARVE_TRY(read_file(file_of(place), offset_of(chunk, place) + ByteCount{begin}, blocks));
    std::memcpy(blocks.data() + (within - begin), bytes.data(), bytes.size());
    VARVE_TRY(write_noted(chunk, 1, place, begin, blocks));
  }
  return {};
}

}  // namespace varve::disk
