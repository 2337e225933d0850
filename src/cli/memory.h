// How much memory the daemon takes: enough to be fast, and little enough that a small machine whose disks it serves is
// not out of memory for it.
#pragma once

#include <cstddef>
#include <string>

#include "varve/core/units.h"

namespace varve::cli {

/// Bounds. What stands beside each is for a machine of 2 GiB and more; below, all shrink with the machine.
struct MemoryPlan {
  std::size_t chunk_cache = 0;  ///< 256 MiB
  std::size_t node_cache = 0;   ///< 64 MiB
  std::size_t locator = 0;      ///< 48 MiB
  std::size_t pack = 0;         ///< 16 MiB, two for each of two commits
  unsigned threads = 0;         ///< 16 that serve the kernel, with buffers of 2 MiB each
  unsigned readahead_kib = 0;   ///< 4096, for each sequential reader
  bool is_small = false;        ///< freed memory goes back to the machine at once
};

[[nodiscard]] MemoryPlan plan_memory(ByteCount memory);

/// Of this machine, or what its control group leaves to this process, when that is less. `root`: tests put a directory
/// in the place of /.
[[nodiscard]] ByteCount usable_memory(const std::string& root = "");

/// To be called before any thread is started and any privilege given up. With a small plan the allocator keeps less; and
/// the kernel that is out of memory is asked to end others first, unless somebody has decided about that already: with
/// us dies every filesystem that stands on our images. Without CAP_SYS_RESOURCE it cannot be asked.
void spare_memory(const MemoryPlan& plan);

}  // namespace varve::cli
