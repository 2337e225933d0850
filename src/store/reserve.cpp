#include "reserve.h"

#include <algorithm>
#include <cerrno>

#include "varve/core/log.h"

namespace varve::store {
namespace {

constexpr std::string_view kReserveFile = "reserve";
constexpr ByteCount kReserved{1 * kMiB};
/// A log record's block, its folder's next one, and room for a few more.
constexpr ByteCount kPiece{64 * kKiB};

bool for_want_of_space(const Status& status) {
  return !status && (status.error().code == ENOSPC || status.error().code == EDQUOT);
}

}  // namespace

Status Reserve::open() {
  if (file_ != nullptr) return {};
  VARVE_TRY_ASSIGN(auto file, storage_.open(kReserveFile, {.write = true, .create = true}));
  VARVE_TRY_ASSIGN(const os::FileStatus status, file->status());
  // A size without its space, as a full disk may leave it, is no reserve.
  left_ = std::min(std::min(status.size, status.allocated), kReserved);
  file_ = std::move(file);
  return {};
}

void Reserve::fill() {
  MutexLock lock(mutex_);
  if (file_ != nullptr && left_ == kReserved) return;
  Status filled = open();
  if (filled && left_ < kReserved) {
    filled = file_->preallocate(ByteOffset{0}, kReserved);
    if (filled) left_ = kReserved;
    // A power loss may come, and find the store full.
    if (filled) filled = file_->sync_data();
    if (filled) filled = storage_.sync_directory("");
  }
  if (!filled) log::debug("nothing can be put by for deletions on a full store now: {}", filled.error().message);
}

ByteCount Reserve::missing() {
  MutexLock lock(mutex_);
  return kReserved - left_;
}

/// The sync is for filesystems that reuse what was freed only when they have noted that it was.
Status Reserve::give_up_a_piece() {
  MutexLock lock(mutex_);
  VARVE_TRY(open());
  if (left_ == ByteCount{0}) return fail_system(ENOSPC, "nothing of the reserve is left");
  const ByteCount rest = left_ > kPiece ? left_ - kPiece : ByteCount{0};
  VARVE_TRY(file_->resize(rest));
  left_ = rest;
  return file_->sync_data();
}

Status Reserve::spend(const std::function<Status()>& work) {
  Status done = work();
  while (for_want_of_space(done) && give_up_a_piece()) done = work();
  return done;
}

}  // namespace varve::store
