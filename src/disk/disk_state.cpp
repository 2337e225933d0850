#include "disk_state.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

namespace varve::disk {
namespace {

constexpr std::size_t kMaxMaps = 1 << 16;

tl::unexpected<Error> impossible(std::string_view what) {
  return fail_damaged(fmt::format("the journal contradicts itself: {}", what));
}

/// While the live image stands on several maps (a dropped snapshot's among them) they all go to the next freeze.
void append(std::vector<std::uint64_t>& to, const std::vector<std::uint64_t>& from) {
  to.insert(to.end(), from.begin(), from.end());
}

}  // namespace

Status DiskState::apply(const Record& record, Released& released) {
  if (!std::holds_alternative<record::Seal>(record)) clean_ = false;
  return std::visit([&](const auto& r) { return apply_one(r, released); }, record);
}

bool DiskState::valid_range(std::uint64_t first, std::uint64_t count) const {
  return first <= kMaxChunksPerImage && count <= kMaxChunksPerImage - first;
}

// --- places ---

/// A place that the live image left and that no pending snapshot has to keep.
void DiskState::let_go(ChunkIndex chunk, Place place, Released& released) {
  if (place.kind == PlaceKind::home) let_go_home(chunk, released);
  if (place.kind != PlaceKind::detour) return;
  released.slots.push_back(place.slot);
  if (const auto partial = find_partial(chunk, place.slot); partial != partial_.end()) {
    // What the slot has not was read at Home. The sealed journal may have it so still.
    partial_.erase(partial);
    let_go_home(chunk, released);
  }
}

void DiskState::let_go_home(ChunkIndex chunk, Released& released) {
  auto& homes = released.homes;
  if (!homes.empty() && homes.back().first + homes.back().count == chunk) {
    homes.back().count += ChunkCount{1};
  } else {
    homes.push_back({chunk, ChunkCount{1}});
  }
}

void DiskState::set_place(ChunkIndex chunk, Place place, Released& released) {
  const Place old = places_.get(chunk);
  if (old == place) return;
  const bool saved = !pending_.empty() && pending_.back().saved.save(chunk, old);
  if (!saved) let_go(chunk, old, released);
  places_.set(chunk, place);
}

void DiskState::leave_page(std::uint64_t index, PlacePage old, Released& released) {
  if (!pending_.empty()) {
    pending_.back().saved.save_page(index, std::move(old),
                                    [&](ChunkIndex chunk, Place place) { let_go(chunk, place, released); });
    return;
  }
  if (old.is_uniform()) {
    if (old.uniform() == PlaceKind::home) {
      released.homes.push_back({ChunkIndex{index * kPageChunks}, ChunkCount{kPageChunks}});
    }
    return;
  }
  for (std::uint64_t i = 0; i < kPageChunks; ++i) let_go(ChunkIndex{index * kPageChunks + i}, old.get(i), released);
}

/// Whole pages by page, so that a range costs what is in it and not its length. `kind`: Zero, Base or Home.
void DiskState::fill(ChunkIndex first, ChunkCount count, PlaceKind kind, Released& released) {
  ChunkIndex end = first + count;
  if (kind == PlaceKind::zero) {
    // Behind the last page everything is Zero.
    end = std::min(end, ChunkIndex{places_.page_count() * kPageChunks});
  }
  while (first < end) {
    const std::uint64_t page = first.value() / kPageChunks;
    const bool whole = first.value() % kPageChunks == 0 && end.value() - first.value() >= kPageChunks;
    if (!whole) {
      set_place(first, {kind, 0}, released);
      first += ChunkCount{1};
      continue;
    }
    const bool same = page < places_.page_count() && places_.page(page).is_uniform() &&
                      places_.page(page).uniform() == kind;
    if (!same) leave_page(page, places_.exchange_page(page, PlacePage(kind)), released);
    first += ChunkCount{kPageChunks};
  }
}

void DiskState::edit_segments(ChunkIndex first, ChunkCount count, const OpaqueRoot& root, ChunkIndex source) {
  auto edited = std::make_shared<Segments>(*segments_);
  edited->set(first, count, root, source);
  segments_ = std::move(edited);
}

void DiskState::set_size(ByteCount size, Released& released) {
  const ChunkCount before = chunks();
  const ChunkCount after = geometry_.chunks_in(size);
  if (after < before) fill(ChunkIndex{after.value()}, before - after, PlaceKind::zero, released);
  size_ = size;
}

// --- the live image ---

Status DiskState::apply_one(const record::Size& r, Released& released) {
  if (!exists_ || r.bytes > geometry_.max_image_size().value()) return impossible("a size that cannot be");
  set_size(ByteCount{r.bytes}, released);
  return {};
}

Status DiskState::apply_one(const record::Image& r, Released& released) {
  if (r.exists > 1 || (r.exists == 1) == exists_) return impossible("an image that comes or goes twice");
  if (r.exists == 1 && r.incarnation <= incarnation_.value()) return impossible("an incarnation that returns");
  fill(ChunkIndex{0}, ChunkCount{places_.page_count() * kPageChunks}, PlaceKind::zero, released);
  segments_ = std::make_shared<Segments>();
  exists_ = r.exists == 1;
  size_ = ByteCount{0};
  if (exists_) incarnation_ = Incarnation{r.incarnation};
  return {};
}

Status DiskState::apply_one(const record::Places& r, Released& released) {
  const bool single = r.place.kind == PlaceKind::detour || r.place.kind == PlaceKind::base;
  if (r.first > chunks().value() || r.count > chunks().value() - r.first || (single && r.count != 1)) {
    return impossible("places behind the image's end");
  }
  if (r.count == 1) {
    set_place(ChunkIndex{r.first}, r.place, released);
  } else {
    fill(ChunkIndex{r.first}, ChunkCount{r.count}, r.place.kind, released);
  }
  return {};
}

Status DiskState::apply_one(const record::Splice& r, Released& released) {
  if (!exists_ || r.size < size_.value() || r.size > geometry_.max_image_size().value()) {
    return impossible("a splice that shrinks");
  }
  set_size(ByteCount{r.size}, released);
  if (r.first > chunks().value() || r.count > chunks().value() - r.first || !valid_range(r.source, r.count)) {
    return impossible("a splice behind the image's end");
  }
  fill(ChunkIndex{r.first}, ChunkCount{r.count}, PlaceKind::base, released);
  edit_segments(ChunkIndex{r.first}, ChunkCount{r.count}, r.root, ChunkIndex{r.source});
  return {};
}

Status DiskState::apply_one(const record::Replace& r, Released& released) {
  if (r.size > geometry_.max_image_size().value() || r.incarnation < incarnation_.value() ||
      (exists_ && r.incarnation != incarnation_.value()) || (!exists_ && r.incarnation == incarnation_.value())) {
    return impossible("a replacement that cannot be");
  }
  const ChunkCount count = geometry_.chunks_in(ByteCount{r.size});
  fill(ChunkIndex{count.value()}, ChunkCount{kMaxChunksPerImage - count.value()}, PlaceKind::zero, released);
  fill(ChunkIndex{0}, count, r.root.empty() ? PlaceKind::zero : PlaceKind::base, released);
  auto replaced = std::make_shared<Segments>();
  if (!r.root.empty()) replaced->set(ChunkIndex{0}, count, r.root, ChunkIndex{0});
  segments_ = std::move(replaced);
  exists_ = true;
  incarnation_ = Incarnation{r.incarnation};
  size_ = ByteCount{r.size};
  return {};
}

Status DiskState::apply_one(const record::Modified& r, Released&) {
  modified_ = Time{r.time};
  return {};
}

Status DiskState::apply_one(const record::SegmentsCleared&, Released&) {
  if (places_.count(PlaceKind::base) != 0) return impossible("L was cleared under Base chunks");
  segments_ = std::make_shared<Segments>();
  return {};
}

// --- partial slots ---

DiskState::PartialSlots::const_iterator DiskState::find_partial(ChunkIndex chunk, Slot slot) const {
  const auto [begin, end] = partial_.equal_range(chunk.value());
  const auto it = std::find_if(begin, end, [&](const auto& entry) { return entry.second.slot == slot; });
  return it == end ? partial_.end() : it;
}

BlockMask DiskState::blocks_at(ChunkIndex chunk, Place place) const {
  if (place.kind != PlaceKind::detour || partial_.empty()) return kAllBlocks;
  const auto it = find_partial(chunk, place.slot);
  return it == partial_.end() ? kAllBlocks : it->second.blocks;
}

bool DiskState::valid_partial(std::uint64_t chunk, Slot, BlockMask blocks) const {
  return chunk < kMaxChunksPerImage && has_block_masks() && blocks != 0 && (blocks & ~whole_chunk()) == 0;
}

Status DiskState::apply_one(const record::Partial& r, Released& released) {
  const ChunkIndex chunk{r.chunk};
  if (!valid_partial(r.chunk, r.slot, r.blocks) || r.chunk >= chunks().value() || r.moves > 1) {
    return impossible("blocks that no chunk has");
  }
  const auto found = find_partial(chunk, r.slot);
  const Place place = places_.get(chunk);
  if (r.moves == 1) {
    const bool from_home = place.kind == PlaceKind::home || blocks_at(chunk, place) != kAllBlocks;
    if (!from_home || found != partial_.end() || r.blocks == whole_chunk()) return impossible("a part of a chunk on nothing");
    partial_.emplace(r.chunk, PartialSlot{r.slot, r.blocks});
    set_place(chunk, {PlaceKind::detour, r.slot}, released);
    return {};
  }
  if (found == partial_.end() || place != Place{PlaceKind::detour, r.slot}) return impossible("blocks of no partial chunk");
  const BlockMask blocks = found->second.blocks | r.blocks;
  partial_.erase(found);
  if (blocks == whole_chunk()) {
    let_go_home(chunk, released);
  } else {
    partial_.emplace(r.chunk, PartialSlot{r.slot, blocks});
  }
  return {};
}

ByteCount DiskState::detour_bytes(const std::set<Slot>& used) const {
  const std::uint64_t size = geometry_.chunk_size().value();
  std::map<Slot, BlockMask> partial;
  for (const auto& [chunk, part] : partial_) partial.emplace(part.slot, part.blocks);
  std::uint64_t bytes = 0;
  for (const Slot slot : used) {
    const auto part = partial.find(slot);
    const std::uint64_t there =
        part == partial.end() ? size : static_cast<std::uint64_t>(std::bit_width(part->second)) * kBlockSize;
    bytes = std::max(bytes, slot * size + there);
  }
  return ByteCount{bytes};
}

bool DiskState::has_valid_partials(const std::unordered_map<Slot, ChunkIndex>& owners) const {
  return std::ranges::all_of(partial_, [&](const auto& entry) {
    const auto& [chunk, part] = entry;
    const auto owner = owners.find(part.slot);
    return owner != owners.end() && owner->second == ChunkIndex{chunk} &&
           places_.get(ChunkIndex{chunk}).kind != PlaceKind::home;
  });
}

// --- pending snapshots ---

std::optional<std::size_t> DiskState::position_of(SnapshotId id) const {
  const auto it = std::ranges::lower_bound(pending_, id, {}, &PendingState::id);
  if (it == pending_.end() || it->id != id) return std::nullopt;
  return static_cast<std::size_t>(it - pending_.begin());
}

Result<PendingState*> DiskState::find(std::uint64_t id) {
  const auto position = position_of(SnapshotId{id});
  if (!position) return impossible(fmt::format("snapshot {} is not pending", id));
  return &pending_[*position];
}

std::optional<Place> DiskState::inherited_place(std::size_t position, ChunkIndex chunk) const {
  const auto& inherited = pending_[position].inherited;
  if (inherited.empty()) return std::nullopt;
  const auto it = inherited.find(chunk.value());
  return it == inherited.end() ? std::nullopt : std::optional(it->second);
}

Place DiskState::place_of(std::size_t position, ChunkIndex chunk) const {
  if (const auto inherited = inherited_place(position, chunk)) return *inherited;
  for (std::size_t i = position; i < pending_.size(); ++i) {
    if (const auto saved = pending_[i].saved.get(chunk)) return *saved;
  }
  return places_.get(chunk);
}

PlaceRun DiskState::frozen_run(std::size_t position, ChunkIndex from, ChunkIndex end) const {
  const PendingState& frozen = pending_[position];
  const std::uint64_t page = from.value() / kPageChunks;
  const ChunkIndex page_end{std::min((page + 1) * kPageChunks, end.value())};
  bool as_live = frozen.inherited.empty();
  for (std::size_t i = position; as_live && i < pending_.size(); ++i) as_live = !pending_[i].saved.has_page(page);
  PlaceRun run;
  if (as_live) {
    // Nothing of this page was left since: what is live is what was frozen.
    run = places_.run_at(from, page_end);
  } else {
    run = {from, ChunkCount{1}, place_of(position, from)};
    while (run.place.kind != PlaceKind::detour && from + run.count < page_end &&
           place_of(position, from + run.count) == run.place) {
      run.count += ChunkCount{1};
    }
  }
  if (run.place.kind == PlaceKind::base) {
    if (const auto found = frozen.segments->find(from)) run.count = std::min(run.count, found->left);
  }
  return run;
}

Status DiskState::apply_one(const record::Freeze& r, Released&) {
  if (!exists_ || r.id <= high_water_.value() || r.next_map < next_map_) {
    return impossible("a freeze that cannot be");
  }
  PendingState frozen;
  frozen.id = SnapshotId{r.id};
  frozen.parent = SnapshotId{r.parent};
  frozen.name = r.name;
  frozen.attributes = r.attributes;
  frozen.time = Time{r.time};
  frozen.image_modified = Time{r.image_modified};
  frozen.size = size_;
  frozen.incarnation = incarnation_;
  frozen.all_changed = all_changed_;
  frozen.maps = std::move(maps_);
  frozen.segments = segments_;
  pending_.push_back(std::move(frozen));
  high_water_ = SnapshotId{r.id};
  maps_ = {r.next_map};
  next_map_ = r.next_map + 1;
  all_changed_ = false;
  return {};
}

Status DiskState::apply_one(const record::PendingUpdated& r, Released&) {
  VARVE_TRY_ASSIGN(PendingState * pending, find(r.id));
  pending->name = r.name;
  pending->attributes = r.attributes;
  return {};
}

Status DiskState::apply_one(const record::Inherited& r, Released&) {
  VARVE_TRY_ASSIGN(PendingState * pending, find(r.id));
  if (r.chunk >= kMaxChunksPerImage) return impossible("an inherited chunk behind every end");
  pending->inherited[r.chunk] = r.place;
  return {};
}

/// Whether a slot that holds this chunk is named by the live image or a pending snapshot. A slot never holds another
/// chunk before it was free.
bool DiskState::names_slot(ChunkIndex chunk, Slot slot) const {
  const Place place{PlaceKind::detour, slot};
  if (places_.get(chunk) == place) return true;
  return std::any_of(pending_.begin(), pending_.end(), [&](const PendingState& pending) {
    if (pending.saved.get(chunk) == place) return true;
    const auto it = pending.inherited.find(chunk.value());
    return it != pending.inherited.end() && it->second == place;
  });
}

/// What a pending snapshot kept, and has left pending_. Homes are candidates only, another may keep them still. Only
/// its own places are looked at: this comes once for each snapshot that was ever taken, and with each of them at
/// recovery.
void DiskState::release_kept(const PendingState& gone, Released& released) {
  std::map<Slot, ChunkIndex> slots;
  const auto release = [&](ChunkIndex chunk, Place place) {
    if (place.kind == PlaceKind::home) let_go(chunk, place, released);
    if (place.kind == PlaceKind::detour && !names_slot(chunk, place.slot)) slots.emplace(place.slot, chunk);
  };
  gone.saved.for_each(release);
  for (const auto& [chunk, place] : gone.inherited) release(ChunkIndex{chunk}, place);
  for (const auto& [slot, chunk] : slots) let_go(chunk, {PlaceKind::detour, slot}, released);
}

Status DiskState::apply_one(const record::PendingDropped& r, Released& released) {
  const auto position = position_of(SnapshotId{r.id});
  if (!position) return impossible(fmt::format("snapshot {} is dropped and not pending", r.id));
  PendingState dropped = std::move(pending_[*position]);
  pending_.erase(pending_.begin() + static_cast<std::ptrdiff_t>(*position));
  const bool has_heir = *position < pending_.size();
  // P stays: what k changed is now its successor's change.
  auto& maps = has_heir ? pending_[*position].maps : maps_;
  if (maps.size() + dropped.maps.size() > kMaxMaps) return impossible("too many change maps");
  append(maps, dropped.maps);
  if (has_heir) {
    PendingState& heir = pending_[*position];
    heir.all_changed |= dropped.all_changed;
    heir.map_kept = heir.map_kept && dropped.map_kept;
    for (const auto& [page, bits] : dropped.chunks) {
      auto& own = heir.chunks[page];
      for (std::size_t i = 0; i < bits.size(); ++i) own[i] |= bits[i];
    }
  } else {
    all_changed_ |= dropped.all_changed;
  }
  if (*position > 0) {
    SavedPlaces& older = pending_[*position - 1].saved;
    dropped.saved.for_each([&](ChunkIndex chunk, Place place) { older.save(chunk, place); });
  }
  release_kept(dropped, released);
  return {};
}

Status DiskState::apply_one(const record::Committed& r, Released& released) {
  if (pending_.empty() || pending_.front().id != SnapshotId{r.id}) {
    return impossible("a commit of another than the oldest pending snapshot");
  }
  PendingState committed = std::move(pending_.front());
  pending_.pop_front();
  parent_root_ = r.root;
  parent_incarnation_ = committed.incarnation;
  release_kept(committed, released);
  return {};
}

bool DiskState::pending_needs_parent() const {
  return std::ranges::any_of(pending_, [&](const PendingState& p) { return p.incarnation == parent_incarnation_; });
}

Status DiskState::apply_one(const record::ParentReplaced& r, Released&) {
  if (pending_needs_parent()) return impossible("the parent was replaced under a pending snapshot");
  parent_root_ = r.root;
  return {};
}

Status DiskState::apply_one(const record::FrozenChunks& r, Released&) {
  VARVE_TRY_ASSIGN(PendingState * pending, find(r.id));
  if (r.page >= kMaxChunksPerImage / kPageChunks) return impossible("changed chunks behind every end");
  pending->chunks[r.page] = r.bits;
  return {};
}

Status DiskState::apply_one(const record::MapKept& r, Released&) {
  VARVE_TRY_ASSIGN(PendingState * pending, find(r.id));
  pending->map_kept = true;
  return {};
}

// --- opening and closing ---

Status DiskState::apply_one(const record::Seal&, Released&) { return {}; }

Status DiskState::apply_one(const record::Opened& r, Released&) {
  if (r.lost > 1 || r.map < next_map_) return impossible("a change map number that returns");
  if (r.lost == 1) {
    all_changed_ = true;
    for (PendingState& pending : pending_) {
      pending.all_changed |= !pending.map_kept;
      pending.maps.clear();
    }
  }
  // What the maps of before had is in the new one.
  maps_ = {r.map};
  next_map_ = r.map + 1;
  return {};
}

Status DiskState::apply_one(const record::Clean& r, Released&) {
  clean_ = true;
  modified_ = Time{r.modified};
  return {};
}

Status DiskState::apply_one(const record::MapPage& r, Released&) {
  if (r.bits.size() != kMapPageBytes) return impossible("a page of a change map with a wrong size");
  stored_maps_[r.map].pages[r.page] = r.bits;
  return {};
}

Status DiskState::apply_one(const record::MapWhole& r, Released&) {
  stored_maps_[r.map].whole = true;
  stored_maps_[r.map].all = r.all != 0;
  return {};
}

// --- compaction ---

Status DiskState::apply_one(const record::State& r, Released&) {
  if (places_.page_count() != 0 || !pending_.empty() || exists_) return impossible("a state in the middle");
  if (r.size > geometry_.max_image_size().value() || r.exists > 1) return impossible("a size that cannot be");
  exists_ = r.exists == 1;
  incarnation_ = Incarnation{r.incarnation};
  size_ = ByteCount{r.size};
  parent_root_ = r.parent_root;
  parent_incarnation_ = Incarnation{r.parent_incarnation};
  high_water_ = SnapshotId{r.high_water};
  all_changed_ = r.all_changed != 0;
  next_map_ = r.next_map;
  modified_ = Time{r.modified};
  maps_ = r.maps;
  return {};
}

Status DiskState::apply_one(const record::PlacePage& r, Released&) {
  if (r.page >= kMaxChunksPerImage / kPageChunks) return impossible("a page of places behind every end");
  if (r.id == 0) {
    places_.exchange_page(r.page, PlacePage::decode(r));
    return {};
  }
  VARVE_TRY_ASSIGN(PendingState * pending, find(r.id));
  pending->saved.load(r);
  return {};
}

Status DiskState::apply_one(const record::PartialSlot& r, Released&) {
  if (!valid_partial(r.chunk, r.slot, r.blocks) || r.blocks == whole_chunk() ||
      find_partial(ChunkIndex{r.chunk}, r.slot) != partial_.end()) {
    return impossible("a part of a chunk that cannot be");
  }
  partial_.emplace(r.chunk, PartialSlot{r.slot, r.blocks});
  return {};
}

Status DiskState::apply_one(const record::Segment& r, Released&) {
  if (!valid_range(r.first, r.count) || !valid_range(r.source, r.count))
    return impossible("a segment behind every end");
  if (r.id == 0) {
    edit_segments(ChunkIndex{r.first}, ChunkCount{r.count}, r.root, ChunkIndex{r.source});
    return {};
  }
  VARVE_TRY_ASSIGN(PendingState * pending, find(r.id));
  auto edited = std::make_shared<Segments>(*pending->segments);
  edited->set(ChunkIndex{r.first}, ChunkCount{r.count}, r.root, ChunkIndex{r.source});
  pending->segments = std::move(edited);
  return {};
}

Status DiskState::apply_one(const record::Pending& r, Released&) {
  if (r.id == 0 || r.id > high_water_.value() || (!pending_.empty() && SnapshotId{r.id} <= pending_.back().id) ||
      r.size > geometry_.max_image_size().value()) {
    return impossible("a pending snapshot that cannot be");
  }
  PendingState pending;
  pending.id = SnapshotId{r.id};
  pending.parent = SnapshotId{r.parent};
  pending.name = r.name;
  pending.attributes = r.attributes;
  pending.time = Time{r.time};
  pending.image_modified = Time{r.image_modified};
  pending.size = ByteCount{r.size};
  pending.incarnation = Incarnation{r.incarnation};
  pending.all_changed = r.all_changed != 0;
  pending.maps = r.maps;
  pending.segments = std::make_shared<Segments>();
  pending_.push_back(std::move(pending));
  return {};
}

std::vector<Record> DiskState::encode() const {
  std::vector<Record> records;
  record::State state;
  state.exists = exists_ ? 1 : 0;
  state.incarnation = incarnation_.value();
  state.size = size_.value();
  state.parent_root = parent_root_;
  state.parent_incarnation = parent_incarnation_.value();
  state.high_water = high_water_.value();
  state.all_changed = all_changed_ ? 1 : 0;
  state.next_map = next_map_;
  state.modified = modified_.nanoseconds;
  state.maps = maps_;
  records.emplace_back(std::move(state));
  for (std::uint64_t page = 0; page < places_.page_count(); ++page) {
    const PlacePage& places = places_.page(page);
    if (places.is_uniform() && places.uniform() == PlaceKind::zero) continue;
    auto stored = places.encode();
    stored.page = static_cast<std::uint32_t>(page);
    records.emplace_back(std::move(stored));
  }
  const auto put_segments = [&records](std::uint64_t id, const Segments& segments) {
    for (const auto& [first, s] : segments.all()) {
      records.emplace_back(record::Segment{id, first, s.count, s.root, s.source});
    }
  };
  put_segments(0, *segments_);
  for (const PendingState& p : pending_) {
    records.emplace_back(record::Pending{p.id.value(), p.parent.value(), p.time.nanoseconds,
                                         p.image_modified.nanoseconds, p.size.value(), p.incarnation.value(),
                                         static_cast<std::uint8_t>(p.all_changed ? 1 : 0), p.maps, p.name,
                                         p.attributes});
    put_segments(p.id.value(), *p.segments);
    for (auto& page : p.saved.encode(p.id.value())) records.emplace_back(std::move(page));
    for (const auto& [chunk, place] : p.inherited) {
      records.emplace_back(record::Inherited{p.id.value(), chunk, place});
    }
    for (const auto& [page, bits] : p.chunks) {
      records.emplace_back(record::FrozenChunks{p.id.value(), static_cast<std::uint32_t>(page), bits});
    }
    if (p.map_kept) records.emplace_back(record::MapKept{p.id.value()});
  }
  for (const auto& [chunk, part] : partial_) records.emplace_back(record::PartialSlot{chunk, part.slot, part.blocks});
  return records;
}

Result<std::set<Slot>> DiskState::used_slots() const {
  std::unordered_map<Slot, ChunkIndex> owners;
  std::optional<Slot> twice;
  const auto note = [&](ChunkIndex chunk, Slot slot) {
    const auto [it, added] = owners.emplace(slot, chunk);
    if (!added && it->second != chunk) twice = slot;
  };
  for (std::uint64_t page = 0; page < places_.page_count(); ++page) {
    places_.page(page).for_each_slot(
        [&](std::uint16_t within, Slot slot) { note(ChunkIndex{page * kPageChunks + within}, slot); });
  }
  for (const PendingState& pending : pending_) {
    pending.saved.for_each([&](ChunkIndex chunk, Place place) {
      if (place.kind == PlaceKind::detour) note(chunk, place.slot);
    });
    for (const auto& [chunk, place] : pending.inherited) {
      if (place.kind == PlaceKind::detour) note(ChunkIndex{chunk}, place.slot);
    }
  }
  if (twice) return fail_damaged(fmt::format("two chunks have their bytes in slot {}", *twice));
  if (!has_valid_partials(owners)) return fail_damaged("a slot has a part of a chunk that is not there");
  std::set<Slot> used;
  for (const auto& [slot, chunk] : owners) used.insert(slot);
  return used;
}

}  // namespace varve::disk
