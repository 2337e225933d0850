#include "copy.h"

#include <fmt/format.h>

#include <algorithm>

#include "varve/catalog/names.h"
#include "varve/core/buffer.h"

// Rules of this room
//  1. Chunks are shared only where source and destination are aligned to each other; the rest is bytes.
//  2. A root is held before it is used, and used only if its owner still has it after that: between the look and the
//     hold collect may have been there.
//  3. What is frozen, at Home or in a Detour is copied (rule 6 of the live disk: a place never refers to another disk).
//  4. A reply is short rather than long: one that was cut ends where a subtree of the destination's map ends, so that
//     the next piece is spliced by whole subtrees.
namespace varve::store {
namespace {

using catalog::quoted;

constexpr std::size_t kCopyBuffer = 1 * kMiB;
constexpr std::size_t kRunsPerLook = 256;

class RangeCopy {
 public:
  RangeCopy(Services& services, DiskEntry& from, SnapshotId snapshot, DiskEntry& to)
      : services_(services), geometry_(services.chunks->geometry()), from_(from), snapshot_(snapshot), to_(to) {}

  Status copy(ByteOffset from_at, ByteOffset to_at, ByteCount count, ByteCount source_size) {
    const std::uint64_t chunk = geometry_.chunk_size().value();
    const ByteOffset from_end = from_at + count;
    if (from_at.value() % chunk != to_at.value() % chunk) return copy_bytes(from_at, to_at, count);

    const std::uint64_t head = std::min((chunk - from_at.value() % chunk) % chunk, count.value());
    if (head > 0) VARVE_TRY(copy_bytes(from_at, to_at, ByteCount{head}));
    from_at += ByteCount{head};
    to_at += ByteCount{head};
    const std::uint64_t rest = (from_end - from_at).value();
    std::uint64_t whole = rest / chunk;
    // The source's last, partial chunk has zeros behind its end: where the destination ends there too it is a whole one.
    const bool to_ends = to_.live().info().size.value() <= to_at.value() + rest;
    const bool last_is_whole = rest % chunk != 0 && from_end.value() == source_size.value() && to_ends;
    if (last_is_whole) ++whole;
    if (whole > 0) {
      const ByteCount covered{std::min(whole * chunk, rest)};
      VARVE_TRY(copy_chunks(geometry_.chunk_of(from_at), geometry_.chunk_of(to_at), ChunkCount{whole},
                            ByteCount{to_at.value() + covered.value()}));
      from_at += covered;
      to_at += covered;
    }
    const ByteCount tail = from_end - from_at;
    return tail > ByteCount{0} ? copy_bytes(from_at, to_at, tail) : Status{};
  }

 private:
  using Run = disk::CopyRun;

  /// `size_at_least`: what the destination's size must be when all is copied.
  Status copy_chunks(ChunkIndex source, ChunkIndex target, ChunkCount count, ByteCount size_at_least) {
    const ChunkIndex end = source + count;
    while (source < end) {
      VARVE_TRY_ASSIGN(const auto runs, look(source, end - source));
      // The source was cut meanwhile: as copy_bytes() has it, zeros.
      if (runs.empty()) return copy_run({source, end - source, Run::Kind::zeros, {}, {}}, source, target, end - source,
                                        size_at_least);
      for (const Run& run : runs) {
        const ChunkCount length{std::min(run.count.value(), (end - source).value())};
        VARVE_TRY(copy_run(run, source, target, length, size_at_least));
        source += length;
        target += length;
        if (source == end) break;
      }
    }
    return {};
  }

  /// What the source's chunks from `first` on are. A complete snapshot is one run: its map, holes included.
  Result<std::vector<Run>> look(ChunkIndex first, ChunkCount count) {
    if (snapshot_ != SnapshotId{0}) {
      auto entry = from_.complete(snapshot_);
      if (entry) {
        return std::vector<Run>{Run{first, count, Run::Kind::shared, chunks::to_opaque((*entry)->root), first}};
      }
      if (entry.error().code != EAGAIN) return tl::unexpected(std::move(entry).error());
      auto runs = from_.live().describe_pending(snapshot_, first, count, kRunsPerLook);
      if (runs || runs.error().code != ENOENT) return runs;
      // It became complete in between.
      VARVE_TRY_ASSIGN(const auto completed, from_.complete(snapshot_));
      return std::vector<Run>{Run{first, count, Run::Kind::shared, chunks::to_opaque(completed->root), first}};
    }
    return from_.live().describe(first, count, kRunsPerLook);
  }

  Status copy_run(const Run& run, ChunkIndex source, ChunkIndex target, ChunkCount count, ByteCount size_at_least) {
    const ByteOffset to_at = geometry_.start_of(target);
    const ByteCount to_end{std::min((to_at + geometry_.bytes_in(count)).value(), size_at_least.value())};
    switch (run.kind) {
      case Run::Kind::zeros:
        return splice(target, count, OpaqueRoot{}, target, to_end);
      case Run::Kind::shared: {
        chunks::RootRegistry::Hold hold(services_.registry);
        if (hold.try_hold_root(chunks::from_opaque(run.root)) && source_still_has(run.root)) {
          auto shared = splice(target, count, run.root, run.source, to_end);
          if (shared || shared.error().code != E2BIG) return shared;
        }
        break;
      }
      case Run::Kind::bytes:
        break;
    }
    return copy_bytes(geometry_.start_of(source), to_at, ByteCount{to_end.value() - to_at.value()});
  }

  Status splice(ChunkIndex target, ChunkCount count, const OpaqueRoot& root, ChunkIndex source, ByteCount to_end) {
    if (root.empty()) {
      const ByteOffset at = geometry_.start_of(target);
      const std::uint64_t size = to_.live().info().size.value();
      // Grow first: zero() does not.
      if (size < to_end.value()) VARVE_TRY(to_.live().resize(to_end));
      return to_.live().zero(at, ByteCount{to_end.value() - at.value()});
    }
    return to_.live().splice(target, count, root, source, to_end);
  }

  bool source_still_has(const OpaqueRoot& root) {
    if (snapshot_ != SnapshotId{0}) {
      // One that became complete meanwhile has another root than it had while it was pending.
      const auto entry = from_.complete(snapshot_);
      if (entry && chunks::to_opaque((*entry)->root) == root) return true;
    }
    const auto roots = from_.live().roots();
    return std::find(roots.begin(), roots.end(), root) != roots.end();
  }

  Status copy_bytes(ByteOffset from_at, ByteOffset to_at, ByteCount count) {
    AlignedBuffer buffer(static_cast<std::size_t>(std::min<std::uint64_t>(kCopyBuffer, count.value() + kBlockSize)));
    while (count > ByteCount{0}) {
      const auto piece = buffer.span().first(static_cast<std::size_t>(std::min<std::uint64_t>(buffer.size(),
                                                                                               count.value())));
      VARVE_TRY_ASSIGN(const std::size_t got, snapshot_ == SnapshotId{0} ? from_.live().read(from_at, piece)
                                                                       : from_.read_snapshot(snapshot_, from_at, piece));
      // The source was cut meanwhile: what is behind its new end is zeros, as a reader a moment later would see.
      std::fill(piece.begin() + static_cast<std::ptrdiff_t>(got), piece.end(), std::byte{0});
      VARVE_TRY(to_.live().write(to_at, piece));
      from_at += ByteCount{piece.size()};
      to_at += ByteCount{piece.size()};
      count -= ByteCount{piece.size()};
    }
    return {};
  }

  Services& services_;
  const Geometry geometry_;
  DiskEntry& from_;
  const SnapshotId snapshot_;
  DiskEntry& to_;
};

}  // namespace

Result<ByteCount> copy_range(Services& services, DiskEntry& from, SnapshotId snapshot, ByteOffset from_at,
                             DiskEntry& to, ByteOffset to_at, ByteCount count) {
  ByteCount source_size = from.live().info().size;
  if (snapshot != SnapshotId{0}) {
    VARVE_TRY_ASSIGN(const SnapshotInfo info, from.snapshot(snapshot));
    source_size = info.size;
  }
  if (!to.live().exists()) {
    return fail(ENOENT, ErrorKind::absent, fmt::format("disk {} has no live image", quoted(to.name())));
  }
  if (from_at.value() >= source_size.value()) return ByteCount{0};
  count = std::min(count, source_size - ByteCount{from_at.value()});
  const ByteCount most = services.chunks->geometry().max_image_size();
  if (to_at.value() > most.value() || count > most - ByteCount{to_at.value()}) {
    return fail_refused(EFBIG, fmt::format("no image can be larger than {} bytes", most.value()));
  }
  if (count.value() > kMaxCopyReply) {
    const std::uint64_t subtree = services.chunks->geometry().chunk_size().value() * chunks::kMapFanOut;
    const std::uint64_t end = (to_at.value() + kMaxCopyReply) / subtree * subtree;
    count = ByteCount{end > to_at.value() ? end - to_at.value() : kMaxCopyReply};
  }
  if (&from == &to && snapshot == SnapshotId{0} && from_at < to_at + count && to_at < from_at + count) {
    return fail_refused(EINVAL, "source and destination of a copy within one image overlap");
  }
  VARVE_TRY(RangeCopy(services, from, snapshot, to).copy(from_at, to_at, count, source_size));
  return count;
}

}  // namespace varve::store
