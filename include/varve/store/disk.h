// One disk as users know it: its live image and its snapshots, whatever state they are in.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "varve/catalog/disk_log.h"
#include "varve/core/byte_view.h"
#include "varve/core/result.h"
#include "varve/disk/live_disk.h"

namespace varve::store {

using catalog::Attributes;
using catalog::Care;
using catalog::Limits;

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
  Care care;
};

/// What counts against limits: a snapshot with the size of its image, whatever it takes, unless it is in the trash.
struct Usage {
  std::uint64_t snapshots = 0;
  std::uint64_t snapshot_bytes = 0;
  std::uint64_t live_bytes = 0;
  friend bool operator==(const Usage&, const Usage&) = default;
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

  // --- limits ---
  [[nodiscard]] virtual Limits limits() const = 0;
  [[nodiscard]] virtual Usage usage() const = 0;
  /// Durable on return. Less than there is refuses only growth.
  [[nodiscard]] virtual Status set_limits(const Limits& limits) = 0;

  // --- live image. Whatever makes it larger: EDQUOT beyond a limit of the disk or the store ---
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
  /// ENODATA without a live image, EEXIST, EINVAL, ENAMETOOLONG, EDQUOT (a limit of the disk or the store). Durable on
  /// return. The image's attributes are those of the live image.
  [[nodiscard]] virtual Result<SnapshotInfo> take_snapshot(const std::string& name, const Attributes& directory) = 0;
  /// Into the trash, if the store keeps one, else for good. EBUSY while its image is open (after kLateReleaseWait) and
  /// while it is held.
  [[nodiscard]] virtual Status remove_snapshot(SnapshotId id) = 0;
  /// For good, also from the trash. EBUSY as above.
  [[nodiscard]] virtual Status delete_snapshot(SnapshotId id) = 0;
  /// EEXIST.
  [[nodiscard]] virtual Status rename_snapshot(SnapshotId id, const std::string& name) = 0;
  [[nodiscard]] virtual Status change_snapshot_attributes(SnapshotId id, const std::function<Status(Attributes&)>& change) = 0;
  /// `change` edits a copy of hold and deadline; durable on return. EINVAL.
  [[nodiscard]] virtual Status change_snapshot_care(SnapshotId id, const std::function<Status(Care&)>& change) = 0;
  /// What is in the trash, by id: none of it is found by the functions above and below.
  [[nodiscard]] virtual std::vector<SnapshotInfo> trash() const = 0;
  [[nodiscard]] virtual Result<ImageUse> use_snapshot(SnapshotId id) = 0;
  /// EIO is logged with disk, snapshot, offset and pack.
  /// What it shows must not outlive the store.
  [[nodiscard]] virtual Result<ByteView> view_snapshot(SnapshotId id, ByteOffset at, ByteCount count) = 0;
  /// The same into a buffer; how much there was.
  [[nodiscard]] Result<std::size_t> read_snapshot(SnapshotId id, ByteOffset at, std::span<std::byte> out) {
    VARVE_TRY_ASSIGN(const ByteView view, view_snapshot(id, at, ByteCount{out.size()}));
    view.copy_to(out);
    return view.size();
  }
  [[nodiscard]] virtual Result<ByteOffset> seek_snapshot(SnapshotId id, ByteOffset at, bool data) = 0;
  /// Whether view_snapshot() can answer from memory. Cheap, advisory.
  [[nodiscard]] virtual bool snapshot_cached(SnapshotId id, ByteOffset at, ByteCount count) = 0;
};

}  // namespace varve::store
