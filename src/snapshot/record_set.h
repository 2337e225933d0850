// A set of records, one bit each: what a mark or a check has seen.
//
// Memory: a page of 512 ordinals is 64 bytes and about as much for its place in the table. A pack of 16 MiB with 640
// records costs two pages, so a store of 1 TiB some 16 MiB. Made-up ordinals cost a page each: at most four times the
// bytes of the nodes that name them.
#pragma once

#include <bitset>
#include <cstdint>
#include <unordered_map>
#include <unordered_set>

#include "varve/chunks/ref.h"

namespace varve::snapshot {

class RecordSet {
 public:
  /// False when it was there before. Records are told apart by pack and ordinal.
  bool insert(const chunks::Ref& ref) {
    auto page = pages_[key(ref)][ref.ordinal % kPage];
    if (page) return false;
    page = true;
    packs_.insert(ref.pack);
    ++size_;
    return true;
  }
  [[nodiscard]] bool contains(const chunks::Ref& ref) const {
    const auto page = pages_.find(key(ref));
    return page != pages_.end() && page->second[ref.ordinal % kPage];
  }
  /// Whether any record of the pack is in the set.
  [[nodiscard]] bool names_pack(PackId pack) const { return packs_.contains(pack); }
  [[nodiscard]] std::uint64_t size() const { return size_; }

 private:
  static constexpr std::uint32_t kPage = 512;
  struct Key {
    PackId pack;
    std::uint32_t page = 0;
    friend bool operator==(const Key&, const Key&) = default;
  };
  struct KeyHash {
    std::size_t operator()(const Key& k) const noexcept {
      return static_cast<std::size_t>(k.pack.value() ^ (k.page * 0x9E3779B97F4A7C15u));
    }
  };
  static Key key(const chunks::Ref& ref) { return {ref.pack, ref.ordinal / kPage}; }

  std::unordered_map<Key, std::bitset<kPage>, KeyHash> pages_;
  std::unordered_set<PackId> packs_;
  std::uint64_t size_ = 0;
};

}  // namespace varve::snapshot
