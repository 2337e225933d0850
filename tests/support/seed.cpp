#include "support/seed.h"

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

}  // namespace varve::test
