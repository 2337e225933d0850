// A record of a pack is found by its table entry. Where the table is damaged, one field of one entry most likely, the
// neighbours say what it was: payloads lie back to back in the order of ordinals. What is guessed that way is taken only
// if it decodes to the digest that the ref names.
//
// Who is named by a node that is itself lost cannot be asked for yet. So of a pack whose table is damaged all payloads
// stay where they are, whatever the table says of them, and entries that nobody asked for are mended as far as they prove
// themselves; the next round asks for more.
//
// A chunk's delta that is only there to lend its blocks is another matter: what it stands on may be gone, and then no
// digest proves it. It is taken where its blocks decode to as many bytes as it says that it has. Whatever takes them is
// verified by its own digest.
//
// Nobody can tell what a pack without a table kept alive, so nothing can be collected beside one. When no round finds
// anything more it is settled: it gets a table in which what is lost is gone.
#include "varve/chunks/pack_repair.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <utility>

#include "chunk_store_implementation.h"
#include "delta.h"
#include "format.h"
#include "lost_supports.h"
#include "varve/core/log.h"

namespace varve::chunks {
namespace {

constexpr std::size_t kSectorRead = 4096;

/// The file, with zeros where the medium does not give it back: they decode to nothing that has the right digest.
Result<Bytes> read_as_it_is(objects::ObjectStore& objects, const std::string& name) {
  VARVE_TRY_ASSIGN(const ByteCount size, objects.size(name));
  if (size.value() > kMaxPackSize) return fail_damaged(name + " is larger than a pack can be");
  Bytes bytes(size.value());
  const auto whole = objects.read(name, ByteOffset{0}, bytes);
  if (whole && *whole == bytes.size()) return bytes;
  for (std::size_t at = 0; at < bytes.size(); at += kSectorRead) {
    const auto part = std::span(bytes).subspan(at, std::min(kSectorRead, bytes.size() - at));
    if (const auto got = objects.read(name, ByteOffset{at}, part); !got || *got != part.size()) {
      std::ranges::fill(part, std::byte{0});
    }
  }
  return bytes;
}

/// A record of the new generation.
struct Kept {
  format::Entry entry;  ///< its offset: in the old one; 0: not from there
  std::span<const std::byte> payload;
  std::vector<Ref> supports{};  ///< of a delta
};

bool same_entry(const format::Entry& a, const format::Entry& b) {
  return a.digest == b.digest && a.offset == b.offset && a.stored == b.stored && a.plain == b.plain &&
         a.kind == b.kind && a.codec == b.codec && a.lenders == b.lenders;
}

class Rewrite {
 public:
  Rewrite(ChunkStore::Implementation& store, PackId pack, std::span<const LostRecord> lost,
          const FindElsewhere& find_elsewhere, Settle settle)
      : store_(store), pack_(pack), find_elsewhere_(find_elsewhere), settle_(settle == Settle::yes) {
    for (const LostRecord& record : lost) lost_[record.ref.ordinal] = record;
  }

  Result<RepairedPack> run() {
    VARVE_TRY(read());
    const std::size_t named = lost_.empty() ? 0 : std::size_t{lost_.rbegin()->first} + 1;
    const std::size_t count = std::max(table_.entries.size(), named);
    if (count > format::kMaxRecords) return fail_damaged("a record is named that no pack can have");
    kept_.resize(count);
    for (std::uint32_t ordinal = 0; ordinal < count; ++ordinal) VARVE_TRY(keep(ordinal));
    // A table that says nothing, or a pack that is missing, is no better for being written with the same holes. (What
    // was lost and is good in a sound pack: somebody else's repair came first.)
    const bool mended = !sound_ && !table_.entries.empty() &&
                        (lost_.empty() || !result_.from_pack.empty() || unproven_delta_);
    const bool settled = !sound_ && settle_;
    if (mended || settled || misplaced_ || !result_.elsewhere.empty()) VARVE_TRY(write());
    return std::move(result_);
  }

 private:
  Status read();
  Status keep(std::uint32_t ordinal);
  [[nodiscard]] std::optional<Kept> find_in_pack(std::uint32_t ordinal, const LostRecord& record);
  [[nodiscard]] std::optional<Kept> try_payload(const LostRecord& record, std::uint64_t offset, std::uint64_t stored,
                                                Codec codec);
  [[nodiscard]] std::span<const std::byte> payload_at(std::uint64_t offset, std::uint64_t stored) const;
  [[nodiscard]] std::optional<Kept> decode_at(RecordKind kind, std::uint64_t offset, std::uint64_t stored,
                                              Codec codec) const;
  [[nodiscard]] Bytes plain_of_delta(RecordKind content, Codec codec, std::span<const std::byte> payload,
                                     std::span<const Ref> supports, const Bytes& base);
  [[nodiscard]] std::optional<Kept> delta_at(const LostRecord& record, std::uint64_t offset, std::uint64_t stored,
                                             Codec codec);
  /// Where a payload may be.
  struct Place {
    std::uint64_t offset = 0;
    std::uint64_t stored = 0;
    friend bool operator==(const Place&, const Place&) = default;
  };
  [[nodiscard]] std::vector<Place> possible_places(std::uint32_t ordinal) const;
  [[nodiscard]] bool has_own_blocks(Place place, Codec codec, std::size_t lenders) const;
  [[nodiscard]] bool fits(std::uint32_t ordinal) const;
  [[nodiscard]] std::optional<Kept> find_lender(std::uint32_t ordinal, const Digest& digest) const;
  [[nodiscard]] std::optional<Kept> lender_at(std::uint32_t ordinal, const Digest& digest, Place place,
                                              std::size_t lenders) const;
  [[nodiscard]] std::optional<Kept> mend_entry(std::uint32_t ordinal);
  void take_from_pack(const LostRecord& record, const std::optional<Kept>& there);
  [[nodiscard]] Result<bool> take_from_elsewhere(std::uint32_t ordinal, const LostRecord& record);
  [[nodiscard]] std::optional<Kept> as_it_is(std::uint32_t ordinal) const;
  Status write();
  Status verify(const std::string& name);

  ChunkStore::Implementation& store_;
  const PackId pack_;
  const FindElsewhere& find_elsewhere_;
  const bool settle_;
  std::map<std::uint32_t, LostRecord> lost_;
  std::vector<std::uint32_t> generations_;  ///< that exist
  Bytes file_;                              ///< with the payloads; empty: the pack is missing
  format::RawTable table_;
  std::optional<LostSupports> supports_;
  bool sound_ = false;      ///< header, table and trailer are whole
  bool unproven_delta_ = false;  ///< one that is lost stays as it seems to be: what proves it may come back
  bool misplaced_ = false;  ///< a record was found elsewhere in the pack than its table says, whatever its checksum
  std::uint64_t payloads_end_ = 0;
  std::vector<std::optional<Kept>> kept_;
  std::vector<Bytes> encoded_;  ///< payloads that were found elsewhere
  RepairedPack result_;
};

Status Rewrite::read() {
  VARVE_TRY_ASSIGN(generations_, store_.packs.generations(pack_));
  if (generations_.empty()) return {};
  // The newest that reads, for what is older is right too: a newest one that does not may be a table without payloads.
  std::uint32_t generation = generations_.back();
  std::uint32_t payloads = generation;
  for (auto it = generations_.rbegin(); it != generations_.rend(); ++it) {
    const auto table = store_.packs.read_table({pack_, *it});
    if (!table) continue;
    generation = *it;
    payloads = (*table)->payloads;
    break;
  }
  VARVE_TRY_ASSIGN(file_, read_as_it_is(store_.objects, format::pack_name(pack_, payloads)));
  table_ = format::get_raw_table(file_);
  payloads_end_ = file_.size();
  if (!table_.entries.empty()) payloads_end_ -= format::kTrailerSize + table_.length;
  if (payloads != generation) {
    VARVE_TRY_ASSIGN(const Bytes newer, read_as_it_is(store_.objects, format::pack_name(pack_, generation)));
    table_ = format::get_raw_table(newer);
  }
  supports_.emplace(store_, table_, [this](std::uint32_t ordinal) { return fits(ordinal); });
  sound_ = generation == generations_.back() && store_.packs.read_table_now(pack_).has_value();
  return {};
}

/// Empty when there can be none.
std::span<const std::byte> Rewrite::payload_at(std::uint64_t offset, std::uint64_t stored) const {
  if (offset < format::kHeaderSize || offset > payloads_end_ || stored > payloads_end_ - offset) return {};
  return std::span(file_).subspan(offset, stored);
}

/// The record there that is no delta, whatever its digest.
std::optional<Kept> Rewrite::decode_at(RecordKind kind, std::uint64_t offset, std::uint64_t stored, Codec codec) const {
  const auto payload = payload_at(offset, stored);
  if (payload.empty()) return std::nullopt;
  const auto size = claimed_size(codec, payload);
  const bool possible = size && (kind == RecordKind::full
                                     ? *size == store_.geometry.chunk_bytes()
                                     : *size >= format::kNodeHeaderSize && *size <= format::kMaxNodeSize);
  if (!possible) return std::nullopt;
  Bytes plain(*size);
  if (!decode_payload(codec, payload, plain)) return std::nullopt;
  return Kept{{store_.options.digest(plain), static_cast<std::uint32_t>(offset), static_cast<std::uint32_t>(stored),
               static_cast<std::uint32_t>(*size), kind, codec, 0},
              payload};
}

/// What the payload makes of these records; empty when it does not fit them.
Bytes Rewrite::plain_of_delta(RecordKind content, Codec codec, std::span<const std::byte> payload,
                              std::span<const Ref> supports, const Bytes& base) {
  if (content == RecordKind::node) {
    Bytes plain(node_delta_size(codec, payload, base));
    if (plain.empty() || supports.size() > 1 || !apply_node_delta(codec, payload, base, plain)) return {};
    return plain;
  }
  const auto delta = ChunkDelta::parse(payload, base.size(), supports.size() - 1);
  Bytes plain = base;
  if (!delta || !delta->copy_own_blocks(codec, delta->own, plain)) return {};
  for (std::size_t i = 0; i < delta->lent.size(); ++i) {
    if (!store_.packs.lend(supports[1 + i], delta->lent[i], plain)) return {};
  }
  return plain;
}

/// The record, if what is there is a delta that makes it of something.
std::optional<Kept> Rewrite::delta_at(const LostRecord& record, std::uint64_t offset, std::uint64_t stored,
                                      Codec codec) {
  const auto payload = payload_at(offset, stored);
  if (payload.empty()) return std::nullopt;
  const RecordKind kind = record.kind == RecordKind::node ? RecordKind::node_delta : RecordKind::delta;
  std::optional<Kept> found;
  supports_->offer(record.ref.ordinal, record.kind, [&](const std::vector<Ref>& supports, const BytesPointer& base) {
    const Bytes plain = plain_of_delta(record.kind, codec, payload, supports, *base);
    if (plain.size() <= stored || store_.options.digest(plain) != record.ref.digest) return false;
    found = Kept{{record.ref.digest, static_cast<std::uint32_t>(offset), static_cast<std::uint32_t>(stored),
                  static_cast<std::uint32_t>(plain.size()), kind, codec, static_cast<std::uint8_t>(supports.size() - 1)},
                 payload, supports};
    return true;
  });
  return found;
}

/// Whether the payload there is the record's.
std::optional<Kept> Rewrite::try_payload(const LostRecord& record, std::uint64_t offset, std::uint64_t stored,
                                         Codec codec) {
  auto found = decode_at(record.kind, offset, stored, codec);
  if (found && found->entry.digest == record.ref.digest) return found;
  return delta_at(record, offset, stored, codec);
}

/// By its entry, or between its neighbours, past those that are gone.
std::vector<Rewrite::Place> Rewrite::possible_places(std::uint32_t ordinal) const {
  const format::RawEntry& raw = table_.entries[ordinal];
  std::uint64_t before = format::kHeaderSize;
  for (std::size_t i = ordinal; i > 0 && before == format::kHeaderSize; --i) {
    const auto& kept = kept_[i - 1];
    if (kept && kept->entry.offset != 0) before = std::uint64_t{kept->entry.offset} + kept->entry.stored;
  }
  std::uint64_t behind = payloads_end_;
  for (std::size_t i = ordinal + 1; i < table_.entries.size() && behind == payloads_end_; ++i) {
    if (table_.entries[i].offset >= format::kHeaderSize) behind = table_.entries[i].offset;
  }
  std::vector<Place> places;
  for (const Place& place : {Place{raw.offset, raw.stored}, Place{raw.offset, behind - raw.offset},
                             Place{before, raw.stored}, Place{before, behind - before},
                             Place{behind - raw.stored, raw.stored}}) {
    const bool possible = !payload_at(place.offset, place.stored).empty();
    if (possible && std::ranges::find(places, place) == places.end()) places.push_back(place);
  }
  return places;
}

std::optional<Kept> Rewrite::find_in_pack(std::uint32_t ordinal, const LostRecord& record) {
  if (ordinal >= table_.entries.size()) return std::nullopt;
  for (const Place& place : possible_places(ordinal)) {
    for (const Codec codec : {Codec::zstd, Codec::raw}) {
      if (auto found = try_payload(record, place.offset, place.stored, codec)) return found;
    }
  }
  return std::nullopt;
}

/// Whether a chunk's delta with so many lenders is there, whatever it makes of them.
bool Rewrite::has_own_blocks(Place place, Codec codec, std::size_t lenders) const {
  const auto payload = payload_at(place.offset, place.stored);
  const std::size_t chunk_bytes = store_.geometry.chunk_bytes();
  if (payload.empty() || payload.size() >= chunk_bytes) return false;
  const auto delta = ChunkDelta::parse(payload, chunk_bytes, lenders);
  Bytes plain(delta ? chunk_bytes : 0);
  return delta && delta->copy_own_blocks(codec, delta->own, plain);
}

/// Whether one field at most is not zero, as they all are where a record is gone.
bool seems_gone(const format::RawEntry& raw) {
  const bool digest = raw.digest != Digest{};
  return int{digest} + int{raw.offset != 0} + int{raw.stored != 0} + int{raw.plain != 0} + int{raw.kind != 0} <= 1;
}

/// Whether the payload is where and what the entry says, apart from its digest.
bool Rewrite::fits(std::uint32_t ordinal) const {
  const format::RawEntry& raw = table_.entries[ordinal];
  if (raw.kind == 0) return seems_gone(raw);
  if (raw.codec > static_cast<std::uint8_t>(Codec::zstd)) return false;
  const auto codec = static_cast<Codec>(raw.codec);
  switch (const auto kind = static_cast<RecordKind>(raw.kind)) {
    case RecordKind::full:
    case RecordKind::node:
      return decode_at(kind, raw.offset, raw.stored, codec).has_value();
    case RecordKind::delta:
      return raw.lenders <= format::kMostLenders && has_own_blocks({raw.offset, raw.stored}, codec, raw.lenders);
    case RecordKind::node_delta:
      return raw.lenders == 0 && !payload_at(raw.offset, raw.stored).empty();
  }
  return false;
}

std::optional<Kept> Rewrite::lender_at(std::uint32_t ordinal, const Digest& digest, Place place,
                                       std::size_t lenders) const {
  for (const Codec codec : {Codec::zstd, Codec::raw}) {
    if (!has_own_blocks(place, codec, lenders)) continue;
    auto supports = supports_->stated(ordinal, 1 + lenders);
    if (!supports) return std::nullopt;
    return Kept{{digest, static_cast<std::uint32_t>(place.offset), static_cast<std::uint32_t>(place.stored),
                 static_cast<std::uint32_t>(store_.geometry.chunk_bytes()), RecordKind::delta, codec,
                 static_cast<std::uint8_t>(lenders)},
                payload_at(place.offset, place.stored), std::move(*supports)};
  }
  return std::nullopt;
}

/// A chunk's delta whose own blocks are all there, which is all that is wanted of one that only lends.
std::optional<Kept> Rewrite::find_lender(std::uint32_t ordinal, const Digest& digest) const {
  if (ordinal >= table_.entries.size() || seems_gone(table_.entries[ordinal])) return std::nullopt;
  std::vector<std::size_t> counts{supports_->count(ordinal)};
  for (std::size_t count = 1; count <= format::kMostSupports; ++count) counts.push_back(count);
  const auto places = possible_places(ordinal);
  for (const std::size_t count : counts) {
    if (count == 0) continue;
    for (const Place& place : places) {
      if (auto found = lender_at(ordinal, digest, place, count - 1)) return found;
    }
  }
  return std::nullopt;
}

Result<bool> Rewrite::take_from_elsewhere(std::uint32_t ordinal, const LostRecord& record) {
  const BytesPointer plain = find_elsewhere_(record);
  if (plain == nullptr || store_.options.digest(*plain) != record.ref.digest) return false;
  VARVE_TRY_ASSIGN(Encoded encoded, encode_payload(*plain, store_.options.compression));
  encoded_.push_back(std::move(encoded.bytes));
  kept_[ordinal] = Kept{{record.ref.digest, 0, static_cast<std::uint32_t>(encoded_.back().size()),
                         static_cast<std::uint32_t>(plain->size()), record.kind, encoded.codec, 0},
                        encoded_.back()};
  return true;
}

/// Nothing: gone, or nothing that a table could say.
std::optional<Kept> Rewrite::as_it_is(std::uint32_t ordinal) const {
  const format::RawEntry& raw = table_.entries[ordinal];
  const bool known = raw.kind >= static_cast<std::uint8_t>(RecordKind::full) &&
                     raw.kind <= static_cast<std::uint8_t>(RecordKind::node_delta) &&
                     raw.codec <= static_cast<std::uint8_t>(Codec::zstd);
  const auto payload = payload_at(raw.offset, raw.stored);
  if (!known || payload.empty()) return std::nullopt;
  const bool delta = static_cast<RecordKind>(raw.kind) == RecordKind::delta;
  auto supports = supports_->stated(ordinal, delta ? supports_->count(ordinal) : raw.supports());
  if (!supports || (delta && supports->empty())) return std::nullopt;
  const auto lenders = static_cast<std::uint8_t>(supports->empty() ? 0 : supports->size() - 1);
  const Kept kept{{raw.digest, static_cast<std::uint32_t>(raw.offset), raw.stored, raw.plain,
                   static_cast<RecordKind>(raw.kind), static_cast<Codec>(raw.codec), lenders},
                  payload, std::move(*supports)};
  return format::possible(kept.entry, payloads_end_) ? std::optional(kept) : std::nullopt;
}

/// Of a damaged table, one that nobody asked for: by its digest, else, if its bytes decode, they are right and the digest
/// is not. (If not, a ref that names it finds another digest there, and nothing.)
std::optional<Kept> Rewrite::mend_entry(std::uint32_t ordinal) {
  const format::RawEntry& raw = table_.entries[ordinal];
  if (seems_gone(raw)) return std::nullopt;
  for (const RecordKind content : {RecordKind::full, RecordKind::node}) {
    if (auto found = find_in_pack(ordinal, {{pack_, ordinal, raw.digest}, content})) return found;
  }
  const auto there = as_it_is(ordinal);
  if (there && !is_delta(*there->entry.kind)) {
    if (auto found = decode_at(*there->entry.kind, raw.offset, raw.stored, there->entry.codec)) return found;
  }
  auto lender = find_lender(ordinal, raw.digest);
  return lender ? lender : there;
}

/// It was found there; `there`: what the table said.
void Rewrite::take_from_pack(const LostRecord& record, const std::optional<Kept>& there) {
  const Kept& kept = *kept_[record.ref.ordinal];
  misplaced_ = misplaced_ || !there || !same_entry(there->entry, kept.entry) || there->supports != kept.supports;
  result_.from_pack.push_back(record);
}

Status Rewrite::keep(std::uint32_t ordinal) {
  const auto lost = lost_.find(ordinal);
  const std::optional<Kept> there = ordinal < table_.entries.size() ? as_it_is(ordinal) : std::nullopt;
  if (lost == lost_.end()) {
    kept_[ordinal] = sound_ || ordinal >= table_.entries.size() ? there : mend_entry(ordinal);
    return {};
  }
  const LostRecord& record = lost->second;
  kept_[ordinal] = find_in_pack(ordinal, record);
  std::optional<Kept> lender;
  if (!kept_[ordinal] && record.kind == RecordKind::full && (record.only_lends || !sound_)) {
    lender = find_lender(ordinal, record.ref.digest);
  }
  if (record.only_lends && lender) kept_[ordinal] = lender;
  if (kept_[ordinal]) {
    take_from_pack(record, there);
    return {};
  }
  VARVE_TRY_ASSIGN(const bool found, take_from_elsewhere(ordinal, record));
  if (found) {
    result_.elsewhere.push_back(record);
    return {};
  }
  // Its bytes may be good for something one day: a delta's, when what it stands on is back.
  kept_[ordinal] = lender ? lender : there;
  unproven_delta_ = unproven_delta_ || (kept_[ordinal] && is_delta(*kept_[ordinal]->entry.kind));
  result_.still_lost.push_back(record);
  return {};
}

Status Rewrite::write() {
  const std::uint32_t generation = generations_.empty() ? 1 : generations_.back() + 1;
  Bytes pack;
  format::put_header(pack);
  const bool fits = !table_.entries.empty() || payloads_end_ + kMiB <= kMaxPackSize;
  const bool in_place = (!sound_ || misplaced_) && payloads_end_ > format::kHeaderSize && fits;
  if (in_place) {
    const auto payloads = std::span(file_).first(payloads_end_).subspan(format::kHeaderSize);
    pack.insert(pack.end(), payloads.begin(), payloads.end());
  }
  format::Table table;
  for (const auto& kept : kept_) {
    const auto ordinal = static_cast<std::uint32_t>(table.entries.size());
    format::Entry& entry = table.entries.emplace_back();
    if (!kept) continue;
    entry = kept->entry;
    for (const Ref& support : kept->supports) table.supports.push_back({ordinal, support});
    if (in_place && entry.offset != 0) continue;
    entry.offset = static_cast<std::uint32_t>(pack.size());
    pack.insert(pack.end(), kept->payload.begin(), kept->payload.end());
  }
  format::put_table_and_trailer(pack, pack_, generation, table);
  if (pack.size() > kMaxPackSize) return fail_damaged("the repaired pack would be larger than a pack can be");
  const std::string name = format::pack_name(pack_, generation);
  VARVE_TRY_ASSIGN(const objects::PutOutcome outcome, store_.objects.put_if_absent(name, pack));
  if (outcome == objects::PutOutcome::exists) {
    return fail(EAGAIN, ErrorKind::system, name + " exists already: somebody else repairs this store");
  }
  if (const Status good = verify(name); !good) {
    static_cast<void>(store_.objects.remove(name));
    store_.packs.forget(pack_);
    return tl::unexpected(good.error().in("what was repaired does not read back"));
  }
  result_.written = true;
  // From here on it is done; an old generation that stays is never read, and goes when collect comes by.
  for (const std::uint32_t old : generations_) {
    if (const auto removed = store_.objects.remove(format::pack_name(pack_, old)); !removed) {
      log::warning("an old generation of a repaired pack stays: {}", removed.error().message);
    }
  }
  return {};
}

Status Rewrite::verify(const std::string& name) {
  VARVE_TRY_ASSIGN(const PackTablePointer table, store_.packs.read_table_now(pack_));
  if (format::pack_name(pack_, table->generation) != name) return fail_damaged(name + " is not the newest");
  for (const auto* records : {&result_.from_pack, &result_.elsewhere}) {
    for (const LostRecord& record : *records) {
      if (record.only_lends && store_.packs.has(record.ref, record.kind)) continue;
      VARVE_TRY(store_.read(record.ref, record.kind));
    }
  }
  std::vector<RecordInfo> infos;
  for (std::uint32_t i = 0; i < table->entries.size(); ++i) {
    const format::Entry& entry = table->entries[i];
    if (entry.kind) infos.push_back({i, *entry.kind, entry.codec, entry.stored, entry.plain, entry.digest, {}});
  }
  // Left out when the table could not be read.
  if (const auto added = store_.locator.add_pack(pack_, store_.locator_entries(pack_, infos)); !added) {
    log::warning("pack {:016x} will not be shared until the next mount: {}", pack_.value(), added.error().message);
  }
  return {};
}

}  // namespace

Result<RepairedPack> repair_pack(ChunkStore& store, PackId pack, std::span<const LostRecord> lost,
                                 const FindElsewhere& find_elsewhere, Settle settle) {
  auto& parts = ChunkStore::Implementation::of(store);
  MutexLock lock(parts.rewriting);
  RootRegistry::Hold hold(parts.registry);
  if (!hold.try_hold_pack(pack)) {
    return fail(EAGAIN, ErrorKind::system, fmt::format("pack {:016x} is being collected", pack.value()));
  }
  auto repaired = Rewrite(parts, pack, lost, find_elsewhere, settle).run();
  if (!repaired) return tl::unexpected(repaired.error().in(fmt::format("repairing pack {:016x}", pack.value())));
  return repaired;
}

Status remove_superseded_packs(ChunkStore& store) {
  auto& parts = ChunkStore::Implementation::of(store);
  MutexLock lock(parts.rewriting);
  return parts.packs.remove_superseded();
}

}  // namespace varve::chunks
