#include "map_cursor.h"

namespace varve::chunks {

Result<LoadedNode> load_map_node(ChunkStore& store, const Ref& ref, int level) {
  VARVE_TRY_ASSIGN(BytesPointer bytes, store.load_node(ref));
  auto view = format::NodeView::parse(*bytes, level);
  if (!view) return tl::unexpected(view.error().in(to_text(ref)));
  return LoadedNode{ref, std::move(bytes), *view};
}

Result<MapCursor::Subtree> MapCursor::subtree(int level, std::uint64_t chunk) {
  MaybeRef ref = root_;
  int at = kRootLevel;
  while (ref && at > level) {
    VARVE_TRY_ASSIGN(const LoadedNode* found, node(at, *ref));
    ref = found->view.get(slot_of(at, chunk));
    --at;
  }
  return Subtree{ref, ref ? 0 : span_of(at) - chunk % span_of(at)};
}

Result<const LoadedNode*> MapCursor::node(int level, const Ref& ref) {
  LoadedNode& kept = path_[static_cast<std::size_t>(level)];
  if (kept.bytes == nullptr || kept.ref != ref) {
    VARVE_TRY_ASSIGN(kept, load_map_node(store_, ref, level));
  }
  return &kept;
}

}  // namespace varve::chunks
