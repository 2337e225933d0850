// What the kernel asks, decoded, done through Store and answered.
//
// Who does it. A thread that serves the kernel only does what ends in microseconds, or in the time of one access to the
// live image's own files. Everything else goes to a bounded pool and is answered later; the pools are apart so that
//   control    mkdir, create, rename, attributes: a log record, a freeze
//   vacate     rmdir, rm, shrinking: may wait a second each for a RELEASE on its way
//   snapshots  reads and seeks of snapshots, which may be far away: any number of slow readers hold up only each other
//   live       reads and writes of live images that need Base content, seeks, punching
//   flush      fsync
//   copy       copy_file_range
//
// Caching. Names and attributes are good for kTimeout in the kernel: what changes them comes through the kernel, or is
// told by the Notifier. Absent names are not cached, so a disk that a command makes appears at once. After each write,
// truncation, fallocate or copy the kernel asks for time, size and blocks again by itself.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "handles.h"
#include "node.h"
#include "notifier.h"
#include "request.h"
#include "varve/core/buffer.h"
#include "varve/core/thread_pool.h"
#include "varve/store/store.h"
#include "worker.h"

namespace varve::fuse {

constexpr double kTimeout = 3600;  ///< seconds

/// What is left of a mode when somebody without CAP_FSETID changes the file's content.
[[nodiscard]] constexpr std::uint32_t without_privileges(std::uint32_t mode) {
  constexpr std::uint32_t kSetUser = 04000;
  constexpr std::uint32_t kSetGroup = 02000;
  constexpr std::uint32_t kGroupExecute = 00010;
  mode &= ~kSetUser;
  // Without execution by the group it stands for mandatory locking.
  return (mode & kGroupExecute) != 0 ? mode & ~kSetGroup : mode;
}

class Filesystem final : public store::Observer {
 public:
  /// `store` must outlive it. Buffers of reads are kept for reuse up to `kept_buffers`.
  Filesystem(store::Store& store, bool real_blocks, std::size_t kept_buffers);
  /// Finishes what the pools have.
  ~Filesystem() override;

  /// Before the store has it for an observer.
  void notify_through(Notifier& notifier) { notifier_ = &notifier; }
  /// Before the first request that follows INIT.
  void begin(const Negotiated& negotiated) { negotiated_ = negotiated; }

  // --- names ---
  void lookup(Request request, Ino parent, const std::string& name);
  void make_directory(Request request, Ino parent, const std::string& name, mode_t mode);
  void make_node(Request request, Ino parent, const std::string& name, mode_t mode);
  void create(Request request, Ino parent, const std::string& name, mode_t mode, const fuse_file_info& info);
  void remove(Request request, Ino parent, const std::string& name, bool directory);
  void rename(Request request, Ino parent, const std::string& name, Ino new_parent, const std::string& new_name,
              unsigned flags);
  void refuse_link(Request request, Ino parent);
  void open_directory(Request request, Ino ino, fuse_file_info info);
  void read_directory(Request request, const fuse_file_info& info, std::size_t size, off_t at, bool plus);
  void release_directory(Request request, const fuse_file_info& info);

  // --- attributes ---
  void get_attributes(Request request, Ino ino);
  void set_attributes(Request request, Ino ino, const struct stat& wanted, int which, const fuse_file_info* info);
  void get_xattr(Request request, Ino ino, const std::string& name, std::size_t size);
  void list_xattr(Request request, Ino ino, std::size_t size);
  void set_xattr(Request request, Ino ino, const std::string& name, std::string value, int flags);
  void remove_xattr(Request request, Ino ino, const std::string& name);
  void filesystem_status(Request request);

  // --- content ---
  void open(Request request, Ino ino, fuse_file_info info);
  void read(Request request, const fuse_file_info& info, std::size_t size, ByteOffset at);
  void write(Request request, const fuse_file_info& info, std::span<const std::byte> bytes, ByteOffset at);
  void flush_to_disk(Request request, const fuse_file_info& info);
  void release(Request request, const fuse_file_info& info);
  void allocate(Request request, const fuse_file_info& info, int mode, ByteOffset at, ByteCount count);
  void copy(Request request, const fuse_file_info& from, ByteOffset from_at, const fuse_file_info& to, ByteOffset to_at,
            ByteCount count);
  void seek(Request request, const fuse_file_info& info, ByteOffset at, bool data);

  // --- store::Observer ---
  void disk_appeared(DiskId disk, const std::string& name) override;
  void disk_gone(DiskId disk, const std::string& name) override;
  void snapshot_appeared(DiskId disk, SnapshotId snapshot, const std::string& name) override;
  void snapshot_gone(DiskId disk, SnapshotId snapshot, const std::string& name) override;
  void image_replaced(DiskId disk) override;

 private:
  using Work = std::function<void(Request&)>;
  /// Queues work that ends with an answer to `request`.
  void later(ThreadPool& pool, Request request, Work work);

  /// Answers with the error. One that happened in a directory is kept for its user.varve.error; one that is not a plain
  /// refusal is logged.
  void fail(Request& request, const Error& error, Ino directory = 0);
  /// Answers a call that only says whether it worked.
  void finish(Request& request, const Status& status, Ino directory = 0);

  // --- names ---
  Result<Node> make_in(const Node& parent, const std::string& name, const store::Attributes& attributes);
  Status remove_in(const Node& parent, const std::string& name, bool directory);
  Status rename_in(const Node& parent, const std::string& name, const Node& new_parent, const std::string& new_name);
  Status create_image_in(const Node& parent, const std::string& name, const store::Attributes& attributes,
                         bool exclusive);
  /// Owner, group and mode of something that `request` makes in `parent`.
  [[nodiscard]] store::Attributes attributes_of_new(const Request& request, const Node& parent, mode_t mode) const;
  void answer_entry(Request& request, const Node& node);
  [[nodiscard]] std::vector<DirectoryEntry> list(const Node& directory) const;
  /// False when the buffer has no room.
  bool add_entry(Request& request, std::vector<char>& out, const DirectoryEntry& entry, const Node& directory,
                 off_t next, std::size_t limit, bool plus);
  Result<std::vector<char>> entries_from(Request& request, OpenDirectory& open, std::size_t size, off_t at, bool plus);

  // --- attributes ---
  [[nodiscard]] fuse_entry_param entry_of(const Node& node);
  [[nodiscard]] struct stat stat_of(const Node& node);
  /// Whether stat_of() would have to walk the map of a snapshot.
  [[nodiscard]] bool is_slow_to_stat(const Node& node);
  [[nodiscard]] std::uint64_t links_of(const Node& node);
  [[nodiscard]] ByteCount allocated_of(const Node& node);
  Status change_attributes(const Node& node, const std::function<Status(store::Attributes&)>& change);
  Status apply_attributes(const Node& node, const struct stat& wanted, int which, bool kills_privileges,
                          const store::ImageUse* own_use);
  /// Sets one of our attributes that steer, or removes it.
  void steer_snapshot(Request request, const Node& node, const std::string& name, std::optional<std::string> value,
                      int flags);
  [[nodiscard]] std::optional<std::string> last_refusal(Ino ino);

  // --- content ---
  void open_live(Request request, const Node& node, fuse_file_info info);
  void open_snapshot(Request request, const Node& node, fuse_file_info info);
  void open_control_file(Request request, const Node& node, fuse_file_info info);
  /// The use of a live image that is being opened, truncated when the flags say so.
  Result<std::unique_ptr<OpenFile>> use_live(const Node& node, int flags, bool kills_privileges);
  [[nodiscard]] bool opens_parallel(const OpenFile& file, int flags) const;
  void answer_open(Request& request, std::unique_ptr<OpenFile> file, fuse_file_info info);
  void read_live(Request& request, store::Disk& disk, std::span<std::byte> buffer, ByteOffset at);
  void read_snapshot(Request& request, store::Disk& disk, SnapshotId id, ByteOffset at, ByteCount count);
  void write_live(Request& request, store::Disk& disk, std::span<const std::byte> bytes, ByteOffset at);
  Status clear_privileges(store::Disk& disk);
  Result<ByteCount> copy_in_pieces(const Request& request, const store::ImageName& from, ByteOffset from_at,
                                   const std::shared_ptr<store::Disk>& to, ByteOffset to_at, ByteCount count);
  Status allocate_live(store::Disk& disk, int mode, ByteOffset at, ByteCount count);

  store::Store& store_;
  const bool real_blocks_;
  Notifier* notifier_ = nullptr;
  Negotiated negotiated_;

  HandleSet<OpenFile> files_;
  HandleSet<OpenDirectory> directories_;
  BufferPool buffers_;

  struct CountedLinks {
    Time modified;
    std::uint64_t links = 0;
  };
  Mutex mutex_;
  std::map<DiskId, CountedLinks> links_ VARVE_GUARDED_BY(mutex_);
  std::map<std::pair<DiskId, SnapshotId>, ByteCount> allocated_ VARVE_GUARDED_BY(mutex_);
  std::map<Ino, std::string> refusals_ VARVE_GUARDED_BY(mutex_);
  std::chrono::steady_clock::time_point last_logged_ VARVE_GUARDED_BY(mutex_);
  std::uint64_t unlogged_ VARVE_GUARDED_BY(mutex_) = 0;

  // Last: their tasks use all of the above.
  ThreadPool control_;
  ThreadPool vacate_;
  ThreadPool snapshots_;
  ThreadPool live_;
  ThreadPool flush_;
  ThreadPool copy_;
};

/// libfuse's table of functions; their user data is the Filesystem. No exception leaves them.
[[nodiscard]] const fuse_lowlevel_ops& operations();

}  // namespace varve::fuse
