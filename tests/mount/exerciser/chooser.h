// Which operation comes next: a function of the seed and of the World as it is, and of nothing else. So whoever knows
// how many operations were acknowledged knows which.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "world.h"

namespace exerciser {

struct Exercise {
  std::uint64_t seed = 0;
  std::uint64_t capacity = 4 << 20;
  /// 1: all operations, on the whole image. More: each thread writes in a part of its own, and only the first takes and
  /// removes snapshots, which then catch the others in the middle of their work.
  unsigned threads = 1;
};

/// The part of the live image that a thread writes.
struct Part {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};
[[nodiscard]] Part part_of(const Exercise& exercise, unsigned thread);

class Chooser {
 public:
  Chooser(const Exercise& exercise, unsigned thread);
  /// The next operation, in the world that all before it have made.
  [[nodiscard]] Operation next(const World& world);

 private:
  [[nodiscard]] std::uint64_t below(std::uint64_t end);
  [[nodiscard]] Kind choose_kind(const World& world);
  void choose_range(const World& world, Operation& operation);
  void choose_source(const World& world, Operation& operation);
  [[nodiscard]] std::string choose_snapshot(const World& world);

  const Exercise exercise_;
  const unsigned thread_;
  const Part part_;
  std::mt19937_64 random_;
  std::uint64_t count_ = 0;
};

}  // namespace exerciser
