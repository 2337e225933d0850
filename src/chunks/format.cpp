#include "format.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <charconv>

#include "varve/chunks/chunk_store.h"
#include "varve/core/same_bytes.h"

namespace varve::chunks::format {
namespace {

constexpr std::string_view kSuffix = ".pack";
constexpr std::size_t kIdDigits = 16;
constexpr std::size_t kCheckedTrailerBytes = 40;  ///< covered by the trailer's digest

std::span<const std::byte> as_bytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

bool lower_hex(std::string_view text) {
  return std::ranges::all_of(text, [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

void put_zeros(ByteWriter& out, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) out.put(std::uint8_t{0});
}

void put_entry(ByteWriter& out, const Entry& entry, std::uint32_t first_support) {
  put_digest(out, entry.digest);
  out.put(std::uint64_t{entry.offset});
  out.put(entry.stored);
  out.put(entry.plain);
  out.put(entry.kind ? static_cast<std::uint8_t>(*entry.kind) : std::uint8_t{0});
  out.put(static_cast<std::uint8_t>(entry.codec));
  out.put(entry.lenders);
  put_zeros(out, 1);
  out.put(entry.supports() > 0 ? first_support : std::uint32_t{0});
}

std::size_t most_supports(std::size_t entries) {
  return std::min(entries * kMostSupports, kMostSupportsOfAll);
}

/// Whether the payload lies before the table and its lengths are possible for its kind.
bool plausible(const Entry& entry, std::uint64_t offset, std::uint64_t table_offset) {
  if (offset < kHeaderSize || offset > table_offset || entry.stored > table_offset - offset) return false;
  if (entry.stored == 0 || entry.plain > kMaxChunkSize) return false;
  const bool node = content_of(*entry.kind) == RecordKind::node;
  if (node && (entry.plain < kNodeHeaderSize || entry.plain > kMaxNodeSize)) return false;
  if (is_delta(*entry.kind)) return entry.stored < entry.plain;
  return entry.codec == Codec::raw ? entry.stored == entry.plain : entry.stored <= entry.plain;
}

}  // namespace

std::optional<PlacedEntry> get_entry(std::span<const std::byte> bytes, std::uint64_t payloads_end) {
  ByteReader in(bytes);
  PlacedEntry placed;
  Entry& entry = placed.entry;
  entry.digest = get_digest(in);
  const auto offset = in.get<std::uint64_t>();
  entry.stored = in.get<std::uint32_t>();
  entry.plain = in.get<std::uint32_t>();
  const auto kind = in.get<std::uint8_t>();
  const auto codec = in.get<std::uint8_t>();
  if (kind == 0) return all_zero(bytes) ? std::optional(placed) : std::nullopt;
  if (kind > static_cast<std::uint8_t>(RecordKind::node_delta) || codec > static_cast<std::uint8_t>(Codec::zstd)) return {};
  entry.kind = static_cast<RecordKind>(kind);
  entry.codec = static_cast<Codec>(codec);
  entry.lenders = in.get<std::uint8_t>();
  if (entry.lenders > (entry.kind == RecordKind::delta ? kMostLenders : 0)) return {};
  if (in.get<std::uint8_t>() != 0 || !plausible(entry, offset, payloads_end)) return {};
  placed.first_support = in.get<std::uint32_t>();
  if (entry.supports() == 0 && placed.first_support != 0) return {};
  entry.offset = static_cast<std::uint32_t>(offset);
  return placed;
}

bool possible(const Entry& entry, std::uint64_t table_offset) {
  return plausible(entry, entry.offset, table_offset);
}

std::string pack_folder(PackId pack) {
  return fmt::format("packs/{:02x}", pack.value() >> 56);
}

std::string pack_name(PackId pack, std::uint32_t generation) {
  return fmt::format("packs/{:02x}/{:016x}.{}{}", pack.value() >> 56, pack.value(), generation, kSuffix);
}

std::optional<PackName> parse_pack_name(std::string_view folder, std::string_view name) {
  if (folder.size() != 2 || !name.starts_with(folder) || !name.ends_with(kSuffix)) return {};
  name.remove_suffix(kSuffix.size());
  if (name.size() < kIdDigits + 2 || name[kIdDigits] != '.' || !lower_hex(name.substr(0, kIdDigits))) return {};
  std::uint64_t id = 0;
  std::from_chars(name.data(), name.data() + kIdDigits, id, 16);
  const auto digits = name.substr(kIdDigits + 1);
  std::uint32_t generation = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), generation, 10);
  const bool canonical =
      error == std::errc{} && end == digits.data() + digits.size() && (digits.size() == 1 || digits.front() != '0');
  if (!canonical || id == 0 || (id & kReservedIdBits) != 0) return {};
  return PackName{PackId{id}, generation};
}

void put_header(std::vector<std::byte>& pack) {
  ByteWriter out(pack);
  out.put_text(kHeaderMagic);
  out.put(kVersion);
  put_zeros(out, 6);
}

void put_table_and_trailer(std::vector<std::byte>& pack, PackId id, std::uint32_t generation, const Table& table) {
  put_table_of_older(pack, id, generation, generation, table);
}

void put_table_of_older(std::vector<std::byte>& pack, PackId id, std::uint32_t generation, std::uint32_t payloads,
                        const Table& table) {
  const std::size_t table_offset = pack.size();
  ByteWriter out(pack);
  std::size_t supports = 0;
  for (const Entry& entry : table.entries) {
    put_entry(out, entry, static_cast<std::uint32_t>(supports));
    supports += entry.supports();
  }
  for (const Support& support : table.supports) {
    std::array<std::byte, Ref::kEncodedSize> encoded;
    encode(support.ref, encoded);
    out.put_bytes(encoded);
  }
  const std::size_t table_length = pack.size() - table_offset;
  out.put(std::uint64_t{table_offset});
  out.put(std::uint64_t{pack.size() - sizeof(std::uint64_t) + kTrailerSize});
  out.put(id.value());
  out.put(static_cast<std::uint32_t>(table.entries.size()));
  out.put(generation);
  out.put(kVersion);
  out.put(static_cast<std::uint16_t>(generation - payloads));
  out.put(static_cast<std::uint32_t>(table_length));
  put_digest(out, digest_of(std::span(pack).subspan(table_offset)));
  out.put_text(kTrailerMagic);
}

Status check_header(std::span<const std::byte> header) {
  ByteReader in(header);
  const bool magic = std::ranges::equal(in.get_bytes(kHeaderMagic.size()), as_bytes(kHeaderMagic));
  const auto version = in.get<std::uint16_t>();
  if (!magic) return fail_damaged("it does not begin like a pack");
  if (version != kVersion) return fail_damaged(fmt::format("pack version {} is not known here", version));
  if (!all_zero(in.get_bytes(6)) || !in.finished()) return fail_damaged("its header is damaged");
  return {};
}

std::uint64_t Trailer::payloads_end() const {
  return payloads == generation ? table_offset : kMaxPackSize;
}

Result<Trailer> get_trailer(std::span<const std::byte, kTrailerSize> bytes, PackName name, std::uint64_t file_size) {
  ByteReader in(bytes);
  Trailer trailer;
  trailer.table_offset = in.get<std::uint64_t>();
  const auto section_length = in.get<std::uint64_t>();
  trailer.pack = PackId{in.get<std::uint64_t>()};
  trailer.count = in.get<std::uint32_t>();
  trailer.generation = in.get<std::uint32_t>();
  const auto version = in.get<std::uint16_t>();
  const auto behind = in.get<std::uint16_t>();
  trailer.table_length = in.get<std::uint32_t>();
  (void)get_digest(in);
  if (!std::ranges::equal(in.get_bytes(kTrailerMagic.size()), as_bytes(kTrailerMagic))) {
    return fail_damaged("it does not end like a pack");
  }
  if (version != kVersion) return fail_damaged(fmt::format("pack version {} is not known here", version));
  if (trailer.pack != name.pack || trailer.generation != name.generation) {
    return fail_damaged("it is another pack than its name says");
  }
  const bool fits = section_length == file_size && file_size >= kHeaderSize + kTrailerSize && behind <= trailer.generation &&
                    (behind == 0 || trailer.table_offset == kHeaderSize) &&
                    trailer.count <= kMaxRecords && trailer.table_length >= trailer.count * kEntrySize &&
                    trailer.table_length <= trailer.count * kEntrySize + most_supports(trailer.count) * Ref::kEncodedSize &&
                    trailer.table_offset >= kHeaderSize && trailer.table_offset <= file_size &&
                    file_size - trailer.table_offset == trailer.table_length + kTrailerSize;
  if (!fits) return fail_damaged("its trailer is damaged");
  trailer.payloads = trailer.generation - behind;
  return trailer;
}

/// What follows the entries.
Result<std::vector<Support>> get_supports(std::span<const Entry> entries, std::span<const std::byte> bytes) {
  std::vector<Support> supports;
  supports.reserve(bytes.size() / Ref::kEncodedSize);
  ByteReader in(bytes);
  for (std::uint32_t ordinal = 0; ordinal < entries.size(); ++ordinal) {
    for (std::size_t i = 0; i < entries[ordinal].supports(); ++i) {
      const auto encoded = in.get_bytes(Ref::kEncodedSize);
      const MaybeRef ref = in.failed() ? MaybeRef{} : decode(encoded.first<Ref::kEncodedSize>());
      if (!ref || ref->damaged()) {
        return fail_damaged(fmt::format("delta {} of its table does not say what it stands on", ordinal));
      }
      supports.push_back({ordinal, *ref});
    }
  }
  if (!in.finished()) return fail_damaged("its table has more than its deltas stand on");
  return supports;
}

Result<Table> get_table(const Trailer& trailer, std::span<const std::byte> bytes) {
  if (bytes.size() != trailer.table_length + kTrailerSize) return fail_damaged("its table is cut");
  ByteReader end(bytes.subspan(trailer.table_length + kCheckedTrailerBytes));
  if (digest_of(bytes.first(trailer.table_length + kCheckedTrailerBytes)) != get_digest(end)) {
    return fail_damaged("its table does not match its checksum");
  }
  Table table;
  table.entries.reserve(trailer.count);
  std::size_t supports = 0;
  for (std::size_t i = 0; i < trailer.count; ++i) {
    const auto placed = get_entry(bytes.subspan(i * kEntrySize, kEntrySize), trailer.payloads_end());
    const bool fits = placed && (placed->entry.supports() == 0 || placed->first_support == supports);
    if (!fits) return fail_damaged(fmt::format("entry {} of its table is impossible", i));
    supports += placed->entry.supports();
    table.entries.push_back(placed->entry);
  }
  const std::size_t length = trailer.count * kEntrySize;
  VARVE_TRY_ASSIGN(table.supports, get_supports(table.entries, bytes.subspan(length, trailer.table_length - length)));
  return table;
}

namespace {

constexpr std::size_t kKindAt = 32;  ///< in an entry
constexpr std::size_t kLendersAt = 34;

std::size_t supports_of(std::uint8_t kind, std::uint8_t lenders) {
  if (kind == static_cast<std::uint8_t>(RecordKind::node_delta)) return 1;
  return kind == static_cast<std::uint8_t>(RecordKind::delta) ? 1 + std::min<std::size_t>(lenders, kMostLenders) : 0;
}

/// Of the entries that begin at `table`, as they are, on how many records they say that they stand.
class SupportCount {
 public:
  SupportCount(std::span<const std::byte> file, std::size_t table) : file_(file), table_(table) {}
  [[nodiscard]] std::size_t among(std::size_t entries) const {
    std::size_t supports = 0;
    for (std::size_t i = 0; i < entries; ++i) supports += of(i);
    return supports;
  }
  [[nodiscard]] std::size_t of(std::size_t entry) const {
    const auto bytes = file_.subspan(table_ + entry * kEntrySize, kEntrySize);
    return supports_of(std::to_integer<std::uint8_t>(bytes[kKindAt]), std::to_integer<std::uint8_t>(bytes[kLendersAt]));
  }

 private:
  std::span<const std::byte> file_;
  std::size_t table_;
};

struct TableShape {
  std::size_t length = 0;
  std::size_t entries = 0;
  [[nodiscard]] std::size_t supports() const { return (length - entries * kEntrySize) / Ref::kEncodedSize; }
};

bool possible_shape(const TableShape& shape) {
  return shape.entries > 0 && shape.entries <= kMaxRecords && shape.length >= shape.entries * kEntrySize &&
         (shape.length - shape.entries * kEntrySize) % Ref::kEncodedSize == 0 &&
         shape.supports() <= most_supports(shape.entries);
}

/// The number of entries of a table so long, going by what they are themselves; 0 when none fits.
std::size_t entries_by_kinds(const SupportCount& supports, std::size_t length) {
  std::size_t used = 0;
  for (std::size_t i = 0; i < kMaxRecords && used + kEntrySize <= length; ++i) {
    used += kEntrySize + supports.of(i) * Ref::kEncodedSize;
    if (used == length) return i + 1;
  }
  return 0;
}

/// One in which number, length and kinds of the entries agree; else what the kinds say by themselves; else what the
/// trailer says.
std::optional<TableShape> guess_shape(std::span<const std::byte> file) {
  ByteReader in(file.last(kTrailerSize));
  const auto table_offset = in.get<std::uint64_t>();
  (void)in.get_bytes(16);
  const std::size_t stated = in.get<std::uint32_t>();
  (void)in.get_bytes(8);
  const std::size_t stated_length = in.get<std::uint32_t>();
  const std::size_t end = file.size() - kTrailerSize;
  const std::size_t by_offset = table_offset <= end ? end - table_offset : 0;
  std::vector<std::size_t> lengths{stated_length};
  // One field is damaged, most likely: what two of them say is so.
  if (by_offset != stated_length) {
    lengths.insert(lengths.end(), {by_offset, std::min<std::size_t>(stated, kMaxRecords) * kEntrySize});
  }
  std::array<std::optional<TableShape>, 3> best;
  for (const std::size_t length : lengths) {
    if (length == 0 || length > end - kHeaderSize) continue;
    const SupportCount supports(file, end - length);
    const TableShape shape{length, stated};
    const TableShape counted{length, entries_by_kinds(supports, length)};
    const bool agrees = possible_shape(shape) && supports.among(stated) == shape.supports();
    if (!best[0] && agrees) best[0] = shape;
    if (!best[1] && counted.entries > 0) best[1] = counted;
    if (!best[2] && possible_shape(shape)) best[2] = shape;
  }
  for (const auto& shape : best) {
    if (shape) return shape;
  }
  return std::nullopt;
}

}  // namespace

std::size_t RawEntry::supports() const {
  return supports_of(kind, lenders);
}

RawTable get_raw_table(std::span<const std::byte> file) {
  RawTable table;
  if (file.size() < kHeaderSize + kTrailerSize) return table;
  const auto shape = guess_shape(file);
  if (!shape) return table;
  table.length = shape->length;
  ByteReader in(file.subspan(file.size() - kTrailerSize - shape->length, shape->length));
  for (std::size_t i = 0; i < shape->entries; ++i) {
    RawEntry& entry = table.entries.emplace_back();
    entry.digest = get_digest(in);
    entry.offset = in.get<std::uint64_t>();
    entry.stored = in.get<std::uint32_t>();
    entry.plain = in.get<std::uint32_t>();
    entry.kind = in.get<std::uint8_t>();
    entry.codec = in.get<std::uint8_t>();
    entry.lenders = in.get<std::uint8_t>();
    (void)in.get_bytes(5);
  }
  for (std::size_t i = 0; i < shape->supports(); ++i) {
    table.supports.push_back(decode(in.get_bytes(Ref::kEncodedSize).first<Ref::kEncodedSize>()));
  }
  return table;
}

void put_node(std::vector<std::byte>& out, int level, const NodeSlots& slots) {
  std::array<std::uint8_t, kNodeSlots / 8> bitmap{};
  std::size_t count = 0;
  for (std::size_t slot = 0; slot < kNodeSlots; ++slot) {
    if (!slots[slot]) continue;
    bitmap[slot / 8] = static_cast<std::uint8_t>(bitmap[slot / 8] | 1u << slot % 8);
    ++count;
  }
  out.reserve(out.size() + kNodeHeaderSize + count * Ref::kEncodedSize);
  ByteWriter writer(out);
  writer.put(static_cast<std::uint8_t>(level));
  writer.put_bytes(std::as_bytes(std::span(bitmap)));
  for (const MaybeRef& ref : slots) {
    if (!ref) continue;
    std::array<std::byte, Ref::kEncodedSize> encoded;
    encode(*ref, encoded);
    writer.put_bytes(encoded);
  }
}

Result<NodeView> NodeView::parse(std::span<const std::byte> bytes, int level) {
  ByteReader in(bytes);
  NodeView view;
  view.bytes_ = bytes;
  const auto stored_level = in.get<std::uint8_t>();
  std::size_t count = 0;
  for (std::uint64_t& word : view.words_) {
    word = in.get<std::uint64_t>();
    count += static_cast<std::size_t>(std::popcount(word));
  }
  if (in.failed() || stored_level != level || count == 0 || in.remaining() != count * Ref::kEncodedSize) {
    return fail_damaged(fmt::format("it is not a map node of level {}", level));
  }
  return view;
}

MaybeRef NodeView::get(std::size_t slot) const {
  if (!has(slot)) return std::nullopt;
  auto rank = static_cast<std::size_t>(std::popcount(words_[slot / 64] & ((std::uint64_t{1} << slot % 64) - 1)));
  for (std::size_t word = 0; word < slot / 64; ++word) rank += static_cast<std::size_t>(std::popcount(words_[word]));
  const auto at = bytes_.subspan(kNodeHeaderSize + rank * Ref::kEncodedSize).first<Ref::kEncodedSize>();
  const MaybeRef ref = decode(at);
  return ref ? ref : Ref::make_damaged();
}

std::size_t NodeView::next_set(std::size_t from) const {
  for (std::size_t word = from / 64; word < words_.size(); ++word) {
    const std::uint64_t bits = word == from / 64 ? words_[word] & ~std::uint64_t{0} << from % 64 : words_[word];
    if (bits != 0) return word * 64 + static_cast<std::size_t>(std::countr_zero(bits));
  }
  return kNodeSlots;
}

std::size_t NodeView::next_clear(std::size_t from) const {
  for (std::size_t word = from / 64; word < words_.size(); ++word) {
    const std::uint64_t bits = word == from / 64 ? ~words_[word] & ~std::uint64_t{0} << from % 64 : ~words_[word];
    if (bits != 0) return word * 64 + static_cast<std::size_t>(std::countr_zero(bits));
  }
  return kNodeSlots;
}

}  // namespace varve::chunks::format
