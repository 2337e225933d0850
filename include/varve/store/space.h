// What snapshots take and share, and what deleting them gives back. Words, as in varve(1), SPACE:
//
//     logical   bytes that snapshots would take one by one: chunks of their maps, zeros left out
//     unique    distinct chunks among them, as they are read
//     stored    bytes of the records that are kept for that: chunks and map nodes, compressed, deltas as such
//     freed     stored bytes that nothing needs any more when certain snapshots are deleted
//
// A pending snapshot has nothing stored yet: it counts with 0 in each, and while one is pending its disk's parent stays
// whatever is deleted. What is deleted comes back when collect has run.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "varve/snapshot/accounting.h"
#include "varve/store/disk.h"

namespace varve::store {

struct SnapshotName {
  std::shared_ptr<Disk> disk;
  SnapshotId id;
};

struct SpaceSums {
  std::uint64_t logical = 0;
  std::uint64_t unique = 0;
  std::uint64_t stored = 0;
  friend bool operator==(const SpaceSums&, const SpaceSums&) = default;
};

struct FreePlan {
  std::vector<SnapshotName> snapshots;  ///< to delete, in the order in which they were chosen
  snapshot::RecordSums freed;           ///< by all of them together
  bool enough = false;
};

/// Any thread. From Store.
class Space {
 public:
  virtual ~Space() = default;

  /// Whether the counting has been through once; before that nothing is known, and questions are refused (EAGAIN, with
  /// percent()).
  [[nodiscard]] virtual bool ready() const = 0;
  [[nodiscard]] virtual unsigned percent() const = 0;
  /// The counting met damage: nothing is known until the next mount.
  [[nodiscard]] virtual bool failed() const = 0;
  /// Counts what is not counted yet; on return all that was there when it was called is. `progress` in roots. ECANCELED.
  [[nodiscard]] virtual Status catch_up(const std::function<void(std::uint64_t done, std::uint64_t total)>& progress,
                                        const std::function<bool()>& stop) = 0;

  // Each follows what has changed first. EAGAIN unless ready(); EIO (damaged) when a record of the store cannot be looked up.
  /// What deleting these snapshots together gives back to collect, once the parents of live disks have fallen back
  /// (store/parent.cpp).
  [[nodiscard]] virtual Result<snapshot::RecordSums> freed_without(const std::vector<SnapshotName>& snapshots) = 0;
  /// Of one snapshot.
  [[nodiscard]] virtual Result<std::uint64_t> logical_of(Disk& disk, SnapshotId id) = 0;
  /// Of all of a disk's.
  [[nodiscard]] virtual Result<std::uint64_t> logical_of(Disk& disk) = 0;
  /// The same with `unique` and `stored`, which cost a walk over all that they reach; nothing else here does.
  [[nodiscard]] virtual Result<SpaceSums> sums_of(Disk& disk) = 0;
  /// Of all that is kept, live images' restored data included.
  [[nodiscard]] virtual Result<SpaceSums> sums() = 0;
  /// Few snapshots that free `bytes` together, of `disks`: step by step the one that frees most besides those chosen
  /// before, of equals the oldest; in the end those that turned out not to be needed are taken out again. Not the held and
  /// the pending ones.
  [[nodiscard]] virtual Result<FreePlan> plan(std::uint64_t bytes, const std::vector<std::shared_ptr<Disk>>& disks,
                                              const std::function<bool()>& stop) = 0;

  // As of a moment ago; these never wait.
  /// What all roots reach.
  [[nodiscard]] virtual snapshot::RecordSums counted() const = 0;
  /// The same without `logical`.
  [[nodiscard]] virtual SpaceSums live() const = 0;
  /// Stored bytes that are dead: since the last collect began, and what that one has left.
  [[nodiscard]] virtual std::uint64_t waiting() const = 0;
  [[nodiscard]] virtual std::size_t memory_bytes() const = 0;

  /// For tests: see snapshot::Accounting::verify().
  [[nodiscard]] virtual Result<std::optional<std::string>> verify() = 0;
};

}  // namespace varve::store
