// Repair, round by round:
//
//     survey     check all targets                    lost records, by pack; packs whose own structure is damaged
//     uses       walk to the lost chunks              where in which disks' images they are
//     tables     of all packs                         other records with the digests that are lost
//     repair     pack by pack (chunks/pack_repair.h)  each lost record: from the pack itself, the cache, another record,
//                                                     the live side
//
// until a round repairs nothing; then packs without a table are settled. Everything found is verified against the digest
// before it is written and after, but for deltas that are only there to lend their blocks: what else they were made of
// may be gone. The next round verifies them with what takes the blocks.
#include "varve/snapshot/repair.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <unordered_map>
#include <unordered_set>

#include "checker.h"
#include "varve/chunks/pack_repair.h"
#include "varve/core/log.h"
#include "varve/core/same_bytes.h"

namespace varve::snapshot {
namespace {

using chunks::BytesPointer;
using chunks::LostRecord;

constexpr int kMostRounds = 6;  ///< a root, three levels below it, chunks; and one that finds nothing to do
constexpr std::size_t kMostUses = 16;
constexpr std::size_t kMostDuplicates = 8;

/// Where a lost chunk is in an image.
struct Use {
  std::size_t target = 0;
  ChunkIndex chunk;
};

/// Finds where lost chunks are, walking only what has lost something.
class UseFinder {
 public:
  UseFinder(chunks::ChunkStore& chunks, const Checker& checker) : chunks_(chunks), checker_(checker) {}

  Status visit(const std::vector<CheckTarget>& targets) {
    for (std::size_t i = 0; i < targets.size(); ++i) {
      target_ = i;
      disk_ = targets[i].disk;
      if (targets[i].parts) {
        VARVE_TRY(targets[i].parts([this](const CheckPart& part) { return visit_part(part); }));
      } else {
        VARVE_TRY(visit_part({targets[i].root, ChunkIndex{0}, chunks_.geometry().chunks_in(targets[i].size), {}}));
      }
    }
    return {};
  }
  [[nodiscard]] const std::vector<Use>& of(const Ref& ref) const {
    static const std::vector<Use> kNone;
    const auto found = uses_.find(ref);
    return found == uses_.end() ? kNone : found->second;
  }

 private:
  Status visit_part(const CheckPart& part) {
    constexpr int kRootLevel = chunks::kMapHeight - 1;
    // Modulo 2^64: the map's chunk and the image's differ by this.
    shift_ = part.at.value() - part.source.value();
    const Range range{part.source.value(), std::min((part.source + part.count).value(), span_of(kRootLevel))};
    if (part.root && range.begin < range.end) walk(*part.root, kRootLevel, 0, range);
    return {};
  }

  /// The subtree of `ref` begins at chunk `start` of the map; `range` is counted from there.
  void walk(const Ref& ref, int level, std::uint64_t start, Range range) {
    if (level < 0) {
      if (!checker_.lost().contains(ref)) return;
      auto& uses = uses_[ref];
      if (uses.size() < kMostUses) uses.push_back({target_, ChunkIndex{start + shift_}});
      return;
    }
    if (checker_.sound(ref) || checker_.lost().contains(ref)) return;
    // Snapshots of one disk share most: once is enough.
    if (!visited_.insert({disk_, ref, start + shift_, range.begin, range.end}).second) return;
    const std::uint64_t step = span_of(level - 1);
    const Status walked = chunks::for_each_slot(chunks_, ref, level, [&](std::size_t slot, const Ref& child) -> Status {
      const std::uint64_t at = slot * step;
      if (at < range.end && at + step > range.begin) walk(child, level - 1, start + at, range.within(at, step));
      return {};
    });
    if (!walked) log::debug("repair: {}", walked.error().message);
  }

  struct Visited {
    DiskId disk;
    Ref node;
    std::uint64_t at = 0;
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
    friend auto operator<=>(const Visited&, const Visited&) = default;
  };

  chunks::ChunkStore& chunks_;
  const Checker& checker_;
  std::size_t target_ = 0;
  DiskId disk_;
  std::uint64_t shift_ = 0;
  std::set<Visited> visited_;
  std::unordered_map<Ref, std::vector<Use>> uses_;
};

class Repair {
 public:
  Repair(chunks::ChunkStore& chunks, const std::vector<CheckTarget>& targets, const OfferLiveBytes& offer_live,
         const std::function<void(std::uint64_t, std::uint64_t)>& progress, const std::function<bool()>& stop)
      : chunks_(chunks), targets_(targets), offer_live_(offer_live), progress_(progress), stop_(stop) {}

  Result<Repaired> run() {
    for (int round = 0; round < kMostRounds; ++round) {
      VARVE_TRY_ASSIGN(const bool better, repair_round());
      if (!better) break;
    }
    VARVE_TRY(settle());
    return std::move(result_);
  }

 private:
  Result<bool> repair_round();
  Status survey(Checker& checker);
  Status find_duplicates(const LostRecords& lost);
  Result<bool> repair_one(PackId pack);
  Status settle();
  BytesPointer find_elsewhere(const LostRecord& record, const UseFinder& uses);
  BytesPointer find_stored(const LostRecord& record);
  BytesPointer find_live(const LostRecord& record, const UseFinder& uses);
  void say(std::vector<std::string>& sentences, std::string sentence) {
    if (sentences.size() < kMostSentences) sentences.push_back(std::move(sentence));
  }

  chunks::ChunkStore& chunks_;
  const std::vector<CheckTarget>& targets_;
  const OfferLiveBytes& offer_live_;
  const std::function<void(std::uint64_t, std::uint64_t)>& progress_;
  const std::function<bool()>& stop_;
  const UseFinder* uses_ = nullptr;  ///< of this round
  std::map<PackId, std::vector<LostRecord>> packs_;
  std::unordered_map<Ref, std::string> reasons_;
  std::unordered_map<Digest, std::vector<Ref>> duplicates_;
  std::unordered_map<Ref, std::string> sources_;
  Repaired result_;
};

Result<bool> Repair::repair_round() {
  chunks::RootRegistry::Hold hold(chunks_.registry());
  Checker checker(chunks_, progress_, stop_);
  for (const CheckTarget& target : targets_) {
    if (hold.try_hold_root(target.root)) VARVE_TRY(checker.check(target));
  }
  VARVE_TRY(survey(checker));
  result_.failed.clear();
  result_.lost = 0;
  if (packs_.empty()) return false;
  UseFinder uses(chunks_, checker);
  VARVE_TRY(uses.visit(targets_));
  uses_ = &uses;
  VARVE_TRY(find_duplicates(checker.lost()));
  bool better = false;
  for (const auto& [pack, lost] : packs_) {
    if (stop_ && stop_()) return fail(ECANCELED, ErrorKind::refused, "the repair was stopped");
    VARVE_TRY_ASSIGN(const bool repaired, repair_one(pack));
    better = better || repaired;
  }
  return better;
}

/// What is lost, by pack; and packs that are damaged in themselves.
Status Repair::survey(Checker& checker) {
  packs_.clear();
  reasons_.clear();
  for (const auto& [ref, lost] : checker.lost()) {
    packs_[ref.pack].push_back({ref, lost.kind, lost.only_lends});
    reasons_[ref] = *lost.reason;
  }
  VARVE_TRY_ASSIGN(const auto packs, chunks_.list_packs());
  for (const PackId pack : packs) {
    const auto table = chunks_.pack_table(pack);
    if (!table && table.error().kind == ErrorKind::damaged) packs_[pack];
  }
  return {};
}

Status Repair::find_duplicates(const LostRecords& lost) {
  duplicates_.clear();
  if (lost.empty()) return {};
  std::unordered_map<Digest, RecordKind> wanted;
  for (const auto& [ref, record] : lost) wanted.emplace(ref.digest, record.kind);
  VARVE_TRY_ASSIGN(const auto packs, chunks_.list_packs());
  for (const PackId pack : packs) {
    const auto table = chunks_.pack_table(pack);
    if (!table) continue;
    for (const chunks::RecordInfo& info : *table) {
      const auto found = wanted.find(info.digest);
      const Ref ref{pack, info.ordinal, info.digest};
      if (found == wanted.end() || found->second != chunks::content_of(info.kind) || lost.contains(ref)) continue;
      // Deltas last: one that is only there to lend cannot be read, and there may be many of those.
      auto& places = duplicates_[info.digest];
      places.insert(chunks::is_delta(info.kind) ? places.end() : places.begin(), ref);
      if (places.size() > kMostDuplicates) places.pop_back();
    }
  }
  return {};
}

Result<bool> Repair::repair_one(PackId pack) {
  const auto repaired = chunks::repair_pack(chunks_, pack, packs_.at(pack), [this](const LostRecord& record) {
    return find_elsewhere(record, *uses_);
  });
  if (!repaired) {
    // Its records stay lost; the next pack may do better. But where there is no room there is none for the next.
    const int code = repaired.error().code;
    if (code == ENOSPC || code == EDQUOT || code == EROFS || code == ENOMEM) return tl::unexpected(repaired.error());
    say(result_.failed, repaired.error().message);
    result_.lost += packs_.at(pack).size();
    return false;
  }
  for (const LostRecord& record : repaired->still_lost) {
    ++result_.lost;
    say(result_.failed, fmt::format("{}: found nowhere else", reasons_[record.ref]));
  }
  if (!repaired->written) return false;
  ++result_.packs;
  result_.records += repaired->from_pack.size() + repaired->elsewhere.size();
  if (repaired->from_pack.empty() && repaired->elsewhere.empty()) {
    const char* what = repaired->still_lost.empty() ? "nothing of it was lost" : "it has a table again";
    say(result_.repaired, fmt::format("pack {:016x}: written anew, {}", pack.value(), what));
  }
  for (const LostRecord& record : repaired->from_pack) {
    say(result_.repaired, chunks::to_text(record.ref) + ": found in the pack itself, whose table was damaged");
  }
  for (const LostRecord& record : repaired->elsewhere) {
    say(result_.repaired, chunks::to_text(record.ref) + ": from " + sources_[record.ref]);
  }
  return true;
}

/// Packs whose table nothing could bring back.
Status Repair::settle() {
  for (const auto& [pack, lost] : packs_) {
    const auto table = chunks_.pack_table(pack);
    if (table || table.error().kind != ErrorKind::damaged) continue;
    const auto settled = chunks::repair_pack(
        chunks_, pack, lost, [](const LostRecord&) { return BytesPointer{}; }, chunks::Settle::yes);
    if (!settled) {
      say(result_.failed, settled.error().message);
      continue;
    }
    if (!settled->written) continue;
    ++result_.packs;
    say(result_.repaired, fmt::format("pack {:016x}: has a table again, in which what is lost is gone", pack.value()));
  }
  return {};
}

BytesPointer Repair::find_elsewhere(const LostRecord& record, const UseFinder& uses) {
  // What was read while it was good may be in memory still.
  const auto cached = record.kind == RecordKind::node ? chunks_.load_node(record.ref).value_or(nullptr)
                                                      : chunks_.peek_chunk(record.ref);
  if (cached != nullptr) {
    sources_[record.ref] = "memory, read when it was good";
    return cached;
  }
  if (record.kind == RecordKind::full) {
    if (BytesPointer live = find_live(record, uses)) return live;
  }
  return find_stored(record);
}

/// Null when records have this digest and are not the same.
BytesPointer Repair::find_stored(const LostRecord& record) {
  BytesPointer found;
  const auto places = duplicates_.find(record.ref.digest);
  if (places == duplicates_.end()) return found;
  for (const Ref& ref : places->second) {
    const auto bytes = record.kind == RecordKind::node ? chunks_.load_node(ref) : chunks_.load_chunk(ref);
    if (!bytes) continue;
    if (found != nullptr && !same_bytes(*found, **bytes)) {
      say(result_.failed, fmt::format("{}: records with its digest differ from each other ({}); none was used",
                                      chunks::to_text(record.ref), chunks::to_text(ref)));
      return nullptr;
    }
    if (found == nullptr) sources_[record.ref] = chunks::to_text(ref);
    found = *bytes;
  }
  return found;
}

BytesPointer Repair::find_live(const LostRecord& record, const UseFinder& uses) {
  BytesPointer found;
  for (const Use& use : uses.of(record.ref)) {
    const CheckTarget& target = targets_[use.target];
    const auto accept = [&](std::span<const std::byte> bytes, const std::string& from) {
      chunks::Bytes copy(bytes.begin(), bytes.end());
      // What is behind the snapshot's end was stored as zeros, whatever the image has there now.
      const std::uint64_t begin = chunks_.geometry().start_of(use.chunk).value();
      const bool cut = !target.parts && target.size.value() > begin && target.size.value() - begin < copy.size();
      if (chunks_.digest(copy) != record.ref.digest && cut) {
        std::fill(copy.begin() + static_cast<std::ptrdiff_t>(target.size.value() - begin), copy.end(), std::byte{0});
      }
      if (chunks_.digest(copy) != record.ref.digest) return false;
      sources_[record.ref] = from;
      found = std::make_shared<const chunks::Bytes>(std::move(copy));
      return true;
    };
    if (offer_live_) offer_live_(use.target, use.chunk, accept);
    if (found != nullptr) break;
  }
  return found;
}

}  // namespace

Result<Repaired> repair_targets(chunks::ChunkStore& chunks, const std::vector<CheckTarget>& targets,
                                const OfferLiveBytes& offer_live,
                                const std::function<void(std::uint64_t, std::uint64_t)>& progress,
                                const std::function<bool()>& stop) {
  return Repair(chunks, targets, offer_live, progress, stop).run();
}

}  // namespace varve::snapshot
