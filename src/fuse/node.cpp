#include "node.h"

#include <fmt/format.h>

#include "varve/catalog/names.h"

namespace varve::fuse {
namespace {

constexpr std::uint32_t kPermissionBits = 07777;
constexpr std::uint64_t kStatBlock = 512;

tl::unexpected<Error> gone(Ino ino) {
  return fail(ESTALE, ErrorKind::absent, fmt::format("inode {} is gone", ino));
}

tl::unexpected<Error> no_entry(std::string_view name) {
  return fail(ENOENT, ErrorKind::absent, fmt::format("there is no {} here", catalog::quoted(name)));
}

/// A thing whose id is beyond what an inode number can say exists, but nobody can get at it through the mount.
Result<Node> checked(Node node) {
  if (!to_ino(node.id)) {
    return fail(EOVERFLOW, ErrorKind::system,
                fmt::format("{} has an id too large for an inode number", describe(node)));
  }
  return node;
}

Node plain(NodeKind kind) {
  Node node;
  node.id.kind = kind;
  return node;
}

/// The control files are found by name and need no disk.
Result<Node> find_control_child(std::string_view name) {
  if (name == kStatusName) return plain(NodeKind::status_file);
  if (name == kMetricsName) return plain(NodeKind::metrics_file);
  return no_entry(name);
}

Result<Node> find_disk_child(const std::shared_ptr<store::Disk>& disk, std::string_view name) {
  if (name == catalog::kImageName) return live_image_node(disk);
  VARVE_TRY_ASSIGN(auto snapshot, disk->find_snapshot(name));
  return snapshot_node(disk, std::move(snapshot), NodeKind::snapshot);
}

Result<Node> find_on_disk(const NodeId& id, std::shared_ptr<store::Disk> disk, Ino ino) {
  if (id.kind == NodeKind::disk) return disk_node(std::move(disk));
  if (id.kind == NodeKind::live_image) {
    auto node = live_image_node(std::move(disk));
    if (!node || node->id.incarnation != id.incarnation) return gone(ino);
    return node;
  }
  auto snapshot = disk->snapshot(id.snapshot);
  if (!snapshot) return gone(ino);
  return snapshot_node(std::move(disk), std::move(*snapshot), id.kind);
}

timespec changed_at(const store::Store& store, const Node& node) {
  switch (node.id.kind) {
    case NodeKind::disk:
      return node.disk->modified().to_timespec();
    case NodeKind::snapshot:
      return node.snapshot.time.to_timespec();
    case NodeKind::snapshot_image:
      return node.snapshot.image_modified.to_timespec();
    case NodeKind::live_image:
      return node.image.modified.to_timespec();
    case NodeKind::status_file:
    case NodeKind::metrics_file:
      return now().to_timespec();
    case NodeKind::root:
    case NodeKind::control_directory:
      break;
  }
  return store.root_modified().to_timespec();
}

void set_size(struct stat& out, ByteCount size, ByteCount allocated) {
  out.st_size = static_cast<off_t>(size.value());
  out.st_blocks = static_cast<blkcnt_t>((allocated.value() + kStatBlock - 1) / kStatBlock);
}

}  // namespace

Result<Node> disk_node(std::shared_ptr<store::Disk> disk) {
  Node node;
  node.id.kind = NodeKind::disk;
  node.id.disk = disk->id();
  node.disk = std::move(disk);
  return checked(std::move(node));
}

Result<Node> snapshot_node(std::shared_ptr<store::Disk> disk, store::SnapshotInfo snapshot, NodeKind kind) {
  Node node;
  node.id.kind = kind;
  node.id.disk = disk->id();
  node.id.snapshot = snapshot.id;
  node.disk = std::move(disk);
  node.snapshot = std::move(snapshot);
  return checked(std::move(node));
}

Result<Node> live_image_node(std::shared_ptr<store::Disk> disk) {
  Node node;
  node.image = disk->live().info();
  if (!node.image.exists) {
    return fail(ENOENT, ErrorKind::absent, fmt::format("disk {} has no live image", catalog::quoted(disk->name())));
  }
  node.id.kind = NodeKind::live_image;
  node.id.disk = disk->id();
  node.id.incarnation = node.image.incarnation;
  node.disk = std::move(disk);
  return checked(std::move(node));
}

Result<Node> find_node(const store::Store& store, Ino ino) {
  const auto id = from_ino(ino);
  if (!id) return gone(ino);
  if (id->disk == DiskId{0}) return plain(id->kind);
  auto disk = store.disk(id->disk);
  if (!disk) return gone(ino);
  return find_on_disk(*id, std::move(*disk), ino);
}

Result<Node> find_child(const store::Store& store, const Node& directory, std::string_view name) {
  switch (directory.id.kind) {
    case NodeKind::root: {
      if (name == kControlName) return plain(NodeKind::control_directory);
      VARVE_TRY_ASSIGN(auto disk, store.find_disk(name));
      return disk_node(std::move(disk));
    }
    case NodeKind::control_directory:
      return find_control_child(name);
    case NodeKind::disk:
      return find_disk_child(directory.disk, name);
    case NodeKind::snapshot:
      if (name != catalog::kImageName) return no_entry(name);
      return snapshot_node(directory.disk, directory.snapshot, NodeKind::snapshot_image);
    default:
      return fail_refused(ENOTDIR, describe(directory) + " is not a directory");
  }
}

store::Attributes attributes_of(const store::Store& store, const Node& node) {
  switch (node.id.kind) {
    case NodeKind::disk:
      return node.disk->directory_attributes();
    case NodeKind::live_image:
      return node.disk->image_attributes();
    case NodeKind::snapshot:
      return node.snapshot.directory;
    case NodeKind::snapshot_image:
      return node.snapshot.image;
    case NodeKind::root:
      return store.root_attributes();
    default:
      break;
  }
  // They name disks and snapshots: whoever may list the root may look.
  store::Attributes attributes = store.root_attributes();
  attributes.mode &= node.id.kind == NodeKind::control_directory ? 0555 : 0444;
  attributes.xattrs.clear();
  return attributes;
}

std::string describe(const Node& node) {
  switch (node.id.kind) {
    case NodeKind::root:
      return "the root of the store";
    case NodeKind::disk:
      return "disk " + catalog::quoted(node.disk->name());
    case NodeKind::live_image:
      return "the live image of disk " + catalog::quoted(node.disk->name());
    case NodeKind::snapshot:
      return "snapshot " + catalog::quoted(node.disk->name() + "@" + node.snapshot.name);
    case NodeKind::snapshot_image:
      return "the image of snapshot " + catalog::quoted(node.disk->name() + "@" + node.snapshot.name);
    default:
      return std::string(kControlName);
  }
}

struct stat to_stat(const store::Store& store, const Node& node, const StatExtras& extras) {
  struct stat out {};
  const store::Attributes attributes = attributes_of(store, node);
  out.st_ino = node.ino();
  out.st_mode = (is_directory(node.id.kind) ? S_IFDIR : S_IFREG) | (attributes.mode & kPermissionBits);
  out.st_uid = attributes.owner;
  out.st_gid = attributes.group;
  out.st_nlink = is_directory(node.id.kind) ? extras.links : 1;
  out.st_blksize = static_cast<blksize_t>(kBlockSize);
  out.st_mtim = out.st_ctim = out.st_atim = changed_at(store, node);
  if (node.id.kind == NodeKind::live_image) set_size(out, node.image.size, node.image.allocated);
  if (node.id.kind == NodeKind::snapshot_image) set_size(out, node.snapshot.size, extras.snapshot_allocated);
  return out;
}

}  // namespace varve::fuse
