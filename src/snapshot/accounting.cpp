// Reference counts of records, for reports.
//
// What is counted, for each record:
//
//     maps     slots of counted nodes that name it, and counted roots that are it
//     supports counted deltas that stand on it
//
// Invariants (verify() compares them with a full walk)
//  1. A node is counted while its `maps` > 0: then each of its slots counts once in `maps` of what it names. A node that
//     only a delta stands on is stored, and what it names is not reached by that.
//  2. A record with `maps` > 0 that is a delta counts once in `supports` of each record that it stands on. What is alive
//     only by that needs nothing that it stands on itself, so no chain of deltas has to be followed.
//  3. A record is alive while maps + supports > 0; `live` sums over those.
//  4. Nodes of counted roots are in their packs: the registry knows the roots (counted_), from before they are counted
//     until after they are uncounted.
//  5. After an error in the middle the counts are worth nothing: they are dropped, with the roots, for good.
//
// Order of a new root: held (Hold), seen again at its owner, in counted_, counted, hold goes. Of one that goes: uncounted,
// out of counted_.
#include "varve/snapshot/accounting.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <iterator>
#include <string>
#include <unordered_map>

#include "record_table.h"

namespace varve::snapshot {
namespace {

using chunks::MaybeRef;
using chunks::Ref;

constexpr int kRootLevel = chunks::kMapHeight - 1;
/// One call of follow() takes in new roots for so long, and one at least: who asks in between must not wait for all.
constexpr std::chrono::milliseconds kFollowSlice{50};
constexpr std::size_t kFollowMost = 256;

enum class Content { node, chunk };

void add_one(RecordSums& sums, Content content, std::uint64_t stored_bytes) {
  ++sums.records;
  sums.chunks += content == Content::chunk ? 1 : 0;
  sums.stored_bytes += stored_bytes;
}

/// What is in `a` and not in `b`, both sorted, each as often as it is there more often.
Accounting::Roots missing(const Accounting::Roots& a, const Accounting::Roots& b) {
  Accounting::Roots out;
  std::ranges::set_difference(a, b, std::back_inserter(out));
  return out;
}

Accounting::Roots sorted(Accounting::Roots roots) {
  std::ranges::sort(roots);
  return roots;
}

Result<chunks::RecordInfo> look_up(chunks::ChunkStore& chunks, const Ref& ref) {
  if (ref.damaged()) return fail_damaged("a map node is marked as damaged");
  return chunks.record(ref);
}

/// Takes references away, by whatever `Table` makes of that, and sums up what goes. `Table`:
///   std::uint64_t drop_map(key), drop_support(key)    one reference less; those that are left
///   std::uint64_t maps(key), supports(key)            those that are left
template <class Table>
class Dropper {
 public:
  Dropper(chunks::ChunkStore& chunks, Table& table) : chunks_(chunks), table_(table) {}

  Status drop_node(const Ref& ref, int level) {
    if (table_.drop_map(RecordKey(ref)) > 0) return {};
    VARVE_TRY(drop_record(ref, Content::node));
    return chunks::for_each_slot(chunks_, ref, level, [&](std::size_t, const Ref& child) {
      return level == 0 ? drop_chunk(child) : drop_node(child, level - 1);
    });
  }
  [[nodiscard]] const RecordSums& freed() const { return freed_; }

 private:
  Status drop_chunk(const Ref& ref) {
    if (ref.damaged() || table_.drop_map(RecordKey(ref)) > 0) return {};
    return drop_record(ref, Content::chunk);
  }
  /// No map has it any more.
  Status drop_record(const Ref& ref, Content content) {
    VARVE_TRY_ASSIGN(const auto info, look_up(chunks_, ref));
    if (table_.supports(RecordKey(ref)) == 0) add_one(freed_, content, info.stored_bytes);
    for (const Ref& support : info.supports) {
      const RecordKey key(support);
      if (table_.drop_support(key) > 0 || table_.maps(key) > 0) continue;
      VARVE_TRY_ASSIGN(const auto support_info, look_up(chunks_, support));
      add_one(freed_, content, support_info.stored_bytes);
    }
    return {};
  }

  chunks::ChunkStore& chunks_;
  Table& table_;
  RecordSums freed_;
};

}  // namespace

/// The counts themselves. Nothing here may be used any more after an error.
struct Accounting::Counts {
  explicit Counts(chunks::ChunkStore& store) : chunks(store) {}

  Status add_node(const Ref& ref, int level) {
    const RecordKey key(ref);
    if (map_counts.add(key) > 1) return {};
    VARVE_TRY(add_record(ref, Content::node));
    std::uint64_t below = 0;
    VARVE_TRY(chunks::for_each_slot(chunks, ref, level, [&](std::size_t, const Ref& child) -> Status {
      VARVE_TRY(level == 0 ? add_chunk(child) : add_node(child, level - 1));
      below += level == 0 ? 1 : chunks_below(RecordKey(child));
      return {};
    }));
    if (level == 0) {
      leaf_chunks.set(key, static_cast<std::uint16_t>(below));
    } else {
      upper_chunks[key] = below;
    }
    return {};
  }
  Status add_chunk(const Ref& ref) {
    if (ref.damaged() || map_counts.add(RecordKey(ref)) > 1) return {};
    return add_record(ref, Content::chunk);
  }
  Status add_record(const Ref& ref, Content content) {
    VARVE_TRY_ASSIGN(const auto info, look_up(chunks, ref));
    if (support_counts.get(RecordKey(ref)) == 0) add_one(live, content, info.stored_bytes);
    for (const Ref& support : info.supports) {
      const RecordKey key(support);
      if (support_counts.add(key) > 1 || map_counts.get(key) > 0) continue;
      VARVE_TRY_ASSIGN(const auto support_info, look_up(chunks, support));
      add_one(live, content, support_info.stored_bytes);
    }
    return {};
  }
  [[nodiscard]] std::uint64_t chunks_below(const RecordKey& node) const {
    const auto upper = upper_chunks.find(node);
    return upper != upper_chunks.end() ? upper->second : leaf_chunks.get(node);
  }

  // As a Dropper's table.
  std::uint64_t drop_map(const RecordKey& key) {
    const std::uint64_t left = map_counts.subtract(key);
    if (left == 0) {
      leaf_chunks.set(key, 0);
      upper_chunks.erase(key);
    }
    return left;
  }
  std::uint64_t drop_support(const RecordKey& key) { return support_counts.subtract(key); }
  [[nodiscard]] std::uint64_t maps(const RecordKey& key) const { return map_counts.get(key); }
  [[nodiscard]] std::uint64_t supports(const RecordKey& key) const { return support_counts.get(key); }

  [[nodiscard]] std::size_t memory_bytes() const {
    return map_counts.memory_bytes() + support_counts.memory_bytes() + leaf_chunks.memory_bytes() + upper_chunks.size() * 64;
  }

  Status add_root(const Ref& root) {
    ++changes;
    return add_node(root, kRootLevel);
  }
  Result<RecordSums> remove_root(const Ref& root) {
    ++changes;
    Dropper<Counts> dropper(chunks, *this);
    VARVE_TRY(dropper.drop_node(root, kRootLevel));
    live.records -= dropper.freed().records;
    live.chunks -= dropper.freed().chunks;
    live.stored_bytes -= dropper.freed().stored_bytes;
    return dropper.freed();
  }

  chunks::ChunkStore& chunks;
  RecordCounts map_counts;
  RecordCounts support_counts;
  RecordTable<std::uint16_t> leaf_chunks;
  std::unordered_map<RecordKey, std::uint64_t, RecordKeyHash> upper_chunks;  ///< a node in 256 is no leaf
  RecordSums live;
  std::uint64_t changes = 0;  ///< roots that came or went
};

namespace {

/// References taken away on top of counts that stay as they are.
template <class Counts>
class Overlay {
 public:
  explicit Overlay(const Counts& counts) : counts_(counts) {}
  std::uint64_t drop_map(const RecordKey& key) { return drop(maps_[key], counts_.maps(key)); }
  std::uint64_t drop_support(const RecordKey& key) { return drop(supports_[key], counts_.supports(key)); }
  [[nodiscard]] std::uint64_t maps(const RecordKey& key) const { return left(counts_.maps(key), maps_, key); }
  [[nodiscard]] std::uint64_t supports(const RecordKey& key) const { return left(counts_.supports(key), supports_, key); }

 private:
  using Gone = std::unordered_map<RecordKey, std::uint64_t, RecordKeyHash>;
  /// What is taken away more often than it is counted was gone before: nothing goes with it.
  static std::uint64_t drop(std::uint64_t& gone, std::uint64_t counted) {
    return ++gone > counted ? 1 : counted - gone;
  }
  static std::uint64_t left(std::uint64_t counted, const Gone& gone, const RecordKey& key) {
    const auto it = gone.find(key);
    return it == gone.end() ? counted : counted - std::min(counted, it->second);
  }
  const Counts& counts_;
  Gone maps_;
  Gone supports_;
};

}  // namespace

Accounting::Accounting(chunks::ChunkStore& chunks)
    : chunks_(chunks), counts_(std::make_unique<Counts>(chunks)), registration_(chunks.registry().add(*this)) {}

Accounting::~Accounting() = default;

Status Accounting::refuse_if_failed() const {
  if (failure_) return tl::unexpected(*failure_);
  return {};
}

/// Invariant 5.
Status Accounting::failed(Status status) {
  if (status) return status;
  failure_ = status.error().in("what snapshots share is not known until the next mount");
  counts_ = std::make_unique<Counts>(chunks_);
  MutexLock lock(roots_mutex_);
  counted_.clear();
  return tl::unexpected(*failure_);
}

void Accounting::publish() {
  memory_bytes_ = counts_->memory_bytes();
  MutexLock lock(sums_mutex_);
  live_ = counts_->live;
}

Status Accounting::let_go(std::uint64_t owner, const Roots& now) {
  Roots counted;
  {
    MutexLock lock(roots_mutex_);
    counted = counted_[owner];
  }
  const Roots gone = missing(counted, now);
  if (gone.empty()) return {};
  for (const Ref& root : gone) {
    const auto freed = counts_->remove_root(root);
    if (!freed) return failed(tl::unexpected(freed.error()));
    died_bytes_ += freed->stored_bytes;
  }
  publish();
  MutexLock lock(roots_mutex_);
  counted_[owner] = missing(counted, gone);
  return {};
}

/// `held`: their owner has them still, and somebody holds them.
Status Accounting::take_in(std::uint64_t owner, const Roots& held) {
  {
    MutexLock lock(roots_mutex_);
    Roots& counted = counted_[owner];
    counted.insert(counted.end(), held.begin(), held.end());
    std::ranges::sort(counted);
  }
  for (const Ref& root : held) VARVE_TRY(failed(counts_->add_root(root)));
  publish();
  return {};
}

Result<bool> Accounting::follow(std::uint64_t owner, const Look& look) {
  MutexLock lock(mutex_);
  VARVE_TRY(refuse_if_failed());
  const Roots now = sorted(look());
  VARVE_TRY(let_go(owner, now));
  Roots counted;
  {
    MutexLock roots(roots_mutex_);
    counted = counted_[owner];
  }
  Roots fresh = missing(now, counted);
  if (fresh.empty()) return false;
  const bool all = fresh.size() <= kFollowMost;
  if (!all) fresh.resize(kFollowMost);
  chunks::RootRegistry::Hold hold(chunks_.registry());
  std::erase_if(fresh, [&](const Ref& root) { return !hold.try_hold_root(root); });
  // Held first, then seen again: one that was deleted in between may have been collected.
  const Roots again = sorted(look());
  Roots there;
  std::ranges::set_intersection(fresh, again, std::back_inserter(there));
  const auto end = std::chrono::steady_clock::now() + kFollowSlice;
  for (std::size_t i = 0; i < there.size(); ++i) {
    VARVE_TRY(take_in(owner, {there[i]}));
    if (i + 1 < there.size() && std::chrono::steady_clock::now() > end) return true;
  }
  return !all || there.size() != fresh.size();
}

Status Accounting::release(std::uint64_t owner, const Look& look) {
  MutexLock lock(mutex_);
  if (failure_) return {};  // nothing is held
  return let_go(owner, sorted(look()));
}

Result<RecordSums> Accounting::freed_without(std::span<const Ref> roots) {
  return Removal(*this).remove(roots);
}

namespace {

template <class Table>
Result<RecordSums> drop_roots(chunks::ChunkStore& chunks, Table& table, std::span<const Ref> roots) {
  Dropper<Table> dropper(chunks, table);
  for (const Ref& root : roots) VARVE_TRY(dropper.drop_node(root, kRootLevel));
  return dropper.freed();
}

}  // namespace

struct Accounting::Removal::Implementation {
  explicit Implementation(Accounting& owner) : accounting(owner) {}
  /// The overlay of all that was removed, over the counts as they are now.
  Status bring_up_to_date() VARVE_REQUIRES(accounting.mutex_);

  Accounting& accounting;
  std::vector<Ref> removed;
  std::unique_ptr<Overlay<Counts>> overlay;
  std::uint64_t changes = 0;  ///< of the counts that `overlay` was made for
};

Status Accounting::Removal::Implementation::bring_up_to_date() {
  VARVE_TRY(accounting.refuse_if_failed());
  if (overlay && changes == accounting.counts_->changes) return {};
  changes = accounting.counts_->changes;
  overlay = std::make_unique<Overlay<Counts>>(*accounting.counts_);
  auto again = drop_roots(accounting.chunks_, *overlay, removed);
  if (again) return {};
  overlay.reset();
  return tl::unexpected(std::move(again).error());
}

Accounting::Removal::Removal(Accounting& accounting) : implementation_(std::make_unique<Implementation>(accounting)) {}
Accounting::Removal::~Removal() = default;
Accounting::Removal::Removal(Removal&&) noexcept = default;
Accounting::Removal& Accounting::Removal::operator=(Removal&&) noexcept = default;

Result<RecordSums> Accounting::Removal::remove(std::span<const Ref> roots) {
  Implementation& self = *implementation_;
  MutexLock lock(self.accounting.mutex_);
  VARVE_TRY(self.bring_up_to_date());
  auto freed = drop_roots(self.accounting.chunks_, *self.overlay, roots);
  if (freed) {
    self.removed.insert(self.removed.end(), roots.begin(), roots.end());
  } else {
    self.overlay.reset();
  }
  return freed;
}

Result<RecordSums> Accounting::Removal::would_free(std::span<const Ref> roots) {
  Implementation& self = *implementation_;
  MutexLock lock(self.accounting.mutex_);
  VARVE_TRY(self.bring_up_to_date());
  Overlay<Overlay<Counts>> above(*self.overlay);
  return drop_roots(self.accounting.chunks_, above, roots);
}

Result<std::uint64_t> Accounting::chunks_in(const MaybeRef& root) {
  if (!root) return std::uint64_t{0};
  MutexLock lock(mutex_);
  VARVE_TRY(refuse_if_failed());
  return counts_->chunks_below(RecordKey(*root));
}

Result<RecordSums> Accounting::reached_by(std::span<const Ref> roots) {
  Counts walked(chunks_);
  for (const Ref& root : roots) VARVE_TRY(walked.add_root(root));
  return walked.live;
}

std::size_t Accounting::counted_roots(std::uint64_t owner) {
  MutexLock lock(roots_mutex_);
  const auto it = counted_.find(owner);
  return it == counted_.end() ? 0 : it->second.size();
}

RecordSums Accounting::live() const {
  MutexLock lock(sums_mutex_);
  return live_;
}

void Accounting::visit_roots(const std::function<void(const MaybeRef&)>& visit) {
  Roots all;
  {
    MutexLock lock(roots_mutex_);
    for (const auto& [owner, roots] : counted_) all.insert(all.end(), roots.begin(), roots.end());
  }
  all.erase(std::unique(all.begin(), all.end()), all.end());
  for (const Ref& root : all) visit(root);
}

/// Counts everything once more from the roots, and compares the sums and, record by record, the counts that differ.
Result<std::optional<std::string>> Accounting::verify() {
  MutexLock lock(mutex_);
  VARVE_TRY(refuse_if_failed());
  Roots all;
  {
    MutexLock roots(roots_mutex_);
    for (const auto& [owner, counted] : counted_) all.insert(all.end(), counted.begin(), counted.end());
  }
  Counts fresh(chunks_);
  for (const Ref& root : all) VARVE_TRY(fresh.add_root(root));
  const RecordSums& have = counts_->live;
  if (have != fresh.live) {
    return fmt::format("{} records, {} chunks, {} bytes are counted; a walk finds {}, {}, {}", have.records, have.chunks,
                       have.stored_bytes, fresh.live.records, fresh.live.chunks, fresh.live.stored_bytes);
  }
  const Counts& mine = *counts_;
  std::optional<std::string> difference;
  const auto compare = [&](const RecordKey& key, std::uint64_t counted, std::uint64_t walked, const char* what) {
    if (counted == walked || difference) return;
    difference = fmt::format("pack {:016x}/{}: {} {} are counted, a walk finds {}", key.pack.value(), key.ordinal, counted, what,
                             walked);
  };
  fresh.map_counts.for_each([&](const RecordKey& key, std::uint64_t n) { compare(key, mine.maps(key), n, "slots"); });
  mine.map_counts.for_each([&](const RecordKey& key, std::uint64_t n) { compare(key, n, fresh.maps(key), "slots"); });
  fresh.support_counts.for_each([&](const RecordKey& key, std::uint64_t n) { compare(key, mine.supports(key), n, "deltas"); });
  mine.support_counts.for_each([&](const RecordKey& key, std::uint64_t n) { compare(key, n, fresh.supports(key), "deltas"); });
  return difference;
}

}  // namespace varve::snapshot
