// The chunk map: an immutable tree, chunk index -> ref, of one disk state. Height 4, fan-out 256, so 2^32 chunks.
// A node is a record: kind `node`, its bytes: level u8 (0 = leaf), 32-byte bitmap, then one 28-byte ref per set bit.
// A subtree of nothing but zeros has no node, and neither has the empty map. Equal contents give equal nodes. States
// share every node that did not change.
//
// A damaged ref (rule 10) is a ref like any other here: it is found, visited and told apart from zeros.
//
// Cost: a map of n chunks, each alone in its leaf, has n leaves of 61 bytes; a dense one costs 28 bytes a chunk, 448 MiB
// per TiB of 64 KiB chunks, incompressible.
#pragma once

#include <functional>
#include <memory>

#include "varve/chunks/chunk_store.h"

namespace varve::chunks {

constexpr int kMapHeight = 4;
constexpr std::uint64_t kMapFanOut = 256;

/// Reads maps. All functions: any thread; EIO (damaged) where a node is; system errors as they come. Nodes come from
/// the node cache. Memory: one path of nodes. Ranges end at kMaxChunksPerImage, whatever their count says.
class ChunkMap {
 public:
  ChunkMap(ChunkStore& store, MaybeRef root) : store_(store), root_(std::move(root)) {}
  [[nodiscard]] const MaybeRef& root() const { return root_; }

  [[nodiscard]] Result<MaybeRef> find(ChunkIndex chunk) const;
  /// Calls `visit` for each chunk in [first, first + count) that has a ref, in ascending order; skips empty subtrees
  /// whole. Stops at the first error `visit` returns.
  [[nodiscard]] Status for_each(ChunkIndex first, ChunkCount count,
                                const std::function<Status(ChunkIndex, const Ref&)>& visit) const;
  /// The first chunk >= `from` that has a ref (`data`) or has none (`hole`); kMaxChunksPerImage when there is none.
  /// next_hole reads every leaf of the data that it passes.
  [[nodiscard]] Result<ChunkIndex> next_data(ChunkIndex from) const;
  [[nodiscard]] Result<ChunkIndex> next_hole(ChunkIndex from) const;
  /// Calls `visit` for each chunk of the range whose refs differ between this map and `other`, ascending; equal
  /// subtrees are skipped unread. Equal content under different refs is reported as different.
  [[nodiscard]] Status diff(const ChunkMap& other, ChunkIndex first, ChunkCount count,
                            const std::function<Status(ChunkIndex, const MaybeRef& mine, const MaybeRef& theirs)>&
                                visit) const;

 private:
  ChunkStore& store_;
  MaybeRef root_;
};

/// Calls `visit` for each slot (0 … 255) of one node that is not all zeros, ascending. `level`: 3 for a root, 0 for
/// a leaf, whose refs are chunks. EIO (damaged) where the record is no node of that level. For walkers that must know
/// which node a record hangs on (check); all others use what is above.
[[nodiscard]] Status for_each_slot(ChunkStore& store, const Ref& node, int level,
                                   const std::function<Status(std::size_t slot, const Ref& ref)>& visit);

/// What a walk over all records that a root reaches calls.
struct RecordVisitor {
  /// A node or chunk in the map. False for one seen before: then nothing below it is walked.
  std::function<bool(const Ref&, RecordKind content)> first_visit;
  /// What a delta that was visited stands on. Nothing else is reached by that, neither what is below a node nor what a
  /// delta stands on that lends blocks: it counts as seen only when first_visit() has it too.
  std::function<void(const Ref&, RecordKind content)> visit_support;
  /// A node that cannot be read, or a record of which it cannot be told whether it stands on another. The walk goes on.
  std::function<void(const Ref&, const Error&)> on_damage;
  /// False: visit_support is only called for nodes. Who visits many chunks asks for what they stand on pack by pack
  /// (ChunkStore::pack_table): in the order of the maps, tables would be read again and again.
  bool supports_of_chunks = true;
};
/// For collect and check. Damaged chunk refs (rule 10) are visited, being in no pack.
void walk_records(ChunkStore& store, const MaybeRef& root, const RecordVisitor& visitor);

/// Builds a new map from `base` by operations in ascending, non-overlapping order; what they do not touch stays the
/// base's. Streams: memory is one node a level. A node equal to the base's in its place is the base's, without being
/// encoded; others are shared where the writer finds them by digest. So a map built back to equal contents has the
/// same root.
///
/// Whole aligned subtrees of zero() and splice() cost one ref, whatever they span. A splice whose two sides are not
/// equally aligned goes chunk by chunk, but skips the source's empty subtrees whole.
///
/// The caller holds `base` and every `source` (RootRegistry) until the new root has an owner.
///
/// Errors: EINVAL (refused) for a range out of order or beyond kMaxChunksPerImage; EIO (damaged) for a node that had to
/// be read; those of RecordWriter. After an error the builder only repeats it.
class MapBuilder {
 public:
  MapBuilder(ChunkStore& store, RecordWriter& writer, const MaybeRef& base);
  ~MapBuilder();
  /// Nothing: zeros.
  [[nodiscard]] Status set(ChunkIndex chunk, const MaybeRef& ref);
  [[nodiscard]] Status zero(ChunkIndex first, ChunkCount count);
  /// Chunks [first, first + count) become what `source` has at [source_first, …).
  [[nodiscard]] Status splice(ChunkIndex first, ChunkCount count, const MaybeRef& source, ChunkIndex source_first);
  /// The root; its nodes are durable after the writer's finish(). The builder is used up.
  [[nodiscard]] Result<MaybeRef> finish();

 private:
  struct Implementation;
  std::unique_ptr<Implementation> implementation_;
};

}  // namespace varve::chunks
