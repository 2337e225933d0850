// Commit: moves the frozen chunks of a disk's oldest pending snapshot into packs and builds its map. The durable order
// (packs, nodes, log record, then the disk lets go) is the caller's last two steps; src/snapshot/commit.cpp opens with
// it.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>

#include "varve/chunks/chunk_map.h"
#include "varve/core/thread_pool.h"
#include "varve/disk/live_disk.h"

namespace varve::snapshot {

/// Read by anybody while the commit runs.
struct CommitProgress {
  std::atomic<std::uint64_t> chunks_done{0};
  std::atomic<std::uint64_t> chunks_total{0};
  std::atomic<bool> met_unreadable{false};  ///< a chunk was not given back by the medium
};

struct Committed {
  chunks::MaybeRef root;
  std::uint64_t changed_bytes = 0;   ///< blocks that were marked, in bytes
  std::uint64_t stored_bytes = 0;    ///< payload of new records
  std::uint64_t new_chunks = 0;      ///< encoded and appended
  std::uint64_t shared_chunks = 0;   ///< equal to P's or found by digest
  std::uint64_t damaged_chunks = 0;  ///< unreadable at their place: committed as damaged refs (rule 10)
};

/// What becomes of chunks that the medium does not give back.
enum class Unreadable {
  fail,             ///< EIO: it may be back in a moment, and what is committed as damaged stays so for good
  keep_as_damaged,  ///< rule 10: nothing waits for ever behind them
};

struct CommitOptions {
  ThreadPool& encoders;           ///< compress in parallel; not the caller's own
  /// Of the live image, ahead, or one chunk at a time while guests use it; nor these. Null: the caller's thread reads.
  ThreadPool* readers = nullptr;
  std::function<bool()> stop{};   ///< asked at least once a chunk
  Unreadable unreadable = Unreadable::keep_as_damaged;
};

/// Packs and nodes are durable on return; everything the result stands on is in `hold`, which must live until the
/// root has an owner. ECANCELED when `stop` said so. Other errors: nothing happened but garbage packs; try again later. EIO
/// (damaged) where a node of P's map on the way cannot be read: then what is unchanged is unknown, and nothing of this disk
/// can be committed until that node is back.
///
/// Memory: 64 chunks (or 16 MiB of them, if larger) with their encodings, and the writer's packs.
[[nodiscard]] Result<Committed> commit_oldest(disk::LiveDisk& live, const disk::PendingInfo& pending,
                                              chunks::ChunkStore& chunks, chunks::RootRegistry::Hold& hold,
                                              CommitProgress& progress, const CommitOptions& options);

}  // namespace varve::snapshot
