// No byte of a pack is trusted: whatever is in the file, a read gives the exact bytes or EIO, in bounded memory.
#include <fmt/format.h>

#include <algorithm>

#include "../../src/chunks/format.h"
#include "chunks/fixture.h"

namespace varve::chunks {
namespace {

constexpr std::uint64_t kPack = 0xAB00;
constexpr const char* kName = "packs/00/000000000000ab00.0.pack";

Bytes make_node(std::uint64_t number) {
  format::NodeSlots slots;
  slots[number % 256] = Ref{PackId{256}, static_cast<std::uint32_t>(number), Digest{number, number}};
  slots[7] = slots[number % 256];
  Bytes bytes;
  format::put_node(bytes, 0, slots);
  return bytes;
}

struct HostilePack : StoreFixture {
  static ChunkStoreOptions options() {
    ChunkStoreOptions options;
    options.new_pack_id = [] { return PackId{kPack}; };
    return options;
  }
  HostilePack() : StoreFixture(options()) {
    RootRegistry::Hold hold(registry);
    RecordWriter writer(*store, hold);
    for (const std::uint64_t number : std::vector<std::uint64_t>{1, 3, 5}) {  // compressible: a small pack
      chunks.push_back(make_chunk(number));
      refs.push_back(writer.put_chunk(chunks.back()).value());
    }
    node = make_node(3);
    node_ref = writer.put_node(node).value();
    EXPECT_TRUE(writer.finish());
    good = objects.get(kName);
  }

  /// Reads everything with the file as given: exact or EIO. Returns whether all was exact.
  bool exact_or_eio(const Bytes& file) {
    objects.set(kName, file);
    store->drop_caches();
    objects.largest_read = 0;
    bool all = true;
    const auto judge = [&](const Result<BytesPointer>& result, const Bytes& expected) {
      if (result) {
        EXPECT_EQ(**result, expected);
      } else {
        EXPECT_EQ(result.error().code, EIO);
        all = false;
      }
    };
    for (std::size_t i = 0; i < refs.size(); ++i) judge(store->load_chunk(refs[i]), chunks[i]);
    judge(store->load_node(node_ref), node);
    if (const auto table = store->pack_table(PackId{kPack}); !table) {
      EXPECT_EQ(table.error().code, EIO);
      all = false;
    }
    EXPECT_LE(objects.largest_read, std::max<std::size_t>(file.size(), kTestChunk));
    return all;
  }

  std::size_t table_at() const { return good.size() - format::kTrailerSize - 4 * format::kEntrySize; }
  /// The good pack with entry `i` changed, and a checksum that fits.
  Bytes with_entry(std::size_t i, std::size_t at, std::uint64_t value, std::size_t width) const {
    Bytes file = good;
    for (std::size_t k = 0; k < width; ++k) {
      file[table_at() + i * format::kEntrySize + at + k] = static_cast<std::byte>(value >> (8 * k));
    }
    return resealed(std::move(file), table_at());
  }
  Bytes with_trailer(std::size_t at, std::uint64_t value, std::size_t width) const {
    Bytes file = good;
    for (std::size_t k = 0; k < width; ++k) {
      file[file.size() - format::kTrailerSize + at + k] = static_cast<std::byte>(value >> (8 * k));
    }
    return resealed(std::move(file), table_at());
  }
  static Bytes resealed(Bytes file, std::size_t table) {
    const std::size_t digest_at = file.size() - format::kTrailerSize + 40;
    std::vector<std::byte> digest;
    ByteWriter out(digest);
    format::put_digest(out, digest_of(std::span(file).subspan(table, digest_at - table)));
    std::ranges::copy(digest, file.begin() + static_cast<std::ptrdiff_t>(digest_at));
    return file;
  }

  std::vector<Bytes> chunks;
  std::vector<Ref> refs;
  Bytes node;
  Ref node_ref;
  Bytes good;
};

TEST_F(HostilePack, TheGoodOneIsGood) {
  EXPECT_TRUE(exact_or_eio(good));
  EXPECT_TRUE(exact_or_eio(with_entry(0, 0, 0, 0)));
}

TEST_F(HostilePack, EachByteFlipped) {
  for (std::size_t at = 0; at < good.size(); ++at) {
    Bytes file = good;
    file[at] ^= static_cast<std::byte>(1u << at % 8);
    // Behind the payloads, and in the header, every byte is checked.
    const bool exact = exact_or_eio(file);
    if (at < format::kHeaderSize || at >= table_at()) {
      EXPECT_FALSE(exact) << at;
    }
  }
}

TEST_F(HostilePack, CutAtEveryLength) {
  for (std::size_t size = 0; size < good.size(); ++size) {
    EXPECT_FALSE(exact_or_eio(Bytes(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(size)))) << size;
  }
  Bytes longer = good;
  longer.push_back(std::byte{0});
  EXPECT_FALSE(exact_or_eio(longer));
}

TEST_F(HostilePack, Garbage) {
  std::mt19937_64 random(test::seed_for("garbage packs"));
  for (int i = 0; i < 2000; ++i) {
    Bytes file = good;
    if (i % 4 == 0) file.resize(random() % 300);
    const std::size_t holes = 1 + random() % 20;
    for (std::size_t k = 0; k < holes && !file.empty(); ++k) {
      const std::size_t at = random() % file.size();
      const std::size_t end = std::min<std::size_t>(file.size(), at + random() % 100);
      for (std::size_t b = at; b < end; ++b) file[b] = static_cast<std::byte>(random());
    }
    (void)exact_or_eio(file);
  }
}

TEST_F(HostilePack, ForgedTablesWithAMatchingChecksum) {
  const std::uint64_t hostile[] = {0,
                                   1,
                                   15,
                                   16,
                                   17,
                                   good.size(),
                                   table_at(),
                                   0x7FFFFFFF,
                                   0xFFFFFFFF,
                                   1ull << 32,
                                   1ull << 63,
                                   ~0ull,
                                   ~0ull - 16,
                                   kTestChunk,
                                   kTestChunk + 1,
                                   kMaxChunkSize,
                                   kMaxChunkSize + 1};
  for (std::size_t i = 0; i < 4; ++i) {
    for (const std::uint64_t value : hostile) {
      (void)exact_or_eio(with_entry(i, 16, value, 8));  // offset
      (void)exact_or_eio(with_entry(i, 24, value, 4));  // stored
      (void)exact_or_eio(with_entry(i, 28, value, 4));  // plain
    }
    for (std::uint64_t value = 0; value < 256; ++value) {
      (void)exact_or_eio(with_entry(i, 32, value, 1));  // kind
      (void)exact_or_eio(with_entry(i, 33, value, 1));  // codec
    }
  }
  for (const std::size_t at : std::vector<std::size_t>{0, 8, 16, 24, 28, 32, 34, 36}) {
    for (const std::uint64_t value : hostile) {
      (void)exact_or_eio(with_trailer(at, value, at < 24 ? 8 : at == 32 || at == 34 ? 2 : 4));
    }
  }
}

TEST_F(HostilePack, NewerVersionsAndReservedThingsAreRefused) {
  EXPECT_FALSE(exact_or_eio(with_trailer(32, 2, 2)));
  EXPECT_NE(store->load_chunk(refs[0]).error().message.find("version 2"), std::string::npos);
  EXPECT_FALSE(exact_or_eio(with_entry(0, 34, 1, 1)));
  EXPECT_FALSE(exact_or_eio(with_entry(0, 32, 2, 1)));
  EXPECT_NE(store->load_chunk(refs[0]).error().message.find("stands on"), std::string::npos);
  Bytes directory = good;
  std::ranges::copy(std::as_bytes(std::span("VARVEDIR", 8)), directory.end() - 8);
  EXPECT_FALSE(exact_or_eio(directory));
}

TEST_F(HostilePack, AnOversizedFileIsNotRead) {
  Bytes huge(kMaxPackSize + 1);
  objects.set(kName, std::move(huge));
  store->drop_caches();
  objects.reads = 0;
  expect_damaged(store->load_chunk(refs[0]));
  EXPECT_EQ(objects.reads, 0u);
}

// ---- generations

Bytes rewritten(const Bytes& good, std::size_t table, std::uint32_t generation, std::size_t moved_by) {
  Bytes file(good.begin(), good.begin() + format::kHeaderSize);
  file.resize(file.size() + moved_by);
  file.insert(file.end(), good.begin() + format::kHeaderSize, good.begin() + static_cast<std::ptrdiff_t>(table));
  const auto trailer =
      format::get_trailer(std::span(good).last<format::kTrailerSize>(), {PackId{kPack}, 0}, good.size());
  auto read = format::get_table(*trailer, std::span(good).subspan(table)).value();
  for (auto& entry : read.entries) entry.offset += static_cast<std::uint32_t>(moved_by);
  read.entries[1] = format::Entry{};  // gone
  format::put_table_and_trailer(file, PackId{kPack}, generation, read);
  return file;
}

std::string name_of(std::uint32_t generation) {
  return format::pack_name(PackId{kPack}, generation);
}

TEST_F(HostilePack, ARefStaysValidWhenThePackIsRewritten) {
  ASSERT_TRUE(store->load_chunk(refs[0]));  // the table of generation 0 is cached
  objects.set(name_of(1), rewritten(good, table_at(), 1, 1000));
  ASSERT_TRUE(objects.remove(name_of(0)));
  EXPECT_EQ(*store->load_chunk(refs[2]).value(), chunks[2]);
  expect_damaged(store->load_chunk(refs[1]));  // gone, by the rewrite
  EXPECT_EQ(store->pack_table(PackId{kPack})->size(), 3u);
  EXPECT_EQ(store->pack_size(PackId{kPack})->value(), objects.get(name_of(1)).size());
  EXPECT_EQ(store->list_packs().value(), std::vector{PackId{kPack}});
  ASSERT_TRUE(store->remove_pack(PackId{kPack}));
  EXPECT_TRUE(objects.names().empty());
}

TEST_F(HostilePack, TheHighestGenerationIsReadWhenALowerOneIsDamaged) {
  objects.set(name_of(9), rewritten(good, table_at(), 9, 500));
  objects.set(name_of(10), rewritten(good, table_at(), 10, 2000));
  Bytes damaged = good;
  for (std::size_t at = 0; at < damaged.size(); at += 10) damaged[at] ^= std::byte{0xFF};
  objects.set(name_of(0), damaged);
  objects.set(name_of(9), damaged);
  EXPECT_EQ(*store->load_chunk(refs[2]).value(), chunks[2]);
  EXPECT_EQ(*store->load_node(node_ref).value(), node);
}

TEST_F(HostilePack, TableAndBytesOfDifferentGenerationsNeverMix) {
  ASSERT_TRUE(store->load_chunk(refs[0]));
  objects.set(name_of(0), rewritten(good, table_at(), 0, 1000));  // against the rules: bytes moved, same name
  EXPECT_EQ(*store->load_chunk(refs[2]).value(), chunks[2]);      // found out and read again
  objects.set(name_of(0), rewritten(good, table_at(), 4, 0));     // another generation than its name says
  store->drop_caches();
  expect_damaged(store->load_chunk(refs[2]));
}

TEST_F(HostilePack, EndlessGenerationsEndInEio) {
  objects.before_read = [&, next = 1u](std::string_view) mutable {
    ++next;  // rewritten whenever somebody looks
    for (const auto& name : objects.names()) EXPECT_TRUE(objects.remove(name));
    objects.set(name_of(next), rewritten(good, table_at(), next, next));
  };
  store->drop_caches();
  expect_damaged(store->load_chunk(refs[2]));
}

TEST(PackName, OnlyItsOwnFormIsAPack) {
  const auto parse = [](const char* folder, const char* name) { return format::parse_pack_name(folder, name); };
  EXPECT_EQ(format::pack_name(PackId{0xAB00000000000100}, 12), "packs/ab/ab00000000000100.12.pack");
  EXPECT_EQ(parse("ab", "ab00000000000100.12.pack")->generation, 12u);
  EXPECT_EQ(parse("ab", "ab00000000000100.0.pack")->pack, PackId{0xAB00000000000100});
  for (const char* name : {"", ".pack", "ab00000000000100.pack", "ab00000000000100..pack", "ab00000000000100.01.pack",
                           "ab00000000000100.-1.pack", "ab00000000000100.4294967296.pack", "ab00000000000100.0.pac",
                           "AB00000000000100.0.pack", "ab00000000000101.0.pack", "cd00000000000100.0.pack",
                           "ab0000000000010.0.pack", "ab000000000001000.0.pack"}) {
    EXPECT_FALSE(parse("ab", name)) << name;
  }
  EXPECT_FALSE(parse("00", "0000000000000000.0.pack"));
}

}  // namespace
}  // namespace varve::chunks
