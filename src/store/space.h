// The accounting of a store: which roots there are, and what goes with a set of snapshots.
//
// Roots are not told by whoever makes or deletes something (one forgotten place, and the numbers are wrong for good): each
// question first compares what each disk has now with what is counted.
#pragma once

#include <atomic>
#include <set>
#include <thread>

#include "varve/core/sync.h"
#include "varve/store/space.h"

namespace varve::store {

class DiskEntry;
struct Services;

class CountedSpace final : public Space {
 public:
  using Disks = std::function<std::vector<std::shared_ptr<DiskEntry>>()>;
  CountedSpace(Services& services, Disks disks);
  ~CountedSpace() override;  ///< stop()

  /// Counts in a thread of its own, and follows what changes.
  void start();
  void stop();
  /// Before a collect: holds nothing any more that was deleted.
  void let_go();
  void collect_begins() { died_before_ = accounting_.died_bytes(); }
  void collect_ended() { collected_ = died_before_.load(); }

  bool ready() const override { return ready_; }
  unsigned percent() const override;
  bool failed() const override { return failed_; }
  Status catch_up(const std::function<void(std::uint64_t done, std::uint64_t total)>& progress,
                  const std::function<bool()>& stop) override;
  Result<snapshot::RecordSums> freed_without(const std::vector<SnapshotName>& snapshots) override;
  Result<std::uint64_t> logical_of(Disk& disk, SnapshotId id) override;
  Result<std::uint64_t> logical_of(Disk& disk) override;
  Result<SpaceSums> sums_of(Disk& disk) override;
  Result<SpaceSums> sums() override;
  Result<FreePlan> plan(std::uint64_t bytes, const std::vector<std::shared_ptr<Disk>>& disks,
                        const std::function<bool()>& stop) override;
  snapshot::RecordSums counted() const override { return accounting_.live(); }
  SpaceSums live() const override;
  std::uint64_t waiting() const override;
  std::size_t memory_bytes() const override { return accounting_.memory_bytes(); }
  Result<std::optional<std::string>> verify() override { return accounting_.verify(); }

 private:
  struct Removed;
  [[nodiscard]] Status prepare();
  [[nodiscard]] Removed removed_with(const std::vector<SnapshotName>& snapshots) const;
  [[nodiscard]] Result<snapshot::RecordSums> freed_by(const std::vector<SnapshotName>& snapshots);
  [[nodiscard]] std::vector<std::uint64_t> owners_that_went() VARVE_EXCLUDES(mutex_);
  void run();

  Services& services_;
  const Disks disks_;
  snapshot::Accounting accounting_;
  std::atomic<bool> ready_{false};
  std::atomic<bool> failed_{false};
  std::atomic<std::uint64_t> counted_roots_{0};
  std::atomic<std::uint64_t> all_roots_{0};
  std::atomic<std::uint64_t> died_before_{0};
  std::atomic<std::uint64_t> collected_{0};

  Mutex mutex_;
  CondVar stop_wanted_;
  bool stopping_ VARVE_GUARDED_BY(mutex_) = false;
  std::set<std::uint64_t> owners_ VARVE_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace varve::store
