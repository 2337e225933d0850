// The only way to files. Everything varve keeps goes through a Storage (a directory on a local filesystem) and a
// VolatileStorage (a directory on tmpfs: survives a killed daemon, not a power loss). Tests put doubles here that
// lose power, fail and fall short.
//
// Paths are relative to the storage's root, '/'-separated, without empty, "." or ".." parts. Implementations refuse
// others with EINVAL, never follow a symbolic link and never leave the root (ELOOP / EXDEV). A path that is not a
// regular file where a file is opened is refused (EINVAL), a FIFO or device included, without blocking on it. So is a
// file that belongs to another user (EPERM), and, for writing, one that has a second name (EMLINK).
//
// Errors: every function reports the errno of the call that failed, with the path in the message; ENOENT has the kind
// `absent`. EINTR is retried.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "varve/core/result.h"
#include "varve/core/time.h"
#include "varve/core/units.h"

namespace varve::os {

enum class FileType { regular, directory, other };

struct FileStatus {
  FileType type = FileType::regular;
  ByteCount size;
  ByteCount allocated;  ///< storage really used (st_blocks * 512)
  std::uint32_t owner = 0;
  std::uint32_t mode = 0;
  Time modified;
};

struct Extent {
  ByteOffset begin;
  ByteCount length;
};

/// An open regular file. Any thread may call anything at any time; concurrent overlapping reads and writes are
/// atomic per 4 KiB at best. Closing is the destructor.
class File {
 public:
  virtual ~File() = default;
  /// Reads until `out` is full or the file ends; returns the bytes read. With alignment() > 1, offset, length and
  /// memory must be multiples of it.
  [[nodiscard]] virtual Result<std::size_t> read(ByteOffset at, std::span<std::byte> out) const = 0;
  /// That will be read soon (posix_fadvise(2), POSIX_FADV_WILLNEED): the kernel begins to read it and does not wait for
  /// the medium. A hint.
  virtual void expect(ByteOffset at, ByteCount count) const {
    static_cast<void>(at);
    static_cast<void>(count);
  }
  /// Writes all of `bytes` or fails (ENOSPC, EDQUOT, EIO, EFBIG); after a failure any part may have been written.
  [[nodiscard]] virtual Status write(ByteOffset at, std::span<const std::byte> bytes) = 0;
  /// fdatasync(2): all writes that returned before the call, and the size, are durable when it succeeds. After a
  /// failure nothing may be concluded from a later success (the kernel drops the pages it could not write).
  [[nodiscard]] virtual Status sync_data() = 0;
  [[nodiscard]] virtual Status resize(ByteCount size) = 0;
  /// Frees the storage of a range, which then reads as zeros; the size stays. EOPNOTSUPP where unknown.
  [[nodiscard]] virtual Status punch(ByteOffset at, ByteCount count) = 0;
  /// The first offset from `at` on that may hold data, UINT64_MAX when there is none: what lies before was never written,
  /// or punched. In doubt `at` itself, so a filesystem that cannot tell is right, and slow. What is reserved and was not
  /// written counts as none. For who changes the file meanwhile the answer is out of date.
  [[nodiscard]] virtual Result<ByteOffset> next_data(ByteOffset at) const { return at; }
  /// Reserves storage so that writes in the range cannot meet ENOSPC; extends the file when needed.
  [[nodiscard]] virtual Status preallocate(ByteOffset at, ByteCount count) = 0;
  [[nodiscard]] virtual Result<FileStatus> status() const = 0;
  /// Multiple that offsets, lengths and memory must keep: 1, or 4096 for a file opened direct.
  [[nodiscard]] virtual std::size_t alignment() const = 0;
  [[nodiscard]] virtual Status set_modified(Time time) = 0;
  /// A whole-file lock of this open file against other opens (flock): false when another holds it.
  [[nodiscard]] virtual Result<bool> try_lock() = 0;
};

struct OpenMode {
  bool write = false;
  bool create = false;     ///< make it (0600) when absent; the caller syncs the directory
  bool exclusive = false;  ///< with create: EEXIST when present
  bool truncate = false;
  bool direct = false;  ///< O_DIRECT where the filesystem can (see File::alignment), else buffered
};

struct DirectoryEntry {
  std::string name;
  FileType type = FileType::regular;
};

struct Capacity {
  ByteCount total;
  ByteCount free;
  ByteCount available;  ///< to an unprivileged user
};

/// What tells one mount of one filesystem in one boot from every other: compared, never interpreted.
struct Identity {
  std::string boot_id;  ///< /proc/sys/kernel/random/boot_id
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  std::uint64_t mount = 0;  ///< statx(2) stx_mnt_id
  friend bool operator==(const Identity&, const Identity&) = default;
};

/// A tree of files. Any thread.
class Storage {
 public:
  virtual ~Storage() = default;
  [[nodiscard]] virtual Result<std::unique_ptr<File>> open(std::string_view path, OpenMode mode) = 0;
  /// Mode 0700. True when it was made, false when it was there already. The caller syncs the parent.
  [[nodiscard]] virtual Result<bool> make_directory(std::string_view path) = 0;
  /// Unlinks a file of any type that is not a directory.
  [[nodiscard]] virtual Status remove(std::string_view path) = 0;
  [[nodiscard]] virtual Status remove_directory(std::string_view path) = 0;
  /// Replaces `to` atomically. Durable only after sync_directory of both parents.
  [[nodiscard]] virtual Status rename(std::string_view from, std::string_view to) = 0;
  /// Gives a file a second name; EEXIST when `to` is there.
  [[nodiscard]] virtual Status link(std::string_view from, std::string_view to) = 0;
  /// Without "." and "..", in no order. ENOENT when absent. "" is the root.
  [[nodiscard]] virtual Result<std::vector<DirectoryEntry>> list(std::string_view path) = 0;
  /// Does not follow symbolic links. ENOENT when absent.
  [[nodiscard]] virtual Result<FileStatus> status(std::string_view path) = 0;
  /// fsync(2) of a directory: entries made, renamed or removed in it before are durable.
  [[nodiscard]] virtual Status sync_directory(std::string_view path) = 0;
  [[nodiscard]] virtual Result<Capacity> capacity() = 0;
  [[nodiscard]] virtual Result<Identity> identity() = 0;
};

/// A file of a VolatileStorage mapped MAP_SHARED. What is stored in it survives the process, not the machine.
class SharedMemory {
 public:
  virtual ~SharedMemory() = default;
  /// The mapping. Touching a page that was not reserved may kill the process (SIGBUS on a full tmpfs).
  [[nodiscard]] virtual std::span<std::byte> bytes() = 0;
  /// Makes the pages of a range safe to touch; they read as zeros until written. ENOSPC when memory is short (what
  /// was reserved before stays so), EINVAL beyond the size.
  [[nodiscard]] virtual Status reserve(ByteOffset at, ByteCount count) = 0;
  /// The pages (4 KiB) that are reserved, ascending; used once, when a map is taken over from a killed daemon.
  [[nodiscard]] virtual Result<std::vector<Extent>> reserved() = 0;
  /// Changes the size; bytes() moves. No other thread may use the mapping meanwhile.
  [[nodiscard]] virtual Status resize(ByteCount size) = 0;
};

/// A directory on a filesystem of memory. Names are plain file names. Any thread.
class VolatileStorage {
 public:
  virtual ~VolatileStorage() = default;
  /// Opens or creates (0600, `size` bytes, nothing reserved); an existing one keeps its size and content (one of
  /// size 0, as a crash in the middle of this call leaves it, counts as new).
  [[nodiscard]] virtual Result<std::unique_ptr<SharedMemory>> open(std::string_view name, ByteCount size) = 0;
  /// ENOENT when absent.
  [[nodiscard]] virtual Result<std::unique_ptr<SharedMemory>> open_existing(std::string_view name) = 0;
  [[nodiscard]] virtual Result<std::vector<std::string>> list() = 0;
  [[nodiscard]] virtual Status remove(std::string_view name) = 0;
  [[nodiscard]] virtual Status rename(std::string_view from, std::string_view to) = 0;
};

/// The directory `path`, opened once (below it openat2 with RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS, or its equal).
/// ENOENT, ENOTDIR, EACCES; the message names the path.
[[nodiscard]] Result<std::unique_ptr<Storage>> open_directory(const std::string& path);
/// A directory for `store_id` (0700) on tmpfs, made when absent: in /run/varve for root where /run is tmpfs, else in
/// /dev/shm/varve-UID, or, where another user has taken that name, /dev/shm/varve-UID-RANDOM. A place that is not tmpfs
/// (ENODEV), or a directory that another user owns or may write to (EPERM), is refused.
[[nodiscard]] Result<std::unique_ptr<VolatileStorage>> open_volatile(std::string_view store_id);
/// The existing directory `path`, under the same conditions.
[[nodiscard]] Result<std::unique_ptr<VolatileStorage>> open_volatile_directory(const std::string& path);

/// Whether a path has the form every Storage demands (see the top); "" (the root) only where a directory is meant.
[[nodiscard]] bool valid_path(std::string_view path);
/// "a/b" of "a/b/c", "" of "c".
[[nodiscard]] std::string_view parent_of(std::string_view path);
/// "c" of "a/b/c".
[[nodiscard]] std::string_view leaf_of(std::string_view path);

/// Temporaries begin so; a file with such a name that a crash left behind may be removed by whoever owns its folder.
constexpr std::string_view kTemporaryPrefix = ".tmp-";
/// kTemporaryPrefix and 32 random hex digits.
[[nodiscard]] std::string temporary_name();

/// Makes every missing directory of `path` and syncs all its parents (rule 8): also those that needed nothing, for a
/// process killed between making and syncing may have left a directory that is there and not yet durable.
[[nodiscard]] Status make_directories_durably(Storage& storage, std::string_view path);
/// Writes a temporary beside `path`, syncs it, renames it into place and syncs the directory: after a crash the
/// file is the old one or the new one, whole.
[[nodiscard]] Status replace_file_durably(Storage& storage, std::string_view path, std::span<const std::byte> bytes);
/// The whole file; refuses one longer than `limit` (EFBIG) before reading it.
[[nodiscard]] Result<std::vector<std::byte>> read_file(Storage& storage, std::string_view path, ByteCount limit);

}  // namespace varve::os
