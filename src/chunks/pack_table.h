// The table of a pack in memory: 32 bytes a record, a delta 4 more and 24 for each record that it stands on.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "format.h"

namespace varve::chunks {

/// Of one generation of a pack.
class PackTable {
 public:
  PackTable(std::uint32_t generation, std::uint32_t payloads, format::Table table,
            const std::optional<format::Trailer>& trailer = {});

  const std::uint32_t generation;
  const std::uint32_t payloads;                  ///< the generation that has the payloads
  const std::optional<format::Trailer> trailer;  ///< unless it was just written
  const std::vector<format::Entry> entries;

  /// What the delta stands on: its base, then its lenders. Empty for any other record.
  [[nodiscard]] std::vector<Ref> supports_of(std::uint32_t ordinal) const;
  [[nodiscard]] std::size_t supports() const { return supports_.size(); }
  [[nodiscard]] std::size_t memory_bytes() const;

 private:
  /// Few packs are named by many.
  struct Support {
    std::uint32_t pack = 0;  ///< position in packs_
    std::uint32_t ordinal = 0;
    Digest digest;
  };
  std::vector<PackId> packs_;
  std::vector<Support> supports_;
  std::vector<std::uint32_t> first_;  ///< support by ordinal, and their number; empty when there are none
};
using PackTablePointer = std::shared_ptr<const PackTable>;

}  // namespace varve::chunks
