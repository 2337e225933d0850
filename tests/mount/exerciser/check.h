// What a disk may hold after the daemon was killed, or the power cut, at the end of a trace.
#pragma once

#include <string>
#include <vector>

#include "chooser.h"
#include "trace.h"
#include "world.h"

namespace exerciser {

enum class End {
  kill,   ///< every acknowledged operation is there
  power,  ///< each block of the live image is what it was at the last fsync that returned, or later
};

struct Verdict {
  std::vector<std::string> problems;
  std::uint64_t acknowledged = 0;  ///< operations
  std::uint64_t kept_snapshots = 0;
};

/// Compares what was found with what the trace allows, given the world that the work began in.
[[nodiscard]] Verdict check(const Exercise& exercise, End end, const World& begin, const Trace& trace,
                            const World& found);

}  // namespace exerciser
