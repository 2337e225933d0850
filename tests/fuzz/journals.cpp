#include <xxhash.h>

#include <algorithm>

#include "../../src/disk/change_map.h"
#include "../../src/disk/disk_state.h"
#include "../../src/disk/format.h"
#include "../../src/disk/journal.h"
#include "fuzz.h"
#include "support/memory_storage.h"
#include "support/memory_volatile_storage.h"
#include "varve/core/bytes.h"

namespace varve::fuzz {
namespace {

using namespace disk;
using Bytes = std::vector<std::byte>;

constexpr DiskId kDisk{7};
constexpr Geometry kGeometry{ByteCount{kMinChunkSize}};

/// A record of some type with this payload, whatever it is, with lengths and chain that fit.
Bytes framed(std::uint16_t type, std::span<const std::byte> payload, std::uint64_t& chain) {
  Bytes bytes;
  ByteWriter out(bytes);
  const std::size_t padding = (8 - payload.size() % 8) % 8;
  out.put(static_cast<std::uint32_t>(kRecordHeaderSize + payload.size() + padding));
  out.put(type);
  out.put(static_cast<std::uint16_t>(padding));
  Bytes covered = bytes;
  covered.insert(covered.end(), payload.begin(), payload.end());
  covered.resize(covered.size() + padding);
  chain = XXH3_64bits_withSeed(covered.data(), covered.size(), chain);
  out.put(chain);
  bytes.insert(bytes.end(), covered.begin() + 8, covered.end());
  return bytes;
}

/// Asks the state what everybody asks it.
void look_at(const DiskState& state) {
  (void)state.used_slots();
  const auto encoded = state.encode();
  DiskState again(kGeometry);
  Released released;
  for (const Record& record : encoded) {
    require(again.apply(record, released).has_value(), "what a state is written as can be read");
  }
  const std::uint64_t chunks = state.chunks().value();
  for (const std::uint64_t chunk : {std::uint64_t{0}, chunks / 2, chunks}) {
    (void)state.places().get(ChunkIndex{chunk});
    (void)state.segments().find(ChunkIndex{chunk});
    for (std::size_t i = 0; i < state.pending().size(); ++i) {
      require(state.place_of(i, ChunkIndex{chunk}) == again.place_of(i, ChunkIndex{chunk}), "and is the same");
    }
  }
}

std::vector<Record> some_records() {
  record::Freeze freeze;
  freeze.id = 1;
  freeze.next_map = 3;
  freeze.name = "a";
  freeze.attributes = "{}";
  record::FrozenChunks frozen;
  frozen.id = 1;
  frozen.bits[0] = std::byte{5};
  OpaqueRoot root;
  root.bytes[0] = std::byte{9};
  record::MapPage page{3, 0, std::vector<std::byte>(kMapPageBytes, std::byte{1})};
  return {record::State{},
          record::Opened{0, 1},
          record::Image{1, 1},
          record::Size{20 * kMinChunkSize},
          record::Places{0, 4, {PlaceKind::home, 0}},
          record::Splice{5, 6, root, 2, 20 * kMinChunkSize},
          freeze,
          record::Places{1, 1, {PlaceKind::detour, 0}},
          record::Partial{2, 1, 1, 2},
          record::Partial{2, 1, 0, 1},
          frozen,
          record::MapKept{1},
          record::PendingUpdated{1, "b", "{}"},
          record::Inherited{1, 2, {PlaceKind::home, 0}},
          record::Committed{1, root},
          record::ParentReplaced{OpaqueRoot{}},
          record::Replace{2, 9 * kMinChunkSize, root},
          record::Modified{5},
          page,
          record::MapWhole{3, 0},
          record::SegmentsCleared{1},
          record::Clean{6}};
}

}  // namespace

/// A whole file, as it is.
void fuzz_journal(Input input) {
  test::MemoryStorage storage({.power_loss = false});
  const auto file = storage.open("journal", {.write = true, .create = true}).value();
  if (!input.empty()) require(file->write(ByteOffset{0}, input).has_value(), "a file");
  const auto scan = Journal::scan(*file, kDisk, kGeometry, {{1, 64, 2}, {3, 100, 4}});
  if (!scan) return;
  require(scan->end <= input.size() && scan->covered <= scan->end, "a scan stays within the file");
  for (const std::uint64_t end : {scan->covered, scan->end}) {
    DiskState state(kGeometry);
    Released released;
    const Status applied = Journal::replay(*file, scan->header.nonce, end,
                                           [&](const Record& record) { return state.apply(record, released); });
    if (applied) look_at(state);
  }
}

Seeds journal_seeds() {
  test::MemoryStorage storage({.power_loss = false});
  require(storage.make_directory("live").has_value(), "a directory");
  Seeds seeds;
  for (const bool all : {false, true}) {
    const auto journal =
        Journal::create(storage, "live", kDisk, kGeometry, all ? some_records() : std::vector<Record>{record::State{}});
    if (!journal) continue;
    auto bytes = os::read_file(storage, "live/journal", ByteCount{kMiB}).value();
    const auto last = std::find_if(bytes.rbegin(), bytes.rend(), [](std::byte b) { return b != std::byte{0}; });
    bytes.erase(last.base(), bytes.end());
    seeds.push_back(std::move(bytes));
  }
  return seeds;
}

/// Records one behind the other: type u8, length u16, payload. The chain is put on, so that each gets to where it is
/// interpreted.
void fuzz_journal_records(Input input) {
  ByteReader in(input);
  DiskState state(kGeometry);
  std::uint64_t chain = 1;
  std::size_t budget = 64;
  while (in.remaining() >= 3 && budget-- > 0) {
    const auto type = in.get<std::uint8_t>();
    const auto payload = in.get_bytes(std::min<std::size_t>(in.get<std::uint16_t>(), in.remaining()));
    const std::uint64_t before = chain;
    const Bytes bytes = framed(type, payload, chain);
    require(record_length(std::span(bytes).first(kRecordHeaderSize)) == bytes.size(), "a record has its length");
    const auto decoded = decode(bytes, before);
    if (!decoded) {
      chain = before;
      continue;
    }
    require(encode(decoded->record, before).bytes == bytes, "equal records have equal bytes");
    Released released;
    // Half applied is as good as gone: nobody goes on with it.
    if (!state.apply(decoded->record, released)) return;
  }
  look_at(state);
}

Seeds journal_records_seeds() {
  Seeds seeds;
  Bytes all;
  for (const Record& record : some_records()) {
    const Bytes bytes = encode(record, 1).bytes;
    ByteReader header(bytes);
    (void)header.get<std::uint32_t>();
    const auto type = header.get<std::uint16_t>();
    const auto padding = header.get<std::uint16_t>();
    Bytes seed;
    ByteWriter out(seed);
    out.put(static_cast<std::uint8_t>(type));
    out.put(static_cast<std::uint16_t>(bytes.size() - kRecordHeaderSize - padding));
    out.put_bytes(std::span(bytes).subspan(kRecordHeaderSize, bytes.size() - kRecordHeaderSize - padding));
    all.insert(all.end(), seed.begin(), seed.end());
    seeds.push_back(all);
  }
  return seeds;
}

/// What a killed daemon left in volatile memory: a witness and a change map; and the small decoders.
void fuzz_volatile(Input input) {
  test::MemoryVolatileStorage storage;
  const std::string name = map_name(kDisk, 1);
  {
    const auto memory = storage.open(name, ByteCount{input.size()});
    if (!memory || !(*memory)->reserve(ByteOffset{0}, ByteCount{input.size()})) return;
    std::ranges::copy(input, (*memory)->bytes().begin());
  }
  if (const auto map = ChangeMap::adopt(storage, name, 1)) {
    const std::uint64_t blocks = (*map)->page_count() * ChangeMap::kPageBlocks;
    (void)(*map)->next(0, blocks, true);
    (void)(*map)->any(0, blocks);
    for (std::uint64_t page = 0; page < (*map)->page_count(); ++page) (void)(*map)->page(page);
    if (blocks > 0) (*map)->mark(0, 1);
  }
  if (auto memory = storage.open("witness", ByteCount{Witness::kSize})) {
    if ((*memory)->reserve(ByteOffset{0}, ByteCount{Witness::kSize})) {
      std::copy_n(input.begin(), std::min(input.size(), Witness::kSize), (*memory)->bytes().begin());
      Witness witness(std::move(*memory), os::Identity{"boot", 1, 2, 3}, kDisk);
      (void)witness.marks();
    }
  }
  (void)map_number(kDisk, {reinterpret_cast<const char*>(input.data()), input.size()});
  (void)decode_header(input);
  if (input.size() >= kRecordHeaderSize) (void)record_length(input.first(kRecordHeaderSize));
  (void)decode_lone_seal(input, 1, 64);
}

Seeds volatile_seeds() {
  test::MemoryVolatileStorage storage;
  Seeds seeds;
  if (const auto map = ChangeMap::create(storage, map_name(kDisk, 1), 1, 100)) {
    (*map)->mark(3, 5);
    const auto memory = storage.open_existing(map_name(kDisk, 1)).value();
    const auto reserved = memory->reserved().value();
    for (const os::Extent& extent : reserved) {
      if (extent.begin != ByteOffset{0}) continue;
      const auto bytes = memory->bytes().subspan(0, extent.length.value());
      seeds.emplace_back(bytes.begin(), bytes.end());
    }
  }
  seeds.push_back(encode(JournalHeader{kMinChunkSize, 7, 1}));
  record::Seal seal{64, 64, 64, 0};
  seal.check = seal_check(1, seal);
  seeds.push_back(encode(Record{seal}, 1).bytes);
  return seeds;
}

}  // namespace varve::fuzz
