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

Ref some_ref(std::uint64_t number) {
  return Ref{PackId{0x100 * (number % 5 + 1)}, static_cast<std::uint32_t>(number % 1000), Digest{number * 77, number}};
}

/// A full record with these bytes, to become a delta of.
DeltaParent full_parent(const Ref& ref, const Bytes& bytes) {
  const auto plain = std::make_shared<const Bytes>(bytes);
  return {ref, plain, plain, {}, {}};
}

std::optional<EncodedDelta> encode_delta_on(const Bytes& base, const Bytes& plain, Compression compression = {}) {
  return encode_chunk_delta(full_parent(some_ref(1), base), plain, compression).value();
}

/// What the payload of a delta without lenders makes of the base.
std::optional<Bytes> apply_alone(Codec codec, const Bytes& payload, const Bytes& base) {
  const auto delta = ChunkDelta::parse(payload, base.size(), 0);
  Bytes out = base;
  if (!delta || !delta->copy_own_blocks(codec, delta->own, out)) return std::nullopt;
  return out;
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
        const auto delta = encode_delta_on(base, plain, compression);
        ASSERT_TRUE(delta) << size << ", " << count;
        EXPECT_EQ(delta->supports, std::vector<Ref>{some_ref(1)});
        EXPECT_LE(delta->encoded.bytes.size(), (blocks + 7) / 8 + count * kBlockSize);
        EXPECT_TRUE(apply_alone(delta->encoded.codec, delta->encoded.bytes, base) == plain);
      }
    }
    EXPECT_FALSE(encode_delta_on(base, changed(base, blocks / 2 + 1, 9))) << "a record of its own is better";
    EXPECT_FALSE(encode_delta_on(base, base));
  }
}

/// Memory checkers watch: whatever a payload says, nothing beyond the spans is touched.
TEST(ChunkDelta, HostilePayloadsAreRefusedOrHarmless) {
  std::mt19937_64 random(test::seed_for("hostile deltas"));
  const Bytes base = make_chunk(1);
  const Encoded good = encode_delta_on(base, changed(base, 2, 3), {Codec::zstd, 1})->encoded;
  Bytes node(base.size());
  for (int round = 0; round < 20'000; ++round) {
    Bytes payload = good.bytes;
    for (std::uint64_t i = random() % 4; i > 0; --i) payload[random() % payload.size()] = static_cast<std::byte>(random());
    if (random() % 4 == 0) payload.resize(random() % payload.size());
    const auto codec = random() % 4 == 0 ? Codec::raw : Codec::zstd;
    if (random() % 2 == 0) {
      static_cast<void>(apply_node_delta(codec, payload, base, node));
    } else if (const auto delta = ChunkDelta::parse(payload, base.size(), random() % (1 + format::kMostLenders))) {
      Bytes out = base;
      static_cast<void>(delta->copy_own_blocks(codec, delta->own, out));
      for (const BlockBits& lent : delta->lent) EXPECT_FALSE(delta->copy_own_blocks(codec, lent, out)) << "not its own";
    }
  }
}

Bytes node_of(const format::NodeSlots& slots, int level) {
  Bytes bytes;
  format::put_node(bytes, level, slots);
  return bytes;
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
    const auto delta = encode_node_delta(base, plain, {}).value();
    if (base == plain) {
      EXPECT_FALSE(delta);
      continue;
    }
    ASSERT_TRUE(delta);
    Bytes out(plain.size());
    EXPECT_TRUE(apply_node_delta(delta->codec, delta->bytes, base, out));
    EXPECT_EQ(out, plain);
    EXPECT_LT(delta->bytes.size(), plain.size() / 2);
    // Another base, as a pack that was exchanged would bring: never beyond the spans.
    static_cast<void>(apply_node_delta(delta->codec, delta->bytes, node_of({some_ref(1)}, 2), out));
  }
}

TEST(NodeDelta, HostilePayloadsAreRefusedOrHarmless) {
  std::mt19937_64 random(test::seed_for("hostile node deltas"));
  format::NodeSlots slots;
  for (std::size_t i = 0; i < 200; ++i) slots[i] = some_ref(i);
  const Bytes base = node_of(slots, 1);
  for (std::size_t i = 0; i < 20; ++i) slots[i * 12] = some_ref(i + 5000);
  const Bytes plain = node_of(slots, 1);
  const Encoded good = *encode_node_delta(base, plain, {}).value();
  Bytes out(plain.size());
  for (int round = 0; round < 20'000; ++round) {
    Bytes payload = good.bytes;
    for (std::uint64_t i = random() % 4; i > 0; --i) payload[random() % payload.size()] = static_cast<std::byte>(random());
    if (random() % 4 == 0) payload.resize(random() % payload.size());
    static_cast<void>(apply_node_delta(good.codec, payload, base, out));
    static_cast<void>(apply_node_delta(Codec::raw, payload, base, out));
  }
}

struct DeltaRecords : StoreFixture {
  /// On a full record, whatever it is.
  Ref put_delta(const Ref& base, const Bytes& plain) {
    return put_delta_of(full_parent(base, *store->load_chunk(base).value()), plain);
  }
  /// As a commit makes it of its parent's chunk.
  Ref put_next(const Ref& parent, const Bytes& plain) {
    return put_delta_of(store->load_delta_parent(parent).value(), plain);
  }
  Ref put_delta_of(const DeltaParent& parent, const Bytes& plain) {
    RootRegistry::Hold hold(registry);
    RecordWriter writer(*store, hold);
    auto delta = encode_chunk_delta(parent, plain, {}).value();
    EXPECT_TRUE(delta);
    const Ref ref = writer.append_delta(store->digest(plain), std::move(*delta)).value();
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
  EXPECT_EQ(store->supports_of(ref).value(), std::vector<Ref>{base});
  EXPECT_EQ(store->supports_of(base).value(), std::vector<Ref>{});
  EXPECT_TRUE(store->verify_record(ref, RecordKind::full));
  const auto table = store->pack_table(ref.pack).value();
  ASSERT_EQ(table.size(), 1u);
  EXPECT_EQ(table[0].kind, RecordKind::delta);
  EXPECT_EQ(table[0].supports, std::vector<Ref>{base});
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
  const auto delta = [&](const Ref& on) { return *encode_chunk_delta(full_parent(on, plain), after, {}).value(); };
  const Ref first = writer.append_delta(store->digest(after), delta(base)).value();
  EXPECT_EQ(writer.append_delta(store->digest(after), delta(base)).value(), first);
  const Ref other_base = put_one(make_chunk(2));
  EXPECT_NE(writer.append_delta(store->digest(after), delta(other_base)).value(), first);
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
      EXPECT_EQ(store->supports_of(record.supports.at(0)).value(), std::vector<Ref>{}) << "a delta on a delta";
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
                                   : *encode_node_delta(nodes[i - 1], nodes[i], {}).value();
    table.entries.push_back({digest_of(nodes[i]), static_cast<std::uint32_t>(pack.size()),
                             static_cast<std::uint32_t>(encoded.bytes.size()), static_cast<std::uint32_t>(nodes[i].size()),
                             i == 0 ? RecordKind::node : RecordKind::node_delta, encoded.codec, 0});
    if (i > 0) table.supports.push_back({i, Ref{kForged, i - 1, digest_of(nodes[i - 1])}});
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
    const auto supports = store->supports_of(ref).value();
    EXPECT_EQ(!supports.empty(), similar < 2) << similar;
    EXPECT_EQ(supports.empty() ? 0u : supports[0].ordinal, 0u);
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
  const auto loaded = store->load_delta_parent(ref);
  ASSERT_TRUE(loaded) << loaded.error().message;
  EXPECT_EQ(store->counters().records_loaded - before, 2u);
  EXPECT_TRUE(*loaded->bytes == after);
  ASSERT_NE(loaded->base_bytes, nullptr);
  EXPECT_TRUE(*loaded->base_bytes == plain);
  EXPECT_EQ(store->counters().chunk_cache_used, 0u);
  EXPECT_EQ(loaded->supports, std::vector<Ref>{base});
  const auto full = store->load_delta_parent(base);
  EXPECT_TRUE(*full->base_bytes == plain && full->supports.empty());
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
                              .visit_support = [&](const Ref& ref, RecordKind) { ++as_base[ref]; },
                              .on_damage = [](const Ref&, const Error& error) { ADD_FAILURE() << error.message; }};
  walk_records(*store, after, visitor);
  EXPECT_EQ(visits.count(bases[5]), 0u);
  EXPECT_EQ(as_base.count(bases[5]), 1u);
  EXPECT_GT(as_base.size(), 1u) << "nodes too";
  // The older map's leaf was met as a base: that is no reason not to walk it.
  walk_records(*store, before, visitor);
  EXPECT_EQ(visits.count(bases[5]), 1u);
}

/// The chunk with another block there.
Bytes with_block(Bytes chunk, std::size_t block, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  for (std::size_t i = 0; i < kBlockSize; ++i) chunk[block * kBlockSize + i] = static_cast<std::byte>(random());
  return chunk;
}

struct LendingRecords : DeltaRecords {
  LendingRecords() {
    chunk_bytes = 64 * kKiB;
    reopen();
  }
  [[nodiscard]] Bytes chunk(std::uint64_t seed) const {
    Bytes bytes(chunk_bytes);
    for (std::size_t i = 0; i < chunk_bytes / kBlockSize; ++i) bytes = with_block(std::move(bytes), i, seed * 1000 + i);
    return bytes;
  }
};

TEST_F(LendingRecords, StoreWhatChangedSinceTheirParentAndBorrowTheRest) {
  const Bytes plain = chunk(1);
  const Ref base = put_one(plain);
  const std::size_t blocks = plain.size() / kBlockSize;
  std::vector<Bytes> states{plain};
  std::vector<Ref> refs{base};
  for (std::size_t i = 0; i < blocks / 2; ++i) {
    states.push_back(with_block(states.back(), 2 * i, 100 + i));
    refs.push_back(put_next(refs.back(), states.back()));
    const auto record = store->record(refs.back()).value();
    ASSERT_EQ(record.kind, RecordKind::delta) << i;
    EXPECT_LT(record.stored_bytes, kBlockSize + 100) << "one block, whatever changed before";
    ASSERT_EQ(record.supports.size(), 1 + i);
    EXPECT_EQ(record.supports[0], base);
  }
  reopen();
  for (std::size_t i = 0; i < states.size(); ++i) {
    store->drop_caches();
    EXPECT_EQ(*store->load_chunk(refs[i]).value(), states[i]) << i;
  }
  // Past half of it: a record of its own.
  const Bytes more = with_block(states.back(), 1, 7);
  EXPECT_FALSE(encode_chunk_delta(store->load_delta_parent(refs.back()).value(), more, {}).value());
}

TEST_F(LendingRecords, BorrowOnlyFromThoseThatStillHaveABlockOfTheirs) {
  const Bytes plain = chunk(1);
  const Ref base = put_one(plain);
  const Bytes one = with_block(plain, 1, 1);
  const Ref first = put_next(base, one);
  const Bytes two = with_block(one, 2, 2);
  const Ref second = put_next(first, two);
  // Block 1 is overwritten, block 2 becomes what it was.
  Bytes three = with_block(two, 1, 3);
  EXPECT_EQ(store->supports_of(put_next(second, three)).value(), (std::vector<Ref>{base, second}));
  std::copy_n(plain.begin() + 2 * kBlockSize, kBlockSize, three.begin() + 2 * kBlockSize);
  EXPECT_EQ(store->supports_of(put_next(second, three)).value(), (std::vector<Ref>{base}));
  // Nothing of its own: all is stored once more.
  Bytes four = two;
  std::copy_n(plain.begin() + 2 * kBlockSize, kBlockSize, four.begin() + 2 * kBlockSize);
  four = with_block(four, 2, 2);
  EXPECT_TRUE(four == two);
  std::copy_n(plain.begin() + kBlockSize, kBlockSize, four.begin() + kBlockSize);
  const Ref fourth = put_next(second, four);
  EXPECT_EQ(store->supports_of(fourth).value(), (std::vector<Ref>{base}));
  store->drop_caches();
  EXPECT_EQ(*store->load_chunk(fourth).value(), four);
}

TEST_F(LendingRecords, BorrowFromAtMostSeven) {
  chunk_bytes = 256 * kKiB;
  reopen();
  Bytes state = chunk(1);
  Ref ref = put_one(state);
  std::size_t most = 0;
  for (std::size_t i = 0; i < 30; ++i) {
    state = with_block(state, i, i);
    ref = put_next(ref, state);
    const auto record = store->record(ref).value();
    ASSERT_LE(record.supports.size(), format::kMostSupports);
    most = std::max(most, record.supports.size());
    // From time to time all of them once more.
    EXPECT_EQ(record.stored_bytes > 8 * kBlockSize, record.supports.size() == 1 && i > 0) << i;
    store->drop_caches();
    ASSERT_EQ(*store->load_chunk(ref).value(), state) << i;
  }
  EXPECT_EQ(most, format::kMostSupports);
}

/// What a lender stood on may be gone: of it nothing but its own blocks is needed.
TEST_F(LendingRecords, NeedNothingThatTheirLendersStandOn) {
  const Bytes plain = chunk(1);
  const Ref base = put_one(plain);
  const Bytes one = with_block(plain, 1, 1);
  const Ref first = put_next(base, one);
  const Bytes two = with_block(one, 2, 2);
  const Ref second = put_next(first, two);
  const Bytes three = with_block(two, 1, 3);
  const Ref third = put_next(second, three);
  ASSERT_TRUE(objects.remove(format::pack_name(first.pack, 0)));
  reopen();
  EXPECT_EQ(*store->load_chunk(third).value(), three);
  EXPECT_TRUE(store->verify_record(third, RecordKind::full));
  expect_damaged(store->load_chunk(second));
  RootRegistry::Hold hold(registry);
  RecordWriter writer(*store, hold);
  EXPECT_EQ(writer.find_equal(RecordKind::full, store->digest(two), two), MaybeRef{}) << "not whole any more";
  EXPECT_EQ(writer.find_equal(RecordKind::full, store->digest(three), three), MaybeRef{third});
  EXPECT_FALSE(registry.condemn(second.pack)) << "it lends to what is shared";
  // A lender that was put right as a full record lends as well.
  ASSERT_TRUE(objects.remove(format::pack_name(second.pack, 0)));
  store->drop_caches();
  expect_damaged(store->load_chunk(third));
  const auto encoded = encode_payload(two, {}).value();
  Bytes pack;
  format::put_header(pack);
  const format::Entry entry{store->digest(two), format::kHeaderSize, static_cast<std::uint32_t>(encoded.bytes.size()),
                            static_cast<std::uint32_t>(two.size()), RecordKind::full, encoded.codec, 0};
  pack.insert(pack.end(), encoded.bytes.begin(), encoded.bytes.end());
  format::put_table_and_trailer(pack, second.pack, 1, {{entry}, {}});
  objects.set(format::pack_name(second.pack, 1), pack);
  EXPECT_EQ(*store->load_chunk(third).value(), three);
}

/// Lenders that lack what is wanted of them, each other's circle, the delta itself: refused, and no end is missed.
TEST_F(LendingRecords, LendersThatDoNotFitAreDamage) {
  const Bytes plain = chunk(1);
  const Ref base = put_one(plain);
  const Bytes one = with_block(plain, 1, 1);
  const Ref first = put_next(base, one);
  const Bytes two = with_block(one, 2, 2);
  const Ref second = put_next(first, two);
  const Ref other = put_next(base, with_block(plain, 5, 1));
  const Bytes file = objects.get(format::pack_name(second.pack, 0));
  for (const Ref& lender : {other, second, Ref{first.pack, 9, first.digest}, Ref{PackId{0x7700}, 0, first.digest}, base}) {
    Bytes forged = file;
    const std::size_t at = forged.size() - format::kTrailerSize - Ref::kEncodedSize;
    encode(lender, std::span(forged).subspan(at).first<Ref::kEncodedSize>());
      const std::size_t start = forged.size() - format::table_and_trailer_bytes(1, 2);
    const Digest digest = digest_of(std::span(forged).subspan(start, forged.size() - start - 24));
    std::vector<std::byte> encoded;
    ByteWriter writer(encoded);
    format::put_digest(writer, digest);
    std::ranges::copy(encoded, forged.end() - 24);
    objects.set(format::pack_name(second.pack, 0), forged);
    reopen();
    expect_damaged(store->load_chunk(second));
  }
  objects.set(format::pack_name(second.pack, 0), file);
  reopen();
  EXPECT_EQ(*store->load_chunk(second).value(), two);
}

/// Of a large table that has no room in the cache only entries are read, and what they say is believed only if the record
/// has its digest.
TEST_F(LendingRecords, OfLargeTablesOnlyEntriesAreRead) {
  chunk_bytes = kTestChunk;
  reopen();
  const auto small_cache = [] {
    ChunkStoreOptions options;
    options.node_cache_bytes = 16 * kKiB;
    options.chunk_cache_bytes = 0;
    return options;
  };
  std::vector<Bytes> plains;
  for (std::uint64_t i = 0; i < 2500; ++i) plains.push_back(make_chunk(2 * i + 1));
  const std::vector<Ref> refs = put_all(plains);
  const Bytes one = with_block(plains[7], 1, 1);
  const Ref first = put_next(refs[7], one);
  const Bytes two = with_block(one, 2, 2);
  const Ref second = put_next(first, two);
  ASSERT_EQ(store->supports_of(second)->size(), 2u);
  reopen(small_cache());
  ASSERT_EQ(*store->load_chunk(refs[0]).value(), plains[0]);
  objects.largest_read = 0;
  for (std::size_t i = 0; i < refs.size(); i += 11) ASSERT_EQ(*store->load_chunk(refs[i]).value(), plains[i]);
  EXPECT_EQ(*store->load_chunk(second).value(), two);
  EXPECT_LT(objects.largest_read, kTestChunk);
  expect_damaged(store->load_chunk({refs[3].pack, 3, refs[4].digest}));
  expect_damaged(store->load_chunk({refs[3].pack, 2500, refs[4].digest}));
  // The pack is rewritten under the reader's feet.
  const std::string name = format::pack_name(refs[0].pack, 0);
  const Bytes file = objects.get(name);
  const auto trailer = format::get_trailer(std::span(file).last<format::kTrailerSize>(), {refs[0].pack, 0}, file.size()).value();
  const auto table = format::get_table(trailer, std::span(file).subspan(trailer.table_offset)).value();
  ASSERT_EQ(*store->load_chunk(refs[9]).value(), plains[9]);
  Bytes next(file.begin(), file.begin() + static_cast<std::ptrdiff_t>(trailer.table_offset));
  format::put_table_and_trailer(next, refs[0].pack, 1, table);
  objects.set(format::pack_name(refs[0].pack, 1), next);
  ASSERT_TRUE(objects.remove(name));
  for (const std::size_t i : {9u, 10u, 2499u}) EXPECT_EQ(*store->load_chunk(refs[i]).value(), plains[i]);
  // A table that rots after it was verified: what it says of a record does not make another of it.
  for (std::size_t at = trailer.table_offset + 9 * format::kEntrySize, end = at + format::kEntrySize; at < end; ++at) {
    Bytes rotten = next;
    rotten[at] ^= std::byte{0x10};
    reopen(small_cache());
    ASSERT_EQ(*store->load_chunk(refs[8]).value(), plains[8]);
    objects.set(format::pack_name(refs[0].pack, 1), rotten);
    const auto loaded = store->load_chunk(refs[9]);
    EXPECT_TRUE(loaded ? **loaded == plains[9] : loaded.error().code == EIO);
    objects.set(format::pack_name(refs[0].pack, 1), next);
  }
}

}  // namespace
}  // namespace varve::chunks
