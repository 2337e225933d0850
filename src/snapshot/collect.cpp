// Collect: what no root reaches, goes; pack by pack.
//
// Steps, and what holds from each on:
//
//     begin     Mark, then list packs     1. a pack is removed only if it was listed before the mark: a newer one is
//                                            never touched.
//     mark      roots -> walk_records     2. every record that a root reached when the visit began is marked. Roots
//                                            that moved from a hold to an owner meanwhile are kept visible by Mark.
//     mark      again, what is new        3. so is what came to be reached since: nothing known to this process is
//                                            unmarked unless it is held.
//     for each listed pack without a mark:
//       condemn                           4. a held pack is refused here, and a condemned one can't be held any more:
//                                            whoever comes second loses (root_registry.h).
//       remove_pack                       5. only a condemned pack loses bytes.
//       absolve                           6. no pack stays condemned, whatever happened.
//
//  7. A node that cannot be read ends it before step "condemn": what it stood for is unknown, so everything may be
//     alive. So does a pack whose table cannot be read: its deltas stand on something. A damaged *chunk* whose pack can
//     tell what it is stands for nothing else.
//  8. Each node is walked once, whatever the number of roots that reach it: cost follows distinct metadata.
//  9. A crash leaves packs that are gone or whole; the next mark starts from nothing.
#include "varve/snapshot/collect.h"

#include <optional>
#include <unordered_set>
#include <vector>

#include "record_set.h"
#include "varve/chunks/chunk_map.h"
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

class Marker {
 public:
  Marker(chunks::ChunkStore& chunks, const std::function<bool()>& stop) : chunks_(chunks), stop_(stop) {}

  /// Marks what roots reach now and did not before. EIO: a node cannot be read. ECANCELED.
  Status mark() {
    const chunks::RecordVisitor visitor{
        .first_visit = [this](const Ref& ref, RecordKind content) { return first_visit(ref, content); },
        .visit_base = [this](const Ref& base, RecordKind) { live_.insert(base); },
        .on_damage = [this](const Ref& ref, const Error& error) { note_damage(ref, error); }};
    for (const Ref& root : new_roots()) {
      chunks::walk_records(chunks_, root, visitor);
      if (stopped_) return stopped();
      if (unreadable_) return tl::unexpected(*unreadable_);
    }
    return {};
  }
  [[nodiscard]] bool keeps(PackId pack) const { return live_.names_pack(pack); }
  [[nodiscard]] std::uint64_t live_records() const { return live_.size(); }

 private:
  /// Gathered before they are walked: the registry waits while it is visited.
  std::vector<Ref> new_roots() {
    std::vector<Ref> roots;
    chunks_.registry().visit_roots([&](const MaybeRef& root) {
      if (root && walked_.insert(*root).second) roots.push_back(*root);
    });
    return roots;
  }

  /// False prunes the walk, which also ends it soon once there is a reason to.
  bool first_visit(const Ref& ref, RecordKind kind) {
    if (!stopped_ && stop_ && stop_()) stopped_ = true;
    if (stopped_ || unreadable_) return false;
    if (ref.damaged()) {
      if (kind == RecordKind::node) note_damage(ref, Error{EIO, ErrorKind::damaged, "a map node is marked as damaged"});
      return false;
    }
    const bool is_new = live_.insert(ref);
    // A node may be alive already as what a delta stands on, and what is below it not.
    return kind == RecordKind::node ? walked_nodes_.insert(ref) : is_new;
  }

  void note_damage(const Ref& ref, const Error& error) {
    if (!unreadable_) unreadable_ = error.in("cannot tell what is alive below " + chunks::to_text(ref));
  }

  chunks::ChunkStore& chunks_;
  const std::function<bool()>& stop_;
  RecordSet live_;
  RecordSet walked_nodes_;
  std::unordered_set<Ref> walked_;
  std::optional<Error> unreadable_;
  bool stopped_ = false;
};

/// A pack that nobody marked. True when it is gone.
Result<bool> remove_dead(chunks::ChunkStore& chunks, PackId pack, Collected& collected) {
  const auto size = chunks.pack_size(pack);
  if (!chunks.registry().condemn(pack)) return false;
  const Status removed = chunks.remove_pack(pack);
  chunks.registry().absolve(pack);
  VARVE_TRY(removed);
  ++collected.packs_removed;
  if (size) collected.bytes_removed += size->value();
  return true;
}

}  // namespace

Result<Collected> collect_dead_packs(chunks::ChunkStore& chunks, const std::function<bool()>& stop) {
  if (const auto swept = chunks::remove_superseded_packs(chunks); !swept) {
    log::warning("an old generation of a pack stays: {}", swept.error().message);
  }
  const chunks::RootRegistry::Mark mark(chunks.registry());
  VARVE_TRY_ASSIGN(const std::vector<PackId> packs, chunks.list_packs());
  Marker marker(chunks, stop);
  VARVE_TRY(marker.mark());
  VARVE_TRY(marker.mark());
  Collected collected;
  collected.live_records = marker.live_records();
  collected.packs_seen = packs.size();
  std::optional<Error> failed;
  for (const PackId pack : packs) {
    if (stop && stop()) return tl::unexpected(stopped().error());
    if (marker.keeps(pack)) continue;
    if (const auto gone = remove_dead(chunks, pack, collected); !gone) {
      // One pack that cannot go (a bad sector in its directory, a read-only moment) must not keep the others.
      log::warning("a dead pack could not be removed: {}", gone.error().message);
      if (!failed) failed = gone.error();
    }
  }
  if (failed) return tl::unexpected(*failed);
  return collected;
}

}  // namespace varve::snapshot
