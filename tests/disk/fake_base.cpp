#include "fake_base.h"

#include <algorithm>

namespace varve::test {

OpaqueRoot FakeBase::add(Chunks chunks) {
  if (chunks.empty()) return {};
  MutexLock lock(mutex_);
  OpaqueRoot root;
  root.bytes[0] = std::byte{'R'};
  for (std::size_t i = 0; i < sizeof(next_root_); ++i) root.bytes[i + 1] = static_cast<std::byte>(next_root_ >> (8 * i));
  ++next_root_;
  maps_[root] = std::make_shared<const Chunks>(std::move(chunks));
  return root;
}

OpaqueRoot FakeBase::add(const SparseImage& image, Geometry geometry) {
  Chunks chunks;
  for (const auto& [index, unused] : image.blocks()) {
    const std::uint64_t chunk = geometry.chunk_of(ByteOffset{index * kBlockSize}).value();
    if (chunks.contains(chunk)) continue;
    chunks[chunk] = std::make_shared<const Content>(
        image.read(geometry.start_of(ChunkIndex{chunk}).value(), geometry.chunk_bytes()));
  }
  return add(std::move(chunks));
}

Result<FakeBase::Chunks> FakeBase::chunks_of(const OpaqueRoot& root) {
  VARVE_TRY_ASSIGN(const auto chunks, find(root));
  return *chunks;
}

void FakeBase::keep_only(const std::vector<OpaqueRoot>& roots) {
  MutexLock lock(mutex_);
  std::erase_if(maps_, [&](const auto& item) { return std::ranges::find(roots, item.first) == roots.end(); });
}

void FakeBase::fail_with(int code) {
  MutexLock lock(mutex_);
  failure_ = code;
}

Result<std::shared_ptr<const FakeBase::Chunks>> FakeBase::find(const OpaqueRoot& root) {
  MutexLock lock(mutex_);
  if (failure_ != 0) return fail_system(failure_, "read of a base map");
  if (root.empty()) return std::make_shared<const Chunks>();
  const auto it = maps_.find(root);
  if (it == maps_.end()) return fail_damaged("a base map that nobody held any more was read");
  return it->second;
}

Status FakeBase::read_chunk(const OpaqueRoot& root, ChunkIndex chunk, std::span<std::byte> out) {
  if (hook_) hook_();
  VARVE_TRY_ASSIGN(const auto chunks, find(root));
  const auto it = chunks->find(chunk.value());
  if (it == chunks->end()) {
    std::ranges::fill(out, std::byte{0});
  } else if (it->second->size() != out.size()) {
    return fail_refused(EINVAL, "a chunk was asked for in a wrong size");
  } else {
    std::ranges::copy(*it->second, out.begin());
  }
  return {};
}

bool FakeBase::holds(const OpaqueRoot& root, ChunkIndex chunk, std::span<const std::byte> bytes) {
  if (hook_) hook_();
  const auto chunks = find(root);
  if (!chunks) return false;
  const auto it = (*chunks)->find(chunk.value());
  return it != (*chunks)->end() && std::ranges::equal(*it->second, bytes);
}

Result<ChunkIndex> FakeBase::next(const OpaqueRoot& root, ChunkIndex from, ChunkIndex end, bool data) {
  VARVE_TRY_ASSIGN(const auto chunks, find(root));
  std::uint64_t at = from.value();
  auto it = chunks->lower_bound(at);
  if (data) return it == chunks->end() ? end : std::min(end, ChunkIndex{it->first});
  while (it != chunks->end() && it->first == at) ++it, ++at;
  return std::min(end, ChunkIndex{at});
}

}  // namespace varve::test
