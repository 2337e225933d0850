#include "pack_table.h"

#include <unordered_map>
#include <utility>

namespace varve::chunks {

PackTable::PackTable(std::uint32_t of_generation, std::uint32_t payloads_in, format::Table table,
                     const std::optional<format::Trailer>& at)
    : generation(of_generation), payloads(payloads_in), trailer(at), entries(std::move(table.entries)) {
  if (table.supports.empty()) return;
  std::unordered_map<PackId, std::uint32_t> positions;
  supports_.reserve(table.supports.size());
  first_.reserve(entries.size() + 1);
  for (const format::Support& support : table.supports) {
    while (first_.size() <= support.ordinal) first_.push_back(static_cast<std::uint32_t>(supports_.size()));
    const auto [position, added] = positions.emplace(support.ref.pack, static_cast<std::uint32_t>(packs_.size()));
    if (added) packs_.push_back(support.ref.pack);
    supports_.push_back({position->second, support.ref.ordinal, support.ref.digest});
  }
  while (first_.size() <= entries.size()) first_.push_back(static_cast<std::uint32_t>(supports_.size()));
  packs_.shrink_to_fit();
}

std::vector<Ref> PackTable::supports_of(std::uint32_t ordinal) const {
  std::vector<Ref> refs;
  if (first_.empty() || ordinal >= entries.size()) return refs;
  for (std::uint32_t i = first_[ordinal]; i < first_[ordinal + 1]; ++i) {
    refs.push_back(Ref{packs_[supports_[i].pack], supports_[i].ordinal, supports_[i].digest});
  }
  return refs;
}

std::size_t PackTable::memory_bytes() const {
  return sizeof(PackTable) + entries.capacity() * sizeof(format::Entry) + packs_.capacity() * sizeof(PackId) +
         supports_.capacity() * sizeof(Support) + first_.capacity() * sizeof(std::uint32_t);
}

}  // namespace varve::chunks
