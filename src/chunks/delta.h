// Deltas: a chunk or a map node as what changes its base, another record of the same content, into it. The payloads are
// described in format.h. A base is never a delta itself.
#pragma once

#include <optional>
#include <span>

#include "varve/chunks/chunk_store.h"

namespace varve::chunks {

/// The payload of a delta that makes `plain` of `base`, both whole chunks (kind delta) or nodes (kind node_delta).
/// Nothing when it does not pay: more than half of it differs, or it would be as long as a record of its own.
/// EIO (damaged) when it does not decode to `plain`.
[[nodiscard]] Result<std::optional<Encoded>> encode_delta(RecordKind kind, std::span<const std::byte> base,
                                                          std::span<const std::byte> plain, Compression compression);

/// What the payload makes of `base`: exactly out.size() bytes or EIO (damaged). Never reads or writes beyond the spans,
/// whatever the payload says.
[[nodiscard]] Status apply_delta(RecordKind kind, Codec codec, std::span<const std::byte> payload,
                                 std::span<const std::byte> base, std::span<std::byte> out);

/// How many bytes the node has that the payload makes of node `base`; 0 when none. For repair: a table says it.
[[nodiscard]] std::size_t node_delta_size(Codec codec, std::span<const std::byte> payload,
                                          std::span<const std::byte> base);

}  // namespace varve::chunks
