// Check: reads and verifies every record that snapshots stand on.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "varve/chunks/chunk_map.h"
#include "varve/core/thread_pool.h"

namespace varve::snapshot {

struct CheckTarget {
  std::string name;  ///< "web01@before-upgrade", for the report
  chunks::MaybeRef root;
  ByteCount size;
};

struct Damage {
  std::string target;
  std::uint64_t chunks = 0;      ///< damaged or unreachable chunks
  std::string first;             ///< a sentence: the first of them, offset, pack and reason
};

struct Checked {
  std::uint64_t records = 0;     ///< distinct records verified
  std::uint64_t bytes = 0;       ///< stored bytes read
  std::vector<Damage> damaged;   ///< exactly the targets that cannot be read whole, in the order given
};

/// Each distinct record is read once, past all caches. `progress(done, total)` in records, total may grow; from any
/// thread. Damage is a result, not an error.
[[nodiscard]] Result<Checked> check_targets(chunks::ChunkStore& chunks, const std::vector<CheckTarget>& targets,
                                            const std::function<void(std::uint64_t done, std::uint64_t total)>& progress,
                                            const std::function<bool()>& stop);

}  // namespace varve::snapshot
