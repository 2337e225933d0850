// A ChunkStore over memory, and chunks to put into it.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <random>

#include "chunks/memory_objects.h"
#include "support/seed.h"
#include "varve/chunks/chunk_store.h"

namespace varve::chunks {

inline constexpr std::size_t kTestChunk = kMinChunkSize;

/// A chunk that depends on `number` alone; every other one does not compress.
inline Bytes make_chunk(std::uint64_t number) {
  Bytes bytes(kTestChunk);
  std::mt19937_64 random(number);
  const std::size_t step = number % 2 == 0 ? 1 : 97;
  for (std::size_t i = 0; i < bytes.size(); i += step) bytes[i] = static_cast<std::byte>(random());
  return bytes;
}

struct StoreFixture : testing::Test {
  explicit StoreFixture(ChunkStoreOptions options = {}) { reopen(std::move(options)); }
  void reopen(ChunkStoreOptions options = {}) {
    store =
        std::make_unique<ChunkStore>(objects, *locator, registry, Geometry{ByteCount{chunk_bytes}}, std::move(options));
  }
  /// Puts the chunks and makes them durable.
  std::vector<Ref> put_all(const std::vector<Bytes>& chunks) {
    RootRegistry::Hold hold(registry);
    RecordWriter writer(*store, hold);
    std::vector<Ref> refs;
    for (const Bytes& chunk : chunks) refs.push_back(writer.put_chunk(chunk).value());
    EXPECT_TRUE(writer.finish());
    return refs;
  }
  Ref put_one(const Bytes& chunk) { return put_all({chunk}).front(); }

  std::size_t chunk_bytes = kTestChunk;
  test::MemoryObjects objects;
  std::unique_ptr<Locator> locator = make_memory_locator();
  RootRegistry registry;
  std::unique_ptr<ChunkStore> store;
};

template <class T>
void expect_damaged(const Result<T>& result) {
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, EIO) << result.error().message;
  EXPECT_EQ(result.error().kind, ErrorKind::damaged) << result.error().message;
}

}  // namespace varve::chunks
