// The disk log: numbered, immutable, create-if-absent records of all that happened to a disk, and what they add up
// to. The only truth about which complete snapshots exist. Objects: disks/ID/log/0000000042.json, with checkpoints
// (the sum of all records up to a number) as disks/ID/checkpoint/0000000040.json that bound the reading.
//
// A record is one JSON object with "number", "nonce", "type", "time" and a checksum over the rest (the format is in
// varve-store(5)). Record N+1 is appended only after N is durable. An append whose outcome is unknown is settled by
// reading the number back and comparing nonces; until that succeeds the log refuses further appends (EIO, latched).
// Of two writers of one log one finds the other's nonce there: it refuses everything until it is opened again.
//
// Reading is bounded: open() reads the newest good checkpoint and the records after it, at most
// checkpoint_interval(snapshots) of them as long as checkpoints could be written. The two newest checkpoints are kept.
//
// Memory: about 500 bytes a snapshot (entry, name) plus its xattrs; copies of the state share them all (snapshot_table.h).
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "varve/catalog/care.h"
#include "varve/catalog/snapshot_table.h"
#include "varve/chunks/ref.h"
#include "varve/core/result.h"
#include "varve/core/sync.h"
#include "varve/core/time.h"
#include "varve/core/units.h"
#include "varve/objects/object_store.h"

namespace varve::catalog {

/// Owner, mode and the user's own xattrs ("user." names, values are any bytes) of a directory or an image.
struct Attributes {
  std::uint32_t owner = 0;
  std::uint32_t group = 0;
  std::uint32_t mode = 0;  ///< permission bits only
  std::map<std::string, std::string> xattrs;
  friend bool operator==(const Attributes&, const Attributes&) = default;
};

/// A complete snapshot.
struct SnapshotEntry {
  SnapshotId id;
  SnapshotId parent;  ///< 0: none
  std::string name;
  Time time;            ///< the instant
  Time image_modified;  ///< last write before it
  ByteCount size;       ///< of the image
  Incarnation incarnation;
  chunks::MaybeRef root;
  std::uint64_t changed_bytes = 0;  ///< since the parent, in blocks
  std::uint64_t stored_bytes = 0;   ///< new payload its commit wrote
  Attributes directory;
  Attributes image;
  Care care;
};

/// What a disk log adds up to.
struct DiskState {
  DiskId id;
  std::string name;
  bool removed = false;  ///< the disk is gone; the log stays so that the id is never used again
  bool hidden = false;   ///< its directory was removed; what is left of it is in the trash
  Time created;
  Attributes directory;
  Attributes live_image;
  Limits limits;
  SnapshotId high_water;  ///< highest snapshot id ever logged: survives deletions (rule 5)
  SnapshotTable snapshots;
};

/// Ids are below this in every log that opens: adding one never wraps.
inline constexpr std::uint64_t kIdLimit = std::uint64_t{1} << 63;
/// A record is one object of at most this many bytes (E2BIG): xattrs beyond that are refused.
inline constexpr ByteCount kMaxRecordSize{16 * kMiB};
inline constexpr ByteCount kMaxCheckpointSize{256 * kMiB};
/// Records between two checkpoints of a disk with so many snapshots: 8, or 1/16 of them when that is more. So what is
/// written for checkpoints stays a constant factor of what is written for records, and reading the records that came since
/// costs no more than reading the checkpoint (0.1 ms a record cold, 0.02 ms a snapshot).
[[nodiscard]] std::uint64_t checkpoint_interval(std::size_t snapshots);

/// One open disk log with the state it adds up to. Any thread; appends are serialised within, state() never waits for
/// one. `objects` must outlive it.
///
/// Every append returns when its record is durable. Its errors, the state unchanged by each:
///   kind refused   the record would not fit the log: EINVAL (name, mode, xattr name, id not above the high-water mark,
///                  parent not below the id, hold), EEXIST (the name is another snapshot's), ENOENT (no such snapshot),
///                  ENOTEMPTY (removing a disk with snapshots, hiding one with some that are not in the trash), E2BIG (kMaxRecordSize), ESTALE (the disk is removed)
///   kind system    the store refused (ENOSPC, ...) and the record is known not to be there: try again at will
///   kind latched   EIO. Unsettled: nobody knows whether the record is there; each later append tries to find out
///                  first, and when it was there, state() has it from then on (an append of the same content then
///                  simply succeeds). Or another writer was met: for good.
class DiskLog {
 public:
  /// Reads checkpoint and records. EIO (damaged), naming the object, for a gap, a bad checksum, a newer version,
  /// unparsable bytes or a record that contradicts those before it; a bad checkpoint falls back to an older one or
  /// to the records alone. ENOENT (kind absent) when there is no record.
  [[nodiscard]] static Result<std::unique_ptr<DiskLog>> open(objects::ObjectStore& objects, DiskId id);
  /// A new log whose record 1 is `created`. EEXIST (kind refused) when the id is taken; errors of an append.
  [[nodiscard]] static Result<std::unique_ptr<DiskLog>> create(objects::ObjectStore& objects, DiskId id,
                                                               const std::string& name, const Attributes& directory);
  /// Ids of all logs in the store, ascending, removed disks included. Looks into none: a folder in which nothing was ever
  /// logged (a crash within create) is among them, and open() says ENOENT.
  [[nodiscard]] static Result<std::vector<DiskId>> list(objects::ObjectStore& objects);
  ~DiskLog();

  /// The state as of the last append, shared and immutable. Costs the same whatever the number of snapshots.
  [[nodiscard]] std::shared_ptr<const DiskState> state() const;

  /// Makes sure that what open() read is durable: a daemon that was killed may have left a record that is visible and
  /// would not survive a power loss. Call it before anything is given up because the log has it (rule 4: dropping a
  /// pending snapshot at or below the high-water mark). Every successful append implies it; cheap when it was done.
  [[nodiscard]] Status confirm();

  [[nodiscard]] Status append_snapshot(const SnapshotEntry& entry);
  [[nodiscard]] Status append_deleted(SnapshotId id);
  [[nodiscard]] Status append_snapshot_renamed(SnapshotId id, const std::string& name);
  [[nodiscard]] Status append_snapshot_attributes(SnapshotId id, const Attributes& directory, const Attributes& image);
  /// Also its name: what comes back from the trash may get another.
  [[nodiscard]] Status append_snapshot_care(SnapshotId id, const std::string& name, const Care& care);
  [[nodiscard]] Status append_disk_renamed(const std::string& name);
  [[nodiscard]] Status append_disk_attributes(const Attributes& directory, const Attributes& live_image);
  [[nodiscard]] Status append_limits(const Limits& limits);
  [[nodiscard]] Status append_hidden(bool hidden);
  [[nodiscard]] Status append_removed();
  /// Writes a checkpoint if checkpoint_interval() records came since the last, and removes all but the two newest
  /// once it is durable. Called after each append by whoever has time for it; failing is only slower.
  [[nodiscard]] Status checkpoint_if_due();

 private:
  struct Implementation;
  explicit DiskLog(std::unique_ptr<Implementation> implementation);
  std::unique_ptr<Implementation> implementation_;
};

/// Reads every record and checkpoint of a log, verifies each and that each checkpoint is the sum of its records: for
/// `check`. Problems are appended, each naming the object; that nothing was ever logged is none. Fails only when the folders
/// cannot be listed.
[[nodiscard]] Status verify_log(objects::ObjectStore& objects, DiskId id, std::vector<std::string>& problems);

}  // namespace varve::catalog
