#include "place_map.h"

#include <algorithm>

namespace varve::disk {
namespace {

PlaceKind kind_at(const KindBits& kinds, std::uint64_t chunk) {
  return static_cast<PlaceKind>((static_cast<unsigned>(kinds[chunk / 4]) >> (chunk % 4 * 2)) & 3);
}

void set_kind(KindBits& kinds, std::uint64_t chunk, PlaceKind kind) {
  const auto shift = static_cast<unsigned>(chunk % 4 * 2);
  const auto cleared = static_cast<unsigned>(kinds[chunk / 4]) & ~(3u << shift);
  kinds[chunk / 4] = static_cast<std::byte>(cleared | (static_cast<unsigned>(kind) << shift));
}

}  // namespace

// --- PlacePage ---

Place PlacePage::get(std::uint64_t chunk) const {
  if (!dense_) return {uniform_, 0};
  const PlaceKind kind = kind_at(dense_->kinds, chunk);
  if (kind != PlaceKind::detour) return {kind, 0};
  const auto it = dense_->slots.find(static_cast<std::uint16_t>(chunk));
  return {kind, it == dense_->slots.end() ? 0 : it->second};
}

void PlacePage::make_dense() {
  dense_ = std::make_unique<Dense>();
  const auto kind = static_cast<unsigned>(uniform_);
  dense_->kinds.fill(static_cast<std::byte>(kind | kind << 2 | kind << 4 | kind << 6));
}

void PlacePage::set(std::uint64_t chunk, Place place) {
  if (!dense_) {
    if (place.kind == uniform_ && place.kind != PlaceKind::detour) return;
    make_dense();
  }
  set_kind(dense_->kinds, chunk, place.kind);
  if (place.kind == PlaceKind::detour) {
    dense_->slots[static_cast<std::uint16_t>(chunk)] = place.slot;
  } else {
    dense_->slots.erase(static_cast<std::uint16_t>(chunk));
  }
}

void PlacePage::fill(PlaceKind kind) {
  dense_.reset();
  uniform_ = kind;
}

record::PlacePage PlacePage::encode() const {
  record::PlacePage stored;
  for (std::uint64_t i = 0; i < kPageChunks; ++i) set_kind(stored.kinds, i, get(i).kind);
  stored.present.fill(std::byte{0xFF});
  for_each_slot([&](std::uint16_t chunk, Slot slot) { stored.slots.push_back({chunk, slot}); });
  return stored;
}

PlacePage PlacePage::decode(const record::PlacePage& stored) {
  PlacePage page;
  page.make_dense();
  page.dense_->kinds = stored.kinds;
  for (const auto& [chunk, slot] : stored.slots) page.dense_->slots[chunk] = slot;
  const PlaceKind first = kind_at(stored.kinds, 0);
  const auto pattern = static_cast<unsigned>(first) * 0x55;
  const bool uniform = first != PlaceKind::detour &&
                       std::all_of(stored.kinds.begin(), stored.kinds.end(),
                                   [pattern](std::byte b) { return static_cast<unsigned>(b) == pattern; });
  if (uniform) page.fill(first);
  return page;
}

// --- PlaceMap ---

Place PlaceMap::get(ChunkIndex chunk) const {
  const std::uint64_t page = chunk.value() / kPageChunks;
  return page < pages_.size() ? pages_[page].get(chunk.value() % kPageChunks) : Place{};
}

void PlaceMap::grow_to(std::uint64_t page) {
  if (page >= pages_.size()) pages_.resize(page + 1);
}

void PlaceMap::set(ChunkIndex chunk, Place place) {
  const std::uint64_t page = chunk.value() / kPageChunks;
  grow_to(page);
  --counts_[static_cast<std::size_t>(pages_[page].get(chunk.value() % kPageChunks).kind)];
  ++counts_[static_cast<std::size_t>(place.kind)];
  pages_[page].set(chunk.value() % kPageChunks, place);
}

void PlaceMap::count_page(const PlacePage& page, std::uint64_t sign) {
  if (page.is_uniform()) {
    counts_[static_cast<std::size_t>(page.uniform())] += sign * kPageChunks;
    return;
  }
  for (std::uint64_t i = 0; i < kPageChunks; ++i) counts_[static_cast<std::size_t>(page.get(i).kind)] += sign;
}

PlacePage PlaceMap::exchange_page(std::uint64_t index, PlacePage page) {
  grow_to(index);
  count_page(pages_[index], ~std::uint64_t{0});  // minus one
  count_page(page, 1);
  std::swap(pages_[index], page);
  return page;
}

PlaceRun PlaceMap::run_at(ChunkIndex from, ChunkIndex end) const {
  const std::uint64_t page = from.value() / kPageChunks;
  if (page >= pages_.size()) return {from, end - from, Place{}};
  const ChunkIndex page_end{std::min((page + 1) * kPageChunks, end.value())};
  const PlacePage& places = pages_[page];
  if (places.is_uniform()) return {from, page_end - from, {places.uniform(), 0}};
  const Place place = places.get(from.value() % kPageChunks);
  ChunkIndex next = from + ChunkCount{1};
  while (place.kind != PlaceKind::detour && next < page_end && places.get(next.value() % kPageChunks) == place) {
    next += ChunkCount{1};
  }
  return {from, next - from, place};
}

// --- SavedPlaces ---

std::optional<Place> SavedPlaces::get(ChunkIndex chunk) const {
  const auto it = pages_.find(chunk.value() / kPageChunks);
  if (it == pages_.end() || !it->second.present[chunk.value() % kPageChunks]) return std::nullopt;
  return it->second.places.get(chunk.value() % kPageChunks);
}

bool SavedPlaces::save(ChunkIndex chunk, Place place) {
  auto& page = pages_[chunk.value() / kPageChunks];
  const std::uint64_t i = chunk.value() % kPageChunks;
  if (page.present[i]) return false;
  page.present.set(i);
  page.places.set(i, place);
  return true;
}

std::vector<record::PlacePage> SavedPlaces::encode(std::uint64_t id) const {
  std::vector<record::PlacePage> stored;
  for (const auto& [index, page] : pages_) {
    auto one = page.places.encode();
    one.id = id;
    one.page = static_cast<std::uint32_t>(index);
    one.present.fill(std::byte{0});
    for (std::uint64_t i = 0; i < kPageChunks; ++i) {
      if (page.present[i]) one.present[i / 8] |= static_cast<std::byte>(1u << (i % 8));
    }
    stored.push_back(std::move(one));
  }
  return stored;
}

void SavedPlaces::load(const record::PlacePage& stored) {
  const PlacePage places = PlacePage::decode(stored);
  for (std::uint64_t i = 0; i < kPageChunks; ++i) {
    const bool present = (static_cast<unsigned>(stored.present[i / 8]) >> (i % 8) & 1) != 0;
    if (present) save(ChunkIndex{std::uint64_t{stored.page} * kPageChunks + i}, places.get(i));
  }
}

// --- Segments ---

std::optional<Segments::Found> Segments::find(ChunkIndex chunk) const {
  auto it = segments_.upper_bound(chunk.value());
  if (it == segments_.begin()) return std::nullopt;
  --it;
  const std::uint64_t within = chunk.value() - it->first;
  if (within >= it->second.count) return std::nullopt;
  return Found{it->second.root, ChunkIndex{it->second.source + within}, ChunkCount{it->second.count - within}};
}

bool Segments::overlaps(ChunkIndex first, ChunkCount count) const {
  const auto next = segments_.lower_bound(first.value());
  return find(first).has_value() || (next != segments_.end() && next->first < first.value() + count.value());
}

void Segments::set(ChunkIndex first, ChunkCount count, const OpaqueRoot& root, ChunkIndex source) {
  if (count == ChunkCount{0}) return;
  std::uint64_t begin = first.value();
  std::uint64_t end = begin + count.value();
  std::uint64_t from = source.value();
  // Cut what overlaps: the part before stays under its key, the part behind gets one of its own.
  auto it = segments_.lower_bound(begin);
  if (it != segments_.begin() && std::prev(it)->first + std::prev(it)->second.count > begin) --it;
  while (it != segments_.end() && it->first < end) {
    const auto [old_begin, old] = *it;
    const std::uint64_t old_end = old_begin + old.count;
    it = segments_.erase(it);
    if (old_begin < begin) segments_.emplace(old_begin, Segment{begin - old_begin, old.root, old.source});
    if (old_end > end) {
      it = segments_.emplace(end, Segment{old_end - end, old.root, old.source + (end - old_begin)}).first;
    }
  }
  // A copy in pieces is one segment.
  auto next = segments_.lower_bound(end);
  if (next != segments_.end() && next->first == end && next->second.root == root &&
      next->second.source == from + (end - begin)) {
    end += next->second.count;
    segments_.erase(next);
  }
  auto previous = segments_.lower_bound(begin);
  if (previous != segments_.begin()) {
    --previous;
    if (previous->first + previous->second.count == begin && previous->second.root == root &&
        previous->second.source + previous->second.count == from) {
      begin = previous->first;
      from = previous->second.source;
      segments_.erase(previous);
    }
  }
  segments_[begin] = Segment{end - begin, root, from};
}

}  // namespace varve::disk
