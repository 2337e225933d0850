#include "varve/snapshot/image.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <list>

#include "leaf.h"
#include "read_streams.h"
#include "varve/core/same_bytes.h"

namespace varve::snapshot {
namespace {

using chunks::BytesPointer;
using chunks::MaybeRef;

constexpr std::uint64_t kMostAhead = 4 * kMiB;  ///< of one sequential reader
/// Ten KiB each; a leaf spans 16 MiB of the image with chunks of 64 KiB.
constexpr std::size_t kLeavesKept = 16;

/// Half the chunk cache at most, or what was read ahead would drive itself out before it is used.
std::uint64_t deepest_ahead(const chunks::ChunkStore& chunks) {
  return std::min<std::uint64_t>(kMostAhead, chunks.options().chunk_cache_bytes / 2) /
         chunks.geometry().chunk_size().value();
}

/// The leaves last used, so that a reader walks down from the root once in 256 chunks. Any thread.
class LeafCache {
 public:
  LeafCache(chunks::ChunkStore& chunks, MaybeRef root) : map_(chunks, std::move(root)) {}

  [[nodiscard]] const chunks::ChunkMap& map() const { return map_; }
  std::shared_ptr<const Leaf> peek(std::uint64_t number) VARVE_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    const auto it = std::ranges::find(leaves_, number, [](const auto& leaf) { return leaf->number; });
    if (it == leaves_.end()) return nullptr;
    leaves_.splice(leaves_.begin(), leaves_, it);
    return leaves_.front();
  }
  Result<std::shared_ptr<const Leaf>> get(std::uint64_t number) VARVE_EXCLUDES(mutex_) {
    if (auto leaf = peek(number)) return leaf;
    VARVE_TRY_ASSIGN(auto leaf, load_leaf(map_, number));
    MutexLock lock(mutex_);
    leaves_.push_front(leaf);
    if (leaves_.size() > kLeavesKept) leaves_.pop_back();
    return leaf;
  }

 private:
  const chunks::ChunkMap map_;
  Mutex mutex_;
  std::list<std::shared_ptr<const Leaf>> leaves_ VARVE_GUARDED_BY(mutex_);  ///< most recently used first
};

}  // namespace

/// Shared with the prefetch tasks, which may outlive the image.
struct SnapshotImage::Implementation : std::enable_shared_from_this<SnapshotImage::Implementation> {
  Implementation(chunks::ChunkStore& store, MaybeRef root, ByteCount image_size, ThreadPool& pool)
      : chunks(store),
        geometry(store.geometry()),
        size(image_size),
        leaves(store, std::move(root)),
        streams(geometry, deepest_ahead(store)),
        prefetchers(pool) {}

  /// The chunk's bytes; null: zeros.
  Result<BytesPointer> load(ChunkIndex chunk, objects::Access access);
  Status add(ChunkIndex chunk, std::size_t from, std::size_t count, ByteView& view);
  void prefetch(ReadStreams::Ahead ahead);
  bool peek(ChunkIndex chunk);

  chunks::ChunkStore& chunks;
  const Geometry geometry;
  const ByteCount size;
  LeafCache leaves;
  ReadStreams streams;
  ThreadPool& prefetchers;
  std::atomic<bool> gone{false};
};

Result<BytesPointer> SnapshotImage::Implementation::load(ChunkIndex chunk, objects::Access access) {
  VARVE_TRY_ASSIGN(const auto leaf, leaves.get(Leaf::number_of(chunk)));
  const MaybeRef& ref = leaf->at(chunk);
  if (!ref) return BytesPointer{};
  return chunks.load_chunk(*ref, access);
}

Status SnapshotImage::Implementation::add(ChunkIndex chunk, std::size_t from, std::size_t count, ByteView& view) {
  const auto bytes = load(chunk, objects::Access::random);
  if (!bytes) {
    return tl::unexpected(
        bytes.error().in(fmt::format("chunk {} (bytes from {})", chunk.value(), geometry.start_of(chunk).value())));
  }
  if (*bytes == nullptr) {
    view.add_zeros(count);
  } else {
    view.add(std::span(**bytes).subspan(from, count), *bytes);
  }
  return {};
}

/// Errors are met again, and reported, by the read that needs the chunk; what finds no room in the queue is loaded by
/// that read too.
void SnapshotImage::Implementation::prefetch(ReadStreams::Ahead ahead) {
  const std::uint64_t end = std::min(ahead.first.value() + ahead.count.value(), geometry.chunks_in(size).value());
  for (std::uint64_t chunk = ahead.first.value(); chunk < end; ++chunk) {
    const bool queued = prefetchers.try_submit([self = shared_from_this(), chunk, access = ahead.access] {
      if (!self->gone) (void)self->load(ChunkIndex{chunk}, access);
    });
    if (!queued) return;
  }
}

bool SnapshotImage::Implementation::peek(ChunkIndex chunk) {
  const auto leaf = leaves.peek(Leaf::number_of(chunk));
  if (leaf == nullptr) return false;
  const MaybeRef& ref = leaf->at(chunk);
  return !ref || chunks.peek_chunk(*ref) != nullptr;
}

SnapshotImage::SnapshotImage(chunks::ChunkStore& chunks, MaybeRef root, ByteCount size, ThreadPool& prefetchers)
    : implementation_(std::make_shared<Implementation>(chunks, std::move(root), size, prefetchers)) {}

SnapshotImage::~SnapshotImage() {
  implementation_->gone = true;
}

ByteCount SnapshotImage::size() const {
  return implementation_->size;
}

Result<ByteView> SnapshotImage::view(ByteOffset at, ByteCount count) {
  Implementation& image = *implementation_;
  ByteView view;
  if (at.value() >= image.size.value() || count.value() == 0) return view;
  count = std::min(count, image.size - ByteCount{at.value()});
  image.prefetch(image.streams.note(at, count));
  while (view.size() < count.value()) {
    const ByteOffset from = at + ByteCount{view.size()};
    const std::size_t within = image.geometry.within_chunk(from);
    const std::size_t piece =
        std::min<std::uint64_t>(count.value() - view.size(), image.geometry.chunk_bytes() - within);
    VARVE_TRY(image.add(image.geometry.chunk_of(from), within, piece, view));
  }
  return view;
}

bool SnapshotImage::cached(ByteOffset at, ByteCount count) {
  Implementation& image = *implementation_;
  if (at.value() >= image.size.value() || count.value() == 0) return true;
  const std::uint64_t end = at.value() + std::min(count.value(), image.size.value() - at.value());
  const std::uint64_t last = image.geometry.chunk_of(ByteOffset{end - 1}).value();
  for (std::uint64_t chunk = image.geometry.chunk_of(at).value(); chunk <= last; ++chunk) {
    if (!image.peek(ChunkIndex{chunk})) return false;
  }
  return true;
}

Result<ByteOffset> SnapshotImage::seek(ByteOffset at, bool data) {
  const Implementation& image = *implementation_;
  if (at.value() >= image.size.value()) return fail_refused(ENXIO, "nothing behind the end of the image");
  const chunks::ChunkMap& map = image.leaves.map();
  const ChunkIndex from = image.geometry.chunk_of(at);
  VARVE_TRY_ASSIGN(const ChunkIndex found, data ? map.next_data(from) : map.next_hole(from));
  const std::uint64_t chunks = image.geometry.chunks_in(image.size).value();
  if (found.value() >= chunks) {
    if (data) return fail_refused(ENXIO, "no data up to the end of the image");
    return ByteOffset{image.size.value()};
  }
  return std::max(at, image.geometry.start_of(found));
}

Status MapSource::read_chunk(const OpaqueRoot& root, ChunkIndex chunk, std::span<std::byte> out) {
  VARVE_TRY_ASSIGN(const MaybeRef ref, chunks::ChunkMap(chunks_, chunks::from_opaque(root)).find(chunk));
  if (!ref) {
    std::ranges::fill(out, std::byte{0});
    return {};
  }
  VARVE_TRY_ASSIGN(const BytesPointer bytes, chunks_.load_chunk(*ref));
  if (bytes->size() != out.size()) return fail_damaged(chunks::to_text(*ref) + " has another size than a chunk");
  std::memcpy(out.data(), bytes->data(), out.size());
  return {};
}

bool MapSource::holds(const OpaqueRoot& root, ChunkIndex chunk, std::span<const std::byte> bytes) {
  const auto ref = chunks::ChunkMap(chunks_, chunks::from_opaque(root)).find(chunk);
  if (!ref || !*ref || (*ref)->damaged() || (*ref)->digest != chunks_.digest(bytes)) return false;
  const auto there = chunks_.load_chunk(**ref);
  return there && same_bytes(**there, bytes);
}

Result<ChunkIndex> MapSource::next(const OpaqueRoot& root, ChunkIndex from, ChunkIndex end, bool data) {
  const chunks::ChunkMap map(chunks_, chunks::from_opaque(root));
  if (from >= end) return end;
  VARVE_TRY_ASSIGN(const ChunkIndex found, data ? map.next_data(from) : map.next_hole(from));
  return std::min(found, end);
}

}  // namespace varve::snapshot
