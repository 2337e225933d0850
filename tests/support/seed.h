// Random tests print their seed and take it from the environment: VARVE_SEED=N repeats a failure.
#pragma once

#include <cstdint>
#include <string_view>

namespace varve::test {

/// VARVE_SEED when set, else a fresh one; prints "seed of WHAT: N" on standard error.
[[nodiscard]] std::uint64_t seed_for(std::string_view what);

/// A number of the test's own from the environment.
[[nodiscard]] std::uint64_t number_from(const char* variable, std::uint64_t otherwise);

/// VARVE_TEST_STRIDE: tests that go through every point of something (calls, bytes) take every so manieth only. 1 unless
/// set: for builds in which all of them take too long.
[[nodiscard]] std::uint64_t stride();
/// Where such a test begins: less than stride() behind `first`, drawn once a run (VARVE_SEED).
[[nodiscard]] std::uint64_t from_point(std::uint64_t first);

}  // namespace varve::test
