#include "format.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "varve/core/bytes.h"
#include "varve/core/xxh3.h"

namespace varve::disk {
namespace {

constexpr char kMagic[] = "VARVEJ01";
constexpr std::size_t kMagicSize = 8;
constexpr std::uint32_t kVersion = 1;
constexpr std::size_t kAlignment = 8;

// --- one description of each record's members serves writing and reading ---

template <class Archive>
void members(Archive& a, record::Size& r) { a(r.bytes); }
template <class Archive>
void members(Archive& a, record::Image& r) { a(r.incarnation, r.exists); }
template <class Archive>
void members(Archive& a, record::Places& r) { a(r.first, r.count, r.place); }
template <class Archive>
void members(Archive& a, record::Splice& r) { a(r.first, r.count, r.root, r.source, r.size); }
template <class Archive>
void members(Archive& a, record::Replace& r) { a(r.incarnation, r.size, r.root); }
template <class Archive>
void members(Archive& a, record::Freeze& r) {
  a(r.id, r.parent, r.time, r.image_modified, r.next_map, r.name, r.attributes);
}
template <class Archive>
void members(Archive& a, record::PendingUpdated& r) { a(r.id, r.name, r.attributes); }
template <class Archive>
void members(Archive& a, record::PendingDropped& r) { a(r.id); }
template <class Archive>
void members(Archive& a, record::Committed& r) { a(r.id, r.root); }
template <class Archive>
void members(Archive& a, record::Seal& r) { a(r.offset, r.covered, r.durable, r.check); }
template <class Archive>
void members(Archive& a, record::Opened& r) { a(r.lost, r.map); }
template <class Archive>
void members(Archive& a, record::Clean& r) { a(r.modified); }
template <class Archive>
void members(Archive& a, record::FrozenChunks& r) { a(r.id, r.page, r.bits); }
template <class Archive>
void members(Archive& a, record::MapKept& r) { a(r.id); }
template <class Archive>
void members(Archive& a, record::Inherited& r) { a(r.id, r.chunk, r.place); }
template <class Archive>
void members(Archive& a, record::MapPage& r) { a(r.map, r.page, r.bits); }
template <class Archive>
void members(Archive& a, record::MapWhole& r) { a(r.map, r.all); }
template <class Archive>
void members(Archive& a, record::Modified& r) { a(r.time); }
template <class Archive>
void members(Archive& a, record::SegmentsCleared& r) { a(r.zero); }
template <class Archive>
void members(Archive& a, record::ParentReplaced& r) { a(r.root); }
template <class Archive>
void members(Archive& a, record::Partial& r) { a(r.chunk, r.slot, r.moves, r.blocks); }
template <class Archive>
void members(Archive& a, record::PartialSlot& r) { a(r.chunk, r.slot, r.blocks); }
template <class Archive>
void members(Archive& a, record::State& r) {
  a(r.exists, r.incarnation, r.size, r.parent_root, r.parent_incarnation, r.high_water, r.all_changed, r.next_map,
    r.modified, r.maps);
}
template <class Archive>
void members(Archive& a, record::PlacePage& r) { a(r.id, r.page, r.kinds, r.present, r.slots); }
template <class Archive>
void members(Archive& a, record::Segment& r) { a(r.id, r.first, r.count, r.root, r.source); }
template <class Archive>
void members(Archive& a, record::Pending& r) {
  a(r.id, r.parent, r.time, r.image_modified, r.size, r.incarnation, r.all_changed, r.maps, r.name, r.attributes);
}

class Writer {
 public:
  explicit Writer(std::vector<std::byte>& out) : out_(out) {}
  template <class... T>
  void operator()(const T&... values) { (put(values), ...); }

 private:
  template <std::unsigned_integral T>
  void put(T value) { out_.put(value); }
  void put(std::int64_t value) { out_.put(static_cast<std::uint64_t>(value)); }
  void put(const OpaqueRoot& root) { out_.put_bytes(root.bytes); }
  void put(const Place& place) {
    out_.put(static_cast<std::uint8_t>(place.kind));
    out_.put(place.slot);
  }
  template <std::size_t N>
  void put(const std::array<std::byte, N>& bytes) { out_.put_bytes(bytes); }
  void put(const PageSlot& slot) {
    out_.put(slot.chunk);
    out_.put(slot.slot);
  }
  void put(const std::string& text) {
    out_.put(static_cast<std::uint32_t>(text.size()));
    out_.put_text(text);
  }
  void put(const std::vector<std::byte>& bytes) {
    out_.put(static_cast<std::uint32_t>(bytes.size()));
    out_.put_bytes(bytes);
  }
  template <class T>
  void put(const std::vector<T>& list) {
    out_.put(static_cast<std::uint32_t>(list.size()));
    for (const T& item : list) put(item);
  }
  ByteWriter out_;
};

/// Reads what Writer wrote; anything impossible makes it fail, and nothing is allocated beyond what is really there.
class Reader {
 public:
  explicit Reader(std::span<const std::byte> in) : in_(in) {}
  template <class... T>
  void operator()(T&... values) { (get(values), ...); }
  [[nodiscard]] bool finished() const { return !impossible_ && in_.finished(); }

 private:
  template <std::unsigned_integral T>
  void get(T& value) { value = in_.get<T>(); }
  void get(std::int64_t& value) { value = static_cast<std::int64_t>(in_.get<std::uint64_t>()); }
  template <std::size_t N>
  void get(std::array<std::byte, N>& bytes) {
    const auto from = in_.get_bytes(N);
    std::copy(from.begin(), from.end(), bytes.begin());
  }
  void get(OpaqueRoot& root) { get(root.bytes); }
  void get(Place& place) {
    const auto kind = in_.get<std::uint8_t>();
    impossible_ |= kind > static_cast<std::uint8_t>(PlaceKind::detour);
    place.kind = static_cast<PlaceKind>(kind & 3);
    place.slot = in_.get<std::uint32_t>();
    impossible_ |= place.kind != PlaceKind::detour && place.slot != 0;
  }
  void get(PageSlot& slot) {
    slot.chunk = in_.get<std::uint16_t>();
    slot.slot = in_.get<std::uint32_t>();
    impossible_ |= slot.chunk >= kPageChunks;
  }
  void get(std::string& text) {
    const auto bytes = counted(1);
    text.assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  void get(std::vector<std::byte>& bytes) {
    const auto from = counted(1);
    bytes.assign(from.begin(), from.end());
  }
  void get(std::vector<std::uint64_t>& list) { get_list(list, 8); }
  void get(std::vector<PageSlot>& list) { get_list(list, 6); }
  template <class T>
  void get_list(std::vector<T>& list, std::size_t item_size) {
    const auto count = in_.get<std::uint32_t>();
    if (count > in_.remaining() / item_size) impossible_ = true;
    if (impossible_) return;
    list.resize(count);
    for (T& item : list) get(item);
  }
  std::span<const std::byte> counted(std::size_t item_size) {
    const auto count = in_.get<std::uint32_t>();
    if (count > in_.remaining() / item_size) {
      impossible_ = true;
      return {};
    }
    return in_.get_bytes(count);
  }
  ByteReader in_;
  bool impossible_ = false;
};

/// Type numbers: the variant's order, with the compaction's records from 32 on.
constexpr std::uint16_t kFirstStateType = 32;
constexpr std::size_t kFirstStateIndex = 21;
static_assert(std::is_same_v<std::variant_alternative_t<kFirstStateIndex, Record>, record::State>);

std::uint16_t type_of(const Record& record) {
  const std::size_t index = record.index();
  return static_cast<std::uint16_t>(index < kFirstStateIndex ? index + 1 : kFirstStateType + index - kFirstStateIndex);
}

std::optional<std::size_t> index_of(std::uint16_t type) {
  if (type >= 1 && type <= kFirstStateIndex) return type - std::size_t{1};
  const std::size_t states = std::variant_size_v<Record> - kFirstStateIndex;
  if (type >= kFirstStateType && type < kFirstStateType + states) return kFirstStateIndex + type - kFirstStateType;
  return std::nullopt;
}

template <std::size_t I = 0>
std::optional<Record> read_alternative(std::size_t index, std::span<const std::byte> payload) {
  if constexpr (I < std::variant_size_v<Record>) {
    if (I != index) return read_alternative<I + 1>(index, payload);
    std::variant_alternative_t<I, Record> value;
    Reader reader(payload);
    members(reader, value);
    if (!reader.finished()) return std::nullopt;
    return Record(std::move(value));
  }
  return std::nullopt;
}

std::uint64_t chain_of(std::span<const std::byte> record, std::uint64_t previous) {
  // Without this a state on the stack whose bytes happen to say "seeded with this already" (such as what the call for
  // the same seed left there) keeps a secret that was overwritten since: xxhash.h at XXH3_INITSTATE.
  XXH3_state_t state;
  XXH3_INITSTATE(&state);
  XXH3_64bits_reset_withSeed(&state, previous);
  XXH3_64bits_update(&state, record.data(), 8);
  XXH3_64bits_update(&state, record.data() + kRecordHeaderSize, record.size() - kRecordHeaderSize);
  return XXH3_64bits_digest(&state);
}

std::uint64_t get_u64(std::span<const std::byte> bytes, std::size_t at) {
  return ByteReader(bytes.subspan(at, 8)).get<std::uint64_t>();
}

void put_u64(std::span<std::byte> bytes, std::size_t at, std::uint64_t value) {
  for (std::size_t i = 0; i < 8; ++i) bytes[at + i] = static_cast<std::byte>(value >> (8 * i));
}

}  // namespace

std::vector<std::byte> encode(const JournalHeader& header) {
  std::vector<std::byte> bytes;
  ByteWriter out(bytes);
  out.put_text(std::string_view(kMagic, kMagicSize));
  out.put(kVersion);
  out.put(header.chunk_size);
  out.put(header.disk);
  out.put(header.nonce);
  bytes.resize(kJournalHeaderSize - 8);
  out.put(static_cast<std::uint64_t>(XXH3_64bits(bytes.data(), bytes.size())));
  return bytes;
}

Result<JournalHeader> decode_header(std::span<const std::byte> bytes) {
  if (bytes.size() < kJournalHeaderSize) return fail_damaged("the journal's header is cut short");
  if (std::memcmp(bytes.data(), kMagic, kMagicSize) != 0) return fail_damaged("this is not a journal of varve");
  // Every version has its checksum there: a version that is not known is one only when it was written so.
  const std::size_t checked = kJournalHeaderSize - 8;
  if (get_u64(bytes, checked) != XXH3_64bits(bytes.data(), checked)) {
    return fail_damaged("the journal's header fails its checksum");
  }
  ByteReader in(bytes.subspan(kMagicSize));
  const auto version = in.get<std::uint32_t>();
  if (version != kVersion) {
    return fail_refused(ENOTSUP, "the journal has format " + std::to_string(version) +
                                     ", which this version of varve does not know; use a newer one");
  }
  JournalHeader header;
  header.chunk_size = in.get<std::uint32_t>();
  header.disk = in.get<std::uint64_t>();
  header.nonce = in.get<std::uint64_t>();
  return header;
}

EncodedRecord encode(const Record& record, std::uint64_t previous_chain) {
  EncodedRecord encoded;
  auto& bytes = encoded.bytes;
  bytes.resize(kRecordHeaderSize);
  Writer writer(bytes);
  std::visit([&](const auto& value) { members(writer, const_cast<std::remove_cvref_t<decltype(value)>&>(value)); },
             record);
  const std::size_t padding = (kAlignment - bytes.size() % kAlignment) % kAlignment;
  bytes.resize(bytes.size() + padding);
  const std::uint64_t head = bytes.size() | (std::uint64_t{type_of(record)} << 32) | (std::uint64_t{padding} << 48);
  put_u64(bytes, 0, head);
  encoded.chain = chain_of(bytes, previous_chain);
  put_u64(bytes, 8, encoded.chain);
  return encoded;
}

std::optional<std::size_t> record_length(std::span<const std::byte> header) {
  const auto length = static_cast<std::size_t>(get_u64(header, 0) & 0xFFFFFFFF);
  if (length < kRecordHeaderSize || length % kAlignment != 0 || length > kMaxRecordSize) return std::nullopt;
  return length;
}

std::optional<DecodedRecord> decode(std::span<const std::byte> bytes, std::uint64_t previous_chain) {
  if (bytes.size() < kRecordHeaderSize) return std::nullopt;
  const std::uint64_t head = get_u64(bytes, 0);
  const auto type = static_cast<std::uint16_t>(head >> 32);
  const auto padding = static_cast<std::size_t>(head >> 48);
  const auto index = index_of(type);
  if (!index || padding >= kAlignment || kRecordHeaderSize + padding > bytes.size()) return std::nullopt;
  DecodedRecord decoded;
  decoded.chain = chain_of(bytes, previous_chain);
  if (get_u64(bytes, 8) != decoded.chain) return std::nullopt;
  auto record = read_alternative(*index, bytes.subspan(kRecordHeaderSize, bytes.size() - kRecordHeaderSize - padding));
  if (!record) return std::nullopt;
  decoded.record = std::move(*record);
  return decoded;
}

std::uint64_t seal_check(std::uint64_t nonce, const record::Seal& seal) {
  std::array<std::byte, 24> bytes{};
  put_u64(bytes, 0, seal.offset);
  put_u64(bytes, 8, seal.covered);
  put_u64(bytes, 16, seal.durable);
  return XXH3_64bits_withSeed(bytes.data(), bytes.size(), nonce);
}

std::optional<record::Seal> decode_lone_seal(std::span<const std::byte> bytes, std::uint64_t nonce,
                                             std::uint64_t offset) {
  if (bytes.size() < kSealSize) return std::nullopt;
  const std::uint64_t head = get_u64(bytes, 0);
  if (head != (std::uint64_t{kSealSize} | (std::uint64_t{10} << 32))) return std::nullopt;
  record::Seal seal;
  seal.offset = get_u64(bytes, kRecordHeaderSize);
  seal.covered = get_u64(bytes, kRecordHeaderSize + 8);
  seal.durable = get_u64(bytes, kRecordHeaderSize + 16);
  seal.check = get_u64(bytes, kRecordHeaderSize + 24);
  if (seal.offset != offset || seal.check != seal_check(nonce, seal)) return std::nullopt;
  return seal;
}

}  // namespace varve::disk
