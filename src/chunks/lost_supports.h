// What the deltas of a pack with a damaged table may stand on, for repair.
//
// Memory: a place or two for each support of the table, and the bytes of one base at a time.
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
  /// `fits`: whether the payload of an entry is where and what it says. Asked only when the entries say more or fewer
  /// supports than there are: then one that does not fit is the one that is wrong.
  LostSupports(ChunkStore::Implementation& store, const format::RawTable& table,
               const std::function<bool(std::uint32_t ordinal)>& fits);

  /// On how many records the entry stands, going by the whole table.
  [[nodiscard]] std::size_t count(std::uint32_t ordinal) const { return counts_[ordinal]; }
  /// What the entry stands on, if it is that many; nothing when the table has no such supports.
  [[nodiscard]] std::optional<std::vector<Ref>> stated(std::uint32_t ordinal, std::size_t count) const;

  /// Calls `accept` with what the delta may stand on, base first, and the base's bytes, until it returns true: nothing is
  /// sure but that these bytes are that record's.
  using Accept = std::function<bool(const std::vector<Ref>& supports, const BytesPointer& base)>;
  void offer(std::uint32_t ordinal, RecordKind content, const Accept& accept);

 private:
  struct Known {
    Ref ref;
    BytesPointer bytes;  ///< null: not to be had
  };
  void correct_one(const std::function<bool(std::uint32_t ordinal)>& fits);
  [[nodiscard]] std::optional<std::vector<Ref>> refs_from(std::ptrdiff_t first, std::size_t count) const;
  [[nodiscard]] bool offer_those(std::size_t first, std::size_t count, RecordKind content, const Accept& accept);
  [[nodiscard]] Known find_base(std::size_t number, RecordKind content);
  [[nodiscard]] Known find_base_anew(const Ref& ref, RecordKind content);
  [[nodiscard]] std::vector<Ref> find_lender(std::size_t number);
  [[nodiscard]] Known load(const Ref& ref, RecordKind content);
  [[nodiscard]] MaybeRef by_place(const Ref& ref);
  struct Places {
    MaybeRef no_delta;
    std::vector<Ref> deltas;  ///< a few: each has other blocks of its own
  };
  [[nodiscard]] const Places& by_digest(const Digest& digest);
  void read_all_tables();

  ChunkStore::Implementation& store_;
  const format::RawTable& table_;
  std::vector<std::size_t> counts_;  ///< of supports, by ordinal
  std::vector<std::size_t> first_;   ///< support of each ordinal, going by the counts
  std::ptrdiff_t more_ = 0;          ///< supports there are than the counts say
  std::unordered_map<std::size_t, MaybeRef> chunks_;  ///< where the bases are; nothing: not to be had
  std::unordered_map<std::size_t, MaybeRef> nodes_;
  Known last_;  ///< base that was loaded
  RecordKind last_content_ = RecordKind::full;
  std::unordered_map<Digest, Places> places_;  ///< of the digests of the supports
  bool tables_read_ = false;
};

}  // namespace varve::chunks
