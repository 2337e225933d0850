// LiveDisk against a plain model of it: random writes, discards, resizes, splices, snapshots, deletions in any order,
// commits and upkeep, ended now and then by a clean close, a kill or a power loss, also in the middle of an operation.
// VARVE_SEED repeats a run, VARVE_MODEL_OPERATIONS makes it longer.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "modeled_disk.h"
#include "support/seed.h"

namespace varve::disk {
namespace {

using test::Content;
using test::End;
using test::kTestChunk;
using test::ModeledDisk;
using test::SparseImage;

constexpr std::uint64_t kDefaultOperations = 12'000;
/// A few chunks meet every case.
constexpr std::uint64_t kMostChunks = 24;
/// Places are kept in pages of so many chunks.
constexpr std::uint64_t kPlacePage = 4096;
constexpr std::size_t kMostPending = 5;
constexpr std::size_t kMostComplete = 4;
constexpr std::uint64_t kMostCallsToLive = 40;

enum class Shape { small, sparse };
enum class Trouble { deaths, deaths_and_faults };

class ModelRun {
 public:
  ModelRun(std::uint64_t seed, Shape shape, Trouble trouble)
      : random_(seed), shape_(shape), trouble_(trouble), disk_(seed ^ 1, options(), machine()) {
    disk_.set_label("seed " + std::to_string(seed) + ", ");
    const Status opened = disk_.open();
    EXPECT_TRUE(opened) << opened.error().message;
    if (trouble_ == Trouble::deaths_and_faults) disk_.expect_faults({ENOSPC, EIO});
  }

  void run(std::uint64_t operations) {
    for (std::uint64_t done = 0; done < operations && !::testing::Test::HasFailure(); ++done) {
      disk_.set_label("operation " + std::to_string(done) + ", ");
      step();
      if (disk_.is_open() && !disk_.dead()) {
        if (disk_.disk().counters().partial_slots > 0) ++with_partial_slots;
      }
      if (verify_always_) disk_.verify();
      if (disk_.dead()) recover(one_in(2) ? End::kill : one_in(4) ? End::assumed_loss : End::power_loss);
      if (latched()) reopen_after_latch();
    }
    if (!::testing::Test::HasFailure()) finish();
    if (::testing::Test::HasFailure()) std::cerr << disk_.trace();
  }

  static inline std::uint64_t with_partial_slots = 0;  ///< operations that left some
  static inline std::uint64_t base_again = 0;  ///< writes that made a chunk Base

 private:
  LiveDiskOptions options() {
    LiveDiskOptions options;
    if (one_in(2)) options.compact_journal_at = 2 * kKiB;
    if (one_in(2)) options.keep_slots = std::chrono::hours{1};
    return options;
  }
  test::MemoryStorageOptions machine() {
    test::MemoryStorageOptions options;
    options.direct_alignment = one_in(2) ? 4096 : 1;
    return options;
  }

  std::uint64_t below(std::uint64_t limit) { return limit == 0 ? 0 : random_() % limit; }
  bool one_in(std::uint64_t n) { return below(n) == 0; }
  const ModeledDisk::State& state() const { return disk_.state(); }
  std::uint64_t size() const { return state().live ? state().live->size() : 0; }
  bool latched() { return disk_.is_open() && disk_.disk().latched(); }

  struct Choice {
    int weight;
    void (ModelRun::*action)();
  };

  void step() {
    static constexpr Choice kChoices[] = {
        {300, &ModelRun::write},  {40, &ModelRun::write_back}, {60, &ModelRun::zero},       {25, &ModelRun::resize},     {40, &ModelRun::flush},
        {70, &ModelRun::freeze},  {35, &ModelRun::drop},       {10, &ModelRun::update},     {55, &ModelRun::commit},
        {40, &ModelRun::splice},  {6, &ModelRun::replace},     {4, &ModelRun::remove},      {60, &ModelRun::move_home},
        {40, &ModelRun::tidy},    {20, &ModelRun::collect},    {8, &ModelRun::close},       {10, &ModelRun::kill},
        {8, &ModelRun::lose},     {25, &ModelRun::die_later},  {60, &ModelRun::verify},     {6, &ModelRun::forget},
        {4, &ModelRun::settle},   {5, &ModelRun::preallocate}, {12, &ModelRun::fail_later}, {3, &ModelRun::drain},
        {25, &ModelRun::fall_back},
    };
    static const std::uint64_t total = [] {
      std::uint64_t sum = 0;
      for (const Choice& choice : kChoices) sum += static_cast<std::uint64_t>(choice.weight);
      return sum;
    }();
    if (!state().live) {
      disk_.create();
      if (!disk_.dead() && state().live) resize();
      return;
    }
    auto ticket = static_cast<std::int64_t>(below(total));
    for (const Choice& choice : kChoices) {
      ticket -= choice.weight;
      if (ticket < 0) return (this->*choice.action)();
    }
  }

  // --- where ---

  std::uint64_t largest() const { return shape_ == Shape::small ? kMostChunks : 3 * kPlacePage + kMostChunks; }

  /// Of a large image only few places are ever touched: around the borders of pages.
  std::uint64_t some_chunk(std::uint64_t limit) {
    if (shape_ == Shape::small || one_in(20)) return below(limit);
    const std::uint64_t chunk = below(4) * kPlacePage + below(6);
    return limit == 0 ? 0 : (chunk < 3 ? chunk : chunk - 3) % limit;
  }

  struct Range {
    std::uint64_t at = 0;
    std::uint64_t count = 0;
  };
  /// Within the image; unaligned, of sectors, of blocks or of chunks.
  Range some_range(bool may_be_long) {
    if (size() == 0) return {};
    static constexpr std::uint64_t kGrains[] = {1, 512, kBlockSize, kTestChunk};
    const std::uint64_t grain = kGrains[below(4)];
    const std::uint64_t chunk = some_chunk((size() + kTestChunk - 1) / kTestChunk);
    const std::uint64_t at = std::min(chunk * kTestChunk + below(kTestChunk), size() - 1) / grain * grain;
    std::uint64_t most = 2 * kTestChunk;
    if (may_be_long && one_in(4)) most = one_in(2) ? size() : 2 * kPlacePage * kTestChunk;
    if (!may_be_long && shape_ == Shape::small && one_in(8)) most = size();
    std::uint64_t count = (1 + below(most) / grain) * grain;
    if (one_in(3)) count = std::min(count, kBlockSize);
    return {at, std::min(count, size() - at)};
  }

  // --- operations ---

  void write() {
    if (one_in(40) && size() < (largest() - 2) * kTestChunk) {  // behind the end
      disk_.write_stamped(size() + below(kTestChunk), 1 + below(kTestChunk));
      return;
    }
    const Range range = some_range(false);
    if (range.count == 0) return;
    if (one_in(10)) {
      disk_.write(range.at, Content(static_cast<std::size_t>(range.count)));  // zeros are data too
    } else {
      disk_.write_stamped(range.at, range.count);
    }
  }
  /// What a complete snapshot has: mostly what the base has, or had.
  void write_back() {
    if (disk_.complete().empty() || size() == 0) return;
    const ModeledDisk::Complete from = disk_.complete()[below(disk_.complete().size())];
    const std::uint64_t end = std::min(size(), from.image->size());
    if (end == 0) return;
    const std::uint64_t chunk = some_chunk((end + kTestChunk - 1) / kTestChunk);
    const std::uint64_t at = chunk * kTestChunk + (one_in(4) ? below(kTestChunk) / 512 * 512 : 0);
    if (at >= end) return;
    const std::uint64_t count = std::min((1 + below(4)) * kTestChunk - (one_in(4) ? below(kTestChunk) : 0), end - at);
    const std::uint64_t before = disk_.disk().counters().base_chunks;
    if (!disk_.write(at, from.image->read(at, static_cast<std::size_t>(count)))) return;
    if (disk_.disk().counters().base_chunks > before) ++base_again;
  }
  void zero() {
    const Range range = some_range(true);
    if (range.count != 0) disk_.zero(range.at, range.count);
  }
  void resize() {
    std::uint64_t size = one_in(8) ? 0 : below(largest() + 1) * kTestChunk;
    if (shape_ == Shape::sparse && size != 0) size = (some_chunk(largest()) + 1) * kTestChunk;
    if (one_in(2)) size -= std::min(size, below(kTestChunk));
    disk_.resize(size);
  }
  void preallocate() {
    const Range range = some_range(false);
    if (range.count != 0) disk_.preallocate(range.at, range.count);
  }
  void flush() { disk_.flush(); }
  void freeze() {
    if (state().pending.size() >= kMostPending) {
      commit();
    } else {
      disk_.freeze();
    }
  }
  void drop() {
    if (!state().pending.empty()) disk_.drop(below(state().pending.size()));
  }
  void update() {
    if (state().pending.empty()) return;
    const std::string name = "renamed" + std::to_string(below(1000));
    disk_.update(below(state().pending.size()), name, std::string(below(300), 'a'));
  }
  void commit() {
    disk_.commit();
    if (disk_.complete().size() > kMostComplete) disk_.forget_complete(0);
  }
  void forget() {
    if (!disk_.complete().empty()) disk_.forget_complete(below(disk_.complete().size()));
  }

  /// A complete snapshot, sometimes of another disk.
  ModeledDisk::Complete some_complete() {
    if (!disk_.complete().empty() && !one_in(4)) return disk_.complete()[below(disk_.complete().size())];
    SparseImage image;
    const std::uint64_t chunks = 1 + below(kMostChunks);
    for (std::uint64_t i = 0; i < chunks; ++i) {
      if (one_in(2)) continue;
      const Content bytes(kTestChunk, static_cast<std::byte>(1 + below(255)));
      image.write(i * kTestChunk, bytes);
    }
    image.resize(chunks * kTestChunk - (one_in(2) ? below(kTestChunk) : 0));
    return disk_.add_complete(image);
  }
  void splice() {
    const ModeledDisk::Complete from = some_complete();
    const std::uint64_t chunks = (from.image->size() + kTestChunk - 1) / kTestChunk;
    if (chunks == 0) return;
    const std::uint64_t source = some_chunk(chunks);
    std::uint64_t count = 1 + below(one_in(3) ? chunks - source : std::min<std::uint64_t>(3, chunks - source));
    const std::uint64_t first = one_in(2) ? std::min(source, largest() - 1) : some_chunk(largest());
    count = std::min(count, largest() - first);
    // Of the source's last chunk only what it has; of others all, for what is behind the end must be zeros.
    const std::uint64_t end = std::min((source + count) * kTestChunk, from.image->size());
    disk_.splice(first, count, from, source, first * kTestChunk + (end - source * kTestChunk));
  }
  void replace() { disk_.replace(some_complete()); }
  void remove() { disk_.remove(); }
  /// P's snapshot is deleted, and another, or none, takes its place.
  void fall_back() {
    const auto& complete = disk_.complete();
    disk_.replace_parent(complete.empty() || one_in(4) ? OpaqueRoot{} : complete[below(complete.size())].root);
    if (one_in(2)) disk_.collect();
  }
  void move_home() { disk_.move_home(1 + below(6)); }
  void tidy() { disk_.tidy(); }
  void collect() { disk_.collect(); }
  void verify() { disk_.verify(); }
  void drain() { disk_.drain(); }
  void settle() {
    if (trouble_ == Trouble::deaths) disk_.settle();
  }

  // --- ends ---

  void close() { disk_.close_and_open(); }
  void kill() { recover(End::kill); }
  void lose() { recover(one_in(4) ? End::assumed_loss : End::power_loss); }
  void die_later() {
    if (disk_.crash() == nullptr) disk_.die_at(1 + below(kMostCallsToLive));
  }
  void fail_later() {
    if (trouble_ != Trouble::deaths_and_faults) return;
    disk_.machine().storage.fail_at(1 + below(kMostCallsToLive), one_in(2) ? ENOSPC : EIO);
  }

  void recover(End how) {
    if (one_in(3)) {  // die once more, in the middle of recovery
      disk_.end(how, random_());
      disk_.die_at(1 + below(30));
      const Status opened = disk_.open();
      EXPECT_TRUE(opened || disk_.crash()->reached()) << disk_.where() << opened.error().message;
      how = one_in(2) ? End::kill : End::power_loss;
    }
    disk_.recover(how, random_());
    if (one_in(2)) disk_.verify();
    if (one_in(4)) disk_.collect();
  }
  void reopen_after_latch() {
    if (one_in(8)) recover(one_in(2) ? End::kill : End::power_loss);
  }

  void finish() {
    disk_.set_label("at the end, ");
    disk_.machine().storage.clear_faults();
    disk_.machine().memory.calls().clear();
    recover(End::kill);
    disk_.verify();
    disk_.drain();
    disk_.verify();
    disk_.settle();
  }

  std::mt19937_64 random_;
  const Shape shape_;
  const Trouble trouble_;
  ModeledDisk disk_;
  const bool verify_always_ = std::getenv("VARVE_MODEL_VERIFY") != nullptr;  ///< to find the operation that broke it
};

std::uint64_t operations() { return test::number_from("VARVE_MODEL_OPERATIONS", kDefaultOperations); }

/// Many short runs: each starts with another option and a fresh journal.
void run_model(const char* name, Shape shape, Trouble trouble, std::uint64_t share) {
  std::mt19937_64 seeds(test::seed_for(name));
  constexpr std::uint64_t kRun = 1500;
  const std::uint64_t total = std::max<std::uint64_t>(operations() / share, 1);
  for (std::uint64_t done = 0; done < total && !::testing::Test::HasFailure(); done += kRun) {
    const std::uint64_t seed = seeds();
    ModelRun(seed, shape, trouble).run(std::min(kRun, total - done));
  }
}

/// What the run must have met to mean something.
void expect_met(const char* what, std::uint64_t& count) {
  std::cerr << what << ": " << count << "\n";
  if (!::testing::Test::HasFailure() && operations() >= kDefaultOperations) {
    EXPECT_GT(count, 0u) << what;
  }
  count = 0;
}

TEST(LiveDiskModel, ASmallImageHoldsWhatTheModelSaysThroughAnyOperationsAndDeaths) {
  run_model("the live disk's model, small", Shape::small, Trouble::deaths, 1);
  expect_met("chunks written back to what the base has", ModelRun::base_again);
  expect_met("operations with partial slots", ModelRun::with_partial_slots);
}

TEST(LiveDiskModel, ASparseImageOfManyPagesHoldsWhatTheModelSays) {
  run_model("the live disk's model, sparse", Shape::sparse, Trouble::deaths, 4);
}

TEST(LiveDiskModel, FailuresOfTheMediumLeaveTheOldOrTheNewAndNothingElse) {
  run_model("the live disk's model, with faults", Shape::small, Trouble::deaths_and_faults, 3);
}

}  // namespace
}  // namespace varve::disk
