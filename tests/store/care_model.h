// What the store's model knows of snapshots beside their content: holds, deadlines, the trash, and what limits allow; in the
// plainest way, everything counted anew each time it is asked for.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "varve/store/store.h"

namespace varve::test {

using ImageContent = std::vector<std::byte>;

struct SnapshotModel {
  std::shared_ptr<const ImageContent> content;
  SnapshotId id;
  std::optional<std::string> hold;
  std::optional<Time> deadline;
};

/// Never held: what is held cannot be deleted.
struct TrashedModel {
  std::string name;
  SnapshotModel snapshot;
  Time until;
  [[nodiscard]] Time end() const { return snapshot.deadline ? std::min(*snapshot.deadline, until) : until; }
};

/// What counts against limits: what is in the trash does not.
inline store::Usage usage_of(const std::map<std::string, SnapshotModel>& snapshots) {
  store::Usage usage;
  for (const auto& [name, one] : snapshots) {
    ++usage.snapshots;
    usage.snapshot_bytes += one.content->size();
  }
  return usage;
}

inline bool is_beyond(const std::optional<std::uint64_t>& limit, std::uint64_t used, std::uint64_t more) {
  return limit && used + more > *limit;
}

/// Whether one more of that size is refused.
inline bool refuses_snapshot(const store::Limits& limits, const store::Usage& used, std::uint64_t size) {
  return is_beyond(limits.snapshots, used.snapshots, 1) || is_beyond(limits.snapshot_bytes, used.snapshot_bytes, size);
}

/// Things that must have happened at least once in a run that is to prove anything.
class Occurrences {
 public:
  void note(const std::string& what) { ++counts_[what]; }
  /// Of `wanted`, what never happened.
  [[nodiscard]] std::string missing(const std::vector<std::string>& wanted) const {
    std::string out;
    for (const std::string& what : wanted) {
      if (!counts_.contains(what)) out += "  " + what + "\n";
    }
    return out;
  }
  [[nodiscard]] std::string text() const {
    std::string out;
    for (const auto& [what, count] : counts_) out += (out.empty() ? "" : ", ") + what + " " + std::to_string(count);
    return out;
  }

 private:
  std::map<std::string, std::uint64_t> counts_;
};

}  // namespace varve::test
