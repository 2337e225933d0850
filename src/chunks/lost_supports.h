// What the deltas of a pack with a damaged table may stand on, for repair.
#pragma once

#include <functional>
#include <optional>
#include <unordered_map>
#include <vector>

#include "chunk_store_implementation.h"
#include "format.h"

namespace varve::chunks {

/// The supports of a table are in the order of its deltas. One field is damaged, most likely: then those of an entry are
/// in their place, or as far from it as the table has more or fewer of them than its entries say; pack and ordinal of one
/// are right, or its digest is, which another table has.
class LostSupports {
 public:
  LostSupports(ChunkStore::Implementation& store, const format::RawTable& table);

  /// What the entry stands on, going by the table; nothing when that cannot be.
  [[nodiscard]] std::optional<std::vector<Ref>> stated(std::uint32_t ordinal) const;

  /// Calls `accept` with what the delta may stand on, base first, and the base's bytes, until it returns true: nothing is
  /// sure but that these bytes are that record's.
  using Accept = std::function<bool(const std::vector<Ref>& supports, const BytesPointer& base)>;
  void offer(std::uint32_t ordinal, RecordKind content, const Accept& accept);

 private:
  struct Known {
    Ref ref;
    BytesPointer bytes;  ///< null: not to be had
  };
  [[nodiscard]] bool offer_those(std::size_t first, std::size_t count, RecordKind content, const Accept& accept);
  const Known& find_base(std::size_t number, RecordKind content);
  [[nodiscard]] MaybeRef find_lender(std::size_t number);
  [[nodiscard]] Known load(const Ref& ref, RecordKind content);
  [[nodiscard]] MaybeRef by_place(const Ref& ref);
  struct Places {
    MaybeRef no_delta;
    MaybeRef delta;
  };
  [[nodiscard]] Places by_digest(const Digest& digest);
  void read_all_tables();

  ChunkStore::Implementation& store_;
  const format::RawTable& table_;
  std::vector<std::size_t> first_;  ///< support of each ordinal, going by the entries
  std::ptrdiff_t more_ = 0;         ///< supports there are than the entries say
  std::unordered_map<std::size_t, Known> chunks_;
  std::unordered_map<std::size_t, Known> nodes_;
  std::unordered_map<Digest, Places> places_;  ///< of the digests of the supports
  bool tables_read_ = false;
};

}  // namespace varve::chunks
