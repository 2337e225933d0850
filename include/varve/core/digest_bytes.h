// A digest as it is stored: XXH3's canonical form, 16 bytes, high half first, each half big-endian.
#pragma once

#include "varve/core/bytes.h"
#include "varve/core/digest.h"

namespace varve {

constexpr std::size_t kDigestSize = 16;

inline void put_digest(ByteWriter& out, const Digest& digest) {
  for (const std::uint64_t half : {digest.high, digest.low}) {
    for (int shift = 56; shift >= 0; shift -= 8) out.put(static_cast<std::uint8_t>(half >> shift));
  }
}

[[nodiscard]] inline Digest get_digest(ByteReader& in) {
  Digest digest;
  for (std::uint64_t* half : {&digest.high, &digest.low}) {
    for (int i = 0; i < 8; ++i) *half = *half << 8 | in.get<std::uint8_t>();
  }
  return digest;
}

}  // namespace varve
