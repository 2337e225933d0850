// Collect (gc): marks every record that a registered root or hold reaches, and gives back the space of all others.
#pragma once

#include <functional>

#include "varve/chunks/chunk_store.h"

namespace varve::snapshot {

struct Collected {
  std::uint64_t live_records = 0;
  std::uint64_t packs_seen = 0;
  std::uint64_t packs_removed = 0;
  std::uint64_t packs_rewritten = 0;
  std::uint64_t packs_punched = 0;
  std::uint64_t records_removed = 0;
  std::uint64_t record_bytes = 0;   ///< what these had stored, to the byte
  std::uint64_t bytes_removed = 0;  ///< by which the packs' files are smaller
  std::uint64_t bytes_written = 0;  ///< of packs and tables that replace others
  std::uint64_t packs_joined = 0;  ///< small ones that had a file each and share one now
  /// Dead, and not worth writing a table for yet, or in a pack that was in use.
  std::uint64_t waiting_records = 0;
  std::uint64_t waiting_bytes = 0;
};

/// All may be empty.
struct CollectOptions {
  /// Asked between any two records and packs.
  std::function<bool()> stop;
  /// In packs, from when all is marked.
  std::function<void(std::uint64_t done, std::uint64_t total)> progress;
  /// Told of work that was done, in records marked and bytes written: waits as long as it wants to.
  std::function<void(std::uint64_t records, std::uint64_t bytes)> pace;
};

/// Packs that came into being after the call began are not touched. A node that cannot be read stops it before
/// anything is removed (EIO): what a damaged node stood for is unknown; so does a pack whose table cannot be read, while
/// anything stands on its records. ECANCELED when `stop` said so; what was removed by then stays removed. A pack that
/// cannot be freed does not keep the others; the first such error is returned in the end. Any thread; several at once are
/// safe. In the end small packs are joined (chunks/join_packs.h): should that fail, the log says so. Works without free space: packs in which nothing is alive go first, and holes need none.
///
/// Cost: each distinct map node is read once, and the table of each pack; memory one bit a record (some 16 MiB per TiB of
/// packs), one pack, and its table.
[[nodiscard]] Result<Collected> collect_garbage(chunks::ChunkStore& chunks, const CollectOptions& options);

}  // namespace varve::snapshot
