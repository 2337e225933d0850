// stat, chmod and their kin, extended attributes, statfs.
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include <algorithm>

#include "filesystem.h"
#include "varve/catalog/names.h"
#include "xattrs.h"

namespace varve::fuse {
namespace {

constexpr std::uint32_t kPermissionBits = 07777;
/// Extents of a snapshot that are counted for real_blocks; what lies behind counts as data.
constexpr unsigned kMaxExtents = 4096;
/// Snapshots whose allocation is remembered, 48 bytes each.
constexpr std::size_t kMaxAllocated = 100'000;
constexpr int kTimes =
    FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_ATIME_NOW | FUSE_SET_ATTR_MTIME_NOW | FUSE_SET_ATTR_CTIME;

/// The bytes of a snapshot that are data, by its extents. Errors count as data: whoever reads it will meet them.
ByteCount count_data(store::Disk& disk, const store::SnapshotInfo& snapshot) {
  ByteCount data{0};
  ByteOffset at{0};
  for (unsigned i = 0; i < kMaxExtents; ++i) {
    const auto begin = disk.seek_snapshot(snapshot.id, at, true);
    if (!begin && begin.error().code == ENXIO) return data;
    const auto end = begin ? disk.seek_snapshot(snapshot.id, *begin, false) : begin;
    if (!end || *end <= *begin) break;
    data += *end - *begin;
    at = *end;
  }
  return at.value() >= snapshot.size.value() ? data : data + (ByteOffset{snapshot.size.value()} - at);
}

/// The kernel may keep what only it or our notifications change. What the control files show changes by itself, and who
/// may look at them with the root's modes.
double timeout_of(const Node& node) {
  switch (node.id.kind) {
    case NodeKind::control_directory:
    case NodeKind::status_file:
    case NodeKind::metrics_file:
      return 0;
    default:
      return kTimeout;
  }
}

/// A new owner of a file never gets the privileges of the old one.
void change_owner_and_mode(store::Attributes& attributes, const struct stat& wanted, int which, bool is_image) {
  if ((which & FUSE_SET_ATTR_UID) != 0) attributes.owner = wanted.st_uid;
  if ((which & FUSE_SET_ATTR_GID) != 0) attributes.group = wanted.st_gid;
  if ((which & FUSE_SET_ATTR_MODE) != 0) {
    attributes.mode = wanted.st_mode & kPermissionBits;
  } else if (is_image) {
    attributes.mode = without_privileges(attributes.mode);
  }
}

}  // namespace

// --- stat ---

std::uint64_t Filesystem::links_of(const Node& node) {
  constexpr std::uint64_t kOwn = 2;  // its name and its "."
  if (node.id.kind == NodeKind::root) return kOwn + store_.disks().size();
  if (node.id.kind != NodeKind::disk) return kOwn;
  const Time modified = node.disk->modified();
  {
    MutexLock lock(mutex_);
    const auto it = links_.find(node.id.disk);
    if (it != links_.end() && it->second.modified == modified) return it->second.links;
  }
  const std::uint64_t links = kOwn + node.disk->snapshot_count();
  MutexLock lock(mutex_);
  links_[node.id.disk] = {modified, links};
  return links;
}

bool Filesystem::is_slow_to_stat(const Node& node) {
  if (!real_blocks_ || node.id.kind != NodeKind::snapshot_image) return false;
  MutexLock lock(mutex_);
  return !allocated_.contains({node.id.disk, node.id.snapshot});
}

ByteCount Filesystem::allocated_of(const Node& node) {
  if (!real_blocks_ || node.id.kind != NodeKind::snapshot_image) return node.snapshot.size;
  const auto key = std::pair(node.id.disk, node.id.snapshot);
  {
    MutexLock lock(mutex_);
    const auto it = allocated_.find(key);
    if (it != allocated_.end()) return it->second;
  }
  const ByteCount counted = count_data(*node.disk, node.snapshot);
  MutexLock lock(mutex_);
  if (allocated_.size() >= kMaxAllocated) allocated_.clear();
  allocated_[key] = counted;
  return counted;
}

struct stat Filesystem::stat_of(const Node& node) {
  StatExtras extras;
  if (is_directory(node.id.kind)) extras.links = links_of(node);
  if (node.id.kind == NodeKind::snapshot_image) extras.snapshot_allocated = allocated_of(node);
  return to_stat(store_, node, extras);
}

fuse_entry_param Filesystem::entry_of(const Node& node) {
  fuse_entry_param entry{};
  entry.ino = node.ino();
  entry.attr = stat_of(node);
  entry.attr_timeout = timeout_of(node);
  entry.entry_timeout = kTimeout;
  return entry;
}

void Filesystem::get_attributes(Request request, Ino ino) {
  const auto node = find_node(store_, ino);
  if (!node) return fail(request, node.error());
  if (!is_slow_to_stat(*node)) return request.attributes(stat_of(*node), timeout_of(*node));
  later(snapshots_, std::move(request),
        [this, node = *node](Request& held) { held.attributes(stat_of(node), kTimeout); });
}

// --- chmod, chown, truncate, utimensat ---

Status Filesystem::change_attributes(const Node& node, const std::function<Status(store::Attributes&)>& change) {
  switch (node.id.kind) {
    case NodeKind::root:
      return store_.change_root_attributes(change);
    case NodeKind::disk:
      return node.disk->change_directory_attributes(change);
    case NodeKind::live_image:
      return node.disk->change_image_attributes(change);
    case NodeKind::snapshot:
      return node.disk->change_snapshot_attributes(node.id.snapshot, change);
    case NodeKind::snapshot_image:
      return fail_refused(EROFS, describe(node) + " can't be changed");
    default:
      return fail_refused(EPERM, describe(node) + " belongs to the store");
  }
}

Status Filesystem::apply_attributes(const Node& node, const struct stat& wanted, int which, bool kills_privileges,
                                    const store::ImageUse* own_use) {
  const bool is_live = node.id.kind == NodeKind::live_image;
  if ((which & FUSE_SET_ATTR_SIZE) != 0) {
    if (!is_live) return fail_refused(EROFS, describe(node) + " can't be resized");
    if (wanted.st_size < 0) return fail_refused(EINVAL, "a size can't be negative");
    VARVE_TRY(node.disk->resize_image(ByteCount{static_cast<std::uint64_t>(wanted.st_size)}, own_use));
  }
  if ((which & (FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)) != 0) {
    VARVE_TRY(change_attributes(node, [&](store::Attributes& attributes) -> Status {
      change_owner_and_mode(attributes, wanted, which, is_live);
      return {};
    }));
  }
  if (kills_privileges && is_live) VARVE_TRY(clear_privileges(*node.disk));
  if ((which & kTimes) == 0) return {};
  if (is_live && (which & (FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_MTIME_NOW)) != 0) {
    const bool is_now = (which & FUSE_SET_ATTR_MTIME_NOW) != 0;
    return node.disk->live().set_modified(is_now ? now() : Time::from_timespec(wanted.st_mtim));
  }
  if (node.id.kind == NodeKind::snapshot || node.id.kind == NodeKind::snapshot_image) {
    return fail_refused(EROFS, "the time of " + describe(node) + " is the instant it stands for");
  }
  // The times of other directories follow their content. Not an error: cp -a and rsync -a set them.
  return {};
}

void Filesystem::set_attributes(Request request, Ino ino, const struct stat& wanted, int which,
                                const fuse_file_info* info) {
  const auto* file = info != nullptr ? &HandleSet<OpenFile>::get(info->fh) : nullptr;
  const auto* own_use = file != nullptr && file->writable ? &file->use : nullptr;
  // A shrink may wait for a RELEASE on its way.
  auto& pool = (which & FUSE_SET_ATTR_SIZE) != 0 ? vacate_ : control_;
  later(pool, std::move(request), [this, ino, wanted, which, own_use](Request& held) {
    auto node = find_node(store_, ino);
    if (!node) return fail(held, node.error());
    const Ino directory = node->disk != nullptr ? disk_node(node->disk).map(&Node::ino).value_or(0) : 0;
    const auto applied = apply_attributes(*node, wanted, which, held.kills_privileges(), own_use);
    if (!applied) return fail(held, applied.error(), directory);
    node = find_node(store_, ino);
    if (!node) return fail(held, node.error());
    held.attributes(stat_of(*node), kTimeout);
  });
}

// --- extended attributes ---

namespace {

/// As getxattr(2) and listxattr(2) want it: the size alone when none was given.
void answer_sized(Request& request, std::string_view value, std::size_t size) {
  if (size == 0) return request.xattr_size(value.size());
  if (value.size() > size) return request.fail(ERANGE);
  request.text(value);
}

}  // namespace

void Filesystem::get_xattr(Request request, Ino ino, const std::string& name, std::size_t size) {
  const XattrSpace space = space_of(name);
  // At once: kernels without FUSE_HANDLE_KILLPRIV_V2 ask for security.capability before each write.
  if (space == XattrSpace::other) return request.fail(EOPNOTSUPP);
  const auto node = find_node(store_, ino);
  if (!node) return fail(request, node.error());
  if (space == XattrSpace::varve && is_counted(*node, name)) {
    later(control_, std::move(request), [this, node = *node, name, size](Request& held) {
      const auto value = counted_value(store_, node, name);
      value ? answer_sized(held, *value, size) : fail(held, value.error(), node.ino());
    });
    return;
  }
  if (space == XattrSpace::varve) {
    const auto value = computed_value(store_, *node, name, last_refusal(ino));
    return value ? answer_sized(request, *value, size) : request.fail(ENODATA);
  }
  const auto attributes = attributes_of(store_, *node);
  const auto it = attributes.xattrs.find(name);
  return it != attributes.xattrs.end() ? answer_sized(request, it->second, size) : request.fail(ENODATA);
}

void Filesystem::list_xattr(Request request, Ino ino, std::size_t size) {
  const auto node = find_node(store_, ino);
  if (!node) return fail(request, node.error());
  answer_sized(request, list_xattrs(attributes_of(store_, *node)), size);
}

void Filesystem::set_xattr(Request request, Ino ino, const std::string& name, std::string value, int flags) {
  const auto node = find_node(store_, ino);
  if (!node) return fail(request, node.error());
  if (steers(node->id.kind, name)) return steer_snapshot(std::move(request), *node, name, std::move(value), flags);
  if (space_of(name) != XattrSpace::user) return fail(request, why_not_settable(node->id.kind, name));
  later(control_, std::move(request), [this, node = *node, name, value = std::move(value), flags](Request& held) {
    finish(held, change_attributes(node, [&](store::Attributes& attributes) {
             return set_user_xattr(attributes, name, value, flags);
           }));
  });
}

void Filesystem::steer_snapshot(Request request, const Node& node, const std::string& name,
                                std::optional<std::string> value, int flags) {
  later(control_, std::move(request), [this, node, name, value = std::move(value), flags](Request& held) {
    finish(held, node.disk->change_snapshot_care(node.id.snapshot, [&](store::Care& care) {
             return steer(care, name, value, flags, now());
           }), node.ino());
  });
}

void Filesystem::remove_xattr(Request request, Ino ino, const std::string& name) {
  const auto node = find_node(store_, ino);
  if (!node) return fail(request, node.error());
  if (steers(node->id.kind, name)) return steer_snapshot(std::move(request), *node, name, std::nullopt, 0);
  if (space_of(name) != XattrSpace::user) return fail(request, why_not_settable(node->id.kind, name));
  later(control_, std::move(request), [this, node = *node, name](Request& held) {
    finish(held,
           change_attributes(node, [&](store::Attributes& attributes) { return remove_user_xattr(attributes, name); }));
  });
}

// --- statfs ---

void Filesystem::filesystem_status(Request request) {
  const auto capacity = store_.capacity();
  if (!capacity) return fail(request, capacity.error());
  struct statvfs status {};
  // A loop device takes the block size for its discard granularity.
  status.f_bsize = status.f_frsize = kBlockSize;
  status.f_blocks = capacity->total.value() / kBlockSize;
  status.f_bfree = capacity->free.value() / kBlockSize;
  status.f_bavail = capacity->available.value() / kBlockSize;
  status.f_namemax = catalog::kMaxNameSize;
  request.filesystem(status);
}

}  // namespace varve::fuse
