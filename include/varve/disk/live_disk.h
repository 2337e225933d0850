// The live side of one disk: its image, written in place at home or to a detour, and the pending snapshots whose data
// is not in packs yet. Everything that decides what is on the disk is in one journal; see src/disk/journal.h for its
// records and src/disk/live_disk.cpp for the invariants.
//
// Files, below a directory given at open: home.img, detour.img, journal, and changes.* (change maps put away by a
// clean close). Volatile: one change map file a freeze interval, named after the disk id.
//
// Memory per TiB of image with 64 KiB chunks: places 2 bits a chunk where a page of 4096 chunks is mixed (4 MiB at
// most), nothing where it is uniform; change map 32 MiB of tmpfs when fully dirty, nothing where clean; detours 16
// bytes each while they last (70 while partial); for each pending snapshot the places that changed since, as much again.
#pragma once

#include <bitset>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "varve/core/digest.h"
#include "varve/core/result.h"
#include "varve/core/thread_pool.h"
#include "varve/core/time.h"
#include "varve/core/units.h"
#include "varve/os/storage.h"

namespace varve::disk {

/// The content behind Base places and behind P: chunks of immutable maps. May be far away and slow; LiveDisk calls
/// it holding neither the gate nor a chunk lock. Any thread.
class BaseSource {
 public:
  virtual ~BaseSource() = default;
  /// Fills `out` (chunk_size bytes) with the chunk `chunk` of the map `root`; zeros where the map has none.
  [[nodiscard]] virtual Status read_chunk(const OpaqueRoot& root, ChunkIndex chunk, std::span<std::byte> out) = 0;
  /// Whether the map has that chunk and it is these bytes: by digest first, then by the bytes themselves, so that a chunk
  /// is only loaded to confirm. False also for one that cannot be had.
  [[nodiscard]] virtual bool holds(const OpaqueRoot& root, ChunkIndex chunk, std::span<const std::byte> bytes) = 0;
  /// The first chunk in [from, end) that the map has (`data`) or has not (`!data`); `end` when there is none.
  [[nodiscard]] virtual Result<ChunkIndex> next(const OpaqueRoot& root, ChunkIndex from, ChunkIndex end,
                                                bool data) = 0;
};

struct ImageInfo {
  bool exists = false;
  Incarnation incarnation;
  ByteCount size;
  ByteCount allocated;  ///< chunks at Home or in a Detour, in bytes
  Time modified;        ///< last write or size change
};

struct PendingInfo {
  SnapshotId id;
  SnapshotId parent;
  std::string name;
  std::string attributes;  ///< opaque to this layer
  Time time;               ///< the instant of the freeze
  Time image_modified;
  ByteCount size;
  Incarnation incarnation;
  std::uint64_t changed_blocks = 0;  ///< blocks of 4 KiB to look at in a commit
};

enum class PlaceKind : std::uint8_t { zero = 0, base = 1, home = 2, detour = 3 };

/// Blocks of one chunk.
using BlockSet = std::bitset<kMaxChunkSize / kBlockSize>;

/// A run of frozen chunks that changed since P, for the commit.
struct FrozenRun {
  ChunkIndex first;
  ChunkCount count;
  PlaceKind place = PlaceKind::zero;
  OpaqueRoot root;     ///< base only: the map …
  ChunkIndex source;   ///< … and the chunk in it that `first` has
};

/// A run of an image for somebody who copies it without reading it.
struct CopyRun {
  enum class Kind { zeros, shared, bytes };
  ChunkIndex first;
  ChunkCount count;
  Kind kind = Kind::bytes;
  OpaqueRoot root;    ///< shared only
  ChunkIndex source;  ///< shared only: the chunk in `root` that `first` equals
};

/// P: what is unchanged since the newest complete snapshot.
struct ParentMap {
  OpaqueRoot root;
  Incarnation incarnation;
  bool needed_live = false;     ///< by the live image, which is of this incarnation
  bool needed_pending = false;  ///< by a pending snapshot: then it cannot be replaced
  bool also_base = false;       ///< L names the same root, the live image's or a pending snapshot's
};
using MarkChunks = std::function<void(ChunkIndex first, ChunkCount count)>;

enum class Opened { fresh, clean, killed, power_lost };

struct LiveDiskOptions {
  bool assume_power_loss = false;
  /// What is in the volatile storage, sorted, from before the first of many disks was opened; null: it is listed. Else a
  /// thousand disks would each list the files of all.
  std::shared_ptr<const std::vector<std::string>> volatile_names{};
  /// Free slots keep their storage for so long, or twice, while others are taken; not when little space is left.
  std::chrono::milliseconds keep_slots{0};
  /// A journal longer than this many bytes, and than four times its compacted size, is compacted.
  std::uint64_t compact_journal_at = 16 * kMiB;
  /// Asked before the image gets another size, and told the size it has when that is done or has failed; never two at once
  /// for one disk, and not while it is opened. An error refuses it, with nothing changed. Must not call the disk.
  std::function<Status(ByteCount size)> before_size{};
  std::function<void(ByteCount size)> after_size{};
};

struct LiveDiskCounters {
  std::uint64_t home_chunks = 0;
  std::uint64_t detour_chunks = 0;      ///< live chunks in detours
  std::uint64_t partial_slots = 0;      ///< live or frozen, that have only the blocks that were written
  std::uint64_t slots = 0;              ///< detour slots in the file, free or not
  std::uint64_t free_slots = 0;
  std::uint64_t stored_slots = 0;       ///< of the free ones: that have storage
  std::uint64_t surplus_slots = 0;      ///< of those: whose storage is about to go back
  std::uint64_t base_chunks = 0;
  std::uint64_t segments = 0;           ///< of L
  std::uint64_t journal_bytes = 0;
  std::uint64_t unswept_chunks = 0;     ///< of home.img, that tidy() has yet to look at for storage to give back
  std::uint64_t changed_blocks = 0;     ///< since the last freeze; all, after a power loss
};

/// Any thread may call anything, unless a function says otherwise. Offsets and lengths are checked against the size.
/// After a failed sync of home, detour, journal or change map the disk is latched (rule 7): flush and freeze fail with
/// EIO, kind latched, until it is opened again; reads and writes go on as the system lets them.
class LiveDisk {
 public:
  /// Creates the directory (durably) when absent; recovers by the journal (DESIGN.md, section 5). EIO (damaged) when
  /// a valid seal lies behind a bad record; the files are left untouched then. `storage`, `maps` and `base` must
  /// outlive it.
  [[nodiscard]] static Result<std::unique_ptr<LiveDisk>> open(os::Storage& storage, os::VolatileStorage& maps,
                                                              const std::string& directory, DiskId id,
                                                              Geometry geometry, BaseSource& base,
                                                              const LiveDiskOptions& options);
  /// Like a kill: nothing is written. For a clean end call close() first.
  ~LiveDisk();
  /// Waits for nothing (the caller has stopped all use), flushes, puts the change maps away, writes the clean mark.
  [[nodiscard]] Status close();
  [[nodiscard]] Opened how_opened() const;

  // --- the live image ---
  [[nodiscard]] ImageInfo info() const;
  [[nodiscard]] bool exists() const;
  /// An empty image under a new incarnation. EEXIST when there is one.
  [[nodiscard]] Status create_image();
  /// Journaled and sealed; pending snapshots keep what they pinned. ENOENT when there is none.
  [[nodiscard]] Status remove_image();
  /// Grows (zeros) or shrinks. EFBIG beyond the geometry or the filesystem's largest file.
  [[nodiscard]] Status resize(ByteCount size);
  /// Returns the bytes read, short only at the end of the image. `out` may have any alignment; one of 4 KiB saves a
  /// copy. EIO when a Base chunk can't be had.
  [[nodiscard]] Result<std::size_t> read(ByteOffset at, std::span<std::byte> out);
  /// Whether a read of the range may have to ask the BaseSource (then it can block for long). Cheap, advisory.
  [[nodiscard]] bool reads_base(ByteOffset at, ByteCount count) const;
  /// Whether a write may have to ask it: for Base chunks that it covers in part, and for chunks that it covers whole and
  /// L knows. Cheap, advisory.
  [[nodiscard]] bool writes_base(ByteOffset at, ByteCount count) const;
  /// A chunk that becomes what L has for it becomes Base, one that is that already stays it: nothing is stored then.
  /// Grows the image when the range ends behind it. ENOSPC leaves the image as it was or partly written, as on a disk.
  [[nodiscard]] Status write(ByteOffset at, std::span<const std::byte> bytes);
  /// Makes a range zeros and gives its storage back (whole chunks by rule 1); does not change the size.
  [[nodiscard]] Status zero(ByteOffset at, ByteCount count);
  /// Reserves storage at home for the range, so that ordinary writes there meet no ENOSPC while nothing is pinned.
  [[nodiscard]] Status preallocate(ByteOffset at, ByteCount count);
  /// All acknowledged writes are durable on return: one flush in steady state. Concurrent callers share flushes.
  [[nodiscard]] Status flush();
  /// First offset >= at that is data (or hole), clipped to the size; ENXIO as in lseek(2). Never says hole in doubt.
  [[nodiscard]] Result<ByteOffset> seek(ByteOffset at, bool data);
  /// Whether a read or write of the image came within this time: who works in the background then leaves the medium to
  /// those who wait for it.
  [[nodiscard]] bool in_use(std::chrono::milliseconds within) const;
  /// Sets the time of the last write (utimensat by a user).
  [[nodiscard]] Status set_modified(Time time);

  // --- sharing ---
  /// Chunks [first, first + count) become Base with the content of `root` from `source` on; all of them count as
  /// changed. Grows the image to at most `size_at_least`. One journal record. E2BIG when L has too many segments
  /// already: copy bytes instead. `root` must be held by the caller until this returns; from then on roots() names it.
  [[nodiscard]] Status splice(ChunkIndex first, ChunkCount count, const OpaqueRoot& root, ChunkIndex source,
                              ByteCount size_at_least);
  /// The whole image becomes `root`, `size` bytes long, in one sealed journal record; creates it when absent.
  [[nodiscard]] Status replace(ByteCount size, const OpaqueRoot& root);
  /// What the chunks of the live image are made of, from `first` on, at most `count` chunks and `max_runs` runs.
  /// Chunks unchanged since a complete parent are `shared` with P.
  [[nodiscard]] Result<std::vector<CopyRun>> describe(ChunkIndex first, ChunkCount count, std::size_t max_runs);

  /// Runs of the live image that are read from maps (Base), from `from` on, ascending, at most `max_runs`; empty at the
  /// end, and without an image. All are `shared`.
  [[nodiscard]] std::vector<CopyRun> base_runs(ChunkIndex from, std::size_t max_runs) const;

  // --- snapshots ---
  /// Freezes the image as pending snapshot `id` (greater than all before). Durable on return. ENODATA without an
  /// image. On an error nothing is pending that was not before.
  [[nodiscard]] Result<PendingInfo> freeze(SnapshotId id, SnapshotId parent, const std::string& name,
                                           const std::string& attributes);
  /// Oldest first. Costs what they are; for one of them ask for that one.
  [[nodiscard]] std::vector<PendingInfo> pending() const;
  [[nodiscard]] std::size_t pending_count() const;
  [[nodiscard]] std::optional<PendingInfo> find_pending(SnapshotId id) const;
  [[nodiscard]] std::optional<PendingInfo> oldest_pending() const;
  [[nodiscard]] std::optional<PendingInfo> newest_pending() const;
  /// The highest snapshot id ever frozen here, dropped ones included; 0 when none.
  [[nodiscard]] SnapshotId high_water() const;
  [[nodiscard]] Result<std::size_t> read_pending(SnapshotId id, ByteOffset at, std::span<std::byte> out);
  [[nodiscard]] Result<ByteOffset> seek_pending(SnapshotId id, ByteOffset at, bool data);
  [[nodiscard]] Result<std::vector<CopyRun>> describe_pending(SnapshotId id, ChunkIndex first, ChunkCount count,
                                                              std::size_t max_runs);
  /// A new name or new attributes, durable on return.
  [[nodiscard]] Status update_pending(SnapshotId id, const std::string& name, const std::string& attributes);
  /// Deletes a pending snapshot; its successor inherits. Durable on return. Not while it is being committed.
  [[nodiscard]] Status drop_pending(SnapshotId id);

  // --- commit (the oldest pending snapshot; one thread) ---
  /// The map that unchanged chunks of the oldest pending snapshot, or of the live image when none is pending, have.
  [[nodiscard]] OpaqueRoot parent_root() const;
  /// Runs of changed chunks from `from` on, ascending, at most `max_runs`; empty at the end.
  [[nodiscard]] Result<std::vector<FrozenRun>> frozen_runs(SnapshotId id, ChunkIndex from, std::size_t max_runs);
  /// The bytes of a chunk frozen at Home or in a Detour. EIO from the medium as it comes (rule 10).
  [[nodiscard]] Status read_frozen(SnapshotId id, ChunkIndex chunk, std::span<std::byte> out);
  /// Which blocks of a changed chunk changed since P: the others have P's bytes. Nothing where only the chunk is known
  /// (after a power loss): any may have.
  [[nodiscard]] Result<std::optional<BlockSet>> frozen_blocks(SnapshotId id, ChunkIndex chunk);
  /// As read_frozen(), from a block of the chunk on.
  [[nodiscard]] Status read_frozen_blocks(SnapshotId id, ChunkIndex chunk, std::size_t first_block,
                                          std::span<std::byte> out);
  /// The log has it: P of the successor becomes `root`, durably, then the pending snapshot and its pins are gone.
  [[nodiscard]] Status committed(SnapshotId id, const OpaqueRoot& root);

  // --- P, when the snapshot it was is deleted ---
  [[nodiscard]] ParentMap parent() const;
  /// P becomes `root` where it is `from`. `differences` is called once and gives `mark` every chunk at which the two maps
  /// differ; these count as changed before P is switched. Durable on return; an error leaves P as it was, and perhaps
  /// chunks marked that need not be. EAGAIN: a snapshot was frozen meanwhile, or P is another or needed as it is.
  [[nodiscard]] Status replace_parent(const OpaqueRoot& from, const OpaqueRoot& root,
                                      const std::function<Status(const MarkChunks& mark)>& differences);

  // --- upkeep (one background thread) ---
  /// Moves up to `max_chunks` detours home; the number moved. 0: nothing to move now. `movers` help, if given.
  [[nodiscard]] Result<std::size_t> move_home(std::size_t max_chunks, ThreadPool* movers = nullptr);
  /// Punches and reuses what rule 1 has freed; compacts the journal when due.
  [[nodiscard]] Status tidy();

  /// Every root that L or P, live or pending, stands on.
  [[nodiscard]] std::vector<OpaqueRoot> roots() const;
  [[nodiscard]] LiveDiskCounters counters() const;
  [[nodiscard]] bool latched() const;

 private:
  LiveDisk();
  struct Implementation;
  std::unique_ptr<Implementation> implementation_;
};

/// Reads the journal in `directory` without changing anything: for `check` of a store that is not mounted.
[[nodiscard]] Status verify_journal(os::Storage& storage, const std::string& directory, DiskId id, Geometry geometry);

}  // namespace varve::disk
