// Repair below the store: what is taken for lost bytes, and what never is.
#include "varve/snapshot/repair.h"

#include <gtest/gtest.h>

#include "snapshot/world.h"

namespace varve::snapshot::test {
namespace {

using chunks::Ref;

constexpr ByteCount kSize{16 * kGeometry.chunk_bytes()};

Repaired repair(World& world, const std::vector<CheckTarget>& targets, const OfferLiveBytes& offer = {}) {
  auto repaired = repair_targets(*world.store, targets, offer, {}, {});
  EXPECT_TRUE(repaired) << (repaired ? "" : repaired.error().message);
  return repaired.value_or(Repaired{});
}

/// The pack's file that the chunk of a map is in, with the offset of its payload.
std::pair<std::string, std::uint64_t> place_of(World& world, const MaybeRef& root, std::uint64_t chunk) {
  const auto ref = chunks::ChunkMap(*world.store, root).find(ChunkIndex{chunk});
  EXPECT_TRUE(ref && *ref);
  const std::string id = chunks::to_text(**ref).substr(5, 16);
  for (const auto& file : world.pack_files()) {
    if (file.find(id) != std::string::npos) return {file, world.payload_offset(file, (*ref)->ordinal)};
  }
  ADD_FAILURE() << "no pack " << id;
  return {};
}

/// Builds in a world whose locator knows nothing, so that equal chunks are stored again.
MaybeRef build_apart(World& world, const Model& model) {
  world.locator = chunks::make_memory_locator();
  world.reopen();
  return world.build({}, model);
}

TEST(RepairTargets, AnotherRecordWithTheSameBytesIsTaken) {
  World world;
  const MaybeRef first = world.build({}, {{0, 1}, {1, 2}});
  const MaybeRef second = build_apart(world, {{5, 1}});
  const auto [file, at] = place_of(world, first, 0);
  world.flip_byte(file, at + 3);
  world.reopen();
  const Repaired repaired = repair(world, {{"a", first, kSize}, {"b", second, kSize}});
  EXPECT_EQ(repaired.records, 1u);
  EXPECT_EQ(repaired.lost, 0u);
  world.reopen();
  world.expect_content(first, {{0, 1}, {1, 2}}, 16);
}

/// A digest that a guest can aim at: only the first bytes count.
Digest weak_digest(std::span<const std::byte> bytes) { return digest_of(bytes.first(std::min<std::size_t>(bytes.size(), 33))); }

TEST(RepairTargets, RecordsWithTheDigestThatDifferFromEachOtherAreNotTaken) {
  chunks::ChunkStoreOptions options;
  options.digest = weak_digest;
  World world(kGeometry, options);
  const auto same_beginning = [](std::byte rest) {
    Bytes bytes(kGeometry.chunk_bytes(), std::byte{7});
    std::fill(bytes.begin() + 100, bytes.end(), rest);
    return bytes;
  };
  std::vector<MaybeRef> roots;
  chunks::RootRegistry::Hold hold(world.registry);
  for (int i = 0; i < 3; ++i) {
    world.locator = chunks::make_memory_locator();
    world.reopen();
    chunks::RecordWriter writer(*world.store, hold);
    chunks::MapBuilder builder(*world.store, writer, {});
    const auto ref = writer.put_chunk(same_beginning(static_cast<std::byte>(i)));
    ASSERT_TRUE(ref && builder.set(ChunkIndex{0}, *ref));
    roots.push_back(builder.finish().value());
    ASSERT_TRUE(writer.finish());
  }
  const auto [file, at] = place_of(world, roots[0], 0);
  world.flip_byte(file, at + 2);
  world.reopen();
  const Repaired repaired =
      repair(world, {{"a", roots[0], kSize}, {"b", roots[1], kSize}, {"c", roots[2], kSize}});
  EXPECT_EQ(repaired.records, 0u);
  EXPECT_EQ(repaired.lost, 1u);
}

TEST(RepairTargets, LiveBytesAreTakenOnlyWithTheDigestOfTheLost) {
  World world;
  const MaybeRef root = world.build({}, {{0, 1}, {3, 2}});
  const auto [file, at] = place_of(world, root, 3);
  world.flip_byte(file, at + 1);
  world.reopen();
  std::uint64_t right = 99;
  std::vector<std::uint64_t> asked;
  const auto offer = [&](std::size_t target, ChunkIndex chunk, const AcceptBytes& accept) {
    EXPECT_EQ(target, 0u);
    asked.push_back(chunk.value());
    EXPECT_FALSE(accept(content(5), "elsewhere"));
    EXPECT_EQ(accept(content(right), "the live image"), right == 2);
  };
  EXPECT_EQ(repair(world, {{"a", root, kSize}}, offer).records, 0u);
  right = 2;
  const Repaired repaired = repair(world, {{"a", root, kSize}}, offer);
  EXPECT_EQ(repaired.records, 1u);
  ASSERT_EQ(repaired.repaired.size(), 1u);
  EXPECT_TRUE(repaired.repaired[0].ends_with("from the live image")) << repaired.repaired[0];
  for (const auto chunk : asked) EXPECT_EQ(chunk, 3u);
  world.reopen();
  world.expect_content(root, {{0, 1}, {3, 2}}, 16);
}

TEST(RepairTargets, WhatWasReadWhileItWasGoodIsStillInMemory) {
  World world;
  const MaybeRef root = world.build({}, {{0, 1}, {3, 2}});
  const auto [file, at] = place_of(world, root, 3);
  world.reopen();
  world.expect_content(root, {{0, 1}, {3, 2}}, 16);
  // Everything of it, the map's nodes too.
  for (std::uint64_t i = 16; i < world.payload_offset(file, 0) + 3 * 16 * kKiB && i < at + 9000; i += 50) {
    if (i < world.storage.status(file)->size.value()) world.flip_byte(file, i);
  }
  const Repaired repaired = repair(world, {{"a", root, kSize}});
  EXPECT_EQ(repaired.lost, 0u);
  EXPECT_GT(repaired.records, 0u);
  world.reopen();
  world.expect_content(root, {{0, 1}, {3, 2}}, 16);
}

}  // namespace
}  // namespace varve::snapshot::test
