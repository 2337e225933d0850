// The inside of a LiveDisk: what its files (live_disk, reading, writing, resizing, flushing, snapshots, upkeep,
// recovery) share. live_disk.cpp opens with the invariants.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "change_map.h"
#include "disk_state.h"
#include "journal.h"
#include "varve/core/buffer.h"
#include "varve/core/sync.h"
#include "varve/disk/live_disk.h"

namespace varve::disk {

/// Requests are taken in pieces of at most so many chunks, so that a piece's locks and places fit on the stack.
constexpr std::size_t kPieceChunks = 64;
constexpr std::size_t kStripes = 256;
constexpr std::size_t kBounceBytes = 1 * kMiB;
constexpr Slot kPreparedSlots = 64;
/// Free slots without storage that are passed over for one that has it.
constexpr Slot kMostSlotsPassed = 1 << 16;
/// Not more chunks are partial at once, for what is known of them is in memory: a further one is moved whole.
constexpr std::size_t kMostPartialSlots = 1 << 20;

[[nodiscard]] constexpr bool aligned(std::uint64_t value, std::uint64_t to) { return value % to == 0; }

/// Locks of chunks, by index. Shared: read, or write in place. Exclusive: change the place, or read-modify-write.
class Stripes {
 public:
  /// Locks all stripes of a range, ascending, until it goes.
  class Lock {
   public:
    enum class Mode { shared, exclusive };
    Lock(Stripes& stripes, ChunkIndex first, std::size_t count, Mode mode) VARVE_NO_ANALYSIS;
    ~Lock() VARVE_NO_ANALYSIS;
    Lock(const Lock&) = delete;
    Lock& operator=(const Lock&) = delete;

   private:
    Stripes& stripes_;
    const Mode mode_;
    std::size_t count_ = 0;
    std::array<std::uint16_t, kPieceChunks> held_{};
  };

 private:
  std::array<SharedMutex, kStripes> locks_;
};

/// What a running LiveDisk knows of a pending snapshot besides its PendingState.
struct Frozen {
  SnapshotId id;
  ChunkCount chunks;
  Incarnation incarnation;
  std::vector<std::shared_ptr<ChangeMap>> maps;
  std::shared_ptr<const FrozenChunkPages> kept;  ///< from the journal, when the maps are gone; never null
  bool all_changed = false;
  /// Its map is durable: chunks that it has not changed may be overwritten in place. Until then every chunk's place at
  /// the freeze is pinned, for a power loss would leave only those to read from.
  bool map_durable = false;

  /// Known to callers: its record is sealed. Before that, and for good when the freeze failed and could not be undone,
  /// it pins like any other and nobody may commit or drop it.
  bool shown = false;

  [[nodiscard]] bool changed(ChunkIndex chunk, std::uint64_t blocks_per_chunk) const {
    return chunk.value() < chunks.value() && marked(chunk, blocks_per_chunk);
  }
  /// First chunk in [from, end) that is changed; `end` when there is none.
  [[nodiscard]] ChunkIndex next_changed(ChunkIndex from, ChunkIndex end, std::uint64_t blocks_per_chunk) const {
    return next_marked(from, std::min(end, ChunkIndex{chunks.value()}), blocks_per_chunk);
  }
  /// First chunk in (from, end) that is not; `from` is changed.
  [[nodiscard]] ChunkIndex changed_until(ChunkIndex from, ChunkIndex end, std::uint64_t blocks_per_chunk) const {
    return marked_until(from, std::min(end, ChunkIndex{chunks.value()}), blocks_per_chunk);
  }
  // The same also behind the image's end: what was cut off before the freeze is marked there, and whoever inherits
  // may be longer.
  [[nodiscard]] bool marked(ChunkIndex chunk, std::uint64_t blocks_per_chunk) const;
  [[nodiscard]] ChunkIndex next_marked(ChunkIndex from, ChunkIndex end, std::uint64_t blocks_per_chunk) const;
  [[nodiscard]] ChunkIndex marked_until(ChunkIndex from, ChunkIndex end, std::uint64_t blocks_per_chunk) const;
  [[nodiscard]] std::uint64_t changed_blocks(std::uint64_t blocks_per_chunk) const;
  /// Blocks of the chunk that are marked; nothing where only chunks are.
  [[nodiscard]] std::optional<BlockSet> blocks_of(ChunkIndex chunk, std::uint64_t blocks_per_chunk) const;
};

/// Homes let go of by records that are not sealed yet: not free until the seal (rule 1).
class UnsealedHomes {
 public:
  void add(ChunkIndex first, ChunkCount count, std::uint64_t position);
  [[nodiscard]] bool contains(ChunkIndex chunk) const;
  /// Removes and returns what is sealed at `position`.
  std::vector<Released::Homes> take_sealed(std::uint64_t position);

 private:
  struct Range {
    std::uint64_t end = 0;
    std::uint64_t position = 0;
  };
  std::map<std::uint64_t, Range> ranges_;  ///< do not overlap
};

/// What L has for a chunk that is about to be written, looked at before the gate.
struct Fill {
  ChunkIndex chunk;
  OpaqueRoot root;  ///< empty: zeros
  ChunkIndex source;
  std::shared_ptr<AlignedBuffer> bytes;  ///< of a Base chunk that is written in part; null: one written whole is the same
};

/// Where the bytes of a chunk of some image are.
struct Resolved {
  Place place;
  OpaqueRoot root;    ///< for Base (or P); empty: zeros
  ChunkIndex source;
  BlockMask blocks = kAllBlocks;  ///< of a slot: those that are there; the others are at Home
  [[nodiscard]] bool partial() const { return blocks != kAllBlocks; }
  friend bool operator==(const Resolved&, const Resolved&) = default;
};

/// A run of chunks of one image that have one place (and one source, when that is Base).
struct ResolvedRun {
  Resolved resolved;
  ChunkCount count;  ///< 0: behind the image's end
  ByteCount image_size;
};

struct LiveDisk::Implementation {
  Implementation(os::Storage& storage_in, os::VolatileStorage& maps_in, std::string directory_in, DiskId id_in,
                 Geometry geometry_in, BaseSource& base_in, const LiveDiskOptions& options_in);

  // --- fixed while open ---
  os::Storage& storage;
  os::VolatileStorage& volatile_storage;
  const std::string directory;
  const DiskId id;
  const Geometry geometry;
  BaseSource& base;
  const LiveDiskOptions options;
  Opened opened = Opened::fresh;
  std::unique_ptr<os::File> home;
  std::unique_ptr<os::File> detour;
  std::unique_ptr<Witness> witness;
  BufferPool chunk_buffers;
  BufferPool bounce_buffers;

  // --- locks, in the order in which they are taken ---
  /// Freeze gate. Shared by whoever changes the live image, for a whole request; exclusive for the instant of a freeze
  /// and for changes of whole ranges. Not recursive.
  SharedMutex gate;
  Stripes stripes;
  /// Never held across a data transfer; across an append to the journal it is, so that records lie there in the order
  /// in which they took effect.
  mutable Mutex state_mutex;

  /// The current map first, then those inherited from dropped snapshots. Changed with the gate held exclusively.
  std::vector<std::shared_ptr<ChangeMap>> live_maps VARVE_GUARDED_BY(gate);

  DiskState state VARVE_GUARDED_BY(state_mutex);
  std::unique_ptr<Journal> journal;  ///< appends under state_mutex; replaced by compaction, see upkeep.cpp
  std::deque<std::shared_ptr<Frozen>> frozen VARVE_GUARDED_BY(state_mutex);  ///< parallel to state.pending()
  std::set<Slot> free_slots VARVE_GUARDED_BY(state_mutex);  ///< without storage, as far as is known, but for what is prepared
  /// Free as well, and with storage, as far as is known: taken first, for they are written as fast as a Home.
  std::set<Slot> stored_slots VARVE_GUARDED_BY(state_mutex);
  std::size_t fewest_stored_slots VARVE_GUARDED_BY(state_mutex) = 0;  ///< that there were, since:
  std::chrono::steady_clock::time_point stored_slots_since VARVE_GUARDED_BY(state_mutex);
  std::size_t surplus_slots VARVE_GUARDED_BY(state_mutex) = 0;  ///< of them, to be punched
  Slot slot_count VARVE_GUARDED_BY(state_mutex) = 0;
  std::pair<Slot, Slot> prepared_slots VARVE_GUARDED_BY(state_mutex);  ///< have space, unless they were free since
  std::deque<std::pair<std::uint64_t, Slot>> unsealed_slots VARVE_GUARDED_BY(state_mutex);  ///< by journal position
  UnsealedHomes unsealed_homes VARVE_GUARDED_BY(state_mutex);
  /// Snapshots that went by a record that is not sealed yet, and roots that nothing names since one (rule 1).
  std::deque<std::pair<std::uint64_t, std::shared_ptr<const Frozen>>> unsealed_snapshots VARVE_GUARDED_BY(state_mutex);
  std::deque<std::pair<std::uint64_t, OpaqueRoot>> unsealed_roots VARVE_GUARDED_BY(state_mutex);
  std::deque<Released::Homes> homes_to_punch VARVE_GUARDED_BY(state_mutex);
  std::vector<Slot> left_slots VARVE_GUARDED_BY(state_mutex);
  std::uint64_t home_chunks VARVE_GUARDED_BY(state_mutex) = 0;  ///< size of home.img
  std::uint64_t move_cursor VARVE_GUARDED_BY(state_mutex) = 0;
  bool tail_is_clear VARVE_GUARDED_BY(gate) = false;  ///< see clear_tail()

  std::atomic<bool> home_dirty{false};
  std::atomic<bool> detour_dirty{false};
  std::atomic<bool> latched{false};
  std::atomic<std::int64_t> modified{0};
  std::atomic<std::chrono::steady_clock::time_point> last_request{};  ///< of the image's content
  void note_request() { last_request.store(std::chrono::steady_clock::now(), std::memory_order_relaxed); }

  /// Flushes are shared: whoever comes while one runs waits for the next, which serves all that wait.
  Mutex flush_mutex;
  CondVar flush_ended;
  std::uint64_t flushes_wanted VARVE_GUARDED_BY(flush_mutex) = 0;
  std::uint64_t flushes_done VARVE_GUARDED_BY(flush_mutex) = 0;
  bool flush_running VARVE_GUARDED_BY(flush_mutex) = false;

  // --- live_disk.cpp ---
  [[nodiscard]] std::uint64_t blocks_per_chunk() const { return geometry.blocks_per_chunk(); }
  /// Appends, applies, and notes what became free, at the journal's position.
  [[nodiscard]] Status record_and_apply(const Record& record) VARVE_REQUIRES(state_mutex);
  /// What L and P, live and frozen, stand on; each once.
  [[nodiscard]] std::vector<OpaqueRoot> named_roots() const VARVE_REQUIRES(state_mutex);
  [[nodiscard]] bool pinned_by_pending(ChunkIndex chunk, Place place) const VARVE_REQUIRES(state_mutex);
  /// By a pending snapshot, or by one that went and may return until the seal.
  [[nodiscard]] bool pinned_by_snapshot(ChunkIndex chunk, Place place) const VARVE_REQUIRES(state_mutex);
  /// By a snapshot, or, a Home, by a slot that has only a part of the chunk.
  [[nodiscard]] bool pinned(ChunkIndex chunk, Place place) const VARVE_REQUIRES(state_mutex);
  [[nodiscard]] bool home_is_free(ChunkIndex chunk) const VARVE_REQUIRES(state_mutex);
  [[nodiscard]] Resolved resolve_live(ChunkIndex chunk) const VARVE_REQUIRES(state_mutex);
  void prepare_slots() VARVE_REQUIRES(state_mutex);
  [[nodiscard]] Slot take_slot() VARVE_REQUIRES(state_mutex);
  void give_back_slot(Slot slot) VARVE_EXCLUDES(state_mutex);
  [[nodiscard]] ByteOffset offset_of(ChunkIndex chunk, Place place) const;
  [[nodiscard]] os::File& file_of(Place place) const { return place.kind == PlaceKind::home ? *home : *detour; }
  void mark_blocks(ByteOffset at, std::uint64_t count) VARVE_REQUIRES_SHARED(gate);
  void mark_chunks(ChunkIndex first, ChunkCount count) VARVE_REQUIRES_SHARED(gate);
  void latch(std::string_view what, const Error& error);
  [[nodiscard]] Status refuse_if_latched() const;
  [[nodiscard]] Status refuse_if_absent() const VARVE_REQUIRES(state_mutex);

  // --- invariants.cpp ---
  void assert_may_write(ChunkIndex first, std::size_t chunks, Place place, std::size_t within,
                        std::size_t count) const VARVE_EXCLUDES(state_mutex);
  void assert_consistent() const VARVE_REQUIRES(state_mutex);

  // --- reading.cpp ---
  [[nodiscard]] Status read_file(const os::File& file, ByteOffset at, std::span<std::byte> out);
  [[nodiscard]] Status read_base(const OpaqueRoot& root, ChunkIndex source, std::size_t within,
                                 std::span<std::byte> out);
  [[nodiscard]] Status read_piece(ByteOffset at, std::span<std::byte> out);
  /// lseek(2) over the runs of an image, as run_at(chunk) tells them. Reads of Base happen between its calls.
  [[nodiscard]] Result<ByteOffset> seek_in(ByteOffset at, bool data,
                                           const std::function<Result<ResolvedRun>(ChunkIndex)>& run_at);

  // --- writing.cpp ---
  [[nodiscard]] Status write_file(os::File& file, ByteOffset at, std::span<const std::byte> bytes);
  [[nodiscard]] Status write_noted(ChunkIndex first, std::size_t chunks, Place place, std::size_t within,
                                   std::span<const std::byte> bytes);
  [[nodiscard]] Result<std::vector<Fill>> fetch_fills(ByteOffset at, std::uint64_t count);
  [[nodiscard]] Result<std::optional<Fill>> fetch_fill(ChunkIndex chunk);
  void find_same(ByteOffset at, std::span<const std::byte> bytes, std::vector<Fill>& fills);
  /// Whether `fills` says that a write to the whole chunk makes it what L has, and L still has that.
  [[nodiscard]] bool is_same(ChunkIndex chunk, const std::vector<Fill>& fills) const VARVE_REQUIRES(state_mutex);
  /// False: a fill is out of date; fetch again outside the gate.
  [[nodiscard]] Result<bool> write_in_gate(ByteOffset at, std::span<const std::byte> bytes,
                                           const std::vector<Fill>& fills) VARVE_REQUIRES_SHARED(gate);
  [[nodiscard]] Result<bool> write_in_place(ByteOffset at, std::span<const std::byte> bytes,
                                            const std::vector<Fill>& fills) VARVE_REQUIRES_SHARED(gate);
  [[nodiscard]] Result<bool> write_chunk(ChunkIndex chunk, std::size_t within, std::span<const std::byte> bytes,
                                         const std::vector<Fill>& fills) VARVE_REQUIRES_SHARED(gate);
  [[nodiscard]] Status overwrite(ChunkIndex chunk, Place place, std::size_t within, std::span<const std::byte> bytes);

  // --- partial.cpp ---
  [[nodiscard]] BlockMask blocks_of(std::size_t within, std::size_t count) const;
  /// Of a chunk at Home or in a Detour, whichever of them each block is at. The chunk's lock is held.
  [[nodiscard]] Status read_stored(ChunkIndex chunk, const Resolved& from, std::size_t within, std::span<std::byte> out);
  [[nodiscard]] Status read_both(ChunkIndex chunk, const Resolved& from, std::size_t within, std::span<std::byte> out);
  [[nodiscard]] Status read_own_blocks(ChunkIndex chunk, const Resolved& from, std::span<std::byte> whole);
  [[nodiscard]] Status read_slot(ChunkIndex chunk, const Resolved& from, BlockMask blocks, std::span<std::byte> whole);
  /// These blocks of a whole chunk's bytes, to a place.
  [[nodiscard]] Status write_blocks(ChunkIndex chunk, Place to, BlockMask blocks, std::span<const std::byte> whole);
  /// Whether all blocks of the range that lie in this chunk are at its place.
  [[nodiscard]] bool has_blocks(ChunkIndex chunk, Place place, ByteOffset at, std::size_t count) const
      VARVE_REQUIRES(state_mutex);
  [[nodiscard]] bool may_move_in_part(const Resolved& from, std::size_t within, std::size_t count) const
      VARVE_REQUIRES(state_mutex);
  [[nodiscard]] Status write_in_part(ChunkIndex chunk, const Resolved& from, std::size_t within,
                                     std::span<const std::byte> bytes);
  [[nodiscard]] Status move_in_part(ChunkIndex chunk, const Resolved& from, std::size_t within,
                                    std::span<const std::byte> bytes) VARVE_REQUIRES_SHARED(gate);
  [[nodiscard]] bool may_move_home(ChunkIndex chunk) const VARVE_REQUIRES(state_mutex);

  // --- resizing.cpp ---
  [[nodiscard]] Status make_room(ByteCount size) VARVE_REQUIRES(gate);
  [[nodiscard]] Status clear_tail() VARVE_REQUIRES(gate);
  class SizeChange;
  [[nodiscard]] Status grow(ByteCount size) VARVE_EXCLUDES(gate);
  [[nodiscard]] Status shrink(ByteCount size) VARVE_EXCLUDES(gate);
  [[nodiscard]] Status zero_chunks(ChunkIndex first, ChunkCount count) VARVE_EXCLUDES(gate);
  [[nodiscard]] Status zero_part(ByteOffset at, std::uint64_t count);

  // --- flushing.cpp ---
  [[nodiscard]] Status flush() VARVE_EXCLUDES(flush_mutex, state_mutex);
  /// Waits until no flush runs and keeps others out until end_flush_turn().
  void begin_flush_turn() VARVE_EXCLUDES(flush_mutex);
  void end_flush_turn() VARVE_EXCLUDES(flush_mutex);
  [[nodiscard]] Status flush_now() VARVE_EXCLUDES(state_mutex);
  [[nodiscard]] Status sync_data();
  void release_sealed(std::uint64_t position) VARVE_REQUIRES(state_mutex);

  // --- snapshots.cpp ---
  [[nodiscard]] Resolved resolve_frozen(std::size_t position, ChunkIndex chunk) const VARVE_REQUIRES(state_mutex);
  /// The same for a run from `chunk` on, cut at `end`, that continues the place (not for Detour: one chunk).
  [[nodiscard]] Resolved resolve_frozen_run(std::size_t position, ChunkIndex chunk, ChunkIndex end,
                                            ChunkCount& count) const VARVE_REQUIRES(state_mutex);
  [[nodiscard]] Result<std::size_t> position_of(SnapshotId id) const VARVE_REQUIRES(state_mutex);
  [[nodiscard]] PendingInfo describe(std::size_t position) const VARVE_REQUIRES(state_mutex);
  [[nodiscard]] Status read_frozen_part(SnapshotId id, ChunkIndex chunk, std::size_t within, std::span<std::byte> out);
  /// Puts the frozen map's chunks into the journal, sealed; from then on only those are pinned.
  [[nodiscard]] Status keep_map(SnapshotId id) VARVE_EXCLUDES(state_mutex);
  [[nodiscard]] Status undo_freeze(SnapshotId id) VARVE_EXCLUDES(gate, state_mutex);
  [[nodiscard]] Status drop(SnapshotId id) VARVE_REQUIRES(gate);
  void append_inherited(std::size_t position, std::vector<Record>& records) const VARVE_REQUIRES(state_mutex);

  // --- parent.cpp ---
  void mark_differing(ChunkIndex first, ChunkCount count) VARVE_EXCLUDES(gate, state_mutex);

  // --- upkeep.cpp ---
  [[nodiscard]] Result<bool> move_one_home(ChunkIndex chunk) VARVE_EXCLUDES(gate);
  [[nodiscard]] std::vector<ChunkIndex> detours_to_move(std::size_t most) VARVE_EXCLUDES(state_mutex);
  [[nodiscard]] Status punch_homes() VARVE_EXCLUDES(gate);
  [[nodiscard]] Result<bool> pass_over_hole(const Released::Homes& piece) VARVE_EXCLUDES(state_mutex);
  void free_left_slots() VARVE_EXCLUDES(state_mutex);
  void find_surplus_slots() VARVE_EXCLUDES(state_mutex);
  [[nodiscard]] Status punch_slots() VARVE_EXCLUDES(state_mutex);
  [[nodiscard]] Status clear_segments() VARVE_EXCLUDES(gate);
  [[nodiscard]] Status compact_journal() VARVE_EXCLUDES(gate);

  // --- recovery.cpp ---
  [[nodiscard]] Status open();
  [[nodiscard]] Status close();
  [[nodiscard]] Status open_files();
  [[nodiscard]] Status recover_journal(const std::vector<Witness::Mark>& marks);
  [[nodiscard]] Status recover_maps();
  [[nodiscard]] Status recover_slots();
  [[nodiscard]] Status cut_detour();
  [[nodiscard]] Result<std::shared_ptr<ChangeMap>> recover_map(std::uint64_t number, std::uint64_t blocks);
  [[nodiscard]] Status store_map(const ChangeMap& map);
  void remove_other_maps();
  std::uint64_t compacted_bytes = 0;  ///< size of the journal when it was last written as a whole
};

/// A change of the size, in the eyes of whoever counts sizes. Exists within the gate, held exclusively.
class LiveDisk::Implementation::SizeChange {
 public:
  explicit SizeChange(Implementation& disk) : disk_(disk) {}
  SizeChange(const SizeChange&) = delete;
  SizeChange& operator=(const SizeChange&) = delete;
  ~SizeChange() {
    if (!disk_.options.after_size) return;
    ByteCount size;
    {
      MutexLock lock(disk_.state_mutex);
      size = disk_.state.size();
    }
    disk_.options.after_size(size);
  }
  [[nodiscard]] Status ask(ByteCount size) {
    return disk_.options.before_size ? disk_.options.before_size(size) : Status{};
  }

 private:
  Implementation& disk_;
};

}  // namespace varve::disk
