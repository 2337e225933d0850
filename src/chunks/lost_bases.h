// What the deltas of a pack with a damaged table may stand on, for repair.
#pragma once

#include <functional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "chunk_store_implementation.h"
#include "format.h"

namespace varve::chunks {

/// The bases of a table are in the order of its deltas. One field is damaged, most likely: then an entry's base is the
/// one in its place or the next to it; pack and ordinal of one are right, or its digest is, which another table has.
class LostBases {
 public:
  LostBases(ChunkStore::Implementation& store, const format::RawTable& table);

  /// Calls `accept` with what may be the base of the delta, until it returns true: nothing is sure but that these bytes
  /// are that record's.
  void offer(std::uint32_t ordinal, RecordKind content,
             const std::function<bool(const Ref& base, std::span<const std::byte> bytes)>& accept);

 private:
  struct Known {
    Ref ref;
    BytesPointer bytes;  ///< null: not to be had
  };
  const Known& find(std::size_t number, RecordKind content);
  [[nodiscard]] Known load(const Ref& ref, RecordKind content);
  [[nodiscard]] MaybeRef by_place(const Ref& ref);
  [[nodiscard]] MaybeRef by_digest(const Digest& digest);
  void read_all_tables();

  ChunkStore::Implementation& store_;
  const std::vector<MaybeRef>& bases_;
  std::vector<std::size_t> deltas_before_;  ///< each ordinal
  std::unordered_map<std::size_t, Known> chunks_;
  std::unordered_map<std::size_t, Known> nodes_;
  std::unordered_map<Digest, MaybeRef> places_;  ///< of the digests in bases_
  bool tables_read_ = false;
};

}  // namespace varve::chunks
