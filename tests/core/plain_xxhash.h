// The functions of <xxhash.h> as they are: <varve/core/xxh3.h> replaces them by macros.
#pragma once

#include <cstdint>
#include <span>

#include "varve/core/digest.h"

namespace varve::test {

[[nodiscard]] Digest plain_digest_of(std::span<const std::byte> bytes);
[[nodiscard]] std::uint64_t plain_hash_of(std::span<const std::byte> bytes, std::uint64_t seed);

}  // namespace varve::test
