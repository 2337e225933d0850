// The journal of one disk: records appended one after the other, each chained to the one before (format.h).
//
// append() writes to the file without syncing: the record outlives a kill, not a power loss, until a seal behind it is
// durable. Space is reserved ahead of the end, zeros that no record begins with: on a full disk, records that give
// something back (drops, commits, discards) and seals still have the last of it (rule 11). The witness, a page of
// volatile memory, knows where the journal ended: at the next open it proves that what is in the file is what was
// appended (same boot, rule 9).
#pragma once

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "format.h"
#include "varve/core/sync.h"
#include "varve/os/storage.h"

namespace varve::disk {

/// A page of volatile memory. Two slots in turn, so that a kill between two stores leaves one of them valid.
class Witness {
 public:
  static constexpr std::size_t kSize = 4096;
  Witness(std::unique_ptr<os::SharedMemory> memory, const os::Identity& identity, DiskId disk);
  /// Whether a daemon of this boot, on this very store, left it, and where its journal ended.
  struct Mark {
    std::uint64_t nonce = 0;
    std::uint64_t position = 0;
    std::uint64_t chain = 0;
  };
  [[nodiscard]] std::vector<Mark> marks() const;
  void set(const Mark& mark) VARVE_EXCLUDES(mutex_);
  void clear() VARVE_EXCLUDES(mutex_);
  /// For good: what this daemon leaves is to be taken for the leavings of a power loss.
  void disown() VARVE_EXCLUDES(mutex_);

 private:
  [[nodiscard]] std::uint64_t check_of(const Mark& mark) const;
  std::unique_ptr<os::SharedMemory> memory_;
  std::uint64_t identity_ = 0;  ///< hash of boot, device, mount, inode and disk
  Mutex mutex_;
  std::size_t next_slot_ VARVE_GUARDED_BY(mutex_) = 0;
  bool disowned_ VARVE_GUARDED_BY(mutex_) = false;
};

/// What a first pass over a journal finds.
struct JournalScan {
  JournalHeader header;
  std::uint64_t end = 0;          ///< of the last valid record
  std::uint64_t last_change = 0;  ///< end of the last one that is no seal
  std::uint64_t covered = 0;      ///< what seals cover: in force after a power loss
  std::uint64_t durable = 0;      ///< what was durable when the last seal was written, as it says
  bool witnessed = false;         ///< a witness mark lies on the way, with at most one record behind it
  /// End of the last seal, when all records before that seal are covered: cutting there loses nothing that counts.
  std::optional<std::uint64_t> clean_cut;
};

class Journal {
 public:
  /// A new journal with these records, sealed and durable, in place of any old one, atomically. Kind latched: it is not
  /// known which of the two is in place.
  [[nodiscard]] static Result<std::unique_ptr<Journal>> create(os::Storage& storage, const std::string& directory,
                                                               DiskId disk, Geometry geometry,
                                                               const std::vector<Record>& records);
  /// EIO (damaged) when a seal proves that a bad record was good once, or the header is another disk's.
  [[nodiscard]] static Result<JournalScan> scan(const os::File& file, DiskId disk, Geometry geometry,
                                                const std::vector<Witness::Mark>& marks);
  /// Calls `apply` with each record up to `end`, which a scan found.
  [[nodiscard]] static Status replay(const os::File& file, std::uint64_t nonce, std::uint64_t end,
                                     const std::function<Status(const Record&)>& apply);
  /// Opens for appending at scan.end: what lies behind it is cut, durably, first.
  [[nodiscard]] static Result<std::unique_ptr<Journal>> open(std::unique_ptr<os::File> file, const JournalScan& scan);

  /// Not durable. On an error nothing was appended. One thread at a time (LiveDisk's state mutex).
  [[nodiscard]] Status append(const Record& record);
  /// Appends a seal that covers the records before `covered`. In force once it is durable: note_sealed().
  [[nodiscard]] Status append_seal(std::uint64_t covered);
  /// fdatasync. Appends may go on meanwhile; what was appended before the call is durable after it.
  [[nodiscard]] Status sync();
  /// Nothing more is appended for long: the space that is reserved goes. Only to have less to read next time.
  void give_back_reserve();
  /// From now on each append tells the witness.
  void set_witness(Witness* witness);

  [[nodiscard]] std::uint64_t end() const { return end_; }
  [[nodiscard]] std::uint64_t durable_end() const { return durable_; }
  /// A record is not covered by a durable seal.
  [[nodiscard]] bool unsealed() const { return last_change_ > sealed_; }
  /// A seal that covers up to `position` is durable.
  void note_sealed(std::uint64_t position) { sealed_ = std::max(sealed_.load(), position); }

 private:
  Journal(std::unique_ptr<os::File> file, std::uint64_t nonce) : file_(std::move(file)), nonce_(nonce) {}
  [[nodiscard]] Status reserve(std::size_t length, bool may_use_the_last);
  const std::unique_ptr<os::File> file_;
  const std::uint64_t nonce_;
  std::uint64_t chain_ = 0;
  std::atomic<std::uint64_t> end_{0};
  std::atomic<std::uint64_t> durable_{0};
  std::atomic<std::uint64_t> last_change_{0};
  std::atomic<std::uint64_t> sealed_{0};
  std::uint64_t reserved_ = 0;  ///< space is reserved up to here
  Witness* witness_ = nullptr;
};

inline constexpr char kJournalName[] = "/journal";

}  // namespace varve::disk
