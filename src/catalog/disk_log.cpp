// Appending, and settling what became of an append. Invariants:
//
//   1. Records 1 .. replay.last() are in the store; an append is put at replay.last() + 1 and nowhere else.
//   2. `attempts` are the records that were put at replay.last() + 1 and not acknowledged. Each may still turn up there
//      (a request that a far store finishes late), so each nonce is remembered; one found there is applied.
//   3. A record is applied only when the store has said `created`, or `exists` for bytes that carry its nonce: both
//      mean durable. Being readable alone does not (a killed or failed sync of the folder).
//
//   doubt        means                                          left by
//   none         the next number is free, as far as we know     put(): anything but `created` -> unsettled
//   unsettled    what is at the next number is not known        settle(): absent -> none; our nonce, durable -> none,
//                                                               applied; another nonce -> other_writer
//   other_writer somebody else appends to this log              only by opening it again
#include "varve/catalog/disk_log.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <random>
#include <span>
#include <utility>

#include "load.h"
#include "log_objects.h"
#include "replay.h"
#include "sealed_json.h"

namespace varve::catalog {
namespace {

constexpr std::uint64_t kMinCheckpointInterval = 8;
constexpr std::uint64_t kSnapshotsPerCheckpointRecord = 16;
/// Failed appends at one number whose late arrival would still be recognised; an older one would be taken for
/// another writer's, which is safe.
constexpr std::size_t kMaxAttempts = 16;

std::string new_nonce() {
  std::random_device random;
  return fmt::format("{:08x}{:08x}{:08x}{:08x}", random(), random(), random(), random());
}

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}

struct Attempt {
  Record record;
  std::string bytes;
};

enum class Doubt { none, unsettled, other_writer };

}  // namespace

std::uint64_t checkpoint_interval(std::size_t snapshots) {
  return std::max<std::uint64_t>(kMinCheckpointInterval, snapshots / kSnapshotsPerCheckpointRecord);
}

struct DiskLog::Implementation {
  Implementation(objects::ObjectStore& store, DiskId disk, LoadedLog loaded)
      : objects(store), id(disk), replay(std::move(loaded.replay)), newest_checkpoint(loaded.checkpoint) {}

  Status append(Event event) VARVE_EXCLUDES(append_mutex, state_mutex);
  Status confirm() VARVE_EXCLUDES(append_mutex, state_mutex);
  Status checkpoint_if_due() VARVE_EXCLUDES(checkpoint_mutex, state_mutex);
  std::shared_ptr<const DiskState> state(std::uint64_t* number = nullptr) const VARVE_EXCLUDES(state_mutex);
  bool taken_by_other() VARVE_EXCLUDES(append_mutex);

  Result<Attempt> prepare(Event event) VARVE_REQUIRES(append_mutex);
  Result<std::optional<Record>> put(Attempt attempt) VARVE_REQUIRES(append_mutex);
  Result<std::optional<Record>> settle() VARVE_REQUIRES(append_mutex);
  void accept(const Record& record) VARVE_REQUIRES(append_mutex) VARVE_EXCLUDES(state_mutex);
  tl::unexpected<Error> unsettled(const std::string& why) VARVE_REQUIRES(append_mutex);
  tl::unexpected<Error> other_writer() const;

  std::uint64_t last() const VARVE_EXCLUDES(state_mutex);
  Status write_checkpoint(const std::string& name, const std::string& bytes);
  Status remove_old_checkpoints(std::uint64_t newest, std::uint64_t second);

  objects::ObjectStore& objects;
  const DiskId id;

  /// Held through an append's I/O: appends go one by one.
  Mutex append_mutex;
  Doubt doubt VARVE_GUARDED_BY(append_mutex) = Doubt::none;
  std::vector<Attempt> attempts VARVE_GUARDED_BY(append_mutex);
  bool confirmed VARVE_GUARDED_BY(append_mutex) = false;

  /// Never held through I/O: readers of the state wait for no append. Taken after append_mutex or checkpoint_mutex.
  /// `replay` changes only under both append_mutex and this.
  mutable Mutex state_mutex;
  Replay replay VARVE_GUARDED_BY(state_mutex);
  /// A copy of replay.state(), made when somebody asks; null after an append. Cheap: tables share what is in them.
  mutable std::shared_ptr<const DiskState> published VARVE_GUARDED_BY(state_mutex);

  /// Held through a checkpoint's I/O; appends go on meanwhile.
  Mutex checkpoint_mutex;
  std::uint64_t newest_checkpoint VARVE_GUARDED_BY(checkpoint_mutex);  ///< known to be good; 0: none
};

std::shared_ptr<const DiskState> DiskLog::Implementation::state(std::uint64_t* number) const {
  MutexLock lock(state_mutex);
  if (published == nullptr) published = std::make_shared<const DiskState>(replay.state());
  if (number != nullptr) *number = replay.last();
  return published;
}

std::uint64_t DiskLog::Implementation::last() const {
  MutexLock lock(state_mutex);
  return replay.last();
}

bool DiskLog::Implementation::taken_by_other() {
  MutexLock lock(append_mutex);
  return doubt == Doubt::other_writer;
}

tl::unexpected<Error> DiskLog::Implementation::unsettled(const std::string& why) {
  doubt = Doubt::unsettled;
  return fail(
      EIO, ErrorKind::latched,
      fmt::format("{}: it is not known whether this record was written ({}); nothing more is logged for disk {} "
                  "until it can be read",
                  record_object(id, last() + 1), why, id.value()));
}

tl::unexpected<Error> DiskLog::Implementation::other_writer() const {
  return fail(EIO, ErrorKind::latched,
              fmt::format("{}: this record was written by somebody else. The store is in use by another varve as well: "
                          "stop one of them, then mount again",
                          record_object(id, last() + 1)));
}

/// The record that goes to the next number, if it fits what is there.
Result<Attempt> DiskLog::Implementation::prepare(Event event) {
  Attempt attempt;
  {
    MutexLock lock(state_mutex);
    VARVE_TRY(replay.check(event));
    attempt.record.number = replay.last() + 1;
  }
  attempt.record.nonce = new_nonce();
  attempt.record.time = now();
  attempt.record.event = std::move(event);
  attempt.bytes = encode_record(id, attempt.record);
  if (attempt.bytes.size() > kMaxRecordSize.value() || !within_bounds(attempt.bytes)) {
    return fail_refused(E2BIG, fmt::format("a record of {} bytes for disk {} is too large: fewer or shorter xattrs fit",
                                           attempt.bytes.size(), id.value()));
  }
  return attempt;
}

void DiskLog::Implementation::accept(const Record& record) {
  {
    MutexLock lock(state_mutex);
    replay.apply(record);
    published.reset();
  }
  attempts.clear();
  doubt = Doubt::none;
  confirmed = true;
}

/// Puts a record at the next number. Returns the record that is there now (perhaps that of an earlier attempt) and was
/// applied, nothing when none of ours is and the store said why, or an error that leaves the log in doubt.
Result<std::optional<Record>> DiskLog::Implementation::put(Attempt attempt) {
  if (attempts.size() == kMaxAttempts) attempts.erase(attempts.begin());
  const Record record = attempt.record;
  attempts.push_back(std::move(attempt));
  const auto outcome = objects.put_if_absent(record_object(id, record.number), bytes_of(attempts.back().bytes));
  if (outcome && *outcome == objects::PutOutcome::created) {
    accept(record);
    return record;
  }
  doubt = Doubt::unsettled;
  VARVE_TRY_ASSIGN(auto found, settle());
  if (found) return found;
  if (!outcome) return tl::unexpected(outcome.error());
  return fail_system(EIO, record_object(id, record.number) + ": there when written, absent when read");
}

/// Finds out what is at the next number. Returns the record of ours that is there, applied now; nothing when the
/// number is free.
Result<std::optional<Record>> DiskLog::Implementation::settle() {
  const std::uint64_t number = last() + 1;
  const auto found = read_record(objects, id, number);
  if (!found && found.error().code == ENOENT) {
    doubt = Doubt::none;
    return std::optional<Record>{};
  }
  if (!found) return unsettled(found.error().message);
  const auto ours = std::ranges::find(attempts, found->nonce, [](const Attempt& one) { return one.record.nonce; });
  if (ours == attempts.end()) {
    doubt = Doubt::other_writer;
    return other_writer();
  }
  // It can be read, but that says nothing about the next power loss: only the store's answer to a put does.
  const auto durable = objects.put_if_absent(record_object(id, number), bytes_of(ours->bytes));
  if (!durable) return unsettled(durable.error().message);
  const Record record = ours->record;
  accept(record);
  return std::optional<Record>(record);
}

Status DiskLog::Implementation::append(Event event) {
  const std::string wanted = event_text(event);
  MutexLock lock(append_mutex);
  // Each turn but the last settles an earlier attempt, and those are cleared by the first: two turns, three at most.
  for (;;) {
    std::optional<Record> done;
    if (doubt == Doubt::other_writer) return other_writer();
    if (doubt == Doubt::unsettled) {
      VARVE_TRY_ASSIGN(done, settle());
    } else {
      VARVE_TRY_ASSIGN(Attempt attempt, prepare(event));
      VARVE_TRY_ASSIGN(done, put(std::move(attempt)));
    }
    if (done && event_text(done->event) == wanted) return {};
  }
}

Status DiskLog::Implementation::confirm() {
  MutexLock lock(append_mutex);
  if (confirmed) return {};
  // Putting the last record once more makes the store look at it: `exists` is said of durable objects only, and what
  // makes one name of a folder durable makes the earlier ones durable, too.
  const std::string name = record_object(id, last());
  VARVE_TRY_ASSIGN(const auto bytes, read_object(objects, name, kMaxRecordSize));
  VARVE_TRY(objects.put_if_absent(name, bytes));
  confirmed = true;
  return {};
}

Status DiskLog::Implementation::checkpoint_if_due() {
  MutexLock lock(checkpoint_mutex);
  {
    MutexLock state_lock(state_mutex);
    if (replay.last() - newest_checkpoint < checkpoint_interval(replay.state().snapshots.size())) return {};
  }
  std::uint64_t number = 0;
  const auto current = state(&number);
  const std::string bytes = encode_checkpoint(*current, number);
  if (bytes.size() > kMaxCheckpointSize.value() || !within_bounds(bytes)) {
    return fail_refused(
        EFBIG, fmt::format("the state of disk {} is too large for a checkpoint ({} bytes)", id.value(), bytes.size()));
  }
  VARVE_TRY(write_checkpoint(checkpoint_object(id, number), bytes));
  const std::uint64_t second = std::exchange(newest_checkpoint, number);
  return remove_old_checkpoints(number, second);
}

/// A checkpoint is derived: one that is there and not what it should be is replaced.
Status DiskLog::Implementation::write_checkpoint(const std::string& name, const std::string& bytes) {
  VARVE_TRY_ASSIGN(objects::PutOutcome outcome, objects.put_if_absent(name, bytes_of(bytes)));
  if (outcome == objects::PutOutcome::created) return {};
  const auto there = read_object(objects, name, kMaxCheckpointSize);
  if (there && std::ranges::equal(*there, bytes_of(bytes))) return {};
  VARVE_TRY(objects.remove(name));
  VARVE_TRY_ASSIGN(outcome, objects.put_if_absent(name, bytes_of(bytes)));
  if (outcome == objects::PutOutcome::created) return {};
  return fail_system(EEXIST, name);
}

/// Removes all before `newest` but `second`, damaged ones included: what is kept is known to be good.
Status DiskLog::Implementation::remove_old_checkpoints(std::uint64_t newest, std::uint64_t second) {
  VARVE_TRY_ASSIGN(const auto numbers, list_numbers(objects, checkpoint_folder(id)));
  for (const std::uint64_t number : numbers) {
    if (number < newest && number != second) VARVE_TRY(objects.remove(checkpoint_object(id, number)));
  }
  return {};
}

// ---- the public face ------------------------------------------------------------------------------------------------

DiskLog::DiskLog(std::unique_ptr<Implementation> implementation) : implementation_(std::move(implementation)) {}
DiskLog::~DiskLog() = default;

Result<std::unique_ptr<DiskLog>> DiskLog::open(objects::ObjectStore& objects, DiskId id) {
  VARVE_TRY_ASSIGN(LoadedLog loaded, load_log(objects, id));
  return std::unique_ptr<DiskLog>(new DiskLog(std::make_unique<Implementation>(objects, id, std::move(loaded))));
}

Result<std::unique_ptr<DiskLog>> DiskLog::create(objects::ObjectStore& objects, DiskId id, const std::string& name,
                                                 const Attributes& directory) {
  const auto taken = [&] { return fail_refused(EEXIST, fmt::format("disk id {} was used before", id.value())); };
  if (id.value() == 0 || id.value() >= kIdLimit) {
    return fail_refused(EINVAL, fmt::format("there can be no disk id {}", id.value()));
  }
  VARVE_TRY_ASSIGN(const auto checkpoints, list_numbers(objects, checkpoint_folder(id)));
  VARVE_TRY_ASSIGN(const auto records, list_numbers(objects, log_folder(id)));
  if (!checkpoints.empty() || !records.empty()) return taken();
  auto implementation = std::make_unique<Implementation>(objects, id, LoadedLog{Replay(id), 0});
  if (auto status = implementation->append(Created{name, directory}); !status) {
    if (implementation->taken_by_other()) return taken();
    return tl::unexpected(std::move(status).error());
  }
  return std::unique_ptr<DiskLog>(new DiskLog(std::move(implementation)));
}

Result<std::vector<DiskId>> DiskLog::list(objects::ObjectStore& objects) {
  constexpr std::size_t kDigits = 8;
  VARVE_TRY_ASSIGN(const auto folders, objects.list_folders(kDisksFolder));
  std::vector<DiskId> ids;
  for (const std::string& folder : folders) {
    const DiskId id{parse_number(folder, kDigits)};
    if (id.value() != 0) ids.push_back(id);
  }
  std::ranges::sort(ids);
  return ids;
}

std::shared_ptr<const DiskState> DiskLog::state() const {
  return implementation_->state();
}
Status DiskLog::confirm() {
  return implementation_->confirm();
}

Status DiskLog::append_snapshot(const SnapshotEntry& entry) {
  return implementation_->append(SnapshotLogged{std::make_shared<const SnapshotEntry>(entry)});
}
Status DiskLog::append_deleted(SnapshotId id) {
  return implementation_->append(SnapshotDeleted{id});
}
Status DiskLog::append_snapshot_renamed(SnapshotId id, const std::string& name) {
  return implementation_->append(SnapshotRenamed{id, name});
}
Status DiskLog::append_snapshot_attributes(SnapshotId id, const Attributes& directory, const Attributes& image) {
  return implementation_->append(SnapshotAttributes{id, directory, image});
}
Status DiskLog::append_snapshot_care(SnapshotId id, const std::string& name, const Care& care) {
  return implementation_->append(SnapshotCare{id, name, care});
}
Status DiskLog::append_limits(const Limits& limits) {
  return implementation_->append(DiskLimits{limits});
}
Status DiskLog::append_hidden(bool hidden) {
  return implementation_->append(DiskHidden{hidden});
}
Status DiskLog::append_disk_renamed(const std::string& name) {
  return implementation_->append(DiskRenamed{name});
}
Status DiskLog::append_disk_attributes(const Attributes& directory, const Attributes& live_image) {
  return implementation_->append(DiskAttributes{directory, live_image});
}
Status DiskLog::append_removed() {
  return implementation_->append(DiskRemoved{});
}
Status DiskLog::checkpoint_if_due() {
  return implementation_->checkpoint_if_due();
}

}  // namespace varve::catalog
