// The complete snapshots of a disk by id, in ascending order, as a value that is copied for nothing: copies share all that
// is in them, and a change of one makes anew only the few kilobytes that it touches. So a disk's state can be handed out
// after each record of its log, whatever the number of snapshots.
//
//     table -> spine -> leaves of at most kLeafItems entries, ascending; none is empty
//
// A change copies one leaf and the spine: 64 entries, and a pointer for every 64 snapshots (for every 16 after the most
// scattered deletions): two microseconds with 10,000. Memory: some 25 bytes a snapshot, once for all copies.
#pragma once

#include <cstddef>
#include <iterator>
#include <memory>
#include <utility>
#include <vector>

#include "varve/core/units.h"

namespace varve::catalog {

struct SnapshotEntry;

/// Const functions from any thread; what two tables share is never changed.
class SnapshotTable {
 public:
  /// Never null. Never changed: a rename puts a new entry in its stead.
  using Entry = std::shared_ptr<const SnapshotEntry>;
  using Item = std::pair<SnapshotId, Entry>;

 private:
  using Leaf = std::vector<Item>;
  using Spine = std::vector<std::shared_ptr<const Leaf>>;

 public:
  /// Valid while the table, or a copy of it, is there and was not changed.
  class Iterator {
   public:
    using iterator_category = std::bidirectional_iterator_tag;
    using value_type = Item;
    using difference_type = std::ptrdiff_t;
    using pointer = const Item*;
    using reference = const Item&;

    Iterator() = default;
    reference operator*() const { return (*(*spine_)[leaf_])[item_]; }
    pointer operator->() const { return &**this; }
    Iterator& operator++();
    Iterator operator++(int) { return std::exchange(*this, std::next(*this)); }
    Iterator& operator--();
    Iterator operator--(int) { return std::exchange(*this, std::prev(*this)); }
    friend bool operator==(const Iterator&, const Iterator&) = default;

   private:
    friend class SnapshotTable;
    Iterator(const Spine* spine, std::size_t leaf, std::size_t item) : spine_(spine), leaf_(leaf), item_(item) {}
    const Spine* spine_ = nullptr;
    std::size_t leaf_ = 0;  ///< that of end() is behind the last, and its item 0
    std::size_t item_ = 0;
  };

  SnapshotTable();
  /// `items` are ascending, no id is there twice.
  [[nodiscard]] static SnapshotTable of_ascending(const std::vector<Item>& items);

  [[nodiscard]] bool empty() const { return size_ == 0; }
  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] Iterator begin() const { return {spine_.get(), 0, 0}; }
  [[nodiscard]] Iterator end() const { return {spine_.get(), spine_->size(), 0}; }
  [[nodiscard]] auto rbegin() const { return std::make_reverse_iterator(end()); }
  [[nodiscard]] auto rend() const { return std::make_reverse_iterator(begin()); }
  [[nodiscard]] Iterator find(SnapshotId id) const;
  [[nodiscard]] bool contains(SnapshotId id) const { return find(id) != end(); }
  /// It must be there.
  [[nodiscard]] const Entry& at(SnapshotId id) const;

  /// In the stead of the one of that id, if there is one.
  void set(SnapshotId id, Entry entry);
  /// Nothing when there is none.
  void erase(SnapshotId id);

 private:
  /// The leaf in which `id` is or would be.
  [[nodiscard]] std::size_t leaf_for(SnapshotId id) const;
  void put_leaf(std::size_t at, Leaf leaf, std::size_t replaced);

  std::shared_ptr<const Spine> spine_;  ///< never null
  std::size_t size_ = 0;
};

}  // namespace varve::catalog
