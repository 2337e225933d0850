#include "varve/snapshot/check.h"

#include <algorithm>
#include <set>

#include "../../src/chunks/format.h"
#include "support/seed.h"
#include "world.h"

namespace varve::snapshot::test {
namespace {

constexpr std::uint64_t kChunks = 900;
constexpr ByteCount kSize = kGeometry.bytes_in(ChunkCount{kChunks});

Checked check(World& world, const std::vector<CheckTarget>& targets) {
  const auto checked = check_targets(*world.store, targets, {}, {});
  EXPECT_TRUE(checked) << checked.error().message;
  return checked.value_or(Checked{});
}

/// Distinct records of all targets, counted the plain way.
std::uint64_t distinct_records(World& world, const std::vector<CheckTarget>& targets) {
  std::set<std::pair<PackId, std::uint32_t>> seen;
  for (const auto& target : targets) {
    chunks::walk_records(
        *world.store, target.root,
        {.first_visit = [&](const Ref& ref,
                            chunks::RecordKind) { return seen.insert({ref.pack, ref.ordinal}).second; },
         .visit_support = [](auto&&...) {},
         .on_damage = [](const Ref&, const Error& error) { ADD_FAILURE() << error.message; }});
  }
  return seen.size();
}

/// How many chunks of the target cannot be read, and which is the first.
Damage read_all(World& world, const CheckTarget& target) {
  SnapshotImage image(*world.store, target.root, target.size, world.prefetchers);
  Damage damage{target.name, 0, ""};
  Bytes out(kGeometry.chunk_bytes());
  for (std::uint64_t chunk = 0; chunk < kGeometry.chunks_in(target.size).value(); ++chunk) {
    if (read_into(image, kGeometry.start_of(ChunkIndex{chunk}), out)) continue;
    if (damage.chunks++ == 0) damage.first = "chunk " + std::to_string(chunk) + " ";
  }
  return damage;
}

/// A chain of snapshots that share most, and a disk of its own.
std::vector<CheckTarget> some_targets(World& world, std::mt19937_64& random, int count) {
  std::vector<CheckTarget> targets;
  MaybeRef root;
  for (int i = 0; i < count; ++i) {
    Model changes;
    const int changed = i == 0 ? 300 : 4;
    for (int k = 0; k < changed; ++k) changes[random() % kChunks] = 1 + random() % 100000;
    root = world.build(root, changes);
    targets.push_back({"web01@" + std::to_string(i), root, kSize});
  }
  targets.push_back({"db01@only", world.build({}, {{0, 5}, {1, 77}, {kChunks - 1, 6}}), kSize});
  targets.push_back({"empty", {}, kSize});
  return targets;
}

TEST(Check, FindsNothingInAStoreThatIsWellAndReadsEachRecordOnce) {
  World world;
  std::mt19937_64 random(varve::test::seed_for("check"));
  const auto targets = some_targets(world, random, 10);
  const std::uint64_t distinct = distinct_records(world, targets);
  world.reopen();
  std::uint64_t last_done = 0;
  std::uint64_t last_total = 0;
  const auto checked = check_targets(*world.store, targets,
                                     [&](std::uint64_t done, std::uint64_t total) {
                                       EXPECT_GE(done, last_done);
                                       EXPECT_GE(total, done);
                                       last_done = done;
                                       last_total = total;
                                     },
                                     {});
  ASSERT_TRUE(checked);
  EXPECT_TRUE(checked->damaged.empty());
  EXPECT_EQ(checked->records, distinct);
  EXPECT_EQ(last_done, distinct);
  EXPECT_EQ(last_total, distinct);
  EXPECT_GT(checked->bytes, 0u);
}

TEST(Check, NamesExactlyTheTargetsThatCannotBeReadWhole) {
  const std::uint64_t seed = varve::test::seed_for("check of damaged packs");
  std::mt19937_64 random(seed);
  for (int round = 0; round < 20; ++round) {
    World world;
    const auto targets = some_targets(world, random, 8);
    const auto files = world.pack_files();
    for (int flips = 0; flips < 3; ++flips) {
      const std::string& file = files[random() % files.size()];
      const auto size = world.storage.status(file)->size.value();
      world.flip_byte(file, random() % size);
    }
    world.reopen();
    const Checked checked = check(world, targets);
    world.reopen();
    std::vector<Damage> expected;
    for (const auto& target : targets) {
      const Damage damage = read_all(world, target);
      if (damage.chunks > 0) expected.push_back(damage);
    }
    ASSERT_EQ(checked.damaged.size(), expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i) {
      EXPECT_EQ(checked.damaged[i].target, expected[i].target);
      EXPECT_EQ(checked.damaged[i].chunks, expected[i].chunks);
      EXPECT_TRUE(checked.damaged[i].first.starts_with(expected[i].first))
          << checked.damaged[i].first << " / " << expected[i].first;
    }
  }
}

TEST(Check, OneRottenChunkDamagesThoseThatStandOnItAndNoOther) {
  World world;
  const MaybeRef clean = world.build({}, {{0, 1}, {500, 2}});
  const MaybeRef bad = world.build(clean, {{10, 3}});
  const MaybeRef heir = world.build(bad, {{11, 4}});
  const MaybeRef healed = world.build(heir, {{10, 5}});
  const auto ref = chunks::ChunkMap(*world.store, bad).find(ChunkIndex{10});
  ASSERT_TRUE(ref && *ref);
  // The pack of `bad` holds that chunk first, right behind the header.
  const std::string id = chunks::to_text(**ref).substr(5, 16);
  for (const auto& file : world.pack_files()) {
    if (file.find(id) != std::string::npos) world.flip_byte(file, 16 + 100);
  }
  world.reopen();
  const std::vector<CheckTarget> targets{
      {"clean", clean, kSize}, {"bad", bad, kSize}, {"heir", heir, kSize}, {"healed", healed, kSize}};
  const Checked checked = check(world, targets);
  ASSERT_EQ(checked.damaged.size(), 2u);
  EXPECT_EQ(checked.damaged[0].target, "bad");
  EXPECT_EQ(checked.damaged[1].target, "heir");
  for (const auto& damage : checked.damaged) {
    EXPECT_EQ(damage.chunks, 1u);
    EXPECT_TRUE(damage.first.starts_with("chunk 10 (bytes from 163840): pack ")) << damage.first;
  }
}

TEST(Check, AMissingPackIsDamage) {
  World world;
  const MaybeRef a = world.build({}, {{0, 1}});
  const MaybeRef b = world.build({}, {{0, 2}});
  const std::string id = chunks::to_text(*a).substr(5, 16);
  for (const auto& file : world.pack_files()) {
    if (file.find(id) == std::string::npos) continue;
    ASSERT_TRUE(world.storage.remove(file));
  }
  world.reopen();
  const Checked checked = check(world, {{"a", a, kSize}, {"b", b, kSize}});
  ASSERT_EQ(checked.damaged.size(), 1u);
  EXPECT_EQ(checked.damaged[0].target, "a");
  EXPECT_EQ(checked.damaged[0].chunks, kChunks);  // the root is lost: all of them
}

TEST(Check, AChunkCommittedAsDamagedIsNamed) {
  World world;
  chunks::RootRegistry::Hold hold(world.registry);
  chunks::RecordWriter writer(*world.store, hold);
  chunks::MapBuilder builder(*world.store, writer, {});
  ASSERT_TRUE(builder.set(ChunkIndex{7}, Ref::make_damaged()));
  ASSERT_TRUE(builder.set(ChunkIndex{600}, Ref::make_damaged()));
  const auto root = builder.finish();
  ASSERT_TRUE(root && writer.finish());
  const Checked checked =
      check(world, {{"a", *root, kSize}, {"shorter", *root, ByteCount{8 * kGeometry.chunk_bytes()}}});
  ASSERT_EQ(checked.damaged.size(), 2u);
  EXPECT_EQ(checked.damaged[0].chunks, 2u);
  EXPECT_EQ(checked.damaged[1].chunks, 1u);  // what lies behind an image's end is not its concern
}

TEST(Check, OfAnImageMadeOfPartsOnlyThePartsCount) {
  World world;
  const MaybeRef root = world.build({}, {{10, 3}, {11, 4}, {255, 5}, {256, 6}, {300, 7}});
  const auto ref = chunks::ChunkMap(*world.store, root).find(ChunkIndex{256});
  ASSERT_TRUE(ref && *ref);
  // Its payload is the fourth.
  for (const auto& file : world.pack_files()) {
    world.flip_byte(file, world.payload_offset(file, (*ref)->ordinal));
  }
  world.reopen();
  const auto of_parts = [](std::string name, std::vector<CheckPart> parts) {
    CheckTarget target{std::move(name), {}, {}};
    target.parts = [parts = std::move(parts)](const std::function<Status(const CheckPart&)>& visit) -> Status {
      for (const CheckPart& part : parts) VARVE_TRY(visit(part));
      return {};
    };
    return target;
  };
  const Checked checked = check(
      world, {of_parts("before", {{root, ChunkIndex{0}, ChunkCount{256}, ChunkIndex{0}}}),
              of_parts("behind", {{root, ChunkIndex{257}, ChunkCount{1000}, ChunkIndex{0}}}),
              of_parts("across", {{root, ChunkIndex{11}, ChunkCount{1}, ChunkIndex{0}},
                                  {root, ChunkIndex{255}, ChunkCount{4}, ChunkIndex{90}}}),
              of_parts("twice", {{root, ChunkIndex{256}, ChunkCount{1}, ChunkIndex{5}},
                                 {root, ChunkIndex{0}, ChunkCount{kMaxChunksPerImage}, ChunkIndex{600}}})});
  ASSERT_EQ(checked.damaged.size(), 2u);
  EXPECT_EQ(checked.damaged[0].target, "across");
  EXPECT_EQ(checked.damaged[0].chunks, 1u);
  EXPECT_TRUE(checked.damaged[0].first.starts_with("chunk 91 ")) << checked.damaged[0].first;
  EXPECT_EQ(checked.damaged[1].chunks, 2u);
  EXPECT_TRUE(checked.damaged[1].first.starts_with("chunk 5 ")) << checked.damaged[1].first;
}

TEST(Check, AThousandSnapshotsCostTheirDistinctRecords) {
  World world;
  Model all;
  for (std::uint64_t chunk = 0; chunk < kChunks; ++chunk) all[chunk] = 1 + chunk % 50;
  MaybeRef root = world.build({}, all);
  std::vector<CheckTarget> targets;
  {
    chunks::RootRegistry::Hold hold(world.registry);
    for (std::uint64_t i = 0; i < 1000; ++i) {
      const auto next = world.build(hold, root, {{i % kChunks, 1 + (i * 7) % 50}});
      ASSERT_TRUE(next);
      root = *next;
      targets.push_back({"web01@" + std::to_string(i), root, kSize});
    }
    world.reopen();
    const Checked checked = check(world, targets);
    EXPECT_TRUE(checked.damaged.empty());
    // Read to be verified, and the nodes once more into the cache; what a delta stands on is at hand then.
    EXPECT_LE(world.store->counters().records_loaded, 2 * checked.records);
  }
}

/// Deltas in a table that fits its checksum: each stands on the next, the last on the first.
TEST(Check, ACircleOfDeltasIsDamage) {
  for (const std::uint32_t count : {1u, 2u, 60'000u}) {
    World world;
    const PackId pack{0xAB00};
    const auto ref = [&](std::uint32_t i) { return Ref{pack, i, Digest{i + 1, 7}}; };
    std::vector<std::byte> file;
    chunks::format::put_header(file);
    file.resize(file.size() + 8);
    chunks::format::Table table;
    for (std::uint32_t i = 0; i < count; ++i) {
      table.entries.push_back({ref(i).digest, chunks::format::kHeaderSize, 8, kGeometry.chunk_bytes(),
                               chunks::RecordKind::delta, chunks::Codec::raw, 0});
      table.supports.push_back({i, ref((i + 1) % count)});
    }
    chunks::format::put_table_and_trailer(file, pack, 0, table);
    ASSERT_TRUE(world.objects->put_if_absent(chunks::format::pack_name(pack, 0), file));
    chunks::RootRegistry::Hold hold(world.registry);
    chunks::RecordWriter writer(*world.store, hold);
    chunks::MapBuilder builder(*world.store, writer, {});
    ASSERT_TRUE(builder.set(ChunkIndex{7}, ref(0)));
    const auto root = builder.finish();
    ASSERT_TRUE(root && writer.finish());
    const Checked checked = check(world, {{"forged", *root, kSize}});
    ASSERT_EQ(checked.damaged.size(), 1u);
    EXPECT_EQ(checked.damaged[0].chunks, 1u);
  }
}

TEST(Check, StopsWhenTold) {
  World world;
  const MaybeRef root = world.build({}, {{0, 1}, {1, 2}, {2, 3}});
  int asked = 0;
  const auto checked = check_targets(*world.store, {{"a", root, kSize}}, {}, [&] { return ++asked > 3; });
  ASSERT_FALSE(checked);
  EXPECT_EQ(checked.error().code, ECANCELED);
}

}  // namespace
}  // namespace varve::snapshot::test
