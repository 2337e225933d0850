// Deltas: what changes one record into another.
#include "../../src/chunks/delta.h"

#include <algorithm>
#include <map>

#include "../../src/chunks/format.h"
#include "chunks/fixture.h"
#include "varve/chunks/chunk_map.h"

namespace varve::chunks {
namespace {

/// `count` blocks of the chunk get other bytes.
Bytes changed(Bytes chunk, std::size_t count, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::size_t> blocks(chunk.size() / kBlockSize);
  for (std::size_t i = 0; i < blocks.size(); ++i) blocks[i] = i;
  std::ranges::shuffle(blocks, random);
  for (std::size_t i = 0; i < count; ++i) chunk[blocks[i] * kBlockSize + random() % kBlockSize] ^= std::byte{0x5A};
  return chunk;
}

TEST(ChunkDelta, HasTheBlocksThatDifferUpToHalfOfThem) {
  for (const std::size_t size : {kMinChunkSize, std::size_t{64} * kKiB, kMaxChunkSize}) {
    Bytes base(size);
    std::mt19937_64 random(size);
    for (std::byte& byte : base) byte = static_cast<std::byte>(random() % 7);
    const std::size_t blocks = size / kBlockSize;
    for (const std::size_t count : {std::size_t{1}, std::size_t{2}, blocks / 4, blocks / 2}) {
      const Bytes plain = changed(base, count, count);
      for (const Compression compression : {Compression{}, Compression{Codec::raw, 0}}) {
        const auto delta = encode_chunk_delta(base, plain, compression).value();
        ASSERT_TRUE(delta) << size << ", " << count;
        EXPECT_LE(delta->bytes.size(), (blocks + 7) / 8 + count * kBlockSize);
        Bytes out(size);
        EXPECT_TRUE(apply_delta(RecordKind::delta, delta->codec, delta->bytes, base, out));
        EXPECT_TRUE(out == plain);
      }
    }
    EXPECT_FALSE(encode_chunk_delta(base, changed(base, blocks / 2 + 1, 9), {}).value()) << "a record of its own is better";
    EXPECT_FALSE(encode_chunk_delta(base, base, {}).value());
  }
}

/// Memory checkers watch: whatever a payload says, nothing beyond the spans is touched.
TEST(ChunkDelta, HostilePayloadsAreRefusedOrHarmless) {
  std::mt19937_64 random(test::seed_for("hostile deltas"));
  const Bytes base = make_chunk(1);
  const Encoded good = *encode_chunk_delta(base, changed(base, 2, 3), {Codec::zstd, 1}).value();
  Bytes out(base.size());
  for (int round = 0; round < 20'000; ++round) {
    Bytes payload = good.bytes;
    for (std::uint64_t i = random() % 4; i > 0; --i) payload[random() % payload.size()] = static_cast<std::byte>(random());
    if (random() % 4 == 0) payload.resize(random() % payload.size());
    const auto kind = random() % 2 == 0 ? RecordKind::delta : RecordKind::node_delta;
    const auto codec = random() % 4 == 0 ? Codec::raw : Codec::zstd;
    static_cast<void>(apply_delta(kind, codec, payload, base, out));
  }
}

Bytes node_of(const format::NodeSlots& slots, int level) {
  Bytes bytes;
  format::put_node(bytes, level, slots);
  return bytes;
}

Ref some_ref(std::uint64_t number) {
  return Ref{PackId{0x100 * (number % 5 + 1)}, static_cast<std::uint32_t>(number % 1000), Digest{number * 77, number}};
}

TEST(NodeDelta, HasTheSlotsThatDiffer) {
  std::mt19937_64 random(test::seed_for("node deltas"));
  for (int round = 0; round < 300; ++round) {
    const int level = static_cast<int>(random() % 4);
    format::NodeSlots slots;
    for (std::size_t i = 0; i < slots.size(); ++i) {
      if (random() % 8 != 0) slots[i] = some_ref(i);
    }
    const Bytes base = node_of(slots, level);
    for (std::uint64_t i = random() % 40; i > 0; --i) {
      auto& slot = slots[random() % slots.size()];
      if (random() % 3 == 0) {
        slot.reset();
      } else {
        slot = random() % 9 == 0 ? Ref::make_damaged() : some_ref(1000 + i);
      }
    }
    const Bytes plain = node_of(slots, level);
    const auto delta = encode_delta(RecordKind::node_delta, base, plain, {}).value();
    if (base == plain) {
      EXPECT_FALSE(delta);
      continue;
    }
    ASSERT_TRUE(delta);
    Bytes out(plain.size());
    EXPECT_TRUE(apply_delta(RecordKind::node_delta, delta->codec, delta->bytes, base, out));
    EXPECT_EQ(out, plain);
    EXPECT_LT(delta->bytes.size(), plain.size() / 2);
    // Another base, as a pack that was exchanged would bring: never beyond the spans.
    static_cast<void>(apply_delta(RecordKind::node_delta, delta->codec, delta->bytes, node_of({some_ref(1)}, 2), out));
  }
}

TEST(NodeDelta, HostilePayloadsAreRefusedOrHarmless) {
  std::mt19937_64 random(test::seed_for("hostile node deltas"));
  format::NodeSlots slots;
  for (std::size_t i = 0; i < 200; ++i) slots[i] = some_ref(i);
  const Bytes base = node_of(slots, 1);
  for (std::size_t i = 0; i < 20; ++i) slots[i * 12] = some_ref(i + 5000);
  const Bytes plain = node_of(slots, 1);
  const Encoded good = *encode_delta(RecordKind::node_delta, base, plain, {}).value();
  Bytes out(plain.size());
  for (int round = 0; round < 20'000; ++round) {
    Bytes payload = good.bytes;
    for (std::uint64_t i = random() % 4; i > 0; --i) payload[random() % payload.size()] = static_cast<std::byte>(random());
    if (random() % 4 == 0) payload.resize(random() % payload.size());
    static_cast<void>(apply_delta(RecordKind::node_delta, good.codec, payload, base, out));
    static_cast<void>(apply_delta(RecordKind::node_delta, Codec::raw, payload, base, out));
  }
}

struct DeltaRecords : StoreFixture {
  Ref put_delta(const Ref& base, const Bytes& plain) {
    RootRegistry::Hold hold(registry);
    RecordWriter writer(*store, hold);
    auto encoded = encode_chunk_delta(*store->load_chunk(base).value(), plain, {}).value();
    EXPECT_TRUE(encoded);
    const Ref ref = writer.append_delta(store->digest(plain), base, std::move(*encoded)).value();
    EXPECT_TRUE(writer.finish());
    return ref;
  }
};

TEST_F(DeltaRecords, AreReadLikeAnyOtherAndNameWhatTheyStandOn) {
  const Bytes plain = make_chunk(1);
  const Ref base = put_one(plain);
  const Bytes after = changed(plain, 1, 1);
  const Ref ref = put_delta(base, after);
  store->drop_caches();
  EXPECT_EQ(*store->load_chunk(ref).value(), after);
  EXPECT_EQ(store->base_of(ref).value(), MaybeRef{base});
  EXPECT_EQ(store->base_of(base).value(), MaybeRef{});
  EXPECT_TRUE(store->verify_record(ref, RecordKind::full));
  const auto table = store->pack_table(ref.pack).value();
  ASSERT_EQ(table.size(), 1u);
  EXPECT_EQ(table[0].kind, RecordKind::delta);
  EXPECT_EQ(table[0].base, MaybeRef{base});
  EXPECT_LT(table[0].stored_bytes, kBlockSize + 100);
  // Another process.
  reopen();
  EXPECT_EQ(*store->load_chunk(ref).value(), after);
}

TEST_F(DeltaRecords, WithoutTheirBaseAreDamagedAndSayWhichItIs) {
  const Bytes plain = make_chunk(1);
  const Ref base = put_one(plain);
  const Ref ref = put_delta(base, changed(plain, 1, 1));
  ASSERT_TRUE(objects.remove(format::pack_name(base.pack, 0)));
  store->drop_caches();
  const auto loaded = store->load_chunk(ref);
  expect_damaged(loaded);
  EXPECT_NE(loaded.error().message.find(to_text(base)), std::string::npos) << loaded.error().message;
  EXPECT_FALSE(store->verify_record(ref, RecordKind::full));
}

TEST_F(DeltaRecords, NeverStandOnEachOther) {
  const Bytes plain = make_chunk(1);
  const Ref base = put_one(plain);
  const Bytes middle = changed(plain, 1, 1);
  const Ref delta = put_delta(base, middle);
  const Ref on_delta = put_delta(delta, changed(middle, 1, 2));  // as only a forger would
  store->drop_caches();
  expect_damaged(store->load_chunk(on_delta));
  EXPECT_EQ(*store->load_chunk(delta).value(), middle);
}

TEST_F(DeltaRecords, AreSharedTogetherWithTheirBase) {
  const Bytes plain = make_chunk(1);
  const Ref base = put_one(plain);
  const Bytes after = changed(plain, 1, 1);
  const Ref ref = put_delta(base, after);
  {
    RootRegistry::Hold hold(registry);
    RecordWriter writer(*store, hold);
    EXPECT_EQ(writer.find_equal(RecordKind::full, store->digest(after), after), MaybeRef{ref});
    EXPECT_FALSE(registry.condemn(base.pack)) << "what a shared record stands on is held too";
  }
  ASSERT_TRUE(registry.condemn(base.pack));
  RootRegistry::Hold hold(registry);
  RecordWriter writer(*store, hold);
  EXPECT_EQ(writer.find_equal(RecordKind::full, store->digest(after), after), MaybeRef{});
}

TEST_F(DeltaRecords, TwoEqualOnesOfOneCommitAreStoredOnce) {
  const Bytes plain = make_chunk(1);
  const Ref base = put_one(plain);
  const Bytes after = changed(plain, 1, 1);
  RootRegistry::Hold hold(registry);
  RecordWriter writer(*store, hold);
  const auto delta = [&] { return *encode_chunk_delta(plain, after, {}).value(); };
  const Ref first = writer.append_delta(store->digest(after), base, delta()).value();
  EXPECT_EQ(writer.append_delta(store->digest(after), base, delta()).value(), first);
  const Ref other_base = put_one(make_chunk(2));
  EXPECT_NE(writer.append_delta(store->digest(after), other_base, delta()).value(), first);
}

/// A map from which few chunks change: its nodes are deltas on the first map's, however many maps follow.
TEST_F(DeltaRecords, NodesThatChangeLittleAreDeltasOnOneFullNode) {
  std::map<std::uint64_t, Ref> model;
  const auto build = [&](const MaybeRef& from, const std::map<std::uint64_t, Ref>& changes) {
    RootRegistry::Hold hold(registry);
    RecordWriter writer(*store, hold);
    MapBuilder builder(*store, writer, from);
    for (const auto& [at, ref] : changes) EXPECT_TRUE(builder.set(ChunkIndex{at}, ref));
    const auto root = builder.finish();
    EXPECT_TRUE(root) << root.error().message;
    EXPECT_TRUE(writer.finish());
    return root.value_or(MaybeRef{});
  };
  for (std::uint64_t i = 0; i < 1024; ++i) model[i] = some_ref(i);
  MaybeRef root = build({}, model);
  std::mt19937_64 random(test::seed_for("maps of deltas"));
  for (int round = 0; round < 20; ++round) {
    std::map<std::uint64_t, Ref> changes;
    for (std::uint64_t i = 0; i < 10; ++i) changes[random() % 1024] = some_ref(random());
    for (const auto& [at, ref] : changes) model[at] = ref;
    root = build(root, changes);
    store->drop_caches();
    std::map<std::uint64_t, Ref> found;
    EXPECT_TRUE(ChunkMap(*store, root).for_each(ChunkIndex{0}, ChunkCount{kMaxChunksPerImage},
                                                [&](ChunkIndex at, const Ref& ref) {
                                                  found[at.value()] = ref;
                                                  return Status{};
                                                }));
    ASSERT_TRUE(found == model);
  }
  std::size_t deltas = 0;
  const auto packs = store->list_packs();
  ASSERT_TRUE(packs);
  for (const PackId pack : *packs) {
    const auto table = store->pack_table(pack);
    ASSERT_TRUE(table) << table.error().message;
    for (const RecordInfo& record : *table) {
      if (record.kind != RecordKind::node_delta) continue;
      ++deltas;
      EXPECT_EQ(store->base_of(*record.base).value(), MaybeRef{}) << "a delta on a delta";
    }
  }
  EXPECT_GT(deltas, 20u);
}

TEST_F(DeltaRecords, ANodeIsNeverMadeADeltaOnADelta) {
  format::NodeSlots slots;
  for (std::size_t i = 0; i < 200; ++i) slots[i] = some_ref(i);
  // What only a forger would write: a node delta on a node delta.
  constexpr PackId kForged{0xAB00};
  Bytes pack;
  format::Table table;
  format::put_header(pack);
  std::vector<Bytes> nodes;
  for (std::uint32_t i = 0; i < 3; ++i) {
    slots[i] = some_ref(700 + i);
    nodes.push_back(node_of(slots, 0));
    const Encoded encoded = i == 0 ? encode_payload(nodes[0], {}).value()
                                   : *encode_delta(RecordKind::node_delta, nodes[i - 1], nodes[i], {}).value();
    table.entries.push_back({digest_of(nodes[i]), static_cast<std::uint32_t>(pack.size()),
                             static_cast<std::uint32_t>(encoded.bytes.size()), static_cast<std::uint32_t>(nodes[i].size()),
                             i == 0 ? RecordKind::node : RecordKind::node_delta, encoded.codec});
    if (i > 0) table.bases.push_back({i, Ref{kForged, i - 1, digest_of(nodes[i - 1])}});
    pack.insert(pack.end(), encoded.bytes.begin(), encoded.bytes.end());
  }
  format::put_table_and_trailer(pack, kForged, 0, table);
  objects.set(format::pack_name(kForged, 0), pack);

  slots[9] = some_ref(900);
  const Bytes next = node_of(slots, 0);
  for (std::uint32_t similar = 0; similar < 3; ++similar) {
    RootRegistry::Hold hold(registry);
    RecordWriter writer(*store, hold);
    const Ref ref = writer.put_node(next, Ref{kForged, similar, digest_of(nodes[similar])}).value();
    ASSERT_TRUE(writer.finish());
    const MaybeRef base = store->base_of(ref).value();
    EXPECT_EQ(base.has_value(), similar < 2) << similar;
    EXPECT_EQ(base ? base->ordinal : 0u, 0u);
    locator = make_memory_locator();
    reopen();
  }
}

TEST_F(DeltaRecords, AndWhatTheyStandOnAreReadOnceTogether) {
  const Bytes plain = make_chunk(1);
  const Ref base = put_one(plain);
  const Bytes after = changed(plain, 1, 1);
  const Ref ref = put_delta(base, after);
  store->drop_caches();
  const std::size_t before = store->counters().records_loaded;
  const auto loaded = store->load_chunk_and_base_once(ref);
  ASSERT_TRUE(loaded) << loaded.error().message;
  EXPECT_EQ(store->counters().records_loaded - before, 2u);
  EXPECT_TRUE(*loaded->bytes == after);
  ASSERT_NE(loaded->base_bytes, nullptr);
  EXPECT_TRUE(*loaded->base_bytes == plain);
  EXPECT_EQ(store->counters().chunk_cache_used, 0u);
  EXPECT_EQ(store->load_chunk_and_base_once(base)->base_bytes, nullptr);
}

TEST_F(DeltaRecords, AWalkReachesWhatDeltasStandOn) {
  std::vector<Bytes> plains;
  for (std::uint64_t i = 0; i < 300; ++i) plains.push_back(make_chunk(i));
  const std::vector<Ref> bases = put_all(plains);
  const Ref delta = put_delta(bases[5], changed(plains[5], 1, 5));
  RootRegistry::Hold hold(registry);
  RecordWriter writer(*store, hold);
  MapBuilder first(*store, writer, {});
  for (std::uint64_t i = 0; i < 300; ++i) ASSERT_TRUE(first.set(ChunkIndex{i}, bases[i]));
  const MaybeRef before = first.finish().value();
  ASSERT_TRUE(writer.finish());
  MapBuilder second(*store, writer, before);
  ASSERT_TRUE(second.set(ChunkIndex{5}, delta));
  const MaybeRef after = second.finish().value();
  ASSERT_TRUE(writer.finish());
  std::map<Ref, int> visits;
  std::map<Ref, int> as_base;
  const RecordVisitor visitor{.first_visit = [&](const Ref& ref, RecordKind) { return ++visits[ref] == 1; },
                              .visit_base = [&](const Ref& ref, RecordKind) { ++as_base[ref]; },
                              .on_damage = [](const Ref&, const Error& error) { ADD_FAILURE() << error.message; }};
  walk_records(*store, after, visitor);
  EXPECT_EQ(visits.count(bases[5]), 0u);
  EXPECT_EQ(as_base.count(bases[5]), 1u);
  EXPECT_GT(as_base.size(), 1u) << "nodes too";
  // The older map's leaf was met as a base: that is no reason not to walk it.
  walk_records(*store, before, visitor);
  EXPECT_EQ(visits.count(bases[5]), 1u);
}

}  // namespace
}  // namespace varve::chunks
