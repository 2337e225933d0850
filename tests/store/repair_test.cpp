// Repair: what is damaged in packs and intact elsewhere comes back under the same names; what is not is named; and whatever
// happens meanwhile, nothing that was readable is lost.
//
// VARVE_REPAIR_EVERY=1 flips each byte of the packs (default: one in so many, from a random phase).
#include <cstdlib>

#include "specimen.h"
#include "support/seed.h"

namespace varve::store {
namespace {

using namespace specimen;

constexpr std::size_t kUsuallyEvery = 9;

bool is_pack(const std::string& path) { return path.starts_with("packs/"); }

Result<RepairReport> repair(Store& store) {
  return store.repair([](std::uint64_t, std::uint64_t) {}, [] { return false; });
}

std::uint64_t number_at(const FileBytes& bytes, std::size_t at, std::size_t width) {
  std::uint64_t value = 0;
  for (std::size_t i = width; i > 0; --i) value = value << 8 | static_cast<std::uint64_t>(bytes[at + i - 1]);
  return value;
}

/// Whether a byte of a pack belongs to a map node's payload: of nodes there is no second.
bool in_a_node(const FileBytes& pack, std::size_t at) {
  const std::size_t table = number_at(pack, pack.size() - 64, 8);
  const std::size_t entries = number_at(pack, pack.size() - 40, 4);
  for (std::size_t entry = table; entry < table + entries * 40; entry += 40) {
    const std::uint64_t offset = number_at(pack, entry + 16, 8);
    const bool node = pack[entry + 32] == std::byte{3} || pack[entry + 32] == std::byte{4};
    if (node && at >= offset && at < offset + number_at(pack, entry + 24, 4)) return true;
  }
  return false;
}

/// Chunks that the live image has unchanged, compressed and raw; the last one cut by the end of the image.
Specimen with_live_bytes() {
  Machine machine;
  Builder build(machine);
  build.make("web01");
  for (std::uint64_t i = 0; i < 3; ++i) build.write("web01", i, chunk_of(i));
  build.write("web01", 3, chunk_of(3, false));
  build.write("web01", 4, FileBytes(700, std::byte{0x37}));
  build.snapshot("web01", "a");
  build.commit("web01");
  // Since then it has grown: what is behind the snapshot's end is not the snapshot's.
  FileBytes longer(900, std::byte{0x37});
  build.write("web01", 4, longer);
  Specimen specimen;
  specimen.images = build.images();
  build.close();
  specimen.files = test::files_of(machine.storage);
  return specimen;
}

/// Chunks that a second record has, written while the locator knew nothing; the live images have others.
Specimen with_second_records() {
  Machine machine;
  Builder build(machine);
  for (const char* disk : {"web01", "web02"}) {
    build.make(disk);
    for (std::uint64_t i = 0; i < 3; ++i) build.write(disk, i, chunk_of(i));
    build.snapshot(disk, "a");
    build.commit(disk);
    for (std::uint64_t i = 0; i < 3; ++i) build.write(disk, i, chunk_of(50 + i));
    build.reopen();
  }
  Specimen specimen;
  specimen.images = build.images();
  build.close();
  specimen.files = test::files_of(machine.storage);
  return specimen;
}

/// Chunks whose records take blocks from packs of several deltas that nothing else needs any more. Some of these stand
/// on records that are gone. `live`: whether the live image has the chunks.
Specimen with_lenders(bool live) {
  Machine machine;
  Builder build(machine);
  build.make("web01");
  for (std::uint64_t i = 0; i < 3; ++i) build.write("web01", i, chunk_of(i, i != 1));
  const auto next = [&](const std::string& name, std::size_t block, std::uint64_t number) {
    for (std::uint64_t i = 0; i < 3; ++i) build.write_block("web01", i, block, number + i);
    build.snapshot("web01", name);
    build.commit("web01");
  };
  build.snapshot("web01", "a");
  build.commit("web01");
  next("b", 1, 40);
  next("c", 2, 50);
  next("d", 1, 60);
  for (const char* name : {"a", "b", "c"}) build.remove("web01", name);
  if (!live) {
    for (std::uint64_t i = 0; i < 3; ++i) build.write("web01", i, chunk_of(70 + i));
  }
  build.collect();
  build.settle("web01");
  Specimen specimen;
  specimen.images = build.images();
  build.close();
  specimen.files = test::files_of(machine.storage);
  return specimen;
}

/// All images exact; the machine's store is opened anew.
void expect_exact(Place& place, const Specimen& specimen) {
  auto store = place.open();
  ASSERT_OK(store);
  for (const Image& image : specimen.images) {
    const Reading reading = read_image(**store, image);
    EXPECT_TRUE(reading.opened && reading.lost.empty() && reading.other_bytes.empty()) << image.name();
  }
  const auto report = (*store)->check([](std::uint64_t, std::uint64_t) {}, [] { return false; });
  ASSERT_OK(report);
  EXPECT_TRUE(report->clean());
  EXPECT_OK((*store)->close());
}

void flip(Place& place, const Specimen& specimen, const std::string& path, std::size_t at, std::byte by) {
  const std::byte byte = specimen.files.at(path).at(at) ^ by;
  const auto file = place.storage().open(path, {.write = true}).value();
  ASSERT_OK(file->write(ByteOffset{at}, std::span(&byte, 1)));
  ASSERT_OK(file->sync_data());
}

struct Counts {
  std::size_t repaired = 0;
  std::size_t lost = 0;
  std::size_t harmless = 0;  ///< bits of a zstd frame that mean nothing: its record decodes to what it did
};

/// Flips one byte, repairs, and expects all to be exact, also afterwards; but for nodes.
void flip_and_repair(const Specimen& specimen, const std::string& path, std::size_t at, Counts& counts) {
  InMemory place;
  specimen.put_on(place.machine());
  flip(place, specimen, path, at, std::byte{0x40});
  const bool node = in_a_node(specimen.files.at(path), at);
  {
    auto store = place.open();
    ASSERT_OK(store);
    const auto report = repair(**store);
    ASSERT_OK(report);
    if (node && report->after.clean()) {
      EXPECT_EQ(report->repaired.packs + report->repaired.lost, 0U);
      EXPECT_OK((*store)->close());
      store->reset();
      expect_exact(place, specimen);
      ++counts.harmless;
      return;
    }
    EXPECT_EQ(report->after.clean(), !node);
    EXPECT_EQ(report->repaired.lost > 0, node);
    EXPECT_EQ(report->repaired.failed.empty(), !node);
    EXPECT_EQ(report->repaired.packs, node ? 0U : 1U);
    // In the process that repaired, too, with whatever it has cached.
    for (const Image& image : specimen.images) EXPECT_TRUE(read_image(**store, image).other_bytes.empty());
    EXPECT_OK((*store)->close());
    ++(node ? counts.lost : counts.repaired);
  }
  if (node) return;
  expect_exact(place, specimen);
  const Files now = test::files_of(place.storage());
  EXPECT_FALSE(now.contains(path)) << "the old generation stays";
  const auto packs = [](const Files& files) { return std::ranges::count_if(files, [](auto& f) { return is_pack(f.first); }); };
  EXPECT_EQ(packs(now), packs(specimen.files));
}

void flip_all(const Specimen& specimen, std::uint64_t seed) {
  const Quiet quiet;
  std::mt19937_64 random(seed);
  const std::size_t every = std::max<std::size_t>(test::number_from("VARVE_REPAIR_EVERY", kUsuallyEvery), 1);
  Counts counts;
  for (const auto& [path, bytes] : specimen.files) {
    if (!is_pack(path)) continue;
    // The payload of a raw record is many bytes alike.
    const std::size_t much = every == 1 ? bytes.size() : 2048;
    for (std::size_t at = random() % every; at < bytes.size(); at += every) {
      if (at > much && at + much < bytes.size() && at % 64 != 0) continue;
      SCOPED_TRACE(fmt::format("{} byte {} of {}", path, at, bytes.size()));
      flip_and_repair(specimen, path, at, counts);
      if (::testing::Test::HasFailure()) return;
    }
  }
  fmt::print("{} damages repaired, {} of map nodes named, {} harmless\n", counts.repaired, counts.lost, counts.harmless);
  EXPECT_GT(counts.repaired, 0U);
  EXPECT_LE(counts.harmless, 2 + counts.lost / 10) << "damage of map nodes is not noticed";
}

TEST(Repair, AnyByteOfAPackComesBackWhereTheLiveImageHasItUnchanged) {
  flip_all(with_live_bytes(), test::seed_for("repair from live images"));
}

TEST(Repair, AnyByteOfAPackComesBackWhereASecondRecordHasIt) {
  flip_all(with_second_records(), test::seed_for("repair from other records"));
}

/// Whether a byte of a pack belongs to its header, table or trailer.
bool in_structure(const FileBytes& pack, std::size_t at) {
  return at < 16 || at >= number_at(pack, pack.size() - 64, 8);
}

/// How many deltas that stand on a record of a pack that is not there, or no longer in its table.
std::size_t deltas_on_nothing(const Specimen& specimen) {
  std::set<std::pair<std::uint64_t, std::uint64_t>> records;
  for (const auto& [path, pack] : specimen.files) {
    if (!is_pack(path)) continue;
    const std::size_t table = number_at(pack, pack.size() - 64, 8);
    for (std::uint64_t i = 0; i < number_at(pack, pack.size() - 40, 4); ++i) {
      if (pack[table + i * 40 + 32] != std::byte{0}) records.emplace(number_at(pack, pack.size() - 48, 8), i);
    }
  }
  std::size_t count = 0;
  for (const auto& [path, pack] : specimen.files) {
    if (!is_pack(path)) continue;
    const std::size_t table = number_at(pack, pack.size() - 64, 8);
    std::size_t support = table + number_at(pack, pack.size() - 40, 4) * 40;
    for (std::uint64_t i = 0; i < number_at(pack, pack.size() - 40, 4); ++i) {
      const std::byte kind = pack[table + i * 40 + 32];
      if (kind != std::byte{2} && kind != std::byte{4}) continue;
      bool all = true;
      for (std::uint64_t left = 1 + number_at(pack, table + i * 40 + 34, 1); left > 0; --left, support += 28) {
        all = all && records.contains({number_at(pack, support, 8), number_at(pack, support + 8, 4)});
      }
      count += all ? 0 : 1;
    }
  }
  return count;
}

/// Flips each byte of the tables, and some of the payloads. `comes_back`: whether all must be exact afterwards; else what
/// is lost is named.
void flip_lenders(const Specimen& specimen, std::uint64_t seed,
                  const std::function<bool(const FileBytes&, std::size_t)>& comes_back) {
  const Quiet quiet;
  const std::size_t every = std::max<std::size_t>(test::number_from("VARVE_REPAIR_EVERY", kUsuallyEvery), 1);
  const std::size_t phase = seed % every;
  ASSERT_GE(deltas_on_nothing(specimen), 2U);
  std::size_t lost = 0;
  std::size_t flips = 0;
  for (const auto& [path, bytes] : specimen.files) {
    if (!is_pack(path)) continue;
    for (std::size_t at = 0; at < bytes.size(); ++at) {
      // The payload of a raw record is many bytes alike.
      const std::size_t one_in = bytes.size() > 8192 ? 16 * every : every;
      if (!in_structure(bytes, at) && at % one_in != phase) continue;
      SCOPED_TRACE(fmt::format("{} byte {} of {}", path, at, bytes.size()));
      InMemory place;
      specimen.put_on(place.machine());
      flip(place, specimen, path, at, std::byte{0x40});
      auto store = place.open();
      ASSERT_OK(store);
      const auto report = repair(**store);
      ASSERT_OK(report);
      ++flips;
      for (const Image& image : specimen.images) {
        const Reading reading = read_image(**store, image);
        EXPECT_TRUE(reading.opened && reading.other_bytes.empty()) << image.name();
        EXPECT_TRUE(reading.lost.empty() || report->repaired.lost > 0) << image.name();
      }
      EXPECT_OK((*store)->close());
      store->reset();
      if (!report->after.clean() && !comes_back(bytes, at)) {
        EXPECT_FALSE(report->repaired.failed.empty());
        EXPECT_FALSE(report->after.records.damaged.empty());
        ++lost;
      } else {
        EXPECT_EQ(report->repaired.lost, 0U);
        expect_exact(place, specimen);
      }
      if (::testing::Test::HasFailure()) return;
    }
  }
  fmt::print("{} damages, {} of them named as lost\n", flips, lost);
}

TEST(Repair, AnyByteOfWhatLendsBlocksDoesNoLastingHarmWhereTheLiveImageHasTheChunk) {
  flip_lenders(with_lenders(true), test::seed_for("repair of lenders"),
               [](const FileBytes& pack, std::size_t at) { return !in_a_node(pack, at); });
}

TEST(Repair, AnyByteOfTheTablesOfWhatLendsBlocksDoesNoLastingHarmWhereNothingElseHasTheChunk) {
  flip_lenders(with_lenders(false), test::seed_for("repair of lenders alone"), in_structure);
}

TEST(Repair, AStoreThatIsWellIsNotTouched) {
  InMemory place;
  const Specimen specimen = with_second_records();
  specimen.put_on(place.machine());
  auto store = place.open();
  ASSERT_OK(store);
  const auto report = repair(**store);
  ASSERT_OK(report);
  EXPECT_TRUE(report->after.clean());
  EXPECT_EQ(report->repaired.packs + report->repaired.records + report->repaired.lost, 0U);
  const Files now = test::files_of(place.storage());
  for (const auto& [path, bytes] : specimen.files) {
    if (is_pack(path)) {
      EXPECT_TRUE(now.contains(path) && now.at(path) == bytes) << path;
    }
  }
}

TEST(Repair, WhatIsNowhereElseIsNamedAndStaysAsItIs) {
  const Quiet quiet;
  Machine machine;
  Builder build(machine);
  build.make("web01");
  build.write("web01", 0, chunk_of(1));
  build.write("web01", 1, chunk_of(2));
  build.snapshot("web01", "a");
  build.commit("web01");
  build.write("web01", 1, chunk_of(3));
  Specimen specimen;
  specimen.images = build.images();
  build.close();
  specimen.files = test::files_of(machine.storage);
  InMemory place;
  specimen.put_on(place.machine());
  std::string pack;
  for (const auto& [path, bytes] : specimen.files) pack = is_pack(path) ? path : pack;
  // Both chunks; the first is in the live image.
  const std::uint64_t second = 16 + number_at(specimen.files[pack], number_at(specimen.files[pack], specimen.files[pack].size() - 64, 8) + 24, 4);
  flip(place, specimen, pack, 16 + 30, std::byte{1});
  flip(place, specimen, pack, second + 30, std::byte{1});
  auto store = place.open();
  ASSERT_OK(store);
  const auto report = repair(**store);
  ASSERT_OK(report);
  EXPECT_EQ(report->repaired.records, 1U);
  EXPECT_EQ(report->repaired.lost, 1U);
  ASSERT_EQ(report->repaired.repaired.size(), 1U);
  EXPECT_NE(report->repaired.repaired.front().find("/0: from the live image of \"web01\""), std::string::npos)
      << report->repaired.repaired.front();
  ASSERT_EQ(report->repaired.failed.size(), 1U);
  EXPECT_NE(report->repaired.failed.front().find("/1: "), std::string::npos) << report->repaired.failed.front();
  ASSERT_EQ(report->after.records.damaged.size(), 1U);
  EXPECT_EQ(report->after.records.damaged.front().target, "web01@a");
  EXPECT_EQ(report->after.records.damaged.front().chunks, 1U);
  // When its bytes are back, so is it: the guest writes them again.
  const auto disk = (*store)->find_disk("web01").value();
  ASSERT_OK(disk->live().write(ByteOffset{kChunk}, chunk_of(2)));
  const auto again = repair(**store);
  ASSERT_OK(again);
  EXPECT_TRUE(again->after.clean());
}

TEST(Repair, OfAPackThatIsGoneAltogetherWhatIsKnownComesBack) {
  const Quiet quiet;
  const Specimen specimen = with_second_records();
  for (const auto& [path, bytes] : specimen.files) {
    if (!is_pack(path)) continue;
    InMemory place;
    specimen.put_on(place.machine());
    ASSERT_OK(place.storage().remove(path));
    auto store = place.open();
    ASSERT_OK(store);
    const auto report = repair(**store);
    ASSERT_OK(report);
    // Its root is lost, and with it the names of all the rest: said, and nothing is made up.
    EXPECT_EQ(report->repaired.records, 0U);
    EXPECT_EQ(report->repaired.lost, 1U);
    EXPECT_EQ(report->after.records.damaged.size(), 1U);
    for (const Image& image : specimen.images) EXPECT_TRUE(read_image(**store, image).other_bytes.empty());
  }
}

/// Cuts the power at every storage call of a repair.
TEST(Repair, ACrashAnywhereInARepairLosesNothing) {
  const Quiet quiet;
  const std::uint64_t seed = test::seed_for("crash of a repair");
  const Specimen specimen = with_live_bytes();
  std::string pack;
  for (const auto& [path, bytes] : specimen.files) pack = is_pack(path) ? path : pack;
  const std::size_t table = number_at(specimen.files.at(pack), specimen.files.at(pack).size() - 64, 8);
  std::size_t crashes = 0;
  // In a chunk, and in the table.
  for (const std::size_t at : {std::size_t{40}, table + 16}) {
    for (std::uint64_t call = 1;; ++call) {
      SCOPED_TRACE(fmt::format("byte {}, cut at call {}", at, call));
      Machine machine;
      specimen.put_on(machine);
      std::byte byte = specimen.files.at(pack)[at] ^ std::byte{0x11};
      machine.storage.corrupt(pack, ByteOffset{at}, std::span(&byte, 1));
      {
        auto store = Store::open(test::environment_on(machine), usual_options());
        ASSERT_OK(store);
        machine.storage.cut_off_at(call);
        (void)repair(**store);
      }
      const bool finished = !machine.storage.calls().is_cut_off();
      machine.lose_power(seed + call);
      auto store = Store::open(test::environment_on(machine), usual_options());
      ASSERT_OK(store);
      for (const Image& image : specimen.images) EXPECT_TRUE(read_image(**store, image).other_bytes.empty());
      const auto report = repair(**store);
      ASSERT_OK(report);
      EXPECT_TRUE(report->after.clean());
      for (const Image& image : specimen.images) EXPECT_TRUE(read_image(**store, image).lost.empty());
      // What a crash left of the old generation goes.
      ASSERT_OK((*store)->collect([] { return false; }));
      std::size_t packs = 0;
      for (const auto& [path, bytes] : test::files_of(machine.storage)) packs += is_pack(path) ? 1 : 0;
      EXPECT_EQ(packs, 1U);
      if (HasFailure()) return;
      ++crashes;
      if (finished) break;
    }
  }
  fmt::print("{} crashes\n", crashes);
  EXPECT_GT(crashes, 6U);
}

TEST(Repair, AFullStoreSaysSoAndKeepsWhatItHas) {
  const Quiet quiet;
  const Specimen specimen = with_live_bytes();
  std::string pack;
  for (const auto& [path, bytes] : specimen.files) pack = is_pack(path) ? path : pack;
  InMemory place;
  specimen.put_on(place.machine());
  flip(place, specimen, pack, 40, std::byte{2});
  auto store = place.open();
  ASSERT_OK(store);
  place.machine().storage.set_capacity(ByteCount{0});
  const auto report = repair(**store);
  EXPECT_FAILS(report, ENOSPC);
  EXPECT_TRUE(test::files_of(place.storage()).contains(pack));
  place.machine().storage.set_capacity(ByteCount{kTiB});
  const auto again = repair(**store);
  ASSERT_OK(again);
  EXPECT_TRUE(again->after.clean());
}

}  // namespace
}  // namespace varve::store
