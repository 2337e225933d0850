// The live image: reading, and finding data and holes. live_disk.cpp opens with the invariants.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "implementation.h"

namespace varve::disk {
/// O_DIRECT wants everything aligned.
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
        case PlaceKind::detour:
          VARVE_TRY(read_stored(first + ChunkCount{i}, where[i], geometry.within_chunk(from), part));
          break;
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
  self.note_request();
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

/// Of Base chunks that are written in part, only the first or the last, the bytes are asked for; of what is written
/// whole, what L has for it.
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
  const ChunkIndex whole = partly(first) ? first + ChunkCount{1} : first;
  const ChunkIndex whole_end = partly(last) ? last : last + ChunkCount{1};
  if (whole < whole_end && self.state.segments().overlaps(whole, whole_end - whole)) return true;
  return (partly(first) && places.get(first).kind == PlaceKind::base) ||
         (partly(last) && places.get(last).kind == PlaceKind::base);
}

Result<ByteOffset> LiveDisk::Implementation::seek_in(ByteOffset at, bool data,
                                                     const std::function<Result<ResolvedRun>(ChunkIndex)>& run_at) {
  for (ChunkIndex chunk = geometry.chunk_of(at);;) {
    VARVE_TRY_ASSIGN(const ResolvedRun run, run_at(chunk));
    const std::uint64_t size = run.image_size.value();
    if (at.value() >= size) return fail(ENXIO, ErrorKind::refused, "the offset lies behind the image's end");
    if (run.count == ChunkCount{0}) {
      if (data) return fail(ENXIO, ErrorKind::refused, "there is no data behind the offset");
      return ByteOffset{size};
    }
    const auto found_at = [&](ChunkIndex c) {
      return ByteOffset{std::min(std::max(at.value(), geometry.start_of(c).value()), size)};
    };
    const Resolved& resolved = run.resolved;
    const bool is_data = resolved.place.kind == PlaceKind::home || resolved.place.kind == PlaceKind::detour;
    if (resolved.place.kind == PlaceKind::base && !resolved.root.empty()) {
      const ChunkIndex end = resolved.source + run.count;
      auto next = base.next(resolved.root, resolved.source, end, data);
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

Result<ByteOffset> LiveDisk::seek(ByteOffset at, bool data) {
  auto& self = *implementation_;
  return self.seek_in(at, data, [&self](ChunkIndex chunk) -> Result<ResolvedRun> {
    MutexLock lock(self.state_mutex);
    VARVE_TRY(self.refuse_if_absent());
    ResolvedRun run{{}, ChunkCount{0}, self.state.size()};
    const ChunkIndex end{self.state.chunks().value()};
    if (chunk >= end) return run;
    run.count = self.state.places().run_at(chunk, end).count;
    run.resolved = self.resolve_live(chunk);
    if (run.resolved.place.kind == PlaceKind::base) {
      if (const auto found = self.state.segments().find(chunk)) run.count = std::min(run.count, found->left);
    }
    return run;
  });
}

}  // namespace varve::disk
