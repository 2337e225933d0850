// Collect (gc): marks every record that a registered root or hold reaches and removes packs in which nothing is alive.
#pragma once

#include <functional>

#include "varve/chunks/chunk_store.h"

namespace varve::snapshot {

struct Collected {
  std::uint64_t live_records = 0;
  std::uint64_t packs_seen = 0;
  std::uint64_t packs_removed = 0;
  std::uint64_t bytes_removed = 0;
};

/// Packs that came into being after the call began are not touched. A node that cannot be read stops it before
/// anything is removed (EIO): what a damaged node stood for is unknown. ECANCELED when `stop` (may be empty) said so;
/// what was removed by then stays removed. A pack that cannot be removed does not keep the others; the first such
/// error is returned in the end. Any thread; several at once are safe.
///
/// Cost: each distinct map node is read once; memory one bit a record (some 16 MiB per TiB of packs).
[[nodiscard]] Result<Collected> collect_dead_packs(chunks::ChunkStore& chunks, const std::function<bool()>& stop);

}  // namespace varve::snapshot
