#include "varve/catalog/snapshot_table.h"

#include <algorithm>
#include <stdexcept>

namespace varve::catalog {
namespace {

constexpr std::size_t kLeafItems = 64;
/// A leaf from which one was deleted joins a neighbour when both have no more than this: any two neighbours stay a quarter
/// full, and one that was just divided is not joined by the next deletion.
constexpr std::size_t kJoinedItems = kLeafItems / 2;

bool is_before(const SnapshotTable::Item& item, SnapshotId id) { return item.first < id; }

}  // namespace

SnapshotTable::Iterator& SnapshotTable::Iterator::operator++() {
  if (++item_ < (*spine_)[leaf_]->size()) return *this;
  ++leaf_;
  item_ = 0;
  return *this;
}

SnapshotTable::Iterator& SnapshotTable::Iterator::operator--() {
  if (item_ == 0) item_ = (*spine_)[--leaf_]->size();
  --item_;
  return *this;
}

SnapshotTable::SnapshotTable() : spine_(std::make_shared<const Spine>()) {}

SnapshotTable SnapshotTable::of_ascending(const std::vector<Item>& items) {
  auto spine = std::make_shared<Spine>();
  for (auto from = items.begin(); from != items.end();) {
    const auto until = from + std::min(items.end() - from, static_cast<std::ptrdiff_t>(kLeafItems));
    spine->push_back(std::make_shared<const Leaf>(from, until));
    from = until;
  }
  SnapshotTable table;
  table.spine_ = std::move(spine);
  table.size_ = items.size();
  return table;
}

std::size_t SnapshotTable::leaf_for(SnapshotId id) const {
  const auto after = std::ranges::upper_bound(*spine_, id, {}, [](const auto& leaf) { return leaf->front().first; });
  return after == spine_->begin() ? 0 : static_cast<std::size_t>(after - spine_->begin()) - 1;
}

SnapshotTable::Iterator SnapshotTable::find(SnapshotId id) const {
  if (empty()) return end();
  const std::size_t at = leaf_for(id);
  const Leaf& leaf = *(*spine_)[at];
  const auto item = std::lower_bound(leaf.begin(), leaf.end(), id, is_before);
  if (item == leaf.end() || item->first != id) return end();
  return {spine_.get(), at, static_cast<std::size_t>(item - leaf.begin())};
}

const SnapshotTable::Entry& SnapshotTable::at(SnapshotId id) const {
  const auto found = find(id);
  if (found == end()) throw std::out_of_range("no such snapshot");
  return found->second;
}

/// `leaf` in the stead of `replaced` leaves from `at` on; in two when it is too large for one. Appending fills leaves up:
/// what is divided off the end is the new item alone.
void SnapshotTable::put_leaf(std::size_t at, Leaf leaf, std::size_t replaced) {
  auto spine = std::make_shared<Spine>();
  spine->reserve(spine_->size() + 1);
  const auto from = spine_->begin() + static_cast<std::ptrdiff_t>(at);
  const auto until = from + static_cast<std::ptrdiff_t>(replaced);
  spine->insert(spine->end(), spine_->begin(), from);
  if (leaf.size() > kLeafItems) {
    const bool at_end = until == spine_->end();
    const auto middle = leaf.begin() + static_cast<std::ptrdiff_t>(at_end ? kLeafItems : leaf.size() / 2);
    spine->push_back(std::make_shared<const Leaf>(leaf.begin(), middle));
    leaf.erase(leaf.begin(), middle);
  }
  if (!leaf.empty()) spine->push_back(std::make_shared<const Leaf>(std::move(leaf)));
  spine->insert(spine->end(), until, spine_->end());
  spine_ = std::move(spine);
}

void SnapshotTable::set(SnapshotId id, Entry entry) {
  const std::size_t at = empty() ? 0 : leaf_for(id);
  Leaf leaf;
  leaf.reserve(kLeafItems + 1);
  if (!empty()) leaf = *(*spine_)[at];
  const auto item = std::lower_bound(leaf.begin(), leaf.end(), id, is_before);
  if (item != leaf.end() && item->first == id) {
    item->second = std::move(entry);
  } else {
    leaf.emplace(item, id, std::move(entry));
    ++size_;
  }
  put_leaf(at, std::move(leaf), spine_->empty() ? 0 : 1);
}

void SnapshotTable::erase(SnapshotId id) {
  const auto found = find(id);
  if (found == end()) return;
  std::size_t at = found.leaf_;
  Leaf leaf = *(*spine_)[at];
  leaf.erase(leaf.begin() + static_cast<std::ptrdiff_t>(found.item_));
  --size_;
  const auto joins = [&](std::size_t neighbour) {
    return neighbour < spine_->size() && leaf.size() + (*spine_)[neighbour]->size() <= kJoinedItems;
  };
  std::size_t replaced = 1;
  if (at > 0 && joins(at - 1)) {
    const Leaf& before = *(*spine_)[--at];
    leaf.insert(leaf.begin(), before.begin(), before.end());
    replaced = 2;
  } else if (joins(at + 1)) {
    const Leaf& after = *(*spine_)[at + 1];
    leaf.insert(leaf.end(), after.begin(), after.end());
    replaced = 2;
  }
  put_leaf(at, std::move(leaf), replaced);
}

}  // namespace varve::catalog
