// Repair of packs with deltas: those that only lend their blocks cannot be proven, and are not lost for that.
#include "varve/chunks/pack_repair.h"

#include <algorithm>
#include <set>

#include "../../src/chunks/format.h"
#include "../../src/chunks/lost_supports.h"
#include "chunks/fixture.h"

namespace varve::chunks {
namespace {

BytesPointer nowhere(const LostRecord&) {
  return nullptr;
}

/// The chunk with another block there, which compresses if `seed` is even.
Bytes with_block(Bytes chunk, std::size_t block, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  for (std::size_t i = 0; i < kBlockSize; ++i) {
    std::byte& byte = chunk[block * kBlockSize + i];
    byte = seed % 2 == 0 && i >= 64 ? chunk[block * kBlockSize + i - 64] : static_cast<std::byte>(random());
  }
  return chunk;
}

struct PackRepair : StoreFixture {
  PackRepair() {
    chunk_bytes = 64 * kKiB;
    restart();
  }
  void restart() {
    ChunkStoreOptions options;
    options.new_pack_id = [this] { return PackId{next_id_ += 0x100}; };
    reopen(std::move(options));
  }
  [[nodiscard]] Bytes chunk(std::uint64_t seed) const {
    Bytes bytes(chunk_bytes);
    for (std::size_t i = 0; i < chunk_bytes / kBlockSize; ++i) {
      bytes = with_block(std::move(bytes), i, seed * 1000 + 2 * i);
    }
    return bytes;
  }
  /// One pack of what becomes of these.
  std::vector<Ref> put_next(const std::vector<Ref>& parents, const std::vector<Bytes>& chunks) {
    RootRegistry::Hold hold(registry);
    RecordWriter writer(*store, hold);
    std::vector<Ref> refs;
    for (std::size_t i = 0; i < parents.size(); ++i) {
      auto delta = encode_chunk_delta(store->load_delta_parent(parents[i]).value(), chunks[i], {}).value();
      EXPECT_TRUE(delta);
      refs.push_back(writer.append_delta(store->digest(chunks[i]), std::move(*delta)).value());
    }
    for (std::size_t i = parents.size(); i < chunks.size(); ++i) refs.push_back(writer.put_chunk(chunks[i]).value());
    EXPECT_TRUE(writer.finish());
    return refs;
  }
  void remove_pack(PackId pack) { ASSERT_TRUE(objects.remove(format::pack_name(pack, 0))); }
  [[nodiscard]] std::set<std::string> names() {
    const auto all = objects.names();
    return {all.begin(), all.end()};
  }

 private:
  std::uint64_t next_id_ = 0x1000;
};

/// Takes blocks from a pack of three deltas that stand on one, two and no lender that are gone, and of a full chunk.
struct LendersThatStandOnNothing : PackRepair {
  LendersThatStandOnNothing() {
    for (std::uint64_t i = 0; i < 3; ++i) states.push_back(chunk(i + 1));
    const auto bases = put_all(states);
    change(1, 10);
    const auto first = put_next(bases, states);
    change(2, 20);
    const auto second = put_next({first[1]}, {states[1]});
    change(3, 30);
    auto with_full = states;
    full = chunk(9);
    with_full.push_back(full);
    lenders = put_next({first[0], second[0], bases[2]}, with_full);
    // Of the first two nothing but the last block is still wanted.
    change(1, 40);
    change(2, 50);
    takers = put_next({lenders[0], lenders[1], lenders[2]}, states);
    remove_pack(first.front().pack);
    remove_pack(second.front().pack);
    name = format::pack_name(lenders.front().pack, 0);
    file = objects.get(name);
  }
  void change(std::size_t block, std::uint64_t seed) {
    for (std::size_t i = 0; i < states.size(); ++i) states[i] = with_block(std::move(states[i]), block, seed + i);
  }
  [[nodiscard]] bool all_there() {
    store->drop_caches();
    for (std::size_t i = 0; i < takers.size(); ++i) {
      const auto there = store->load_chunk(takers[i]);
      if (!there || **there != states[i]) return false;
    }
    const auto there = store->load_chunk(lenders[3]);
    return there && **there == full;
  }
  /// The lenders that a check would ask for.
  [[nodiscard]] std::vector<LostRecord> missing() {
    std::vector<LostRecord> lost;
    for (std::size_t i = 0; i < 3; ++i) {
      const auto record = store->record(lenders[i]);
      if (!record || record->digest != lenders[i].digest) lost.push_back({lenders[i], RecordKind::full, true});
    }
    if (!store->load_chunk(lenders[3])) lost.push_back({lenders[3], RecordKind::full});
    return lost;
  }
  void put_back(const Bytes& bytes) {
    for (const std::string& old : names()) {
      if (!old.starts_with(name.substr(0, name.find('.')))) continue;
      ASSERT_TRUE(objects.remove(old));
    }
    objects.set(name, bytes);
    restart();
  }

  std::vector<Bytes> states;
  Bytes full;
  std::vector<Ref> lenders;  ///< and a full chunk behind them
  std::vector<Ref> takers;
  std::string name;
  Bytes file;
};

TEST_F(LendersThatStandOnNothing, ComeBackWhateverByteOfTheirTableIsDamaged) {
  ASSERT_TRUE(all_there());
  EXPECT_FALSE(store->load_chunk(lenders[0]));
  EXPECT_FALSE(store->load_chunk(lenders[1]));
  ASSERT_EQ(store->supports_of(lenders[1])->size(), 3U);
  const std::size_t table = file.size() - format::table_and_trailer_bytes(4, 6);
  for (const bool asked_for : {false, true}) {
    for (const auto by : {std::byte{1}, std::byte{0x40}, std::byte{0xFF}}) {
      for (std::size_t at = table; at < file.size(); ++at) {
        SCOPED_TRACE(testing::Message() << "byte " << at - table << " of table and trailer, " << static_cast<int>(by)
                                        << (asked_for ? ", asked for" : ""));
        Bytes flipped = file;
        flipped[at] ^= by;
        put_back(flipped);
        const auto wanted = asked_for ? missing() : std::vector<LostRecord>{};
        const auto repaired = repair_pack(*store, lenders[0].pack, wanted, nowhere);
        ASSERT_TRUE(repaired) << repaired.error().message;
        EXPECT_TRUE(repaired->written);
        EXPECT_TRUE(repaired->still_lost.empty());
        if (const auto lost = missing(); !lost.empty()) {
          ASSERT_FALSE(asked_for);
          const auto again = repair_pack(*store, lenders[0].pack, lost, nowhere);
          ASSERT_TRUE(again) << again.error().message;
          EXPECT_TRUE(again->still_lost.empty());
        }
        EXPECT_TRUE(all_there());
        for (std::size_t i = 0; i < 3; ++i) {
          EXPECT_EQ(store->supports_of(lenders[i])->size(), std::size_t{i == 0 ? 2U : i == 1 ? 3U : 1U});
        }
        if (HasFailure()) return;
      }
    }
  }
}

/// Where a number of lenders is wrong, the supports of those behind it are somewhere else; they are found all the same.
TEST_F(LendersThatStandOnNothing, KeepTheirOwnSupports) {
  std::vector<std::vector<Ref>> supports;
  for (std::size_t i = 0; i < 3; ++i) supports.push_back(store->supports_of(lenders[i]).value());
  const std::size_t table = file.size() - format::table_and_trailer_bytes(4, 6);
  for (std::size_t entry = 0; entry < 4; ++entry) {
    for (const std::size_t field : {32U, 34U}) {
      Bytes flipped = file;
      flipped[table + entry * format::kEntrySize + field] ^= std::byte{2};
      put_back(flipped);
      ASSERT_TRUE(repair_pack(*store, lenders[0].pack, {}, nowhere));
      for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(store->supports_of(lenders[i]).value(), supports[i]) << entry;
    }
  }
}

TEST_F(PackRepair, WhatLentABlockIsFoundAmongSeveralWithItsDigest) {
  const Bytes plain = chunk(1);
  const Ref base = put_one(plain);
  const Bytes one = with_block(plain, 1, 11);
  const Bytes two = with_block(one, 2, 12);
  const Ref first = put_next({base}, {one}).front();
  // The same chunk three times: the second has both blocks itself, the others one.
  const Ref before = put_next({first}, {two}).front();
  const Ref lender = put_next({base}, {two}).front();
  const Ref behind = put_next({first}, {two}).front();
  ASSERT_TRUE(before.pack < lender.pack && lender.pack < behind.pack);
  const Bytes three = with_block(two, 3, 13);
  const Ref taker = put_next({lender}, {three}).front();
  const std::string name = format::pack_name(taker.pack, 0);
  Bytes file = objects.get(name);
  file[file.size() - format::kTrailerSize - Ref::kEncodedSize + 6] ^= std::byte{0x40};  // pack of its lender
  objects.set(name, file);
  restart();
  const LostRecord lost{taker, RecordKind::full};
  const auto repaired = repair_pack(*store, taker.pack, {&lost, 1}, nowhere);
  ASSERT_TRUE(repaired) << repaired.error().message;
  EXPECT_EQ(repaired->from_pack.size(), 1U);
  EXPECT_EQ(*store->load_chunk(taker).value(), three);
}

TEST_F(PackRepair, TheBytesOfBasesAreNotGathered) {
  std::vector<Bytes> states;
  for (std::uint64_t i = 0; i < 12; ++i) states.push_back(chunk(i));
  const auto bases = put_all(states);
  for (auto& state : states) state = with_block(std::move(state), 3, 7);
  const auto deltas = put_next(bases, states);
  const Bytes file = objects.get(format::pack_name(deltas.front().pack, 0));
  const auto table = format::get_raw_table(file);
  restart();
  LostSupports supports(ChunkStore::Implementation::of(*store), table, [](std::uint32_t) { return true; });
  std::vector<std::weak_ptr<const Bytes>> offered;
  for (int round = 0; round < 2; ++round) {
    for (std::uint32_t i = 0; i < deltas.size(); ++i) {
      supports.offer(i, RecordKind::full, [&](const std::vector<Ref>& refs, const BytesPointer& base) {
        EXPECT_EQ(refs, std::vector<Ref>{bases[i]});
        EXPECT_EQ(*base, *store->load_chunk(bases[i]).value());
        offered.push_back(base);
        return true;
      });
    }
  }
  ASSERT_EQ(offered.size(), 2 * deltas.size());
  EXPECT_LE(std::ranges::count_if(offered, [](const auto& base) { return !base.expired(); }), 2);
}

}  // namespace
}  // namespace varve::chunks
