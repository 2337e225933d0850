// A Storage in memory that can lose power, fail, run full, and stop serving a process that is to be taken for dead.
//
// The crash model is the contract of os/storage.h and no kinder:
// - A write, resize or punch is durable after the file's sync_data; before that a power loss keeps it, drops it, cuts
//   it at a sector or leaves garbage in it, each on its own.
// - An entry made, renamed or removed is durable after its directory's sync; before that it happened or not, each on
//   its own. A rename is one change also across directories, and certain only when both are synced.
// - A file's sync says nothing about its name, a directory's nothing about its files or its own name.
//
// To test a crash: cut_off() (or cut_off_at(k)) so that the dying stack can change nothing more, destroy the stack,
// then kill() or lose_power(seed), then open anew.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "support/call_gate.h"
#include "support/memory_file.h"
#include "varve/os/storage.h"

namespace varve::test {

struct MemoryStorageOptions {
  bool power_loss = true;               ///< false: no books, faster, lose_power() not allowed
  std::size_t direct_alignment = 4096;  ///< File::alignment() of files opened direct (then demanded); 1 = cannot
  std::uint64_t capacity = kTiB;
};

struct LossModel {
  /// Files whose path ends so lose whole 4 KiB blocks only and are never garbled: what promise 3 rests on.
  std::vector<std::string> block_atomic{"home.img", "detour.img"};
};

class MemoryStorage final : public os::Storage {
 public:
  explicit MemoryStorage(MemoryStorageOptions options = {});
  ~MemoryStorage() override;

  Result<std::unique_ptr<os::File>> open(std::string_view path, os::OpenMode mode) override;
  Result<bool> make_directory(std::string_view path) override;
  Status remove(std::string_view path) override;
  Status remove_directory(std::string_view path) override;
  Status rename(std::string_view from, std::string_view to) override;
  Status link(std::string_view from, std::string_view to) override;
  Result<std::vector<os::DirectoryEntry>> list(std::string_view path) override;
  Result<os::FileStatus> status(std::string_view path) override;
  Status sync_directory(std::string_view path) override;
  Result<os::Capacity> capacity() override;
  Result<os::Identity> identity() override;

  /// The process died: open files are dead and their locks gone, nothing else changes. Ends a cut and forgets faults.
  void kill();
  /// Makes `other` what this one is now, books included, for another future: a crash here and now, while this one goes on.
  /// No files open, no faults, no cut there.
  void copy_to(MemoryStorage& other);
  /// The machine died: what was not durable is decided by `seed`. Open files are dead. Ends a cut, forgets faults.
  void lose_power(std::uint64_t seed, const LossModel& model = {});

  /// Counting, faults, lies and cuts. An injected failure of a write leaves its first half, of a sync_data drops the pages
  /// it could not write; other calls fail without effect.
  CallGate& calls() { return *gate_; }
  std::uint64_t change_count() const { return gate_->calls(Calls::changes); }
  void fail_at(std::uint64_t nth, int code, Repeat repeat = Repeat::once, Calls kind = Calls::changes) {
    gate_->fail_at(nth, code, repeat, kind);
  }
  void cut_off() { gate_->cut_off(); }
  void cut_off_at(std::uint64_t nth) { gate_->cut_off_at(nth); }
  void clear_faults() { gate_->clear(); }
  /// Writes that need more fail with ENOSPC.
  /// 100 % full, as by another's file: what is freed can be used again, nothing else.
  void fill_up() { space_->limit = space_->used.load(); }
  void set_capacity(ByteCount bytes) { space_->limit = bytes.value() / FileContent::kPageSize; }

  /// Changes bytes as a decaying disk would: durable at once, not counted. The file must exist.
  void corrupt(std::string_view path, ByteOffset at, std::span<const std::byte> bytes);
  /// What was to be read soon (File::expect), oldest first; only the last few hundred. The file must exist.
  std::vector<os::Extent> announced(std::string_view path);

 private:
  struct Directory;
  /// Exactly one of the two.
  struct Node {
    std::shared_ptr<FileContent> file;
    std::shared_ptr<Directory> directory;
    explicit operator bool() const { return file != nullptr || directory != nullptr; }
    friend bool operator==(const Node&, const Node&) = default;
  };
  struct EntryChange {
    std::shared_ptr<Directory> directory;
    std::string name;
    Node node;  ///< empty: removed
  };
  /// One atomic change of the tree.
  struct TreeChange {
    std::vector<EntryChange> entries;
    std::set<const Directory*> unsynced;
  };
  struct DurableEntry {
    Node node;                 ///< empty: known to be absent
    std::uint64_t number = 0;  ///< of the change that made it so; an older one that becomes durable later is void
  };
  struct Directory {
    std::map<std::string, Node, std::less<>> entries;
    std::map<std::string, DurableEntry, std::less<>> durable;
    std::set<std::uint64_t> pending;  ///< numbers of changes that its sync has yet to see
  };
  struct Place {
    std::shared_ptr<Directory> parent;
    std::string leaf;
    Node node;  ///< empty: not there
  };

  class Copier;

  Status enter(Calls kind, std::string_view action, std::string_view path);
  Result<Node> walk(std::string_view path, std::string_view action) VARVE_REQUIRES(tree_);
  Result<Place> find(std::string_view path, std::string_view action) VARVE_REQUIRES(tree_);
  void change(std::vector<EntryChange> entries) VARVE_REQUIRES(tree_);
  void settle_change(std::uint64_t number, bool happened) VARVE_REQUIRES(tree_);
  void restart(bool new_boot) VARVE_REQUIRES(tree_);
  void settle(const std::string& path, Directory& directory, Random& random, const LossModel& model,
              std::set<const void*>& seen) VARVE_REQUIRES(tree_);
  os::FileStatus status_of(const Node& node) VARVE_REQUIRES(tree_);

  const MemoryStorageOptions options_;
  std::shared_ptr<CallGate> gate_ = std::make_shared<CallGate>();
  std::shared_ptr<Space> space_ = std::make_shared<Space>();
  Mutex tree_;
  std::shared_ptr<Directory> root_ VARVE_GUARDED_BY(tree_) = std::make_shared<Directory>();
  std::map<std::uint64_t, TreeChange> pending_ VARVE_GUARDED_BY(tree_);  ///< in order
  std::uint64_t next_change_ VARVE_GUARDED_BY(tree_) = 1;
  std::uint64_t boot_ VARVE_GUARDED_BY(tree_) = 1;
};

}  // namespace varve::test
