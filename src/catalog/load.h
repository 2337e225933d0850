// Reading a whole log: what it adds up to, or what is wrong with it.
#pragma once

#include <cstdint>

#include "replay.h"
#include "varve/objects/object_store.h"

namespace varve::catalog {

struct LoadedLog {
  Replay replay;
  std::uint64_t checkpoint = 0;  ///< number of the one that was read, 0: none
};

/// DiskLog::open without the log: newest good checkpoint and every record after it.
[[nodiscard]] Result<LoadedLog> load_log(objects::ObjectStore& objects, DiskId disk);

}  // namespace varve::catalog
