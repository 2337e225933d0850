// The content of one file in memory, and the books from which a power loss is played.
//
// What is durable is kept as a difference: `saved_` holds, for each page touched since the last sync, its durable
// version; `pending_` holds each change since then, in order. A power loss decides each pending change, applies those
// that "reached the disk" to the saved pages and puts them back. Cost without a loss: one page copied per page and
// sync, and a copy of what is written.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <unordered_map>
#include <vector>

#include "varve/core/sync.h"
#include "varve/core/time.h"
#include "varve/os/storage.h"

namespace varve::test {

using Random = std::mt19937_64;

/// Pages in use against the size of the "disk".
struct Space {
  std::atomic<std::uint64_t> used{0};
  std::atomic<std::uint64_t> limit{0};
  [[nodiscard]] bool take() {
    if (used.fetch_add(1) < limit) return true;
    --used;
    return false;
  }
  void give_back(std::uint64_t pages) { used -= pages; }
};

/// How pending writes to a file may come out of a power loss.
enum class Tearing {
  sectors,  ///< kept, dropped, cut at a 512-byte sector, or garbage in some of the sectors written
  blocks,   ///< each 4 KiB block is old or new, as a disk with such sectors promises
};

class MemoryFile;

/// Not locked by itself: hold `mutex` (shared for what is const).
class FileContent {
 public:
  static constexpr std::size_t kPageSize = 4096;

  FileContent(std::shared_ptr<Space> space, bool keep_books) : keep_books_(keep_books), space_(std::move(space)) {}
  ~FileContent() { space_->give_back(pages_.size()); }
  FileContent(const FileContent&) = delete;
  FileContent& operator=(const FileContent&) = delete;

  [[nodiscard]] std::size_t read(std::uint64_t at, std::span<std::byte> out) const;
  /// 0 or ENOSPC, with part of it written.
  [[nodiscard]] int write(std::uint64_t at, std::span<const std::byte> bytes);
  void resize(std::uint64_t size);
  void punch(std::uint64_t at, std::uint64_t count);
  [[nodiscard]] int preallocate(std::uint64_t at, std::uint64_t count);
  [[nodiscard]] std::uint64_t size() const { return size_; }
  /// First offset >= at in a page that was written; UINT64_MAX when there is none.
  [[nodiscard]] std::uint64_t next_data(std::uint64_t at) const;
  [[nodiscard]] std::uint64_t allocated() const { return pages_.size() * kPageSize; }

  void sync();
  /// What the kernel does when it cannot write: the pages count as clean and go; the size stays.
  void fail_sync();
  void lose_power(Random& random, Tearing tearing);
  /// The same content with the same books; pages are shared until one of the two changes them.
  [[nodiscard]] std::shared_ptr<FileContent> copy(std::shared_ptr<Space> space) const;
  /// Durable at once, on whatever is pending.
  void corrupt(std::uint64_t at, std::span<const std::byte> bytes);

  SharedMutex mutex;
  Time modified;
  const MemoryFile* locker = nullptr;
  std::uint64_t locker_epoch = 0;
  std::deque<os::Extent> announced;  ///< by File::expect(), the last kMostAnnounced of them
  static constexpr std::size_t kMostAnnounced = 256;

 private:
  using Page = std::array<std::byte, kPageSize>;
  /// Null: allocated, never written, reads as zeros. Shared with books and copies: own() before a change.
  using PagePointer = std::shared_ptr<Page>;
  struct Change {
    enum class Kind { write, zero, resize } kind = Kind::write;
    std::uint64_t at = 0;
    std::uint64_t count = 0;  ///< for a resize, the new size is `at`
    std::vector<std::byte> bytes;
  };

  static Page& own(PagePointer& page);
  void save(std::uint64_t page);
  Page* writable(std::uint64_t page, bool overwritten_whole);
  void drop_page(std::uint64_t page);
  void zero_range(std::uint64_t at, std::uint64_t count);
  void cut_pages(std::uint64_t size);
  void record(Change change);
  void write_back_oldest();

  void durable_write(std::uint64_t at, std::span<const std::byte> bytes);
  void durable_zero(std::uint64_t at, std::uint64_t count);
  void durable_resize(std::uint64_t size);
  void apply(const Change& change);
  void tear_sectors(const Change& change, Random& random);
  void tear_blocks(const Change& change, Random& random);
  void restore_durable();

  const bool keep_books_;
  std::shared_ptr<Space> space_;
  std::uint64_t size_ = 0;
  std::unordered_map<std::uint64_t, PagePointer> pages_;

  std::uint64_t durable_size_ = 0;
  std::unordered_map<std::uint64_t, std::optional<PagePointer>> saved_;  ///< nullopt: a hole
  std::deque<Change> pending_;
  std::uint64_t pending_bytes_ = 0;
};

}  // namespace varve::test
