// What an encoder thread makes of one chunk of a commit: commit.cpp has the table of it.
#pragma once

#include <functional>
#include <optional>
#include <span>

#include "varve/chunks/chunk_store.h"
#include "varve/disk/live_disk.h"

namespace varve::snapshot {

/// What an encoder made of a chunk.
struct Outcome {
  enum class Kind { zeros, parent, delta, full, unreadable };
  Kind kind = Kind::full;
  Digest digest;  ///< full and delta
  chunks::Encoded encoded;  ///< full
  chunks::EncodedDelta delta{};
  Error error{};            ///< unreadable
};

/// A chunk on its way through an encoder. `bytes` outlives it.
struct EncoderTask {
  chunks::ChunkStore& chunks;
  std::span<std::byte> bytes;
  std::size_t inside = 0;                 ///< of the image; behind its end are zeros
  chunks::MaybeRef parent;                ///< P's chunk; nothing: none that could help
  std::optional<disk::BlockSet> changed;  ///< only these are in `bytes`, the others are the parent's
  bool maybe_delta = false;               ///< few blocks may differ from the parent's
  Digest digest;                          ///< of `bytes` when they are whole
  std::function<Status(std::span<std::byte>)> read_whole;

  Result<Outcome> run();

 private:
  Result<std::optional<Outcome>> complete(const chunks::BytesPointer& parent_bytes);
  Result<std::optional<Outcome>> try_delta(const chunks::DeltaParent& loaded) const;
};

}  // namespace varve::snapshot
