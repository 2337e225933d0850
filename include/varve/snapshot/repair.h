// Repair: what check finds lost is looked for wherever the same bytes may still be, and put back under the same refs.
//
// A record is taken to be found where bytes have its digest and its length: the lost ones cannot be compared with any
// more. Bytes that others wrote and that merely have the same digest are improbable, but a guest chooses its data; so
// where several are found that differ, none is used, the disk's own come first, and the report says where each came from.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "varve/snapshot/check.h"

namespace varve::snapshot {

/// Called with bytes that may be the chunk's; true: these were they.
using AcceptBytes = std::function<bool(std::span<const std::byte> bytes, const std::string& from)>;
/// Offers what the live side of the target's disk has for a chunk of the image (whole chunks), place by place.
using OfferLiveBytes = std::function<void(std::size_t target, ChunkIndex chunk, const AcceptBytes& accept)>;

struct Repaired {
  std::uint64_t packs = 0;            ///< written anew
  std::uint64_t records = 0;          ///< readable again
  std::uint64_t lost = 0;             ///< that were found nowhere
  std::vector<std::string> repaired;  ///< a sentence each, the first kMostSentences of them: which, and from where
  std::vector<std::string> failed;    ///< those found nowhere, and packs that could not be written
};
constexpr std::size_t kMostSentences = 1000;

/// Checks the targets, repairs, and begins again until nothing more can be done: what hangs on a lost node shows when it
/// is back. Errors as check_targets(); a pack that cannot be written is reported and the rest goes on, but ENOSPC and the
/// like for every pack end it. What was repaired stays so, whatever happens.
///
/// Cost: a check for each round (as many as nodes hang on lost nodes, at most 6), the tables of all packs, and each pack
/// concerned in memory once.
[[nodiscard]] Result<Repaired> repair_targets(
    chunks::ChunkStore& chunks, const std::vector<CheckTarget>& targets, const OfferLiveBytes& offer_live,
    const std::function<void(std::uint64_t done, std::uint64_t total)>& progress, const std::function<bool()>& stop);

}  // namespace varve::snapshot
