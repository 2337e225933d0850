#include "pack_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>

namespace varve::chunks {
namespace {

constexpr std::string_view kPacks = format::kPacksFolder;
/// Read at once from a pack's end: covers trailer and table of most packs (1,636 records).
constexpr std::size_t kTailRead = kLargeTable;

std::string describe(PackId pack) {
  return fmt::format("pack {:016x}", pack.value());
}

std::size_t cost_of(const PackTable& table) {
  return table.memory_bytes();
}

tl::unexpected<Error> as_pack_error(const Error& error, std::string_view name) {
  if (error.code == ENOENT) return fail_damaged(fmt::format("{} is missing", name));
  return tl::unexpected(error);
}

Status same_record(const format::Entry& entry, const Ref& ref, RecordKind content) {
  if (!entry.kind) return fail_damaged("the record is gone");
  if (content_of(*entry.kind) != content || entry.digest != ref.digest) {
    return fail_damaged("the pack has another record there");
  }
  return {};
}

/// Damage may be a pack that was rewritten under our feet; what the system refuses is not.
bool worth_another_try(const Error& error) {
  return error.kind == ErrorKind::damaged;
}

}  // namespace

Result<std::vector<PackId>> PackReader::list() {
  std::vector<PackId> packs;
  VARVE_TRY_ASSIGN(const auto folders, objects_.list_folders(kPacks));
  for (const std::string& folder : folders) {
    VARVE_TRY_ASSIGN(const auto names, objects_.list(fmt::format("{}/{}", kPacks, folder)));
    for (const std::string& text : names) {
      const auto name = format::parse_pack_name(folder, text);
      if (!name) continue;
      packs.push_back(name->pack);
      note_generation(name->pack, name->generation);
    }
  }
  std::ranges::sort(packs);
  packs.erase(std::unique(packs.begin(), packs.end()), packs.end());
  return packs;
}

Result<std::vector<std::uint32_t>> PackReader::generations(PackId pack) {
  std::vector<std::uint32_t> found;
  const std::string folder = format::pack_folder(pack);
  VARVE_TRY_ASSIGN(const auto names, objects_.list(folder));
  for (const std::string& text : names) {
    const auto name = format::parse_pack_name(folder.substr(kPacks.size() + 1), text);
    if (name && name->pack == pack) found.push_back(name->generation);
  }
  std::ranges::sort(found);
  return found;
}

Result<PackTablePointer> PackReader::table(PackId pack) {
  return tables_.get(
      pack, [&] { return load_table(pack); }, cost_of);
}

Result<PackTablePointer> PackReader::load_table(PackId pack) {
  if (pack == PackId{0} || (pack.value() & format::kReservedIdBits) != 0) {
    return fail_damaged(describe(pack) + ": not an id that this version knows");
  }
  auto table = read_table({pack, known_generation(pack)});
  if (!table && worth_another_try(table.error()) && look_up_generation(pack)) {
    table = read_table({pack, known_generation(pack)});
  }
  if (table && (*table)->trailer->table_length > kLargeTable) {
    const auto large = std::make_shared<const LargeTable>(LargeTable{(*table)->generation, *(*table)->trailer});
    (void)large_tables_.get(
        pack, [&]() -> Result<std::shared_ptr<const LargeTable>> { return large; },
        [](const LargeTable&) { return std::size_t{1}; });
  }
  return table;
}

Result<PackTablePointer> PackReader::read_table_now(PackId pack) {
  (void)look_up_generation(pack);
  drop_table(pack);
  VARVE_TRY_ASSIGN(PackTablePointer table, this->table(pack));
  const std::string name = format::pack_name(pack, table->generation);
  std::array<std::byte, format::kHeaderSize> header{};
  VARVE_TRY_ASSIGN(const std::size_t count, read_object(name, 0, header));
  if (auto good = format::check_header(std::span(header).first(count)); !good) {
    return tl::unexpected(good.error().in(name));
  }
  return table;
}

Result<PackTablePointer> PackReader::read_table(format::PackName pack) {
  const std::string name = format::pack_name(pack.pack, pack.generation);
  auto size = objects_.size(name);
  if (!size && size.error().code == ENOENT) return fail_damaged(name + " is missing");
  if (!size) return tl::unexpected(std::move(size).error());
  const std::uint64_t file_size = size->value();
  if (file_size < format::kHeaderSize + format::kTrailerSize) return fail_damaged(name + " is cut");
  if (file_size > kMaxPackSize) return fail_damaged(name + " is larger than a pack can be");

  Bytes end(std::min<std::size_t>(file_size, kTailRead));
  VARVE_TRY_ASSIGN(std::size_t count, read_object(name, file_size - end.size(), end));
  if (count != end.size()) return fail_damaged(name + " is cut");
  const auto trailer = format::get_trailer(std::span(end).last<format::kTrailerSize>(), pack, file_size);
  if (!trailer) return tl::unexpected(trailer.error().in(name));
  const std::size_t wanted = trailer->table_length + format::kTrailerSize;
  if (wanted > end.size()) {
    end.resize(wanted);
    VARVE_TRY_ASSIGN(count, read_object(name, trailer->table_offset, end));
    if (count != end.size()) return fail_damaged(name + " is cut");
  }
  auto read = format::get_table(*trailer, std::span(end).last(wanted));
  if (!read) return tl::unexpected(read.error().in(name));
  return std::make_shared<const PackTable>(pack.generation, trailer->payloads, std::move(*read), *trailer);
}

Result<ByteCount> PackReader::file_size(PackId pack) {
  auto size = objects_.size(format::pack_name(pack, known_generation(pack)));
  if (size || size.error().code != ENOENT || !look_up_generation(pack)) return size;
  return objects_.size(format::pack_name(pack, known_generation(pack)));
}

bool PackReader::has(const Ref& ref, RecordKind content) {
  const auto pack = table(ref.pack);
  if (!pack || ref.ordinal >= (*pack)->entries.size()) return false;
  return same_record((*pack)->entries[ref.ordinal], ref, content).has_value();
}

Result<std::vector<Ref>> PackReader::supports_of(const Ref& ref) {
  if (ref.damaged()) return std::vector<Ref>{};
  const auto pack = table(ref.pack);
  if (!pack) return tl::unexpected(pack.error().in(to_text(ref)));
  return (*pack)->supports_of(ref.ordinal);
}

Result<BytesPointer> PackReader::read_record(const Request& request) {
  const Ref& ref = request.ref;
  if (ref.damaged()) return fail_damaged(to_text(ref));
  auto bytes = try_record(request);
  if (!bytes && worth_another_try(bytes.error())) {
    // Perhaps it was rewritten between table and bytes: once more, with the newest of both. What it stands on, too.
    std::vector<PackId> packs{ref.pack};
    if (const auto supports = supports_of(ref)) {
      for (const Ref& support : *supports) packs.push_back(support.pack);
    }
    for (const PackId pack : packs) {
      drop_table(pack);
      (void)look_up_generation(pack);
    }
    bytes = try_record(request);
  }
  if (!bytes) return tl::unexpected(bytes.error().in(to_text(ref)));
  records_loaded.fetch_add(1, std::memory_order_relaxed);
  return std::make_shared<const Bytes>(std::move(*bytes));
}

Result<PackReader::Place> PackReader::find(const Ref& ref, RecordKind content) {
  VARVE_TRY_ASSIGN(auto places, find_all(std::span(&ref, 1), content, Wanted::payload_and_supports));
  return std::move(places.front());
}

/// By tables that are cached or small; of others their entries only, which are read together.
Result<std::vector<PackReader::Place>> PackReader::find_all(std::span<const Ref> refs, RecordKind content,
                                                            Wanted wanted) {
  std::vector<Place> places(refs.size());
  struct Alone {
    std::size_t number = 0;  ///< in refs
    std::shared_ptr<const LargeTable> table;
    std::array<std::byte, format::kEntrySize> entry{};
  };
  std::vector<Alone> alone;
  alone.reserve(refs.size());
  for (std::size_t i = 0; i < refs.size(); ++i) {
    PackTablePointer table = tables_.peek(refs[i].pack);
    if (table == nullptr) {
      if (auto large = large_tables_.peek(refs[i].pack)) {
        alone.push_back({i, std::move(large)});
        continue;
      }
      auto loaded = this->table(refs[i].pack);
      if (!loaded) return tl::unexpected(loaded.error().in(to_text(refs[i])));
      table = std::move(*loaded);
    }
    auto place = place_in(*table, refs[i], content, wanted);
    if (!place) return tl::unexpected(place.error().in(to_text(refs[i])));
    places[i] = std::move(*place);
  }
  std::vector<objects::PartRead> reads;
  for (Alone& one : alone) {
    const Ref& ref = refs[one.number];
    if (ref.ordinal >= one.table->trailer.count) return fail_damaged(to_text(ref) + ": the pack has no such record");
    reads.push_back({format::pack_name(ref.pack, one.table->generation),
                     ByteOffset{one.table->trailer.table_offset + ref.ordinal * format::kEntrySize}, one.entry});
  }
  objects_.read_together(reads, objects::Access::random);
  for (std::size_t i = 0; i < alone.size(); ++i) {
    if (!reads[i].got) return as_pack_error(reads[i].got.error(), reads[i].name);
    if (*reads[i].got != format::kEntrySize) return fail_damaged(reads[i].name + " is cut");
    const Ref& ref = refs[alone[i].number];
    auto place = place_in(*alone[i].table, ref, content, wanted, alone[i].entry);
    if (!place) return tl::unexpected(place.error().in(to_text(ref)));
    places[alone[i].number] = std::move(*place);
  }
  return places;
}

Result<PackReader::Place> PackReader::place_in(const PackTable& table, const Ref& ref, RecordKind content,
                                               Wanted wanted) {
  if (ref.ordinal >= table.entries.size()) return fail_damaged("the pack has no such record");
  const format::Entry& entry = table.entries[ref.ordinal];
  VARVE_TRY(same_record(entry, ref, content));
  Place place{table.payloads, entry};
  if (wanted == Wanted::payload_and_supports) place.supports = table.supports_of(ref.ordinal);
  return place;
}

Result<PackReader::Place> PackReader::place_in(const LargeTable& large, const Ref& ref, RecordKind content,
                                               Wanted wanted, std::span<const std::byte> bytes) {
  const format::Trailer& trailer = large.trailer;
  const auto placed = format::get_entry(bytes, trailer.payloads_end());
  if (!placed) return fail_damaged("its entry is impossible");
  VARVE_TRY(same_record(placed->entry, ref, content));
  Place place{trailer.payloads, placed->entry};
  const std::size_t count = placed->entry.supports();
  if (count == 0 || wanted == Wanted::payload) return place;
  const std::size_t entries = trailer.count * format::kEntrySize;
  const std::size_t there = (trailer.table_length - entries) / Ref::kEncodedSize;
  if (placed->first_support > there || count > there - placed->first_support) return fail_damaged("its entry is impossible");
  std::array<std::byte, format::kMostSupports * Ref::kEncodedSize> refs{};
  const auto encoded = std::span(refs).first(count * Ref::kEncodedSize);
  VARVE_TRY_ASSIGN(const std::size_t got, read_object(format::pack_name(ref.pack, large.generation),
                                                      trailer.table_offset + entries +
                                                          placed->first_support * Ref::kEncodedSize,
                                                      encoded));
  if (got != encoded.size()) return fail_damaged("the pack is cut");
  for (std::size_t i = 0; i < count; ++i) {
    const MaybeRef support = decode(encoded.subspan(i * Ref::kEncodedSize).first<Ref::kEncodedSize>());
    if (!support || support->damaged()) return fail_damaged("it does not say what it stands on");
    place.supports.push_back(*support);
  }
  return place;
}

Result<bool> PackReader::is_one_of_deltas(const Ref& ref, RecordKind content) {
  VARVE_TRY_ASSIGN(const Place place, find(ref, content));
  return is_delta(*place.entry.kind);
}

void PackReader::drop_table(PackId pack) {
  tables_.drop(pack);
  large_tables_.drop(pack);
}

Status PackReader::read_payloads(std::span<Part> parts, objects::Access access) {
  std::vector<objects::PartRead> reads;
  reads.reserve(parts.size());
  for (Part& part : parts) {
    part.payload.resize(part.place.entry.stored);
    reads.push_back({format::pack_name(part.ref.pack, part.place.payloads), ByteOffset{part.place.entry.offset},
                     part.payload});
  }
  objects_.read_together(reads, access);
  for (const objects::PartRead& read : reads) {
    if (!read.got) return as_pack_error(read.got.error(), read.name);
    bytes_loaded.fetch_add(*read.got, std::memory_order_relaxed);
    if (*read.got != read.out.size()) return fail_damaged(read.name + " is cut");
  }
  return {};
}

Result<Bytes> PackReader::try_record(const Request& request) {
  if (request.parent != nullptr) {
    *request.parent = DeltaParent{.ref = request.ref, .bytes = {}, .base_bytes = {}, .supports = {}, .sources = {}};
  }
  VARVE_TRY_ASSIGN(Place place, find(request.ref, request.content));
  if (request.plain_bytes != 0 && place.entry.plain != request.plain_bytes) {
    return fail_damaged("the record has the wrong length");
  }
  if (is_delta(*place.entry.kind)) {
    if (!request.at_hand) return fail_damaged("a delta stands on a delta");
    return read_delta(request, std::move(place));
  }
  Part part{request.ref, std::move(place)};
  VARVE_TRY(read_payloads(std::span(&part, 1), request.access));
  return decode_no_delta(std::move(part));
}

/// Verified.
Result<Bytes> PackReader::decode_no_delta(Part part) const {
  const format::Entry& entry = part.place.entry;
  Bytes plain;
  if (entry.codec == Codec::raw) {
    plain = std::move(part.payload);
  } else {
    plain.resize(entry.plain);
    VARVE_TRY(decode_payload(entry.codec, part.payload, plain));
  }
  if (digest_(plain) != part.ref.digest) return fail_damaged("the record does not match its digest");
  return plain;
}

/// With all that it stands on, read at once. Verified.
Result<Bytes> PackReader::read_delta(const Request& request, Place place) {
  if (place.supports.empty()) return fail_damaged("it does not say what it stands on");
  const Ref base_ref = place.supports.front();
  // The delta, its lenders, and last its base unless that is at hand.
  const BytesPointer at_hand = request.at_hand(base_ref);
  std::vector<Ref> others(place.supports.begin() + 1, place.supports.end());
  const std::size_t count = 1 + others.size();
  if (at_hand == nullptr) others.push_back(base_ref);
  auto places = find_all(others, request.content, Wanted::payload);
  if (!places) return tl::unexpected(places.error().in("what it stands on"));
  std::vector<Part> parts;
  parts.reserve(1 + others.size());
  parts.push_back({request.ref, std::move(place)});
  const format::Entry& entry = parts.front().place.entry;
  for (std::size_t i = 0; i < others.size(); ++i) {
    const bool lender = i + 1 < count;
    if (lender && (*places)[i].entry.plain != entry.plain) {
      return fail_damaged("it takes blocks from a chunk of another length");
    }
    if (!lender && is_delta(*(*places)[i].entry.kind)) return fail_damaged("a delta stands on a delta");
    parts.push_back({others[i], std::move((*places)[i])});
  }
  VARVE_TRY(read_payloads(parts, request.access));
  Bytes read;
  if (at_hand == nullptr) {
    auto decoded = decode_no_delta(std::move(parts.back()));
    if (!decoded) return tl::unexpected(decoded.error().in(to_text(base_ref)).in("what it changes"));
    read = std::move(*decoded);
    records_loaded.fetch_add(1, std::memory_order_relaxed);
  }
  Bytes plain;
  if (request.content == RecordKind::node) {
    plain.resize(entry.plain);
    VARVE_TRY(apply_node_delta(entry.codec, parts.front().payload, at_hand != nullptr ? *at_hand : read, plain));
  } else {
    plain = at_hand != nullptr ? Bytes(*at_hand) : std::move(read);
    if (request.parent != nullptr) {
      request.parent->base_bytes = at_hand != nullptr ? at_hand : std::make_shared<const Bytes>(plain);
    }
    VARVE_TRY(change_chunk(parts.front(), std::span(parts).first(count).subspan(1), plain, request.parent));
  }
  if (digest_(plain) != request.ref.digest) return fail_damaged("the record does not match its digest");
  return plain;
}

/// Makes of its base's bytes the delta's: not verified.
Status PackReader::change_chunk(const Part& delta, std::span<const Part> lenders, Bytes& chunk, DeltaParent* parent) {
  const format::Entry& entry = delta.place.entry;
  VARVE_TRY_ASSIGN(const ChunkDelta parsed, ChunkDelta::parse(delta.payload, entry.plain, lenders.size()));
  if (chunk.size() != entry.plain) return fail_damaged("its base has the wrong length");
  VARVE_TRY(parsed.copy_own_blocks(entry.codec, parsed.own, chunk));
  for (std::size_t i = 0; i < lenders.size(); ++i) {
    if (const Status lent = lend(lenders[i], parsed.lent[i], chunk); !lent) {
      return tl::unexpected(lent.error().in(to_text(lenders[i].ref)).in("what it takes blocks from"));
    }
  }
  if (parent == nullptr) return {};
  parent->supports = delta.place.supports;
  parent->sources.assign(chunk.size() / kBlockSize, DeltaParent::kBaseBlock);
  for (std::size_t block = 0; block < parent->sources.size(); ++block) {
    if (parsed.own.test(block)) parent->sources[block] = DeltaParent::kOwnBlock;
    for (std::size_t i = 0; i < parsed.lent.size(); ++i) {
      if (parsed.lent[i].test(block)) parent->sources[block] = static_cast<std::uint8_t>(DeltaParent::kOwnBlock + 1 + i);
    }
  }
  return {};
}

/// Of a delta its own blocks only.
Status PackReader::lend(const Part& lender, BlockBits wanted, std::span<std::byte> chunk) {
  const format::Entry& entry = lender.place.entry;
  if (*entry.kind == RecordKind::delta) {
    VARVE_TRY_ASSIGN(const ChunkDelta delta, ChunkDelta::parse(lender.payload, chunk.size(), entry.lenders));
    return delta.copy_own_blocks(entry.codec, wanted, chunk);
  }
  Bytes plain(chunk.size());
  VARVE_TRY(decode_payload(entry.codec, lender.payload, plain));
  for (std::size_t at = 0; at < chunk.size(); at += kBlockSize) {
    if (wanted.test(at / kBlockSize)) std::memcpy(chunk.data() + at, plain.data() + at, kBlockSize);
  }
  return {};
}

Status PackReader::lend(const Ref& lender, BlockBits wanted, std::span<std::byte> chunk) {
  VARVE_TRY_ASSIGN(Place place, find(lender, RecordKind::full));
  if (place.entry.plain != chunk.size()) return fail_damaged("the record has the wrong length");
  Part part{lender, std::move(place)};
  VARVE_TRY(read_payloads(std::span(&part, 1), objects::Access::random));
  return lend(part, wanted, chunk);
}

Result<std::size_t> PackReader::read_object(std::string_view name, std::uint64_t at, std::span<std::byte> out) {
  auto count = objects_.read(name, ByteOffset{at}, out);
  if (!count) return as_pack_error(count.error(), name);
  return count;
}

void PackReader::remember(PackId pack, PackTablePointer table) {
  (void)tables_.get(
      pack, [&]() -> Result<PackTablePointer> { return table; }, cost_of);
}

Status PackReader::remove(PackId pack) {
  VARVE_TRY_ASSIGN(const auto existing, generations(pack));
  for (const std::uint32_t generation : existing) {
    VARVE_TRY(objects_.remove(format::pack_name(pack, generation)));
  }
  // After the bytes: a table that is loaded meanwhile is dropped here, one that is asked for later is not found.
  forget(pack);
  return {};
}

Status PackReader::remove_older(PackId pack) {
  VARVE_TRY_ASSIGN(const auto existing, generations(pack));
  VARVE_TRY_ASSIGN(const PackTablePointer newest, read_table_now(pack));
  if (existing.empty() || newest->generation != existing.back()) return fail_damaged(describe(pack) + " has changed");
  Status first;
  for (const std::uint32_t old : std::span(existing).first(existing.size() - 1)) {
    if (old == newest->payloads) continue;
    Status removed = objects_.remove(format::pack_name(pack, old));
    if (first && !removed) first = std::move(removed);
  }
  return first;
}

void PackReader::renew(PackId pack, std::uint32_t generation) {
  note_generation(pack, generation);
  drop_table(pack);
}

void PackReader::forget(PackId pack) {
  drop_table(pack);
  MutexLock lock(mutex_);
  generations_.erase(pack);
}

Status PackReader::remove_superseded() {
  Status first;
  VARVE_TRY_ASSIGN(const auto packs, list());
  for (const PackId pack : packs) {
    // Packs that were never rewritten, nearly all, cost nothing.
    if (known_generation(pack) == 0) continue;
    const auto existing = generations(pack);
    if (!existing || existing->size() < 2) continue;
    if (!read_table_now(pack)) continue;
    Status removed = remove_older(pack);
    if (first && !removed) first = std::move(removed);
  }
  return first;
}

std::uint32_t PackReader::known_generation(PackId pack) {
  MutexLock lock(mutex_);
  const auto it = generations_.find(pack);
  return it == generations_.end() ? 0 : it->second;
}

void PackReader::note_generation(PackId pack, std::uint32_t generation) {
  if (generation == 0) return;
  MutexLock lock(mutex_);
  auto& known = generations_[pack];
  known = std::max(known, generation);
}

/// Takes note of the highest generation; false when there is none. Any that exists is right: see format.h.
bool PackReader::look_up_generation(PackId pack) {
  const auto existing = generations(pack);
  if (!existing || existing->empty()) return false;
  note_generation(pack, existing->back());
  return true;
}

}  // namespace varve::chunks
