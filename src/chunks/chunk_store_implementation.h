// What ChunkStore and RecordWriter share.
#pragma once

#include <atomic>
#include <unordered_set>

#include "pack_reader.h"
#include "varve/chunks/chunk_store.h"
#include "varve/core/sync.h"

namespace varve::chunks {

struct ChunkStore::Implementation {
  Implementation(objects::ObjectStore& object_store, Locator& record_locator, RootRegistry& root_registry,
                 Geometry store_geometry, ChunkStoreOptions store_options);

  static Implementation& of(ChunkStore& store) { return *store.implementation_; }

  using RecordCache = SingleFlightCache<Ref, Bytes>;
  /// What a record of this kind must decode to; 0: not fixed.
  [[nodiscard]] std::size_t plain_bytes(RecordKind kind) const {
    return kind == RecordKind::full ? geometry.chunk_bytes() : 0;
  }
  // In all of these `kind` is full or node, also for deltas.
  [[nodiscard]] RecordCache& cache_for(RecordKind kind) { return kind == RecordKind::node ? nodes : chunks; }
  [[nodiscard]] Result<BytesPointer> load(const Ref& ref, RecordKind kind,
                                          objects::Access access = objects::Access::random);
  /// From the cache, or read without being kept there: a comparison must not push out what guests read.
  [[nodiscard]] Result<BytesPointer> load_once(const Ref& ref, RecordKind kind);
  /// Read now; only a delta's base may come from the cache. It is not kept there: what was decoded with it is.
  /// `parent`: filled with the rest if it is a chunk's delta.
  [[nodiscard]] Result<BytesPointer> read(const Ref& ref, RecordKind kind, DeltaParent* parent = nullptr,
                                          objects::Access access = objects::Access::random);
  [[nodiscard]] std::vector<Locator::Entry> locator_entries(PackId pack, std::span<const RecordInfo> records) const;

  objects::ObjectStore& objects;
  Locator& locator;
  RootRegistry& registry;
  const Geometry geometry;
  const ChunkStoreOptions options;
  PackReader packs;
  RecordCache chunks;
  RecordCache nodes;
  std::atomic<std::size_t> damaged_loads{0};
  std::atomic<std::size_t> packs_written{0};
  Mutex rewriting;  ///< before the registry's: one pack is written anew at a time
  /// Packs with holes that this process made or made sure of: a crash may have come before they were all made.
  std::unordered_set<PackId> punched VARVE_GUARDED_BY(rewriting);
};

}  // namespace varve::chunks
