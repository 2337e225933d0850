// Inode numbers. Documented in varve(8), section FILES: they are stable across mounts, and never reused, because disk
// ids, snapshot ids and incarnations only grow. The number alone says what it names, so the kernel may forget and ask
// again, and a daemon that was started anew understands what the old one gave out.
//
//     63            32 31                2 1 0
//    +----------------+-------------------+---+
//    |    disk id     | snapshot id or    | k |      k = 0 disk directory    (middle part 0)
//    |   (not zero)   | incarnation       |   |          1 live image        (incarnation)
//    +----------------+-------------------+---+          2 snapshot directory
//                                                        3 snapshot image
//    below 2^32: 1 root, 2 .varve, 3 .varve/status.json, 4 .varve/metrics
#pragma once

#include <cstdint>
#include <optional>

#include "varve/core/units.h"

namespace varve::fuse {

using Ino = std::uint64_t;

enum class NodeKind { root, control_directory, status_file, metrics_file, disk, live_image, snapshot, snapshot_image };

/// What an inode number says. Whether the thing exists is another question.
struct NodeId {
  NodeKind kind = NodeKind::root;
  DiskId disk;              ///< 0 for those of the root and .varve
  SnapshotId snapshot;      ///< snapshot and snapshot_image only
  Incarnation incarnation;  ///< live_image only
  friend bool operator==(const NodeId&, const NodeId&) = default;
};

constexpr Ino kRootIno = 1;
/// Ids at or above these have no inode number (EOVERFLOW): a snapshot a second for 34 years.
constexpr std::uint64_t kDiskIdLimit = std::uint64_t{1} << 32;
constexpr std::uint64_t kMinorIdLimit = std::uint64_t{1} << 30;

/// Nothing when an id is 0 where one is needed, or too large.
[[nodiscard]] std::optional<Ino> to_ino(const NodeId& node);
/// Nothing for a number that is never given out.
[[nodiscard]] std::optional<NodeId> from_ino(Ino ino);

[[nodiscard]] constexpr bool is_directory(NodeKind kind) {
  return kind == NodeKind::root || kind == NodeKind::control_directory || kind == NodeKind::disk ||
         kind == NodeKind::snapshot;
}

}  // namespace varve::fuse
