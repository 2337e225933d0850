#include "varve/chunks/chunk_map.h"

#include <algorithm>

#include "map_cursor.h"

namespace varve::chunks {
namespace {

constexpr std::uint64_t kAll = kMaxChunksPerImage;

/// A range of chunks, cut at the end of the map.
struct Range {
  std::uint64_t begin;
  std::uint64_t end;
  Range(ChunkIndex first, ChunkCount count)
      : begin(std::min(first.value(), kAll)), end(begin + std::min(count.value(), kAll - begin)) {}
};

/// The slots of the node of `level` that begins at chunk `start` which overlap the range: [first, last).
struct SlotRange {
  std::size_t first = 0;
  std::size_t last = kMapFanOut;
  SlotRange(Range range, int level, std::uint64_t start) {
    const std::uint64_t span = span_of(level - 1);
    if (range.begin > start) first = static_cast<std::size_t>((range.begin - start) / span);
    if (range.end < start + span_of(level)) last = static_cast<std::size_t>((range.end - start + span - 1) / span);
  }
};

using Visit = std::function<Status(ChunkIndex, const Ref&)>;

Status visit_subtree(ChunkStore& store, const Ref& ref, int level, std::uint64_t start, Range range,
                     const Visit& visit) {
  if (level == kChunkLevel) return visit(ChunkIndex{start}, ref);
  VARVE_TRY_ASSIGN(const LoadedNode node, load_map_node(store, ref, level));
  const SlotRange slots(range, level, start);
  for (std::size_t slot = node.view.next_set(slots.first); slot < slots.last; slot = node.view.next_set(slot + 1)) {
    VARVE_TRY(visit_subtree(store, *node.view.get(slot), level - 1, start + slot * span_of(level - 1), range, visit));
  }
  return {};
}

using DiffVisit = std::function<Status(ChunkIndex, const MaybeRef&, const MaybeRef&)>;

/// Nothing: a node without any slot set.
Result<LoadedNode> load_node_or_zeros(ChunkStore& store, const MaybeRef& ref, int level) {
  return ref ? load_map_node(store, *ref, level) : LoadedNode{};
}

/// Two subtrees in the same place, known to differ.
Status diff_subtrees(ChunkStore& my_store, const MaybeRef& mine, ChunkStore& their_store, const MaybeRef& theirs,
                     int level, std::uint64_t start, Range range, const DiffVisit& visit) {
  if (level == kChunkLevel) return visit(ChunkIndex{start}, mine, theirs);
  VARVE_TRY_ASSIGN(const LoadedNode my_node, load_node_or_zeros(my_store, mine, level));
  VARVE_TRY_ASSIGN(const LoadedNode their_node, load_node_or_zeros(their_store, theirs, level));
  const SlotRange slots(range, level, start);
  for (std::size_t slot = slots.first; slot < slots.last; ++slot) {
    const MaybeRef my_ref = my_node.view.get(slot);
    const MaybeRef their_ref = their_node.view.get(slot);
    if (my_ref == their_ref) continue;
    VARVE_TRY(diff_subtrees(my_store, my_ref, their_store, their_ref, level - 1, start + slot * span_of(level - 1),
                            range, visit));
  }
  return {};
}

void walk_supports(ChunkStore& store, const Ref& ref, RecordKind content, const RecordVisitor& visitor) {
  const auto supports = store.supports_of(ref);
  if (!supports) return visitor.on_damage(ref, supports.error());
  for (const Ref& support : *supports) visitor.visit_support(support, content);
}

void walk_node(ChunkStore& store, const Ref& ref, int level, const RecordVisitor& visitor) {
  if (!visitor.first_visit(ref, RecordKind::node)) return;
  const auto node = load_map_node(store, ref, level);
  if (!node) return visitor.on_damage(ref, node.error());
  walk_supports(store, ref, RecordKind::node, visitor);
  for (std::size_t slot = node->view.next_set(0); slot < kMapFanOut; slot = node->view.next_set(slot + 1)) {
    const Ref child = *node->view.get(slot);
    if (level > 0) {
      walk_node(store, child, level - 1, visitor);
    } else if (visitor.first_visit(child, RecordKind::full) && visitor.supports_of_chunks) {
      walk_supports(store, child, RecordKind::full, visitor);
    }
  }
}

}  // namespace

Result<MaybeRef> ChunkMap::find(ChunkIndex chunk) const {
  if (chunk.value() >= kAll) return MaybeRef{};
  VARVE_TRY_ASSIGN(const auto found, MapCursor(store_, root_).subtree(kChunkLevel, chunk.value()));
  return found.ref;
}

Status ChunkMap::for_each(ChunkIndex first, ChunkCount count, const Visit& visit) const {
  const Range range(first, count);
  if (!root_ || range.begin == range.end) return {};
  return visit_subtree(store_, *root_, kRootLevel, 0, range, visit);
}

Result<ChunkIndex> ChunkMap::next_data(ChunkIndex from) const {
  MapCursor cursor(store_, root_);
  std::uint64_t at = from.value();
  while (at < kAll) {
    VARVE_TRY_ASSIGN(const auto found, cursor.subtree(kChunkLevel, at));
    if (found.ref) return ChunkIndex{at};
    at += found.empty;
  }
  return ChunkIndex{kAll};
}

Result<ChunkIndex> ChunkMap::next_hole(ChunkIndex from) const {
  MapCursor cursor(store_, root_);
  std::uint64_t at = from.value();
  while (at < kAll) {
    VARVE_TRY_ASSIGN(const auto leaf, cursor.subtree(0, at));
    if (!leaf.ref) return ChunkIndex{at};
    VARVE_TRY_ASSIGN(const LoadedNode* node, cursor.node(0, *leaf.ref));
    const std::size_t slot = node->view.next_clear(slot_of(0, at));
    if (slot < kMapFanOut) return ChunkIndex{at - slot_of(0, at) + slot};
    at += kMapFanOut - slot_of(0, at);
  }
  return ChunkIndex{kAll};
}

Status ChunkMap::diff(const ChunkMap& other, ChunkIndex first, ChunkCount count, const DiffVisit& visit) const {
  const Range range(first, count);
  if (root_ == other.root_ || range.begin == range.end) return {};
  return diff_subtrees(store_, root_, other.store_, other.root_, kRootLevel, 0, range, visit);
}

Status for_each_slot(ChunkStore& store, const Ref& node, int level,
                     const std::function<Status(std::size_t slot, const Ref& ref)>& visit) {
  VARVE_TRY_ASSIGN(const LoadedNode loaded, load_map_node(store, node, level));
  for (std::size_t slot = loaded.view.next_set(0); slot < kMapFanOut; slot = loaded.view.next_set(slot + 1)) {
    VARVE_TRY(visit(slot, *loaded.view.get(slot)));
  }
  return {};
}

void walk_records(ChunkStore& store, const MaybeRef& root, const RecordVisitor& visitor) {
  if (root) walk_node(store, *root, kRootLevel, visitor);
}

}  // namespace varve::chunks
