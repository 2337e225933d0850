// Check: reads and verifies every record that snapshots stand on.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "varve/chunks/chunk_map.h"

namespace varve::snapshot {

/// A range of an image that is read from a map.
struct CheckPart {
  chunks::MaybeRef root;  ///< held by who visits it
  ChunkIndex source;      ///< where in the map it begins
  ChunkCount count;
  ChunkIndex at;  ///< where that is in the image
};

struct CheckTarget {
  std::string name;  ///< "web01@before-upgrade", for the report
  chunks::MaybeRef root;
  ByteCount size;
  /// Set: the image has no map of its own, but these parts, given one after the other (a live image, a pending
  /// snapshot; what is not in them is not in packs). An error it returns ends the check.
  std::function<Status(const std::function<Status(const CheckPart&)>& visit)> parts{};
  DiskId disk{};  ///< for repair: targets of one disk have its live side's chunks at the same places
};

struct Damage {
  std::string target;
  std::uint64_t chunks = 0;  ///< damaged chunks, and all that a damaged node of the map spans in the image
  std::string first;         ///< a sentence: the first of them, offset, pack and reason
};

struct Checked {
  std::uint64_t records = 0;    ///< distinct records verified
  std::uint64_t bytes = 0;      ///< stored bytes that the ChunkStore read meanwhile
  std::vector<Damage> damaged;  ///< exactly the targets that cannot be read whole, in the order given
};

/// Each distinct record is read once, past all caches, and the table of each pack it is in. `progress(done, total)` in
/// records, total grows while maps are walked; on the caller's thread. Damage is a result; an error is a machine short
/// of something (ENOMEM, EMFILE …), or ECANCELED when `stop` said so. Both functions may be empty. A target whose root
/// is being collected is left out: it was deleted meanwhile.
///
/// Cost: one read per distinct record; memory one bit for each, and an entry for each that is lost.
[[nodiscard]] Result<Checked> check_targets(
    chunks::ChunkStore& chunks, const std::vector<CheckTarget>& targets,
    const std::function<void(std::uint64_t done, std::uint64_t total)>& progress, const std::function<bool()>& stop);

}  // namespace varve::snapshot
