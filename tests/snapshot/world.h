// A record store in memory with helpers to make chunk maps of known content and to read them back the plain way.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "support/memory_storage.h"
#include "varve/chunks/chunk_map.h"
#include "varve/core/thread_pool.h"
#include "varve/objects/object_store.h"
#include "varve/snapshot/image.h"

namespace varve::snapshot::test {

using chunks::Bytes;
using chunks::MaybeRef;
using chunks::Ref;

constexpr Geometry kGeometry{ByteCount{16 * kKiB}};

/// Content of a chunk, told by a number: 0 is zeros, all others differ from each other. Compresses to a half.
Bytes content(std::uint64_t number, Geometry geometry = kGeometry);

/// An image as the contents of its chunks; what is not named is zeros.
using Model = std::map<std::uint64_t, std::uint64_t>;

/// Roots that live until they are let go of: what snapshots are to collect.
class Roots final : public chunks::RootOwner {
 public:
  explicit Roots(chunks::RootRegistry& registry) : registration_(registry.add(*this)) {}
  void visit_roots(const std::function<void(const MaybeRef&)>& visit) override {
    MutexLock lock(mutex_);
    for (const auto& root : roots_) visit(root);
  }
  void add(const MaybeRef& root) {
    MutexLock lock(mutex_);
    roots_.push_back(root);
  }
  void remove(const MaybeRef& root) {
    MutexLock lock(mutex_);
    std::erase(roots_, root);
  }

 private:
  Mutex mutex_;
  std::vector<MaybeRef> roots_ VARVE_GUARDED_BY(mutex_);
  chunks::RootRegistry::Registration registration_;
};

/// A store of packs; reopen() forgets all that was cached.
class World {
 public:
  explicit World(Geometry geometry = kGeometry, chunks::ChunkStoreOptions options = {});

  void reopen();
  /// A map made of `base` with `changes` (content numbers); everything durable, kept by `hold`.
  Result<MaybeRef> build(chunks::RootRegistry::Hold& hold, const MaybeRef& base, const Model& changes);
  /// The same, kept by `roots`.
  MaybeRef build(const MaybeRef& base, const Model& changes);
  /// Fails the test unless `root` is an image of `chunks` chunks with just this content.
  void expect_content(const MaybeRef& root, const Model& model, std::uint64_t chunks);

  /// File names of all packs in the storage.
  std::vector<std::string> pack_files();
  void flip_byte(const std::string& path, std::uint64_t at);
  /// Where a record's payload begins, according to the pack's table.
  std::uint64_t payload_offset(const std::string& path, std::uint32_t ordinal);

  const Geometry geometry;
  const chunks::ChunkStoreOptions options;
  varve::test::MemoryStorage storage;
  std::unique_ptr<objects::ObjectStore> objects;
  std::unique_ptr<chunks::Locator> locator;
  chunks::RootRegistry registry;
  Roots roots{registry};
  std::unique_ptr<chunks::ChunkStore> store;
  ThreadPool encoders{"encode", 2, 64};
  ThreadPool readers{"read", 3, 64};
  ThreadPool prefetchers{"prefetch", 2, 256};
};

/// How much there was.
inline Result<std::size_t> read_into(SnapshotImage& image, ByteOffset at, std::span<std::byte> out) {
  VARVE_TRY_ASSIGN(const ByteView view, image.view(at, ByteCount{out.size()}));
  view.copy_to(out);
  return view.size();
}

}  // namespace varve::snapshot::test
