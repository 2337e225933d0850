// Collect: what no root reaches, goes; pack by pack.
//
//     phase      does                               next
//     listing    Mark begins; lists the packs       marking
//     marking    walks all roots, twice             sweeping; on damage or a stop the end
//     dead       removes packs without a mark       thinning
//     thinning   frees unmarked records of the      the end
//                others (chunks/free_records.h)
//
// Invariants, by the phase from whose begin on they hold:
//
//     listing    1. A pack is touched only if it was listed before the mark: a newer one never is.
//     marking    2. Every record that a root reached when the first visit began gets marked. Roots that move from a hold to
//                   an owner meanwhile are kept visible by Mark.
//                3. So is, by the second visit, what came to be reached since: nothing known to this process is unmarked
//                   unless its pack is held.
//                4. Each node is walked once, whatever the number of roots that reach it: cost follows distinct metadata.
//                5. What a walked delta stands on is marked, but not therefore walked: what is below a node, or what a
//                   delta stands on that lends blocks, is alive only if a map has it too.
//     dead       6. Nothing was unreadable: a node stands for what is below it, and a pack without a table for what its
//                   deltas stand on. A damaged *chunk* whose pack can tell what it is stands for nothing else.
//                7. Only records lose bytes that are unmarked and in a pack that nobody holds, or held since the mark
//                   began: RootRegistry::condemn is the last look, and who comes later is refused them.
//                8. Mark lives until the last pack is done, else 7 would not see who came and went.
//     end        9. No pack stays condemned (but see free_records.cpp, 6), whatever happened.
//
// A crash leaves each pack as it was or as it shall be; the next mark starts from nothing, and what was freed is not there
// any more. So it can be interrupted at any time, and goes on where it was.
#include "varve/snapshot/collect.h"

#include <cassert>
#include <optional>
#include <unordered_set>
#include <utility>
#include <vector>

#include "record_set.h"
#include "varve/chunks/chunk_map.h"
#include "varve/chunks/free_records.h"
#include "varve/chunks/join_packs.h"
#include "varve/chunks/pack_repair.h"
#include "varve/core/log.h"

namespace varve::snapshot {
namespace {

using chunks::MaybeRef;
using chunks::RecordKind;
using chunks::Ref;

Status stopped() {
  return fail(ECANCELED, ErrorKind::refused, "collecting was stopped");
}

constexpr std::uint64_t kPaceEvery = 64;  ///< records

class Marker {
 public:
  Marker(chunks::ChunkStore& chunks, const CollectOptions& options) : chunks_(chunks), options_(options) {}

  /// Marks what roots reach now and did not before. EIO: a node cannot be read. ECANCELED.
  Status mark() {
    const chunks::RecordVisitor visitor{
        .first_visit = [this](const Ref& ref, RecordKind content) { return first_visit(ref, content); },
        .visit_support = [this](const Ref& support, RecordKind) { live_.insert(support); },
        .on_damage = [this](const Ref& ref, const Error& error) { note_damage(ref, error); },
        .supports_of_chunks = false};
    for (const Ref& root : new_roots()) {
      chunks::walk_records(chunks_, root, visitor);
      if (stopped_) return stopped();
      if (unreadable_) return tl::unexpected(*unreadable_);
    }
    return mark_supports_of_chunks();
  }
  [[nodiscard]] bool keeps(PackId pack) const { return live_.names_pack(pack); }
  [[nodiscard]] bool keeps(const Ref& ref) const { return live_.contains(ref); }
  [[nodiscard]] std::uint64_t live_records() const { return live_.size(); }

 private:
  /// Gathered before they are walked: the registry waits while it is visited.
  std::vector<Ref> new_roots() {
    std::vector<Ref> roots;
    chunks_.registry().visit_roots([&](const MaybeRef& root) {
      if (root && walked_roots_.insert(*root).second) roots.push_back(*root);
    });
    return roots;
  }

  /// Invariant 5, pack by pack: each table is read once.
  Status mark_supports_of_chunks() {
    for (const PackId pack : std::exchange(packs_walked_, {})) {
      if (options_.stop && options_.stop()) return stopped();
      const auto table = chunks_.pack_table(pack);
      if (!table) return tl::unexpected(table.error().in("cannot tell what is alive"));
      for (const chunks::RecordInfo& record : *table) {
        if (record.kind != RecordKind::delta || !walked_.contains({pack, record.ordinal, record.digest})) continue;
        for (const Ref& support : record.supports) live_.insert(support);
      }
      if (options_.pace) options_.pace(kPaceEvery, 0);
    }
    return {};
  }

  /// False prunes the walk, which also ends it soon once there is a reason to.
  bool first_visit(const Ref& ref, RecordKind kind) {
    if (!stopped_ && options_.stop && options_.stop()) stopped_ = true;
    if (stopped_ || unreadable_) return false;
    if (ref.damaged()) {
      if (kind == RecordKind::node) note_damage(ref, Error{EIO, ErrorKind::damaged, "a map node is marked as damaged"});
      return false;
    }
    if (options_.pace && ++visited_ % kPaceEvery == 0) options_.pace(kPaceEvery, 0);
    live_.insert(ref);
    if (kind == RecordKind::full) packs_walked_.insert(ref.pack);
    // It may be alive already as what a delta stands on, and what is below it, or what it stands on itself, not.
    return walked_.insert(ref);
  }

  void note_damage(const Ref& ref, const Error& error) {
    if (!unreadable_) unreadable_ = error.in("cannot tell what is alive below " + chunks::to_text(ref));
  }

  chunks::ChunkStore& chunks_;
  const CollectOptions& options_;
  std::uint64_t visited_ = 0;
  RecordSet live_;
  RecordSet walked_;
  std::unordered_set<PackId> packs_walked_;  ///< with chunks that were met since the last mark_supports_of_chunks()
  std::unordered_set<Ref> walked_roots_;
  std::optional<Error> unreadable_;
  bool stopped_ = false;
};

/// The phases; the one under way is asserted by what belongs to it.
class Collection {
 public:
  Collection(chunks::ChunkStore& chunks, const CollectOptions& options)
      : chunks_(chunks), options_(options), mark_(chunks.registry()), marker_(chunks, options) {}

  Result<Collected> run() {
    VARVE_TRY_ASSIGN(packs_, chunks_.list_packs());
    enter(Phase::marking);
    VARVE_TRY(marker_.mark());
    VARVE_TRY(marker_.mark());
    collected_.live_records = marker_.live_records();
    collected_.packs_seen = packs_.size();
    enter(Phase::dead);
    VARVE_TRY(sweep(false));
    enter(Phase::thinning);
    VARVE_TRY(sweep(true));
    if (failed_) return tl::unexpected(*failed_);
    return collected_;
  }

 private:
  enum class Phase { listing, marking, dead, thinning };
  void enter(Phase next) {
    assert(static_cast<int>(next) == static_cast<int>(phase_) + 1);
    phase_ = next;
  }

  /// The packs of which something is alive, or the others.
  Status sweep(bool alive) {
    for (const PackId pack : packs_) {
      if (marker_.keeps(pack) != alive) continue;
      if (options_.stop && options_.stop()) return stopped();
      free(pack, alive);
      if (options_.progress) options_.progress(++done_, packs_.size());
    }
    return {};
  }

  void free(PackId pack, bool alive) {
    assert(phase_ == (alive ? Phase::thinning : Phase::dead));
    const std::function<bool(const Ref&)> keeps = [this](const Ref& ref) { return marker_.keeps(ref); };
    const auto freed = chunks::free_records(chunks_, pack, alive ? keeps : nullptr);
    if (!freed) {
      log::warning("a pack could not be collected: {}", freed.error().message);
      if (!failed_) failed_ = freed.error();
      return;
    }
    assert(alive || freed->how == chunks::Freed::How::removed || freed->how == chunks::Freed::How::busy);
    add(*freed);
    if (options_.pace) options_.pace(0, freed->written_bytes);
  }

  void add(const chunks::Freed& freed) {
    collected_.packs_removed += freed.how == chunks::Freed::How::removed ? 1 : 0;
    collected_.packs_rewritten += freed.how == chunks::Freed::How::rewritten ? 1 : 0;
    collected_.packs_punched += freed.how == chunks::Freed::How::punched ? 1 : 0;
    collected_.records_removed += freed.records;
    collected_.record_bytes += freed.record_bytes;
    collected_.bytes_removed += freed.disk_bytes;
    collected_.bytes_written += freed.written_bytes;
    collected_.waiting_records += freed.waiting_records;
    collected_.waiting_bytes += freed.waiting_bytes;
  }

  chunks::ChunkStore& chunks_;
  const CollectOptions& options_;
  const chunks::RootRegistry::Mark mark_;  ///< invariant 8
  Marker marker_;
  Phase phase_ = Phase::listing;
  std::vector<PackId> packs_;
  std::uint64_t done_ = 0;
  Collected collected_;
  std::optional<Error> failed_;
};

/// How many. No part of the collection: nothing dies of it, and nobody waits for it.
std::uint64_t join_small_packs(chunks::ChunkStore& chunks, const CollectOptions& options) {
  chunks::JoinPacksOptions join;
  join.stop = options.stop;
  if (options.pace) join.pace = [&](std::uint64_t bytes) { options.pace(0, bytes); };
  const auto joined = chunks::join_packs(chunks, join);
  if (joined) return joined->objects;
  if (joined.error().code != ECANCELED) log::warning("small packs were not joined: {}", joined.error().message);
  return 0;
}

}  // namespace

Result<Collected> collect_garbage(chunks::ChunkStore& chunks, const CollectOptions& options) {
  if (const auto swept = chunks::remove_superseded_packs(chunks); !swept) {
    log::warning("an old generation of a pack stays: {}", swept.error().message);
  }
  auto collected = Collection(chunks, options).run();
  if (collected) collected->packs_joined = join_small_packs(chunks, options);
  return collected;
}

}  // namespace varve::snapshot
