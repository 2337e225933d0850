// What the journal's records add up to: a state machine of one disk. A running disk appends a record and then applies
// it; recovery applies the same records to the same effect. Knows nothing of files, locks or change maps.
//
// Where pending snapshot k finds chunk c:  inherited[k][c], else saved[k][c], saved[k+1][c] ... of the newest pending,
// else the live place. For when the live image leaves a place, the newest pending snapshot that has saved nothing for
// this chunk saves it; so each pending snapshot finds what was live at its freeze (each place is saved once, by the
// last snapshot frozen before it was left).
//
// Invariants
//  1. pending_ is ordered by id; ids grow.
//  2. If saved[newest][c] is there, the live place of c was chosen after the newest freeze, and no pending snapshot
//     finds c at it.
//  3. A slot is named by at most one chunk: by its live place, or by places saved or inherited, never by both.
//  4. A partial slot has some blocks of its chunk, not all; it is named, and the chunk's other blocks are at its Home. As
//     long as there is one the live chunk is not at Home: nobody writes there what the slot has not.
//  5. P (parent_root) belongs to one incarnation; for every other P is empty.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <unordered_map>
#include <vector>

#include "format.h"
#include "place_map.h"

namespace varve::disk {

/// Changed chunks of a frozen map, by page.
using FrozenChunkPages = std::map<std::uint64_t, ChunkBits>;

struct PendingState {
  SnapshotId id;
  SnapshotId parent;
  std::string name;
  std::string attributes;
  Time time;
  Time image_modified;
  ByteCount size;
  Incarnation incarnation;
  bool all_changed = false;                   ///< every chunk counts as changed (a change map was lost)
  bool map_kept = false;                      ///< `chunks` has them all, in the journal
  FrozenChunkPages chunks;
  std::vector<std::uint64_t> maps;            ///< its own, and those of dropped predecessors
  std::shared_ptr<const Segments> segments;   ///< L at the freeze
  SavedPlaces saved;
  std::unordered_map<std::uint64_t, Place> inherited;
};

/// All blocks of a chunk, however many it has.
constexpr BlockMask kAllBlocks = ~BlockMask{0};

/// Storage that nothing names any more. Reusable after the seal of what was applied (rule 1).
struct Released {
  std::vector<Slot> slots;
  struct Homes {
    ChunkIndex first;
    ChunkCount count;
  };
  std::vector<Homes> homes;
  [[nodiscard]] bool empty() const { return slots.empty() && homes.empty(); }
};

class DiskState {
 public:
  explicit DiskState(Geometry geometry) : geometry_(geometry) {}

  /// EIO (damaged) for a record that cannot follow on this state; then it may be half applied. `released` gets what
  /// nothing names any more.
  [[nodiscard]] Status apply(const Record& record, Released& released);

  // --- the live image ---
  [[nodiscard]] bool exists() const { return exists_; }
  [[nodiscard]] Incarnation incarnation() const { return incarnation_; }
  [[nodiscard]] ByteCount size() const { return size_; }
  [[nodiscard]] ChunkCount chunks() const { return geometry_.chunks_in(size_); }
  [[nodiscard]] const PlaceMap& places() const { return places_; }
  [[nodiscard]] const Segments& segments() const { return *segments_; }
  [[nodiscard]] bool all_changed() const { return all_changed_; }
  [[nodiscard]] const std::vector<std::uint64_t>& maps() const { return maps_; }
  [[nodiscard]] Time modified() const { return modified_; }

  // --- partial slots ---
  /// Which of the chunk's blocks are at this place of its; the others are at its Home. Mostly kAllBlocks.
  [[nodiscard]] BlockMask blocks_at(ChunkIndex chunk, Place place) const;
  [[nodiscard]] std::size_t partial_slots(ChunkIndex chunk) const { return partial_.count(chunk.value()); }
  /// About 50 bytes each.
  [[nodiscard]] std::size_t partial_slots() const { return partial_.size(); }
  /// Whether chunks of this size can be partial, and the mask of one that is whole then.
  [[nodiscard]] bool has_block_masks() const { return geometry_.blocks_per_chunk() <= kMostPartialBlocks; }
  [[nodiscard]] BlockMask whole_chunk() const { return kAllBlocks >> (kMostPartialBlocks - geometry_.blocks_per_chunk()); }
  /// Whether a pending snapshot finds the live chunk where it is now.
  [[nodiscard]] bool is_frozen_in_place(ChunkIndex chunk) const {
    return !pending_.empty() && !pending_.back().saved.get(chunk);
  }
  /// What detour.img must hold, to have all that is named there.
  [[nodiscard]] ByteCount detour_bytes(const std::set<Slot>& used) const;

  // --- pending snapshots ---
  [[nodiscard]] const std::deque<PendingState>& pending() const { return pending_; }
  /// Position in pending(); nothing when it is not pending.
  [[nodiscard]] std::optional<std::size_t> position_of(SnapshotId id) const;
  [[nodiscard]] Place place_of(std::size_t position, ChunkIndex chunk) const;
  /// What a pending snapshot has been told about a chunk by one that was dropped before it.
  [[nodiscard]] std::optional<Place> inherited_place(std::size_t position, ChunkIndex chunk) const;
  /// A run from `from` on that has one place, and, when Base, one segment.
  [[nodiscard]] PlaceRun frozen_run(std::size_t position, ChunkIndex from, ChunkIndex end) const;
  [[nodiscard]] SnapshotId high_water() const { return high_water_; }
  /// P of a pending snapshot or of the live image, by its incarnation.
  [[nodiscard]] OpaqueRoot parent_root(Incarnation incarnation) const {
    return incarnation == parent_incarnation_ ? parent_root_ : OpaqueRoot{};
  }
  /// The stored P, whomever it belongs to.
  [[nodiscard]] const OpaqueRoot& stored_parent_root() const { return parent_root_; }
  [[nodiscard]] Incarnation parent_incarnation() const { return parent_incarnation_; }
  /// Whether some pending snapshot finds there what it did not change.
  [[nodiscard]] bool pending_needs_parent() const;
  [[nodiscard]] std::uint64_t next_map() const { return next_map_; }

  /// The last record applied was Clean; its change maps.
  [[nodiscard]] bool is_clean() const { return clean_; }
  struct StoredMap {
    bool whole = false;
    bool all = false;
    std::map<std::uint32_t, std::vector<std::byte>> pages;
  };
  [[nodiscard]] const std::map<std::uint64_t, StoredMap>& stored_maps() const { return stored_maps_; }
  void forget_stored_maps() { stored_maps_.clear(); }

  /// Slots that something names. EIO (damaged) when one is named by two chunks (invariant 3), or one is partial that must
  /// not be (invariant 4).
  [[nodiscard]] Result<std::set<Slot>> used_slots() const;
  /// The state as records, for a new journal.
  [[nodiscard]] std::vector<Record> encode() const;

 private:
  Status apply_one(const record::Size& r, Released& released);
  Status apply_one(const record::Image& r, Released& released);
  Status apply_one(const record::Places& r, Released& released);
  Status apply_one(const record::Splice& r, Released& released);
  Status apply_one(const record::Replace& r, Released& released);
  Status apply_one(const record::Freeze& r, Released& released);
  Status apply_one(const record::PendingUpdated& r, Released& released);
  Status apply_one(const record::PendingDropped& r, Released& released);
  Status apply_one(const record::Committed& r, Released& released);
  Status apply_one(const record::Seal& r, Released& released);
  Status apply_one(const record::Opened& r, Released& released);
  Status apply_one(const record::Clean& r, Released& released);
  Status apply_one(const record::FrozenChunks& r, Released& released);
  Status apply_one(const record::MapKept& r, Released& released);
  Status apply_one(const record::Inherited& r, Released& released);
  Status apply_one(const record::MapPage& r, Released& released);
  Status apply_one(const record::MapWhole& r, Released& released);
  Status apply_one(const record::Modified& r, Released& released);
  Status apply_one(const record::SegmentsCleared& r, Released& released);
  Status apply_one(const record::ParentReplaced& r, Released& released);
  Status apply_one(const record::Partial& r, Released& released);
  Status apply_one(const record::PartialSlot& r, Released& released);
  Status apply_one(const record::State& r, Released& released);
  Status apply_one(const record::PlacePage& r, Released& released);
  Status apply_one(const record::Segment& r, Released& released);
  Status apply_one(const record::Pending& r, Released& released);

  void set_place(ChunkIndex chunk, Place place, Released& released);
  void fill(ChunkIndex first, ChunkCount count, PlaceKind kind, Released& released);
  void let_go(ChunkIndex chunk, Place place, Released& released);
  void let_go_home(ChunkIndex chunk, Released& released);
  struct PartialSlot {
    Slot slot = 0;
    BlockMask blocks = 0;
  };
  using PartialSlots = std::unordered_multimap<std::uint64_t, PartialSlot>;
  [[nodiscard]] PartialSlots::const_iterator find_partial(ChunkIndex chunk, Slot slot) const;
  [[nodiscard]] bool valid_partial(std::uint64_t chunk, Slot slot, BlockMask blocks) const;
  [[nodiscard]] bool has_valid_partials(const std::unordered_map<Slot, ChunkIndex>& owners) const;
  void release_kept(const PendingState& gone, Released& released);
  [[nodiscard]] bool names_slot(ChunkIndex chunk, Slot slot) const;
  void leave_page(std::uint64_t index, PlacePage old, Released& released);
  void set_size(ByteCount size, Released& released);
  void edit_segments(ChunkIndex first, ChunkCount count, const OpaqueRoot& root, ChunkIndex source);
  Result<PendingState*> find(std::uint64_t id);
  [[nodiscard]] bool valid_range(std::uint64_t first, std::uint64_t count) const;

  Geometry geometry_;
  bool exists_ = false;
  Incarnation incarnation_;
  ByteCount size_;
  PlaceMap places_;
  std::shared_ptr<const Segments> segments_ = std::make_shared<Segments>();
  bool all_changed_ = false;
  std::vector<std::uint64_t> maps_;
  std::uint64_t next_map_ = 1;
  Time modified_;
  std::deque<PendingState> pending_;
  PartialSlots partial_;  ///< by chunk
  SnapshotId high_water_;
  OpaqueRoot parent_root_;
  Incarnation parent_incarnation_;
  bool clean_ = false;
  std::map<std::uint64_t, StoredMap> stored_maps_;
};

}  // namespace varve::disk
