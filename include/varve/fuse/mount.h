// A store, mounted. The command line makes one Session, runs it until the filesystem is unmounted, then closes the
// store. Daemonising, the control socket and exit codes are not decided here.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "varve/core/result.h"
#include "varve/store/store.h"

namespace varve::fuse {

/// Threads that serve the kernel. Each serves one request at a time, and reads and writes of live images are done by
/// them: the depth of the queue that the disk below sees. Each has a buffer for a write and one for a read.
constexpr unsigned kDefaultThreads = 16;
/// What the kernel reads ahead for one sequential reader: several of the largest reads in flight. Its own default of
/// 128 KiB caps it at a third.
constexpr unsigned kDefaultReadaheadKiB = 4096;

struct MountOptions {
  std::string mountpoint;    ///< an existing directory
  std::string source;        ///< what the mount table shows: the absolute path of the store
  bool allow_other = false;  ///< others than who mounts may use it, by modes and owners
  bool read_only = false;    ///< the kernel refuses every change
  /// Snapshot images report the storage of their data, not their full size: for backup jobs with tools that look for
  /// holes. (cp of coreutils then copies byte by byte instead of sharing.)
  bool real_blocks = false;
  bool debug = false;    ///< each request on standard error
  unsigned threads = kDefaultThreads;
  unsigned readahead_kib = kDefaultReadaheadKiB;
};

/// To be called once by a process that is going to mount, before it starts any thread (so before it opens the store).
/// The kernel must not wait for our own writeback when it needs memory for ours (needs CAP_SYS_RESOURCE to have an
/// effect); then root's privileges go, all but a few (src/fuse/privileges.h). Never fails.
void prepare_process();

/// One mounted store.
class Session {
 public:
  /// Mounts; nothing is served before run(). A mount at the same place whose daemon was killed is removed first.
  /// ENOENT or ENOTDIR (mountpoint), EBUSY (a store is mounted there), ENODEV (no /dev/fuse), EPERM (no fusermount3 for
  /// a user who is not root, or it refused), each with a sentence that says what to do. `store` must outlive it.
  [[nodiscard]] static Result<std::unique_ptr<Session>> mount(store::Store& store, const MountOptions& options);
  /// Unmounts lazily if still mounted.
  ~Session();

  /// Serves until the filesystem is unmounted and its last user is gone; once. SIGTERM, SIGINT and SIGHUP are handled
  /// meanwhile: they unmount as umount(8) would. While the mount is in use it goes on serving, logs who uses it, and
  /// ends when they have gone. `on_ready` is called once, when the mount answers.
  [[nodiscard]] Status run(const std::function<void()>& on_ready);
  /// What a SIGTERM does. Any thread, also before run().
  void request_end();
  /// Waits until the kernel was told of every change that the store reported before this call, at most a second. For
  /// who answers "restored" to somebody who will read the image next. Never from a thread that serves the mount.
  void wait_until_notified();

 private:
  Session();
  struct Implementation;
  std::unique_ptr<Implementation> implementation_;
};

/// Who keeps a mount busy, a sentence each: processes with files or working directories there, loop devices on its
/// images, mounts within. Asks nothing of the mount itself, so it may be called while that hangs. Best effort: of other
/// users' processes only root sees everything.
[[nodiscard]] std::vector<std::string> find_holders(const std::string& mountpoint);

}  // namespace varve::fuse
