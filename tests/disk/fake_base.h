// A BaseSource whose maps are in memory, and which knows who may still read them: a map that nobody holds any more is
// collected, and reading it is then an error, as it would be in a store.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "support/sparse_image.h"
#include "varve/core/sync.h"
#include "varve/disk/live_disk.h"

namespace varve::test {

/// Any thread.
class FakeBase final : public disk::BaseSource {
 public:
  using Chunk = std::shared_ptr<const Content>;
  using Chunks = std::map<std::uint64_t, Chunk>;

  [[nodiscard]] OpaqueRoot add(Chunks chunks) VARVE_EXCLUDES(mutex_);
  /// A map with the chunks of `image` that are not zeros.
  [[nodiscard]] OpaqueRoot add(const SparseImage& image, Geometry geometry) VARVE_EXCLUDES(mutex_);
  [[nodiscard]] Result<Chunks> chunks_of(const OpaqueRoot& root) VARVE_EXCLUDES(mutex_);
  /// All others are collected.
  void keep_only(const std::vector<OpaqueRoot>& roots) VARVE_EXCLUDES(mutex_);
  /// Called before each read, holding no lock.
  void set_hook(std::function<void()> hook) { hook_ = std::move(hook); }
  /// Every read fails with `code`; 0 ends it.
  void fail_with(int code) VARVE_EXCLUDES(mutex_);

  Status read_chunk(const OpaqueRoot& root, ChunkIndex chunk, std::span<std::byte> out) override;
  bool holds(const OpaqueRoot& root, ChunkIndex chunk, std::span<const std::byte> bytes) override;
  Result<ChunkIndex> next(const OpaqueRoot& root, ChunkIndex from, ChunkIndex end, bool data) override;

 private:
  Result<std::shared_ptr<const Chunks>> find(const OpaqueRoot& root) VARVE_EXCLUDES(mutex_);

  std::function<void()> hook_;
  Mutex mutex_;
  std::map<OpaqueRoot, std::shared_ptr<const Chunks>> maps_ VARVE_GUARDED_BY(mutex_);
  std::uint64_t next_root_ VARVE_GUARDED_BY(mutex_) = 1;
  int failure_ VARVE_GUARDED_BY(mutex_) = 0;
};

}  // namespace varve::test
