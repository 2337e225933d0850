// What packs and map nodes look like on disk. Every byte of them is written and read here and in format.cpp (refs:
// varve/chunks/ref.h, with the digest functions below). Integers are little-endian and of fixed width. Reserved bytes
// are written as zero and refused when they are not. A digest is XXH3-128 (seed 0) in its canonical form: 16 bytes,
// high half first, each half big-endian.
//
// Terms: a *record* is one encoded object (a chunk or a map node); its *payload* is the bytes stored for it, its
// *plain* bytes what they decode to. A *pack* is a set of records that never grows; its *table* says where each is. An
// *ordinal* is a record's position in the table, and with the pack's id it names the record for ever. A *generation*
// counts how often a pack was rewritten.
//
// 1. Object name
//
//     packs/ab/ID.GEN.pack     ID  16 lower-case hex digits, the pack id; its low 8 bits are zero
//                              ab  the first two digits of ID
//                              GEN generation, decimal without leading zeros, from 0
//
//    A rewrite writes ID.(GEN+1).pack whole and durable, then removes ID.GEN.pack. Ids and ordinals stay. Any
//    generation that is there is whole and right for the records that it has; of several the highest is read. A reader
//    that finds bytes missing or wrong looks up the highest generation, reads table and bytes again once, and then gives
//    up (EIO).
//
//    A generation may be nothing but a table: its payloads stay where they are, in an older generation, which says so in
//    its trailer and stays too. So records become "gone", durably, and then their bytes are punched, while the others
//    are not moved.
//
// 2. Pack file (offsets from its beginning)
//
//     0                 16                            T                         T + 40 n            T + L         + 64
//     +-----------------+------------ ... ------------+----------- ... ---------+-----------------+--------------+
//     | header, 16      | payloads, back to back      | table: n entries of 40  | s supports of 28| trailer, 64  |
//     +-----------------+------------ ... ------------+----------- ... ---------+-----------------+--------------+
//
//    At most 64 MiB, 65,536 records and 65,536 supports. Payloads have no alignment, no order and no framing of their own, and the
//    bytes of a record that is gone may read as zeros (punched).
//
//     header   0   8  magic "VARVEPK1"
//              8   2  version, 1
//             10   6  reserved
//
//     entry    0  16  digest of the plain bytes
//             16   8  offset of the payload; 16 <= offset, offset + stored <= T
//             24   4  stored: bytes of payload, 1 … plain (raw: exactly plain; deltas: fewer than plain)
//             28   4  plain: bytes it decodes to (full, delta: the store's chunk size; node, node delta: 33 … 7,201)
//             32   1  kind: 0 gone, 1 full, 2 delta, 3 node, 4 node delta
//             33   1  codec: 0 raw, 1 zstd (one or more zstd frames, no dictionary)
//             34   1  delta: number of its lenders, 0 … 7; else 0
//             35   1  reserved
//             36   4  delta: number of the first of its supports in the table; else 0
//                     an entry of kind 0 keeps the place of an ordinal whose record no longer exists: all other
//                     bytes are zero
//
//     support  refs (see 4) of what the entries of kind delta or node delta stand on, in the order of their ordinals: of
//              each first its *base*, the record that it changes, which has the same content (chunk or node) and is never
//              a delta itself; then its *lenders*, records from which it takes blocks: deltas of which their own blocks
//              are taken and nothing else, or full chunks. So nothing that a support stands on is needed, and any block
//              takes two loads at most, and a chunk nine, all known from the table. A support lives as long as
//              something stands on it; one that lends may be no longer readable as a chunk.
//
//     trailer  0   8  T, offset of the table
//              8   8  length of the pack, header and trailer included
//             16   8  pack id, the one in the name
//             24   4  n, number of entries
//             28   4  generation, the one in the name
//             32   2  version, 1
//             34   2  0, or in a generation that is only a table: by how much smaller the number of the generation is in
//                     whose file its payloads are (T is 16 then; offset + stored is bounded by 64 MiB only)
//             36   4  L, length of the table with its supports, 40 n + 28 s
//             40  16  digest of the table followed by the trailer's bytes 0 … 39
//             56   8  magic "VARVEEND"
//
//    The version changes when a reader of the former one would misread the file; readers refuse versions they do not
//    know. The trailer repeats it so that a record needs two reads from a pack (its end and the payload), not three.
//
// 3. Payloads
//
//     full    a chunk, encoded by the entry's codec
//     node    a map node, encoded by the entry's codec
//     delta    0  b/8   bitmap of changed 4 KiB blocks, b = chunk size / 4096, rounded up to bytes; block i is bit
//                       i % 8 of byte i / 8; at least one is set
//                    …  the like for each lender: the blocks that are taken from it, at least one. No block is in two
//                       bitmaps (and at most half are in any, by every writer of ours: more would not pay)
//                    …  its own blocks, those of the first bitmap, in ascending order, encoded together by the entry's
//                       codec
//     node     0    2   length m of what follows when decoded, 32 + 28 for each slot that differs from the base
//     delta    2     …  encoded by the entry's codec: bitmap of these slots, 32 bytes, slot i is bit i % 8 of byte i / 8;
//                       then for each of them, ascending, its ref, all zeros where the slot is empty. The level is the
//                       base's.
//     Digest and plain length of a delta are those of the chunk or node that results.
//
// 4. Map node and ref (plain bytes of a node record)
//
//     node     0   1  level: 0 leaf … 3 root; its 256 slots are chunks (leaf) or nodes of the next lower level
//              1  32  bitmap of the slots that are not all zeros; slot i is bit i % 8 of byte 1 + i / 8; never empty
//             33   …  one ref of 28 bytes for each set bit, in ascending order
//
//     ref      0   8  pack id (never 0)
//              8   4  ordinal
//             12  16  digest of the record's plain bytes
//                     all zeros: nothing, i.e. zeros (only where a root is expected, never in a node);
//                     pack 0, ordinal 0xFFFFFFFF: a chunk that could not be read when its snapshot was committed
//
// 5. Several packs in one file: small packs may lie, byte for byte, in files that hold many objects each. That is the
//    object store's (objects/joined_format.h); here a pack has its name and its bytes wherever they are.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "varve/chunks/codec.h"
#include "varve/chunks/ref.h"
#include "varve/core/bytes.h"
#include "varve/core/digest_bytes.h"
#include "varve/core/result.h"
#include "varve/core/units.h"

namespace varve::chunks::format {

constexpr std::string_view kPacksFolder = "packs";
constexpr std::string_view kHeaderMagic = "VARVEPK1";
constexpr std::string_view kTrailerMagic = "VARVEEND";
constexpr std::uint16_t kVersion = 1;
constexpr std::size_t kHeaderSize = 16;
constexpr std::size_t kEntrySize = 40;
constexpr std::size_t kTrailerSize = 64;
constexpr std::uint32_t kMaxRecords = 65536;
constexpr std::uint64_t kReservedIdBits = 0xFF;  ///< of a pack id: zero

constexpr std::size_t kNodeSlots = 256;
constexpr std::size_t kNodeHeaderSize = 33;
constexpr std::size_t kMaxNodeSize = kNodeHeaderSize + kNodeSlots * Ref::kEncodedSize;

// ---- names

[[nodiscard]] std::string pack_folder(PackId pack);
[[nodiscard]] std::string pack_name(PackId pack, std::uint32_t generation);
struct PackName {
  PackId pack;
  std::uint32_t generation = 0;
};
/// Of an object found in folder packs/`folder`. Nothing for names that are not a pack's.
[[nodiscard]] std::optional<PackName> parse_pack_name(std::string_view folder, std::string_view name);

// ---- digests

using varve::get_digest;
using varve::put_digest;

// ---- packs

constexpr std::size_t kMostLenders = 7;
constexpr std::size_t kMostSupports = 1 + kMostLenders;  ///< of a delta
constexpr std::size_t kMostSupportsOfAll = 65536;        ///< of a table

/// One of the records that a delta stands on.
struct Support {
  std::uint32_t ordinal = 0;  ///< of the delta
  Ref ref;
};

/// A table entry in memory: 32 bytes.
struct Entry {
  Digest digest;
  std::uint32_t offset = 0;
  std::uint32_t stored = 0;
  std::uint32_t plain = 0;
  std::optional<RecordKind> kind;  ///< nothing: gone
  Codec codec = Codec::raw;
  std::uint8_t lenders = 0;  ///< of a delta

  /// How many records it stands on.
  [[nodiscard]] std::size_t supports() const { return kind && is_delta(*kind) ? std::size_t{1} + lenders : 0; }
};
static_assert(sizeof(Entry) == 32);

struct Trailer {
  std::uint64_t table_offset = 0;
  std::uint32_t table_length = 0;
  std::uint32_t count = 0;
  std::uint32_t generation = 0;
  std::uint32_t payloads = 0;  ///< the generation in whose file they are
  PackId pack;

  /// Payloads end before this.
  [[nodiscard]] std::uint64_t payloads_end() const;
};

/// Appends the header to an empty pack.
void put_header(std::vector<std::byte>& pack);
struct Table {
  std::vector<Entry> entries;
  std::vector<Support> supports;  ///< of its deltas, ascending by ordinal; of each its base, then its lenders
};
/// What table and trailer take on disk.
[[nodiscard]] constexpr std::size_t table_and_trailer_bytes(std::size_t entries, std::size_t supports) {
  return entries * kEntrySize + supports * Ref::kEncodedSize + kTrailerSize;
}

/// Appends table and trailer behind the payloads: the pack is then complete.
void put_table_and_trailer(std::vector<std::byte>& pack, PackId id, std::uint32_t generation, const Table& table);
/// The same behind a header alone: the payloads are in generation `payloads`, less than kMostBehind before this one.
constexpr std::uint32_t kMostBehind = 65536;
void put_table_of_older(std::vector<std::byte>& pack, PackId id, std::uint32_t generation, std::uint32_t payloads,
                        const Table& table);

/// EIO (damaged) unless it is a header this version reads.
[[nodiscard]] Status check_header(std::span<const std::byte> header);
/// Checks everything that can be checked without the table: what it returns fits in `file_size` and is that of `name`.
[[nodiscard]] Result<Trailer> get_trailer(std::span<const std::byte, kTrailerSize> bytes, PackName name,
                                          std::uint64_t file_size);
/// `bytes`: the table followed by the trailer. EIO (damaged) when the digest or any entry is wrong; what it returns
/// lies within the pack.
[[nodiscard]] Result<Table> get_table(const Trailer& trailer, std::span<const std::byte> bytes);

/// An entry by itself, with where its supports begin. Nothing when it cannot be right.
struct PlacedEntry {
  Entry entry;
  std::uint32_t first_support = 0;
};
[[nodiscard]] std::optional<PlacedEntry> get_entry(std::span<const std::byte> bytes, std::uint64_t payloads_end);

/// Whether a table that begins at `table_offset` may have this entry.
[[nodiscard]] bool possible(const Entry& entry, std::uint64_t table_offset);

/// The fields of a table entry as they are, for repair: nothing is checked.
struct RawEntry {
  Digest digest;
  std::uint64_t offset = 0;
  std::uint32_t stored = 0;
  std::uint32_t plain = 0;
  std::uint8_t kind = 0;
  std::uint8_t codec = 0;
  std::uint8_t lenders = 0;

  [[nodiscard]] std::size_t supports() const;
};
struct RawTable {
  std::vector<RawEntry> entries;
  std::vector<MaybeRef> supports;  ///< as many as there is room for, in order; nothing: it names none
  std::size_t length = 0;          ///< in bytes
};
/// What can be made out of the table of a pack whose trailer or table is damaged; empty when it is not known how long
/// it is. The trailer says that twice, and once more how many entries it has, and these how many supports.
[[nodiscard]] RawTable get_raw_table(std::span<const std::byte> file);

// ---- map nodes

using NodeSlots = std::array<MaybeRef, kNodeSlots>;

/// The canonical bytes of a node: equal slots give equal bytes. At least one slot must be set.
void put_node(std::vector<std::byte>& out, int level, const NodeSlots& slots);

/// Reads a node in place; valid as long as the bytes are.
class NodeView {
 public:
  NodeView() = default;
  /// EIO (damaged) unless it is a node of this level with as many refs as set bits, at least one.
  [[nodiscard]] static Result<NodeView> parse(std::span<const std::byte> bytes, int level);
  [[nodiscard]] bool has(std::size_t slot) const { return (words_[slot / 64] >> (slot % 64) & 1) != 0; }
  /// A set slot whose ref says "nothing" reads as a damaged ref, never as zeros.
  [[nodiscard]] MaybeRef get(std::size_t slot) const;
  /// The first slot >= `from` that is set (or, `next_clear`, not set); kNodeSlots when there is none.
  [[nodiscard]] std::size_t next_set(std::size_t from) const;
  [[nodiscard]] std::size_t next_clear(std::size_t from) const;
  [[nodiscard]] std::span<const std::byte> bytes() const { return bytes_; }

 private:
  std::span<const std::byte> bytes_;
  std::array<std::uint64_t, 4> words_{};
};

}  // namespace varve::chunks::format
