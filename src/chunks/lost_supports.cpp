#include "lost_supports.h"

#include <set>
#include <utility>

namespace varve::chunks {

LostSupports::LostSupports(ChunkStore::Implementation& store, const format::RawTable& table)
    : store_(store), table_(table) {
  std::size_t before = 0;
  for (const format::RawEntry& entry : table.entries) {
    first_.push_back(before);
    before += entry.supports();
  }
  more_ = static_cast<std::ptrdiff_t>(table.supports.size()) - static_cast<std::ptrdiff_t>(before);
}

std::optional<std::vector<Ref>> LostSupports::stated(std::uint32_t ordinal) const {
  std::vector<Ref> refs;
  for (std::size_t i = 0; i < table_.entries[ordinal].supports(); ++i) {
    const std::size_t number = first_[ordinal] + i;
    if (number >= table_.supports.size()) return std::nullopt;
    const MaybeRef& ref = table_.supports[number];
    if (!ref || ref->damaged()) return std::nullopt;
    refs.push_back(*ref);
  }
  return refs;
}

void LostSupports::offer(std::uint32_t ordinal, RecordKind content, const Accept& accept) {
  if (ordinal >= first_.size()) return;
  const auto first = static_cast<std::ptrdiff_t>(first_[ordinal]);
  const auto count = static_cast<std::ptrdiff_t>(table_.entries[ordinal].supports());
  std::set<std::pair<std::ptrdiff_t, std::ptrdiff_t>> tried;
  for (const std::ptrdiff_t from : {first, first + more_}) {
    for (const std::ptrdiff_t of : {count, count + more_, std::ptrdiff_t{1}}) {
      const bool possible = from >= 0 && of > 0 && of <= static_cast<std::ptrdiff_t>(format::kMostSupports);
      if (!possible || !tried.emplace(from, of).second) continue;
      if (offer_those(static_cast<std::size_t>(from), static_cast<std::size_t>(of), content, accept)) return;
    }
  }
}

bool LostSupports::offer_those(std::size_t first, std::size_t count, RecordKind content, const Accept& accept) {
  if (first + count > table_.supports.size()) return false;
  const Known& base = find_base(first, content);
  if (base.bytes == nullptr) return false;
  std::vector<Ref> refs{base.ref};
  for (std::size_t i = 1; i < count; ++i) {
    const MaybeRef lender = find_lender(first + i);
    if (!lender) return false;
    refs.push_back(*lender);
  }
  return accept(refs, base.bytes);
}

const LostSupports::Known& LostSupports::find_base(std::size_t number, RecordKind content) {
  auto& known = content == RecordKind::node ? nodes_ : chunks_;
  if (const auto found = known.find(number); found != known.end()) return found->second;
  Known base;
  if (const MaybeRef& ref = table_.supports[number]; ref && !ref->damaged()) {
    base = load(*ref, content);
    if (base.bytes == nullptr) {
      if (const auto other = by_place(*ref)) base = load(*other, content);
    }
    if (base.bytes == nullptr) {
      if (const auto other = by_digest(ref->digest).no_delta) base = load(*other, content);
    }
  }
  return known.emplace(number, std::move(base)).first->second;
}

MaybeRef LostSupports::find_lender(std::size_t number) {
  const MaybeRef& ref = table_.supports[number];
  if (!ref || ref->damaged()) return {};
  if (store_.packs.has(*ref, RecordKind::full)) return ref;
  if (const auto other = by_place(*ref); other && store_.packs.has(*other, RecordKind::full)) return other;
  const Places places = by_digest(ref->digest);
  return places.delta ? places.delta : places.no_delta;
}

LostSupports::Known LostSupports::load(const Ref& ref, RecordKind content) {
  auto bytes = store_.packs.read_no_delta(ref, content, store_.plain_bytes(content));
  return {ref, bytes ? *bytes : nullptr};
}

MaybeRef LostSupports::by_place(const Ref& ref) {
  const auto pack = store_.packs.table(ref.pack);
  if (!pack || ref.ordinal >= (*pack)->entries.size()) return {};
  return Ref{ref.pack, ref.ordinal, (*pack)->entries[ref.ordinal].digest};
}

LostSupports::Places LostSupports::by_digest(const Digest& digest) {
  if (!tables_read_) read_all_tables();
  const auto found = places_.find(digest);
  return found == places_.end() ? Places{} : found->second;
}

void LostSupports::read_all_tables() {
  tables_read_ = true;
  for (const MaybeRef& support : table_.supports) {
    if (support) places_.emplace(support->digest, Places{});
  }
  const auto packs = store_.packs.list();
  if (!packs) return;
  for (const PackId pack : *packs) {
    const auto table = store_.packs.table(pack);
    if (!table) continue;
    for (std::uint32_t i = 0; i < (*table)->entries.size(); ++i) {
      const format::Entry& entry = (*table)->entries[i];
      const auto wanted = places_.find(entry.digest);
      if (!entry.kind || wanted == places_.end()) continue;
      (is_delta(*entry.kind) ? wanted->second.delta : wanted->second.no_delta) = Ref{pack, i, entry.digest};
    }
  }
}

}  // namespace varve::chunks
