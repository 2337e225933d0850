// A leaf of a chunk map, unpacked: what 256 neighbouring chunks are, without walking down from the root for each.
#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "varve/chunks/chunk_map.h"

namespace varve::snapshot {

struct Leaf {
  std::uint64_t number = 0;  ///< its first chunk is number * kMapFanOut
  std::array<chunks::MaybeRef, chunks::kMapFanOut> refs;

  static std::uint64_t number_of(ChunkIndex chunk) { return chunk.value() / chunks::kMapFanOut; }
  [[nodiscard]] const chunks::MaybeRef& at(ChunkIndex chunk) const {
    return refs[static_cast<std::size_t>(chunk.value() % chunks::kMapFanOut)];
  }
};

/// EIO (damaged) where a node on the way is.
[[nodiscard]] inline Result<std::shared_ptr<const Leaf>> load_leaf(const chunks::ChunkMap& map, std::uint64_t number) {
  auto leaf = std::make_shared<Leaf>();
  leaf->number = number;
  VARVE_TRY(map.for_each(ChunkIndex{number * chunks::kMapFanOut}, ChunkCount{chunks::kMapFanOut},
                         [&](ChunkIndex chunk, const chunks::Ref& ref) -> Status {
                           leaf->refs[static_cast<std::size_t>(chunk.value() % chunks::kMapFanOut)] = ref;
                           return {};
                         }));
  return leaf;
}

}  // namespace varve::snapshot
