// Lengths of time as people write and read them.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "varve/core/result.h"

namespace varve::cli {

/// "90s", "15m", "6h", "7d", "2w": a number from 1 and a unit. EINVAL (refused) with a sentence for anything else.
[[nodiscard]] Result<std::chrono::duration<std::uint64_t>> parse_duration(std::string_view text);
/// The same way, in the largest unit that says it exactly.
[[nodiscard]] std::string readable_duration(std::uint64_t seconds);

}  // namespace varve::cli
