// The walk of check and repair; check.cpp opens with how it works.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <unordered_map>
#include <unordered_set>

#include "record_set.h"
#include "varve/snapshot/check.h"

namespace varve::snapshot {

using chunks::RecordKind;
using chunks::Ref;

/// Chunks below a node (or the chunk itself: level -1).
constexpr std::uint64_t span_of(int level) {
  std::uint64_t span = 1;
  for (int i = -1; i < level; ++i) span *= chunks::kMapFanOut;
  return span;
}

/// Why a record is lost: shared by all that stand on it.
using Reason = std::shared_ptr<const std::string>;

/// What is lost below a node; chunks are counted from the node's first.
struct Loss {
  std::uint64_t chunks = 0;
  std::uint64_t first = 0;
  Reason reason;

  void add(const Loss& other, std::uint64_t at) {
    if (other.chunks == 0) return;
    if (chunks == 0) {
      first = at + other.first;
      reason = other.reason;
    }
    chunks += other.chunks;
  }
};

/// Chunks of a subtree, counted from its first.
struct Range {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;

  /// What of it lies in the child that begins `at`, counted from there.
  [[nodiscard]] Range within(std::uint64_t at, std::uint64_t span) const {
    return {std::max(begin, at) - at, std::min(end, at + span) - at};
  }
};

/// A record that was read and is not well.
struct Lost {
  RecordKind kind = RecordKind::full;
  Reason reason;
  bool only_lends = false;  ///< nobody wants more of it than its own blocks
};
using LostRecords = std::unordered_map<Ref, Lost>;

class Checker {
 public:
  Checker(chunks::ChunkStore& chunks, const std::function<void(std::uint64_t, std::uint64_t)>& progress,
          const std::function<bool()>& stop)
      : chunks_(chunks), progress_(progress), stop_(stop), bytes_before_(chunks.counters().bytes_loaded) {}

  Status check(const CheckTarget& target);
  Checked finish();

  [[nodiscard]] const LostRecords& lost() const { return lost_; }
  /// Of a node that lies whole in a target that was checked: nothing is lost below it.
  [[nodiscard]] bool sound(const Ref& node) const { return sound_.contains(node); }

 private:
  /// The loss in the part, counted from the image's beginning.
  Result<Loss> check_part(const CheckPart& part);
  /// `range`: what of the subtree counts.
  Result<Loss> check_subtree(const Ref& ref, int level, Range range);
  Result<Loss> check_slots(const Ref& node, int level, Range range);
  /// Reads the record unless that was done before. Nothing: it is well.
  Result<Reason> verify(const Ref& ref, RecordKind kind);
  Result<Reason> verify_now(const Ref& ref, RecordKind kind);
  Result<Reason> verify_supports(const Ref& ref, RecordKind kind);
  Result<Reason> verify_lender(const Ref& lender, RecordKind kind);
  void refresh_table(PackId pack);
  void discovered(const Ref& ref, int level);

  chunks::ChunkStore& chunks_;
  const std::function<void(std::uint64_t, std::uint64_t)>& progress_;
  const std::function<bool()>& stop_;
  const std::uint64_t bytes_before_;
  RecordSet seen_chunks_;  ///< found in a node; the basis of `total`
  RecordSet seen_nodes_;
  RecordSet read_chunks_;
  RecordSet read_nodes_;
  RecordSet sound_;                       ///< nodes below which nothing is lost
  std::unordered_map<Ref, Loss> losses_;  ///< nodes below which something is
  LostRecords lost_;                      ///< records that were read and are not well
  std::unordered_set<PackId> tables_;     ///< read again
  Checked checked_;
};

}  // namespace varve::snapshot
