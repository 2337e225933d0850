// Reading complete snapshots, and the content behind Base places: both are maps.
#pragma once

#include <memory>

#include "varve/chunks/chunk_map.h"
#include "varve/core/byte_view.h"
#include "varve/core/thread_pool.h"
#include "varve/disk/live_disk.h"

namespace varve::snapshot {

/// One image of an immutable map. Any thread. Sequential readers are noticed (several at once, told apart by where
/// they are) and prefetched in parallel through `prefetchers`, 4 MiB or half the chunk cache ahead at most; random
/// readers are not, but for the further chunks of a read that spans several.
///
/// `chunks` and `prefetchers` must outlive it, and `chunks` what it has queued there: drain the pool, or let it go,
/// before the store. Memory: 160 KiB of map leaves; chunks are in the store's cache.
class SnapshotImage {
 public:
  SnapshotImage(chunks::ChunkStore& chunks, chunks::MaybeRef root, ByteCount size, ThreadPool& prefetchers);
  ~SnapshotImage();
  SnapshotImage(const SnapshotImage&) = delete;
  SnapshotImage& operator=(const SnapshotImage&) = delete;
  [[nodiscard]] ByteCount size() const;
  /// Short only at the end. EIO (damaged) says chunk and pack. What it shows may outlive the image, and the store's cache.
  [[nodiscard]] Result<ByteView> view(ByteOffset at, ByteCount count);
  /// Whether the range can be answered without loading anything. Cheap, advisory.
  [[nodiscard]] bool cached(ByteOffset at, ByteCount count);
  /// As lseek(2): chunk-grained, ENXIO at the end.
  [[nodiscard]] Result<ByteOffset> seek(ByteOffset at, bool data);

 private:
  struct Implementation;
  std::shared_ptr<Implementation> implementation_;
};

/// disk::BaseSource over a ChunkStore.
class MapSource final : public disk::BaseSource {
 public:
  explicit MapSource(chunks::ChunkStore& chunks) : chunks_(chunks) {}
  Status read_chunk(const OpaqueRoot& root, ChunkIndex chunk, std::span<std::byte> out) override;
  bool holds(const OpaqueRoot& root, ChunkIndex chunk, std::span<const std::byte> bytes) override;
  Result<ChunkIndex> next(const OpaqueRoot& root, ChunkIndex from, ChunkIndex end, bool data) override;

 private:
  chunks::ChunkStore& chunks_;
};

}  // namespace varve::snapshot
