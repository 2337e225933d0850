// The builder writes the new map from left to right. Invariants:
//
// 1. Everything before next is decided: it is in closed nodes, whose refs are in open ones, or in open nodes.
// 2. open[l] holds the decided slots of the one node of level l that next lies in; slots from next on are empty.
// 3. A node is closed (encoded, put, its ref given to its parent) at the moment next reaches its end.
//
// All operations come down to appending whole subtrees at next, of the largest span that position, source and length
// allow. A subtree taken over whole is one ref: its nodes are not read.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "map_cursor.h"
#include "varve/chunks/chunk_map.h"

namespace varve::chunks {
namespace {

/// Of the largest subtree that begins at `chunk` and does not span more than `count` chunks.
int largest_level(std::uint64_t chunk, std::uint64_t count) {
  int level = kChunkLevel;
  while (level < kRootLevel && chunk % span_of(level + 1) == 0 && span_of(level + 1) <= count) ++level;
  return level;
}

}  // namespace

struct MapBuilder::Implementation {
  Implementation(ChunkStore& chunk_store, RecordWriter& record_writer, const MaybeRef& base_root)
      : store(chunk_store), writer(record_writer), base(chunk_store, base_root) {}

  /// Appends the base up to `first`, then `operation`; repeats the first error for ever.
  template <class Operation>
  [[nodiscard]] Status run(std::uint64_t first, std::uint64_t count, Operation operation);
  [[nodiscard]] Status copy(MapCursor& source, std::uint64_t source_first, std::uint64_t count);
  [[nodiscard]] Status append_zeros(std::uint64_t count);
  [[nodiscard]] Status append(int level, const MaybeRef& subtree);
  [[nodiscard]] Result<MaybeRef> close(int level, std::uint64_t start);

  ChunkStore& store;
  RecordWriter& writer;
  MapCursor base;
  std::uint64_t next = 0;
  std::array<format::NodeSlots, kMapHeight> open{};
  std::array<std::size_t, kMapHeight> used{};  ///< slots set in open
  MaybeRef root;                               ///< when next has reached the end
  Status failed;
};

MapBuilder::MapBuilder(ChunkStore& store, RecordWriter& writer, const MaybeRef& base)
    : implementation_(std::make_unique<Implementation>(store, writer, base)) {}
MapBuilder::~MapBuilder() = default;

Status MapBuilder::set(ChunkIndex chunk, const MaybeRef& ref) {
  return implementation_->run(chunk.value(), 1, [&] { return implementation_->append(kChunkLevel, ref); });
}

Status MapBuilder::zero(ChunkIndex first, ChunkCount count) {
  return implementation_->run(first.value(), count.value(),
                              [&] { return implementation_->append_zeros(count.value()); });
}

Status MapBuilder::splice(ChunkIndex first, ChunkCount count, const MaybeRef& source, ChunkIndex source_first) {
  if (source_first.value() > kMaxChunksPerImage || count.value() > kMaxChunksPerImage - source_first.value()) {
    return fail_refused(EINVAL, "the source of a splice reaches beyond the largest image");
  }
  MapCursor cursor(implementation_->store, source);
  return implementation_->run(first.value(), count.value(),
                              [&] { return implementation_->copy(cursor, source_first.value(), count.value()); });
}

Result<MaybeRef> MapBuilder::finish() {
  VARVE_TRY(implementation_->run(kMaxChunksPerImage, 0, [] { return Status{}; }));
  return implementation_->root;
}

template <class Operation>
Status MapBuilder::Implementation::run(std::uint64_t first, std::uint64_t count, Operation operation) {
  if (!failed) return failed;
  if (first < next || first > kMaxChunksPerImage || count > kMaxChunksPerImage - first) {
    return fail_refused(EINVAL,
                        fmt::format("chunks {} to {} cannot follow chunk {} in a map", first, first + count, next));
  }
  failed = copy(base, next, first - next);
  if (failed) failed = operation();
  return failed;
}

Status MapBuilder::Implementation::copy(MapCursor& source, std::uint64_t source_first, std::uint64_t count) {
  // Zeros are gathered up to the next data: their subtrees in the source seldom begin and end where ours do.
  std::uint64_t zeros = 0;
  for (std::uint64_t done = 0; done < count;) {
    const std::uint64_t from = source_first + done;
    int level = largest_level(next + zeros, count - done);
    while (from % span_of(level) != 0) --level;
    VARVE_TRY_ASSIGN(const auto found, source.subtree(level, from));
    if (found.ref) {
      VARVE_TRY(append_zeros(std::exchange(zeros, 0)));
      VARVE_TRY(append(level, found.ref));
      done += span_of(level);
    } else {
      const std::uint64_t length = std::min(found.empty, count - done);
      zeros += length;
      done += length;
    }
  }
  return append_zeros(zeros);
}

Status MapBuilder::Implementation::append_zeros(std::uint64_t count) {
  const std::uint64_t end = next + count;
  while (next < end) VARVE_TRY(append(largest_level(next, end - next), std::nullopt));
  return {};
}

Status MapBuilder::Implementation::append(int level, const MaybeRef& subtree) {
  MaybeRef ref = subtree;
  next += span_of(level);
  const std::uint64_t last = next - 1;  // lies in the subtree and in all its ancestors
  for (int parent = level + 1; parent <= kRootLevel; ++parent) {
    const auto at = static_cast<std::size_t>(parent);
    open[at][slot_of(parent, last)] = ref;
    if (ref) ++used[at];
    if (next % span_of(parent) != 0) return {};
    VARVE_TRY_ASSIGN(ref, close(parent, next - span_of(parent)));
  }
  root = ref;
  return {};
}

/// The open node of `level`, which begins at chunk `start`, is complete: its ref, nothing when it is all zeros.
Result<MaybeRef> MapBuilder::Implementation::close(int level, std::uint64_t start) {
  const auto at = static_cast<std::size_t>(level);
  if (used[at] == 0) return MaybeRef{};
  Bytes bytes;
  format::put_node(bytes, level, open[at]);
  open[at].fill(std::nullopt);
  used[at] = 0;
  // A base that cannot be read here can still be replaced: what of it is needed was read by copy().
  MaybeRef similar;
  if (const auto before = base.subtree(level, start); before && before->ref) {
    const auto node = base.node(level, *before->ref);
    if (node && std::ranges::equal((*node)->view.bytes(), bytes)) return before->ref;
    if (node) similar = before->ref;
  }
  VARVE_TRY_ASSIGN(const Ref ref, writer.put_node(bytes, similar));
  return MaybeRef(ref);
}

}  // namespace varve::chunks
