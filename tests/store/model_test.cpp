// The whole Store, without FUSE, against a plain model of it in memory: random writes, discards, resizes, snapshots,
// deletions in any order, renames, restores, clones, copies, commits and upkeep at random points, holds, deadlines by a
// clock that the test moves, the trash on and off, undeletions, prune, limits lower and higher than what is there, collect,
// clean remounts, kills and power losses. Each kind of operation, and of refusal, must have happened. VARVE_SEED repeats a
// run, VARVE_STORE_MODEL_OPERATIONS makes it longer.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "care_model.h"
#include "machine_store.h"
#include "support/seed.h"
#include "varve/store/commands.h"
#include "varve/store/space.h"
#include "varve/store/store.h"

namespace varve::store {
namespace {

using test::Machine;
using test::SnapshotModel;
using test::TrashedModel;
using Content = test::ImageContent;

constexpr std::uint64_t kDefaultOperations = 20'000;
constexpr std::uint64_t kOperationsPerRun = 5'000;
constexpr std::uint64_t kChunk = kMinChunkSize;
/// Small images meet every case sooner; a few chunks are enough for all of them.
constexpr std::uint64_t kMaxImage = 20 * kChunk;
constexpr std::size_t kMaxDisks = 4;
constexpr std::size_t kMaxSnapshots = 8;
/// Seconds: of deadlines, of what the trash keeps, and by which the clock moves on.
constexpr std::uint64_t kLongTime = 100;
constexpr std::int64_t kSecond = 1'000'000'000;
/// After every time at which a snapshot is taken by the real clock.
constexpr Time kBeginning{4'000'000'000 * kSecond};

/// What a live image must hold. `older` has, for each block written since the last flush, what it held before: after a
/// power loss each such block is one of its versions (promise 3).
struct LiveModel {
  Content content;
  std::map<std::uint64_t, std::vector<Content>> older;

  void flushed() { older.clear(); }
};

struct DiskModel {
  std::optional<LiveModel> live;
  std::map<std::string, SnapshotModel> snapshots;
  std::vector<TrashedModel> trash;
  Limits limits;
};

const std::vector<std::string> kMustHappen{
    "hold", "hold lifted", "held is not deleted", "deadline", "deadline lifted", "deadline passed", "deadline passed while held",
    "deadline passed in the trash", "into the trash", "deleted for good", "time in the trash passed", "trash emptied", "undeleted",
    "undeleted with its disk", "undelete refused: limit", "undelete refused: name", "undelete refused: deadline",
    "disk removed with a trash", "hidden disk removed", "pruned", "prune kept what is held", "limit below use", "limit above use",
    "no limit", "snapshot refused: limit", "snapshot within a limit", "size refused: limit", "size within a limit", "collected",
    "pack rewritten", "pack punched", "pack removed"};

class ModelRun {
 public:
  ModelRun(std::uint64_t seed, test::Occurrences& happened) : random_(seed), happened_(happened) {
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
    options.clock = [this] { return time_; };
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
        {20, "hold", &ModelRun::hold},
        {20, "set_deadline", &ModelRun::set_deadline},
        {15, "pass_time", &ModelRun::pass_time},
        {6, "abandon_disk", &ModelRun::abandon_disk},
        {5, "keep_trash", &ModelRun::keep_trash},
        {15, "undelete", &ModelRun::undelete},
        {2, "empty_trash", &ModelRun::empty_trash},
        {6, "prune", &ModelRun::prune},
        {5, "thin", &ModelRun::thin},
        {8, "limit_snapshots", &ModelRun::limit_snapshots},
        {6, "limit_live_bytes", &ModelRun::limit_live_bytes},
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
      for (auto& [name, one] : disk.snapshots) all.push_back({disk_name, name, one.content});
    }
    if (all.empty()) return std::nullopt;
    return all[below(all.size())];
  }

  Content some_bytes(std::size_t count) {
    Content bytes(count);
    // Sometimes what takes its full size in a pack: for collect to have packs that are worth being written anew or punched.
    if (count > kChunk && one_in(2)) {
      for (std::byte& b : bytes) b = static_cast<std::byte>(random_());
      return bytes;
    }
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
    const Content& content = chosen->second.live->content;
    if (limits_refuse(chosen->second, content.size())) {
      ASSERT_FALSE(taken) << where() << "a snapshot beyond the limits was taken";
      ASSERT_EQ(taken.error().code, EDQUOT) << where() << taken.error().message;
      return happened_.note("snapshot refused: limit");
    }
    ASSERT_TRUE(taken) << where() << taken.error().message;
    if (chosen->second.limits != Limits{} || limits_ != Limits{}) happened_.note("snapshot within a limit");
    chosen->second.snapshots[name] = {std::make_shared<const Content>(content), taken->id, {}, {}};
    chosen->second.live->flushed();
  }

  void remove_snapshot() {
    const auto chosen = any_snapshot();
    if (!chosen) return;
    const auto removed = disk(chosen->disk).remove_snapshot(snapshot_id(chosen->disk, chosen->name));
    if (model_[chosen->disk].snapshots.at(chosen->name).hold) {
      ASSERT_FALSE(removed) << where() << "what is held was deleted";
      ASSERT_EQ(removed.error().code, EBUSY) << where() << removed.error().message;
      return happened_.note("held is not deleted");
    }
    expect(removed, "remove snapshot");
    removed_as_now(chosen->disk, chosen->name);
  }

  void rename_snapshot() {
    const auto chosen = any_snapshot();
    if (!chosen) return;
    const std::string name = "r" + std::to_string(next_name_++);
    expect(disk(chosen->disk).rename_snapshot(snapshot_id(chosen->disk, chosen->name), name), "rename snapshot");
    auto node = model_[chosen->disk].snapshots.extract(chosen->name);
    node.key() = name;
    model_[chosen->disk].snapshots.insert(std::move(node));
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
    ASSERT_TRUE(collected) << where() << "collect: " << collected.error().message;
    if (collected->records_removed > 0) happened_.note("collected");
    if (collected->packs_rewritten > 0) happened_.note("pack rewritten");
    if (collected->packs_punched > 0) happened_.note("pack punched");
    if (collected->packs_removed > 0) happened_.note("pack removed");
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
      hide_or_forget(chosen->first);
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

  // --- care ---

  [[nodiscard]] bool limits_refuse(const DiskModel& disk, std::uint64_t size) const {
    Usage all;
    for (const auto& [name, one] : model_) {
      const Usage used = test::usage_of(one.snapshots);
      all.snapshots += used.snapshots;
      all.snapshot_bytes += used.snapshot_bytes;
    }
    return test::refuses_snapshot(disk.limits, test::usage_of(disk.snapshots), size) ||
           test::refuses_snapshot(limits_, all, size);
  }

  /// What became of one that was deleted as users do it.
  void removed_as_now(const std::string& disk_name, const std::string& name) {
    auto& disk = model_.at(disk_name);
    auto node = disk.snapshots.extract(name);
    if (keep_ > 0) disk.trash.push_back({name, std::move(node.mapped()), Time{time_.nanoseconds + keep_}});
    happened_.note(keep_ > 0 ? "into the trash" : "deleted for good");
  }

  void hold() {
    const auto chosen = any_snapshot();
    if (!chosen) return;
    SnapshotModel& model = model_.at(chosen->disk).snapshots.at(chosen->name);
    // Rather lifted: what is held fills a disk up.
    const bool lifts = model.hold.has_value() || one_in(2);
    model.hold = lifts ? std::nullopt : std::optional("because " + std::to_string(next_name_++));
    expect(disk(chosen->disk).change_snapshot_care(model.id, [&](Care& care) -> Status {
      care.hold = model.hold;
      return {};
    }), "hold");
    happened_.note(lifts ? "hold lifted" : "hold");
  }

  void set_deadline() {
    const auto chosen = any_snapshot();
    if (!chosen) return;
    SnapshotModel& model = model_.at(chosen->disk).snapshots.at(chosen->name);
    const bool lifts = one_in(3);
    model.deadline = lifts ? std::nullopt : std::optional(later());
    expect(disk(chosen->disk).change_snapshot_care(model.id, [&](Care& care) -> Status {
      care.deadline = model.deadline;
      return {};
    }), "deadline");
    happened_.note(lifts ? "deadline lifted" : "deadline");
  }

  Time later() { return Time{time_.nanoseconds + static_cast<std::int64_t>(1 + below(kLongTime)) * kSecond}; }

  void pass_time() {
    time_ = Time{time_.nanoseconds + static_cast<std::int64_t>(below(kLongTime / 2)) * kSecond};
    // Now and then nobody looks: what is over is there until somebody does.
    if (one_in(2)) return;
    store_->step_schedule();
    for (auto& [name, disk] : model_) end_what_is_over(disk);
    for (auto& [name, disk] : hidden_) end_what_is_over(disk);
    forget_empty_hidden_disks();
  }

  void end_what_is_over(DiskModel& disk) {
    std::erase_if(disk.snapshots, [&](const auto& item) {
      const SnapshotModel& one = item.second;
      if (!one.deadline || *one.deadline > time_) return false;
      happened_.note(one.hold ? "deadline passed while held" : "deadline passed");
      return !one.hold.has_value();
    });
    std::erase_if(disk.trash, [&](const TrashedModel& one) {
      if (one.end() > time_) return false;
      happened_.note(one.until <= time_ ? "time in the trash passed" : "deadline passed in the trash");
      return true;
    });
  }

  void forget_empty_hidden_disks() {
    const auto gone = std::erase_if(hidden_, [](const auto& item) { return item.second.trash.empty(); });
    if (gone > 0) happened_.note("hidden disk removed");
  }

  void keep_trash() {
    const std::uint64_t seconds = one_in(3) ? 0 : 1 + below(2 * kLongTime);
    expect(store_->set_trash_keep(std::chrono::seconds(seconds)), "trash keep");
    keep_ = static_cast<std::int64_t>(seconds) * kSecond;
  }

  void undelete() {
    const auto trash = store_->trash();
    if (trash.empty()) return;
    const auto over_now = std::ranges::find_if(trash, [this](const TrashedSnapshot& one) {
      return one.info.care.deadline && *one.info.care.deadline <= time_;
    });
    const bool take_it = over_now != trash.end() && one_in(2);
    const TrashedSnapshot& which = take_it ? *over_now : trash[below(trash.size())];
    const bool was_hidden = hidden_.contains(which.disk_name);
    DiskModel& disk = was_hidden ? hidden_.at(which.disk_name) : model_.at(which.disk_name);
    const auto one = std::ranges::find(disk.trash, which.info.id, [](const TrashedModel& t) { return t.snapshot.id; });
    ASSERT_TRUE(one != disk.trash.end()) << where();
    std::string name = one->name;
    if (!disk.snapshots.empty() && one_in(4)) name = disk.snapshots.begin()->first;
    const bool taken = disk.snapshots.contains(name);
    const bool over = one->snapshot.deadline && *one->snapshot.deadline <= time_;
    const bool refused = limits_refuse(disk, one->snapshot.content->size());
    const Status done = store_->undelete(which, name);
    if (taken || over || refused) {
      ASSERT_FALSE(done) << where() << name << " came back";
      ASSERT_EQ(done.error().code, taken ? EEXIST : over ? EINVAL : EDQUOT) << where() << done.error().message;
      return happened_.note(std::string("undelete refused: ") + (taken ? "name" : over ? "deadline" : "limit"));
    }
    ASSERT_TRUE(done) << where() << "undelete: " << done.error().message;
    disk.snapshots[name] = std::move(one->snapshot);
    disk.trash.erase(one);
    happened_.note(was_hidden ? "undeleted with its disk" : "undeleted");
    if (was_hidden) model_.insert(hidden_.extract(which.disk_name));
  }

  void empty_trash() {
    std::size_t count = 0;
    for (auto* disks : {&model_, &hidden_}) {
      for (auto& [name, disk] : *disks) {
        count += disk.trash.size();
        disk.trash.clear();
      }
    }
    const auto emptied = store_->empty_trash();
    ASSERT_TRUE(emptied) << where() << emptied.error().message;
    ASSERT_EQ(*emptied, count) << where();
    if (count > 0) happened_.note("trash emptied");
    forget_empty_hidden_disks();
  }

  void prune() {
    auto* chosen = any_disk(false);
    if (chosen == nullptr || chosen->second.snapshots.empty()) return;
    const std::size_t keep = 1 + below(5);
    std::vector<std::pair<SnapshotId, std::string>> newest_first;
    for (const auto& [name, one] : chosen->second.snapshots) newest_first.emplace_back(one.id, name);
    std::ranges::sort(newest_first, std::greater<>());
    std::set<std::string> expected;
    for (std::size_t i = keep; i < newest_first.size(); ++i) {
      const std::string& name = newest_first[i].second;
      if (chosen->second.snapshots.at(name).hold) {
        happened_.note("prune kept what is held");
      } else {
        expected.insert(name);
      }
    }
    nlohmann::json request{{"command", "prune"}, {"disk", chosen->first}, {"keep", {{"last", keep}}}};
    for (const bool dry_run : {true, false}) {
      request["dry_run"] = dry_run;
      const auto pruned = run_command(*store_, request, {});
      ASSERT_TRUE(pruned) << where() << pruned.error().message;
      std::set<std::string> removed;
      for (const auto& one : pruned->at("removed")) removed.insert(one.at("name").get<std::string>());
      ASSERT_EQ(removed, expected) << where() << pruned->dump();
      ASSERT_TRUE(pruned->at("failed").empty()) << where() << pruned->dump();
      ASSERT_EQ(disk(chosen->first).snapshot_count(), newest_first.size() - (dry_run ? 0 : expected.size())) << where();
    }
    for (const std::string& name : expected) removed_as_now(chosen->first, name);
    if (!expected.empty()) happened_.note("pruned");
  }

  /// A long run of a pack dies, and most of it stays: for collect to make a hole.
  void thin() {
    auto* chosen = any_disk(true);
    if (chosen == nullptr || chosen->second.live->content.size() < 12 * kChunk) return;
    const auto fill = [&](std::uint64_t at, std::uint64_t count) {
      Content bytes(static_cast<std::size_t>(count));
      for (std::byte& b : bytes) b = static_cast<std::byte>(random_());
      LiveModel& live = *chosen->second.live;
      remember(live, at, count);
      expect(disk(chosen->first).live().write(ByteOffset{at}, bytes), "write");
      put(live, at, bytes);
    };
    const auto take = [&](std::uint64_t number) -> std::string {
      const std::string name = "t" + std::to_string(number);
      if (limits_refuse(chosen->second, chosen->second.live->content.size())) return "";
      auto taken = disk(chosen->first).take_snapshot(name, Attributes{0, 0, 0755, {}});
      EXPECT_TRUE(taken) << where();
      if (!taken) return "";
      chosen->second.snapshots[name] = {std::make_shared<const Content>(chosen->second.live->content), taken->id, {}, {}};
      chosen->second.live->flushed();
      while (disk(chosen->first).live().pending_count() > 0) {
        const auto done = store_->step_commit(disk(chosen->first).id());
        EXPECT_TRUE(done) << where() << "commit";
        if (!done) break;
      }
      return name;
    };
    fill(0, 12 * kChunk);
    const std::string first = take(next_name_++);
    if (first.empty()) return;
    fill(2 * kChunk, 4 * kChunk);
    const std::string second = take(next_name_++);
    expect(disk(chosen->first).remove_snapshot(chosen->second.snapshots.at(first).id), "remove snapshot");
    removed_as_now(chosen->first, first);
    expect(store_->step_upkeep(disk(chosen->first).id()), "upkeep");
    collect();
    if (second.empty() || one_in(2)) return;
    expect(disk(chosen->first).remove_snapshot(chosen->second.snapshots.at(second).id), "remove snapshot");
    removed_as_now(chosen->first, second);
  }

  /// All of it goes, and perhaps comes back out of the trash.
  void abandon_disk() {
    auto* chosen = any_disk(false);
    if (chosen == nullptr) return;
    const auto held = [](const auto& item) { return item.second.hold.has_value(); };
    if (std::ranges::any_of(chosen->second.snapshots, held)) return;
    const std::string name = chosen->first;
    if (chosen->second.live) expect(disk(name).remove_image(), "remove image");
    chosen->second.live.reset();
    while (!chosen->second.snapshots.empty()) {
      const auto [snapshot, one] = *chosen->second.snapshots.begin();
      expect(disk(name).remove_snapshot(one.id), "remove snapshot");
      removed_as_now(name, snapshot);
    }
    expect(store_->remove_disk(disk(name).id()), "remove disk");
    hide_or_forget(name);
  }

  void hide_or_forget(const std::string& name) {
    auto node = model_.extract(name);
    if (node.mapped().trash.empty()) return;
    hidden_.insert(std::move(node));
    happened_.note("disk removed with a trash");
  }

  /// Around what there is, for one disk or for all.
  void limit_snapshots() {
    auto* chosen = any_disk(false);
    const bool all = chosen == nullptr || one_in(3);
    const Usage used = all ? store_->usage() : disk(chosen->first).usage();
    Limits limits;
    const auto near = [&](std::uint64_t value, std::uint64_t span) { return value + below(span) - std::min(value, below(span)); };
    const bool none = one_in(2);
    if (!none) limits.snapshots = near(used.snapshots, 4);
    if (!none && one_in(2)) limits.snapshot_bytes = near(used.snapshot_bytes, kMaxImage);
    expect(all ? store_->set_limits(limits) : disk(chosen->first).set_limits(limits), "limits");
    (all ? limits_ : chosen->second.limits) = limits;
    const bool below_use = is_below(limits.snapshots, used.snapshots) || is_below(limits.snapshot_bytes, used.snapshot_bytes);
    happened_.note(limits == Limits{} ? "no limit" : below_use ? "limit below use" : "limit above use");
  }
  static bool is_below(const std::optional<std::uint64_t>& limit, std::uint64_t used) { return limit && *limit < used; }

  /// A limit for the length of one resize, of the disk or of all.
  void limit_live_bytes() {
    auto* chosen = any_disk(true);
    if (chosen == nullptr) return;
    LiveModel& live = *chosen->second.live;
    const bool all = one_in(2);
    std::uint64_t used = 0;
    for (const auto& [name, one] : model_) {
      if (one.live && (all || &one == &chosen->second)) used += one.live->content.size();
    }
    Limits limits = all ? limits_ : chosen->second.limits;
    const auto set = [&] { expect(all ? store_->set_limits(limits) : disk(chosen->first).set_limits(limits), "limits"); };
    limits.live_bytes = below(2 * used + 1);
    set();
    const std::uint64_t size = below(kMaxImage);
    const std::uint64_t old = live.content.size();
    const bool refused = size > old && used + (size - old) > *limits.live_bytes;
    const Status done = disk(chosen->first).resize_image(ByteCount{size}, nullptr);
    limits.live_bytes.reset();
    set();
    happened_.note(refused ? "size refused: limit" : "size within a limit");
    if (refused) {
      ASSERT_FALSE(done) << where() << "a size beyond the limit was taken";
      ASSERT_EQ(done.error().code, EDQUOT) << where() << done.error().message;
      return;
    }
    ASSERT_TRUE(done) << where() << done.error().message;
    live.content.resize(static_cast<std::size_t>(size));
    flush_now(chosen->first, live);
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
      for (auto& [snapshot, one] : expected.snapshots) verify_snapshot(found, snapshot, one);
      ASSERT_EQ(found.limits(), expected.limits) << where() << name;
    }
    ASSERT_EQ(store_->limits(), limits_) << where();
    ASSERT_EQ(store_->trash_keep().count() * kSecond, keep_) << where();
    verify_trash();
  }

  void verify_trash() {
    std::map<std::pair<std::string, SnapshotId>, std::string> expected;
    std::map<std::pair<std::string, SnapshotId>, std::string> found;
    const auto describe = [](const std::string& name, const std::optional<Time>& deadline, Time until, bool hidden) {
      return name + (deadline ? " ends " + to_iso8601(*deadline) : "") + " until " + to_iso8601(until) +
             (hidden ? " with its disk" : "");
    };
    for (const auto* disks : {&model_, &hidden_}) {
      for (const auto& [name, disk] : *disks) {
        for (const TrashedModel& one : disk.trash) {
          expected[{name, one.snapshot.id}] = describe(one.name, one.snapshot.deadline, one.until, disks == &hidden_);
        }
      }
    }
    for (const TrashedSnapshot& one : store_->trash()) {
      ASSERT_TRUE(one.info.care.trashed && !one.info.care.hold) << where();
      found[{one.disk_name, one.info.id}] =
          describe(one.info.name, one.info.care.deadline, one.info.care.trashed->until, one.disk_removed);
    }
    ASSERT_EQ(found, expected) << where();
  }

  void verify_snapshot(Disk& disk, const std::string& name, const SnapshotModel& model) {
    const Content& expected = *model.content;
    auto info = disk.find_snapshot(name);
    ASSERT_TRUE(info) << where() << disk.name() << "@" << name;
    ASSERT_EQ(info->id, model.id) << where() << disk.name() << "@" << name;
    ASSERT_TRUE(info->care == (Care{model.hold, model.deadline, {}, {}})) << where() << disk.name() << "@" << name;
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
  std::map<std::string, DiskModel> hidden_;  ///< whose directory was removed: the trash is all they have
  Limits limits_;
  std::int64_t keep_ = 0;
  Time time_ = kBeginning;
  test::Occurrences& happened_;
  std::uint64_t next_name_ = 1;
  std::uint64_t done_ = 0;
  const bool trace_ = std::getenv("VARVE_MODEL_TRACE") != nullptr;
};

std::uint64_t operations() { return test::number_from("VARVE_STORE_MODEL_OPERATIONS", kDefaultOperations); }

TEST(StoreModel, EveryImageHoldsWhatTheModelSaysThroughAnyOperationsKillsAndPowerLosses) {
  const std::uint64_t seed = test::seed_for("the store's model");
  test::Occurrences happened;
  // Each run on a machine of its own: a store's log only grows, and so would the time of each remount.
  for (std::uint64_t done = 0, run = 0; done < operations() && !HasFailure(); done += kOperationsPerRun, ++run) {
    SCOPED_TRACE("run with seed " + std::to_string(seed + run));
    ModelRun(seed + run, happened).run(std::min(kOperationsPerRun, operations() - done));
  }
  std::cerr << happened.text() << "\n";
  if (operations() >= kDefaultOperations && !HasFailure()) {
    EXPECT_EQ(happened.missing(kMustHappen), "") << "these never happened";
  }
}

}  // namespace
}  // namespace varve::store
