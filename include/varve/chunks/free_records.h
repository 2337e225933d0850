// Gives back the space of records that nothing reaches any more, pack by pack: for collect.
#pragma once

#include <cstdint>
#include <functional>

#include "varve/chunks/chunk_store.h"

namespace varve::chunks {

/// What became of a pack.
struct Freed {
  enum class How {
    nothing,  ///< no dead records, or too few to be worth it: they wait
    busy,     ///< somebody has come to use it since the mark
    punched,
    rewritten,
    removed,
  };
  How how = How::nothing;
  std::uint64_t records = 0;        ///< that are gone
  std::uint64_t record_bytes = 0;   ///< what they had stored, to the byte
  std::uint64_t disk_bytes = 0;     ///< by which the pack's files are smaller, holes counted in blocks
  std::uint64_t written_bytes = 0;  ///< of the new generation
  std::uint64_t waiting_records = 0;
  std::uint64_t waiting_bytes = 0;  ///< of dead records that stay for now
};

/// Frees the records of a pack that `alive` does not name (empty: none is alive). Must be called while the RootRegistry::Mark of the mark that
/// found them still exists. A pack with nothing alive is removed; one of which at most half is alive is rewritten as its
/// next generation; one with long dead runs gets a new table, in which they are gone, and holes; others wait. Refs of
/// what is alive stay valid all the while, and readers find their way.
///
/// A crash leaves the pack as it was, or as it shall be, or (after a new table) with bytes that still wait to be punched:
/// the next call for the pack does that. Without space for a table (ENOSPC, EDQUOT) the holes are made all the same: their
/// records stay in the table, are found not to be there by whoever comes by, and are freed once more later.
///
/// Errors: EIO (damaged) when the pack cannot be read, unless nothing of it is alive; others as the object store's.
/// Nothing is lost by any. One pack at
/// a time; any thread.
[[nodiscard]] Result<Freed> free_records(ChunkStore& store, PackId pack,
                                         const std::function<bool(const Ref&)>& alive);

}  // namespace varve::chunks
