// What the records of a disk log add up to, one record at a time, and which record may follow which.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_set>

#include "format.h"
#include "varve/catalog/disk_log.h"

namespace varve::catalog {

/// Rules, checked alike before a record is written and when it is read:
///   1. Record 1, and no other, is `created`; nothing follows `removed`, which needs the snapshots gone.
///   2. A snapshot's id is above every id logged before (the high-water mark), its parent's below its own.
///   3. What is deleted, renamed or given attributes exists.
///   4. Names keep validate_name() and differ among the snapshots of a disk that are not in the trash. Attributes keep the
///      limits of xattrs, what is held is not in the trash.
///   5. A hidden disk has no snapshots but those in the trash.
/// Not synchronised.
class Replay {
 public:
  explicit Replay(DiskId disk) { state_.id = disk; }
  /// Continues after a checkpoint; EIO (damaged) when the state breaks a rule.
  [[nodiscard]] static Result<Replay> from_checkpoint(DiskState state, std::uint64_t number);

  /// Kind refused, with the errno of DiskLog's appends, when `event` may not come next.
  [[nodiscard]] Status check(const Event& event) const;
  /// Takes a record that check() let pass.
  void apply(const Record& record);

  [[nodiscard]] const DiskState& state() const { return state_; }
  /// Number of the last record applied; 0: none.
  [[nodiscard]] std::uint64_t last() const { return last_; }

 private:
  [[nodiscard]] Status check_name(const std::string& name) const;
  [[nodiscard]] Status check_exists(SnapshotId id) const;
  [[nodiscard]] Status refuse_if_hidden() const;
  [[nodiscard]] Status check_event(const Created& event) const;
  [[nodiscard]] Status check_event(const SnapshotLogged& event) const;
  [[nodiscard]] Status check_event(const SnapshotDeleted& event) const;
  [[nodiscard]] Status check_event(const SnapshotRenamed& event) const;
  [[nodiscard]] Status check_event(const SnapshotAttributes& event) const;
  [[nodiscard]] Status check_event(const SnapshotCare& event) const;
  [[nodiscard]] Status check_event(const DiskRenamed& event) const;
  [[nodiscard]] Status check_event(const DiskAttributes& event) const;
  [[nodiscard]] Status check_event(const DiskLimits& event) const;
  [[nodiscard]] Status check_event(const DiskHidden& event) const;
  [[nodiscard]] Status check_event(const DiskRemoved& event) const;

  void note(const SnapshotEntry& entry);
  void replace(const SnapshotEntry& old, SnapshotEntry changed);
  void take(const Created& event, Time time);
  void take(const SnapshotLogged& event, Time time);
  void take(const SnapshotDeleted& event, Time time);
  void take(const SnapshotRenamed& event, Time time);
  void take(const SnapshotAttributes& event, Time time);
  void take(const SnapshotCare& event, Time time);
  void take(const DiskRenamed& event, Time time);
  void take(const DiskAttributes& event, Time time);
  void take(const DiskLimits& event, Time time);
  void take(const DiskHidden& event, Time time);
  void take(const DiskRemoved& event, Time time);

  DiskState state_;
  std::unordered_set<std::string> names_;  ///< of state_.snapshots that are not in the trash
  std::uint64_t last_ = 0;
};

}  // namespace varve::catalog
