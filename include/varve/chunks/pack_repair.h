// Repair of a pack: written anew as its next generation, with all that is good in it and what was found elsewhere.
//
// Order: the new generation whole, durable, read back and verified; then the old one goes. A crash anywhere leaves the
// old pack, or both, of which the newer is read, or the new one. What was lost before stays as it is, for another try.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "varve/chunks/chunk_store.h"

namespace varve::chunks {

/// A record that something stands on and that cannot be read.
struct LostRecord {
  Ref ref;
  RecordKind kind = RecordKind::full;  ///< what it holds: full or node
  /// Of a chunk's delta, nothing but its own blocks is wanted: what it stands on may be gone, and then nobody can tell
  /// its digest.
  bool only_lends = false;
};

/// Plain bytes with the record's digest that somebody still has; null when nobody does. Called without locks.
using FindElsewhere = std::function<BytesPointer(const LostRecord&)>;

struct RepairedPack {
  bool written = false;                ///< there is a new generation
  /// Readable again by what the pack itself has (its table was damaged); one that only lends: at least its own blocks.
  std::vector<LostRecord> from_pack;
  std::vector<LostRecord> elsewhere;   ///< readable again by what was found elsewhere
  std::vector<LostRecord> still_lost;
};

/// Whether a pack whose table is lost gets one in any case, in which what was not found is gone: until then collect cannot
/// tell what it keeps alive, and stops.
enum class Settle { no, yes };

/// `lost`: all lost records of this pack that are wanted; none, when only its header is damaged. The pack may be
/// missing. Nothing is written when nothing would be better than before; a table again is better, also of deltas that
/// nothing proves as yet. One repair at a time; any thread.
/// EAGAIN: the pack is being collected. EIO where the new generation does not read back: it is removed again.
[[nodiscard]] Result<RepairedPack> repair_pack(ChunkStore& store, PackId pack, std::span<const LostRecord> lost,
                                               const FindElsewhere& find_elsewhere, Settle settle = Settle::no);

/// Removes the old generations that a crash between "new one durable" and "old one removed" left, where the new one
/// reads well.
[[nodiscard]] Status remove_superseded_packs(ChunkStore& store);

}  // namespace varve::chunks
