#include "varve/chunks/join_packs.h"

#include "chunk_store_implementation.h"

namespace varve::chunks {

Result<objects::Joined> join_packs(ChunkStore& store, const JoinPacksOptions& options) {
  auto& parts = ChunkStore::Implementation::of(store);
  // Who frees records or repairs removes files and makes holes in them: never while they are copied.
  MutexLock lock(parts.rewriting);
  return parts.objects.join({.folder = std::string(format::kPacksFolder),
                             .small = kSmallPack,
                             .enough = options.enough,
                             .file_bytes = 0,
                             .stop = options.stop,
                             .pace = options.pace});
}

Result<std::vector<std::string>> check_joined_packs(ChunkStore& store) {
  return ChunkStore::Implementation::of(store).objects.check();
}

}  // namespace varve::chunks
