// One pack at a time is built in memory: header and payloads grow in `bytes_`, entries beside them; closing it appends
// table and trailer and makes the object durable under its name at once.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <unordered_map>

#include "chunk_store_implementation.h"
#include "delta.h"
#include "format.h"
#include "varve/core/log.h"
#include "varve/core/same_bytes.h"

namespace varve::chunks {
namespace {

constexpr int kIdTries = 8;
/// The largest table, trailer included.
constexpr std::size_t kTableReserve = kPackTableTarget + format::table_and_trailer_bytes(1, format::kMostSupports);

PackId random_pack_id() {
  std::random_device source;
  const std::uint64_t bits = std::uint64_t{source()} << 32 | source();
  return PackId{bits & ~format::kReservedIdBits};
}

bool same_bytes(std::span<const std::byte> a, std::span<const std::byte> b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size()) == 0);
}

}  // namespace

struct RecordWriter::Implementation {
  Implementation(ChunkStore::Implementation& store_parts, RootRegistry::Hold& record_hold)
      : store(store_parts), hold(record_hold) {}

  [[nodiscard]] Result<Ref> put(RecordKind kind, std::span<const std::byte> plain, const MaybeRef& similar);
  [[nodiscard]] Result<std::optional<Ref>> put_node_delta(const Digest& digest, std::span<const std::byte> plain,
                                                          const Ref& similar);
  [[nodiscard]] std::optional<Ref> find_in_open_pack(RecordKind kind, const Digest& digest,
                                                     std::span<const std::byte> plain) const;
  [[nodiscard]] std::optional<Ref> find_stored(RecordKind kind, const Digest& digest, std::span<const std::byte> plain);
  [[nodiscard]] Status check(RecordKind kind, std::size_t plain_bytes, const Encoded& encoded) const;
  [[nodiscard]] Ref add(RecordKind kind, const Digest& digest, std::size_t plain_bytes, const Encoded& encoded);
  [[nodiscard]] Ref add_delta(RecordKind kind, const Digest& digest, std::size_t plain_bytes,
                              std::span<const Ref> supports, const Encoded& encoded);
  [[nodiscard]] bool hold_with_supports(const Ref& ref, RecordKind content);
  [[nodiscard]] bool has_delta(std::uint32_t ordinal, const EncodedDelta& delta) const;
  [[nodiscard]] Status make_room();
  [[nodiscard]] Status open_pack();
  [[nodiscard]] Status close_pack();
  [[nodiscard]] Status put_object(const std::string& name);
  void announce();

  /// The open pack's newest record of this digest and content: a digest may collide, then the older is not found.
  [[nodiscard]] std::optional<std::uint32_t> ordinal_of(RecordKind kind, const Digest& digest) const {
    const auto& known = content_of(kind) == RecordKind::node ? nodes_by_digest : chunks_by_digest;
    const auto it = known.find(digest);
    return it == known.end() ? std::nullopt : std::optional(it->second);
  }
  [[nodiscard]] std::span<const std::byte> payload(const format::Entry& entry) const {
    return std::span(bytes).subspan(entry.offset, entry.stored);
  }

  ChunkStore::Implementation& store;
  RootRegistry::Hold& hold;
  PackId pack;  ///< 0: none open
  Bytes bytes;
  format::Table table;
  std::unordered_map<Digest, std::uint32_t> chunks_by_digest;
  std::unordered_map<Digest, std::uint32_t> nodes_by_digest;
  std::uint64_t stored_bytes = 0;
};

RecordWriter::RecordWriter(ChunkStore& store, RootRegistry::Hold& hold)
    : implementation_(std::make_unique<Implementation>(*store.implementation_, hold)) {}
RecordWriter::~RecordWriter() = default;

Result<Ref> RecordWriter::put_chunk(std::span<const std::byte> plain) {
  return implementation_->put(RecordKind::full, plain, {});
}
Result<Ref> RecordWriter::put_node(std::span<const std::byte> plain, const MaybeRef& similar) {
  return implementation_->put(RecordKind::node, plain, similar);
}

Result<Ref> RecordWriter::Implementation::put(RecordKind kind, std::span<const std::byte> plain,
                                              const MaybeRef& similar) {
  if (plain.empty() || (kind == RecordKind::full && plain.size() != store.geometry.chunk_bytes())) {
    return fail_refused(EINVAL, "a record of the wrong length");
  }
  const Digest digest = store.options.digest(plain);
  if (const auto found = find_in_open_pack(kind, digest, plain)) return *found;
  if (const auto found = find_stored(kind, digest, plain)) return *found;
  if (similar && !similar->damaged()) {
    VARVE_TRY_ASSIGN(const auto delta, put_node_delta(digest, plain, *similar));
    if (delta) return *delta;
  }
  VARVE_TRY_ASSIGN(Encoded encoded, encode_payload(plain, store.options.compression));
  VARVE_TRY(check(kind, plain.size(), encoded));
  VARVE_TRY(make_room());
  return add(kind, digest, plain.size(), encoded);
}

/// Nothing when it does not pay, or what it would stand on is not to be had.
Result<std::optional<Ref>> RecordWriter::Implementation::put_node_delta(const Digest& digest,
                                                                        std::span<const std::byte> plain,
                                                                        const Ref& similar) {
  const auto below = store.packs.supports_of(similar);
  if (!below) return std::nullopt;
  const Ref base = below->empty() ? similar : below->front();
  // A forged one may be a delta itself, which reads well only as long as it is in the cache.
  const auto further = store.packs.supports_of(base);
  if (!further || !further->empty()) return std::nullopt;
  const auto bytes_there = store.load(base, RecordKind::node);
  if (!bytes_there) return std::nullopt;
  VARVE_TRY_ASSIGN(const auto encoded,
                   encode_node_delta(**bytes_there, plain, store.options.compression));
  if (!encoded || !hold.try_hold(base)) return std::nullopt;
  VARVE_TRY(make_room());
  return add_delta(RecordKind::node_delta, digest, plain.size(), std::span(&base, 1), *encoded);
}

Ref RecordWriter::Implementation::add_delta(RecordKind kind, const Digest& digest, std::size_t plain_bytes,
                                            std::span<const Ref> supports, const Encoded& encoded) {
  for (const Ref& support : supports) {
    table.supports.push_back({static_cast<std::uint32_t>(table.entries.size()), support});
  }
  const Ref ref = add(kind, digest, plain_bytes, encoded);
  table.entries.back().lenders = static_cast<std::uint8_t>(supports.size() - 1);
  return ref;
}

/// The open pack has room.
Ref RecordWriter::Implementation::add(RecordKind kind, const Digest& digest, std::size_t plain_bytes,
                                      const Encoded& encoded) {
  const auto ordinal = static_cast<std::uint32_t>(table.entries.size());
  table.entries.push_back({digest, static_cast<std::uint32_t>(bytes.size()), static_cast<std::uint32_t>(encoded.bytes.size()),
                           static_cast<std::uint32_t>(plain_bytes), kind, encoded.codec, 0});
  bytes.insert(bytes.end(), encoded.bytes.begin(), encoded.bytes.end());
  (content_of(kind) == RecordKind::node ? nodes_by_digest : chunks_by_digest).insert_or_assign(digest, ordinal);
  stored_bytes += encoded.bytes.size();
  return Ref{pack, ordinal, digest};
}

std::optional<Ref> RecordWriter::find_equal(RecordKind kind, const Digest& digest, std::span<const std::byte> plain) {
  if (const auto found = implementation_->find_in_open_pack(kind, digest, plain)) return found;
  return implementation_->find_stored(kind, digest, plain);
}

std::optional<Ref> RecordWriter::Implementation::find_in_open_pack(RecordKind kind, const Digest& digest,
                                                                   std::span<const std::byte> plain) const {
  const auto ordinal = ordinal_of(kind, digest);
  if (!ordinal) return std::nullopt;
  const format::Entry& entry = table.entries[*ordinal];
  // A delta's bytes are not at hand: equal ones that come as deltas too are found by append_delta().
  if (entry.plain != plain.size() || is_delta(*entry.kind)) return std::nullopt;
  Bytes decoded(entry.plain);
  if (!decode_payload(entry.codec, payload(entry), decoded) || !same_bytes(decoded, plain)) return std::nullopt;
  return Ref{pack, *ordinal, digest};
}

std::optional<Ref> RecordWriter::Implementation::find_stored(RecordKind kind, const Digest& digest,
                                                             std::span<const std::byte> plain) {
  const auto hit = store.locator.find(digest, kind);
  if (!hit) {
    log::debug("locator: {}", hit.error().message);
    return std::nullopt;
  }
  if (!*hit) return std::nullopt;
  const Ref ref = **hit;
  // In this order: held, so that it cannot go any more; then still there, so that it had not gone before (the bytes
  // may be cached although the pack is gone); then equal.
  if (!hold_with_supports(ref, kind)) return std::nullopt;
  const auto bytes_there = store.load_once(ref, kind);
  if (!bytes_there || !same_bytes(**bytes_there, plain)) return std::nullopt;
  return ref;
}

/// Held, and there; so is what it stands on. (What it stood on may be gone, if it is only kept for its own blocks.)
bool RecordWriter::Implementation::hold_with_supports(const Ref& ref, RecordKind content) {
  if (!hold.try_hold(ref) || !store.packs.has(ref, content)) return false;
  const auto supports = store.packs.supports_of(ref);
  return supports && std::ranges::all_of(*supports, [&](const Ref& support) {
           return hold.try_hold(support) && store.packs.has(support, content);
         });
}

Result<Ref> RecordWriter::append(RecordKind kind, const Digest& digest, std::size_t plain_bytes, Encoded encoded) {
  Implementation& self = *implementation_;
  VARVE_TRY(self.check(kind, plain_bytes, encoded));
  if (const auto ordinal = self.ordinal_of(kind, digest)) {
    const format::Entry& entry = self.table.entries[*ordinal];
    if (entry.kind == kind && entry.codec == encoded.codec && entry.plain == plain_bytes &&
        same_bytes(self.payload(entry), encoded.bytes)) {
      return Ref{self.pack, *ordinal, digest};
    }
  }
  VARVE_TRY(self.make_room());
  return self.add(kind, digest, plain_bytes, encoded);
}

Result<Ref> RecordWriter::append_delta(const Digest& digest, EncodedDelta delta) {
  Implementation& self = *implementation_;
  const std::size_t plain_bytes = self.store.geometry.chunk_bytes();
  const bool supported = !delta.supports.empty() && delta.supports.size() <= format::kMostSupports;
  if (!supported || delta.encoded.bytes.empty() || delta.encoded.bytes.size() >= plain_bytes) {
    return fail_refused(EINVAL, "a record of the wrong length");
  }
  const auto there = self.ordinal_of(RecordKind::delta, digest);
  if (there && self.has_delta(*there, delta)) return Ref{self.pack, *there, digest};
  for (const Ref& support : delta.supports) {
    // Reachable through an owner's root, or held: collect cannot have condemned it.
    if (!self.hold.try_hold(support)) {
      return fail(EAGAIN, ErrorKind::system, to_text(support) + " is being collected");
    }
  }
  VARVE_TRY(self.make_room());
  return self.add_delta(RecordKind::delta, digest, plain_bytes, delta.supports, delta.encoded);
}

/// Whether this record of the open pack is the same delta of the same records.
bool RecordWriter::Implementation::has_delta(std::uint32_t ordinal, const EncodedDelta& delta) const {
  const format::Entry& entry = table.entries[ordinal];
  const auto first = std::ranges::lower_bound(table.supports, ordinal, {}, &format::Support::ordinal);
  const auto last = std::ranges::upper_bound(table.supports, ordinal, {}, &format::Support::ordinal);
  const bool same_supports = std::equal(first, last, delta.supports.begin(), delta.supports.end(),
                                        [](const format::Support& a, const Ref& b) { return a.ref == b; });
  return entry.kind == RecordKind::delta && entry.codec == delta.encoded.codec && same_supports &&
         same_bytes(payload(entry), delta.encoded.bytes);
}

Status RecordWriter::Implementation::check(RecordKind kind, std::size_t plain_bytes, const Encoded& encoded) const {
  if (is_delta(kind)) return fail_refused(EINVAL, "a delta without what it stands on");
  const bool length = kind == RecordKind::node
                          ? plain_bytes >= format::kNodeHeaderSize && plain_bytes <= format::kMaxNodeSize
                          : plain_bytes == store.geometry.chunk_bytes();
  const bool stored = encoded.codec == Codec::raw ? encoded.bytes.size() == plain_bytes
                                                  : !encoded.bytes.empty() && encoded.bytes.size() <= plain_bytes;
  if (!length || !stored) return fail_refused(EINVAL, "a record of the wrong length");
  return {};
}

Status RecordWriter::Implementation::make_room() {
  const std::size_t table_bytes = format::table_and_trailer_bytes(table.entries.size(), table.supports.size());
  if (bytes.size() >= store.options.pack_bytes || table_bytes >= kPackTableTarget) VARVE_TRY(close_pack());
  if (pack == PackId{0}) VARVE_TRY(open_pack());
  return {};
}

/// The id is in every ref from now on and cannot change any more: so it is checked to be free now, not when the pack
/// is written.
Status RecordWriter::Implementation::open_pack() {
  for (int i = 0; i < kIdTries; ++i) {
    const PackId id = store.options.new_pack_id ? store.options.new_pack_id() : random_pack_id();
    if (id == PackId{0} || (id.value() & format::kReservedIdBits) != 0) continue;
    VARVE_TRY_ASSIGN(const auto existing, store.packs.generations(id));
    if (!existing.empty() || !hold.try_hold_pack(id)) continue;
    pack = id;
    bytes.clear();
    // At once, not by doubling: that takes three times the memory for a moment.
    bytes.reserve(store.options.pack_bytes + store.geometry.chunk_bytes() + kTableReserve);
    format::put_header(bytes);
    return {};
  }
  return fail(EIO, ErrorKind::system, "no free pack id was found: is there a source of random numbers?");
}

Status RecordWriter::finish() {
  return implementation_->close_pack();
}

Status RecordWriter::Implementation::close_pack() {
  if (table.entries.empty()) return {};
  const std::size_t end_of_payloads = bytes.size();
  format::put_table_and_trailer(bytes, pack, 0, table);
  const Status put = put_object(format::pack_name(pack, 0));
  if (!put) {
    bytes.resize(end_of_payloads);  // as it was: finish() may be tried again
    return put;
  }
  announce();
  pack = PackId{0};
  bytes.clear();
  table = {};
  chunks_by_digest.clear();
  nodes_by_digest.clear();
  return {};
}

Status RecordWriter::Implementation::put_object(const std::string& name) {
  VARVE_TRY_ASSIGN(const objects::PutOutcome outcome, store.objects.put_if_absent(name, bytes));
  if (outcome == objects::PutOutcome::created) return {};
  // Either an earlier try of ours that was not acknowledged, or somebody took the id since it was chosen.
  VARVE_TRY_ASSIGN(const ByteCount size, store.objects.size(name));
  Bytes there(size.value() == bytes.size() ? bytes.size() : 0);
  VARVE_TRY_ASSIGN(const std::size_t count, store.objects.read(name, ByteOffset{0}, there));
  if (count == bytes.size() && same_bytes(there, bytes)) return {};
  return fail(EIO, ErrorKind::system, name + " is taken by another pack: nothing was overwritten, start again");
}

/// After the pack is durable, and only then: what the locator leads to is there.
void RecordWriter::Implementation::announce() {
  std::vector<Locator::Entry> places;
  places.reserve(table.entries.size());
  for (std::uint32_t ordinal = 0; ordinal < table.entries.size(); ++ordinal) {
    const format::Entry& entry = table.entries[ordinal];
    places.push_back({content_of(*entry.kind), Ref{pack, ordinal, entry.digest}});
  }
  if (const auto added = store.locator.add_pack(pack, places); !added) {
    log::warning("pack {:016x} will not be shared until the next mount: {}", pack.value(), added.error().message);
  }
  store.packs_written.fetch_add(1, std::memory_order_relaxed);
  store.packs.remember(pack, std::make_shared<const PackTable>(0, 0, table));
}

std::uint64_t RecordWriter::stored_bytes() const {
  return implementation_->stored_bytes;
}

}  // namespace varve::chunks
