// copy_file_range between images of one store: refs where the source has them, bytes elsewhere.
#pragma once

#include "disk_entry.h"
#include "varve/store/store.h"

namespace varve::store {

/// See Store::copy_range. `from` and `to` are entries of the same store.
[[nodiscard]] Result<ByteCount> copy_range(Services& services, DiskEntry& from, SnapshotId snapshot, ByteOffset from_at,
                                           DiskEntry& to, ByteOffset to_at, ByteCount count);

}  // namespace varve::store
