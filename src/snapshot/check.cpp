// Check: every record that the targets stand on, read and verified once, and for each target what of it is lost.
//
// Targets share most of their maps, so what is known of a subtree is kept: one bit for a node below which all is well,
// and an entry with count and first loss for each node below which something is not. A later target that reaches the
// node takes that over. Only the few nodes that the ends of an image, or of a part of one, cut (two a level) are looked
// through once more for each target, since what lies outside does not count; their records are still read once.
#include "varve/snapshot/check.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "checker.h"
#include "unreadable.h"

namespace varve::snapshot {
namespace {

constexpr std::uint64_t kProgressEvery = 64;  ///< records

}  // namespace

Status Checker::check(const CheckTarget& target) {
  Loss loss;
  const auto add = [&](const CheckPart& part) -> Status {
    VARVE_TRY_ASSIGN(const Loss found, check_part(part));
    loss.add(found, 0);
    return {};
  };
  if (target.parts) {
    VARVE_TRY(target.parts(add));
  } else {
    VARVE_TRY(add({target.root, ChunkIndex{0}, chunks_.geometry().chunks_in(target.size), ChunkIndex{0}}));
  }
  if (loss.chunks == 0) return {};
  const ByteOffset at = chunks_.geometry().start_of(ChunkIndex{loss.first});
  checked_.damaged.push_back(
      {target.name, loss.chunks, fmt::format("chunk {} (bytes from {}): {}", loss.first, at.value(), *loss.reason)});
  return {};
}

Result<Loss> Checker::check_part(const CheckPart& part) {
  constexpr int kRootLevel = chunks::kMapHeight - 1;
  const Range range{part.source.value(),
                    std::min((part.source + part.count).value(), span_of(kRootLevel))};
  if (!part.root || range.begin >= range.end) return Loss{};
  discovered(*part.root, kRootLevel);
  VARVE_TRY_ASSIGN(Loss loss, check_subtree(*part.root, kRootLevel, range));
  // Counted from the map's first chunk until here.
  loss.first = loss.first - part.source.value() + part.at.value();
  return loss;
}

Checked Checker::finish() {
  if (progress_) progress_(checked_.records, seen_chunks_.size() + seen_nodes_.size());
  checked_.bytes = chunks_.counters().bytes_loaded - bytes_before_;
  return std::move(checked_);
}

Result<Loss> Checker::check_subtree(const Ref& ref, int level, Range range) {
  if (level < 0) {
    VARVE_TRY_ASSIGN(const Reason reason, verify(ref, RecordKind::full));
    return reason ? Loss{1, 0, reason} : Loss{};
  }
  const bool whole = range.begin == 0 && range.end >= span_of(level);
  if (whole && sound_.contains(ref)) return Loss{};
  if (const auto known = losses_.find(ref); whole && known != losses_.end()) return known->second;
  VARVE_TRY_ASSIGN(Loss loss, check_slots(ref, level, range));
  if (!whole) return loss;
  if (loss.chunks == 0) {
    sound_.insert(ref);
  } else {
    losses_.emplace(ref, loss);
  }
  return loss;
}

Result<Loss> Checker::check_slots(const Ref& node, int level, Range range) {
  VARVE_TRY_ASSIGN(const Reason reason, verify(node, RecordKind::node));
  if (reason) return Loss{range.end - range.begin, range.begin, reason};
  std::vector<std::pair<std::uint64_t, Ref>> children;
  const std::uint64_t step = span_of(level - 1);
  const Status listed = chunks::for_each_slot(chunks_, node, level, [&](std::size_t slot, const Ref& ref) -> Status {
    const std::uint64_t at = slot * step;
    if (at >= range.end || at + step <= range.begin) return {};
    discovered(ref, level - 1);
    children.emplace_back(at, ref);
    return {};
  });
  if (!listed) {
    if (!bytes_are_lost(listed.error())) return tl::unexpected(listed.error());
    return Loss{range.end - range.begin, range.begin, std::make_shared<const std::string>(listed.error().message)};
  }
  Loss loss;
  for (const auto& [at, ref] : children) {
    VARVE_TRY_ASSIGN(const Loss below, check_subtree(ref, level - 1, range.within(at, step)));
    loss.add(below, at);
  }
  return loss;
}

void Checker::discovered(const Ref& ref, int level) {
  if (!ref.damaged()) (level < 0 ? seen_chunks_ : seen_nodes_).insert(ref);
}

Result<Reason> Checker::verify(const Ref& ref, RecordKind kind) {
  static const Reason kUnreadable =
      std::make_shared<const std::string>("it could not be read from the live image when the snapshot was committed");
  if (ref.damaged()) return kUnreadable;
  RecordSet& read = kind == RecordKind::node ? read_nodes_ : read_chunks_;
  if (read.contains(ref)) {
    const auto known = lost_.find(ref);
    return known == lost_.end() ? Reason{} : known->second.reason;
  }
  if (stop_ && stop_()) return fail(ECANCELED, ErrorKind::refused, "the check was stopped");
  VARVE_TRY_ASSIGN(const Reason reason, verify_now(ref, kind));
  read.insert(ref);
  if (reason) lost_.insert_or_assign(ref, Lost{kind, reason});
  ++checked_.records;
  if (progress_ && checked_.records % kProgressEvery == 0) {
    progress_(checked_.records, seen_chunks_.size() + seen_nodes_.size());
  }
  return reason;
}

/// Lost bytes are a finding; a machine that is short of something is an error.
Result<Reason> Checker::verify_now(const Ref& ref, RecordKind kind) {
  refresh_table(ref.pack);
  const Status verified = chunks_.verify_record(ref, kind);
  if (!verified && !bytes_are_lost(verified.error())) return tl::unexpected(verified.error());
  VARVE_TRY_ASSIGN(const Reason support_lost, verify_supports(ref, kind));
  if (verified) return support_lost;
  return std::make_shared<const std::string>(verified.error().message);
}

/// A delta is as well as its base, which is verified by itself: its bytes may have been at hand, and repair asks for what
/// is lost, of all of them: it would need a round for each otherwise.
Result<Reason> Checker::verify_supports(const Ref& ref, RecordKind kind) {
  const auto supports = chunks_.supports_of(ref);
  if (!supports) {
    if (!bytes_are_lost(supports.error())) return tl::unexpected(supports.error());
    return std::make_shared<const std::string>(supports.error().message);
  }
  if (supports->empty()) return Reason{};
  Reason first;
  for (const Ref& lender : std::span(*supports).subspan(1)) {
    VARVE_TRY_ASSIGN(const Reason gone, verify_lender(lender, kind));
    if (!first) first = gone;
  }
  // As only a forger has it. Followed, a circle of them would have no end.
  const Ref& base = supports->front();
  refresh_table(base.pack);
  if (const auto below = chunks_.supports_of(base); below && !below->empty()) {
    return std::make_shared<const std::string>(chunks::to_text(ref) + ": a delta stands on a delta");
  }
  (kind == RecordKind::node ? seen_nodes_ : seen_chunks_).insert(base);
  VARVE_TRY_ASSIGN(const Reason base_lost, verify(base, kind));
  return first ? first : base_lost;
}

/// That it is there: if it is only there to lend, it is verified by the digest of who takes, and not by its own.
Result<Reason> Checker::verify_lender(const Ref& lender, RecordKind kind) {
  refresh_table(lender.pack);
  const auto record = chunks_.record(lender);
  if (record && record->digest == lender.digest) return Reason{};
  if (!record && !bytes_are_lost(record.error())) return tl::unexpected(record.error());
  Reason gone = std::make_shared<const std::string>(chunks::to_text(lender) + " is not in its pack");
  lost_.emplace(lender, Lost{kind, gone, true});
  return gone;
}

/// verify_record() goes by a table that may be in the cache: once a pack it is read from disk again, which drops one
/// that is not good any more. What is wrong with the file beyond that (its header) keeps nobody from reading.
void Checker::refresh_table(PackId pack) {
  if (tables_.insert(pack).second) (void)chunks_.pack_table(pack);
}

Result<Checked> check_targets(chunks::ChunkStore& chunks, const std::vector<CheckTarget>& targets,
                              const std::function<void(std::uint64_t done, std::uint64_t total)>& progress,
                              const std::function<bool()>& stop) {
  // A snapshot that is deleted meanwhile must not look damaged because collect took its packs.
  chunks::RootRegistry::Hold hold(chunks.registry());
  Checker checker(chunks, progress, stop);
  for (const CheckTarget& target : targets) {
    if (!hold.try_hold_root(target.root)) continue;
    VARVE_TRY(checker.check(target));
  }
  return checker.finish();
}

}  // namespace varve::snapshot
