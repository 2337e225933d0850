#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "attributes.h"
#include "disk_entry.h"
#include "varve/catalog/names.h"
#include "varve/core/buffer.h"
#include "varve/core/log.h"

namespace varve::store {
namespace {

using catalog::quoted;

constexpr std::size_t kMaxOpenImages = 64;

tl::unexpected<Error> no_snapshot(std::string_view what) {
  return fail(ENOENT, ErrorKind::absent, fmt::format("there is no snapshot {}", what));
}

}  // namespace

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

std::optional<disk::PendingInfo> DiskEntry::find_pending(SnapshotId id) const {
  return live_->find_pending(id);
}

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

std::size_t DiskEntry::snapshot_count() const {
  return names_.size();
}

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
    return fail(EAGAIN, ErrorKind::refused,
                fmt::format("snapshot {} of {} is not complete yet", id.value(), quoted(name())));
  }
  return no_snapshot(fmt::format("number {} of {}", id.value(), quoted(name())));
}

// --- snapshots: changing ---

SnapshotId DiskEntry::parent_of_next() const {
  const auto incarnation = live_->info().incarnation;
  const auto pending = live_->newest_pending();
  if (pending && pending->incarnation == incarnation) return pending->id;
  const auto state = log_->state();
  // Both numbers only grow: behind one of an earlier image come only such.
  for (auto it = state->snapshots.rbegin(); it != state->snapshots.rend(); ++it) {
    if (it->second->incarnation == incarnation) return it->first;
    if (it->second->incarnation < incarnation) break;
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
    return fail_refused(
        ECANCELED, fmt::format("snapshot {} of {} stays: it was changed meanwhile", quoted(info.name), quoted(name())));
  }
  if (info.state == SnapshotStateKind::complete) {
    // Logged but not yet let go by the live side: its root must be P, durably, before the log forgets it (rule 4).
    if (find_pending(id)) VARVE_TRY(settle_one(id));
    if (unsettled_.contains(id)) {
      VARVE_TRY(live_->flush());
      unsettled_.clear();
    }
    VARVE_TRY(
        services_.reserve->spend([&]() VARVE_NO_ANALYSIS { return logged([&] { return log_->append_deleted(id); }); }));
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
  auto image =
      std::make_shared<snapshot::SnapshotImage>(*services_.chunks, entry->root, entry->size, *services_.prefetchers);
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

Result<ByteView> DiskEntry::view_snapshot(SnapshotId id, ByteOffset at, ByteCount count) {
  return on_snapshot<ByteView>(
      id, at, [&](snapshot::SnapshotImage& image) { return image.view(at, count); },
      [&] { return view_pending(id, at, count); });
}

/// A pending snapshot's bytes are in nobody's cache.
Result<ByteView> DiskEntry::view_pending(SnapshotId id, ByteOffset at, ByteCount count) {
  ByteView view;
  const auto read_into = [&](std::span<std::byte> out, std::shared_ptr<const void> keeper) -> Status {
    VARVE_TRY_ASSIGN(const std::size_t got, live_->read_pending(id, at, out));
    view.add(out.first(got), std::move(keeper));
    return {};
  };
  const auto lease = std::make_shared<BufferPool::Lease>(services_.pending_reads.take());
  if (count.value() <= lease->span().size()) {
    VARVE_TRY(read_into(lease->span().first(count.value()), lease));
  } else {
    const auto larger = std::make_shared<AlignedBuffer>(count.value());
    VARVE_TRY(read_into(larger->span(), larger));
  }
  return view;
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

}  // namespace varve::store
