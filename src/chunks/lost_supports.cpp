#include "lost_supports.h"

#include <set>
#include <span>
#include <utility>

namespace varve::chunks {
namespace {

constexpr std::size_t kMostDeltas = 8;  ///< remembered of one digest

}  // namespace

LostSupports::LostSupports(ChunkStore::Implementation& store, const format::RawTable& table,
                           const std::function<bool(std::uint32_t ordinal)>& fits)
    : store_(store), table_(table) {
  for (const format::RawEntry& entry : table.entries) {
    counts_.push_back(entry.supports());
    more_ -= static_cast<std::ptrdiff_t>(counts_.back());
  }
  more_ += static_cast<std::ptrdiff_t>(table.supports.size());
  if (more_ != 0) correct_one(fits);
  std::size_t before = 0;
  for (const std::size_t count : counts_) {
    first_.push_back(before);
    before += count;
  }
}

/// Otherwise the supports of all entries behind it would be taken for their neighbours'.
void LostSupports::correct_one(const std::function<bool(std::uint32_t ordinal)>& fits) {
  std::optional<std::uint32_t> wrong;
  for (std::uint32_t ordinal = 0; ordinal < counts_.size(); ++ordinal) {
    if (fits(ordinal)) continue;
    if (wrong) return;
    wrong = ordinal;
  }
  if (!wrong) return;
  const std::ptrdiff_t right = static_cast<std::ptrdiff_t>(counts_[*wrong]) + more_;
  if (right < 0 || right > static_cast<std::ptrdiff_t>(format::kMostSupports)) return;
  counts_[*wrong] = static_cast<std::size_t>(right);
  more_ = 0;
}

std::optional<std::vector<Ref>> LostSupports::stated(std::uint32_t ordinal, std::size_t count) const {
  const auto first = static_cast<std::ptrdiff_t>(first_[ordinal]);
  if (auto refs = refs_from(first, count)) return refs;
  return refs_from(first + more_, count);
}

std::optional<std::vector<Ref>> LostSupports::refs_from(std::ptrdiff_t first, std::size_t count) const {
  const auto end = static_cast<std::ptrdiff_t>(table_.supports.size());
  if (first < 0 || first > end || static_cast<std::ptrdiff_t>(count) > end - first) return std::nullopt;
  std::vector<Ref> refs;
  for (const MaybeRef& ref : std::span(table_.supports).subspan(static_cast<std::size_t>(first), count)) {
    if (!ref || ref->damaged()) return std::nullopt;
    refs.push_back(*ref);
  }
  return refs;
}

void LostSupports::offer(std::uint32_t ordinal, RecordKind content, const Accept& accept) {
  if (ordinal >= first_.size()) return;
  const auto first = static_cast<std::ptrdiff_t>(first_[ordinal]);
  const auto count = static_cast<std::ptrdiff_t>(counts_[ordinal]);
  std::set<std::pair<std::ptrdiff_t, std::ptrdiff_t>> tried;
  for (const std::ptrdiff_t from : {first, first + more_}) {
    for (const std::ptrdiff_t of : {count, count + more_, std::ptrdiff_t{1}}) {
      const bool possible = from >= 0 && of > 0 && of <= static_cast<std::ptrdiff_t>(format::kMostSupports);
      if (!possible || !tried.emplace(from, of).second) continue;
      if (offer_those(static_cast<std::size_t>(from), static_cast<std::size_t>(of), content, accept)) return;
    }
  }
}

/// One of the lenders is damaged, most likely: so what else it may be is tried for one at a time.
bool LostSupports::offer_those(std::size_t first, std::size_t count, RecordKind content, const Accept& accept) {
  if (first + count > table_.supports.size()) return false;
  const Known base = find_base(first, content);
  if (base.bytes == nullptr) return false;
  std::vector<Ref> refs{base.ref};
  std::vector<std::vector<Ref>> places(1);
  for (std::size_t i = 1; i < count; ++i) {
    places.push_back(find_lender(first + i));
    if (places.back().empty()) return false;
    refs.push_back(places.back().front());
  }
  if (accept(refs, base.bytes)) return true;
  for (std::size_t i = 1; i < count; ++i) {
    for (const Ref& other : std::span(places[i]).subspan(1)) {
      std::vector<Ref> changed = refs;
      changed[i] = other;
      if (accept(changed, base.bytes)) return true;
    }
  }
  return false;
}

LostSupports::Known LostSupports::find_base(std::size_t number, RecordKind content) {
  auto& known = content == RecordKind::node ? nodes_ : chunks_;
  if (const auto found = known.find(number); found != known.end()) {
    return found->second ? load(*found->second, content) : Known{};
  }
  const MaybeRef& ref = table_.supports[number];
  const Known base = ref && !ref->damaged() ? find_base_anew(*ref, content) : Known{};
  known.emplace(number, base.bytes == nullptr ? MaybeRef{} : MaybeRef{base.ref});
  return base;
}

LostSupports::Known LostSupports::find_base_anew(const Ref& ref, RecordKind content) {
  if (Known base = load(ref, content); base.bytes != nullptr) return base;
  if (const auto other = by_place(ref)) {
    if (Known base = load(*other, content); base.bytes != nullptr) return base;
  }
  const auto other = by_digest(ref.digest).no_delta;
  return other ? load(*other, content) : Known{};
}

/// The records that it may be, the likeliest first.
std::vector<Ref> LostSupports::find_lender(std::size_t number) {
  const MaybeRef& ref = table_.supports[number];
  if (!ref || ref->damaged()) return {};
  if (store_.packs.has(*ref, RecordKind::full)) return {*ref};
  if (const auto other = by_place(*ref); other && store_.packs.has(*other, RecordKind::full)) return {*other};
  const Places& places = by_digest(ref->digest);
  std::vector<Ref> refs = places.deltas;
  if (places.no_delta) refs.push_back(*places.no_delta);
  return refs;
}

LostSupports::Known LostSupports::load(const Ref& ref, RecordKind content) {
  if (last_.bytes != nullptr && last_.ref == ref && last_content_ == content) return last_;
  auto bytes = store_.packs.read_record({.ref = ref, .content = content, .plain_bytes = store_.plain_bytes(content)});
  if (!bytes) return {ref, nullptr};
  last_ = {ref, *bytes};
  last_content_ = content;
  return last_;
}

MaybeRef LostSupports::by_place(const Ref& ref) {
  const auto pack = store_.packs.table(ref.pack);
  if (!pack || ref.ordinal >= (*pack)->entries.size()) return {};
  return Ref{ref.pack, ref.ordinal, (*pack)->entries[ref.ordinal].digest};
}

const LostSupports::Places& LostSupports::by_digest(const Digest& digest) {
  static const Places kNone;
  if (!tables_read_) read_all_tables();
  const auto found = places_.find(digest);
  return found == places_.end() ? kNone : found->second;
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
      const Ref ref{pack, i, entry.digest};
      if (!is_delta(*entry.kind)) {
        wanted->second.no_delta = ref;
      } else if (wanted->second.deltas.size() < kMostDeltas) {
        wanted->second.deltas.push_back(ref);
      }
    }
  }
}

}  // namespace varve::chunks
