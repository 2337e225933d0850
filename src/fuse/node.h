// What a name or an inode number stands for, and how stat(2) shows it.
#pragma once

#include <sys/stat.h>

#include <memory>
#include <string_view>

#include "varve/fuse/inode.h"
#include "varve/store/store.h"

namespace varve::fuse {

constexpr std::string_view kControlName = ".varve";
constexpr std::string_view kStatusName = "status.json";
constexpr std::string_view kMetricsName = "metrics";

/// An existing thing. Of what it refers to, it holds what it was when it was found.
struct Node {
  NodeId id;
  std::shared_ptr<store::Disk> disk;  ///< null for the root and .varve
  store::SnapshotInfo snapshot;       ///< snapshot and snapshot_image only
  disk::ImageInfo image;              ///< live_image only

  [[nodiscard]] Ino ino() const { return to_ino(id).value_or(0); }
};

/// ESTALE when it is gone.
[[nodiscard]] Result<Node> find_node(const store::Store& store, Ino ino);
/// The child `name` of a directory. ENOENT (absent).
[[nodiscard]] Result<Node> find_child(const store::Store& store, const Node& directory, std::string_view name);
[[nodiscard]] Result<Node> disk_node(std::shared_ptr<store::Disk> disk);
[[nodiscard]] Result<Node> snapshot_node(std::shared_ptr<store::Disk> disk, store::SnapshotInfo snapshot,
                                         NodeKind kind);
/// ENOENT (absent) when there is no live image.
[[nodiscard]] Result<Node> live_image_node(std::shared_ptr<store::Disk> disk);

/// Owner, mode and xattrs. Those of .varve are made up.
[[nodiscard]] store::Attributes attributes_of(const store::Store& store, const Node& node);
/// How messages call it: "disk \"web01\"", "snapshot \"web01@nightly\"".
[[nodiscard]] std::string describe(const Node& node);

/// What stat shows besides what the node itself says.
struct StatExtras {
  std::uint64_t links = 1;       ///< of a directory
  ByteCount snapshot_allocated;  ///< of a snapshot image
};
[[nodiscard]] struct stat to_stat(const store::Store& store, const Node& node, const StatExtras& extras);

}  // namespace varve::fuse
