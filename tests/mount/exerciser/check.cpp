#include "check.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <set>

namespace exerciser {
namespace {

constexpr std::size_t kMaxProblems = 20;

bool same_block(const Image& one, const Image& other, std::uint64_t block) {
  return std::memcmp(one.bytes.data() + block * kBlock, other.bytes.data() + block * kBlock, kBlock) == 0;
}

std::string hexadecimal(const Image& image, std::uint64_t block) {
  std::string text;
  for (std::size_t i = 0; i < 16; ++i) {
    char digits[4];
    std::snprintf(digits, sizeof digits, "%02x", static_cast<unsigned>(image.bytes[block * kBlock + i]));
    text += digits;
  }
  return text;
}

/// A block or a size that the live image had, from one event on until the next such.
struct Version {
  std::size_t since = 0;  ///< events: the operation that made it was acknowledged with this one
  std::vector<std::byte> bytes;
};

/// All that a block may be, after a power loss: what it was at the last sync that counts and everything later.
class History {
 public:
  explicit History(const Image& begin) : blocks_(begin.bytes.size() / kBlock), sizes_{{0, begin.size}} {
    for (std::uint64_t i = 0; i < blocks_.size(); ++i) add_block(begin, i, 0);
  }

  void add(const Image& live, Blocks changed, std::size_t event) {
    for (auto i = changed.first; i < changed.last; ++i) add_block(live, i, event);
    if (sizes_.back().second != live.size) sizes_.emplace_back(event, live.size);
  }

  /// What was acknowledged before this event is durable: what it replaced is gone for good.
  void forget_before(std::size_t event) {
    for (auto& versions : blocks_) forget(versions, event, [](const Version& version) { return version.since; });
    forget(sizes_, event, [](const auto& size) { return size.first; });
  }

  [[nodiscard]] bool allows_block(const Image& found, std::uint64_t block) const {
    return std::ranges::any_of(blocks_[block], [&](const Version& version) {
      return std::memcmp(version.bytes.data(), found.bytes.data() + block * kBlock, kBlock) == 0;
    });
  }
  [[nodiscard]] bool allows_size(std::uint64_t size) const {
    return std::ranges::any_of(sizes_, [&](const auto& version) { return version.second == size; });
  }

 private:
  void add_block(const Image& live, std::uint64_t block, std::size_t event) {
    const auto* begin = live.bytes.data() + block * kBlock;
    blocks_[block].push_back({event, std::vector<std::byte>(begin, begin + kBlock)});
  }

  template <class Versions, class Since>
  static void forget(Versions& versions, std::size_t event, Since since) {
    auto first = versions.begin();
    while (std::next(first) != versions.end() && since(*std::next(first)) <= event) ++first;
    versions.erase(versions.begin(), first);
  }

  std::vector<std::vector<Version>> blocks_;
  std::vector<std::pair<std::size_t, std::uint64_t>> sizes_;
};

/// A snapshot of this trace: each thread's part is what it was after some operation of that thread, none earlier than
/// those acknowledged before mkdir began and none later than what may have begun before it returned.
struct Taken {
  Image at_begin;
  std::vector<std::vector<Operation>> during;  ///< by thread, in order
  std::vector<bool> wants_next;                ///< threads whose operation in flight at the return is yet to be known
  bool open = true;                            ///< mkdir has not returned
};

/// Does the trace again, on a World alone.
class Replay {
 public:
  Replay(const Exercise& exercise, End end, const World& begin)
      : exercise_(exercise), end_(end), world_(begin), history_(begin.live), next_(exercise.threads),
        counts_(exercise.threads), begun_(exercise.threads) {
    for (unsigned i = 0; i < exercise.threads; ++i) choosers_.emplace_back(exercise, i);
  }

  void run(const Trace& trace) {
    for (std::size_t i = 0; i < trace.events.size(); ++i) {
      const auto& event = trace.events[i];
      if (event.thread >= exercise_.threads || event.count != counts_[event.thread]) give_up("the trace has gaps");
      if (event.kind == 'B') begin(event.thread, i + 1);
      if (event.kind == 'A') acknowledge(event.thread, i + 1);
    }
    for (unsigned thread = 0; thread < exercise_.threads; ++thread) let_in_flight(thread, trace.events.size() + 1);
  }

  [[nodiscard]] Verdict compare(const World& found) {
    compare_names(found.snapshots);
    for (const auto& [name, image] : found.snapshots) compare_snapshot(name, *image);
    compare_live(found.live);
    for (const auto count : counts_) verdict_.acknowledged += count;
    verdict_.kept_snapshots = found.snapshots.size();
    return verdict_;
  }

 private:
  const Operation& next(unsigned thread) {
    if (!next_[thread]) next_[thread] = choosers_[thread].next(world_);
    return *next_[thread];
  }

  void begin(unsigned thread, std::size_t event) {
    begun_[thread] = event;
    const auto& operation = next(thread);
    if (operation.kind != Kind::take) return;
    taken_[operation.name] = {world_.live, std::vector<std::vector<Operation>>(exercise_.threads),
                              std::vector<bool>(exercise_.threads), true};
  }

  void acknowledge(unsigned thread, std::size_t event) {
    const auto operation = next(thread);
    show_to_taken(thread, operation);
    const auto changed = changed_blocks(world_, operation);
    apply_to_live(world_.live, world_.snapshots, operation);
    apply_to_snapshots(world_.snapshots, operation, content_of_taken(operation));
    history_.add(world_.live, changed, event);
    // After a kill all that was acknowledged is there; but what began before may still come after what ended before.
    if (end_ == End::kill) {
      history_.forget_before(event);
    } else if (makes_live_durable(operation)) {
      history_.forget_before(operation.kind == Kind::restore ? event : begun_[thread]);
    }
    if (operation.kind == Kind::take) close_taken(operation.name, thread);
    next_[thread].reset();
    ++counts_[thread];
  }

  /// Of a disk with one thread it is known, and may be copied from in the operations that follow.
  std::shared_ptr<const Image> content_of_taken(const Operation& operation) {
    if (operation.kind != Kind::take || exercise_.threads > 1) return nullptr;
    return std::make_shared<const Image>(world_.live);
  }

  void show_to_taken(unsigned thread, const Operation& operation) {
    for (auto& [name, taken] : taken_) {
      if (!taken.open && !taken.wants_next[thread]) continue;
      taken.during[thread].push_back(operation);
      if (!taken.open) taken.wants_next[thread] = false;
    }
  }

  void close_taken(const std::string& name, unsigned taker) {
    auto& taken = taken_.at(name);
    taken.open = false;
    taken.wants_next.assign(exercise_.threads, true);
    taken.wants_next[taker] = false;
  }

  /// The operation that the end may have met: done, or not, or in some of its blocks.
  void let_in_flight(unsigned thread, std::size_t event) {
    const auto& operation = next(thread);
    show_to_taken(thread, operation);
    Image after = world_.live;
    apply_to_live(after, world_.snapshots, operation);
    history_.add(after, changed_blocks(world_, operation), event);
    in_flight_.push_back(operation);
    if (operation.kind == Kind::restore && end_ == End::kill) restored_ = after;
  }

  void compare_names(const Snapshots& found) {
    std::set<std::string> expected;
    std::set<std::string> either;
    for (const auto& [name, image] : world_.snapshots) expected.insert(name);
    for (const auto& operation : in_flight_) {
      if (operation.kind == Kind::take || operation.kind == Kind::remove) either.insert(operation.name);
      if (operation.kind != Kind::rename) continue;
      either.insert({operation.name, operation.new_name});
      if (found.contains(operation.name) == found.contains(operation.new_name)) {
        problem("renaming " + operation.name + " has left both names or none");
      }
    }
    for (const auto& name : expected) {
      if (!found.contains(name) && !either.contains(name)) problem("snapshot " + name + " is gone");
    }
    for (const auto& [name, image] : found) {
      if (!expected.contains(name) && !either.contains(name)) problem("snapshot " + name + " is there and must not be");
    }
  }

  [[nodiscard]] std::string name_before_renaming(const std::string& name) const {
    for (const auto& operation : in_flight_) {
      if (operation.kind == Kind::rename && operation.new_name == name) return operation.name;
    }
    return name;
  }

  void compare_snapshot(const std::string& found_name, const Image& found) {
    const auto name = name_before_renaming(found_name);
    const auto known = world_.snapshots.find(name);
    if (known != world_.snapshots.end() && known->second != nullptr) {
      return compare_exactly("snapshot " + found_name, *known->second, found);
    }
    const auto taken = taken_.find(name);
    if (taken == taken_.end()) return;  // its name was found wrong already
    if (found.size != taken->second.at_begin.size) problem("snapshot " + found_name + ": wrong size");
    for (unsigned thread = 0; thread < exercise_.threads; ++thread) {
      if (!is_prefix(taken->second, thread, found)) {
        problem("snapshot " + found_name + ": what thread " + std::to_string(thread) +
                " wrote was never so at one instant while it was taken");
      }
    }
  }

  /// Whether the thread's part is as after so many of its operations, with the next one in some blocks.
  [[nodiscard]] bool is_prefix(const Taken& taken, unsigned thread, const Image& found) const {
    const auto part = part_of(exercise_, thread);
    const auto first = part.begin / kBlock;
    const auto last = exercise_.threads == 1 ? found.bytes.size() / kBlock : part.end / kBlock;
    World before{taken.at_begin, {}};
    for (std::size_t i = 0;; ++i) {
      if (i == taken.during[thread].size()) return equal_but(before.live, before.live, {}, first, last, found);
      const auto& operation = taken.during[thread][i];
      Image after = before.live;
      apply_to_live(after, before.snapshots, operation);
      if (equal_but(before.live, after, changed_blocks(before, operation), first, last, found)) return true;
      before.live = std::move(after);
    }
  }

  static bool equal_but(const Image& before, const Image& after, Blocks changed, std::uint64_t first,
                        std::uint64_t last, const Image& found) {
    for (auto i = first; i < last; ++i) {
      if (same_block(before, found, i)) continue;
      if (i < changed.first || i >= changed.last || !same_block(after, found, i)) return false;
    }
    return true;
  }

  void compare_exactly(const std::string& what, const Image& expected, const Image& found) {
    if (expected.size != found.size) {
      problem(what + ": size " + std::to_string(found.size) + " instead of " + std::to_string(expected.size));
    }
    for (std::uint64_t i = 0; i < found.bytes.size() / kBlock; ++i) {
      if (same_block(expected, found, i)) continue;
      problem(what + ": block " + std::to_string(i) + " begins with " + hexadecimal(found, i) + ", not with " +
              hexadecimal(expected, i));
    }
  }

  void compare_live(const Image& found) {
    if (restored_) return compare_restored(found);
    if (!history_.allows_size(found.size)) problem("the live image has the size " + std::to_string(found.size));
    for (std::uint64_t i = 0; i < found.bytes.size() / kBlock; ++i) {
      if (history_.allows_block(found, i)) continue;
      problem("live image: block " + std::to_string(i) + " begins with " + hexadecimal(found, i) +
              "; the newest that was acknowledged with " + hexadecimal(world_.live, i));
    }
  }

  /// `varve restore` is done or not.
  void compare_restored(const Image& found) {
    if (found.bytes == restored_->bytes && found.size == restored_->size) return;
    compare_exactly("live image that was being restored", world_.live, found);
  }

  void problem(const std::string& sentence) {
    if (verdict_.problems.size() < kMaxProblems) verdict_.problems.push_back(sentence);
  }

  const Exercise& exercise_;
  const End end_;
  World world_;
  History history_;
  std::vector<Chooser> choosers_;
  std::vector<std::optional<Operation>> next_;
  std::vector<std::uint64_t> counts_;
  std::vector<std::size_t> begun_;  ///< event of each thread's last B
  std::map<std::string, Taken> taken_;
  std::vector<Operation> in_flight_;
  std::optional<Image> restored_;
  Verdict verdict_;
};

}  // namespace

Verdict check(const Exercise& exercise, End end, const World& begin, const Trace& trace, const World& found) {
  Replay replay(exercise, end, begin);
  replay.run(trace);
  auto verdict = replay.compare(found);
  if (!trace.wrong.empty()) verdict.problems.insert(verdict.problems.begin(), trace.wrong);
  return verdict;
}

}  // namespace exerciser
