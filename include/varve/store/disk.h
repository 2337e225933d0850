// One disk as users know it: its live image and its snapshots, whatever state they are in.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "varve/catalog/disk_log.h"
#include "varve/core/result.h"
#include "varve/disk/live_disk.h"

namespace varve::store {

using catalog::Attributes;

enum class SnapshotStateKind { pending, complete };

struct SnapshotInfo {
  SnapshotId id;
  SnapshotId parent;  ///< 0: none
  std::string name;
  SnapshotStateKind state = SnapshotStateKind::pending;
  unsigned percent = 0;  ///< of the commit; 100 when complete
  Time time;
  Time image_modified;
  ByteCount size;
  Incarnation incarnation;
  std::uint64_t changed_bytes = 0;
  std::uint64_t stored_bytes = 0;  ///< 0 while pending
  Attributes directory;
  Attributes image;
};

/// Somebody has an image open; counted until it goes. Move-only.
class ImageUse {
 public:
  ImageUse() = default;
  explicit ImageUse(std::shared_ptr<void> token) : token_(std::move(token)) {}

 private:
  std::shared_ptr<void> token_;
};

/// How long an operation that needs an image closed waits for a RELEASE that is on its way (the kernel sends it late).
constexpr std::chrono::milliseconds kLateReleaseWait{1000};

/// Any thread. Obtained from Store; valid as long as the Store, whether or not the disk was removed meanwhile
/// (operations then fail with ENOENT).
class Disk {
 public:
  virtual ~Disk() = default;
  [[nodiscard]] virtual DiskId id() const = 0;
  [[nodiscard]] virtual std::string name() const = 0;
  [[nodiscard]] virtual Time created() const = 0;
  /// Time of the last change of the directory's entries.
  [[nodiscard]] virtual Time modified() const = 0;

  [[nodiscard]] virtual Attributes directory_attributes() const = 0;
  [[nodiscard]] virtual Attributes image_attributes() const = 0;
  /// `change` edits a copy; the result is logged, durable on return.
  [[nodiscard]] virtual Status change_directory_attributes(const std::function<Status(Attributes&)>& change) = 0;
  [[nodiscard]] virtual Status change_image_attributes(const std::function<Status(Attributes&)>& change) = 0;

  // --- live image ---
  /// Reads, writes, flushes and seeks go straight to it.
  [[nodiscard]] virtual disk::LiveDisk& live() = 0;
  /// EEXIST when there is one.
  [[nodiscard]] virtual Status create_image(const Attributes& attributes) = 0;
  /// EBUSY while anybody has it open (after kLateReleaseWait).
  [[nodiscard]] virtual Status remove_image() = 0;
  /// A shrink while another than `own_use` has it open for writing: EBUSY (after kLateReleaseWait).
  [[nodiscard]] virtual Status resize_image(ByteCount size, const ImageUse* own_use) = 0;
  [[nodiscard]] virtual Result<ImageUse> use_image(bool for_writing) = 0;

  // --- snapshots ---
  /// By id, ascending. Cheap enough for readdir of ten thousand.
  [[nodiscard]] virtual std::vector<SnapshotInfo> snapshots() const = 0;
  /// Their number, whatever the state; at once.
  [[nodiscard]] virtual std::size_t snapshot_count() const = 0;
  /// ENOENT when there is none.
  [[nodiscard]] virtual Result<SnapshotInfo> find_snapshot(std::string_view name) const = 0;
  [[nodiscard]] virtual Result<SnapshotInfo> snapshot(SnapshotId id) const = 0;
  /// ENODATA without a live image, EEXIST, EINVAL, ENAMETOOLONG. Durable on return. The image's attributes are those
  /// of the live image.
  [[nodiscard]] virtual Result<SnapshotInfo> take_snapshot(const std::string& name, const Attributes& directory) = 0;
  /// EBUSY while its image is open (after kLateReleaseWait).
  [[nodiscard]] virtual Status remove_snapshot(SnapshotId id) = 0;
  /// EEXIST.
  [[nodiscard]] virtual Status rename_snapshot(SnapshotId id, const std::string& name) = 0;
  [[nodiscard]] virtual Status change_snapshot_attributes(SnapshotId id, const std::function<Status(Attributes&)>& change) = 0;
  [[nodiscard]] virtual Result<ImageUse> use_snapshot(SnapshotId id) = 0;
  /// EIO is logged with disk, snapshot, offset and pack.
  [[nodiscard]] virtual Result<std::size_t> read_snapshot(SnapshotId id, ByteOffset at, std::span<std::byte> out) = 0;
  [[nodiscard]] virtual Result<ByteOffset> seek_snapshot(SnapshotId id, ByteOffset at, bool data) = 0;
  /// Whether read_snapshot() can answer from memory. Cheap, advisory.
  [[nodiscard]] virtual bool snapshot_cached(SnapshotId id, ByteOffset at, ByteCount count) = 0;
};

}  // namespace varve::store
