// Records in packs: written by a RecordWriter, read through a ChunkStore that verifies each record against its
// digest on every load from disk and keeps what it decoded in two byte-bounded caches (chunks; nodes and tables).
//
// Memory: the two budgets, plus two packs per RecordWriter, one that grows and one that is being written (each pack_bytes
// + one record + its table).
// A pack table costs 32 bytes a record, a delta 24 more for each record that it stands on (and 4): for a 16 MiB pack of
// 64 KiB chunks at ratio 2.5, 20 KiB; so the tables' half of a node cache of 64 MiB knows 26 GiB of packs, or 64 GiB of
// chunks. Of deltas alone, that store 2 KiB for a block and stand on five records each, it knows 200,000: 400 MiB of
// packs, or 2.7 GiB of chunks all of which have changed so often. A map leaf costs up to 7 KiB: the other half knows 4,600
// of them, 70 GiB of image.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "varve/chunks/codec.h"
#include "varve/chunks/locator.h"
#include "varve/chunks/ref.h"
#include "varve/chunks/root_registry.h"
#include "varve/core/result.h"
#include "varve/core/single_flight_cache.h"
#include "varve/core/thread_pool.h"
#include "varve/objects/object_store.h"

namespace varve::chunks {

constexpr std::size_t kPackTarget = 16 * kMiB;  ///< a pack is closed when it has grown to this
constexpr std::uint64_t kMaxPackSize = 64 * kMiB;  ///< a larger one is refused as damaged

/// Also closed when its table has grown to this, which a cold read of a record in it costs: 6,500 full chunks, or 1,500
/// deltas that stand on five records each.
constexpr std::size_t kPackTableTarget = 256 * kKiB;

using Bytes = std::vector<std::byte>;
using BytesPointer = std::shared_ptr<const Bytes>;

using DigestFunction = Digest (*)(std::span<const std::byte>);

struct ChunkStoreOptions {
  Compression compression;
  std::size_t chunk_cache_bytes = 256 * kMiB;
  std::size_t node_cache_bytes = 64 * kMiB;  ///< map nodes (half) and pack tables (half)
  std::size_t pack_bytes = kPackTarget;  ///< less where memory is short
  /// Writes a pack that is full while the next one grows; must outlive the store. Null: whoever fills it waits.
  ThreadPool* pack_writers = nullptr;
  /// Tests put a weak function here, so that digests of different bytes collide, and chosen pack ids.
  DigestFunction digest = &digest_of;
  std::function<PackId()> new_pack_id;  ///< unset: random
};

struct RecordInfo {
  std::uint32_t ordinal = 0;
  RecordKind kind = RecordKind::full;
  Codec codec = Codec::raw;
  std::uint64_t stored_bytes = 0;
  std::uint64_t plain_bytes = 0;
  Digest digest;
  std::vector<Ref> supports;  ///< of a delta: what it stands on
};

/// A chunk that another one may become a delta of.
struct DeltaParent {
  Ref ref;
  BytesPointer bytes;
  BytesPointer base_bytes;     ///< of the full record: its base's, or its own
  std::vector<Ref> supports;   ///< of a delta: its base, then its lenders (src/chunks/format.h)
  /// Of a delta, by block, where it is: in the base, in itself, or, from kOwnBlock + i on, in supports[i].
  std::vector<std::uint8_t> sources;
  static constexpr std::uint8_t kBaseBlock = 0;
  static constexpr std::uint8_t kOwnBlock = 1;
};

/// A chunk's delta.
struct EncodedDelta {
  Encoded encoded;
  std::vector<Ref> supports;  ///< what it stands on: its base, then its lenders
};

/// Any thread. `objects`, `locator` and `registry` must outlive it.
class ChunkStore {
 public:
  ChunkStore(objects::ObjectStore& objects, Locator& locator, RootRegistry& registry, Geometry geometry,
             ChunkStoreOptions options);
  ~ChunkStore();

  [[nodiscard]] Geometry geometry() const;
  [[nodiscard]] const ChunkStoreOptions& options() const;
  [[nodiscard]] RootRegistry& registry();
  /// The digest records of this store have.
  [[nodiscard]] Digest digest(std::span<const std::byte> plain) const;

  /// The chunk's bytes, chunk_size of them. EIO (damaged) naming pack and ordinal when the pack is missing, cut,
  /// or the bytes do not match the digest; EIO for a damaged ref; system errors as they come. `access`: sequential for
  /// one who reads chunk after chunk of an image.
  [[nodiscard]] Result<BytesPointer> load_chunk(const Ref& ref, objects::Access access = objects::Access::random);
  /// The same; what is not in the cache is read and not kept there: for comparisons, which must not push out what
  /// guests read.
  [[nodiscard]] Result<BytesPointer> load_chunk_once(const Ref& ref);
  /// The same with what encode_chunk_delta() needs. Only whole chunks come from the cache.
  [[nodiscard]] Result<DeltaParent> load_delta_parent(const Ref& ref);
  /// Whether the chunk is stored as a delta. EIO (damaged), and system errors, when that cannot be told.
  [[nodiscard]] Result<bool> is_chunk_delta(const Ref& ref);
  /// The records that this one stands on, if it is a delta: first its base (which is none itself), then those it takes
  /// blocks from. They must be kept as long as the delta, but not what they stand on in turn. EIO (damaged), and system
  /// errors, when that cannot be told.
  [[nodiscard]] Result<std::vector<Ref>> supports_of(const Ref& ref);
  /// From the cache only: null when it would have to be loaded.
  [[nodiscard]] BytesPointer peek_chunk(const Ref& ref);
  /// A decoded and verified node record (chunk_map.h interprets it).
  [[nodiscard]] Result<BytesPointer> load_node(const Ref& ref);
  /// Reads and verifies the record's bytes past all caches: for `check`, which calls pack_table() first for each pack
  /// (the table that this goes by is the cached one), and verifies a delta's base by itself (here it may come from the
  /// cache).
  [[nodiscard]] Status verify_record(const Ref& ref, RecordKind kind);

  /// Ids of all packs in the object store.
  [[nodiscard]] Result<std::vector<PackId>> list_packs();
  /// The table of a pack, read now and verified with header and trailer; records that are gone are left out. EIO
  /// (damaged) naming the file.
  [[nodiscard]] Result<std::vector<RecordInfo>> pack_table(PackId pack);
  /// What its pack's table, which may be the cached one, says of a record. EIO (damaged) when it has none such.
  [[nodiscard]] Result<RecordInfo> record(const Ref& ref);
  /// Stored size of a pack's file.
  [[nodiscard]] Result<ByteCount> pack_size(PackId pack);
  /// Locator forgets, bytes go, caches forget. Only for condemned packs (root_registry.h). Absent is success. After an
  /// error the pack may be there or not, never in part.
  [[nodiscard]] Status remove_pack(PackId pack);
  /// Brings the locator in line with the packs that exist; `stop` (may be empty) is asked between packs: ECANCELED.
  /// A pack that cannot be read is logged and left out. For the background.
  [[nodiscard]] Status reconcile_locator(const std::function<bool()>& stop);

  struct Counters {
    std::size_t chunk_cache_used = 0;
    std::size_t chunk_cache_hits = 0;
    std::size_t chunk_cache_misses = 0;
    std::size_t node_cache_used = 0;
    std::size_t records_loaded = 0;
    std::size_t bytes_loaded = 0;
    std::size_t damaged_loads = 0;
    std::size_t packs_written = 0;  ///< by commits
  };
  [[nodiscard]] Counters counters() const;
  /// For tests and benchmarks: forgets everything cached.
  void drop_caches();

  struct Implementation;  ///< the layer's own

 private:
  friend class RecordWriter;
  std::unique_ptr<Implementation> implementation_;
};

/// A delta that makes chunk `plain`: the blocks that differ from the parent's, and the others from where the parent has
/// them. Nothing when more than half of its blocks differ from the base, or when a delta would not be shorter. Any
/// thread. EIO (damaged) as encode_payload().
[[nodiscard]] Result<std::optional<EncodedDelta>> encode_chunk_delta(const DeltaParent& parent,
                                                                     std::span<const std::byte> plain,
                                                                     Compression compression);

/// Writes the records of one commit. A ref it returns is readable through the ChunkStore once the pack it is in is
/// durable: after finish(), or earlier when another pack filled up after it. Everything it writes or shares is in its
/// hold until it goes. One thread at a time; encoding may run in parallel beforehand: find_equal(), else encode_payload()
/// anywhere, then append().
///
/// Errors: those of the object store (ENOSPC, EDQUOT, EIO …), EIO (damaged) from an encode that failed its check. An
/// error leaves everything that was appended before in place; the same call, or finish(), may be tried again.
class RecordWriter {
 public:
  /// `store` and `hold` must outlive it; `hold` belongs to the store's registry.
  RecordWriter(ChunkStore& store, RootRegistry::Hold& hold);
  ~RecordWriter();  ///< without finish(): what was not yet durable is dropped, or a pack that nothing names

  /// A record with these bytes: an existing one found by digest (in this writer's packs or through the locator),
  /// compared byte by byte, or a new one. A chunk has chunk_size bytes, else EINVAL.
  [[nodiscard]] Result<Ref> put_chunk(std::span<const std::byte> plain);
  /// `similar`: a node that differs little, if one is known. Where it pays the new one is stored as a delta on it (or
  /// on what that stands on). Its owner, or something in the hold, must keep it.
  [[nodiscard]] Result<Ref> put_node(std::span<const std::byte> plain, const MaybeRef& similar = {});
  /// The shareable record with exactly these bytes, if there is one (and it is now held).
  [[nodiscard]] std::optional<Ref> find_equal(RecordKind kind, const Digest& digest, std::span<const std::byte> plain);
  /// Appends an already encoded record, unless its packs have the very same encoded bytes (two equal chunks that
  /// were encoded at the same time). `digest` is ChunkStore::digest of its plain bytes. Not for deltas: EINVAL.
  [[nodiscard]] Result<Ref> append(RecordKind kind, const Digest& digest, std::size_t plain_bytes, Encoded encoded);
  /// The same for what encode_chunk_delta() made. An owner, or something in the hold, must keep what it stands on.
  [[nodiscard]] Result<Ref> append_delta(const Digest& digest, EncodedDelta delta);
  /// Makes everything appended durable. May be called more than once.
  [[nodiscard]] Status finish();
  /// Bytes of payload appended so far (new records only).
  [[nodiscard]] std::uint64_t stored_bytes() const;

 private:
  struct Implementation;
  std::unique_ptr<Implementation> implementation_;
};

}  // namespace varve::chunks
