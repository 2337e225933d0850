// Packs as objects: which there are, their tables (cached), and the verified bytes of one record.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <unordered_map>
#include <vector>

#include "delta.h"
#include "format.h"
#include "pack_table.h"
#include "varve/chunks/chunk_store.h"
#include "varve/core/single_flight_cache.h"
#include "varve/core/sync.h"
#include "varve/objects/object_store.h"

namespace varve::chunks {

/// One record of a table so large is worth reading an entry for, rather than all of it, if the table was verified before:
/// what is read of the record must match its digest in any case.
constexpr std::size_t kLargeTable = 64 * kKiB;
constexpr std::size_t kMostLargeTables = 16384;  ///< that are remembered, 150 bytes each

/// Any thread. Keeps no file open and no memory but the table cache.
class PackReader {
 public:
  PackReader(objects::ObjectStore& objects, DigestFunction digest, std::size_t table_cache_bytes)
      : objects_(objects), digest_(digest), tables_(table_cache_bytes), large_tables_(kMostLargeTables) {}

  /// Ids of all packs there are, ascending.
  [[nodiscard]] Result<std::vector<PackId>> list();
  /// Generations of a pack that exist, ascending; none when there is no such pack.
  [[nodiscard]] Result<std::vector<std::uint32_t>> generations(PackId pack);

  /// From the cache or read. EIO (damaged) when missing or wrong.
  [[nodiscard]] Result<PackTablePointer> table(PackId pack);
  /// Read now, header included, past the cache.
  [[nodiscard]] Result<PackTablePointer> read_table_now(PackId pack);
  /// Of this generation, past the cache.
  [[nodiscard]] Result<PackTablePointer> read_table(format::PackName name);
  [[nodiscard]] Result<ByteCount> file_size(PackId pack);

  /// Whether the record exists according to the table and holds this (full or node): false for any doubt.
  [[nodiscard]] bool has(const Ref& ref, RecordKind content);
  /// Whether the record is a delta. EIO (damaged), and system errors, when that cannot be told.
  [[nodiscard]] Result<bool> is_one_of_deltas(const Ref& ref, RecordKind content);
  /// What the record stands on, if it is a delta: its base, then its lenders; by the whole table, verified. EIO (damaged),
  /// and system errors, when it cannot be read.
  [[nodiscard]] Result<std::vector<Ref>> supports_of(const Ref& ref);
  /// Plain bytes of a record that are at hand; null: to be read.
  using AtHand = std::function<BytesPointer(const Ref&)>;
  struct Request {
    Ref ref;
    RecordKind content = RecordKind::full;  ///< or node
    std::size_t plain_bytes = 0;            ///< what it must decode to; 0: whatever the table says
    AtHand at_hand{};                       ///< for a delta's base; empty: a delta is refused as damaged
    DeltaParent* parent = nullptr;          ///< filled with the rest if it is a chunk's delta
    objects::Access access = objects::Access::random;
  };
  /// The record's plain bytes, read and verified now; tables, and what is at hand, come from caches.
  [[nodiscard]] Result<BytesPointer> read_record(const Request& request);
  /// Writes those of its blocks that `wanted` has to their places in `chunk`. EIO (damaged) when the record, a full
  /// chunk or a delta, does not have them itself; nothing is known of their being right.
  [[nodiscard]] Status lend(const Ref& lender, BlockBits wanted, std::span<std::byte> chunk);

  /// A pack that was just written: its table need not be read.
  void remember(PackId pack, PackTablePointer table);
  /// All generations, lowest first: what a crash leaves is then still the newest.
  [[nodiscard]] Status remove(PackId pack);
  /// Removes all generations but the newest, of packs whose newest reads well. Goes on after an error; the first is
  /// returned.
  [[nodiscard]] Status remove_superseded();
  /// Removes all that are older than the newest and not needed by it.
  [[nodiscard]] Status remove_older(PackId pack);
  /// What was read of an older generation is forgotten.
  void renew(PackId pack, std::uint32_t generation);
  /// As if it had never been read.
  void forget(PackId pack);
  void drop_tables() {
    tables_.clear();
    large_tables_.clear();
  }

  [[nodiscard]] std::size_t cache_used() const { return tables_.counters().used; }
  std::atomic<std::size_t> records_loaded{0};
  std::atomic<std::size_t> bytes_loaded{0};

 private:
  [[nodiscard]] std::uint32_t known_generation(PackId pack) VARVE_EXCLUDES(mutex_);
  void note_generation(PackId pack, std::uint32_t generation) VARVE_EXCLUDES(mutex_);
  [[nodiscard]] bool look_up_generation(PackId pack);
  [[nodiscard]] Result<PackTablePointer> load_table(PackId pack);
  /// Where a record's payload is.
  struct Place {
    std::uint32_t payloads = 0;  ///< the generation that has it
    format::Entry entry;
    std::vector<Ref> supports{};  ///< what it stands on, if that was wanted
  };
  enum class Wanted { payload, payload_and_supports };
  /// Of a large table, which was read before and had no room in the cache.
  struct LargeTable {
    std::uint32_t generation = 0;
    format::Trailer trailer;
  };
  [[nodiscard]] Result<Place> find(const Ref& ref, RecordKind content);
  [[nodiscard]] Result<std::vector<Place>> find_all(std::span<const Ref> refs, RecordKind content, Wanted wanted);
  [[nodiscard]] static Result<Place> place_in(const PackTable& table, const Ref& ref, RecordKind content, Wanted wanted);
  [[nodiscard]] Result<Place> place_in(const LargeTable& large, const Ref& ref, RecordKind content, Wanted wanted,
                                       std::span<const std::byte> entry);
  void drop_table(PackId pack);
  /// A record on its way.
  struct Part {
    Ref ref;
    Place place;
    Bytes payload{};
  };
  [[nodiscard]] Status read_payloads(std::span<Part> parts, objects::Access access);
  [[nodiscard]] Result<Bytes> decode_no_delta(Part part) const;
  [[nodiscard]] Result<Bytes> read_delta(const Request& request, Place place);
  [[nodiscard]] Result<Bytes> try_record(const Request& request);
  [[nodiscard]] static Status change_chunk(const Part& delta, std::span<const Part> lenders, Bytes& chunk,
                                           DeltaParent* parent);
  [[nodiscard]] static Status lend(const Part& lender, BlockBits wanted, std::span<std::byte> chunk);
  [[nodiscard]] Result<std::size_t> read_object(std::string_view name, std::uint64_t at, std::span<std::byte> out);

  objects::ObjectStore& objects_;
  const DigestFunction digest_;
  SingleFlightCache<PackId, PackTable> tables_;
  SingleFlightCache<PackId, LargeTable> large_tables_;
  Mutex mutex_;
  /// Only packs that were rewritten: all others are at generation 0, and no memory is spent on them.
  std::unordered_map<PackId, std::uint32_t> generations_ VARVE_GUARDED_BY(mutex_);
};

}  // namespace varve::chunks
