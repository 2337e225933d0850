// The journal's bytes. All integers little-endian and of fixed width; this is the only place that writes or reads them.
//
//   header, 64 bytes                        record, multiple of 8 bytes, at an offset that is one too
//    0  8  "VARVEJ01"                        0  4  length of the whole record, padding included
//    8  4  format version, 1                 4  2  type
//   12  4  chunk size                        6  2  padding bytes at the end (0 to 7), zeros
//   16  8  disk id                           8  8  chain: XXH3-64, seeded with the previous record's chain (the
//   24  8  nonce, random per file                  first one's: the nonce), of bytes 0 to 7 and 16 to the end
//   32 24  zeros                            16  .  payload, see the structs below: members in order, integers as
//   56  8  XXH3-64 of bytes 0 to 55                wide as declared, text and lists behind a u32 count,
//                                                  a root as 28 bytes, a place as kind u8 and slot u32
//
// The chain makes a record valid only behind the very records it was written behind. A seal can also be told alone: it
// carries its own offset and a checksum of its own, so that one that lies behind a bad record is recognised. It also
// says up to where the journal was known durable when it was written: a bad record before that is damage, one after it
// is the tail that a crash left.
//
// Version 1 promises: a reader of version 1 reads every journal of version 1; unknown types are damage. Magic, version
// and the header's checksum stay where they are in every version.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "varve/core/digest.h"
#include "varve/core/result.h"
#include "varve/core/time.h"
#include "varve/core/units.h"
#include "varve/disk/live_disk.h"

namespace varve::disk {

using Slot = std::uint32_t;  ///< position of a chunk-sized piece of detour.img

struct Place {
  PlaceKind kind = PlaceKind::zero;
  Slot slot = 0;  ///< detour only, else 0
  friend bool operator==(const Place&, const Place&) = default;
};

/// Blocks of one chunk, the first in the lowest bit.
using BlockMask = std::uint64_t;
/// Larger chunks are never in a slot with a part of their blocks only.
constexpr std::uint64_t kMostPartialBlocks = 64;

/// Chunks are tracked in pages of so many: places (2 bits each) and changed chunks of a frozen map (1 bit each).
constexpr std::uint64_t kPageChunks = 4096;
using KindBits = std::array<std::byte, kPageChunks / 4>;    ///< 2 bits a chunk, the first in the lowest bits
using ChunkBits = std::array<std::byte, kPageChunks / 8>;   ///< 1 bit a chunk, the first in the lowest bit
/// A change map is kept in pages of 4 KiB, of one bit a block.
constexpr std::uint64_t kMapPageBytes = 4096;

/// A slot of a page's chunk.
struct PageSlot {
  std::uint16_t chunk = 0;
  Slot slot = 0;
};

// Records, by type number. Ranges are in chunks and lie below kMaxChunksPerImage.
namespace record {

struct Size {  ///< 1: the image's size; chunks behind it become Zero
  std::uint64_t bytes = 0;
};
struct Image {  ///< 2: comes into being under a new incarnation, or goes: all Zero, size 0, L empty
  std::uint64_t incarnation = 0;
  std::uint8_t exists = 0;
};
struct Places {  ///< 3: the live chunks of a range are there now
  std::uint64_t first = 0;
  std::uint64_t count = 0;
  Place place;
};
struct Splice {  ///< 4: a range becomes Base, and L says `root` from `source` on
  std::uint64_t first = 0;
  std::uint64_t count = 0;
  OpaqueRoot root;
  std::uint64_t source = 0;
  std::uint64_t size = 0;
};
struct Replace {  ///< 5: the whole image becomes Base on `root`
  std::uint64_t incarnation = 0;
  std::uint64_t size = 0;
  OpaqueRoot root;
};
struct Freeze {  ///< 6: the image as it is now is pending snapshot `id`; live changes go to map `next_map`
  std::uint64_t id = 0;
  std::uint64_t parent = 0;
  std::int64_t time = 0;
  std::int64_t image_modified = 0;
  std::uint64_t next_map = 0;
  std::string name;
  std::string attributes;
};
struct PendingUpdated {  ///< 7
  std::uint64_t id = 0;
  std::string name;
  std::string attributes;
};
struct PendingDropped {  ///< 8: its successor has inherited (type 15) and takes over its maps
  std::uint64_t id = 0;
};
struct Committed {  ///< 9: the oldest pending snapshot is in the log; P is `root`
  std::uint64_t id = 0;
  OpaqueRoot root;
};
struct Seal {  ///< 10: what a power loss leaves in force
  std::uint64_t offset = 0;   ///< of this record
  std::uint64_t covered = 0;  ///< all data that the records before this offset speak of was durable
  std::uint64_t durable = 0;  ///< the journal itself was known durable up to here
  std::uint64_t check = 0;    ///< XXH3-64 seeded with the nonce, of the three above
};
struct Opened {  ///< 11: served from here on; `lost`: no change map is trusted, all counts as changed
  std::uint8_t lost = 0;
  std::uint64_t map = 0;  ///< the live map from here on, with all that the maps of before had
};
struct Clean {  ///< 12: closed; the change maps were written before (types 16 and 17)
  std::int64_t modified = 0;
};
struct FrozenChunks {  ///< 13: changed chunks of a pending snapshot, one page
  std::uint64_t id = 0;
  std::uint32_t page = 0;
  ChunkBits bits{};
};
struct MapKept {  ///< 14: all of them are above
  std::uint64_t id = 0;
};
struct Inherited {  ///< 15: where a pending snapshot finds a chunk that its dropped predecessor froze
  std::uint64_t id = 0;
  std::uint64_t chunk = 0;
  Place place;
};
struct MapPage {  ///< 16: a page of a change map, at a clean close
  std::uint64_t map = 0;
  std::uint32_t page = 0;
  std::vector<std::byte> bits;  ///< kMapPageBytes
};
struct MapWhole {  ///< 17: the map is complete; `all`: it counts everything as changed
  std::uint64_t map = 0;
  std::uint8_t all = 0;
};
struct Modified {  ///< 18: the time of the last write was set
  std::int64_t time = 0;
};
struct SegmentsCleared {  ///< 19: no live chunk is Base; L is empty
  std::uint8_t zero = 0;
};
struct ParentReplaced {  ///< 20: P is `root`; what differs was marked as changed before
  OpaqueRoot root;
};
struct Partial {  ///< 21: these blocks of the chunk are in the slot; what is in none of such records is still at its Home
  std::uint64_t chunk = 0;
  Slot slot = 0;
  std::uint8_t moves = 0;  ///< 1: the live chunk leaves its place for the slot; 0: it is there, and these are more blocks
  BlockMask blocks = 0;
};
// Compaction writes the state as it is:
struct State {  ///< 32: first in a compacted journal
  std::uint8_t exists = 0;
  std::uint64_t incarnation = 0;
  std::uint64_t size = 0;
  OpaqueRoot parent_root;
  std::uint64_t parent_incarnation = 0;
  std::uint64_t high_water = 0;
  std::uint8_t all_changed = 0;
  std::uint64_t next_map = 0;  ///< map numbers below it may be in use
  std::int64_t modified = 0;
  std::vector<std::uint64_t> maps;
};
struct PlacePage {  ///< 33: places of a page, of the live image (id 0), or those a pending snapshot saved (`present`)
  std::uint64_t id = 0;
  std::uint32_t page = 0;
  KindBits kinds{};
  ChunkBits present{};
  std::vector<PageSlot> slots;
};
struct Segment {  ///< 34: of L, of the live image (id 0) or of a pending snapshot
  std::uint64_t id = 0;
  std::uint64_t first = 0;
  std::uint64_t count = 0;
  OpaqueRoot root;
  std::uint64_t source = 0;
};
struct PartialSlot {  ///< 36: a slot that has these blocks of the chunk only
  std::uint64_t chunk = 0;
  Slot slot = 0;
  BlockMask blocks = 0;
};
struct Pending {  ///< 35: oldest first, before what belongs to it
  std::uint64_t id = 0;
  std::uint64_t parent = 0;
  std::int64_t time = 0;
  std::int64_t image_modified = 0;
  std::uint64_t size = 0;
  std::uint64_t incarnation = 0;
  std::uint8_t all_changed = 0;
  std::vector<std::uint64_t> maps;
  std::string name;
  std::string attributes;
};

}  // namespace record

using Record = std::variant<record::Size, record::Image, record::Places, record::Splice, record::Replace,
                            record::Freeze, record::PendingUpdated, record::PendingDropped, record::Committed,
                            record::Seal, record::Opened, record::Clean, record::FrozenChunks, record::MapKept,
                            record::Inherited, record::MapPage, record::MapWhole, record::Modified,
                            record::SegmentsCleared, record::ParentReplaced, record::Partial, record::State,
                            record::PlacePage, record::Segment, record::Pending, record::PartialSlot>;

constexpr std::size_t kJournalHeaderSize = 64;
constexpr std::size_t kRecordHeaderSize = 16;
/// Names and attributes are the only long things in a record.
constexpr std::size_t kMaxRecordSize = 32 * kMiB;
constexpr std::size_t kSealSize = kRecordHeaderSize + 32;

struct JournalHeader {
  std::uint32_t chunk_size = 0;
  std::uint64_t disk = 0;
  std::uint64_t nonce = 0;
};
[[nodiscard]] std::vector<std::byte> encode(const JournalHeader& header);
[[nodiscard]] Result<JournalHeader> decode_header(std::span<const std::byte> bytes);

/// The record's bytes, header included, and the chain after it.
struct EncodedRecord {
  std::vector<std::byte> bytes;
  std::uint64_t chain = 0;
};
[[nodiscard]] EncodedRecord encode(const Record& record, std::uint64_t previous_chain);

/// Length of the record whose first kRecordHeaderSize bytes these are; nothing for an impossible one.
[[nodiscard]] std::optional<std::size_t> record_length(std::span<const std::byte> header);
/// The record, when it is whole and its chain continues `previous_chain`; nothing for anything else.
struct DecodedRecord {
  Record record;
  std::uint64_t chain = 0;
};
[[nodiscard]] std::optional<DecodedRecord> decode(std::span<const std::byte> bytes, std::uint64_t previous_chain);

[[nodiscard]] std::uint64_t seal_check(std::uint64_t nonce, const record::Seal& seal);
/// The seal at `offset` of a journal with this nonce, if these bytes are one, whatever lies before it.
[[nodiscard]] std::optional<record::Seal> decode_lone_seal(std::span<const std::byte> bytes, std::uint64_t nonce,
                                                           std::uint64_t offset);

}  // namespace varve::disk
