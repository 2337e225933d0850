// Which blocks changed: one bit per 4 KiB block in volatile memory, exact across a kill, gone with the power. The first
// page is a header; the bits follow, first block in the lowest bit. A page of bits (128 MiB of image) is reserved when
// the first of its blocks is marked; where that fails, the map counts everything as changed, and says so in its header.
//
// mark() may run in many threads at once, also with the readers; set_blocks() and taking over may not.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "disk_state.h"
#include "varve/core/sync.h"
#include "varve/os/storage.h"

namespace varve::disk {

class ChangeMap {
 public:
  static constexpr std::uint64_t kPageBlocks = kMapPageBytes * 8;

  /// A new, empty map under this name (an old file of the name goes), for an image of so many blocks. Without memory
  /// for it, one that counts everything as changed and is gone after a kill.
  [[nodiscard]] static Result<std::shared_ptr<ChangeMap>> create(os::VolatileStorage& storage, const std::string& name,
                                                                 std::uint64_t number, std::uint64_t blocks);
  /// Taken over from a daemon that was killed. ENOENT when it is gone; EIO (damaged) when it is not a map.
  [[nodiscard]] static Result<std::shared_ptr<ChangeMap>> adopt(os::VolatileStorage& storage, const std::string& name,
                                                                std::uint64_t number);

  [[nodiscard]] std::uint64_t number() const { return number_; }
  /// Makes room for at least so many blocks. Nobody else may use the map meanwhile.
  [[nodiscard]] Status set_blocks(std::uint64_t blocks);
  /// Blocks must lie within the map. Never fails: in doubt all() becomes true.
  void mark(std::uint64_t first, std::uint64_t count);
  void mark_all();
  [[nodiscard]] bool all() const { return all_; }
  [[nodiscard]] bool any(std::uint64_t first, std::uint64_t count) const;
  /// First block in [from, end) that is marked (or unmarked); `end` when there is none. all() is not asked.
  [[nodiscard]] std::uint64_t next(std::uint64_t from, std::uint64_t end, bool marked) const;
  [[nodiscard]] std::uint64_t marked_blocks() const { return marked_; }
  [[nodiscard]] std::uint64_t page_count() const { return pages_; }
  /// Null where the page has no mark.
  [[nodiscard]] const std::byte* page(std::uint64_t index) const;
  /// Adds the bits of a stored page.
  void load_page(std::uint64_t index, std::span<const std::byte> bits);

 private:
  ChangeMap(std::unique_ptr<os::SharedMemory> memory, std::uint64_t number);
  void size_up(std::uint64_t pages);
  [[nodiscard]] bool is_reserved(std::uint64_t page) const {
    return page < pages_ && reserved_[page].load(std::memory_order_acquire);
  }
  [[nodiscard]] bool reserve(std::uint64_t page) VARVE_EXCLUDES(reserve_mutex_);
  [[nodiscard]] std::uint64_t load_word(std::uint64_t index) const;
  void mark_word(std::uint64_t index, std::uint64_t bits);

  const std::unique_ptr<os::SharedMemory> memory_;  ///< null: there was none
  const std::uint64_t number_;
  Mutex reserve_mutex_;
  std::uint64_t pages_ = 0;
  std::unique_ptr<std::atomic<bool>[]> reserved_;
  std::atomic<std::uint64_t> marked_{0};
  std::atomic<bool> all_{false};
};

/// The name of a disk's change map, and its number out of such a name.
[[nodiscard]] std::string map_name(DiskId disk, std::uint64_t number);
[[nodiscard]] std::string map_name_prefix(DiskId disk);
[[nodiscard]] std::string witness_name(DiskId disk);
[[nodiscard]] std::optional<std::uint64_t> map_number(DiskId disk, std::string_view name);

}  // namespace varve::disk
