#include "lost_bases.h"

namespace varve::chunks {

LostBases::LostBases(ChunkStore::Implementation& store, const format::RawTable& table)
    : store_(store), bases_(table.bases) {
  std::size_t deltas = 0;
  for (const format::RawEntry& entry : table.entries) {
    deltas_before_.push_back(deltas);
    const auto kind = static_cast<RecordKind>(entry.kind);
    if (kind == RecordKind::delta || kind == RecordKind::node_delta) ++deltas;
  }
}

void LostBases::offer(std::uint32_t ordinal, RecordKind content,
                      const std::function<bool(const Ref& base, std::span<const std::byte> bytes)>& accept) {
  if (ordinal >= deltas_before_.size()) return;
  const std::size_t there = deltas_before_[ordinal];
  for (const std::size_t number : {there, there + 1, there - 1}) {
    if (number >= bases_.size()) continue;
    const Known& base = find(number, content);
    if (base.bytes != nullptr && accept(base.ref, *base.bytes)) return;
  }
}

const LostBases::Known& LostBases::find(std::size_t number, RecordKind content) {
  auto& known = content == RecordKind::node ? nodes_ : chunks_;
  if (const auto found = known.find(number); found != known.end()) return found->second;
  Known base;
  if (const MaybeRef& ref = bases_[number]; ref && !ref->damaged()) {
    base = load(*ref, content);
    if (base.bytes == nullptr) {
      if (const auto other = by_place(*ref)) base = load(*other, content);
    }
    if (base.bytes == nullptr) {
      if (const auto other = by_digest(ref->digest)) base = load(*other, content);
    }
  }
  return known.emplace(number, std::move(base)).first->second;
}

LostBases::Known LostBases::load(const Ref& ref, RecordKind content) {
  auto bytes = store_.packs.read_record(ref, content, store_.plain_bytes(content), {});
  return {ref, bytes ? *bytes : nullptr};
}

MaybeRef LostBases::by_place(const Ref& ref) {
  const auto pack = store_.packs.table(ref.pack);
  if (!pack || ref.ordinal >= (*pack)->entries.size()) return {};
  return Ref{ref.pack, ref.ordinal, (*pack)->entries[ref.ordinal].digest};
}

MaybeRef LostBases::by_digest(const Digest& digest) {
  if (!tables_read_) read_all_tables();
  const auto found = places_.find(digest);
  return found == places_.end() ? MaybeRef{} : found->second;
}

void LostBases::read_all_tables() {
  tables_read_ = true;
  for (const MaybeRef& base : bases_) {
    if (base) places_.emplace(base->digest, MaybeRef{});
  }
  const auto packs = store_.packs.list();
  if (!packs) return;
  for (const PackId pack : *packs) {
    const auto table = store_.packs.table(pack);
    if (!table) continue;
    for (std::uint32_t i = 0; i < (*table)->entries.size(); ++i) {
      const format::Entry& entry = (*table)->entries[i];
      if (!entry.kind || is_delta(*entry.kind)) continue;
      if (const auto wanted = places_.find(entry.digest); wanted != places_.end()) {
        wanted->second = Ref{pack, i, entry.digest};
      }
    }
  }
}

}  // namespace varve::chunks
