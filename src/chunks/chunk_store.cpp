#include "varve/chunks/chunk_store.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "chunk_store_implementation.h"
#include "varve/core/log.h"

namespace varve::chunks {
namespace {

constexpr std::size_t kTableShare = 2;            ///< half of the node cache
constexpr std::size_t kCacheEntryOverhead = 256;  ///< list, hash table, control block, key twice

/// Of a record that is not gone.
RecordInfo describe(const PackTable& table, std::uint32_t ordinal) {
  const format::Entry& entry = table.entries[ordinal];
  return {ordinal, *entry.kind, entry.codec, entry.stored, entry.plain, entry.digest, table.supports_of(ordinal)};
}

std::size_t cost_of(const Bytes& bytes) {
  return bytes.size() + kCacheEntryOverhead;
}

}  // namespace

ChunkStore::Implementation::Implementation(objects::ObjectStore& object_store, Locator& record_locator,
                                           RootRegistry& root_registry, Geometry store_geometry,
                                           ChunkStoreOptions store_options)
    : objects(object_store),
      locator(record_locator),
      registry(root_registry),
      geometry(store_geometry),
      options(std::move(store_options)),
      packs(object_store, options.digest, options.node_cache_bytes / kTableShare),
      chunks(options.chunk_cache_bytes),
      nodes(options.node_cache_bytes - options.node_cache_bytes / kTableShare) {}

Result<BytesPointer> ChunkStore::Implementation::load(const Ref& ref, RecordKind kind, objects::Access access) {
  return cache_for(kind).get(
      ref,
      [&]() -> Result<BytesPointer> {
        auto bytes = read(ref, kind, nullptr, access);
        if (!bytes && bytes.error().kind == ErrorKind::damaged) damaged_loads.fetch_add(1, std::memory_order_relaxed);
        return bytes;
      },
      cost_of);
}

Result<BytesPointer> ChunkStore::Implementation::load_once(const Ref& ref, RecordKind kind) {
  if (BytesPointer cached = cache_for(kind).peek(ref)) return cached;
  return read(ref, kind);
}

Result<BytesPointer> ChunkStore::Implementation::read(const Ref& ref, RecordKind kind, DeltaParent* parent,
                                                      objects::Access access) {
  return packs.read_record({ref, kind, plain_bytes(kind),
                            [&](const Ref& base) { return cache_for(kind).peek(base); }, parent, access});
}

std::vector<Locator::Entry> ChunkStore::Implementation::locator_entries(PackId pack,
                                                                        std::span<const RecordInfo> records) const {
  std::vector<Locator::Entry> entries;
  entries.reserve(records.size());
  for (const RecordInfo& record : records) {
    entries.push_back({content_of(record.kind), Ref{pack, record.ordinal, record.digest}});
  }
  return entries;
}

ChunkStore::ChunkStore(objects::ObjectStore& objects, Locator& locator, RootRegistry& registry, Geometry geometry,
                       ChunkStoreOptions options)
    : implementation_(std::make_unique<Implementation>(objects, locator, registry, geometry, std::move(options))) {}

ChunkStore::~ChunkStore() = default;

Geometry ChunkStore::geometry() const {
  return implementation_->geometry;
}
RootRegistry& ChunkStore::registry() {
  return implementation_->registry;
}
const ChunkStoreOptions& ChunkStore::options() const {
  return implementation_->options;
}
Digest ChunkStore::digest(std::span<const std::byte> plain) const {
  return implementation_->options.digest(plain);
}

Result<BytesPointer> ChunkStore::load_chunk(const Ref& ref, objects::Access access) {
  return implementation_->load(ref, RecordKind::full, access);
}
BytesPointer ChunkStore::peek_chunk(const Ref& ref) {
  return implementation_->chunks.peek(ref);
}
Result<BytesPointer> ChunkStore::load_node(const Ref& ref) {
  return implementation_->load(ref, RecordKind::node);
}

Result<BytesPointer> ChunkStore::load_chunk_once(const Ref& ref) {
  return implementation_->load_once(ref, RecordKind::full);
}
Result<DeltaParent> ChunkStore::load_delta_parent(const Ref& ref) {
  DeltaParent parent{.ref = ref, .bytes = peek_chunk(ref), .base_bytes = {}, .supports = {}, .sources = {}};
  // Of a delta the chunk alone is no use.
  const auto delta = is_chunk_delta(ref);
  if (parent.bytes == nullptr || !delta || *delta) {
    auto bytes = implementation_->read(ref, RecordKind::full, &parent);
    if (!bytes) return tl::unexpected(std::move(bytes).error());
    parent.bytes = std::move(*bytes);
  }
  if (parent.base_bytes == nullptr) parent.base_bytes = parent.bytes;
  return parent;
}
Result<bool> ChunkStore::is_chunk_delta(const Ref& ref) {
  return implementation_->packs.is_one_of_deltas(ref, RecordKind::full);
}
Result<std::vector<Ref>> ChunkStore::supports_of(const Ref& ref) {
  return implementation_->packs.supports_of(ref);
}

Status ChunkStore::verify_record(const Ref& ref, RecordKind kind) {
  VARVE_TRY(implementation_->read(ref, kind));
  return {};
}

Result<std::vector<PackId>> ChunkStore::list_packs() {
  return implementation_->packs.list();
}

Result<std::vector<RecordInfo>> ChunkStore::pack_table(PackId pack) {
  VARVE_TRY_ASSIGN(const PackTablePointer table, implementation_->packs.read_table_now(pack));
  std::vector<RecordInfo> records;
  records.reserve(table->entries.size());
  for (std::uint32_t ordinal = 0; ordinal < table->entries.size(); ++ordinal) {
    if (table->entries[ordinal].kind) records.push_back(describe(*table, ordinal));
  }
  return records;
}

Result<RecordInfo> ChunkStore::record(const Ref& ref) {
  VARVE_TRY_ASSIGN(const PackTablePointer table, implementation_->packs.table(ref.pack));
  if (ref.ordinal >= table->entries.size() || !table->entries[ref.ordinal].kind) {
    return fail_damaged(to_text(ref) + " is not in its pack");
  }
  return describe(*table, ref.ordinal);
}

Result<ByteCount> ChunkStore::pack_size(PackId pack) {
  return implementation_->packs.file_size(pack);
}

Status ChunkStore::remove_pack(PackId pack) {
  // Without a table nobody knows which digests lead here. They are misses: a hit is looked up in its pack's table.
  std::vector<Locator::Entry> entries;
  if (const auto records = pack_table(pack)) entries = implementation_->locator_entries(pack, *records);
  if (const auto forgotten = implementation_->locator.forget_pack(pack, entries); !forgotten) {
    log::warning("pack {:016x}: {}", pack.value(), forgotten.error().message);
  }
  return implementation_->packs.remove(pack);
}

Status ChunkStore::reconcile_locator(const std::function<bool()>& stop) {
  const auto stopped = [&]() -> Status {
    if (stop && stop()) return fail_refused(ECANCELED, "bringing the locator up to date was stopped");
    return {};
  };
  // Known first: a pack written between the two lists is then only added again, never forgotten.
  VARVE_TRY_ASSIGN(auto known, implementation_->locator.known_packs());
  VARVE_TRY_ASSIGN(const auto existing, list_packs());
  std::ranges::sort(known);
  std::vector<PackId> gone;
  std::vector<PackId> unknown;
  std::ranges::set_difference(known, existing, std::back_inserter(gone));
  std::ranges::set_difference(existing, known, std::back_inserter(unknown));
  for (const PackId pack : gone) {
    VARVE_TRY(stopped());
    VARVE_TRY(implementation_->locator.forget_pack(pack, {}));
  }
  for (const PackId pack : unknown) {
    VARVE_TRY(stopped());
    RootRegistry::Hold hold(implementation_->registry);
    if (!hold.try_hold_pack(pack)) continue;
    const auto records = pack_table(pack);
    if (!records) {
      log::warning("locator: left out: {}", records.error().message);
      continue;
    }
    VARVE_TRY(implementation_->locator.add_pack(pack, implementation_->locator_entries(pack, *records)));
  }
  return {};
}

ChunkStore::Counters ChunkStore::counters() const {
  const auto chunks = implementation_->chunks.counters();
  const auto nodes = implementation_->nodes.counters();
  const PackReader& packs = implementation_->packs;
  return {.chunk_cache_used = chunks.used,
          .chunk_cache_hits = chunks.hits,
          .chunk_cache_misses = chunks.misses,
          .node_cache_used = nodes.used + packs.cache_used(),
          .records_loaded = packs.records_loaded.load(std::memory_order_relaxed),
          .bytes_loaded = packs.bytes_loaded.load(std::memory_order_relaxed),
          .damaged_loads = implementation_->damaged_loads.load(std::memory_order_relaxed),
          .packs_written = implementation_->packs_written.load(std::memory_order_relaxed)};
}

void ChunkStore::drop_caches() {
  implementation_->chunks.clear();
  implementation_->nodes.clear();
  implementation_->packs.drop_tables();
}

}  // namespace varve::chunks
