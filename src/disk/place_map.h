// Places of an image's chunks, in pages of 4096 chunks: one kind for all, or 2 bits a chunk with a table of slots.
// Memory: 16 bytes a page; a mixed page 1 KiB and about 32 bytes a detour.
#pragma once

#include <bitset>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "format.h"

namespace varve::disk {

/// Kinds of up to 4096 chunks. A value; moving is cheap.
class PlacePage {
 public:
  explicit PlacePage(PlaceKind uniform = PlaceKind::zero) : uniform_(uniform) {}
  [[nodiscard]] bool is_uniform() const { return dense_ == nullptr; }
  [[nodiscard]] PlaceKind uniform() const { return uniform_; }
  [[nodiscard]] Place get(std::uint64_t chunk) const;
  void set(std::uint64_t chunk, Place place);
  /// Every chunk; not a detour.
  void fill(PlaceKind kind);
  /// As stored: see record::PlacePage.
  [[nodiscard]] record::PlacePage encode() const;
  static PlacePage decode(const record::PlacePage& stored);
  template <class Visit>
  void for_each_slot(Visit visit) const {
    if (!dense_) return;
    for (const auto& [chunk, slot] : dense_->slots) visit(chunk, slot);
  }

 private:
  struct Dense {
    KindBits kinds{};
    std::unordered_map<std::uint16_t, Slot> slots;
  };
  void make_dense();
  PlaceKind uniform_;
  std::unique_ptr<Dense> dense_;
};

/// A run of chunks with one place (of one slot: one chunk).
struct PlaceRun {
  ChunkIndex first;
  ChunkCount count;
  Place place;
};

/// Not locked: LiveDisk's state mutex guards it.
class PlaceMap {
 public:
  [[nodiscard]] Place get(ChunkIndex chunk) const;
  void set(ChunkIndex chunk, Place place);
  /// The run that starts at `from`, cut at `end` (> from) and perhaps at a page's end.
  [[nodiscard]] PlaceRun run_at(ChunkIndex from, ChunkIndex end) const;

  [[nodiscard]] std::uint64_t page_count() const { return pages_.size(); }
  [[nodiscard]] const PlacePage& page(std::uint64_t index) const { return pages_[index]; }
  /// Replaces a whole page; returns the old one.
  PlacePage exchange_page(std::uint64_t index, PlacePage page);
  /// Chunks of a kind (Zero is not counted).
  [[nodiscard]] std::uint64_t count(PlaceKind kind) const { return counts_[static_cast<std::size_t>(kind)]; }

 private:
  void grow_to(std::uint64_t page);
  void count_page(const PlacePage& page, std::uint64_t sign);
  std::vector<PlacePage> pages_;
  std::array<std::uint64_t, 4> counts_{};
};

/// Places that a pending snapshot found at its freeze and that the live image has left since. Sparse.
class SavedPlaces {
 public:
  [[nodiscard]] std::optional<Place> get(ChunkIndex chunk) const;
  /// Remembers the place unless one is remembered already; false then.
  bool save(ChunkIndex chunk, Place place);
  /// Remembers a whole page; only the chunks not remembered already are taken from it. Calls `kept_already(chunk,
  /// place)` for the others.
  template <class KeptAlready>
  void save_page(std::uint64_t index, PlacePage page, KeptAlready kept_already);
  [[nodiscard]] bool has_page(std::uint64_t index) const { return pages_.contains(index); }
  [[nodiscard]] bool empty() const { return pages_.empty(); }
  template <class Visit>
  void for_each(Visit visit) const;
  /// Pages as stored.
  [[nodiscard]] std::vector<record::PlacePage> encode(std::uint64_t id) const;
  void load(const record::PlacePage& stored);

 private:
  struct SavedPage {
    std::bitset<kPageChunks> present;
    PlacePage places;
  };
  std::unordered_map<std::uint64_t, SavedPage> pages_;
};

template <class KeptAlready>
void SavedPlaces::save_page(std::uint64_t index, PlacePage page, KeptAlready kept_already) {
  auto& saved = pages_[index];
  if (saved.present.none()) {
    saved.places = std::move(page);
    saved.present.set();
    return;
  }
  for (std::uint64_t i = 0; i < kPageChunks; ++i) {
    const Place place = page.get(i);
    if (saved.present[i]) {
      kept_already(ChunkIndex{index * kPageChunks + i}, place);
    } else {
      saved.places.set(i, place);
      saved.present.set(i);
    }
  }
}

template <class Visit>
void SavedPlaces::for_each(Visit visit) const {
  for (const auto& [index, page] : pages_) {
    // What is there, not all that could be: a page mostly has a few.
    for (std::size_t i = page.present._Find_first(); i < kPageChunks; i = page.present._Find_next(i)) {
      visit(ChunkIndex{index * kPageChunks + i}, page.places.get(i));
    }
  }
}

/// L: which map, and which chunk of it, a Base chunk has. Edited by splices only. A value; pending snapshots share it.
class Segments {
 public:
  /// More than this many and copies fall back to bytes.
  static constexpr std::size_t kMax = 4096;
  struct Segment {
    std::uint64_t count = 0;
    OpaqueRoot root;
    std::uint64_t source = 0;
  };
  struct Found {
    OpaqueRoot root;
    ChunkIndex source;
    ChunkCount left;  ///< chunks from here on in the same segment
  };
  /// Nothing where L says nothing (zeros).
  [[nodiscard]] std::optional<Found> find(ChunkIndex chunk) const;
  void set(ChunkIndex first, ChunkCount count, const OpaqueRoot& root, ChunkIndex source);
  /// Whether it says something for any chunk of the range.
  [[nodiscard]] bool overlaps(ChunkIndex first, ChunkCount count) const;
  void clear() { segments_.clear(); }
  [[nodiscard]] std::size_t size() const { return segments_.size(); }
  [[nodiscard]] const std::map<std::uint64_t, Segment>& all() const { return segments_; }

 private:
  std::map<std::uint64_t, Segment> segments_;  ///< by first chunk; do not overlap
};

}  // namespace varve::disk
