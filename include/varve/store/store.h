// The store: owns everything below it. Opens and recovers, keeps disks, runs commits and upkeep in the background.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "varve/chunks/chunk_store.h"
#include "varve/chunks/codec.h"
#include "varve/chunks/locator.h"
#include "varve/core/result.h"
#include "varve/os/storage.h"
#include "varve/snapshot/check.h"
#include "varve/snapshot/collect.h"
#include "varve/snapshot/diff.h"
#include "varve/snapshot/repair.h"
#include "varve/store/disk.h"

namespace varve::store {

struct InitOptions {
  ByteCount chunk_size{kDefaultChunkSize};
  chunks::Compression compression;
};

/// What store.json says.
struct StoreSettings {
  std::string id;  ///< 32 hex digits
  Geometry geometry{ByteCount{kDefaultChunkSize}};
  chunks::Compression compression;
  Time created;
};

struct OpenOptions {
  std::size_t chunk_cache_bytes = 256 * kMiB;
  std::size_t node_cache_bytes = 64 * kMiB;
  std::size_t locator_bytes = chunks::kLocatorBytes;
  std::size_t pack_bytes = chunks::kPackTarget;
  bool assume_power_loss = false;  ///< trust no change map
  /// Commits, moves home, tidying, locator and collect run by themselves. Off: tests drive them by hand (step_*).
  bool background = true;
  Clock clock = now;  ///< by which deadlines pass, the trash is emptied and policies are due
  std::string purpose;  ///< who holds the store, for those refused: "mounted at /mnt/v by process 123"
};

/// Told after a change was made by other than the kernel's own request; from any thread, holding no lock of the
/// store. The FUSE layer turns it into notifications.
class Observer {
 public:
  virtual ~Observer() = default;
  virtual void disk_appeared(DiskId disk, const std::string& name) = 0;
  virtual void disk_gone(DiskId disk, const std::string& name) = 0;
  virtual void snapshot_appeared(DiskId disk, SnapshotId snapshot, const std::string& name) = 0;
  virtual void snapshot_gone(DiskId disk, SnapshotId snapshot, const std::string& name) = 0;
  /// Content or size of the live image changed as a whole (restore), or it came into being.
  virtual void image_replaced(DiskId disk) = 0;
};

class Space;

/// One image of the store: the live one of a disk, or a snapshot's.
struct ImageName {
  std::shared_ptr<Disk> disk;
  SnapshotId snapshot;  ///< 0: the live image
};

struct TrashedSnapshot {
  std::shared_ptr<Disk> disk;
  std::string disk_name;
  bool disk_removed = false;  ///< the disk's directory was removed, too: it comes back with the snapshot
  SnapshotInfo info;
};

class Policies;

struct CheckReport {
  snapshot::Checked records;
  std::vector<std::string> problems;  ///< logs, settings, journals, packs: each names the file and what to do
  [[nodiscard]] bool clean() const { return problems.empty() && records.damaged.empty(); }
};

struct RepairReport {
  snapshot::Repaired repaired;
  CheckReport after;  ///< a check of everything, when all was done
};

struct DiffSizes {
  ByteCount a;
  ByteCount b;
};

/// What a Store stands on; a test puts doubles here.
struct Environment {
  std::unique_ptr<os::Storage> storage;
  std::unique_ptr<os::VolatileStorage> maps;
  std::unique_ptr<chunks::Locator> locator;
};

/// The most that one copy_range answers (a kernel copy is one request that must end).
constexpr std::uint64_t kMaxCopyReply = 2 * kGiB;

/// Any thread.
class Store {
 public:
  /// Makes the directory (0700) when absent, else it must be empty (EEXIST / ENOTEMPTY name it). Durable.
  [[nodiscard]] static Status init(const std::string& path, const InitOptions& options);
  [[nodiscard]] static Status init(os::Storage& storage, const InitOptions& options);
  /// Locks, reads settings, recovers every disk (in parallel), starts the background. EBUSY names who has it.
  /// A disk whose log or journal is damaged is left out, named in damaged_disks(), and the rest is served.
  [[nodiscard]] static Result<std::unique_ptr<Store>> open(const std::string& path, const OpenOptions& options);
  [[nodiscard]] static Result<std::unique_ptr<Store>> open(Environment environment, const OpenOptions& options);
  virtual ~Store() = default;  ///< without close(): like a kill
  /// Stops the background (a commit under way is abandoned, its snapshot stays pending), closes every disk cleanly.
  [[nodiscard]] virtual Status close() = 0;

  [[nodiscard]] virtual const StoreSettings& settings() const = 0;
  [[nodiscard]] virtual std::vector<std::string> damaged_disks() const = 0;
  virtual void set_observer(Observer* observer) = 0;  ///< null: none; returns when no call is under way

  [[nodiscard]] virtual std::vector<std::shared_ptr<Disk>> disks() const = 0;
  [[nodiscard]] virtual Result<std::shared_ptr<Disk>> find_disk(std::string_view name) const = 0;
  [[nodiscard]] virtual Result<std::shared_ptr<Disk>> disk(DiskId id) const = 0;
  /// EEXIST, EINVAL, ENAMETOOLONG.
  [[nodiscard]] virtual Result<std::shared_ptr<Disk>> create_disk(const std::string& name,
                                                                  const Attributes& directory) = 0;
  /// ENOTEMPTY unless it has neither image nor snapshots. What of it is in the trash stays there, and with it the disk,
  /// seen by nobody.
  [[nodiscard]] virtual Status remove_disk(DiskId id) = 0;
  [[nodiscard]] virtual Status rename_disk(DiskId id, const std::string& name) = 0;
  /// Time of the last change of the root's entries.
  [[nodiscard]] virtual Time root_modified() const = 0;
  [[nodiscard]] virtual Attributes root_attributes() const = 0;
  [[nodiscard]] virtual Status change_root_attributes(const std::function<Status(Attributes&)>& change) = 0;

  /// Of all disks together; see Disk. Durable on return.
  [[nodiscard]] virtual Limits limits() const = 0;
  [[nodiscard]] virtual Usage usage() const = 0;
  [[nodiscard]] virtual Status set_limits(const Limits& limits) = 0;

  // --- the trash ---
  /// How long what is deleted from now on can be had back; 0: not at all. Durable on return; EINVAL beyond a century.
  [[nodiscard]] virtual std::chrono::seconds trash_keep() const = 0;
  [[nodiscard]] virtual Status set_trash_keep(std::chrono::seconds keep) = 0;
  /// What was deleted first comes first.
  [[nodiscard]] virtual std::vector<TrashedSnapshot> trash() const = 0;
  /// ENOENT (it went meanwhile), EEXIST (its name or its disk's is taken), EINVAL, EDQUOT.
  [[nodiscard]] virtual Status undelete(const TrashedSnapshot& which, const std::string& as) = 0;
  /// Deletes for good what is in the trash; how many.
  [[nodiscard]] virtual Result<std::size_t> empty_trash() = 0;
  /// As Disk::remove_snapshot, for who does not do it for the kernel.
  [[nodiscard]] virtual Status remove_snapshot(const std::shared_ptr<Disk>& disk, SnapshotId id) = 0;

  /// By OpenOptions::clock.
  [[nodiscard]] virtual Time time() const = 0;
  /// Scheduled snapshots.
  [[nodiscard]] virtual Policies& policies() const = 0;
  /// Follows one now, due or not, paused or not, as it would be by itself. ENOENT; what it skips is no error.
  [[nodiscard]] virtual Status run_policy(const std::string& name) = 0;

  /// Copies between images as copy_file_range(2): shares refs where it can, copies bytes elsewhere, at most
  /// kMaxCopyReply; returns the bytes copied (0 at the source's end). EINVAL for overlapping ranges of one image.
  [[nodiscard]] virtual Result<ByteCount> copy_range(const ImageName& from, ByteOffset from_at,
                                                     const std::shared_ptr<Disk>& to, ByteOffset to_at,
                                                     ByteCount count) = 0;
  /// The live image of `to` becomes the snapshot's, in one durable step. EBUSY while it is open for writing.
  [[nodiscard]] virtual Status restore(const std::shared_ptr<Disk>& from, SnapshotId snapshot,
                                       const std::shared_ptr<Disk>& to) = 0;
  /// A new disk with the image of a snapshot, or of the live image (a snapshot that is taken for it and removed).
  [[nodiscard]] virtual Result<std::shared_ptr<Disk>> clone(const ImageName& from, const std::string& name,
                                                            const Attributes& directory) = 0;

  /// Where two images read differently: extents as snapshot::diff_images, with its errors. A pending snapshot is
  /// waited for until it is complete, and of a live image a snapshot is taken, and removed again: also ECANCELED,
  /// ENODATA without a live image, what refuses snapshots, and the error of a commit that fails time and again. `visit`
  /// may take as long as it likes; images may be changed and deleted meanwhile.
  [[nodiscard]] virtual Result<DiffSizes> diff(const ImageName& a, const ImageName& b,
                                               const std::function<Status(const snapshot::Extent&)>& visit,
                                               const std::function<void(std::uint64_t done, std::uint64_t total)>& progress,
                                               const std::function<bool()>& stop) = 0;

  /// Of the store's filesystem; `available` is what may still be written.
  [[nodiscard]] virtual Result<os::Capacity> capacity() const = 0;
  /// What snapshots share, and what deleting them gives back. Valid as long as the store is open.
  [[nodiscard]] virtual Space& space() const = 0;
  /// The content of .varve/status.json and .varve/metrics.
  [[nodiscard]] virtual nlohmann::json status() const = 0;
  [[nodiscard]] virtual std::string metrics() const = 0;
  /// Everything of one disk, or of one snapshot, for `varve info` and --json.
  [[nodiscard]] virtual nlohmann::json describe(const ImageName& image) const = 0;

  [[nodiscard]] virtual Result<CheckReport> check(
      const std::function<void(std::uint64_t done, std::uint64_t total)>& progress,
      const std::function<bool()>& stop) = 0;
  /// Puts back what check finds lost and what is intact elsewhere: in other records, in memory, in live images and
  /// pending snapshots. Logs, journals and settings are not repaired. Errors as snapshot::repair_targets.
  [[nodiscard]] virtual Result<RepairReport> repair(
      const std::function<void(std::uint64_t done, std::uint64_t total)>& progress,
      const std::function<bool()>& stop) = 0;
  /// Gives back the space of what was deleted, at full speed. It also goes on by itself, in the background. `progress`
  /// in packs. Errors as snapshot::collect_garbage(); EIO while a disk is damaged.
  [[nodiscard]] virtual Result<snapshot::Collected> collect(
      const std::function<bool()>& stop,
      const std::function<void(std::uint64_t done, std::uint64_t total)>& progress = {}) = 0;

  /// Waits until nothing is pending and nothing is left to move home (false: time ran out or a commit cannot succeed).
  [[nodiscard]] virtual bool wait_until_quiet(std::chrono::milliseconds limit) = 0;
  /// With background off: commits the oldest pending snapshot of a disk (true when there was one), or does a slice of
  /// its upkeep.
  [[nodiscard]] virtual Result<bool> step_commit(DiskId id) = 0;
  [[nodiscard]] virtual Status step_upkeep(DiskId id) = 0;
  /// Does what is due by the clock: follows policies, deletes what has had its time, and empties the trash where there is
  /// no space.
  virtual void step_schedule() = 0;
};

}  // namespace varve::store
