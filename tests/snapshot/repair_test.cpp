// Repair below the store: what is taken for lost bytes, and what never is.
#include "varve/snapshot/repair.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "snapshot/world.h"

namespace varve::snapshot::test {
namespace {

using chunks::RecordKind;
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

constexpr Geometry kManyBlocks{ByteCount{64 * kKiB}};
constexpr ByteCount kManyBlocksSize{16 * kManyBlocks.chunk_bytes()};

/// One chunk through several states, each a delta that stores what changed, in a pack of its own.
class Chain {
 public:
  explicit Chain(World& world) : world_(world), hold_(world.registry), state_(content(1, kManyBlocks)) {
    put_full(state_);
  }
  void write_block(std::size_t block, std::uint64_t number) {
    const Bytes bytes = content(number, kManyBlocks);
    std::copy_n(bytes.begin(), kBlockSize, state_.begin() + static_cast<std::ptrdiff_t>(block * kBlockSize));
    chunks::RecordWriter writer(*world_.store, hold_);
    auto delta = chunks::encode_chunk_delta(world_.store->load_delta_parent(refs.back()).value(), state_, {}).value();
    ASSERT_TRUE(delta);
    refs.push_back(writer.append_delta(world_.store->digest(state_), std::move(*delta)).value());
    states.push_back(state_);
    ASSERT_TRUE(writer.finish());
  }
  /// Whether or not there are such records.
  void put_full(const Bytes& bytes) {
    chunks::RecordWriter writer(*world_.store, hold_);
    const auto ref = writer.append(RecordKind::full, world_.store->digest(bytes), bytes.size(),
                                   chunks::encode_payload(bytes, {}).value());
    refs.push_back(ref.value());
    states.push_back(bytes);
    ASSERT_TRUE(writer.finish());
  }
  /// A map that has this chunk alone.
  MaybeRef map_of(const Ref& ref) {
    chunks::RecordWriter writer(*world_.store, hold_);
    chunks::MapBuilder builder(*world_.store, writer, {});
    EXPECT_TRUE(builder.set(ChunkIndex{0}, ref));
    const MaybeRef root = builder.finish().value();
    EXPECT_TRUE(writer.finish());
    return root;
  }
  [[nodiscard]] std::string file_of(const Ref& ref) const {
    const std::string id = chunks::to_text(ref).substr(5, 16);
    for (const auto& file : world_.pack_files()) {
      if (file.find(id) != std::string::npos) return file;
    }
    ADD_FAILURE() << "no pack " << id;
    return {};
  }
  void remove_pack(const Ref& ref) { ASSERT_TRUE(world_.storage.remove(file_of(ref))); }

  std::vector<Ref> refs;
  std::vector<Bytes> states;

 private:
  World& world_;
  chunks::RootRegistry::Hold hold_;
  Bytes state_;
};

TEST(RepairTargets, ALenderWhosePackHasATableAgainIsNotCalledLost) {
  World world(kManyBlocks);
  Chain chain(world);
  chain.write_block(1, 2);
  chain.write_block(2, 3);
  chain.write_block(1, 4);
  const MaybeRef root = chain.map_of(chain.refs[3]);
  ASSERT_EQ(world.store->supports_of(chain.refs[3]).value(), (std::vector<Ref>{chain.refs[0], chain.refs[2]}));
  chain.remove_pack(chain.refs[1]);
  const std::string file = chain.file_of(chain.refs[2]);
  world.flip_byte(file, world.storage.status(file)->size.value() - 20);
  world.reopen();
  const Repaired repaired = repair(world, {{"a", root, kManyBlocksSize}});
  EXPECT_EQ(repaired.lost, 0u);
  EXPECT_TRUE(repaired.failed.empty()) << repaired.failed.front();
  EXPECT_EQ(repaired.packs, 1u);
  world.reopen();
  EXPECT_EQ(*world.store->load_chunk(chain.refs[3]).value(), chain.states[3]);
  EXPECT_EQ(repair(world, {{"a", root, kManyBlocksSize}}).packs, 0u);
}

TEST(RepairTargets, AllThatADeltaStandsOnIsAskedForAtOnce) {
  World world(kManyBlocks);
  Chain chain(world);
  for (std::size_t i = 0; i < 8; ++i) chain.write_block(i, 2 + i);
  const Ref last = chain.refs.back();
  ASSERT_EQ(world.store->supports_of(last)->size(), 8u);
  const MaybeRef root = chain.map_of(last);
  // In memory, and nowhere else.
  for (std::size_t i = 0; i < 8; ++i) ASSERT_TRUE(world.store->load_chunk(chain.refs[i]));
  for (std::size_t i = 0; i < 8; ++i) chain.remove_pack(chain.refs[i]);
  const Repaired repaired = repair(world, {{"a", root, kManyBlocksSize}});
  EXPECT_EQ(repaired.lost, 0u);
  EXPECT_TRUE(repaired.failed.empty()) << repaired.failed.front();
  EXPECT_EQ(repaired.records, 8u);
  world.reopen();
  EXPECT_EQ(*world.store->load_chunk(last).value(), chain.states[8]);
}

TEST(RepairTargets, RecordsThatOnlyLendDoNotHideOneThatCanBeRead) {
  chunks::ChunkStoreOptions options;
  options.new_pack_id = [id = std::uint64_t{0x1000}]() mutable { return PackId{id += 0x100}; };
  World world(kManyBlocks, options);
  Chain chain(world);
  chunks::RootRegistry::Hold hold(world.registry);
  const auto parent = world.store->load_delta_parent(chain.refs[0]).value();
  Bytes bytes = chain.states[0];
  bytes[5] ^= std::byte{1};
  for (int i = 0; i < 12; ++i) {
    chunks::RecordWriter writer(*world.store, hold);
    auto delta = chunks::encode_chunk_delta(parent, bytes, {}).value();
    ASSERT_TRUE(delta && writer.append_delta(world.store->digest(bytes), std::move(*delta)) && writer.finish());
  }
  chain.put_full(bytes);
  chain.put_full(bytes);
  const MaybeRef root = chain.map_of(chain.refs[1]);
  world.flip_byte(chain.file_of(chain.refs[1]), world.payload_offset(chain.file_of(chain.refs[1]), 0) + 3);
  chain.remove_pack(chain.refs[0]);
  world.reopen();
  const Repaired repaired = repair(world, {{"a", root, kManyBlocksSize}});
  EXPECT_EQ(repaired.records, 1u);
  EXPECT_EQ(repaired.lost, 0u);
}

}  // namespace
}  // namespace varve::snapshot::test
