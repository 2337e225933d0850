// A number for each record: paged by pack and ordinal, as record_set.h.
//
// Memory: a page of 512 records costs 512 numbers and about 64 bytes for its place in the table, and goes when all its
// numbers are 0. Counts of one byte, with the few larger ones beside them, take 1.2 bytes a record: a store of 1 TiB of
// 64 KiB chunks (16.8 million records) 20 MiB.
#pragma once

#include <array>
#include <cassert>
#include <cstdint>
#include <limits>
#include <unordered_map>

#include "varve/chunks/ref.h"

namespace varve::snapshot {

/// A record without its digest.
struct RecordKey {
  PackId pack;
  std::uint32_t ordinal = 0;
  explicit RecordKey(const chunks::Ref& ref) : pack(ref.pack), ordinal(ref.ordinal) {}
  RecordKey(PackId of, std::uint32_t number) : pack(of), ordinal(number) {}
  friend bool operator==(const RecordKey&, const RecordKey&) = default;
};
struct RecordKeyHash {
  std::size_t operator()(const RecordKey& k) const noexcept {
    return static_cast<std::size_t>(k.pack.value() ^ (k.ordinal * 0x9E3779B97F4A7C15u));
  }
};

/// 0 for every record that was not set.
template <class Number>
class RecordTable {
 public:
  [[nodiscard]] Number get(const RecordKey& record) const {
    const auto page = pages_.find(page_of(record));
    return page == pages_.end() ? Number{0} : page->second.numbers[record.ordinal % kPage];
  }
  void set(const RecordKey& record, Number number) {
    const RecordKey at = page_of(record);
    if (number == 0 && !pages_.contains(at)) return;
    Page& page = pages_[at];
    Number& old = page.numbers[record.ordinal % kPage];
    if (number != 0) ++page.used;
    if (old != 0) --page.used;
    old = number;
    if (page.used == 0) pages_.erase(at);
  }
  /// Calls `visit` for each record whose number is not 0.
  template <class Visit>
  void for_each(Visit visit) const {
    for (const auto& [at, page] : pages_) {
      for (std::uint32_t i = 0; i < kPage; ++i) {
        if (page.numbers[i] != 0) visit(RecordKey(at.pack, at.ordinal * kPage + i), page.numbers[i]);
      }
    }
  }
  [[nodiscard]] std::size_t memory_bytes() const { return pages_.size() * (sizeof(Page) + 64); }
  void clear() { pages_.clear(); }

 private:
  static constexpr std::uint32_t kPage = 512;
  struct Page {
    std::array<Number, kPage> numbers{};
    std::uint16_t used = 0;
  };
  static RecordKey page_of(const RecordKey& record) { return {record.pack, record.ordinal / kPage}; }

  std::unordered_map<RecordKey, Page, RecordKeyHash> pages_;
};

/// Counts, one byte each where that is enough.
class RecordCounts {
 public:
  [[nodiscard]] std::uint64_t get(const RecordKey& record) const {
    const std::uint8_t small = small_.get(record);
    return small < kLarge ? small : large_.at(record);
  }
  /// The count afterwards.
  std::uint64_t add(const RecordKey& record) {
    const std::uint64_t count = get(record) + 1;
    put(record, count);
    return count;
  }
  std::uint64_t subtract(const RecordKey& record) {
    const std::uint64_t count = get(record);
    assert(count > 0);
    put(record, count - 1);
    return count - 1;
  }
  template <class Visit>
  void for_each(Visit visit) const {
    small_.for_each([&](const RecordKey& record, std::uint8_t) { visit(record, get(record)); });
  }
  [[nodiscard]] std::size_t memory_bytes() const { return small_.memory_bytes() + large_.size() * 64; }
  void clear() {
    small_.clear();
    large_.clear();
  }

 private:
  static constexpr std::uint8_t kLarge = std::numeric_limits<std::uint8_t>::max();
  void put(const RecordKey& record, std::uint64_t count) {
    if (count < kLarge) {
      if (count + 1 == kLarge) large_.erase(record);
      small_.set(record, static_cast<std::uint8_t>(count));
    } else {
      small_.set(record, kLarge);
      large_[record] = count;
    }
  }

  RecordTable<std::uint8_t> small_;
  std::unordered_map<RecordKey, std::uint64_t, RecordKeyHash> large_;
};

}  // namespace varve::snapshot
