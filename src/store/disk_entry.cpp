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

constexpr std::size_t kMovesPerSlice = 256;

std::string live_directory(DiskId id) {
  return fmt::format("live/{:08}", id.value());
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
/// high-water mark that the log has not was deleted; it does not return from the dead. What cannot be settled now (a
/// full store) is left to the commits: it is invisible, and the disk is served.
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
Time DiskEntry::created() const {
  return log_->state()->created;
}
Time DiskEntry::modified() const {
  return Time{modified_.load()};
}
void DiskEntry::touch() {
  modified_ = now().nanoseconds;
}

Status DiskEntry::refuse_if_removed() const {
  if (removed_) return fail(ENOENT, ErrorKind::absent, fmt::format("disk {} was removed", quoted(name())));
  return {};
}

// --- attributes ---

Attributes DiskEntry::directory_attributes() const {
  return log_->state()->directory;
}
Attributes DiskEntry::image_attributes() const {
  return log_->state()->live_image;
}

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
    return fail_refused(
        EBUSY, fmt::format("the live image of {} is open for writing; stop what uses it first", quoted(name())));
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
  auto moved = live_->move_home(kMovesPerSlice, services_.movers.get());
  // A Home that was left after the last seal is not free before the next (rule 1), and a guest that went quiet brings
  // none: its detours would stay for ever.
  if (moved && *moved == 0 && !live_->latched() && live_->counters().detour_chunks > 0) VARVE_TRY(live_->flush());
  // Also when a detour could not be moved, perhaps for want of the very space that this gives back.
  const Status tidied = live_->tidy();
  services_.reserve->fill();
  VARVE_TRY(moved);
  VARVE_TRY(tidied);
  VARVE_TRY(log_->checkpoint_if_due());
  const auto counters = live_->counters();
  return *moved > 0 || counters.unswept_chunks > 0 || counters.surplus_slots > 0;
}

Status DiskEntry::rename(const std::string& name) {
  MutexLock lock(operations_);
  VARVE_TRY(refuse_if_removed());
  VARVE_TRY(logged([&] { return log_->append_disk_renamed(name); }));
  MutexLock lock_alias(alias_mutex_);
  alias_.clear();
  return {};
}

bool DiskEntry::empty() const {
  return !live_->exists() && snapshots().empty();
}

Status DiskEntry::remove() {
  MutexLock lock(operations_);
  VARVE_TRY(refuse_if_removed());
  if (!empty() || !trash().empty()) {
    return fail_refused(ENOTEMPTY,
                        fmt::format("disk {} still has a live image or snapshots; remove those first", quoted(name())));
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
    VARVE_TRY(
        services_.reserve->spend([&]() VARVE_NO_ANALYSIS { return logged([&] { return log_->append_removed(); }); }));
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
