// Accounting: what stored bytes each root keeps alive, told from reference counts that follow the roots as they come and
// go. For reports only: collect never asks it (counts that drift are how others lost data); it marks.
//
// The stored bytes of a record are the bytes of its payload in its pack: what a collect that finds it dead gives back.
// Headers and tables of packs are not counted here, nor by what promises or reports bytes freed.
//
// Cost: a new root costs the nodes that no counted root had, one that goes costs those that go with it, and a question
// about roots that might go the same. Memory: 1.2 bytes a record for the roots and nodes that hold it, as much again for
// records that deltas stand on, and 2.3 bytes a map node for the chunks below it (src/snapshot/record_table.h): a store of
// 1 TiB in 64 KiB chunks some 20 MiB without deltas, 45 MiB with a delta on every chunk.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "varve/chunks/chunk_map.h"
#include "varve/core/sync.h"

namespace varve::snapshot {

/// Sums over distinct records.
struct RecordSums {
  std::uint64_t records = 0;
  std::uint64_t chunks = 0;  ///< of the records; the others are map nodes
  std::uint64_t stored_bytes = 0;
  friend bool operator==(const RecordSums&, const RecordSums&) = default;
};

/// Any thread. `chunks` must outlive it. It owns the roots it has counted (chunks/root_registry.h): their nodes are there
/// to be read when they go. So before a collect let it catch_up().
class Accounting final : public chunks::RootOwner {
 public:
  using Roots = std::vector<chunks::Ref>;
  /// Who owns roots, by a number of the caller's; `look`: its roots now, each as often as something stands on it. Called
  /// under the accounting's lock.
  using Look = std::function<Roots()>;

  explicit Accounting(chunks::ChunkStore& chunks);
  ~Accounting() override;

  /// Counts what the owner has now and had not before, and lets go of what it has not any more. Does a bounded part of the
  /// new ones; true when there are more. What is gone is let go of first, and all at once.
  ///
  /// EIO (damaged): a record cannot be looked up; then nothing is known any more, every call gives this error, and no
  /// root is held. Others (ENOMEM …) the same.
  [[nodiscard]] Result<bool> follow(std::uint64_t owner, const Look& look) VARVE_EXCLUDES(mutex_, roots_mutex_);
  /// Only lets go of what is gone: for a collect while the first count still runs.
  [[nodiscard]] Status release(std::uint64_t owner, const Look& look) VARVE_EXCLUDES(mutex_, roots_mutex_);

  /// What would go with these of the counted roots: each is taken away as often as it is given (at most as often as it is
  /// counted).
  [[nodiscard]] Result<RecordSums> freed_without(std::span<const chunks::Ref> roots) VARVE_EXCLUDES(mutex_);
  /// The same, step by step: what goes with each further root that is taken away.
  class Removal {
   public:
    explicit Removal(Accounting& accounting);
    ~Removal();
    Removal(Removal&&) noexcept;
    Removal& operator=(Removal&&) noexcept;
    /// What goes besides all that went before.
    [[nodiscard]] Result<RecordSums> remove(std::span<const chunks::Ref> roots);
    /// What would go besides; nothing is taken away.
    [[nodiscard]] Result<RecordSums> would_free(std::span<const chunks::Ref> roots);

   private:
    struct Implementation;
    std::unique_ptr<Implementation> implementation_;
  };

  /// Chunks that a counted map has an entry for; 0 for the empty one.
  [[nodiscard]] Result<std::uint64_t> chunks_in(const chunks::MaybeRef& root) VARVE_EXCLUDES(mutex_);
  /// What these reach, whether or not they are counted; they are held by somebody. Walks all of it.
  [[nodiscard]] Result<RecordSums> reached_by(std::span<const chunks::Ref> roots);
  /// Of one owner, those under way included. Never waits.
  [[nodiscard]] std::size_t counted_roots(std::uint64_t owner) VARVE_EXCLUDES(roots_mutex_);
  /// What all counted roots reach. Never waits.
  [[nodiscard]] RecordSums live() const VARVE_EXCLUDES(sums_mutex_);
  /// Stored bytes of records that went since the accounting began.
  [[nodiscard]] std::uint64_t died_bytes() const { return died_bytes_; }
  /// Of the counts, as of a moment ago. Never waits.
  [[nodiscard]] std::size_t memory_bytes() const { return memory_bytes_; }

  /// Walks all that the counted roots reach, and compares: for tests and debug builds. The first difference in words.
  [[nodiscard]] Result<std::optional<std::string>> verify() VARVE_EXCLUDES(mutex_);

  void visit_roots(const std::function<void(const chunks::MaybeRef&)>& visit) override VARVE_EXCLUDES(roots_mutex_);

 private:
  struct Counts;
  [[nodiscard]] Status refuse_if_failed() const VARVE_REQUIRES(mutex_);
  [[nodiscard]] Status let_go(std::uint64_t owner, const Roots& now) VARVE_REQUIRES(mutex_);
  [[nodiscard]] Status take_in(std::uint64_t owner, const Roots& held) VARVE_REQUIRES(mutex_);
  Status failed(Status status) VARVE_REQUIRES(mutex_);
  void publish() VARVE_REQUIRES(mutex_);

  chunks::ChunkStore& chunks_;
  mutable Mutex mutex_;  ///< held while nodes are read
  std::unique_ptr<Counts> counts_ VARVE_GUARDED_BY(mutex_);
  std::optional<Error> failure_ VARVE_GUARDED_BY(mutex_);

  Mutex roots_mutex_;  ///< after mutex_; never held while anything is called but a visitor
  std::map<std::uint64_t, Roots> counted_ VARVE_GUARDED_BY(roots_mutex_);  ///< sorted

  mutable Mutex sums_mutex_;
  RecordSums live_ VARVE_GUARDED_BY(sums_mutex_);
  std::atomic<std::uint64_t> died_bytes_{0};
  std::atomic<std::size_t> memory_bytes_{0};

  chunks::RootRegistry::Registration registration_;
};

}  // namespace varve::snapshot
