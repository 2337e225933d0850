// Small packs share files: many incremental snapshots would else cost a file each.
#pragma once

#include <cstdint>
#include <functional>

#include "varve/chunks/chunk_store.h"

namespace varve::chunks {

/// Larger ones keep a file of their own: nothing is gained any more.
constexpr ByteCount kSmallPack{1 * kMiB};
constexpr std::size_t kEnoughSmallPacks = 64;

/// All may be left out.
struct JoinPacksOptions {
  std::size_t enough = kEnoughSmallPacks;
  std::function<bool()> stop;
  std::function<void(std::uint64_t bytes)> pace;
};

/// Packs stay what they are, id, generation and bytes; refs know nothing of it, and reading goes on. Not beside a
/// collection's or a repair's work on a pack: one waits for the other. Errors: of the object store; see there. Any thread.
[[nodiscard]] Result<objects::Joined> join_packs(ChunkStore& store, const JoinPacksOptions& options = {});
/// Damage to files of several packs, as sentences.
[[nodiscard]] Result<std::vector<std::string>> check_joined_packs(ChunkStore& store);

}  // namespace varve::chunks
