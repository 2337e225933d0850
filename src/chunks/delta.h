// Deltas: a chunk or a map node as what changes its base, another record of the same content, into it. The payloads are
// described in format.h. A base is never a delta itself.
//
// A chunk's delta may also take blocks from deltas that were written before it, its lenders, so that it stores nothing but
// what changed since the last snapshot. It names them all itself, and of each only that one's own blocks are taken: no
// chain of deltas has to be followed, and what a lender stands on is not needed.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "varve/chunks/chunk_store.h"

namespace varve::chunks {

/// A set of the blocks of a chunk as a payload has it: one bit each, valid as long as the payload is.
class BlockBits {
 public:
  explicit BlockBits(std::span<const std::byte> bytes = {}) : bytes_(bytes) {}
  [[nodiscard]] bool test(std::size_t block) const {
    return (std::to_integer<unsigned>(bytes_[block / 8]) >> (block % 8) & 1) != 0;
  }
  [[nodiscard]] std::size_t count() const;
  [[nodiscard]] std::span<const std::byte> bytes() const { return bytes_; }

 private:
  std::span<const std::byte> bytes_;
};

/// The payload of a chunk's delta, taken apart; valid as long as the payload is.
struct ChunkDelta {
  BlockBits own;
  std::vector<BlockBits> lent;          ///< by lender
  std::span<const std::byte> encoded;   ///< its own blocks

  /// EIO (damaged) unless each set has a block, none has one beyond the chunk, and no block is in two.
  [[nodiscard]] static Result<ChunkDelta> parse(std::span<const std::byte> payload, std::size_t chunk_bytes,
                                                std::size_t lenders);
  /// Writes those of its own blocks that `wanted` has to their places in `chunk`. EIO (damaged), with nothing written,
  /// when it does not have them all.
  [[nodiscard]] Status copy_own_blocks(Codec codec, BlockBits wanted, std::span<std::byte> chunk) const;
};

/// What the payload makes of node `base`: exactly out.size() bytes or EIO (damaged). Never reads or writes beyond the
/// spans, whatever the payload says.
[[nodiscard]] Status apply_node_delta(Codec codec, std::span<const std::byte> payload, std::span<const std::byte> base,
                                      std::span<std::byte> out);

/// How many bytes the node has that the payload makes of node `base`; 0 when none. For repair: a table says it.
[[nodiscard]] std::size_t node_delta_size(Codec codec, std::span<const std::byte> payload,
                                          std::span<const std::byte> base);

/// The payload of a delta that makes node `plain` of node `base`. Nothing when it does not pay: more than half of it
/// differs, or it would be as long as a record of its own. EIO (damaged) when it does not decode to `plain`.
[[nodiscard]] Result<std::optional<Encoded>> encode_node_delta(std::span<const std::byte> base,
                                                               std::span<const std::byte> plain,
                                                               Compression compression);

}  // namespace varve::chunks
