#include "quota.h"

#include <fmt/format.h>

namespace varve::store {
namespace {

/// Whether `used` + `more` is beyond `limit`, whatever the numbers are.
bool beyond(const std::optional<std::uint64_t>& limit, std::uint64_t used, std::uint64_t more) {
  return limit && (used > *limit || more > *limit - used);
}

}  // namespace

Quota::Place::~Place() {
  if (quota_ == nullptr) return;
  MutexLock lock(quota_->mutex_);
  quota_->give_back(*this);
}

Status Quota::check_bytes(const Account& account, std::string_view whose, std::uint64_t more) {
  const auto& limit = account.limits.snapshot_bytes;
  if (!beyond(limit, account.used.snapshot_bytes + account.taken.snapshot_bytes, more)) return {};
  return fail_refused(EDQUOT, fmt::format("{} limit of {} bytes for the images of all snapshots leaves no room for {} more "
                                          "({} there); delete some, or raise it with `varve limit --snapshot-bytes`",
                                          whose, *limit, more, account.used.snapshot_bytes));
}

Status Quota::check_snapshot(const Account& account, std::string_view whose, ByteCount size) {
  const Limits& limits = account.limits;
  if (beyond(limits.snapshots, account.used.snapshots + account.taken.snapshots, 1)) {
    return fail_refused(EDQUOT, fmt::format("{} limit of {} snapshots is reached ({} there); delete some, or raise it with "
                                            "`varve limit --snapshots`",
                                            whose, *limits.snapshots, account.used.snapshots));
  }
  return check_bytes(account, whose, size.value());
}

Status Quota::check_live(const Account& account, std::string_view whose, std::uint64_t more) {
  if (!beyond(account.limits.live_bytes, account.used.live_bytes, more)) return {};
  return fail_refused(EDQUOT, fmt::format("{} limit of {} bytes for live images leaves no room for {} more ({} there); "
                                          "shrink or remove one, or raise it with `varve limit --live-bytes`",
                                          whose, *account.limits.live_bytes, more, account.used.live_bytes));
}

Result<Quota::Place> Quota::take_place(DiskId disk, ByteCount size) {
  MutexLock lock(mutex_);
  Account& account = disks_[disk];
  VARVE_TRY(check_snapshot(account, "the disk's", size));
  VARVE_TRY(check_snapshot(store_, "the store's", size));
  for (Account* one : {&account, &store_}) {
    ++one->taken.snapshots;
    one->taken.snapshot_bytes += size.value();
  }
  return Place(*this, disk, size);
}

Status Quota::enlarge(Place& place, ByteCount size) {
  MutexLock lock(mutex_);
  Account& account = disks_[place.disk_];
  const std::uint64_t more = size.value() - place.size_.value();
  VARVE_TRY(check_bytes(account, "the disk's", more));
  VARVE_TRY(check_bytes(store_, "the store's", more));
  account.taken.snapshot_bytes += more;
  store_.taken.snapshot_bytes += more;
  place.size_ = size;
  return {};
}

void Quota::give_back(const Place& place) {
  for (Account* one : {&disks_[place.disk_], &store_}) {
    --one->taken.snapshots;
    one->taken.snapshot_bytes -= place.size_.value();
  }
}

void Quota::put(Account& account, Account& total, const Usage& used) {
  total.used.snapshots += used.snapshots - account.used.snapshots;
  total.used.snapshot_bytes += used.snapshot_bytes - account.used.snapshot_bytes;
  total.used.live_bytes += used.live_bytes - account.used.live_bytes;
  account.used = used;
}

void Quota::set_snapshots(DiskId disk, std::uint64_t count, std::uint64_t bytes, Place place) {
  MutexLock lock(mutex_);
  Account& account = disks_[disk];
  put(account, store_, {count, bytes, account.used.live_bytes});
  if (place.quota_ == nullptr) return;
  give_back(place);
  place.quota_ = nullptr;
}

Status Quota::reserve_live(DiskId disk, ByteCount size) {
  MutexLock lock(mutex_);
  Account& account = disks_[disk];
  if (size.value() <= account.used.live_bytes) return {};
  const std::uint64_t more = size.value() - account.used.live_bytes;
  VARVE_TRY(check_live(account, "the disk's", more));
  VARVE_TRY(check_live(store_, "the store's", more));
  put(account, store_, {account.used.snapshots, account.used.snapshot_bytes, size.value()});
  return {};
}

void Quota::set_live(DiskId disk, ByteCount size) {
  MutexLock lock(mutex_);
  Account& account = disks_[disk];
  put(account, store_, {account.used.snapshots, account.used.snapshot_bytes, size.value()});
}

Status Quota::refuse_new_live(ByteCount size) const {
  MutexLock lock(mutex_);
  return check_live(store_, "the store's", size.value());
}

void Quota::set_limits(const Limits& limits) {
  MutexLock lock(mutex_);
  store_.limits = limits;
}

void Quota::set_limits(DiskId disk, const Limits& limits) {
  MutexLock lock(mutex_);
  disks_[disk].limits = limits;
}

void Quota::forget(DiskId disk) {
  MutexLock lock(mutex_);
  const auto it = disks_.find(disk);
  if (it == disks_.end()) return;
  put(it->second, store_, {});
  it->second.limits = {};
}

Usage Quota::usage() const {
  MutexLock lock(mutex_);
  return store_.used;
}

Usage Quota::usage(DiskId disk) const {
  MutexLock lock(mutex_);
  const auto it = disks_.find(disk);
  return it == disks_.end() ? Usage{} : it->second.used;
}

Limits Quota::limits() const {
  MutexLock lock(mutex_);
  return store_.limits;
}

}  // namespace varve::store
