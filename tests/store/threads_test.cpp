// Everything a store does, at once, on threads of its own: no image ever holds what it never held.
//
// A writer owns a region of each live image and writes whole chunks that say where they belong and in which turn. So a
// snapshot is one instant if, for each writer, its chunks hold turns between the last that was acknowledged before the
// snapshot was asked for and the last that was begun before it was there; and it never changes if its sum does not.
//
// In rounds, each on the store as the one before left it: closed in the midst of its commits, and opened again. The soak:
// VARVE_SOAK_ROUNDS=300 with the thread sanitizer, half an hour.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "machine_store.h"
#include "support/seed.h"

namespace varve::store {
namespace {

using Content = std::vector<std::byte>;

constexpr std::uint64_t kChunk = kMinChunkSize;
constexpr std::uint64_t kWriters = 8;
constexpr std::uint64_t kChunksPerWriter = 4;
constexpr std::uint64_t kChunks = kWriters * kChunksPerWriter;
constexpr std::size_t kImage = kChunks * kChunk;
constexpr std::chrono::seconds kRoundTime{3};
constexpr std::uint64_t kRounds = 2;
constexpr std::size_t kMaxSnapshots = 12;

/// All words of a chunk are one: half of a write, or another chunk's bytes, would show.
std::uint64_t stamp(std::uint64_t chunk, std::uint64_t turn) { return turn << 16 | chunk; }

class Threads : public ::testing::Test {
 protected:
  struct Turns {
    std::array<std::atomic<std::uint64_t>, kChunks> begun{};
    std::array<std::atomic<std::uint64_t>, kChunks> acknowledged{};
  };

  void SetUp() override {
    InitOptions init;
    init.chunk_size = ByteCount{kChunk};
    ASSERT_TRUE(Store::init(machine_.storage, init));
    open();
    written_ = make("written");
    churned_ = make("churned");
    target_ = make("target");
    ASSERT_TRUE(churned_->take_snapshot("keep", {}));
  }

  void open() {
    OpenOptions options;
    options.chunk_cache_bytes = 1 * kMiB;
    options.node_cache_bytes = 1 * kMiB;
    auto opened = Store::open(test::environment_on(machine_), options);
    ASSERT_TRUE(opened) << opened.error().message;
    store_ = std::move(*opened);
  }

  void reopen() {
    std::array<DiskId, 3> ids{written_->id(), churned_->id(), target_->id()};
    written_ = churned_ = target_ = nullptr;
    ASSERT_TRUE(store_->close());
    store_ = nullptr;
    open();
    ASSERT_NE(store_, nullptr);
    std::array<std::shared_ptr<Disk>*, 3> disks{&written_, &churned_, &target_};
    for (std::size_t i = 0; i < ids.size(); ++i) {
      auto found = store_->disk(ids[i]);
      ASSERT_TRUE(found) << found.error().message;
      *disks[i] = *found;
    }
  }

  std::shared_ptr<Disk> make(const std::string& name) {
    auto disk = store_->create_disk(name, {});
    EXPECT_TRUE(disk);
    EXPECT_TRUE((*disk)->create_image({}));
    EXPECT_TRUE((*disk)->live().resize(ByteCount{kImage}));
    for (std::uint64_t chunk = 0; chunk < kChunks; ++chunk) write(**disk, chunk, 0);
    return *disk;
  }

  static void write(Disk& disk, std::uint64_t chunk, std::uint64_t turn) {
    const std::vector<std::uint64_t> words(kChunk / sizeof(std::uint64_t), stamp(chunk, turn));
    const auto written = disk.live().write(ByteOffset{chunk * kChunk}, std::as_bytes(std::span(words)));
    EXPECT_TRUE(written) << written.error().message;
  }

  /// The turn each chunk holds; fails where a chunk is not one write to its place.
  static std::array<std::uint64_t, kChunks> turns_of(const Content& image, const std::string& name) {
    std::array<std::uint64_t, kChunks> turns{};
    std::vector<std::uint64_t> words(kChunk / sizeof(std::uint64_t));
    for (std::uint64_t chunk = 0; chunk < kChunks; ++chunk) {
      std::memcpy(words.data(), image.data() + chunk * kChunk, kChunk);
      EXPECT_EQ(words.front() & 0xFFFF, chunk) << name;
      for (const std::uint64_t word : words) {
        EXPECT_EQ(word, words.front()) << name << ": chunk " << chunk << " is torn";
        if (word != words.front()) break;
      }
      turns[chunk] = words.front() >> 16;
    }
    return turns;
  }

  /// Empty when the snapshot was deleted meanwhile.
  static Content read_snapshot(Disk& disk, SnapshotId id) {
    auto use = disk.use_snapshot(id);
    if (!use) {
      EXPECT_EQ(use.error().code, ENOENT) << use.error().message;
      return {};
    }
    Content out(kImage);
    const auto got = disk.read_snapshot(id, ByteOffset{0}, out);
    EXPECT_TRUE(got) << got.error().message;
    EXPECT_EQ(got.value_or(0), kImage);
    return out;
  }

  static bool is_one_of(const Error& error, std::initializer_list<int> codes) {
    return std::find(codes.begin(), codes.end(), error.code) != codes.end();
  }

  bool running() const { return std::chrono::steady_clock::now() < end_ && !HasFailure(); }
  std::optional<SnapshotInfo> any_snapshot(Disk& disk, std::mt19937_64& random) {
    const auto all = disk.snapshots();
    if (all.empty()) return std::nullopt;
    return all[random() % all.size()];
  }

  void write_turns(std::uint64_t writer) {
    for (std::uint64_t turn = turns_.begun[writer * kChunksPerWriter] + 1; running(); ++turn) {
      for (std::uint64_t i = 0; i < kChunksPerWriter; ++i) {
        const std::uint64_t chunk = writer * kChunksPerWriter + i;
        turns_.begun[chunk] = turn;
        write(*written_, chunk, turn);
        turns_.acknowledged[chunk] = turn;
      }
      if (turn % 8 == 0) {
        EXPECT_TRUE(written_->live().flush());
      }
    }
  }

  void take() {
    while (running()) {
      if (written_->snapshots().size() >= kMaxSnapshots) {
        std::this_thread::sleep_for(std::chrono::milliseconds{1});
        continue;
      }
      std::array<std::uint64_t, kChunks> least{};
      for (std::uint64_t i = 0; i < kChunks; ++i) least[i] = turns_.acknowledged[i];
      const std::string name = "s" + std::to_string(names_++);
      const auto taken = written_->take_snapshot(name, {});
      ASSERT_TRUE(taken) << taken.error().message;
      std::array<std::uint64_t, kChunks> most{};
      for (std::uint64_t i = 0; i < kChunks; ++i) most[i] = turns_.begun[i];
      const Content image = read_snapshot(*written_, taken->id);
      if (image.empty()) continue;
      const auto turns = turns_of(image, name);
      for (std::uint64_t i = 0; i < kChunks; ++i) {
        EXPECT_GE(turns[i], least[i]) << name << " lacks an acknowledged write";
        EXPECT_LE(turns[i], most[i]) << name << " has a write of later";
        // One instant: a writer goes through its chunks in order.
        if (i % kChunksPerWriter != 0) {
          EXPECT_LE(turns[i], turns[i - 1]) << name;
          EXPECT_GE(turns[i] + 1, turns[i - 1]) << name;
        }
      }
      ++taken_;
    }
  }

  /// What it reads of a snapshot once, pending or complete, it reads for ever.
  void read() {
    std::mt19937_64 random(test::seed_for("the reader"));
    while (running()) {
      const auto chosen = any_snapshot(*written_, random);
      if (!chosen) continue;
      Content image = read_snapshot(*written_, chosen->id);
      if (image.empty()) continue;
      (void)turns_of(image, chosen->name);
      const auto [it, first] = seen_.try_emplace(chosen->id, std::move(image));
      if (!first) {
        EXPECT_EQ(image == it->second, true) << chosen->name << " changed";
        ++read_again_;
      }
    }
  }

  void remove() {
    std::mt19937_64 random(test::seed_for("the remover"));
    while (running()) {
      if (const auto chosen = any_snapshot(*written_, random); chosen && written_->snapshots().size() > kMaxSnapshots / 2) {
        const auto removed = written_->remove_snapshot(chosen->id);
        EXPECT_TRUE(removed || is_one_of(removed.error(), {ENOENT, EBUSY})) << removed.error().message;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds{3});
    }
  }

  void rename() {
    std::mt19937_64 random(test::seed_for("the renamer"));
    for (int number = 0; running(); ++number) {
      if (const auto chosen = any_snapshot(*written_, random)) {
        const std::string name = fmt::format("r{}-{}", round_, number);
        const auto renamed = written_->rename_snapshot(chosen->id, name);
        EXPECT_TRUE(renamed || is_one_of(renamed.error(), {ENOENT})) << renamed.error().message;
        const auto found = written_->find_snapshot(name);
        if (renamed && found) {
          EXPECT_EQ(found->id, chosen->id);
        }
      }
      EXPECT_TRUE(store_->rename_disk(churned_->id(), "churned" + std::to_string(number % 3)));
      std::this_thread::sleep_for(std::chrono::milliseconds{5});
    }
  }

  /// Restores and copies to a disk of its own, from disks in use; each is an image that was.
  void restore_and_copy() {
    std::mt19937_64 random(test::seed_for("the restorer"));
    while (running()) {
      const auto chosen = any_snapshot(*written_, random);
      if (!chosen) continue;
      Status done;
      if (random() % 2 == 0) {
        done = store_->restore(written_, chosen->id, target_);
      } else {
        const SnapshotId from = random() % 3 == 0 ? SnapshotId{0} : chosen->id;
        const auto copied = store_->copy_range({written_, from}, ByteOffset{0}, target_, ByteOffset{0}, ByteCount{kImage});
        if (!copied) done = tl::unexpected(copied.error());
      }
      if (!done) {
        EXPECT_TRUE(is_one_of(done.error(), {ENOENT})) << done.error().message;
        continue;
      }
      Content image(kImage);
      const auto got = target_->live().read(ByteOffset{0}, image);
      ASSERT_TRUE(got) << got.error().message;
      (void)turns_of(image, "the copy of " + chosen->name);
      ++copied_;
    }
  }

  void clone() {
    std::mt19937_64 random(test::seed_for("the cloner"));
    for (int number = 0; running(); ++number) {
      const auto chosen = any_snapshot(*written_, random);
      if (!chosen) continue;
      const SnapshotId from = number % 2 == 0 ? SnapshotId{0} : chosen->id;
      const auto made = store_->clone({written_, from}, "clone", {});
      if (!made) {
        EXPECT_TRUE(is_one_of(made.error(), {ENOENT})) << made.error().message;
        continue;
      }
      Content image(kImage);
      const auto got = (*made)->live().read(ByteOffset{0}, image);
      ASSERT_TRUE(got) << got.error().message;
      (void)turns_of(image, "the clone of " + chosen->name);
      EXPECT_TRUE((*made)->remove_image());
      EXPECT_TRUE(store_->remove_disk((*made)->id()));
      ++cloned_;
    }
  }

  void check_and_collect() {
    while (running()) {
      const auto collected = store_->collect([] { return false; });
      EXPECT_TRUE(collected) << collected.error().message;
      const auto report = store_->check([](std::uint64_t, std::uint64_t) {}, [] { return false; });
      ASSERT_TRUE(report) << report.error().message;
      for (const auto& problem : report->problems) ADD_FAILURE() << problem;
      for (const auto& damage : report->records.damaged) ADD_FAILURE() << damage.target << ": " << damage.first;
      ++checked_;
    }
  }

  void look() {
    while (running()) {
      (void)store_->status();
      (void)store_->metrics();
      for (const auto& disk : store_->disks()) (void)store_->describe({disk, SnapshotId{0}});
      std::this_thread::sleep_for(std::chrono::milliseconds{2});
    }
  }

  test::Machine machine_{test::MemoryStorageOptions{.power_loss = false}};
  std::unique_ptr<Store> store_;
  std::shared_ptr<Disk> written_;
  std::shared_ptr<Disk> churned_;
  std::shared_ptr<Disk> target_;  ///< the restorer's own
  Turns turns_;
  std::atomic<int> taken_{0};
  std::atomic<int> read_again_{0};
  std::atomic<int> copied_{0};
  std::atomic<int> cloned_{0};
  std::atomic<int> checked_{0};
  std::uint64_t round_ = 0;
  std::uint64_t names_ = 0;
  std::map<SnapshotId, Content> seen_;  ///< the reader's own, of all rounds
  std::chrono::steady_clock::time_point end_;
};

TEST_F(Threads, EverythingAtOnceShowsNoImageThatNeverWas) {
  const std::uint64_t rounds = test::number_from("VARVE_SOAK_ROUNDS", kRounds);
  for (round_ = 0; round_ < rounds && !HasFailure(); ++round_) {
    end_ = std::chrono::steady_clock::now() + kRoundTime;
    std::vector<std::thread> threads;
    for (std::uint64_t writer = 0; writer < kWriters; ++writer) {
      threads.emplace_back([this, writer] { write_turns(writer); });
    }
    threads.emplace_back([this] { take(); });
    threads.emplace_back([this] { read(); });
    threads.emplace_back([this] { remove(); });
    threads.emplace_back([this] { rename(); });
    threads.emplace_back([this] { restore_and_copy(); });
    threads.emplace_back([this] { clone(); });
    threads.emplace_back([this] { check_and_collect(); });
    threads.emplace_back([this] { look(); });
    for (auto& thread : threads) thread.join();
    if (HasFailure()) return;
    reopen();
  }
  EXPECT_GT(taken_, 0);
  EXPECT_GT(read_again_, 0);
  EXPECT_GT(copied_, 0);
  EXPECT_GT(cloned_, 0);
  EXPECT_GT(checked_, 0);
  EXPECT_TRUE(store_->wait_until_quiet(std::chrono::seconds{20})) << store_->status().dump(2);
  EXPECT_TRUE(store_->close());
  std::printf("%d snapshots, %d read again, %d copies, %d clones, %d checks\n", taken_.load(), read_again_.load(),
              copied_.load(), cloned_.load(), checked_.load());
}

}  // namespace
}  // namespace varve::store
