#include "varve/fuse/inode.h"

namespace varve::fuse {
namespace {

constexpr unsigned kKindBits = 2;
constexpr unsigned kDiskShift = 32;
constexpr Ino kKindMask = (Ino{1} << kKindBits) - 1;
constexpr Ino kMinorMask = kMinorIdLimit - 1;
static_assert(kMinorIdLimit << kKindBits == Ino{1} << kDiskShift);

enum KindBits : Ino { kDiskDirectory = 0, kLiveImage = 1, kSnapshotDirectory = 2, kSnapshotImage = 3 };

std::optional<Ino> pack(DiskId disk, std::uint64_t minor, KindBits kind) {
  if (disk.value() == 0 || disk.value() >= kDiskIdLimit || minor >= kMinorIdLimit) return std::nullopt;
  if ((kind == kDiskDirectory) != (minor == 0)) return std::nullopt;
  return disk.value() << kDiskShift | minor << kKindBits | kind;
}

}  // namespace

std::optional<Ino> to_ino(const NodeId& node) {
  switch (node.kind) {
    case NodeKind::root:
      return kRootIno;
    case NodeKind::control_directory:
      return 2;
    case NodeKind::status_file:
      return 3;
    case NodeKind::metrics_file:
      return 4;
    case NodeKind::disk:
      return pack(node.disk, 0, kDiskDirectory);
    case NodeKind::live_image:
      return pack(node.disk, node.incarnation.value(), kLiveImage);
    case NodeKind::snapshot:
      return pack(node.disk, node.snapshot.value(), kSnapshotDirectory);
    case NodeKind::snapshot_image:
      return pack(node.disk, node.snapshot.value(), kSnapshotImage);
  }
  return std::nullopt;
}

std::optional<NodeId> from_ino(Ino ino) {
  if (ino >> kDiskShift == 0) {
    switch (ino) {
      case kRootIno:
        return NodeId{.kind = NodeKind::root, .disk = {}, .snapshot = {}, .incarnation = {}};
      case 2:
        return NodeId{.kind = NodeKind::control_directory, .disk = {}, .snapshot = {}, .incarnation = {}};
      case 3:
        return NodeId{.kind = NodeKind::status_file, .disk = {}, .snapshot = {}, .incarnation = {}};
      case 4:
        return NodeId{.kind = NodeKind::metrics_file, .disk = {}, .snapshot = {}, .incarnation = {}};
      default:
        return std::nullopt;
    }
  }
  NodeId node;
  node.disk = DiskId{ino >> kDiskShift};
  const std::uint64_t minor = ino >> kKindBits & kMinorMask;
  const Ino kind = ino & kKindMask;
  if ((kind == kDiskDirectory) != (minor == 0)) return std::nullopt;
  switch (kind) {
    case kDiskDirectory:
      node.kind = NodeKind::disk;
      break;
    case kLiveImage:
      node.kind = NodeKind::live_image;
      node.incarnation = Incarnation{minor};
      break;
    default:
      node.kind = kind == kSnapshotDirectory ? NodeKind::snapshot : NodeKind::snapshot_image;
      node.snapshot = SnapshotId{minor};
      break;
  }
  return node;
}

}  // namespace varve::fuse
