#include "disk_entry.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "attributes.h"
#include "varve/catalog/names.h"
#include "varve/core/log.h"

namespace varve::store {
namespace {

using catalog::quoted;

constexpr std::size_t kMaxOpenImages = 64;
constexpr std::size_t kMovesPerSlice = 64;
/// Commits that fail for chunks which cannot be read, before those are committed as damaged (rule 10): with the pauses of
/// Background half a minute. A cable that was out for a moment must not cost a snapshot anything for good.
constexpr int kUnreadableAttempts = 6;

std::string live_directory(DiskId id) { return fmt::format("live/{:08}", id.value()); }

tl::unexpected<Error> no_snapshot(std::string_view what) {
  return fail(ENOENT, ErrorKind::absent, fmt::format("there is no snapshot {}", what));
}

}  // namespace

DiskEntry::DiskEntry(Services& services, std::unique_ptr<catalog::DiskLog> log, std::function<void()> commit_wanted)
    : services_(services),
      id_(log->state()->id),
      log_(std::move(log)),
      commit_wanted_(std::move(commit_wanted)),
      uses_(std::make_shared<ImageUses>()),
      names_(*services.quota, id_) {}

DiskEntry::~DiskEntry() = default;

Result<std::shared_ptr<DiskEntry>> DiskEntry::open(Services& services, std::unique_ptr<catalog::DiskLog> log,
                                                   disk::LiveDiskOptions options, std::function<void()> commit_wanted) {
  std::shared_ptr<DiskEntry> entry(new DiskEntry(services, std::move(log), std::move(commit_wanted)));
  const DiskId id = entry->id_;
  options.before_size = [quota = services.quota.get(), id](ByteCount size) { return quota->reserve_live(id, size); };
  options.after_size = [quota = services.quota.get(), id](ByteCount size) { quota->set_live(id, size); };
  auto live = disk::LiveDisk::open(*services.storage, *services.maps, live_directory(entry->id_), entry->id_,
                                   services.chunks->geometry(), *services.base, options);
  if (!live) return tl::unexpected(live.error().in("disk " + quoted(entry->log_->state()->name)));
  entry->live_ = std::move(*live);
  services.quota->set_live(id, entry->live_->info().size);
  services.quota->set_limits(id, entry->log_->state()->limits);
  entry->settle_pending();
  for (const auto& info : entry->all_snapshots()) entry->note_end(info);
  entry->registration_ = services.registry.add(*entry);
  return entry;
}

/// Rules 4 and 5: what the log has is complete, whatever the journal still says. A pending snapshot at or below the
/// high-water mark that the log has not was deleted; it does not return from the dead. What cannot be settled now (a full
/// store) is left to the commits: it is invisible, and the disk is served.
void DiskEntry::settle_pending() {
  MutexLock lock(operations_);
  for (const auto& pending : live_->pending()) {
    if (pending.id > log_->state()->high_water) break;
    if (auto settled = settle_logged(pending.id); !settled) {
      log::warning("disk {}: what became of snapshot number {} is settled later: {}", quoted(name()),
                   pending.id.value(), settled.error().message);
      break;
    }
  }
  const auto state = log_->state();
  next_id_ = SnapshotId{std::max(state->high_water.value(), live_->high_water().value()) + 1};
  Time newest = state->created;
  for (const auto& [id, entry] : state->snapshots) newest = std::max(newest, entry->time);
  for (const auto& pending : live_->pending()) newest = std::max(newest, pending.time);
  modified_ = newest.nanoseconds;
  read_names();
}

/// A pending snapshot at or below the high-water mark leaves the live side.
Status DiskEntry::settle_logged(SnapshotId id) {
  VARVE_TRY(log_->confirm());
  if (log_->state()->snapshots.contains(id)) return settle_one(id);
  return live_->drop_pending(id);
}

void DiskEntry::read_names() {
  SnapshotNames::Table table;
  for (const auto& info : all_snapshots()) {
    if (!info.care.trashed) table.emplace(info.name, NamedSnapshot{info.id, info.size});
  }
  names_.replace(std::move(table));
}

/// Finds out what became of an append that failed: names depend on it.
Status DiskEntry::settle_log() {
  if (!log_in_doubt_) return {};
  const auto state = log_->state();
  // Any append settles first; this one changes nothing.
  return logged([&] { return log_->append_disk_attributes(state->directory, state->live_image); });
}

Status DiskEntry::refuse_name_in_use(const std::string& snapshot) {
  VARVE_TRY(settle_log());
  if (!names_.find(snapshot)) return {};
  return fail_refused(EEXIST, fmt::format("disk number {} has a snapshot {} already", id_.value(), quoted(snapshot)));
}

std::string DiskEntry::name() const {
  {
    MutexLock lock(alias_mutex_);
    if (!alias_.empty()) return alias_;
  }
  return log_->state()->name;
}

void DiskEntry::serve_as(const std::string& alias) {
  MutexLock lock(alias_mutex_);
  alias_ = alias;
}
Time DiskEntry::created() const { return log_->state()->created; }
Time DiskEntry::modified() const { return Time{modified_.load()}; }
void DiskEntry::touch() { modified_ = now().nanoseconds; }

Status DiskEntry::refuse_if_removed() const {
  if (removed_) return fail(ENOENT, ErrorKind::absent, fmt::format("disk {} was removed", quoted(name())));
  return {};
}

// --- attributes ---

Attributes DiskEntry::directory_attributes() const { return log_->state()->directory; }
Attributes DiskEntry::image_attributes() const { return log_->state()->live_image; }

Status DiskEntry::change_directory_attributes(const std::function<Status(Attributes&)>& change) {
  MutexLock lock(operations_);
  VARVE_TRY(refuse_if_removed());
  const auto state = log_->state();
  Attributes changed = state->directory;
  VARVE_TRY(change(changed));
  if (changed == state->directory) return {};
  return logged([&] { return log_->append_disk_attributes(changed, state->live_image); });
}

Status DiskEntry::change_image_attributes(const std::function<Status(Attributes&)>& change) {
  MutexLock lock(operations_);
  VARVE_TRY(refuse_if_removed());
  const auto state = log_->state();
  Attributes changed = state->live_image;
  VARVE_TRY(change(changed));
  if (changed == state->live_image) return {};
  return logged([&] { return log_->append_disk_attributes(state->directory, changed); });
}

Status DiskEntry::change_snapshot_attributes(SnapshotId id, const std::function<Status(Attributes&)>& change) {
  MutexLock lock(operations_);
  VARVE_TRY(refuse_if_removed());
  const auto state = log_->state();
  if (const auto it = state->snapshots.find(id); it != state->snapshots.end()) {
    Attributes changed = it->second->directory;
    VARVE_TRY(change(changed));
    return logged([&] { return log_->append_snapshot_attributes(id, changed, it->second->image); });
  }
  const auto pending = find_pending(id);
  if (!pending) return no_snapshot(fmt::format("number {}", id.value()));
  VARVE_TRY_ASSIGN(auto attributes, decode_pending_attributes(pending->attributes));
  VARVE_TRY(change(attributes.directory));
  return live_->update_pending(id, pending->name, encode(attributes));
}

// --- live image ---

Status DiskEntry::create_image(const Attributes& attributes) {
  MutexLock lock(operations_);
  VARVE_TRY(refuse_if_removed());
  if (live_->exists()) {
    return fail_refused(EEXIST, fmt::format("disk {} has a live image already", quoted(name())));
  }
  VARVE_TRY(logged([&] { return log_->append_disk_attributes(log_->state()->directory, attributes); }));
  VARVE_TRY(live_->create_image());
  touch();
  return {};
}

Status DiskEntry::remove_image() {
  VARVE_TRY(refuse_if_removed());
  const auto closed = uses_->keep_live_closed(kLateReleaseWait);
  if (closed == nullptr) {
    return fail_refused(EBUSY, fmt::format("the live image of {} is in use; close it first (a loop device: losetup -d)",
                                           quoted(name())));
  }
  MutexLock lock(operations_);
  VARVE_TRY(refuse_if_removed());
  VARVE_TRY(live_->remove_image());
  ++services_.garbage;
  parent_may_be_gone_ = true;
  touch();
  return {};
}

Status DiskEntry::resize_image(ByteCount size, const ImageUse* own_use) {
  VARVE_TRY(refuse_if_removed());
  if (size >= live_->info().size) return live_->resize(size);
  const auto closed = uses_->keep_writers_out(own_use != nullptr ? 1 : 0, kLateReleaseWait);
  if (closed == nullptr) {
    return fail_refused(EBUSY, fmt::format("the live image of {} is open for writing elsewhere; it may grow meanwhile "
                                           "but not shrink",
                                           quoted(name())));
  }
  return live_->resize(size);
}

Result<ImageUse> DiskEntry::use_image(bool for_writing) {
  // Without operations_: that is held through the syncs of a snapshot, and an open is answered by a thread that must
  // not wait for those. Looked at last: whoever removes the image keeps it closed until it is gone.
  ImageUse use = uses_->use_live(for_writing);
  VARVE_TRY(refuse_if_removed());
  if (live_->exists()) return use;
  return fail(ENOENT, ErrorKind::absent, fmt::format("disk {} has no live image", quoted(name())));
}

Status DiskEntry::replace_image(const catalog::SnapshotEntry& snapshot) {
  const auto closed = uses_->keep_writers_out(0, kLateReleaseWait);
  if (closed == nullptr) {
    return fail_refused(EBUSY, fmt::format("the live image of {} is open for writing; stop what uses it first",
                                           quoted(name())));
  }
  MutexLock lock(operations_);
  VARVE_TRY(refuse_if_removed());
  if (!live_->exists()) {
    VARVE_TRY(logged([&] { return log_->append_disk_attributes(log_->state()->directory, snapshot.image); }));
  }
  VARVE_TRY(live_->replace(snapshot.size, chunks::to_opaque(snapshot.root)));
  ++services_.garbage;
  touch();
  return {};
}

// --- snapshots: looking ---

SnapshotInfo DiskEntry::describe(const catalog::SnapshotEntry& entry) {
  SnapshotInfo info;
  info.id = entry.id;
  info.parent = entry.parent;
  info.name = entry.name;
  info.state = SnapshotStateKind::complete;
  info.percent = 100;
  info.time = entry.time;
  info.image_modified = entry.image_modified;
  info.size = entry.size;
  info.incarnation = entry.incarnation;
  info.changed_bytes = entry.changed_bytes;
  info.stored_bytes = entry.stored_bytes;
  info.directory = entry.directory;
  info.image = entry.image;
  info.care = entry.care;
  return info;
}

SnapshotInfo DiskEntry::describe(const disk::PendingInfo& pending) const {
  SnapshotInfo info;
  info.id = pending.id;
  info.parent = pending.parent;
  info.name = pending.name;
  info.state = SnapshotStateKind::pending;
  info.time = pending.time;
  info.image_modified = pending.image_modified;
  info.size = pending.size;
  info.incarnation = pending.incarnation;
  info.changed_bytes = pending.changed_blocks * kBlockSize;
  if (auto attributes = decode_pending_attributes(pending.attributes)) {
    info.directory = std::move(attributes->directory);
    info.image = std::move(attributes->image);
    info.care = std::move(attributes->care);
  }
  MutexLock lock(commit_mutex_);
  if (committing_ == pending.id) {
    const auto total = progress_.chunks_total.load();
    const auto done = std::min(progress_.chunks_done.load(), total);
    // Never 100 while pending: the log record is still to come.
    info.percent = total == 0 ? 0 : static_cast<unsigned>(done * 99 / total);
  }
  return info;
}

std::optional<disk::PendingInfo> DiskEntry::find_pending(SnapshotId id) const { return live_->find_pending(id); }

std::vector<SnapshotInfo> DiskEntry::snapshots() const {
  auto all = all_snapshots();
  std::erase_if(all, [](const SnapshotInfo& info) { return info.care.trashed.has_value(); });
  return all;
}

std::vector<SnapshotInfo> DiskEntry::all_snapshots() const {
  // Pending first (invariant 1): one that moves between the two looks is seen twice, never not at all.
  const auto pending = live_->pending();
  const auto state = log_->state();
  std::vector<SnapshotInfo> all;
  all.reserve(state->snapshots.size() + pending.size());
  for (const auto& [id, entry] : state->snapshots) all.push_back(describe(*entry));
  for (const auto& one : pending) {
    if (one.id > state->high_water) all.push_back(describe(one));
  }
  return all;
}

std::size_t DiskEntry::snapshot_count() const { return names_.size(); }

Result<SnapshotInfo> DiskEntry::find_snapshot(std::string_view name) const {
  const auto id = names_.find(name);
  if (!id) return no_snapshot(fmt::format("{} of {}", quoted(name), quoted(this->name())));
  return snapshot(*id);
}

Result<SnapshotInfo> DiskEntry::snapshot(SnapshotId id) const {
  auto info = any_snapshot(id);
  if (!info || !info->care.trashed) return info;
  return no_snapshot(fmt::format("number {} of {}: it is in the trash", id.value(), quoted(name())));
}

Result<SnapshotInfo> DiskEntry::any_snapshot(SnapshotId id) const {
  auto state = log_->state();
  if (const auto it = state->snapshots.find(id); it != state->snapshots.end()) return describe(*it->second);
  // Pending first (invariant 1), and the log once more; an id at or below its high-water mark never is pending.
  const auto pending = id > state->high_water ? find_pending(id) : std::nullopt;
  state = log_->state();
  if (const auto it = state->snapshots.find(id); it != state->snapshots.end()) return describe(*it->second);
  if (pending && id > state->high_water) return describe(*pending);
  return no_snapshot(fmt::format("number {} of {}", id.value(), quoted(name())));
}

Result<std::shared_ptr<const catalog::SnapshotEntry>> DiskEntry::complete(SnapshotId id) const {
  auto state = log_->state();
  if (const auto it = state->snapshots.find(id); it != state->snapshots.end()) return it->second;
  const bool is_pending = id > state->high_water && find_pending(id).has_value();
  state = log_->state();
  if (const auto it = state->snapshots.find(id); it != state->snapshots.end()) return it->second;
  if (is_pending && id > state->high_water) {
    return fail(EAGAIN, ErrorKind::refused, fmt::format("snapshot {} of {} is not complete yet", id.value(),
                                                        quoted(name())));
  }
  return no_snapshot(fmt::format("number {} of {}", id.value(), quoted(name())));
}

// --- snapshots: changing ---

SnapshotId DiskEntry::parent_of_next() const {
  const auto incarnation = live_->info().incarnation;
  const auto pending = live_->newest_pending();
  if (pending && pending->incarnation == incarnation) return pending->id;
  const auto state = log_->state();
  for (auto it = state->snapshots.rbegin(); it != state->snapshots.rend(); ++it) {
    if (it->second->incarnation == incarnation) return it->first;
  }
  return SnapshotId{0};
}

Result<SnapshotInfo> DiskEntry::take_snapshot(const std::string& name, const Attributes& directory) {
  return take(name, directory, {}, Limited::yes);
}

Result<SnapshotInfo> DiskEntry::take(const std::string& name, const Attributes& directory, const std::string& policy,
                                     Limited limited) {
  VARVE_TRY(catalog::validate_name(name, catalog::NameKind::snapshot));
  MutexLock lock(operations_);
  VARVE_TRY(refuse_if_removed());
  VARVE_TRY(refuse_name_in_use(name));
  if (!live_->exists()) {
    return fail(ENODATA, ErrorKind::absent,
                fmt::format("disk {} has no live image to take a snapshot of; create its disk.img first",
                            quoted(this->name())));
  }
  const ByteCount size = live_->info().size;
  Quota::Place place;
  if (limited == Limited::yes) {
    auto taken = services_.quota->take_place(id_, size);
    if (!taken) return tl::unexpected(taken.error().in("disk " + quoted(this->name())));
    place.take(std::move(*taken));
  }
  const SnapshotId id = next_id_;
  Care care;
  care.policy = policy;
  const std::string attributes = encode({directory, log_->state()->live_image, std::move(care)});
  // Used up even if the freeze fails: the journal may have seen it.
  next_id_ = SnapshotId{id.value() + 1};
  auto pending = live_->freeze(id, parent_of_next(), name, attributes);
  if (!pending) return tl::unexpected(std::move(pending).error());
  if (limited == Limited::yes && pending->size > size) {
    // It grew since it was counted, and one that is larger may not be allowed.
    if (auto more = services_.quota->enlarge(place, pending->size); !more) {
      VARVE_TRY(on_live([&] { return live_->drop_pending(id); }));
      return tl::unexpected(more.error().in("disk " + quoted(this->name())));
    }
  }
  names_.add(name, {id, pending->size}, std::move(place));
  touch();
  commit_wanted_();
  return describe(*pending);
}

/// After this returns no commit of `id` runs, and none starts until the caller spares it.
void DiskEntry::doom(SnapshotId id) {
  MutexLock lock(commit_mutex_);
  doomed_.insert(id);
  if (committing_ == id) cancel_ = true;
  while (committing_ == id) commit_ended_.wait(commit_mutex_);
}

void DiskEntry::spare(SnapshotId id) {
  {
    MutexLock lock(commit_mutex_);
    doomed_.erase(doomed_.find(id));
  }
  if (live_->pending_count() > 0) commit_wanted_();
}

Status DiskEntry::delete_snapshot(SnapshotId id) {
  return delete_while(id, [](const SnapshotInfo&) { return true; });
}

Status DiskEntry::delete_while(SnapshotId id, const StillWanted& wanted) {
  VARVE_TRY_ASSIGN(const SnapshotInfo info, any_snapshot(id));
  VARVE_TRY(refuse_if_held(info, name()));
  const auto closed = uses_->keep_snapshot_closed(id, kLateReleaseWait);
  if (closed == nullptr) {
    return fail_refused(EBUSY, fmt::format("the image of snapshot {} of {} is open; close or unmount it first",
                                           quoted(info.name), quoted(name())));
  }
  doom(id);
  auto removed = remove_closed_snapshot(id, wanted);
  spare(id);
  return removed;
}

Status DiskEntry::remove_closed_snapshot(SnapshotId id, const StillWanted& wanted) {
  MutexLock lock(operations_);
  VARVE_TRY(refuse_if_removed());
  VARVE_TRY_ASSIGN(const SnapshotInfo info, any_snapshot(id));
  VARVE_TRY(refuse_if_held(info, name()));
  if (!wanted(info)) {
    return fail_refused(ECANCELED, fmt::format("snapshot {} of {} stays: it was changed meanwhile", quoted(info.name),
                                               quoted(name())));
  }
  if (info.state == SnapshotStateKind::complete) {
    // Logged but not yet let go by the live side: its root must be P, durably, before the log forgets it (rule 4).
    if (find_pending(id)) VARVE_TRY(settle_one(id));
    if (unsettled_.contains(id)) {
      VARVE_TRY(live_->flush());
      unsettled_.clear();
    }
    VARVE_TRY(services_.reserve->spend([&]() VARVE_NO_ANALYSIS {
      return logged([&] { return log_->append_deleted(id); });
    }));
  } else {
    VARVE_TRY(on_live([&] { return live_->drop_pending(id); }));
  }
  names_.remove(info.name, id);
  forget_image(id);
  ++services_.garbage;
  parent_may_be_gone_ = true;
  touch();
  return {};
}

Status DiskEntry::settle_one(SnapshotId id) {
  const auto state = log_->state();
  const auto it = state->snapshots.find(id);
  if (it == state->snapshots.end()) return {};
  auto settled = live_->committed(id, chunks::to_opaque(it->second->root));
  // It is gone from the live side's memory all the same, perhaps: but not for good.
  if (!settled) unsettled_.insert(id);
  return settled;
}

Status DiskEntry::rename_snapshot(SnapshotId id, const std::string& name) {
  VARVE_TRY(catalog::validate_name(name, catalog::NameKind::snapshot));
  MutexLock lock(operations_);
  VARVE_TRY(refuse_if_removed());
  VARVE_TRY_ASSIGN(const SnapshotInfo info, snapshot(id));
  if (info.name == name) return {};
  VARVE_TRY(refuse_name_in_use(name));
  if (info.state == SnapshotStateKind::complete) {
    VARVE_TRY(logged([&] { return log_->append_snapshot_renamed(id, name); }));
  } else {
    const auto pending = find_pending(id);
    if (!pending) return no_snapshot(quoted(info.name));
    VARVE_TRY(on_live([&] { return live_->update_pending(id, name, pending->attributes); }));
  }
  names_.rename(info.name, name);
  touch();
  return {};
}

Result<ImageUse> DiskEntry::use_snapshot(SnapshotId id) {
  // As use_image(): not under operations_, and looked at last.
  ImageUse use = uses_->use_snapshot(id);
  VARVE_TRY(refuse_if_removed());
  VARVE_TRY(snapshot(id));
  return use;
}

// --- snapshots: reading ---

Result<std::shared_ptr<snapshot::SnapshotImage>> DiskEntry::image_of(SnapshotId id) {
  {
    MutexLock lock(images_mutex_);
    if (const auto it = images_.find(id); it != images_.end()) return it->second;
  }
  VARVE_TRY_ASSIGN(const auto entry, complete(id));
  auto image = std::make_shared<snapshot::SnapshotImage>(*services_.chunks, entry->root, entry->size,
                                                         *services_.prefetchers);
  MutexLock lock(images_mutex_);
  // Deleted meanwhile: whoever does that forgets the image after the log has, so it must not come back behind that.
  if (!log_->state()->snapshots.contains(id)) return no_snapshot(fmt::format("number {}", id.value()));
  if (images_.size() >= kMaxOpenImages) images_.erase(images_.begin());
  return images_.emplace(id, std::move(image)).first->second;
}

tl::unexpected<Error> DiskEntry::log_damage(SnapshotId id, ByteOffset at, Error error) const {
  if (error.code == EIO) {
    const auto info = snapshot(id);
    log::error("disk {}, snapshot {}, offset {}: {}", quoted(name()), info ? quoted(info->name) : "?", at.value(),
               error.message);
  }
  return tl::unexpected(std::move(error));
}

Result<std::size_t> DiskEntry::read_snapshot(SnapshotId id, ByteOffset at, std::span<std::byte> out) {
  return on_snapshot<std::size_t>(
      id, at, [&](snapshot::SnapshotImage& image) { return image.read(at, out); },
      [&] { return live_->read_pending(id, at, out); });
}

Result<ByteOffset> DiskEntry::seek_snapshot(SnapshotId id, ByteOffset at, bool data) {
  return on_snapshot<ByteOffset>(
      id, at, [&](snapshot::SnapshotImage& image) { return image.seek(at, data); },
      [&] { return live_->seek_pending(id, at, data); });
}

bool DiskEntry::snapshot_cached(SnapshotId id, ByteOffset at, ByteCount count) {
  std::shared_ptr<snapshot::SnapshotImage> image;
  {
    MutexLock lock(images_mutex_);
    const auto it = images_.find(id);
    if (it == images_.end()) return false;
    image = it->second;
  }
  return image->cached(at, count);
}

template <class T, class FromImage, class FromPending>
Result<T> DiskEntry::on_snapshot(SnapshotId id, ByteOffset at, FromImage from_image, FromPending from_pending) {
  // A snapshot may become complete between the two looks; it never goes the other way.
  for (int attempt = 0;; ++attempt) {
    auto image = image_of(id);
    if (image) {
      Result<T> done = from_image(**image);
      return done ? std::move(done) : Result<T>(log_damage(id, at, std::move(done).error()));
    }
    if (image.error().code != EAGAIN) return tl::unexpected(std::move(image).error());
    Result<T> done = from_pending();
    if (done) return done;
    if (done.error().code != ENOENT || attempt > 0) return log_damage(id, at, std::move(done).error());
  }
}

// --- commit ---

/// The oldest pending snapshot, if it may be committed now. Chosen under the lock that doom() takes: what is dropped
/// after the look is not committed.
std::optional<disk::PendingInfo> DiskEntry::begin_commit() {
  MutexLock lock(commit_mutex_);
  if (removed_ || committing_ != SnapshotId{0}) return std::nullopt;
  auto oldest = live_->oldest_pending();
  if (!oldest || doomed_.contains(oldest->id)) return std::nullopt;
  committing_ = oldest->id;
  cancel_ = false;
  progress_.chunks_done = 0;
  progress_.chunks_total = 0;
  progress_.met_unreadable = false;
  return oldest;
}

void DiskEntry::end_commit() {
  {
    MutexLock lock(commit_mutex_);
    committing_ = SnapshotId{0};
  }
  commit_ended_.notify_all();
}

Result<bool> DiskEntry::commit_one() {
  const auto oldest = begin_commit();
  if (!oldest) return false;
  auto done = commit(*oldest);
  end_commit();
  if (!done) return tl::unexpected(std::move(done).error());
  return true;
}

/// Nothing is committed that could not be logged; and what the log has needs no commit.
Result<bool> DiskEntry::settle_before_commit(SnapshotId id) {
  MutexLock lock(operations_);
  VARVE_TRY(settle_log());
  if (id > log_->state()->high_water) return true;
  VARVE_TRY(settle_logged(id));
  return false;
}

Status DiskEntry::commit(const disk::PendingInfo& oldest) {
  VARVE_TRY_ASSIGN(const bool wanted, settle_before_commit(oldest.id));
  if (!wanted) return {};
  auto hold = std::make_unique<chunks::RootRegistry::Hold>(services_.registry);
  const auto committed = snapshot::commit_oldest(*live_, oldest, *services_.chunks, *hold, *services_.encoders, progress_,
                                                 [this] { return cancel_ || services_.stopping; },
                                                 patience_with(oldest.id));
  if (!committed) {
    ++services_.garbage;  // what it wrote
    if (progress_.met_unreadable) note_unreadable(oldest.id);
    return tl::unexpected(committed.error());
  }
  return hand_over(oldest, *committed, hold);
}

snapshot::Unreadable DiskEntry::patience_with(SnapshotId id) {
  MutexLock lock(commit_mutex_);
  const bool enough = unreadable_ == id && unreadable_attempts_ >= kUnreadableAttempts;
  return enough ? snapshot::Unreadable::keep_as_damaged : snapshot::Unreadable::fail;
}

void DiskEntry::note_unreadable(SnapshotId id) {
  MutexLock lock(commit_mutex_);
  if (unreadable_ != id) unreadable_attempts_ = 0;
  unreadable_ = id;
  ++unreadable_attempts_;
}

/// The durable order's last steps: log record, then the live side makes its root P and lets go of the pins.
Status DiskEntry::hand_over(const disk::PendingInfo& frozen, const snapshot::Committed& committed,
                            std::unique_ptr<chunks::RootRegistry::Hold>& hold) {
  MutexLock lock(operations_);
  const auto pending = find_pending(frozen.id);
  if (!pending) return {};
  if (!log_->state()->snapshots.contains(frozen.id)) {
    VARVE_TRY_ASSIGN(auto attributes, decode_pending_attributes(pending->attributes));
    catalog::SnapshotEntry entry;
    entry.id = pending->id;
    entry.parent = pending->parent;
    entry.name = pending->name;
    entry.time = pending->time;
    entry.image_modified = pending->image_modified;
    entry.size = pending->size;
    entry.incarnation = pending->incarnation;
    entry.root = committed.root;
    entry.changed_bytes = committed.changed_bytes;
    entry.stored_bytes = committed.stored_bytes;
    entry.directory = std::move(attributes.directory);
    entry.image = std::move(attributes.image);
    entry.care = std::move(attributes.care);
    auto appended = logged([&] { return log_->append_snapshot(entry); });
    if (!appended) {
      // Invariant 5.
      if (log_in_doubt_) doubtful_.push_back(std::move(hold));
      return appended;
    }
  }
  if (committed.damaged_chunks > 0) {
    log::error("disk {}, snapshot {}: {} chunks could not be read from the live image and are committed as damaged",
               quoted(name()), quoted(pending->name), committed.damaged_chunks);
  }
  return settle_one(frozen.id);
}

// --- roots, upkeep, the end ---

void DiskEntry::visit_roots(const std::function<void(const chunks::MaybeRef&)>& visit) {
  std::vector<OpaqueRoot> live_roots;
  std::shared_ptr<const catalog::DiskState> state;
  {
    // One instant: no snapshot moves between the two while operations_ is held. A splice may, but it holds its root.
    MutexLock lock(operations_);
    live_roots = live_->roots();
    state = log_->state();
  }
  for (const auto& root : live_roots) visit(chunks::from_opaque(root));
  for (const auto& [id, entry] : state->snapshots) visit(entry->root);
}

Result<bool> DiskEntry::upkeep() {
  VARVE_TRY_ASSIGN(const bool more, tidy_live());
  VARVE_TRY(let_parent_fall_back());
  return more;
}

Result<bool> DiskEntry::tidy_live() {
  MutexLock lock(upkeep_mutex_);
  if (removed_) return false;
  VARVE_TRY_ASSIGN(const std::size_t moved, live_->move_home(kMovesPerSlice));
  // A Home that was left after the last seal is not free before the next (rule 1), and a guest that went quiet brings
  // none: its detours would stay for ever.
  if (moved == 0 && !live_->latched() && live_->counters().detour_chunks > 0) VARVE_TRY(live_->flush());
  VARVE_TRY(live_->tidy());
  services_.reserve->fill();
  VARVE_TRY(log_->checkpoint_if_due());
  return moved > 0 || live_->counters().unswept_chunks > 0;
}

Status DiskEntry::rename(const std::string& name) {
  MutexLock lock(operations_);
  VARVE_TRY(refuse_if_removed());
  VARVE_TRY(logged([&] { return log_->append_disk_renamed(name); }));
  MutexLock lock_alias(alias_mutex_);
  alias_.clear();
  return {};
}

bool DiskEntry::empty() const { return !live_->exists() && snapshots().empty(); }

Status DiskEntry::remove() {
  MutexLock lock(operations_);
  VARVE_TRY(refuse_if_removed());
  if (!empty() || !trash().empty()) {
    return fail_refused(ENOTEMPTY, fmt::format("disk {} still has a live image or snapshots; remove those first",
                                               quoted(name())));
  }
  return remove_files();
}

Status DiskEntry::discard() {
  MutexLock lock(operations_);
  VARVE_TRY(refuse_if_removed());
  return remove_files();
}

Status DiskEntry::remove_files() {
  // An attempt that failed may have been settled since: then it is there.
  if (!log_->state()->removed) {
    VARVE_TRY(services_.reserve->spend([&]() VARVE_NO_ANALYSIS {
      return logged([&] { return log_->append_removed(); });
    }));
  }
  MutexLock upkeep(upkeep_mutex_);
  removed_ = true;
  services_.quota->forget(id_);
  ++services_.garbage;
  // The log is the truth from here on; what is left of the files is swept at the next mount if this fails.
  if (auto closed = live_->close(); !closed) log::warning("disk {}: {}", quoted(name()), closed.error().message);
  if (auto swept = remove_live_files(*services_.storage, id_); !swept) {
    log::warning("disk {}: {}; the next mount removes what is left", quoted(name()), swept.error().message);
  }
  return {};
}

Status DiskEntry::close() {
  MutexLock lock(upkeep_mutex_);
  if (removed_) return {};
  auto closed = live_->close();
  return closed ? Status{} : Status(tl::unexpected(closed.error().in("disk " + quoted(name()))));
}

Status remove_live_files(os::Storage& storage, DiskId id) {
  const std::string directory = live_directory(id);
  auto entries = storage.list(directory);
  if (!entries) return entries.error().code == ENOENT ? Status{} : Status(tl::unexpected(std::move(entries).error()));
  for (const auto& entry : *entries) VARVE_TRY(storage.remove(directory + "/" + entry.name));
  VARVE_TRY(storage.remove_directory(directory));
  return storage.sync_directory("live");
}

}  // namespace varve::store
