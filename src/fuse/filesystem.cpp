// What all operations share: pools, errors, what the kernel is told.
#include "filesystem.h"

#include <algorithm>
#include <utility>

#include "varve/catalog/names.h"
#include "varve/core/log.h"

namespace varve::fuse {
namespace {

constexpr std::size_t kBufferSize = kMiB;  ///< the kernel's largest read
constexpr std::size_t kControlThreads = 8;
constexpr std::size_t kVacateThreads = 8;
constexpr std::size_t kSnapshotThreads = 16;
constexpr std::size_t kLiveThreads = 8;
constexpr std::size_t kFlushThreads = 8;
constexpr std::size_t kCopyThreads = 4;
/// Never met: each request is somebody's waiting thread, or one of the kernel's max_background.
constexpr std::size_t kQueued = 65536;
/// Directories whose last refusal is remembered.
constexpr std::size_t kMaxRefusals = 1024;
/// A guest that goes on writing to a full disk must not fill the log.
constexpr std::chrono::seconds kLogInterval{1};

}  // namespace

Filesystem::Filesystem(store::Store& store, bool real_blocks, std::size_t kept_buffers)
    : store_(store),
      real_blocks_(real_blocks),
      buffers_(kBufferSize, kept_buffers),
      control_("fs-control", kControlThreads, kQueued),
      vacate_("fs-vacate", kVacateThreads, kQueued),
      snapshots_("fs-snapshots", kSnapshotThreads, kQueued),
      live_("fs-live", kLiveThreads, kQueued),
      flush_("fs-flush", kFlushThreads, kQueued),
      copy_("fs-copy", kCopyThreads, kQueued) {}

Filesystem::~Filesystem() = default;

void Filesystem::later(ThreadPool& pool, Request request, Work work) {
  const auto held = std::make_shared<Request>(std::move(request));
  // An exception drops the request, which then answers EIO.
  if (pool.try_submit([held, work = std::move(work)] { work(*held); })) return;
  fail(*held, Error{ENOMEM, ErrorKind::system, "too many requests wait for an answer"});
}

void Filesystem::fail(Request& request, const Error& error, Ino directory) {
  // A limit is somebody's to raise, who may not be the one that met it.
  const bool plain = (error.kind == ErrorKind::refused && error.code != EDQUOT) || error.kind == ErrorKind::absent;
  if (plain && directory == 0) return request.fail(error.code);
  {
    MutexLock lock(mutex_);
    if (directory != 0 && error.code != ENOENT) {
      if (refusals_.size() >= kMaxRefusals && !refusals_.contains(directory)) refusals_.erase(refusals_.begin());
      refusals_[directory] = error.message;
    }
    if (!plain) {
      const auto time = std::chrono::steady_clock::now();
      if (time - last_logged_ < kLogInterval) {
        ++unlogged_;
      } else {
        last_logged_ = time;
        if (unlogged_ != 0) log::warning("{} more failed requests were not logged", std::exchange(unlogged_, 0));
        log::warning("{}", error.message);
      }
    }
  }
  request.fail(error.code);
}

void Filesystem::finish(Request& request, const Status& status, Ino directory) {
  if (status) return request.done();
  fail(request, status.error(), directory);
}

std::optional<std::string> Filesystem::last_refusal(Ino ino) {
  MutexLock lock(mutex_);
  const auto it = refusals_.find(ino);
  if (it == refusals_.end()) return std::nullopt;
  return it->second;
}

// --- store::Observer ---

namespace {

Ino disk_ino(DiskId disk) {
  return to_ino({.kind = NodeKind::disk, .disk = disk, .snapshot = {}, .incarnation = {}}).value_or(0);
}

Ino snapshot_ino(DiskId disk, SnapshotId snapshot, NodeKind kind) {
  return to_ino({.kind = kind, .disk = disk, .snapshot = snapshot, .incarnation = {}}).value_or(0);
}

}  // namespace

void Filesystem::disk_appeared(DiskId disk, const std::string& name) {
  notifier_->push(StaleEntry{kRootIno, name});
  notifier_->push(StaleAttributes{kRootIno});
  notifier_->push(StaleAttributes{disk_ino(disk)});
}

void Filesystem::disk_gone(DiskId disk, const std::string& name) {
  notifier_->push(Gone{kRootIno, disk_ino(disk), name});
  notifier_->push(StaleAttributes{kRootIno});
}

void Filesystem::snapshot_appeared(DiskId disk, SnapshotId, const std::string& name) {
  notifier_->push(StaleEntry{disk_ino(disk), name});
  notifier_->push(StaleAttributes{disk_ino(disk)});
}

void Filesystem::snapshot_gone(DiskId disk, SnapshotId snapshot, const std::string& name) {
  notifier_->push(Gone{disk_ino(disk), snapshot_ino(disk, snapshot, NodeKind::snapshot), name});
  notifier_->push(StaleAttributes{disk_ino(disk)});
}

void Filesystem::image_replaced(DiskId disk) {
  notifier_->push(StaleEntry{disk_ino(disk), std::string(catalog::kImageName)});
  notifier_->push(StaleAttributes{disk_ino(disk)});
  const auto found = store_.disk(disk);
  if (!found) return;
  // Whoever has the image open for reading has the inode of this incarnation, or of the one that was replaced.
  const std::uint64_t newest = (*found)->live().info().incarnation.value();
  for (std::uint64_t incarnation = newest; incarnation > 0 && incarnation + 1 >= newest; --incarnation) {
    const auto ino =
        to_ino({.kind = NodeKind::live_image, .disk = disk, .snapshot = {}, .incarnation = Incarnation{incarnation}});
    if (ino) notifier_->push(StaleData{*ino});
  }
}

}  // namespace varve::fuse
