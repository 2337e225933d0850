// Random tests print their seed and take it from the environment: VARVE_SEED=N repeats a failure.
#pragma once

#include <cstdint>
#include <string_view>

namespace varve::test {

/// VARVE_SEED when set, else a fresh one; prints "seed of WHAT: N" on standard error.
[[nodiscard]] std::uint64_t seed_for(std::string_view what);

}  // namespace varve::test
