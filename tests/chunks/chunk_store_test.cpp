#include "varve/chunks/chunk_store.h"

#include <atomic>
#include <thread>

#include "chunks/fixture.h"
#include "support/memory_storage.h"

namespace varve::chunks {
namespace {

struct ChunkStoreTest : StoreFixture {};

TEST_F(ChunkStoreTest, GivesBackEveryChunk) {
  std::vector<Bytes> chunks;
  for (std::uint64_t i = 0; i < 100; ++i) chunks.push_back(make_chunk(i));
  const auto refs = put_all(chunks);
  for (int pass = 0; pass < 2; ++pass) {
    for (std::size_t i = 0; i < refs.size(); ++i) EXPECT_EQ(*store->load_chunk(refs[i]).value(), chunks[i]);
    store->drop_caches();
  }
  const auto counters = store->counters();
  EXPECT_EQ(counters.records_loaded, 200u);
  EXPECT_EQ(counters.damaged_loads, 0u);
}

TEST_F(ChunkStoreTest, CachesWithinItsBudget) {
  ChunkStoreOptions options;
  options.chunk_cache_bytes = 10 * kTestChunk;
  options.node_cache_bytes = 64 * kKiB;
  reopen(options);
  std::vector<Bytes> chunks;
  for (std::uint64_t i = 0; i < 50; ++i) chunks.push_back(make_chunk(i));
  const auto refs = put_all(chunks);
  for (const Ref& ref : refs) {
    EXPECT_EQ(store->peek_chunk(ref), nullptr);
    ASSERT_TRUE(store->load_chunk(ref));
    EXPECT_NE(store->peek_chunk(ref), nullptr);
    EXPECT_LE(store->counters().chunk_cache_used, options.chunk_cache_bytes);
  }
  EXPECT_EQ(store->peek_chunk(refs.front()), nullptr);
}

TEST_F(ChunkStoreTest, ManyReadersOfOneChunkLoadItOnce) {
  const Bytes chunk = make_chunk(1);
  const Ref ref = put_one(chunk);
  store->drop_caches();
  std::atomic<int> waiting{0};
  objects.before_read = [&](std::string_view) {
    while (waiting.load() < 8) std::this_thread::yield();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  };
  objects.reads = 0;
  std::vector<std::thread> readers;
  for (int i = 0; i < 8; ++i) {
    readers.emplace_back([&] {
      ++waiting;
      EXPECT_EQ(*store->load_chunk(ref).value(), chunk);
    });
  }
  for (auto& reader : readers) reader.join();
  EXPECT_EQ(objects.reads, 2u);  // the pack's end, and the payload
  EXPECT_EQ(store->counters().records_loaded, 1u);
}

TEST_F(ChunkStoreTest, RefsThatNameNothingAreErrors) {
  const Ref ref = put_one(make_chunk(1));
  expect_damaged(store->load_chunk(Ref::make_damaged()));
  expect_damaged(store->load_chunk(Ref{PackId{0x7700}, 0, ref.digest}));                // no such pack
  expect_damaged(store->load_chunk(Ref{PackId{ref.pack.value() + 1}, 0, ref.digest}));  // reserved
  expect_damaged(store->load_chunk(Ref{ref.pack, 1, ref.digest}));                      // no such ordinal
  expect_damaged(store->load_chunk(Ref{ref.pack, 0, Digest{1, 2}}));                    // another record
  expect_damaged(store->load_node(ref));                                                // of another kind
  EXPECT_GT(store->counters().damaged_loads, 0u);
  EXPECT_TRUE(store->load_chunk(ref));
}

TEST_F(ChunkStoreTest, VerifyReadsPastTheCache) {
  const Ref ref = put_one(make_chunk(0));
  ASSERT_TRUE(store->load_chunk(ref));
  EXPECT_TRUE(store->verify_record(ref, RecordKind::full));
  const std::string name = objects.names().front();
  auto bytes = objects.get(name);
  bytes[5000] ^= std::byte{1};
  objects.set(name, bytes);
  EXPECT_TRUE(store->load_chunk(ref));  // still cached
  EXPECT_FALSE(store->verify_record(ref, RecordKind::full));
}

TEST_F(ChunkStoreTest, ListsPacksAndTables) {
  EXPECT_TRUE(store->list_packs()->empty());
  const auto refs = put_all({make_chunk(0), make_chunk(1)});
  objects.set("packs/ab/.tmp-1", {});
  objects.set("packs/ab/nonsense", {});
  objects.set("packs/zz/zz00000000000000.0.pack", {});
  EXPECT_EQ(store->list_packs().value(), std::vector{refs[0].pack});
  const auto table = store->pack_table(refs[0].pack).value();
  ASSERT_EQ(table.size(), 2u);
  for (std::uint32_t i = 0; i < 2; ++i) {
    EXPECT_EQ(table[i].ordinal, i);
    EXPECT_EQ(table[i].kind, RecordKind::full);
    EXPECT_EQ(table[i].plain_bytes, kTestChunk);
    EXPECT_EQ(table[i].digest, refs[i].digest);
  }
  EXPECT_EQ(store->pack_size(refs[0].pack).value().value(),
            16 + table[0].stored_bytes + table[1].stored_bytes + 2 * 40 + 64);
}

TEST_F(ChunkStoreTest, ARemovedPackIsForgottenEverywhere) {
  const Bytes chunk = make_chunk(1);
  const Ref ref = put_one(chunk);
  ASSERT_TRUE(store->load_chunk(ref));  // in the chunk cache: must not make the ref shareable again
  ASSERT_TRUE(registry.condemn(ref.pack));
  EXPECT_TRUE(store->remove_pack(ref.pack));
  registry.absolve(ref.pack);
  EXPECT_TRUE(objects.names().empty());
  EXPECT_EQ(locator->find(ref.digest, RecordKind::full).value(), std::nullopt);
  // Even if the locator had kept it (a crash in between, a lost write):
  const Locator::Entry stale[] = {{RecordKind::full, ref}};
  ASSERT_TRUE(locator->add_pack(ref.pack, stale));
  const Ref again = put_one(chunk);
  EXPECT_NE(again.pack, ref.pack);
  EXPECT_TRUE(store->remove_pack(ref.pack));  // absent is success
}

TEST_F(ChunkStoreTest, ReconcileBringsTheLocatorInLine) {
  const auto refs = put_all({make_chunk(0), make_chunk(1)});
  const Ref gone = put_one(make_chunk(2));
  ASSERT_TRUE(objects.remove(objects.names()[gone.pack < refs[0].pack ? 0 : 1]));
  const auto fresh = make_memory_locator();
  const Locator::Entry stale[] = {{RecordKind::full, gone}};
  ASSERT_TRUE(fresh->add_pack(gone.pack, stale));
  ChunkStore other(objects, *fresh, registry, store->geometry(), {});
  EXPECT_EQ(other.reconcile_locator([] { return true; }).error().code, ECANCELED);
  EXPECT_TRUE(other.reconcile_locator({}));
  EXPECT_EQ(fresh->known_packs().value(), std::vector{refs[0].pack});
  EXPECT_EQ(fresh->find(refs[1].digest, RecordKind::full).value(), refs[1]);
}

TEST_F(ChunkStoreTest, ReconcileLeavesOutWhatItCannotRead) {
  put_one(make_chunk(0));
  auto bytes = objects.get(objects.names().front());
  bytes.resize(bytes.size() / 2);
  objects.set(objects.names().front(), bytes);
  const Ref good = put_one(make_chunk(1));
  const auto fresh = make_memory_locator();
  ChunkStore other(objects, *fresh, registry, store->geometry(), {});
  EXPECT_TRUE(other.reconcile_locator({}));
  EXPECT_EQ(fresh->known_packs().value(), std::vector{good.pack});
}

// The whole way down to files that lose power: what finish() made durable is there.
TEST(ChunkStoreOnFiles, FinishedRecordsSurvivePowerLoss) {
  const std::uint64_t seed = test::seed_for("chunk store power loss");
  test::MemoryStorage storage;
  const auto locator = make_memory_locator();
  RootRegistry registry;
  const Geometry geometry{ByteCount{kTestChunk}};
  std::vector<Ref> refs;
  {
    const auto objects = objects::make_directory_objects(storage);
    ChunkStore store(*objects, *locator, registry, geometry, {});
    RootRegistry::Hold hold(registry);
    RecordWriter writer(store, hold);
    for (std::uint64_t i = 0; i < 20; ++i) refs.push_back(writer.put_chunk(make_chunk(i)).value());
    ASSERT_TRUE(writer.finish());
    storage.cut_off();
  }
  storage.lose_power(seed);
  const auto objects = objects::make_directory_objects(storage);
  ChunkStore store(*objects, *locator, registry, geometry, {});
  EXPECT_EQ(store.list_packs()->size(), 1u);
  for (std::uint64_t i = 0; i < 20; ++i) EXPECT_EQ(*store.load_chunk(refs[i]).value(), make_chunk(i));
}

}  // namespace
}  // namespace varve::chunks
