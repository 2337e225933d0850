// Sizes as people write and read them.
#pragma once

#include <string>
#include <string_view>

#include "varve/core/result.h"
#include "varve/core/units.h"

namespace varve::cli {

/// "65536", "64K", "64k" or "64KiB"; K, M, G, T and P are powers of 1024. EINVAL (refused) with a sentence for
/// anything else: an empty word, a sign, a fraction, more than 2^63 - 1 bytes.
[[nodiscard]] Result<ByteCount> parse_size(std::string_view text);
/// "20 GiB", "1.5 MiB", "0 B".
[[nodiscard]] std::string readable_size(std::uint64_t bytes);

}  // namespace varve::cli
