#include "varve/snapshot/diff.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "varve/core/same_bytes.h"

namespace varve::snapshot {
namespace {

using chunks::BytesPointer;
using chunks::MaybeRef;

/// Blocks that differ, joined into the longest extents.
class Joined {
 public:
  Joined(const std::function<Status(const Extent&)>& visit, ByteCount end) : visit_(visit), end_(end.value()) {}

  Status add(std::uint64_t block_at) {
    if (begin_ < next_ && next_ == block_at) {
      next_ += kBlockSize;
      return {};
    }
    VARVE_TRY(flush());
    begin_ = block_at;
    next_ = block_at + kBlockSize;
    return {};
  }
  Status flush() {
    const std::uint64_t end = std::min(next_, end_);
    if (begin_ >= end) return {};
    const Extent extent{ByteOffset{begin_}, ByteCount{end - begin_}};
    begin_ = next_ = 0;
    return visit_(extent);
  }

 private:
  const std::function<Status(const Extent&)>& visit_;
  const std::uint64_t end_;  ///< of the larger image
  std::uint64_t begin_ = 0;  ///< not yet visited: [begin_, next_)
  std::uint64_t next_ = 0;
};

class Comparison {
 public:
  Comparison(chunks::ChunkStore& chunks, const DiffSide& a, const DiffSide& b,
             const std::function<Status(const Extent&)>& visit)
      : chunks_(chunks),
        geometry_(chunks.geometry()),
        a_(a),
        b_(b),
        joined_(visit, std::max(a.size, b.size)),
        zeros_(geometry_.chunk_bytes()) {}

  Status chunk(ChunkIndex chunk, const MaybeRef& a_ref, const MaybeRef& b_ref) {
    VARVE_TRY_ASSIGN(const BytesPointer a_bytes, load(chunk, a_, a_ref));
    VARVE_TRY_ASSIGN(const BytesPointer b_bytes, load(chunk, b_, b_ref));
    const std::span<const std::byte> a_span = a_bytes ? *a_bytes : zeros_;
    const std::span<const std::byte> b_span = b_bytes ? *b_bytes : zeros_;
    const std::uint64_t at = geometry_.start_of(chunk).value();
    for (std::size_t block = 0; block < geometry_.chunk_bytes(); block += kBlockSize) {
      if (!same_bytes(a_span.subspan(block, kBlockSize), b_span.subspan(block, kBlockSize))) {
        VARVE_TRY(joined_.add(at + block));
      }
    }
    return {};
  }
  Status finish() { return joined_.flush(); }

 private:
  /// What an image reads there; null: zeros.
  Result<BytesPointer> load(ChunkIndex chunk, const DiffSide& side, const MaybeRef& ref) {
    const std::uint64_t at = geometry_.start_of(chunk).value();
    if (!ref || at >= side.size.value()) return BytesPointer{};
    auto bytes = chunks_.load_chunk_once(*ref);
    if (!bytes) return tl::unexpected(bytes.error().in(fmt::format("chunk {} (bytes from {})", chunk.value(), at)));
    const std::uint64_t readable = side.size.value() - at;
    // Nobody reads behind the end, so what a map may have there is no difference.
    if (readable < (*bytes)->size() && !all_zero(std::span(**bytes).subspan(static_cast<std::size_t>(readable)))) {
      auto cut = std::make_shared<chunks::Bytes>(**bytes);
      std::fill(cut->begin() + static_cast<std::ptrdiff_t>(readable), cut->end(), std::byte{0});
      return BytesPointer(std::move(cut));
    }
    return bytes;
  }

  chunks::ChunkStore& chunks_;
  const Geometry geometry_;
  const DiffSide& a_;
  const DiffSide& b_;
  Joined joined_;
  const chunks::Bytes zeros_;
};

}  // namespace

Status diff_images(chunks::ChunkStore& chunks, const DiffSide& a, const DiffSide& b,
                   const std::function<Status(const Extent&)>& visit,
                   const std::function<void(std::uint64_t, std::uint64_t)>& progress,
                   const std::function<bool()>& stop) {
  const Geometry geometry = chunks.geometry();
  const ChunkCount total = geometry.chunks_in(std::max(a.size, b.size));
  const chunks::ChunkMap a_map(chunks, a.root);
  const chunks::ChunkMap b_map(chunks, b.root);
  Comparison comparison(chunks, a, b, visit);
  const auto compare = [&](ChunkIndex chunk, const MaybeRef& a_ref, const MaybeRef& b_ref) -> Status {
    if (stop && stop()) return fail(ECANCELED, ErrorKind::refused, "interrupted");
    if (progress) progress(chunk.value(), total.value());
    return comparison.chunk(chunk, a_ref, b_ref);
  };
  // Up to the end of the smaller image equal refs read alike.
  const ChunkCount both{a.size == b.size ? total.value() : std::min(a.size, b.size).value() / geometry.chunk_bytes()};
  VARVE_TRY(a_map.diff(b_map, ChunkIndex{0}, both, compare));
  if (a.size != b.size) {
    // The chunk that this end cuts, and what only the larger image has.
    const bool a_is_larger = a.size > b.size;
    const chunks::ChunkMap& larger = a_is_larger ? a_map : b_map;
    const auto alone = [&](ChunkIndex chunk, const MaybeRef& ref) -> Status {
      VARVE_TRY_ASSIGN(const MaybeRef other, (a_is_larger ? b_map : a_map).find(chunk));
      return a_is_larger ? compare(chunk, ref, other) : compare(chunk, other, ref);
    };
    const ChunkIndex cut{both.value()};
    VARVE_TRY_ASSIGN(const MaybeRef at_cut, larger.find(cut));
    VARVE_TRY(alone(cut, at_cut));
    VARVE_TRY(larger.for_each(cut + ChunkCount{1}, total - ChunkCount{std::min(both.value() + 1, total.value())},
                              [&](ChunkIndex chunk, const chunks::Ref& ref) { return alone(chunk, ref); }));
  }
  return comparison.finish();
}

}  // namespace varve::snapshot
