// A disk of an open store: its log (what is complete), its live side (what is pending), and the steps that move a
// snapshot from one to the other.
//
// Invariants
//  1. A snapshot is in the log, or pending in the journal, or for a moment both; never, once acknowledged, in neither
//     until it is deleted. Whoever lists both reads pending first and the log after, and prefers the log.
//  2. operations_ serialises everything that changes the set of snapshots or the existence of the image, the hand-over
//     of a commit included; the long part of a commit runs without it.
//  3. names_ has exactly one entry for each snapshot that is not in the trash, whatever its state. While the log is in
//  doubt (an append of unknown
//     outcome) nothing that needs a free name begins before it is settled; then names_ is made anew.
//  4. Lock order: an image kept closed (ImageUses), operations_, upkeep_mutex_, then the leaves alias_mutex_,
//     images_mutex_, commit_mutex_, and those of names_ and the quota. No lock is held while anyone waits for a
//     RELEASE.
//  5. What a log record of unknown outcome stands on stays held until the log is settled: the record may be there.
//  6. A snapshot that the log has is deleted there only when its root is P for good (rule 4): unsettled_ names those of
//     which that is not known.
//
// Its parts are in several files: disk_entry.cpp has opening, attributes, the live image, upkeep and the end;
// disk_entry_snapshots.cpp what users do with snapshots; disk_entry_care.cpp holds, deadlines and the trash;
// disk_entry_commit.cpp the way from pending to complete; parent.cpp what P is when its snapshot was deleted.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <set>

#include "image_uses.h"
#include "services.h"
#include "snapshot_names.h"
#include "varve/catalog/disk_log.h"
#include "varve/chunks/root_registry.h"
#include "varve/snapshot/commit.h"
#include "varve/store/disk.h"

namespace varve::store {

using catalog::Trashed;

/// After every instant.
inline constexpr Time kNever{INT64_MAX};

class DiskEntry final : public Disk, public chunks::RootOwner {
 public:
  /// Opens the live side and finishes what a crash interrupted: a snapshot that the log has is no longer pending
  /// (rules 4 and 5).
  [[nodiscard]] static Result<std::shared_ptr<DiskEntry>> open(Services& services,
                                                               std::unique_ptr<catalog::DiskLog> log,
                                                               disk::LiveDiskOptions options,
                                                               std::function<void()> commit_wanted);
  ~DiskEntry() override;

  DiskId id() const override { return id_; }
  std::string name() const override;
  Time created() const override;
  Time modified() const override;
  Attributes directory_attributes() const override;
  Attributes image_attributes() const override;
  Status change_directory_attributes(const std::function<Status(Attributes&)>& change) override;
  Status change_image_attributes(const std::function<Status(Attributes&)>& change) override;

  Limits limits() const override { return log_->state()->limits; }
  Usage usage() const override { return services_.quota->usage(id_); }
  Status set_limits(const Limits& limits) override;

  disk::LiveDisk& live() override { return *live_; }
  Status create_image(const Attributes& attributes) override;
  Status remove_image() override;
  Status resize_image(ByteCount size, const ImageUse* own_use) override;
  Result<ImageUse> use_image(bool for_writing) override;

  std::vector<SnapshotInfo> snapshots() const override;
  std::size_t snapshot_count() const override;
  Result<SnapshotInfo> find_snapshot(std::string_view name) const override;
  Result<SnapshotInfo> snapshot(SnapshotId id) const override;
  Result<SnapshotInfo> take_snapshot(const std::string& name, const Attributes& directory) override;
  Status remove_snapshot(SnapshotId id) override;
  Status delete_snapshot(SnapshotId id) override;
  Status rename_snapshot(SnapshotId id, const std::string& name) override;
  Status change_snapshot_attributes(SnapshotId id, const std::function<Status(Attributes&)>& change) override;
  Status change_snapshot_care(SnapshotId id, const std::function<Status(Care&)>& change) override;
  std::vector<SnapshotInfo> trash() const override;
  Result<ImageUse> use_snapshot(SnapshotId id) override;
  Result<ByteView> view_snapshot(SnapshotId id, ByteOffset at, ByteCount count) override;
  Result<ByteOffset> seek_snapshot(SnapshotId id, ByteOffset at, bool data) override;
  bool snapshot_cached(SnapshotId id, ByteOffset at, ByteCount count) override;

  void visit_roots(const std::function<void(const chunks::MaybeRef&)>& visit) override;

  // --- for the store ---
  /// take_snapshot(), noting the policy that wants it. `limited`: it needs a place within the limits, as all do but
  /// what is taken for the time of a clone.
  enum class Limited { yes, no };
  [[nodiscard]] Result<SnapshotInfo> take(const std::string& name, const Attributes& directory,
                                          const std::string& policy, Limited limited);
  /// delete_snapshot(), if it is still wanted at the moment in which nothing else can change; ECANCELED (refused).
  using StillWanted = std::function<bool(const SnapshotInfo&)>;
  [[nodiscard]] Status delete_while(SnapshotId id, const StillWanted& wanted);
  /// A snapshot that is in the trash, or not.
  [[nodiscard]] Result<SnapshotInfo> any_snapshot(SnapshotId id) const;
  /// Back from the trash. ENOENT, EEXIST, EDQUOT.
  [[nodiscard]] Status undelete_snapshot(SnapshotId id, const std::string& name);
  /// Its directory was removed while there is something in the trash: only the trash knows it.
  [[nodiscard]] bool hidden() const { return log_->state()->hidden; }
  /// Hides it or brings it back. ENOTEMPTY while it has an image, or snapshots that are not in the trash.
  [[nodiscard]] Status set_hidden(bool hidden);
  /// Deletes what has had its time: snapshots behind their deadline and not held, and what was long enough in the
  /// trash. Those that users saw.
  [[nodiscard]] std::vector<SnapshotInfo> end_what_is_over(Time time);
  /// When end_what_is_over() next has something to do, or earlier.
  [[nodiscard]] Time next_end() const { return Time{next_end_.load()}; }
  /// The root of a complete snapshot; EAGAIN while it is pending, ENOENT when there is none.
  [[nodiscard]] Result<std::shared_ptr<const catalog::SnapshotEntry>> complete(SnapshotId id) const;
  /// The live image becomes `root`; `root` is held by the caller. EBUSY while it is open for writing.
  [[nodiscard]] Status replace_image(const catalog::SnapshotEntry& snapshot);
  [[nodiscard]] Status rename(const std::string& name);
  /// ENOTEMPTY, also while there is something in the trash; on success the disk is gone: its files are removed and
  /// every later operation fails with ENOENT.
  [[nodiscard]] Status remove();
  /// As remove(), whatever it holds: for a disk that nobody but its maker has seen.
  [[nodiscard]] Status discard();
  /// Neither an image nor a snapshot, but for what is in the trash.
  [[nodiscard]] bool empty() const;
  /// Another disk has its name already (a copied folder): until it is renamed it goes by this one.
  void serve_as(const std::string& alias);
  /// Commits the oldest pending snapshot; false when there was none. ECANCELED when told to stop.
  [[nodiscard]] Result<bool> commit_one();
  /// A slice of upkeep: moves home, tidies, checkpoints. True when there is more to do now.
  [[nodiscard]] Result<bool> upkeep();
  /// When the snapshot that P is was deleted: P becomes the map of the one before it. ECANCELED and the like are left
  /// to the next round of upkeep.
  [[nodiscard]] Status let_parent_fall_back();
  [[nodiscard]] Status close();
  [[nodiscard]] const catalog::DiskLog& log() const { return *log_; }

 private:
  DiskEntry(Services& services, std::unique_ptr<catalog::DiskLog> log, std::function<void()> commit_wanted);

  void settle_pending();
  [[nodiscard]] Status settle_logged(SnapshotId id) VARVE_REQUIRES(operations_);
  void read_names() VARVE_REQUIRES(operations_);
  [[nodiscard]] Status settle_log() VARVE_REQUIRES(operations_);
  /// Every append goes through here: notes whether its outcome is known.
  template <class Append>
  [[nodiscard]] Status logged(Append append) VARVE_REQUIRES(operations_);
  /// Every change of names on the live side goes through here.
  template <class Change>
  [[nodiscard]] Status on_live(Change change) VARVE_REQUIRES(operations_);
  [[nodiscard]] Status refuse_name_in_use(const std::string& name) VARVE_REQUIRES(operations_);
  [[nodiscard]] Status remove_files() VARVE_REQUIRES(operations_);
  [[nodiscard]] Status refuse_if_removed() const;
  [[nodiscard]] SnapshotInfo describe(const disk::PendingInfo& pending) const;
  [[nodiscard]] static SnapshotInfo describe(const catalog::SnapshotEntry& entry);
  [[nodiscard]] std::vector<SnapshotInfo> all_snapshots() const;
  [[nodiscard]] static Status refuse_if_held(const SnapshotInfo& info, const std::string& disk);
  [[nodiscard]] Status set_care(const SnapshotInfo& info, const std::string& name, const Care& care)
      VARVE_REQUIRES(operations_);
  [[nodiscard]] Status move_to_trash(SnapshotId id, Trashed trashed);
  void note_end(const SnapshotInfo& info);
  void forget_image(SnapshotId id) VARVE_EXCLUDES(images_mutex_);
  [[nodiscard]] SnapshotId parent_of_next() const VARVE_REQUIRES(operations_);
  [[nodiscard]] std::optional<disk::PendingInfo> begin_commit() VARVE_EXCLUDES(commit_mutex_);
  void end_commit() VARVE_EXCLUDES(commit_mutex_);
  /// False: the log had it already, there was nothing but the live side to settle.
  [[nodiscard]] Result<bool> settle_before_commit(SnapshotId id);
  [[nodiscard]] Status commit(const disk::PendingInfo& oldest);
  [[nodiscard]] snapshot::Unreadable patience_with(SnapshotId id) VARVE_EXCLUDES(commit_mutex_);
  void note_unreadable(SnapshotId id) VARVE_EXCLUDES(commit_mutex_);
  [[nodiscard]] Status hand_over(const disk::PendingInfo& frozen, const snapshot::Committed& committed,
                                 std::unique_ptr<chunks::RootRegistry::Hold>& hold);
  [[nodiscard]] Result<std::shared_ptr<snapshot::SnapshotImage>> image_of(SnapshotId id);
  [[nodiscard]] Result<ByteView> view_pending(SnapshotId id, ByteOffset at, ByteCount count);
  [[nodiscard]] std::optional<disk::PendingInfo> find_pending(SnapshotId id) const;
  [[nodiscard]] Status remove_closed_snapshot(SnapshotId id, const StillWanted& wanted);
  [[nodiscard]] Status settle_one(SnapshotId id) VARVE_REQUIRES(operations_);
  [[nodiscard]] Result<bool> tidy_live() VARVE_EXCLUDES(upkeep_mutex_);
  /// Looks at the log before it uses the live side: the order of the locks.
  [[nodiscard]] Status replace_parent(const disk::ParentMap& parent) VARVE_EXCLUDES(operations_, upkeep_mutex_);
  [[nodiscard]] Result<std::optional<chunks::MaybeRef>> next_parent(const disk::ParentMap& parent,
                                                                    chunks::RootRegistry::Hold& hold);
  void doom(SnapshotId id);
  void spare(SnapshotId id);
  /// Does it on the complete image, or on the pending one while it is pending.
  template <class T, class FromImage, class FromPending>
  [[nodiscard]] Result<T> on_snapshot(SnapshotId id, ByteOffset at, FromImage from_image, FromPending from_pending);
  void touch();
  [[nodiscard]] tl::unexpected<Error> log_damage(SnapshotId id, ByteOffset at, Error error) const;

  Services& services_;
  const DiskId id_;
  const std::unique_ptr<catalog::DiskLog> log_;
  std::unique_ptr<disk::LiveDisk> live_;
  const std::function<void()> commit_wanted_;
  const std::shared_ptr<ImageUses> uses_;
  std::atomic<bool> removed_{false};
  std::atomic<std::int64_t> modified_;
  std::atomic<bool> parent_may_be_gone_{true};  ///< P may be the map of a snapshot that was deleted

  mutable Mutex operations_;
  SnapshotId next_id_ VARVE_GUARDED_BY(operations_);
  bool log_in_doubt_ VARVE_GUARDED_BY(operations_) = false;
  std::vector<std::unique_ptr<chunks::RootRegistry::Hold>> doubtful_ VARVE_GUARDED_BY(operations_);
  std::set<SnapshotId> unsettled_ VARVE_GUARDED_BY(operations_);

  /// Held while a slice of upkeep uses the live side; its end waits for that.
  Mutex upkeep_mutex_;

  SnapshotNames names_;
  mutable Mutex alias_mutex_;
  std::string alias_ VARVE_GUARDED_BY(alias_mutex_);
  std::atomic<std::int64_t> next_end_{kNever.nanoseconds};

  /// Readers of complete snapshots share what they learned of the map; at most kMaxOpenImages are remembered.
  Mutex images_mutex_;
  std::map<SnapshotId, std::shared_ptr<snapshot::SnapshotImage>> images_ VARVE_GUARDED_BY(images_mutex_);

  /// The commit under way. `committing_` names its snapshot; cancelling waits until it is 0 or another.
  mutable Mutex commit_mutex_;
  CondVar commit_ended_;
  SnapshotId committing_ VARVE_GUARDED_BY(commit_mutex_);
  /// Being deleted, by so many at once: no commit of them may run.
  std::multiset<SnapshotId> doomed_ VARVE_GUARDED_BY(commit_mutex_);
  std::atomic<bool> cancel_{false};
  /// Commits of `unreadable_` that met chunks which the medium did not give back.
  SnapshotId unreadable_ VARVE_GUARDED_BY(commit_mutex_);
  int unreadable_attempts_ VARVE_GUARDED_BY(commit_mutex_) = 0;
  snapshot::CommitProgress progress_;

  chunks::RootRegistry::Registration registration_;
};

template <class Append>
Status DiskEntry::logged(Append append) {
  Status done = append();
  if (!done && done.error().kind == ErrorKind::latched) {
    log_in_doubt_ = true;
  } else if (log_in_doubt_) {
    log_in_doubt_ = false;
    doubtful_.clear();
    read_names();
  }
  return done;
}

/// A change of pending snapshots that failed may have been made all the same, and not be durable.
template <class Change>
Status DiskEntry::on_live(Change change) {
  Status done = change();
  if (!done) read_names();
  return done;
}

/// Removes live/ID of a disk whose log says it is removed.
[[nodiscard]] Status remove_live_files(os::Storage& storage, DiskId id);

}  // namespace varve::store
