#include "read_streams.h"

#include <algorithm>

namespace varve::snapshot {
namespace {

using objects::Access;

constexpr std::uint64_t kNear = 256 * kKiB;   ///< how far from a stream's place a read still belongs to it …
constexpr std::uint64_t kNearInRequests = 4;  ///< … or this many requests of its size
constexpr int kAdvancesToTrust = 2;
constexpr std::uint64_t kFirstDepth = 2;

}  // namespace

ReadStreams::Ahead ReadStreams::note(ByteOffset at, ByteCount count) {
  const std::uint64_t first_chunk = geometry_.chunk_of(at).value();
  const std::uint64_t end = at.value() + count.value();
  const std::uint64_t last_chunk = geometry_.chunk_of(ByteOffset{end - 1}).value();
  MutexLock lock(mutex_);
  Stream* stream = find(at.value(), count.value());
  if (stream == nullptr) {
    stream = &oldest();
    *stream = Stream{end, 0, 0, 0, 0};
  } else if (end > stream->next) {
    advance(*stream, end);
  }
  stream->used = ++clock_;
  const std::uint64_t own = std::min(last_chunk + 1, first_chunk + 1 + deepest_);
  const std::uint64_t until = std::max(own, stream->depth == 0 ? 0 : last_chunk + 1 + stream->depth);
  const std::uint64_t from = std::max(first_chunk + 1, stream->ahead_until);
  if (until <= from) return {};
  stream->ahead_until = until;
  return {ChunkIndex{from}, ChunkCount{until - from}, stream->depth > 0 ? Access::sequential : Access::random};
}

ReadStreams::Stream* ReadStreams::find(std::uint64_t at, std::uint64_t count) {
  Stream* nearest = nullptr;
  std::uint64_t least = std::max(kNear, kNearInRequests * count) + 1;
  for (Stream& stream : streams_) {
    if (stream.used == 0) continue;
    const std::uint64_t distance = at > stream.next ? at - stream.next : stream.next - at;
    if (distance >= least) continue;
    least = distance;
    nearest = &stream;
  }
  return nearest;
}

ReadStreams::Stream& ReadStreams::oldest() {
  return *std::ranges::min_element(streams_, {}, &Stream::used);
}

void ReadStreams::advance(Stream& stream, std::uint64_t end) {
  const bool new_chunk = geometry_.chunk_of(ByteOffset{end - 1}) != geometry_.chunk_of(ByteOffset{stream.next - 1});
  stream.next = end;
  if (stream.advances < kAdvancesToTrust) ++stream.advances;
  if (stream.advances < kAdvancesToTrust || deepest_ == 0) return;
  if (stream.depth == 0) {
    stream.depth = std::min(kFirstDepth, deepest_);
  } else if (new_chunk) {
    stream.depth = std::min(stream.depth * 2, deepest_);
  }
}

}  // namespace varve::snapshot
