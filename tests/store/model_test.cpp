// The whole Store, without FUSE, against a plain model of it in memory: random writes, discards, resizes, snapshots,
// deletions in any order, renames, restores, clones, copies, commits and upkeep at random points, clean remounts,
// kills and power losses. VARVE_SEED repeats a run, VARVE_STORE_MODEL_OPERATIONS makes it longer.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "machine_store.h"
#include "support/seed.h"
#include "varve/store/space.h"
#include "varve/store/store.h"

namespace varve::store {
namespace {

using test::Machine;
using Content = std::vector<std::byte>;

constexpr std::uint64_t kDefaultOperations = 20'000;
constexpr std::uint64_t kOperationsPerRun = 5'000;
constexpr std::uint64_t kChunk = kMinChunkSize;
/// Small images meet every case sooner; a few chunks are enough for all of them.
constexpr std::uint64_t kMaxImage = 20 * kChunk;
constexpr std::size_t kMaxDisks = 4;
constexpr std::size_t kMaxSnapshots = 8;

/// What a live image must hold. `older` has, for each block written since the last flush, what it held before: after a
/// power loss each such block is one of its versions (promise 3).
struct LiveModel {
  Content content;
  std::map<std::uint64_t, std::vector<Content>> older;

  void flushed() { older.clear(); }
};

struct DiskModel {
  std::optional<LiveModel> live;
  std::map<std::string, std::shared_ptr<const Content>> snapshots;
};

class ModelRun {
 public:
  explicit ModelRun(std::uint64_t seed) : random_(seed) {
    InitOptions options;
    options.chunk_size = ByteCount{kChunk};
    EXPECT_TRUE(Store::init(machine_.storage, options));
    open();
  }

  void run(std::uint64_t operations) {
    for (done_ = 0; done_ < operations && !::testing::Test::HasFailure(); ++done_) step();
    if (!::testing::Test::HasFailure()) verify_everything();
  }

 private:
  // --- the machine ---

  void open() {
    OpenOptions options;
    options.background = false;
    options.chunk_cache_bytes = 1 * kMiB;
    options.node_cache_bytes = 1 * kMiB;
    auto opened = Store::open(test::environment_on(machine_), options);
    ASSERT_TRUE(opened) << where() << opened.error().message;
    store_ = std::move(*opened);
    ASSERT_TRUE(store_->damaged_disks().empty()) << where() << store_->damaged_disks().front();
  }

  void remount_cleanly() {
    expect(store_->close(), "close");
    store_.reset();
    machine_.kill();
    for (auto& [name, disk] : model_) {
      if (disk.live) disk.live->flushed();
    }
    open();
  }

  void kill() {
    machine_.cut_off();
    store_.reset();
    machine_.kill();
    open();
  }

  void lose_power() {
    machine_.cut_off();
    store_.reset();
    machine_.lose_power(random_());
    open();
    for (auto& [name, disk] : model_) {
      if (disk.live) adopt_after_power_loss(name, *disk.live);
    }
  }

  /// Each unflushed block holds one of its versions; the others hold what they held.
  void adopt_after_power_loss(const std::string& name, LiveModel& live) {
    Content found = read_live(name, live.content.size());
    ASSERT_EQ(found.size(), live.content.size()) << where() << name;
    for (std::uint64_t at = 0; at < found.size(); at += kBlockSize) {
      const std::size_t length = static_cast<std::size_t>(std::min<std::uint64_t>(kBlockSize, found.size() - at));
      const std::byte* now = found.data() + at;
      bool known = std::memcmp(now, live.content.data() + at, length) == 0;
      if (const auto it = live.older.find(at / kBlockSize); it != live.older.end() && !known) {
        for (const Content& version : it->second) known = known || std::memcmp(now, version.data(), length) == 0;
      }
      ASSERT_TRUE(known) << where() << name << ": after a power loss the block at " << at << " was never so";
    }
    live.content = std::move(found);
    live.flushed();
    expect(disk(name).live().flush(), "flush");
  }

  // --- one random operation ---

  void step() {
    struct Choice {
      int weight;
      const char* name;
      void (ModelRun::*action)();
    };
    static constexpr Choice kChoices[] = {
        {320, "write", &ModelRun::write},
        {150, "read_a_range", &ModelRun::read_a_range},
        {60, "zero", &ModelRun::zero},
        {30, "resize", &ModelRun::resize},
        {40, "flush", &ModelRun::flush},
        {60, "snapshot", &ModelRun::snapshot},
        {45, "remove_snapshot", &ModelRun::remove_snapshot},
        {10, "rename_snapshot", &ModelRun::rename_snapshot},
        {12, "restore", &ModelRun::restore},
        {6, "clone", &ModelRun::clone},
        {40, "copy", &ModelRun::copy},
        {80, "commit", &ModelRun::commit},
        {80, "upkeep", &ModelRun::upkeep},
        {6, "create", &ModelRun::create},
        {2, "remove_image", &ModelRun::remove_image},
        {2, "remove_disk", &ModelRun::remove_disk},
        {3, "rename_disk", &ModelRun::rename_disk},
        {5, "collect", &ModelRun::collect},
        {4, "count", &ModelRun::count},
        {4, "remount_cleanly", &ModelRun::remount_cleanly},
        {4, "kill", &ModelRun::kill},
        {3, "lose_power", &ModelRun::lose_power},
        {3, "verify_everything", &ModelRun::verify_everything},
    };
    static const int total = [] {
      int sum = 0;
      for (const auto& choice : kChoices) sum += choice.weight;
      return sum;
    }();
    int ticket = static_cast<int>(random_() % static_cast<std::uint64_t>(total));
    for (const auto& choice : kChoices) {
      ticket -= choice.weight;
      if (ticket < 0) {
        if (trace_) std::fprintf(stderr, "%s%s\n", where().c_str(), choice.name);
        (this->*choice.action)();
        return;
      }
    }
  }

  /// With VARVE_MODEL_TRACE set: what was done, for finding out why.
  void trace(const char* format, const std::string& name, std::uint64_t a, std::uint64_t b) const {
    if (trace_) std::fprintf(stderr, ("    " + std::string(format) + "\n").c_str(), name.c_str(), a, b);
  }

  std::uint64_t below(std::uint64_t limit) { return limit == 0 ? 0 : random_() % limit; }
  bool one_in(std::uint64_t n) { return below(n) == 0; }
  std::string where() const { return "operation " + std::to_string(done_) + ": "; }
  void expect(const Status& status, const char* what) {
    EXPECT_TRUE(status) << where() << what << ": " << (status ? "" : status.error().message);
  }

  Disk& disk(const std::string& name) { return *pointer(name); }
  std::shared_ptr<Disk> pointer(const std::string& name) {
    auto found = store_->find_disk(name);
    if (!found) {
      ADD_FAILURE() << where() << found.error().message;
      std::abort();
    }
    return *found;
  }
  SnapshotId snapshot_id(const std::string& disk_name, const std::string& name) {
    auto found = disk(disk_name).find_snapshot(name);
    EXPECT_TRUE(found) << where() << disk_name << "@" << name << " is gone";
    return found ? found->id : SnapshotId{0};
  }

  /// A random disk, or one with a live image; null when there is none.
  std::pair<const std::string, DiskModel>* any_disk(bool with_image) {
    std::vector<std::pair<const std::string, DiskModel>*> fit;
    for (auto& item : model_) {
      if (!with_image || item.second.live) fit.push_back(&item);
    }
    return fit.empty() ? nullptr : fit[below(fit.size())];
  }
  struct SnapshotChoice {
    std::string disk;
    std::string name;
    std::shared_ptr<const Content> content;
  };
  std::optional<SnapshotChoice> any_snapshot() {
    std::vector<SnapshotChoice> all;
    for (auto& [disk_name, disk] : model_) {
      for (auto& [name, content] : disk.snapshots) all.push_back({disk_name, name, content});
    }
    if (all.empty()) return std::nullopt;
    return all[below(all.size())];
  }

  Content some_bytes(std::size_t count) {
    Content bytes(count);
    // A small palette, so that chunks repeat and deduplication has something to find; sometimes zeros.
    const std::uint64_t kind = below(8);
    const std::uint64_t stamp = kind == 0 ? 0 : kind < 4 ? below(5) * 0x0101010101010101u : random_();
    for (std::size_t i = 0; i < count; ++i) {
      bytes[i] = static_cast<std::byte>((stamp >> (i % 8 * 8)) + (kind > 5 ? i / 512 : 0));
    }
    return bytes;
  }

  struct Range {
    std::uint64_t at = 0;
    std::uint64_t count = 0;
  };
  /// Within [0, size), unaligned, block-aligned or chunk-aligned.
  Range some_range(std::uint64_t size) {
    if (size == 0) return {};
    static constexpr std::uint64_t kGrains[] = {1, 512, kBlockSize, kChunk};
    const std::uint64_t grain = kGrains[below(4)];
    const std::uint64_t at = below(size) / grain * grain;
    const std::uint64_t most = one_in(4) ? size : 3 * kChunk / 2;
    std::uint64_t count = (1 + below(most) / grain) * grain;
    if (one_in(3)) count = std::min(count, kBlockSize);
    return {at, std::min(count, size - at)};
  }

  // --- changing what a live image holds, in the model ---

  static void remember(LiveModel& live, std::uint64_t at, std::uint64_t count) {
    if (count == 0) return;
    for (std::uint64_t block = at / kBlockSize; block <= (at + count - 1) / kBlockSize; ++block) {
      Content version(kBlockSize);
      const std::uint64_t start = block * kBlockSize;
      if (start < live.content.size()) {
        std::memcpy(version.data(), live.content.data() + start,
                    static_cast<std::size_t>(std::min<std::uint64_t>(kBlockSize, live.content.size() - start)));
      }
      live.older[block].push_back(std::move(version));
    }
  }
  static void put(LiveModel& live, std::uint64_t at, const Content& bytes) {
    if (at + bytes.size() > live.content.size()) live.content.resize(static_cast<std::size_t>(at + bytes.size()));
    std::copy(bytes.begin(), bytes.end(), live.content.begin() + static_cast<std::ptrdiff_t>(at));
  }
  /// What is sealed at once in the store is flushed in the model: the versions of before are not possible any more.
  void flush_now(const std::string& name, LiveModel& live) {
    expect(disk(name).live().flush(), "flush");
    live.flushed();
  }

  // --- the operations ---

  void create() {
    if (model_.size() >= kMaxDisks && !one_in(4)) return;
    if (model_.size() < kMaxDisks) {
      const std::string name = "disk" + std::to_string(next_name_++);
      auto created = store_->create_disk(name, Attributes{0, 0, 0755, {}});
      ASSERT_TRUE(created) << where() << created.error().message;
      model_[name];
    }
    auto* chosen = any_disk(false);
    if (chosen->second.live) return;
    expect(disk(chosen->first).create_image(Attributes{0, 0, 0644, {}}), "create image");
    chosen->second.live.emplace();
    const std::uint64_t size = below(kMaxImage);
    expect(disk(chosen->first).resize_image(ByteCount{size}, nullptr), "resize new image");
    chosen->second.live->content.resize(static_cast<std::size_t>(size));
    flush_now(chosen->first, *chosen->second.live);
  }

  void write() {
    auto* chosen = any_disk(true);
    if (chosen == nullptr) return create();
    LiveModel& live = *chosen->second.live;
    Range range = some_range(std::max<std::uint64_t>(live.content.size(), 1));
    const bool grows = one_in(50);
    if (grows) range.at = std::min(kMaxImage - kChunk, live.content.size() + below(kChunk));
    if (range.count == 0) return;
    const Content bytes = some_bytes(static_cast<std::size_t>(range.count));
    trace("write %s %lu+%lu", chosen->first, range.at, range.count);
    remember(live, range.at, range.count);
    const bool grew = range.at + range.count > live.content.size();
    expect(disk(chosen->first).live().write(ByteOffset{range.at}, bytes), "write");
    put(live, range.at, bytes);
    if (grew) flush_now(chosen->first, live);
  }

  void zero() {
    auto* chosen = any_disk(true);
    if (chosen == nullptr) return;
    LiveModel& live = *chosen->second.live;
    const Range range = some_range(live.content.size());
    if (range.count == 0) return;
    remember(live, range.at, range.count);
    trace("zero %s %lu+%lu", chosen->first, range.at, range.count);
    expect(disk(chosen->first).live().zero(ByteOffset{range.at}, ByteCount{range.count}), "zero");
    put(live, range.at, Content(static_cast<std::size_t>(range.count)));
  }

  void resize() {
    auto* chosen = any_disk(true);
    if (chosen == nullptr) return;
    LiveModel& live = *chosen->second.live;
    const std::uint64_t size = one_in(6) ? 0 : below(kMaxImage);
    trace("resize %s %lu", chosen->first, size, 0);
    expect(disk(chosen->first).resize_image(ByteCount{size}, nullptr), "resize");
    live.content.resize(static_cast<std::size_t>(size));
    flush_now(chosen->first, live);
  }

  void flush() {
    if (auto* chosen = any_disk(true)) flush_now(chosen->first, *chosen->second.live);
  }

  void snapshot() {
    auto* chosen = any_disk(true);
    if (chosen == nullptr || chosen->second.snapshots.size() >= kMaxSnapshots) return remove_snapshot();
    const std::string name = "s" + std::to_string(next_name_++);
    trace("snapshot %s s%lu", chosen->first, next_name_ - 1, 0);
    auto taken = disk(chosen->first).take_snapshot(name, Attributes{0, 0, 0755, {}});
    ASSERT_TRUE(taken) << where() << taken.error().message;
    chosen->second.snapshots[name] = std::make_shared<const Content>(chosen->second.live->content);
    chosen->second.live->flushed();
  }

  void remove_snapshot() {
    const auto chosen = any_snapshot();
    if (!chosen) return;
    expect(disk(chosen->disk).remove_snapshot(snapshot_id(chosen->disk, chosen->name)), "remove snapshot");
    model_[chosen->disk].snapshots.erase(chosen->name);
  }

  void rename_snapshot() {
    const auto chosen = any_snapshot();
    if (!chosen) return;
    const std::string name = "r" + std::to_string(next_name_++);
    expect(disk(chosen->disk).rename_snapshot(snapshot_id(chosen->disk, chosen->name), name), "rename snapshot");
    auto& snapshots = model_[chosen->disk].snapshots;
    snapshots[name] = chosen->content;
    snapshots.erase(chosen->name);
  }

  void restore() {
    const auto chosen = any_snapshot();
    auto* target = any_disk(false);
    if (!chosen || target == nullptr) return;
    expect(store_->restore(pointer(chosen->disk), snapshot_id(chosen->disk, chosen->name), pointer(target->first)),
           "restore");
    target->second.live.emplace();
    target->second.live->content = *chosen->content;
  }

  void clone() {
    if (model_.size() >= kMaxDisks) return;
    const std::string name = "clone" + std::to_string(next_name_++);
    Content content;
    ImageName from;
    const auto chosen = any_snapshot();
    if (auto* source = any_disk(true); source != nullptr && (one_in(2) || !chosen)) {
      from = {pointer(source->first), SnapshotId{0}};
      content = source->second.live->content;
      source->second.live->flushed();
    } else if (chosen) {
      from = {pointer(chosen->disk), snapshot_id(chosen->disk, chosen->name)};
      content = *chosen->content;
    } else {
      return;
    }
    auto cloned = store_->clone(from, name, Attributes{0, 0, 0755, {}});
    ASSERT_TRUE(cloned) << where() << cloned.error().message;
    model_[name].live.emplace();
    model_[name].live->content = std::move(content);
  }

  /// As cp does it, and as nobody does it: any range to any place.
  void copy() {
    auto* target = any_disk(true);
    if (target == nullptr) return;
    ImageName from;
    std::shared_ptr<const Content> source;
    const auto chosen = any_snapshot();
    if (auto* live = any_disk(true); !chosen || one_in(3)) {
      from = {pointer(live->first), SnapshotId{0}};
      source = std::make_shared<const Content>(live->second.live->content);
    } else {
      from = {pointer(chosen->disk), snapshot_id(chosen->disk, chosen->name)};
      source = chosen->content;
    }
    Range range = one_in(3) ? Range{0, source->size()} : some_range(source->size());
    if (range.count == 0) return;
    std::uint64_t to = one_in(2) ? range.at : below(kMaxImage - std::min(kMaxImage, range.count) + 1);
    if (one_in(2)) to = to / kChunk * kChunk + range.at % kChunk;
    LiveModel& live = *target->second.live;
    const bool same = from.snapshot == SnapshotId{0} && from.disk->name() == target->first;
    const bool overlaps = same && range.at < to + range.count && to < range.at + range.count;
    trace("copy from %s %lu+%lu", from.disk->name() + "@" + std::to_string(from.snapshot.value()), range.at,
          range.count);
    trace("  to %s %lu", target->first, to, 0);
    auto copied =
        store_->copy_range(from, ByteOffset{range.at}, pointer(target->first), ByteOffset{to}, ByteCount{range.count});
    if (overlaps) {
      EXPECT_FALSE(copied) << where() << "an overlapping copy was accepted";
      return;
    }
    ASSERT_TRUE(copied) << where() << copied.error().message;
    ASSERT_EQ(copied->value(), range.count) << where();
    const auto begin = source->begin() + static_cast<std::ptrdiff_t>(range.at);
    const bool grew = to + range.count > live.content.size();
    remember(live, to, range.count);
    put(live, to, Content(begin, begin + static_cast<std::ptrdiff_t>(range.count)));
    if (grew) flush_now(target->first, live);
  }

  void commit() {
    if (auto* chosen = any_disk(false)) {
      auto done = store_->step_commit(disk(chosen->first).id());
      EXPECT_TRUE(done) << where() << "commit: " << (done ? "" : done.error().message);
    }
  }

  void upkeep() {
    if (auto* chosen = any_disk(false)) expect(store_->step_upkeep(disk(chosen->first).id()), "upkeep");
  }

  void collect() {
    const auto collected = store_->collect([] { return false; });
    EXPECT_TRUE(collected) << where() << "collect: " << (collected ? "" : collected.error().message);
  }

  /// The accounting's counts are those of a walk, whatever happened since.
  void count() {
    const Status counted = store_->space().catch_up({}, {});
    EXPECT_TRUE(counted) << where() << (counted ? "" : counted.error().message);
    const auto difference = store_->space().verify();
    EXPECT_TRUE(difference) << where() << (difference ? "" : difference.error().message);
    EXPECT_FALSE(difference && *difference) << where() << **difference;
  }

  void remove_image() {
    auto* chosen = any_disk(true);
    if (chosen == nullptr) return;
    expect(disk(chosen->first).remove_image(), "remove image");
    chosen->second.live.reset();
  }

  void remove_disk() {
    auto* chosen = any_disk(false);
    if (chosen == nullptr) return;
    const auto removed = store_->remove_disk(disk(chosen->first).id());
    if (chosen->second.live || !chosen->second.snapshots.empty()) {
      EXPECT_FALSE(removed) << where() << "a disk that is not empty was removed";
    } else {
      expect(removed, "remove disk");
      model_.erase(chosen->first);
    }
  }

  void rename_disk() {
    auto* chosen = any_disk(false);
    if (chosen == nullptr) return;
    const std::string name = "renamed" + std::to_string(next_name_++);
    expect(store_->rename_disk(disk(chosen->first).id(), name), "rename disk");
    auto node = model_.extract(chosen->first);
    node.key() = name;
    model_.insert(std::move(node));
  }

  // --- looking ---

  Content read_live(const std::string& name, std::size_t size) {
    Content out(size + 1);
    auto got = disk(name).live().read(ByteOffset{0}, out);
    EXPECT_TRUE(got) << where() << name << ": " << (got ? "" : got.error().message);
    out.resize(got ? *got : 0);
    return out;
  }

  void read_a_range() {
    const auto chosen = any_snapshot();
    auto* live = any_disk(true);
    if (chosen && (live == nullptr || one_in(2))) {
      const Range range = some_range(chosen->content->size());
      Content out(static_cast<std::size_t>(range.count));
      auto got = disk(chosen->disk).read_snapshot(snapshot_id(chosen->disk, chosen->name), ByteOffset{range.at}, out);
      ASSERT_TRUE(got) << where() << got.error().message;
      ASSERT_EQ(*got, out.size()) << where();
      ASSERT_TRUE(std::equal(out.begin(), out.end(), chosen->content->begin() + static_cast<std::ptrdiff_t>(range.at)))
          << where() << chosen->disk << "@" << chosen->name << " differs in " << range.at << "+" << range.count;
    } else if (live != nullptr) {
      const Content& expected = live->second.live->content;
      const Range range = some_range(expected.size());
      Content out(static_cast<std::size_t>(range.count));
      auto got = disk(live->first).live().read(ByteOffset{range.at}, out);
      ASSERT_TRUE(got) << where() << got.error().message;
      ASSERT_EQ(*got, out.size()) << where();
      ASSERT_TRUE(std::equal(out.begin(), out.end(), expected.begin() + static_cast<std::ptrdiff_t>(range.at)))
          << where() << live->first << " differs in " << range.at << "+" << range.count;
    }
  }

  static std::string first_difference(const Content& found, const Content& expected) {
    for (std::size_t i = 0; i < std::min(found.size(), expected.size()); ++i) {
      if (found[i] != expected[i]) return "first at " + std::to_string(i);
    }
    return "sizes " + std::to_string(found.size()) + " and " + std::to_string(expected.size());
  }

  void verify_everything() {
    ASSERT_EQ(store_->disks().size(), model_.size()) << where();
    for (auto& [name, expected] : model_) {
      Disk& found = disk(name);
      ASSERT_EQ(found.live().exists(), expected.live.has_value()) << where() << name;
      if (expected.live) {
        const Content content = read_live(name, expected.live->content.size());
        ASSERT_TRUE(content == expected.live->content)
            << where() << name << " differs, " << first_difference(content, expected.live->content);
        verify_holes(found, *expected.live);
      }
      ASSERT_EQ(found.snapshots().size(), expected.snapshots.size()) << where() << name;
      for (auto& [snapshot, content] : expected.snapshots) verify_snapshot(found, snapshot, *content);
    }
  }

  void verify_snapshot(Disk& disk, const std::string& name, const Content& expected) {
    auto info = disk.find_snapshot(name);
    ASSERT_TRUE(info) << where() << disk.name() << "@" << name;
    ASSERT_EQ(info->size.value(), expected.size()) << where() << disk.name() << "@" << name;
    Content found(expected.size() + 1);
    auto got = disk.read_snapshot(info->id, ByteOffset{0}, found);
    ASSERT_TRUE(got) << where() << got.error().message;
    found.resize(*got);
    ASSERT_TRUE(found == expected) << where() << disk.name() << "@" << name << " ("
                                   << (info->state == SnapshotStateKind::pending ? "pending" : "complete")
                                   << ") differs, " << first_difference(found, expected);
  }

  /// What seek calls a hole is zeros.
  void verify_holes(Disk& disk, const LiveModel& live) {
    ByteOffset at{0};
    while (at.value() < live.content.size()) {
      auto hole = disk.live().seek(at, false);
      ASSERT_TRUE(hole) << where() << hole.error().message;
      if (hole->value() >= live.content.size()) return;
      auto data = disk.live().seek(*hole, true);
      const std::uint64_t end = data ? data->value() : live.content.size();
      ASSERT_GT(end, hole->value()) << where();
      for (std::uint64_t i = hole->value(); i < end; ++i) {
        ASSERT_EQ(live.content[static_cast<std::size_t>(i)], std::byte{0}) << where() << "not a hole at " << i;
      }
      at = ByteOffset{end};
    }
  }

  Machine machine_;
  std::mt19937_64 random_;
  std::unique_ptr<Store> store_;
  std::map<std::string, DiskModel> model_;
  std::uint64_t next_name_ = 1;
  std::uint64_t done_ = 0;
  const bool trace_ = std::getenv("VARVE_MODEL_TRACE") != nullptr;
};

std::uint64_t operations() { return test::number_from("VARVE_STORE_MODEL_OPERATIONS", kDefaultOperations); }

TEST(StoreModel, EveryImageHoldsWhatTheModelSaysThroughAnyOperationsKillsAndPowerLosses) {
  const std::uint64_t seed = test::seed_for("the store's model");
  // Each run on a machine of its own: a store's log only grows, and so would the time of each remount.
  for (std::uint64_t done = 0, run = 0; done < operations() && !HasFailure(); done += kOperationsPerRun, ++run) {
    SCOPED_TRACE("run with seed " + std::to_string(seed + run));
    ModelRun(seed + run).run(std::min(kOperationsPerRun, operations() - done));
  }
}

}  // namespace
}  // namespace varve::store
