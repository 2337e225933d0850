#include "support/seed.h"

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <random>

namespace varve::test {

std::uint64_t seed_for(std::string_view what) {
  std::uint64_t seed = 0;
  if (const char* given = std::getenv("VARVE_SEED"); given != nullptr) {
    seed = std::strtoull(given, nullptr, 0);
  } else {
    std::random_device random;
    seed = (std::uint64_t{random()} << 32U) | random();
  }
  std::cerr << "seed of " << what << ": " << seed << " (repeat with VARVE_SEED)\n";
  return seed;
}

std::uint64_t number_from(const char* variable, std::uint64_t otherwise) {
  const char* given = std::getenv(variable);
  return given != nullptr ? std::strtoull(given, nullptr, 0) : otherwise;
}

std::uint64_t stride() {
  static const std::uint64_t value = std::max<std::uint64_t>(number_from("VARVE_TEST_STRIDE", 1), 1);
  return value;
}

std::uint64_t from_point(std::uint64_t first) {
  static const std::uint64_t offset = stride() > 1 ? seed_for("the first point") % stride() : 0;
  return first + offset;
}

}  // namespace varve::test
