// Reference counts against brute force: what is counted and promised is what a walk over everything finds.
// VARVE_SEED repeats a run, VARVE_ACCOUNTING_STEPS makes it longer.
#include "varve/snapshot/accounting.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <random>
#include <set>

#include "record_table.h"
#include "support/expect.h"
#include "support/seed.h"
#include "varve/snapshot/collect.h"
#include "world.h"

namespace varve::snapshot {
namespace {

using test::content;
using test::kGeometry;
using test::Model;
using test::World;
using chunks::MaybeRef;
using chunks::RecordKind;
using chunks::Ref;

constexpr std::uint64_t kOwner = 7;

/// Records that roots reach, with what deltas stand on.
class Walk {
 public:
  explicit Walk(chunks::ChunkStore& chunks) : chunks_(chunks) {}
  void add(const Ref& root) {
    chunks::RecordVisitor visitor;
    visitor.first_visit = [this](const Ref& ref, RecordKind kind) {
      if (ref.damaged()) return false;
      note(ref, kind);
      return walked_.insert({ref.pack.value(), ref.ordinal}).second;
    };
    visitor.visit_support = [this](const Ref& ref, RecordKind kind) {
      deltas_ += 1;
      note(ref, kind);
    };
    visitor.on_damage = [](const Ref& ref, const Error& error) { ADD_FAILURE() << chunks::to_text(ref) << error.message; };
    chunks::walk_records(chunks_, root, visitor);
  }
  [[nodiscard]] const RecordSums& sums() const { return sums_; }
  [[nodiscard]] std::uint64_t deltas() const { return deltas_; }

 private:
  void note(const Ref& ref, RecordKind kind) {
    if (!seen_.insert({ref.pack.value(), ref.ordinal}).second) return;
    ++sums_.records;
    sums_.chunks += kind == RecordKind::full ? 1 : 0;
    sums_.stored_bytes += chunks_.record(ref).value().stored_bytes;
  }
  chunks::ChunkStore& chunks_;
  std::set<std::pair<std::uint64_t, std::uint32_t>> walked_;
  std::set<std::pair<std::uint64_t, std::uint32_t>> seen_;
  RecordSums sums_;
  std::uint64_t deltas_ = 0;
};

RecordSums walk(chunks::ChunkStore& chunks, const Accounting::Roots& roots) {
  Walk walked(chunks);
  for (const Ref& root : roots) walked.add(root);
  return walked.sums();
}

RecordSums minus(const RecordSums& a, const RecordSums& b) {
  return {a.records - b.records, a.chunks - b.chunks, a.stored_bytes - b.stored_bytes};
}

std::string text(const RecordSums& sums) {
  return std::to_string(sums.records) + " records, " + std::to_string(sums.chunks) + " chunks, " +
         std::to_string(sums.stored_bytes) + " bytes";
}

class History {
 public:
  explicit History(std::uint64_t seed) : random_(seed), accounting_(*world_.store) {}

  void run(std::uint64_t steps) {
    for (std::uint64_t i = 0; i < steps && !::testing::Test::HasFailure(); ++i) {
      step();
      if (below(4) == 0) follow();
      if (below(8) == 0) ask();
      if (below(40) == 0) check();
      if (below(50) == 0) collect();
    }
    follow();
    check();
    roots_.clear();
    follow();
    EXPECT_EQ(accounting_.live(), RecordSums{});
    EXPECT_EQ(accounting_.memory_bytes(), 0u);
    EXPECT_GT(deltas_, 0u) << "no delta was ever counted";
  }

 private:
  std::uint64_t below(std::uint64_t limit) { return random_() % limit; }

  void step() {
    switch (below(10)) {
      case 0:
      case 1:
      case 2:
        if (!roots_.empty()) roots_.erase(roots_.begin() + static_cast<std::ptrdiff_t>(below(roots_.size())));
        break;
      case 3:
        if (!roots_.empty()) roots_.push_back(roots_[below(roots_.size())]);  // the same map once more
        break;
      case 4:
        splice();
        break;
      default:
        change();
    }
  }
  MaybeRef some_root() { return roots_.empty() || below(10) == 0 ? MaybeRef{} : MaybeRef(roots_[below(roots_.size())]); }
  std::uint64_t some_chunk() { return below(3) * 65536 * 256 % 4194304 + below(2) * 256 + below(30); }

  /// Some chunks whole, some of them known elsewhere, some as deltas, some zeros, and one that could not be read.
  void change() {
    chunks::RootRegistry::Hold hold(world_.registry);
    const MaybeRef base = some_root();
    ASSERT_TRUE(hold.try_hold_root(base));
    chunks::RecordWriter writer(*world_.store, hold);
    chunks::MapBuilder builder(*world_.store, writer, base);
    std::set<std::uint64_t> places;
    for (std::uint64_t i = 0, count = 1 + below(6); i < count; ++i) places.insert(some_chunk());
    for (const std::uint64_t chunk : places) {
      MaybeRef ref = Ref::make_damaged();
      if (below(12) != 0) ref = below(6) == 0 ? MaybeRef{} : stored(writer, base, chunk);
      ASSERT_OK(builder.set(ChunkIndex{chunk}, ref));
    }
    finish(hold, writer, builder);
  }
  Ref stored(chunks::RecordWriter& writer, const MaybeRef& base, std::uint64_t chunk) {
    const auto old = chunks::ChunkMap(*world_.store, base).find(ChunkIndex{chunk}).value();
    if (old && !old->damaged() && below(2) == 0) {
      const auto parent = world_.store->load_delta_parent(*old).value();
      auto plain = *parent.bytes;
      const std::size_t block = below(plain.size() / kBlockSize) * kBlockSize;
      for (std::size_t at = 0; at < 64; ++at) plain[block + at] = static_cast<std::byte>(random_());
      auto delta = chunks::encode_chunk_delta(parent, plain, {}).value();
      if (delta) return writer.append_delta(world_.store->digest(plain), std::move(*delta)).value();
    }
    return writer.put_chunk(content(1 + below(60))).value();
  }
  void splice() {
    const MaybeRef base = some_root();
    const MaybeRef source = some_root();
    chunks::RootRegistry::Hold hold(world_.registry);
    ASSERT_TRUE(hold.try_hold_root(base) && hold.try_hold_root(source));
    chunks::RecordWriter writer(*world_.store, hold);
    chunks::MapBuilder builder(*world_.store, writer, base);
    const std::uint64_t at = below(3) * 256;
    ASSERT_OK(builder.splice(ChunkIndex{at}, ChunkCount{256 + below(300)}, source, ChunkIndex{below(2) * 256}));
    finish(hold, writer, builder);
  }
  void finish(chunks::RootRegistry::Hold&, chunks::RecordWriter& writer, chunks::MapBuilder& builder) {
    const auto root = builder.finish();
    ASSERT_OK(root);
    ASSERT_OK(writer.finish());
    if (*root) roots_.push_back(**root);
    follow();  // or the hold goes, and nobody has it
  }

  void follow() {
    for (;;) {
      const auto more = accounting_.follow(kOwner, [this] { return roots_; });
      ASSERT_OK(more);
      if (!*more) break;
    }
    followed_ = roots_;
  }
  void check() {
    follow();
    EXPECT_EQ(accounting_.live(), walk(*world_.store, roots_)) << text(accounting_.live());
    const auto difference = accounting_.verify();
    ASSERT_OK(difference);
    EXPECT_FALSE(*difference) << **difference;
    Walk all(*world_.store);
    for (const Ref& root : roots_) all.add(root);
    deltas_ += all.deltas();
  }
  /// Any of the roots, taken away in any order: together, and one after the other.
  void ask() {
    follow();
    Accounting::Roots some = roots_;
    std::ranges::shuffle(some, random_);
    some.resize(below(some.size() + 1));
    Accounting::Roots left = roots_;
    for (const Ref& root : some) left.erase(std::ranges::find(left, root));
    const RecordSums expected = minus(walk(*world_.store, roots_), walk(*world_.store, left));
    const auto together = accounting_.freed_without(some);
    ASSERT_OK(together);
    EXPECT_EQ(*together, expected) << text(*together) << " promised, a walk says " << text(expected);
    Accounting::Removal removal(accounting_);
    RecordSums sum;
    for (const Ref& root : some) {
      const auto would = removal.would_free({&root, 1});
      const auto does = removal.remove({&root, 1});
      ASSERT_OK(would);
      ASSERT_OK(does);
      EXPECT_EQ(*would, *does);
      sum = {sum.records + does->records, sum.chunks + does->chunks, sum.stored_bytes + does->stored_bytes};
    }
    EXPECT_EQ(sum, expected);
  }
  void collect() {
    follow();
    const RecordSums before = accounting_.live();
    ASSERT_OK(collect_garbage(*world_.store, {}));
    world_.store->drop_caches();
    EXPECT_EQ(walk(*world_.store, roots_), before);
  }

  std::mt19937_64 random_;
  World world_;
  Accounting accounting_;
  Accounting::Roots roots_;
  Accounting::Roots followed_;
  std::uint64_t deltas_ = 0;
};

std::uint64_t steps() {
  const char* text = std::getenv("VARVE_ACCOUNTING_STEPS");
  return text != nullptr ? std::strtoull(text, nullptr, 10) : 400;
}

TEST(Accounting, SaysWhatAWalkOverEverythingSaysThroughAnyHistory) {
  std::mt19937_64 seeds(varve::test::seed_for("the accounting"));
  for (std::uint64_t done = 0; done < steps() && !::testing::Test::HasFailure(); done += 200) History(seeds()).run(200);
}

TEST(Accounting, HoldsARootItHasCountedUntilItHasLetGoOfIt) {
  World world;
  Accounting accounting(*world.store);
  const MaybeRef root = world.build({}, {{1, 1}, {300, 2}});
  EXPECT_EQ(accounting.follow(kOwner, [&] { return Accounting::Roots{*root}; }).value_or(true), false);
  const auto live = accounting.live();
  EXPECT_EQ(live.chunks, 2u);
  world.roots.remove(root);
  ASSERT_OK(collect_garbage(*world.store, {}));
  EXPECT_FALSE(world.pack_files().empty());
  ASSERT_OK(accounting.release(kOwner, [] { return Accounting::Roots{}; }));
  EXPECT_EQ(accounting.live(), RecordSums{});
  EXPECT_EQ(accounting.died_bytes(), live.stored_bytes);
  ASSERT_OK(collect_garbage(*world.store, {}));
  EXPECT_TRUE(world.pack_files().empty());
}

TEST(Accounting, KnowsTheChunksOfAMap) {
  World world;
  Accounting accounting(*world.store);
  const MaybeRef first = world.build({}, {{1, 1}, {2, 1}, {300, 2}, {70000, 3}});
  const MaybeRef second = world.build(first, {{2, 0}, {301, 2}, {1u << 25, 4}, {302, 5}});
  const Accounting::Roots roots{*first, *second};
  while (accounting.follow(kOwner, [&] { return roots; }).value_or(false)) {
  }
  EXPECT_EQ(accounting.chunks_in(first).value_or(0), 4u);
  EXPECT_EQ(accounting.chunks_in(second).value_or(0), 6u);
  EXPECT_EQ(accounting.chunks_in({}).value_or(1), 0u);
}

TEST(Accounting, WithADamagedNodeSaysSoAndNothingElseAndHoldsNothing) {
  World world;
  const MaybeRef root = world.build({}, {{1, 1}, {300, 2}});
  const MaybeRef sound = world.build({}, {{5, 7}});
  for (const auto& file : world.pack_files()) {
    if (file.find(fmt::format("{:016x}", root->pack.value())) == std::string::npos) continue;
    world.flip_byte(file, world.payload_offset(file, root->ordinal) + 3);
  }
  world.reopen();
  Accounting accounting(*world.store);
  const auto followed = accounting.follow(kOwner, [&] { return Accounting::Roots{*root, *sound}; });
  ASSERT_FALSE(followed);
  EXPECT_EQ(followed.error().code, EIO);
  EXPECT_FALSE(accounting.freed_without(std::vector<Ref>{*sound}));
  EXPECT_FALSE(accounting.chunks_in(sound));
  std::size_t named = 0;
  accounting.visit_roots([&](const MaybeRef&) { ++named; });
  EXPECT_EQ(named, 0u);
}

TEST(Accounting, TakesAwayNoMoreThanIsThere) {
  World world;
  Accounting accounting(*world.store);
  const MaybeRef root = world.build({}, {{1, 1}});
  while (accounting.follow(kOwner, [&] { return Accounting::Roots{*root}; }).value_or(false)) {
  }
  const auto freed = accounting.freed_without(std::vector<Ref>{*root, *root, *root});
  ASSERT_OK(freed);
  EXPECT_EQ(*freed, accounting.live());
}

TEST(RecordCounts, GrowBeyondOneByteAndComeBack) {
  RecordCounts counts;
  const RecordKey key(PackId{5}, 1000);
  for (std::uint64_t n = 1; n <= 600; ++n) EXPECT_EQ(counts.add(key), n);
  EXPECT_EQ(counts.get(RecordKey(PackId{5}, 1001)), 0u);
  for (std::uint64_t n = 600; n > 0; --n) EXPECT_EQ(counts.subtract(key), n - 1);
  EXPECT_EQ(counts.get(key), 0u);
  EXPECT_EQ(counts.memory_bytes(), 0u);
}

/// A store of 1 TiB in chunks of 64 KiB: "well under 100 MiB".
TEST(RecordCounts, TakeLittleMoreThanAByteARecord) {
  RecordCounts counts;
  constexpr std::uint32_t kRecords = 640;
  constexpr std::uint64_t kPacks = 200;
  for (std::uint64_t pack = 1; pack <= kPacks; ++pack) {
    for (std::uint32_t i = 0; i < kRecords; ++i) counts.add(RecordKey(PackId{pack * 256}, i));
  }
  EXPECT_LT(counts.memory_bytes(), kPacks * kRecords * 2);
}

}  // namespace
}  // namespace varve::snapshot
