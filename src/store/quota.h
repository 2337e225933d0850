// What there is in the store and on each disk, against what there may be. Counted at each change, never by a walk; whoever
// adds something has it counted before it exists, so that of two who want the last place one is refused.
//
// A snapshot counts with the size of its image, as a reader sees it and as clouds count it, pending or complete; one in
// the trash does not count. A live image counts with its size. The numbers of a disk are set as a whole by whoever owns
// them, so they cannot drift.
#pragma once

#include <map>
#include <string>
#include <utility>

#include "varve/catalog/care.h"
#include "varve/core/result.h"
#include "varve/core/sync.h"
#include "varve/core/units.h"
#include "varve/store/disk.h"

namespace varve::store {

/// Any thread; a leaf among locks. Refusals are EDQUOT, kind refused, and say which limit.
class Quota {
 public:
  /// Room for a snapshot that is about to be. Move-only; given back when it goes.
  class Place {
   public:
    Place() = default;
    Place(Quota& quota, DiskId disk, ByteCount size) : quota_(&quota), disk_(disk), size_(size) {}
    Place(Place&& other) noexcept : quota_(std::exchange(other.quota_, nullptr)), disk_(other.disk_), size_(other.size_) {}
    Place& operator=(Place&&) = delete;
    ~Place();

    /// Into one that has none.
    void take(Place&& other) {
      quota_ = std::exchange(other.quota_, nullptr);
      disk_ = other.disk_;
      size_ = other.size_;
    }

   private:
    friend class Quota;
    Quota* quota_ = nullptr;
    DiskId disk_;
    ByteCount size_;
  };
  [[nodiscard]] Result<Place> take_place(DiskId disk, ByteCount size) VARVE_EXCLUDES(mutex_);
  /// For one that turned out to be larger.
  [[nodiscard]] Status enlarge(Place& place, ByteCount size) VARVE_EXCLUDES(mutex_);
  /// All snapshots of a disk as they are now; `place`, of one that is among them, ends with it.
  void set_snapshots(DiskId disk, std::uint64_t count, std::uint64_t bytes, Place place) VARVE_EXCLUDES(mutex_);

  /// Before a live image gets a size; then the size it has.
  [[nodiscard]] Status reserve_live(DiskId disk, ByteCount size) VARVE_EXCLUDES(mutex_);
  void set_live(DiskId disk, ByteCount size) VARVE_EXCLUDES(mutex_);
  /// Whether a new live image of that size would be refused now.
  [[nodiscard]] Status refuse_new_live(ByteCount size) const VARVE_EXCLUDES(mutex_);

  void set_limits(const Limits& limits) VARVE_EXCLUDES(mutex_);
  void set_limits(DiskId disk, const Limits& limits) VARVE_EXCLUDES(mutex_);
  void forget(DiskId disk) VARVE_EXCLUDES(mutex_);

  [[nodiscard]] Usage usage() const VARVE_EXCLUDES(mutex_);
  [[nodiscard]] Usage usage(DiskId disk) const VARVE_EXCLUDES(mutex_);
  [[nodiscard]] Limits limits() const VARVE_EXCLUDES(mutex_);

 private:
  struct Account {
    Usage used;
    Usage taken;  ///< places
    Limits limits;
  };
  static void put(Account& account, Account& total, const Usage& used);
  [[nodiscard]] static Status check_bytes(const Account& account, std::string_view whose, std::uint64_t more);
  [[nodiscard]] static Status check_snapshot(const Account& account, std::string_view whose, ByteCount size);
  [[nodiscard]] static Status check_live(const Account& account, std::string_view whose, std::uint64_t more);
  void give_back(const Place& place) VARVE_REQUIRES(mutex_);

  mutable Mutex mutex_;
  std::map<DiskId, Account> disks_ VARVE_GUARDED_BY(mutex_);
  Account store_ VARVE_GUARDED_BY(mutex_);  ///< the sum, and the store's limits
};

}  // namespace varve::store
