// The live image: growing, shrinking, discarding. live_disk.cpp opens with the invariants.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "implementation.h"

namespace varve::disk {

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
  SizeChange change(*this);
  VARVE_TRY(change.ask(size));
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
    const SizeChange change(*this);
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

}  // namespace varve::disk
