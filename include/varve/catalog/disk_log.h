// The disk log: numbered, immutable, create-if-absent records of all that happened to a disk, and what they add up
// to. The only truth about which complete snapshots exist. Objects: disks/ID/log/0000000042.json, with checkpoints
// (the sum of all records up to a number) as disks/ID/checkpoint/0000000040.json that bound the reading.
//
// A record is one JSON object with "number", "nonce", "type", "time" and a checksum over the rest (the format is in
// varve-store(5)). Record N+1 is appended only after N is durable. An append whose outcome is unknown is settled by
// reading the number back and comparing nonces; until that succeeds the log refuses further appends (EIO, latched).
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

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
  Time time;           ///< the instant
  Time image_modified; ///< last write before it
  ByteCount size;      ///< of the image
  Incarnation incarnation;
  chunks::MaybeRef root;
  std::uint64_t changed_bytes = 0;  ///< since the parent, in blocks
  std::uint64_t stored_bytes = 0;   ///< new payload its commit wrote
  Attributes directory;
  Attributes image;
};

/// What a disk log adds up to.
struct DiskState {
  DiskId id;
  std::string name;
  bool removed = false;  ///< the disk is gone; the log stays so that the id is never used again
  Time created;
  Attributes directory;
  Attributes live_image;
  SnapshotId high_water;  ///< highest snapshot id ever logged or reserved
  std::map<SnapshotId, SnapshotEntry> snapshots;
};

/// One open disk log with the state it adds up to. Any thread; appends are serialised within. Every append returns
/// when it is durable; on an error the state is unchanged.
class DiskLog {
 public:
  /// Reads checkpoint and records. EIO (damaged), naming the object, for a gap, a bad checksum, a newer version or
  /// unparsable bytes; a bad newest checkpoint falls back to an older one.
  [[nodiscard]] static Result<std::unique_ptr<DiskLog>> open(objects::ObjectStore& objects, DiskId id);
  /// A new log whose record 1 is `created`. EEXIST when the id is taken.
  [[nodiscard]] static Result<std::unique_ptr<DiskLog>> create(objects::ObjectStore& objects, DiskId id,
                                                               const std::string& name, const Attributes& directory);
  /// Ids of all logs in the store, removed disks included.
  [[nodiscard]] static Result<std::vector<DiskId>> list(objects::ObjectStore& objects);
  ~DiskLog();

  /// A copy of the state (shared, immutable: cheap).
  [[nodiscard]] std::shared_ptr<const DiskState> state() const;

  [[nodiscard]] Status append_snapshot(const SnapshotEntry& entry);
  [[nodiscard]] Status append_deleted(SnapshotId id);
  [[nodiscard]] Status append_snapshot_renamed(SnapshotId id, const std::string& name);
  [[nodiscard]] Status append_snapshot_attributes(SnapshotId id, const Attributes& directory,
                                                  const Attributes& image);
  [[nodiscard]] Status append_disk_renamed(const std::string& name);
  [[nodiscard]] Status append_disk_attributes(const Attributes& directory, const Attributes& live_image);
  [[nodiscard]] Status append_removed();
  /// Writes a checkpoint if enough records came since the last (every 8, or more when the state is large). Called
  /// after each append by whoever has time for it; failing is only slower.
  [[nodiscard]] Status checkpoint_if_due();

 private:
  DiskLog();
  struct Implementation;
  std::unique_ptr<Implementation> implementation_;
};

/// Reads every record and checkpoint of a log and verifies each: for `check`. Problems are appended, each naming the
/// object.
[[nodiscard]] Status verify_log(objects::ObjectStore& objects, DiskId id, std::vector<std::string>& problems);

}  // namespace varve::catalog
