// A place in a chunk map: keeps the path of nodes it used last, so that walking along costs no look-ups.
//
// Levels: the root node is of level 3, a leaf of level 0; a chunk counts as level -1. A subtree of level l spans
// 256^(l + 1) chunks.
#pragma once

#include <array>
#include <cstdint>

#include "format.h"
#include "varve/chunks/chunk_map.h"

namespace varve::chunks {

constexpr int kRootLevel = kMapHeight - 1;
constexpr int kChunkLevel = -1;
constexpr unsigned kSlotBits = 8;

constexpr std::uint64_t span_of(int level) {
  return std::uint64_t{1} << kSlotBits * static_cast<unsigned>(level + 1);
}
/// Which slot of its node of `level` leads to this chunk.
constexpr std::size_t slot_of(int level, std::uint64_t chunk) {
  return static_cast<std::size_t>(chunk / span_of(level - 1) % kMapFanOut);
}

/// A node and the bytes that keep it there.
struct LoadedNode {
  Ref ref;
  BytesPointer bytes;
  format::NodeView view;
};
[[nodiscard]] Result<LoadedNode> load_map_node(ChunkStore& store, const Ref& ref, int level);

/// One thread at a time.
class MapCursor {
 public:
  MapCursor(ChunkStore& store, MaybeRef root) : store_(store), root_(std::move(root)) {}
  [[nodiscard]] const MaybeRef& root() const { return root_; }

  struct Subtree {
    MaybeRef ref;
    std::uint64_t empty = 0;  ///< without a ref: this many chunks from the one asked for are known to be zeros
  };
  /// The subtree of `level` (kChunkLevel: the chunk) that `chunk` lies in.
  [[nodiscard]] Result<Subtree> subtree(int level, std::uint64_t chunk);
  /// The node of `level` that subtree() just found there.
  [[nodiscard]] Result<const LoadedNode*> node(int level, const Ref& ref);

 private:
  ChunkStore& store_;
  MaybeRef root_;
  std::array<LoadedNode, kMapHeight> path_;
};

}  // namespace varve::chunks
