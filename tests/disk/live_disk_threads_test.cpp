// Many threads at once: promise 1 (a snapshot is one instant) under writers, a committer, a mover and readers.
//
// Every aligned 4 KiB block holds one number, over and over. A writer owns its blocks and writes ever larger numbers to
// each; it notes the number before it writes ("issued") and after the write returned ("acknowledged"). So a snapshot's
// block is right when it is whole and its number lies between what was acknowledged when freeze was called and what
// was issued when it returned.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "fake_base.h"
#include "support/expect.h"
#include "support/machine.h"
#include "support/seed.h"
#include "varve/core/buffer.h"
#include "varve/disk/live_disk.h"

namespace varve::disk {
namespace {

using test::Content;
using test::FakeBase;

constexpr std::uint64_t kChunk = kMinChunkSize;
constexpr Geometry kGeometry{ByteCount{kChunk}};
constexpr std::uint64_t kChunks = 16;
constexpr std::uint64_t kBlocks = kChunks * kChunk / kBlockSize;
constexpr std::size_t kWriters = 4;
constexpr std::uint64_t kBlocksOfAWriter = 2;  ///< of each group of blocks
constexpr std::uint64_t kGroup = kWriters * kBlocksOfAWriter;
constexpr int kSnapshots = 150;
constexpr std::size_t kMostPending = 4;
constexpr int kDeaths = 12;
constexpr int kMostSnapshotsToLive = 8;

using Numbers = std::vector<std::uint64_t>;
using Counters = std::vector<std::atomic<std::uint64_t>>;

void fill(std::span<std::byte> block, std::uint64_t number) {
  for (std::size_t at = 0; at < block.size(); at += sizeof(number)) {
    std::memcpy(block.data() + at, &number, sizeof(number));
  }
}

/// The number of a block; nothing when it is torn.
std::optional<std::uint64_t> number_in(std::span<const std::byte> block) {
  std::uint64_t first = 0;
  std::memcpy(&first, block.data(), sizeof(first));
  for (std::size_t at = 0; at < block.size(); at += sizeof(first)) {
    if (std::memcmp(block.data() + at, &first, sizeof(first)) != 0) return std::nullopt;
  }
  return first;
}

struct Bounds {
  Numbers least;
  Numbers most;
};

enum class Death { none, kill, power_loss };

class Crowd {
 public:
  explicit Crowd(std::uint64_t seed, Death death = Death::none)
      : seed_(seed), death_(death), machine_(books(death != Death::none)), durable_(kBlocks) {
    open();
    EXPECT_OK(live_->create_image());
    EXPECT_OK(live_->resize(ByteCount{kChunks * kChunk}));
  }

  void run() {
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < kWriters; ++i) threads.emplace_back([this, i] { write(i); });
    threads.emplace_back([this] { commit(); });
    threads.emplace_back([this] { keep_up(); });
    threads.emplace_back([this] { read_pending(); });
    threads.emplace_back([this] { read_live(); });
    threads.emplace_back([this] { flush(); });
    freeze(death_ == Death::none ? kSnapshots : 1 + static_cast<int>(seed_ % kMostSnapshotsToLive));
    if (death_ != Death::none) std::this_thread::sleep_for(std::chrono::microseconds(seed_ % 3000));
    // A kill comes between calls here: a dying stack would go on writing to shared memory (see crash_point.h).
    if (death_ == Death::power_loss) {
      dying_ = true;
      machine_.cut_off();
    }
    stop_ = true;
    for (std::thread& thread : threads) thread.join();
    if (death_ != Death::none) recover();
    finish();
  }

 private:
  static test::MemoryStorageOptions books(bool kept) {
    test::MemoryStorageOptions options;
    options.power_loss = kept;
    return options;
  }
  void open() {
    LiveDiskOptions options;
    options.compact_journal_at = 32 * kKiB;
    if (seed_ % 2 == 0) options.keep_slots = std::chrono::hours{1};
    auto opened = LiveDisk::open(machine_.storage, machine_.memory, "live/1", DiskId{1}, kGeometry, base_, options);
    ASSERT_OK(opened);
    live_ = std::move(*opened);
  }
  /// A dead machine may refuse anything.
  template <class T>
  [[nodiscard]] bool done(const Result<T>& result) {
    if (!result && dying_) return false;
    EXPECT_OK(result);
    return result.has_value();
  }
  bool stopped() const { return stop_ || ::testing::Test::HasFailure(); }

  Numbers look(const Counters& numbers) const {
    Numbers out(kBlocks);
    for (std::size_t i = 0; i < kBlocks; ++i) out[i] = numbers[i];
    return out;
  }

  /// Two blocks of each eight are this writer's: writers meet in one chunk, never in one block.
  void write(std::size_t self) {
    std::mt19937_64 random(seed_ + self);
    AlignedBuffer buffer(kBlocksOfAWriter * kBlockSize);
    std::uint64_t number = 1;
    while (!stopped()) {
      const std::uint64_t group = random() % (kBlocks / kGroup);
      const std::uint64_t skip = random() % kBlocksOfAWriter;
      const std::uint64_t first = group * kGroup + self * kBlocksOfAWriter + skip;
      const std::uint64_t count = 1 + random() % (kBlocksOfAWriter - skip);
      ++number;
      for (std::uint64_t i = 0; i < count; ++i) {
        issued_[first + i] = number;
        fill(buffer.span().subspan(static_cast<std::size_t>(i * kBlockSize), kBlockSize), number);
      }
      if (!done(live_->write(ByteOffset{first * kBlockSize},
                             buffer.span().first(static_cast<std::size_t>(count * kBlockSize))))) {
        return;
      }
      for (std::uint64_t i = 0; i < count; ++i) acknowledged_[first + i] = number;
    }
  }

  void freeze(int snapshots) {
    std::uint64_t id = 1;
    for (int i = 0; i < snapshots && !::testing::Test::HasFailure(); ++i) {
      while (live_->pending().size() >= kMostPending && !::testing::Test::HasFailure()) std::this_thread::yield();
      auto bounds = std::make_shared<Bounds>();
      bounds->least = look(acknowledged_);
      const auto frozen = live_->freeze(SnapshotId{id}, SnapshotId{id - 1}, "s" + std::to_string(id), "");
      bounds->most = look(issued_);
      EXPECT_OK(frozen);
      MutexLock lock(mutex_);
      bounds_[SnapshotId{id++}] = std::move(bounds);
    }
  }

  std::shared_ptr<const Bounds> bounds_of(SnapshotId id) {
    MutexLock lock(mutex_);
    const auto it = bounds_.find(id);
    return it == bounds_.end() ? nullptr : it->second;
  }

  void check(const char* what, SnapshotId id, std::uint64_t first_block, std::span<const std::byte> bytes,
             const Bounds& bounds) {
    for (std::uint64_t i = 0; i * kBlockSize < bytes.size(); ++i) {
      const auto number = number_in(bytes.subspan(static_cast<std::size_t>(i * kBlockSize), kBlockSize));
      const std::uint64_t block = first_block + i;
      ASSERT_TRUE(number) << what << " " << id.value() << ": block " << block << " is torn";
      ASSERT_GE(*number, bounds.least[block]) << what << " " << id.value() << ": block " << block << " lacks a write";
      ASSERT_LE(*number, bounds.most[block]) << what << " " << id.value() << ": block " << block << " has a later write";
    }
  }

  void read_pending() {
    std::mt19937_64 random(seed_ + 100);
    std::map<SnapshotId, Content> seen;
    while (!stopped()) {
      for (const PendingInfo& info : live_->pending()) {
        const auto bounds = bounds_of(info.id);
        if (bounds == nullptr) continue;
        const std::uint64_t chunk = random() % kChunks;
        Content out(2 * kChunk);
        const auto got = live_->read_pending(info.id, ByteOffset{chunk * kChunk}, out);
        if (!got && got.error().code == ENOENT) continue;  // committed meanwhile
        if (!done(got)) return;
        out.resize(*got);
        check("pending", info.id, chunk * kChunk / kBlockSize, out, *bounds);
        Content again(out.size());
        const auto second = live_->read_pending(info.id, ByteOffset{chunk * kChunk}, again);
        if (second) {
          EXPECT_TRUE(again == out) << "a snapshot changed between two reads";
        }
      }
    }
  }

  void read_live() {
    std::mt19937_64 random(seed_ + 200);
    while (!stopped()) {
      const std::uint64_t chunk = random() % kChunks;
      Content out(kChunk);
      Bounds bounds;
      bounds.least = look(acknowledged_);
      const auto got = live_->read(ByteOffset{chunk * kChunk}, out);
      bounds.most = look(issued_);
      if (!done(got)) return;
      for (std::uint64_t i = 0; i < kChunk / kBlockSize; ++i) {
        std::uint64_t number = 0;  // a read may meet a write half-way, so only the bounds hold
        std::memcpy(&number, out.data() + i * kBlockSize, sizeof(number));
        const std::uint64_t block = chunk * (kChunk / kBlockSize) + i;
        ASSERT_GE(number, bounds.least[block]) << "live: block " << block;
        ASSERT_LE(number, bounds.most[block]) << "live: block " << block;
      }
    }
  }

  void flush() {
    while (!stopped()) {
      const Numbers covered = look(acknowledged_);
      if (!done(live_->flush())) return;
      durable_ = covered;
      std::this_thread::sleep_for(std::chrono::microseconds(300));
    }
  }

  void keep_up() {
    while (!stopped()) {
      if (!done(live_->move_home(12, &movers_)) || !done(live_->tidy())) return;
      static_cast<void>(live_->counters());
      static_cast<void>(live_->roots());
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
  }

  void commit() {
    std::mt19937_64 random(seed_ + 300);
    while (!stopped() && commit_or_drop(random)) {
    }
  }

  /// False: the machine is dead.
  bool commit_or_drop(std::mt19937_64& random) {
    const auto pending = live_->pending();
    const auto bounds = pending.empty() ? nullptr : bounds_of(pending.front().id);
    if (bounds == nullptr || (death_ != Death::none && random() % 4 != 0)) {
      std::this_thread::yield();
      return true;
    }
    const bool drops = random() % 4 == 0;
    leaving_ = (drops ? pending[random() % pending.size()].id : pending.front().id).value();
    if (!(drops ? done(live_->drop_pending(SnapshotId{leaving_})) : commit_oldest(pending.front(), *bounds))) {
      return false;
    }
    MutexLock lock(mutex_);
    gone_.insert(SnapshotId{leaving_});
    leaving_ = 0;
    return true;
  }

  bool commit_oldest(const PendingInfo& oldest, const Bounds& bounds) {
    FakeBase::Chunks chunks;
    if (!rebuild(oldest, chunks)) return false;
    const Content zeros(kChunk);
    for (std::uint64_t chunk = 0; chunk < kChunks; ++chunk) {
      const auto it = chunks.find(chunk);
      check("committed", oldest.id, chunk * kChunk / kBlockSize, it == chunks.end() ? zeros : *it->second, bounds);
      if (::testing::Test::HasFailure()) return false;
    }
    return done(live_->committed(oldest.id, base_.add(std::move(chunks))));
  }

  bool rebuild(const PendingInfo& oldest, FakeBase::Chunks& chunks) {
    auto parent = base_.chunks_of(live_->parent_root());
    if (!done(parent)) return false;
    chunks = std::move(*parent);
    std::uint64_t next = 0;
    while (next < kChunks) {
      const auto runs = live_->frozen_runs(oldest.id, ChunkIndex{next}, 3);
      if (!done(runs)) return false;
      if (runs->empty()) break;
      for (const FrozenRun& run : *runs) {
        for (std::uint64_t i = 0; i < run.count.value(); ++i) {
          const ChunkIndex chunk = run.first + ChunkCount{i};
          chunks.erase(chunk.value());
          if (run.place == PlaceKind::zero) continue;
          Content bytes(kChunk);
          if (run.place == PlaceKind::base) {
            EXPECT_OK(base_.read_chunk(run.root, run.source + ChunkCount{i}, bytes));
          } else if (!done(live_->read_frozen(oldest.id, chunk, bytes))) {
            return false;
          }
          chunks[chunk.value()] = std::make_shared<const Content>(std::move(bytes));
        }
        next = run.first.value() + run.count.value();
      }
    }
    return true;
  }

  /// The snapshots that were acknowledged and not given up are there, as they were; the image has at least what was
  /// acknowledged (after a kill) or flushed (after a power loss).
  void recover() {
    live_.reset();
    if (death_ == Death::kill) {
      machine_.kill();
    } else {
      machine_.lose_power(seed_);
    }
    dying_ = false;
    open();
    if (::testing::Test::HasFailure()) return;
    MutexLock lock(mutex_);
    std::set<SnapshotId> found;
    for (const PendingInfo& info : live_->pending()) {
      found.insert(info.id);
      const auto it = bounds_.find(info.id);
      ASSERT_NE(it, bounds_.end()) << info.id.value();
      ASSERT_FALSE(gone_.contains(info.id)) << info.id.value() << " is back from the dead";
      Content out(kChunks * kChunk);
      ASSERT_OK(live_->read_pending(info.id, ByteOffset{0}, out));
      check("recovered", info.id, 0, out, *it->second);
    }
    for (const auto& [id, bounds] : bounds_) {
      if (gone_.contains(id) || id.value() == leaving_) continue;
      ASSERT_TRUE(found.contains(id)) << id.value() << " is lost";
    }
    Content out(kChunks * kChunk);
    ASSERT_OK(live_->read(ByteOffset{0}, out));
    const Bounds bounds{death_ == Death::kill ? look(acknowledged_) : durable_, look(issued_)};
    check("recovered live image", SnapshotId{0}, 0, out, bounds);
    for (std::uint64_t i = 0; i < kBlocks; ++i) {  // what finish() will expect
      issued_[i] = acknowledged_[i] =
          number_in(std::span(out).subspan(static_cast<std::size_t>(i * kBlockSize), kBlockSize)).value_or(0);
    }
  }

  void finish() {
    if (::testing::Test::HasFailure()) return;
    std::mt19937_64 random(1);
    death_ = Death::none;
    while (!live_->pending().empty() && !::testing::Test::HasFailure()) static_cast<void>(commit_or_drop(random));
    Content out(kChunks * kChunk);
    ASSERT_OK(live_->read(ByteOffset{0}, out));
    const Bounds exact{look(acknowledged_), look(issued_)};
    check("live", SnapshotId{0}, 0, out, exact);
    ASSERT_OK(live_->flush());
    for (std::size_t moved = 1; moved != 0;) {
      const auto result = live_->move_home(100);
      ASSERT_OK(result);
      moved = *result;
    }
    ASSERT_OK(live_->flush());
    ASSERT_OK(live_->tidy());
    EXPECT_EQ(live_->counters().free_slots, live_->counters().slots);
    ASSERT_OK(live_->close());
  }

  const std::uint64_t seed_;
  Death death_;
  test::Machine machine_;
  FakeBase base_;
  ThreadPool movers_{"move", 2, 2};
  std::unique_ptr<LiveDisk> live_;
  std::atomic<bool> stop_{false};
  std::atomic<bool> dying_{false};
  std::atomic<std::uint64_t> leaving_{0};  ///< the snapshot that is being committed or dropped
  Numbers durable_;                        ///< acknowledged before the last flush that returned
  Counters issued_ = Counters(kBlocks);
  Counters acknowledged_ = Counters(kBlocks);
  Mutex mutex_;
  std::map<SnapshotId, std::shared_ptr<const Bounds>> bounds_ VARVE_GUARDED_BY(mutex_);
  std::set<SnapshotId> gone_ VARVE_GUARDED_BY(mutex_);
};

TEST(LiveDiskThreads, ASnapshotIsOneInstantUnderACrowdOfWritersAndUpkeep) {
  Crowd(test::seed_for("the crowd")).run();
}

TEST(LiveDiskThreads, WhatWasAcknowledgedSurvivesTheKillOfACrowd) {
  std::mt19937_64 seeds(test::seed_for("the crowd that is killed"));
  for (int i = 0; i < kDeaths && !HasFailure(); ++i) Crowd(seeds(), Death::kill).run();
}

TEST(LiveDiskThreads, WhatWasFlushedSurvivesAPowerLossInTheMiddleOfACrowd) {
  std::mt19937_64 seeds(test::seed_for("the crowd without power"));
  for (int i = 0; i < kDeaths && !HasFailure(); ++i) Crowd(seeds(), Death::power_loss).run();
}

/// Blocks that belong together: a writer writes the same number to two far blocks, one after the other. No snapshot
/// may have the second write without the first.
TEST(LiveDiskThreads, ASnapshotNeverHasALaterWriteWithoutTheEarlierOne) {
  test::Machine machine;
  FakeBase base;
  auto opened = LiveDisk::open(machine.storage, machine.memory, "live/1", DiskId{1}, kGeometry, base, {});
  ASSERT_OK(opened);
  LiveDisk& live = **opened;
  ASSERT_OK(live.create_image());
  ASSERT_OK(live.resize(ByteCount{kChunks * kChunk}));
  std::atomic<bool> stop{false};
  std::vector<std::thread> writers;
  for (std::uint64_t self = 0; self < 2; ++self) {
    writers.emplace_back([&, self] {
      Content block(kBlockSize);
      for (std::uint64_t number = 1; !stop; ++number) {
        fill(block, number);
        EXPECT_OK(live.write(ByteOffset{self * kBlockSize}, block));
        EXPECT_OK(live.write(ByteOffset{(8 + self) * kChunk}, block));
      }
    });
  }
  for (std::uint64_t id = 1; id <= 200 && !::testing::Test::HasFailure(); ++id) {
    ASSERT_OK(live.freeze(SnapshotId{id}, SnapshotId{id - 1}, "s", ""));
    for (std::uint64_t self = 0; self < 2; ++self) {
      Content first(kBlockSize);
      Content second(kBlockSize);
      EXPECT_OK(live.read_pending(SnapshotId{id}, ByteOffset{self * kBlockSize}, first));
      EXPECT_OK(live.read_pending(SnapshotId{id}, ByteOffset{(8 + self) * kChunk}, second));
      const auto earlier = number_in(first);
      const auto later = number_in(second);
      EXPECT_TRUE(earlier && later) << "torn";
      if (!earlier || !later) break;
      EXPECT_GE(*earlier, *later);
      EXPECT_LE(*earlier, *later + 1);
    }
    ASSERT_OK(live.drop_pending(SnapshotId{id}));
    ASSERT_OK(live.tidy());
  }
  stop = true;
  for (std::thread& writer : writers) writer.join();
}

}  // namespace
}  // namespace varve::disk
