// Tells the sequential readers of one image apart, by where they are, and says how far ahead of each to load.
//
// A stream is a place that reads were seen to move on from. The third read that takes one forward makes it trusted:
// from then on it is read ahead of, 2 chunks, then 4, 8 … with every chunk it advances, up to a limit. Requests of the
// kernel's readahead arrive shuffled by its threads, so a read belongs to a stream when it begins near its place, not
// only exactly there.
#pragma once

#include <array>
#include <cstdint>

#include "varve/core/sync.h"
#include "varve/core/units.h"
#include "varve/objects/object_store.h"

namespace varve::snapshot {

/// Any thread.
class ReadStreams {
 public:
  /// `deepest`: chunks ahead of one stream; 0: never read ahead.
  ReadStreams(Geometry geometry, std::uint64_t deepest) : geometry_(geometry), deepest_(deepest) {}

  struct Ahead {
    ChunkIndex first;
    ChunkCount count;
    objects::Access access = objects::Access::random;  ///< sequential of a trusted stream
  };
  /// A read of [at, at + count), count > 0, is about to be answered. What to load meanwhile: its own chunks after the
  /// first, and what its stream will want next; nothing that was said before for the same stream.
  [[nodiscard]] Ahead note(ByteOffset at, ByteCount count) VARVE_EXCLUDES(mutex_);

 private:
  struct Stream {
    std::uint64_t next = 0;         ///< the byte behind the furthest read
    std::uint64_t ahead_until = 0;  ///< chunks before this were said already
    std::uint64_t depth = 0;        ///< chunks
    int advances = 0;
    std::uint64_t used = 0;  ///< 0: free
  };
  Stream* find(std::uint64_t at, std::uint64_t count) VARVE_REQUIRES(mutex_);
  Stream& oldest() VARVE_REQUIRES(mutex_);
  void advance(Stream& stream, std::uint64_t end) VARVE_REQUIRES(mutex_);

  static constexpr std::size_t kStreams = 8;
  const Geometry geometry_;
  const std::uint64_t deepest_;
  Mutex mutex_;
  std::array<Stream, kStreams> streams_ VARVE_GUARDED_BY(mutex_);
  std::uint64_t clock_ VARVE_GUARDED_BY(mutex_) = 0;
};

}  // namespace varve::snapshot
