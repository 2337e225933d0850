#include "replay.h"

#include <fmt/format.h>

#include <cerrno>

#include "varve/catalog/names.h"

namespace varve::catalog {
namespace {

constexpr std::uint32_t kPermissionBits = 07777;
/// The kernel's limits (XATTR_NAME_MAX, XATTR_SIZE_MAX): nothing longer can have been set.
constexpr std::size_t kMaxXattrName = 255;
constexpr std::size_t kMaxXattrValue = 64 * kKiB;

Status check_attributes(const Attributes& attributes) {
  if ((attributes.mode & ~kPermissionBits) != 0) {
    return fail_refused(EINVAL, fmt::format("mode {:o} has more than permission bits", attributes.mode));
  }
  for (const auto& [name, value] : attributes.xattrs) {
    if (!name.starts_with("user.") || name.size() > kMaxXattrName || name.find('\0') != std::string::npos) {
      return fail_refused(EINVAL, fmt::format("{} cannot be the name of an xattr", quoted(name)));
    }
    if (value.size() > kMaxXattrValue) {
      return fail_refused(
          E2BIG, fmt::format("the xattr {} has {} bytes, {} are allowed", quoted(name), value.size(), kMaxXattrValue));
    }
  }
  return {};
}

}  // namespace

Result<Replay> Replay::from_checkpoint(DiskState state, std::uint64_t number) {
  Replay replay(state.id);
  DiskState& own = replay.state_;
  own.name = state.name;
  replay.last_ = number;
  const auto damaged = [](const Status& status) { return fail_damaged(status.error().message); };
  if (const auto status = validate_name(state.name, NameKind::disk); !status) return damaged(status);
  if (const auto status = check_attributes(state.directory); !status) return damaged(status);
  if (const auto status = check_attributes(state.live_image); !status) return damaged(status);
  // Ascending ids, so that each entry passes the same rules that its record passed.
  for (const auto& [id, entry] : state.snapshots) {
    const SnapshotLogged logged{entry};
    if (const auto status = replay.check(logged); !status) return damaged(status);
    replay.note(*entry);
  }
  if (own.high_water > state.high_water) {
    return fail_damaged(
        fmt::format("snapshot {} is above the high-water mark {}", own.high_water.value(), state.high_water.value()));
  }
  if (state.removed && !state.snapshots.empty()) return fail_damaged("the disk is removed but has snapshots");
  if (state.hidden && !replay.names_.empty()) {
    return fail_damaged("the disk is hidden but has snapshots that are not in the trash");
  }
  own = std::move(state);
  return replay;
}

Status Replay::check(const Event& event) const {
  if (state_.removed) {
    return fail_refused(ESTALE, fmt::format("disk {} ({}) is removed", quoted(state_.name), state_.id.value()));
  }
  const bool created = std::holds_alternative<Created>(event);
  if (created != (last_ == 0)) {
    return fail_refused(EINVAL, created ? "the disk was created before" : "the disk was not created");
  }
  return std::visit([this](const auto& one) { return check_event(one); }, event);
}

void Replay::apply(const Record& record) {
  std::visit([&](const auto& event) { take(event, record.time); }, record.event);
  last_ = record.number;
}

Status Replay::check_name(const std::string& name) const {
  VARVE_TRY(validate_name(name, NameKind::snapshot));
  if (names_.contains(name)) {
    return fail_refused(EEXIST, fmt::format("disk {} has a snapshot {} already", quoted(state_.name), quoted(name)));
  }
  return {};
}

Status Replay::check_exists(SnapshotId id) const {
  if (state_.snapshots.contains(id)) return {};
  return fail_refused(ENOENT, fmt::format("disk {} has no snapshot with id {}", quoted(state_.name), id.value()));
}

Status Replay::check_event(const Created& event) const {
  VARVE_TRY(validate_name(event.name, NameKind::disk));
  return check_attributes(event.directory);
}

Status Replay::check_event(const SnapshotLogged& event) const {
  const SnapshotEntry& entry = *event.entry;
  if (entry.id <= state_.high_water || entry.id.value() >= kIdLimit) {
    return fail_refused(EINVAL, fmt::format("snapshot id {} is not above {}, the highest that disk {} ever had",
                                            entry.id.value(), state_.high_water.value(), quoted(state_.name)));
  }
  if (entry.parent >= entry.id) {
    return fail_refused(
        EINVAL, fmt::format("snapshot {} cannot come before its parent {}", entry.id.value(), entry.parent.value()));
  }
  if (entry.size.value() > kMaxChunkSize * kMaxChunksPerImage || entry.incarnation.value() >= kIdLimit) {
    return fail_refused(EINVAL, fmt::format("snapshot {} has an impossible size ({} bytes) or incarnation ({})",
                                            entry.id.value(), entry.size.value(), entry.incarnation.value()));
  }
  if (entry.care.trashed) {
    VARVE_TRY(validate_name(entry.name, NameKind::snapshot));
  } else {
    VARVE_TRY(refuse_if_hidden());
    VARVE_TRY(check_name(entry.name));
  }
  VARVE_TRY(validate(entry.care));
  VARVE_TRY(check_attributes(entry.directory));
  return check_attributes(entry.image);
}

Status Replay::check_event(const SnapshotDeleted& event) const {
  return check_exists(event.id);
}

Status Replay::refuse_if_hidden() const {
  if (!state_.hidden) return {};
  return fail_refused(ENOENT, fmt::format("disk {} is in the trash", quoted(state_.name)));
}

Status Replay::check_event(const SnapshotCare& event) const {
  VARVE_TRY(check_exists(event.id));
  VARVE_TRY(validate(event.care));
  const SnapshotEntry& entry = *state_.snapshots.at(event.id);
  const bool named_so = !entry.care.trashed && entry.name == event.name;
  if (event.care.trashed || named_so) return validate_name(event.name, NameKind::snapshot);
  VARVE_TRY(refuse_if_hidden());
  return check_name(event.name);
}

Status Replay::check_event(const DiskLimits&) const {
  return {};
}

Status Replay::check_event(const DiskHidden& event) const {
  if (!event.hidden || names_.empty()) return {};
  return fail_refused(ENOTEMPTY, fmt::format("disk {} still has {} snapshots", quoted(state_.name), names_.size()));
}

Status Replay::check_event(const SnapshotRenamed& event) const {
  VARVE_TRY(check_exists(event.id));
  if (state_.snapshots.at(event.id)->care.trashed) {
    return fail_refused(ENOENT, fmt::format("snapshot {} of disk {} is in the trash", event.id.value(), quoted(state_.name)));
  }
  return check_name(event.name);
}

Status Replay::check_event(const SnapshotAttributes& event) const {
  VARVE_TRY(check_exists(event.id));
  VARVE_TRY(check_attributes(event.directory));
  return check_attributes(event.image);
}

Status Replay::check_event(const DiskRenamed& event) const {
  return validate_name(event.name, NameKind::disk);
}

Status Replay::check_event(const DiskAttributes& event) const {
  VARVE_TRY(check_attributes(event.directory));
  return check_attributes(event.live_image);
}

Status Replay::check_event(const DiskRemoved&) const {
  if (state_.snapshots.empty()) return {};
  return fail_refused(ENOTEMPTY,
                      fmt::format("disk {} still has {} snapshots", quoted(state_.name), state_.snapshots.size()));
}

void Replay::take(const Created& event, Time time) {
  state_.name = event.name;
  state_.directory = event.directory;
  state_.created = time;
}

/// What later records are checked against.
void Replay::note(const SnapshotEntry& entry) {
  if (!entry.care.trashed) names_.insert(entry.name);
  state_.high_water = entry.id;
}

void Replay::replace(const SnapshotEntry& old, SnapshotEntry changed) {
  if (!old.care.trashed) names_.erase(old.name);
  if (!changed.care.trashed) names_.insert(changed.name);
  const SnapshotId id = old.id;
  state_.snapshots.set(id, std::make_shared<const SnapshotEntry>(std::move(changed)));
}

void Replay::take(const SnapshotLogged& event, Time) {
  note(*event.entry);
  state_.snapshots.set(event.entry->id, event.entry);
}

void Replay::take(const SnapshotDeleted& event, Time) {
  const SnapshotEntry& entry = *state_.snapshots.at(event.id);
  if (!entry.care.trashed) names_.erase(entry.name);
  state_.snapshots.erase(event.id);
}

void Replay::take(const SnapshotRenamed& event, Time) {
  const SnapshotEntry& entry = *state_.snapshots.at(event.id);
  SnapshotEntry changed = entry;
  changed.name = event.name;
  replace(entry, std::move(changed));
}

void Replay::take(const SnapshotAttributes& event, Time) {
  const SnapshotEntry& entry = *state_.snapshots.at(event.id);
  SnapshotEntry changed = entry;
  changed.directory = event.directory;
  changed.image = event.image;
  replace(entry, std::move(changed));
}

void Replay::take(const SnapshotCare& event, Time) {
  const SnapshotEntry& entry = *state_.snapshots.at(event.id);
  SnapshotEntry changed = entry;
  changed.name = event.name;
  changed.care = event.care;
  replace(entry, std::move(changed));
}

void Replay::take(const DiskLimits& event, Time) {
  state_.limits = event.limits;
}

void Replay::take(const DiskHidden& event, Time) {
  state_.hidden = event.hidden;
}

void Replay::take(const DiskRenamed& event, Time) {
  state_.name = event.name;
}

void Replay::take(const DiskAttributes& event, Time) {
  state_.directory = event.directory;
  state_.live_image = event.live_image;
}

void Replay::take(const DiskRemoved&, Time) {
  state_.removed = true;
}

}  // namespace varve::catalog
