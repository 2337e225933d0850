// Promise: a table of snapshots is a map by id, in ascending order, and a value: whatever becomes of one, no copy of it
// changes; and a change makes anew no more than a few leaves of it.
#include "varve/catalog/snapshot_table.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

#include "support/seed.h"
#include "varve/catalog/disk_log.h"

namespace varve::catalog {
namespace {

using Model = std::map<SnapshotId, SnapshotTable::Entry>;

SnapshotTable::Entry entry(std::uint64_t id) {
  SnapshotEntry entry;
  entry.id = SnapshotId{id};
  return std::make_shared<const SnapshotEntry>(std::move(entry));
}

void expect_same(const SnapshotTable& table, const Model& model) {
  ASSERT_EQ(table.size(), model.size());
  ASSERT_EQ(table.empty(), model.empty());
  ASSERT_TRUE(std::equal(table.begin(), table.end(), model.begin(), model.end(),
                         [](const auto& a, const auto& b) { return a.first == b.first && a.second == b.second; }));
  ASSERT_TRUE(std::equal(table.rbegin(), table.rend(), model.rbegin(), model.rend(),
                         [](const auto& a, const auto& b) { return a.first == b.first && a.second == b.second; }));
}

TEST(SnapshotTable, IsAMapWhoseCopiesNeverChange) {
  std::mt19937_64 dice(test::seed_for("snapshot table"));
  struct Copy {
    SnapshotTable table;
    Model model;
  };
  std::vector<Copy> copies;
  SnapshotTable table;
  Model model;
  std::uint64_t next = 1;
  for (int step = 0; step < 20'000; ++step) {
    // Grows, then shrinks to nothing, and again.
    const bool growing = step / 4'000 % 2 == 0;
    const auto kind = dice() % 10;
    if (kind == 0 || (growing && kind < 6)) {
      next += 1 + dice() % 3;
      table.set(SnapshotId{next}, model[SnapshotId{next}] = entry(next));
    } else if (kind < 8) {
      // One that is there, or beside it, or before or behind all.
      const SnapshotId id{dice() % (next + 2)};
      const auto found = model.find(id);
      ASSERT_EQ(table.contains(id), found != model.end());
      ASSERT_TRUE(found == model.end() || table.at(id) == found->second);
      if (kind == 7) {
        table.set(id, model[id] = entry(id.value()));
      } else if (!growing || kind == 6) {
        table.erase(id);
        model.erase(id);
      }
    } else if (!model.empty() && !growing) {
      const SnapshotId id = kind == 8 ? model.begin()->first : model.rbegin()->first;
      table.erase(id);
      model.erase(id);
    }
    if (step % 200 != 0) continue;
    ASSERT_NO_FATAL_FAILURE(expect_same(table, model));
    copies.push_back({table, model});
  }
  for (const Copy& copy : copies) ASSERT_NO_FATAL_FAILURE(expect_same(copy.table, copy.model));
}

TEST(SnapshotTable, MadeOfAscendingItemsIsWhatTheyAre) {
  for (const std::uint64_t count : {0u, 1u, 63u, 64u, 65u, 128u, 1000u}) {
    std::vector<SnapshotTable::Item> items;
    for (std::uint64_t id = 1; id <= count; ++id) items.emplace_back(SnapshotId{id * 3}, entry(id * 3));
    ASSERT_NO_FATAL_FAILURE(expect_same(SnapshotTable::of_ascending(items), Model(items.begin(), items.end())));
  }
}

/// Entries of `after` that do not lie where they lie in `before`.
std::size_t made_anew(const SnapshotTable& before, const SnapshotTable& after) {
  std::size_t count = 0;
  for (const auto& item : after) {
    const auto old = before.find(item.first);
    count += old == before.end() || &*old != &item ? 1 : 0;
  }
  return count;
}

TEST(SnapshotTable, AChangeLeavesNearlyAllOfTenThousandWhereTheyAre) {
  constexpr std::uint64_t kCount = 10'000;
  constexpr std::size_t kFew = 130;
  SnapshotTable table;
  for (std::uint64_t id = 1; id <= kCount; ++id) table.set(SnapshotId{id}, entry(id));
  for (const std::uint64_t id : {std::uint64_t{1}, kCount / 2, kCount, kCount + 1}) {
    SnapshotTable changed = table;
    changed.set(SnapshotId{id}, entry(id));
    EXPECT_LE(made_anew(table, changed), kFew) << "set " << id;
    SnapshotTable less = changed;
    less.erase(SnapshotId{id});
    EXPECT_LE(made_anew(changed, less), kFew) << "erase " << id;
  }
  // However it was thinned out: neighbours that are nearly empty have joined.
  for (std::uint64_t id = 1; id <= kCount; ++id) {
    if (id % 60 != 0) table.erase(SnapshotId{id});
  }
  SnapshotTable less = table;
  less.erase(SnapshotId{kCount / 2 / 60 * 60});
  EXPECT_LE(made_anew(table, less), kFew);
  EXPECT_GE(made_anew(table, less), 7u);
}

}  // namespace
}  // namespace varve::catalog
