#include <atomic>
#include <latch>
#include <thread>
#include <utility>
#include <vector>

#include "chunks/fixture.h"

namespace varve::chunks {
namespace {

struct RecordWriterTest : StoreFixture {
  std::size_t pack_count() { return objects.names().size(); }
};

TEST_F(RecordWriterTest, EqualChunksAreOneRecord) {
  RootRegistry::Hold hold(registry);
  RecordWriter writer(*store, hold);
  const Ref first = writer.put_chunk(make_chunk(1)).value();
  EXPECT_EQ(writer.put_chunk(make_chunk(1)).value(), first);  // in the open pack
  const std::uint64_t stored = writer.stored_bytes();
  ASSERT_TRUE(writer.finish());
  EXPECT_EQ(writer.put_chunk(make_chunk(1)).value(), first);  // through the locator
  EXPECT_EQ(writer.stored_bytes(), stored);
  ASSERT_TRUE(writer.finish());
  EXPECT_EQ(pack_count(), 1u);
  EXPECT_EQ(put_one(make_chunk(1)), first);
}

TEST_F(RecordWriterTest, KindsAreNeverShared) {
  Bytes node(61);  // a node's length; the bytes mean nothing here
  node[0] = std::byte{0};
  RootRegistry::Hold hold(registry);
  RecordWriter writer(*store, hold);
  EXPECT_EQ(writer.put_node(node).value(), writer.put_node(node).value());
  EXPECT_FALSE(writer.put_chunk(node));
  EXPECT_EQ(writer.find_equal(RecordKind::full, store->digest(node), node), std::nullopt);
}

TEST_F(RecordWriterTest, EqualChunksEncodedAtTheSameTimeAreOneRecord) {
  RootRegistry::Hold hold(registry);
  RecordWriter writer(*store, hold);
  const Bytes chunk = make_chunk(1);
  const Digest digest = store->digest(chunk);
  EXPECT_EQ(writer.find_equal(RecordKind::full, digest, chunk), std::nullopt);
  const Ref first = writer.append(RecordKind::full, digest, chunk.size(), encode_payload(chunk, {}).value()).value();
  EXPECT_EQ(writer.append(RecordKind::full, digest, chunk.size(), encode_payload(chunk, {}).value()).value(), first);
  EXPECT_EQ(writer.find_equal(RecordKind::full, digest, chunk), first);
  EXPECT_TRUE(writer.finish());
  EXPECT_EQ(*store->load_chunk(first).value(), chunk);
}

TEST_F(RecordWriterTest, RefusesWhatItCouldNotReadBack) {
  RootRegistry::Hold hold(registry);
  RecordWriter writer(*store, hold);
  EXPECT_EQ(writer.put_chunk(Bytes(kTestChunk - 1)).error().code, EINVAL);
  EXPECT_EQ(writer.put_node(Bytes(7202)).error().code, EINVAL);
  EXPECT_EQ(writer.put_node({}).error().code, EINVAL);
  EXPECT_EQ(writer.append(RecordKind::full, {}, kTestChunk, Encoded{Codec::raw, Bytes(5)}).error().code, EINVAL);
  EXPECT_EQ(writer.append(RecordKind::delta, {}, kTestChunk, Encoded{Codec::raw, Bytes(kTestChunk)}).error().code,
            EINVAL);
  EXPECT_TRUE(writer.finish());
  EXPECT_EQ(pack_count(), 0u);
}

TEST_F(RecordWriterTest, PacksAreClosedAtTheirTargetAndReadableThen) {
  RootRegistry::Hold hold(registry);
  RecordWriter writer(*store, hold);
  std::vector<Ref> refs;
  const std::uint64_t count = 2 * kPackTarget / kTestChunk + 10;
  for (std::uint64_t i = 0; i < count; ++i) refs.push_back(writer.put_chunk(make_chunk(2 * i)).value());
  EXPECT_EQ(pack_count(), 2u);
  EXPECT_EQ(*store->load_chunk(refs[0]).value(), make_chunk(0));
  expect_damaged(store->load_chunk(refs.back()));
  ASSERT_TRUE(writer.finish());
  EXPECT_EQ(pack_count(), 3u);
  for (std::uint64_t i = 0; i < count; i += 17) EXPECT_EQ(*store->load_chunk(refs[i]).value(), make_chunk(2 * i));
  for (const auto& name : objects.names()) EXPECT_LT(objects.get(name).size(), kPackTarget + kTestChunk + 64 * kKiB);
}

TEST_F(RecordWriterTest, AFailedWriteCanBeTriedAgain) {
  for (const bool happened : {false, true}) {  // true: only the acknowledgement was lost
    RootRegistry::Hold hold(registry);
    RecordWriter writer(*store, hold);
    const Bytes chunk = make_chunk(happened ? 100 : 101);
    const Ref ref = writer.put_chunk(chunk).value();
    objects.put_happens_anyway = happened;
    objects.put_error = ENOSPC;
    EXPECT_EQ(writer.finish().error().code, ENOSPC);
    EXPECT_EQ(writer.put_chunk(chunk).value(), ref);
    EXPECT_TRUE(writer.finish());
    EXPECT_EQ(*store->load_chunk(ref).value(), chunk);
  }
}

/// With a thread that writes packs, small ones.
struct PackWriters : RecordWriterTest {
  PackWriters() {
    ChunkStoreOptions options;
    options.pack_bytes = 4 * kTestChunk;
    options.pack_writers = &pool;
    reopen(options);
  }
  /// Chunks that don't compress fill a pack by fours.
  static Bytes full_size(std::uint64_t i) { return make_chunk(2 * i); }
  static constexpr std::uint64_t kPack = 4;
  ThreadPool pool{"pack", 1, 1};
};

TEST_F(PackWriters, TheNextPackGrowsWhileOneIsWritten) {
  std::latch may_write(1);
  objects.before_put = [&](std::string_view) { may_write.wait(); };
  RootRegistry::Hold hold(registry);
  RecordWriter writer(*store, hold);
  std::vector<Ref> refs;
  for (std::uint64_t i = 0; i < 2 * kPack; ++i) refs.push_back(writer.put_chunk(full_size(i)).value());
  EXPECT_EQ(pack_count(), 0u);
  EXPECT_NE(refs.front().pack, refs.back().pack);
  // What is in the pack that waits to be written is known like everything else.
  EXPECT_EQ(writer.put_chunk(full_size(0)).value(), refs.front());
  EXPECT_EQ(writer.put_chunk(full_size(2 * kPack - 1)).value(), refs.back());
  const Bytes first = full_size(0);
  EXPECT_EQ(writer.append(RecordKind::full, store->digest(first), first.size(), encode_payload(first, {}).value()).value(),
            refs.front());
  may_write.count_down();
  for (std::uint64_t i = 2 * kPack; i < 9 * kPack + 1; ++i) refs.push_back(writer.put_chunk(full_size(i)).value());
  ASSERT_TRUE(writer.finish());
  EXPECT_EQ(pack_count(), 10u);
  for (std::uint64_t i = 0; i < refs.size(); ++i) EXPECT_EQ(*store->load_chunk(refs[i]).value(), full_size(i));
}

TEST_F(PackWriters, AFailedWriteIsSaidAndCanBeTriedAgain) {
  for (const bool happened : {false, true}) {  // true: only the acknowledgement was lost
    RootRegistry::Hold hold(registry);
    RecordWriter writer(*store, hold);
    objects.put_happens_anyway = happened;
    objects.put_error = ENOSPC;
    std::vector<std::pair<Ref, std::uint64_t>> kept;
    int refused = 0;
    for (std::uint64_t i = 0; i < 4 * kPack; ++i) {
      const std::uint64_t number = i + (happened ? 1000 : 2000);
      auto ref = writer.put_chunk(full_size(number));
      if (!ref) {
        EXPECT_EQ(ref.error().code, ENOSPC);
        ++refused;
        ref = writer.put_chunk(full_size(number));
      }
      kept.emplace_back(ref.value(), number);
    }
    EXPECT_EQ(refused, 1);
    ASSERT_TRUE(writer.finish());
    for (const auto& [ref, number] : kept) EXPECT_EQ(*store->load_chunk(ref).value(), full_size(number));
  }
}

TEST_F(PackWriters, AWriterThatGoesWaitsForItsPack) {
  std::latch may_write(1);
  std::atomic<bool> wrote{false};
  objects.before_put = [&](std::string_view) {
    may_write.wait();
    wrote = true;
  };
  std::jthread later;
  {
    RootRegistry::Hold hold(registry);
    RecordWriter writer(*store, hold);
    for (std::uint64_t i = 0; i <= kPack; ++i) ASSERT_TRUE(writer.put_chunk(full_size(i)));
    later = std::jthread([&] { may_write.count_down(); });
  }
  EXPECT_TRUE(wrote);
  EXPECT_TRUE(locator->known_packs()->empty());  // it was never announced: garbage
}

TEST_F(RecordWriterTest, WithoutFinishNothingIsLeft) {
  {
    RootRegistry::Hold hold(registry);
    RecordWriter writer(*store, hold);
    ASSERT_TRUE(writer.put_chunk(make_chunk(1)));
  }
  EXPECT_EQ(pack_count(), 0u);
  EXPECT_TRUE(locator->known_packs()->empty());
}

struct PackIds : RecordWriterTest {
  /// Ids as listed, then no more.
  void use(std::vector<std::uint64_t> ids) {
    ChunkStoreOptions options;
    options.new_pack_id = [ids, next = std::make_shared<std::size_t>(0)] {
      return *next < ids.size() ? PackId{ids[(*next)++]} : PackId{0};
    };
    reopen(options);
  }
};

TEST_F(PackIds, ATakenIdIsNotUsedAgain) {
  use({0x100, 0x100, 0x200, 0x200, 0x300, 0x17, 0x400});
  EXPECT_EQ(put_one(make_chunk(1)).pack, PackId{0x100});
  EXPECT_EQ(put_one(make_chunk(2)).pack, PackId{0x200});
  ASSERT_TRUE(registry.condemn(PackId{0x300}));
  objects.set("packs/00/0000000000000200.3.pack", objects.get("packs/00/0000000000000200.0.pack"));
  ASSERT_TRUE(objects.remove("packs/00/0000000000000200.0.pack"));
  EXPECT_EQ(put_one(make_chunk(3)).pack, PackId{0x400});  // 0x200 has another generation, 0x300 goes, 0x17 is reserved
  RootRegistry::Hold hold(registry);
  RecordWriter writer(*store, hold);
  EXPECT_EQ(writer.put_chunk(make_chunk(4)).error().code, EIO);  // no more ids: an error, not a loop
}

TEST_F(PackIds, AnIdTakenMeanwhileOverwritesNothing) {
  use({0x100, 0x100});
  RootRegistry::Hold hold(registry);
  RecordWriter first(*store, hold);
  RecordWriter second(*store, hold);
  const Ref one = first.put_chunk(make_chunk(1)).value();
  const Ref two = second.put_chunk(make_chunk(2)).value();
  EXPECT_TRUE(first.finish());
  EXPECT_FALSE(second.finish());
  EXPECT_EQ(*store->load_chunk(one).value(), make_chunk(1));
  expect_damaged(store->load_chunk(two));
}

// ---- digests that collide: a match alone never makes two chunks one

Digest two_bits(std::span<const std::byte> bytes) {
  return Digest{0, digest_of(bytes).low & 3};
}

struct CollidingDigests : StoreFixture {
  static ChunkStoreOptions options() {
    ChunkStoreOptions options;
    options.digest = two_bits;
    return options;
  }
  CollidingDigests() : StoreFixture(options()) {}
};

TEST_F(CollidingDigests, DifferentChunksAreNeverShared) {
  for (int round = 0; round < 3; ++round) {  // within a pack, then through the locator
    std::vector<Bytes> chunks;
    for (std::uint64_t i = 0; i < 40; ++i) chunks.push_back(make_chunk(i));
    const auto refs = put_all(chunks);
    for (std::size_t i = 0; i < refs.size(); ++i) EXPECT_EQ(*store->load_chunk(refs[i]).value(), chunks[i]) << i;
    store->drop_caches();
  }
}

TEST_F(CollidingDigests, EncodedRecordsAreComparedToo) {
  RootRegistry::Hold hold(registry);
  RecordWriter writer(*store, hold);
  std::vector<Ref> refs;
  for (std::uint64_t i = 0; i < 40; ++i) {
    const Bytes chunk = make_chunk(i);
    const Digest digest = store->digest(chunk);
    const auto equal = writer.find_equal(RecordKind::full, digest, chunk);
    EXPECT_EQ(equal, std::nullopt);
    refs.push_back(writer.append(RecordKind::full, digest, chunk.size(), encode_payload(chunk, {}).value()).value());
  }
  ASSERT_TRUE(writer.finish());
  for (std::uint64_t i = 0; i < 40; ++i) EXPECT_EQ(*store->load_chunk(refs[i]).value(), make_chunk(i));
}

TEST_F(RecordWriterTest, AForgedLocatorMakesNothingEqual) {
  const Ref other = put_one(make_chunk(1));
  const Bytes chunk = make_chunk(2);
  const Digest digest = store->digest(chunk);
  for (const Ref& forged : {Ref{other.pack, other.ordinal, digest}, Ref{other.pack, 77, digest},
                            Ref{PackId{0x4200}, 0, digest}, Ref{PackId{1}, 0, digest}}) {
    const Locator::Entry entries[] = {{RecordKind::full, forged}};
    ASSERT_TRUE(locator->add_pack(forged.pack, entries));
    RootRegistry::Hold hold(registry);
    RecordWriter writer(*store, hold);
    EXPECT_EQ(writer.find_equal(RecordKind::full, digest, chunk), std::nullopt);
  }
  EXPECT_EQ(*store->load_chunk(put_one(chunk)).value(), chunk);
}

struct BrokenLocator final : Locator {
  Result<std::optional<Ref>> find(const Digest&, RecordKind) override { return fail_system(EIO, "locator"); }
  Status add_pack(PackId, std::span<const Entry>) override { return fail_system(ENOSPC, "locator"); }
  Status forget_pack(PackId, std::span<const Entry>) override { return fail_system(ENOSPC, "locator"); }
  Result<std::vector<PackId>> known_packs() override { return fail_system(EIO, "locator"); }
};

TEST_F(RecordWriterTest, ABrokenLocatorCostsNothingButSpace) {
  locator = std::make_unique<BrokenLocator>();
  reopen();
  const Ref first = put_one(make_chunk(1));
  const Ref second = put_one(make_chunk(1));
  EXPECT_NE(first, second);
  EXPECT_EQ(*store->load_chunk(first).value(), *store->load_chunk(second).value());
  EXPECT_TRUE(store->remove_pack(first.pack));
}

// One thread commits the same chunk over and over, the other collects whatever is not held. A ref that a writer was
// given is readable as long as its hold lives, whoever won.
TEST_F(RecordWriterTest, DeduplicationAgainstCollect) {
  std::jthread collect([&](const std::stop_token& done) {
    while (!done.stop_requested()) {
      RootRegistry::Mark mark(registry);
      const auto packs = store->list_packs().value();
      for (const PackId pack : packs) {
        if (!registry.condemn(pack)) continue;
        EXPECT_TRUE(store->remove_pack(pack));
        registry.absolve(pack);
      }
    }
  });
  const Bytes chunk = make_chunk(2);
  int shared = 0;
  std::optional<Ref> last;
  for (int i = 0; i < 1500; ++i) {
    RootRegistry::Hold hold(registry);
    RecordWriter writer(*store, hold);
    const Ref ref = writer.put_chunk(chunk).value();
    ASSERT_TRUE(writer.finish());
    if (last == ref) ++shared;
    last = ref;
    if (i % 3 == 0) store->drop_caches();
    const auto bytes = store->load_chunk(ref);
    ASSERT_TRUE(bytes) << bytes.error().message;
    ASSERT_EQ(**bytes, chunk);
    ASSERT_TRUE(store->verify_record(ref, RecordKind::full));
  }
  collect = {};
  RecordProperty("shared", shared);
}

}  // namespace
}  // namespace varve::chunks
