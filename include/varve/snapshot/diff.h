// Diff: where two images read differently, in time that follows the difference.
#pragma once

#include <cstdint>
#include <functional>

#include "varve/chunks/chunk_map.h"

namespace varve::snapshot {

struct Extent {
  ByteOffset at;
  ByteCount count;
  friend bool operator==(const Extent&, const Extent&) = default;
};

struct DiffSide {
  chunks::MaybeRef root;  ///< held by the caller
  ByteCount size;
};

/// Calls `visit` for each extent in which reading `a` and reading `b` differ: whole blocks of 4 KiB but for the last,
/// which the larger image's end cuts; ascending, as long as possible, never touching each other. Behind its end an image
/// reads as zeros, so extents may lie behind the end of the smaller one, and sizes that differ alone make none.
/// `progress(done, total)` in chunks of the larger image, on the caller's thread.
///
/// Errors: the first that `visit` returns; ECANCELED when `stop` (may be empty, as may `progress`) said so; EIO (damaged)
/// naming the offset where a chunk or a node that differs cannot be read.
///
/// Cost: the map's nodes that differ, and two loads for each chunk whose refs differ. Memory: a path of nodes, two chunks.
[[nodiscard]] Status diff_images(chunks::ChunkStore& chunks, const DiffSide& a, const DiffSide& b,
                                 const std::function<Status(const Extent&)>& visit,
                                 const std::function<void(std::uint64_t done, std::uint64_t total)>& progress,
                                 const std::function<bool()>& stop);

}  // namespace varve::snapshot
