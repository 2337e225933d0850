// One pack at a time grows in memory: header and payloads in `bytes`, entries beside them. Closing it appends table and
// trailer and makes the object durable under its name, while the next one grows if there is a pool for that:
//
//     state     entered in    when                             left in
//     open      open_pack     a record comes and none is open  close_pack
//     closing   close_pack    it is full; finish()             settle, by then durable; after an error it stays
//     durable   settle        announced to locator and cache   -
//
// Invariants:
//  1. At most one is open and one is closing: close_pack() settles the one before first.
//  2. While a thread of the pool writes the closing one (`written` is valid), nobody changes it.
//  3. Records of both are found, by digest and bytes, as those in the locator are: equal ones are stored once.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <future>
#include <memory>
#include <random>
#include <unordered_map>
#include <utility>

#include "chunk_store_implementation.h"
#include "delta.h"
#include "format.h"
#include "varve/core/log.h"
#include "varve/core/pool_task.h"
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

/// A pack in memory.
struct GrowingPack {
  PackId id;  ///< 0: none
  Bytes bytes;
  format::Table table;
  std::unordered_map<Digest, std::uint32_t> chunks_by_digest;
  std::unordered_map<Digest, std::uint32_t> nodes_by_digest;

  [[nodiscard]] Ref add(RecordKind kind, const Digest& digest, std::size_t plain_bytes, const Encoded& encoded);
  /// The record of these bytes. (A delta's are not at hand: equal ones that come as deltas too, find_delta() finds.)
  [[nodiscard]] std::optional<Ref> find(RecordKind kind, const Digest& digest, std::span<const std::byte> plain) const;
  /// The record of this very encoding.
  [[nodiscard]] std::optional<Ref> find_encoded(RecordKind kind, const Digest& digest, std::size_t plain_bytes,
                                                const Encoded& encoded) const;
  /// The chunk that is this very delta of the same records.
  [[nodiscard]] std::optional<Ref> find_delta(const Digest& digest, const EncodedDelta& delta) const;

 private:
  /// Its newest record of this digest and content: a digest may collide, then the older is not found.
  [[nodiscard]] std::optional<std::uint32_t> ordinal_of(RecordKind kind, const Digest& digest) const {
    const auto& known = content_of(kind) == RecordKind::node ? nodes_by_digest : chunks_by_digest;
    const auto it = known.find(digest);
    return it == known.end() ? std::nullopt : std::optional(it->second);
  }
  [[nodiscard]] std::span<const std::byte> payload(const format::Entry& entry) const {
    return std::span(bytes).subspan(entry.offset, entry.stored);
  }
};

Ref GrowingPack::add(RecordKind kind, const Digest& digest, std::size_t plain_bytes, const Encoded& encoded) {
  const auto ordinal = static_cast<std::uint32_t>(table.entries.size());
  table.entries.push_back({digest, static_cast<std::uint32_t>(bytes.size()),
                           static_cast<std::uint32_t>(encoded.bytes.size()), static_cast<std::uint32_t>(plain_bytes), kind,
                           encoded.codec, 0});
  bytes.insert(bytes.end(), encoded.bytes.begin(), encoded.bytes.end());
  (content_of(kind) == RecordKind::node ? nodes_by_digest : chunks_by_digest).insert_or_assign(digest, ordinal);
  return Ref{id, ordinal, digest};
}

std::optional<Ref> GrowingPack::find(RecordKind kind, const Digest& digest, std::span<const std::byte> plain) const {
  const auto ordinal = ordinal_of(kind, digest);
  if (!ordinal) return std::nullopt;
  const format::Entry& entry = table.entries[*ordinal];
  if (entry.plain != plain.size() || is_delta(*entry.kind)) return std::nullopt;
  Bytes decoded(entry.plain);
  if (!decode_payload(entry.codec, payload(entry), decoded) || !same_bytes(decoded, plain)) return std::nullopt;
  return Ref{id, *ordinal, digest};
}

std::optional<Ref> GrowingPack::find_encoded(RecordKind kind, const Digest& digest, std::size_t plain_bytes,
                                             const Encoded& encoded) const {
  const auto ordinal = ordinal_of(kind, digest);
  if (!ordinal) return std::nullopt;
  const format::Entry& entry = table.entries[*ordinal];
  const bool same = entry.kind == kind && entry.codec == encoded.codec && entry.plain == plain_bytes &&
                    same_bytes(payload(entry), encoded.bytes);
  return same ? std::optional(Ref{id, *ordinal, digest}) : std::nullopt;
}

std::optional<Ref> GrowingPack::find_delta(const Digest& digest, const EncodedDelta& delta) const {
  const auto ordinal = ordinal_of(RecordKind::delta, digest);
  if (!ordinal) return std::nullopt;
  const format::Entry& entry = table.entries[*ordinal];
  const auto first = std::ranges::lower_bound(table.supports, *ordinal, {}, &format::Support::ordinal);
  const auto last = std::ranges::upper_bound(table.supports, *ordinal, {}, &format::Support::ordinal);
  const bool same_supports = std::equal(first, last, delta.supports.begin(), delta.supports.end(),
                                        [](const format::Support& a, const Ref& b) { return a.ref == b; });
  const bool same = entry.kind == RecordKind::delta && entry.codec == delta.encoded.codec && same_supports &&
                    same_bytes(payload(entry), delta.encoded.bytes);
  return same ? std::optional(Ref{id, *ordinal, digest}) : std::nullopt;
}

}  // namespace

struct RecordWriter::Implementation {
  Implementation(ChunkStore::Implementation& store_parts, RootRegistry::Hold& record_hold)
      : store(store_parts), hold(record_hold) {}
  ~Implementation() {
    if (written.valid()) written.wait();  // invariant 2
  }
  Implementation(const Implementation&) = delete;
  Implementation& operator=(const Implementation&) = delete;

  [[nodiscard]] Result<Ref> put(RecordKind kind, std::span<const std::byte> plain, const MaybeRef& similar);
  [[nodiscard]] Result<std::optional<Ref>> put_node_delta(const Digest& digest, std::span<const std::byte> plain,
                                                          const Ref& similar);
  [[nodiscard]] std::optional<Ref> find_growing(RecordKind kind, const Digest& digest,
                                                std::span<const std::byte> plain) const;
  [[nodiscard]] std::optional<Ref> find_stored(RecordKind kind, const Digest& digest, std::span<const std::byte> plain);
  [[nodiscard]] Status check(RecordKind kind, std::size_t plain_bytes, const Encoded& encoded) const;
  [[nodiscard]] Ref add(RecordKind kind, const Digest& digest, std::size_t plain_bytes, const Encoded& encoded);
  [[nodiscard]] Ref add_delta(RecordKind kind, const Digest& digest, std::size_t plain_bytes,
                              std::span<const Ref> supports, const Encoded& encoded);
  [[nodiscard]] bool hold_with_supports(const Ref& ref, RecordKind content);
  [[nodiscard]] Status make_room();
  [[nodiscard]] Status open_pack();
  [[nodiscard]] Status close_pack();
  [[nodiscard]] Status settle();
  [[nodiscard]] Status put_object(const GrowingPack& pack) const;
  void announce(const GrowingPack& pack);

  ChunkStore::Implementation& store;
  RootRegistry::Hold& hold;
  GrowingPack open;
  GrowingPack closing;
  std::future<Status> written;  ///< of `closing`
  Bytes spare;                  ///< memory of the one before
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
  if (const auto found = find_growing(kind, digest, plain)) return *found;
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
    open.table.supports.push_back({static_cast<std::uint32_t>(open.table.entries.size()), support});
  }
  const Ref ref = add(kind, digest, plain_bytes, encoded);
  open.table.entries.back().lenders = static_cast<std::uint8_t>(supports.size() - 1);
  return ref;
}

/// The open pack has room.
Ref RecordWriter::Implementation::add(RecordKind kind, const Digest& digest, std::size_t plain_bytes,
                                      const Encoded& encoded) {
  stored_bytes += encoded.bytes.size();
  return open.add(kind, digest, plain_bytes, encoded);
}

std::optional<Ref> RecordWriter::find_equal(RecordKind kind, const Digest& digest, std::span<const std::byte> plain) {
  if (const auto found = implementation_->find_growing(kind, digest, plain)) return found;
  return implementation_->find_stored(kind, digest, plain);
}

std::optional<Ref> RecordWriter::Implementation::find_growing(RecordKind kind, const Digest& digest,
                                                              std::span<const std::byte> plain) const {
  if (const auto found = open.find(kind, digest, plain)) return found;
  return closing.find(kind, digest, plain);
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
  for (const GrowingPack* pack : {&self.open, &self.closing}) {
    if (const auto found = pack->find_encoded(kind, digest, plain_bytes, encoded)) return *found;
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
  for (const GrowingPack* pack : {&self.open, &self.closing}) {
    if (const auto found = pack->find_delta(digest, delta)) return *found;
  }
  for (const Ref& support : delta.supports) {
    // Reachable through an owner's root, or held: collect cannot have condemned it.
    if (!self.hold.try_hold(support)) {
      return fail(EAGAIN, ErrorKind::system, to_text(support) + " is being collected");
    }
  }
  VARVE_TRY(self.make_room());
  return self.add_delta(RecordKind::delta, digest, plain_bytes, delta.supports, delta.encoded);
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
  const std::size_t table_bytes =
      format::table_and_trailer_bytes(open.table.entries.size(), open.table.supports.size());
  if (open.bytes.size() >= store.options.pack_bytes || table_bytes >= kPackTableTarget) VARVE_TRY(close_pack());
  if (open.id == PackId{0}) VARVE_TRY(open_pack());
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
    open.id = id;
    open.bytes = std::exchange(spare, {});
    open.bytes.clear();
    // At once, not by doubling: that takes three times the memory for a moment.
    open.bytes.reserve(store.options.pack_bytes + store.geometry.chunk_bytes() + kTableReserve);
    format::put_header(open.bytes);
    return {};
  }
  return fail(EIO, ErrorKind::system, "no free pack id was found: is there a source of random numbers?");
}

Status RecordWriter::finish() {
  VARVE_TRY(implementation_->close_pack());
  return implementation_->settle();
}

Status RecordWriter::Implementation::close_pack() {
  VARVE_TRY(settle());  // invariant 1
  if (open.table.entries.empty()) return {};
  format::put_table_and_trailer(open.bytes, open.id, 0, open.table);
  closing = std::exchange(open, {});
  if (store.options.pack_writers == nullptr) return settle();
  written = submit_to(*store.options.pack_writers, [this] { return put_object(closing); });
  return {};
}

/// What was closed is durable and announced, or stays to be tried again.
Status RecordWriter::Implementation::settle() {
  if (closing.id == PackId{0}) return {};
  VARVE_TRY(written.valid() ? written.get() : put_object(closing));
  announce(closing);
  spare = std::move(closing.bytes);
  closing = {};
  return {};
}

Status RecordWriter::Implementation::put_object(const GrowingPack& pack) const {
  const std::string name = format::pack_name(pack.id, 0);
  const Bytes& bytes = pack.bytes;
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
void RecordWriter::Implementation::announce(const GrowingPack& pack) {
  std::vector<Locator::Entry> places;
  places.reserve(pack.table.entries.size());
  for (std::uint32_t ordinal = 0; ordinal < pack.table.entries.size(); ++ordinal) {
    const format::Entry& entry = pack.table.entries[ordinal];
    places.push_back({content_of(*entry.kind), Ref{pack.id, ordinal, entry.digest}});
  }
  if (const auto added = store.locator.add_pack(pack.id, places); !added) {
    log::warning("pack {:016x} will not be shared until the next mount: {}", pack.id.value(), added.error().message);
  }
  store.packs_written.fetch_add(1, std::memory_order_relaxed);
  store.packs.remember(pack.id, std::make_shared<const PackTable>(0, 0, pack.table));
}

std::uint64_t RecordWriter::stored_bytes() const {
  return implementation_->stored_bytes;
}

}  // namespace varve::chunks
