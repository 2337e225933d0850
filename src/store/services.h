// What every disk of a store shares: the record store, the pools, and the wish to stop.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "quota.h"
#include "reserve.h"
#include "varve/chunks/chunk_store.h"
#include "varve/core/buffer.h"
#include "varve/core/thread_pool.h"
#include "varve/objects/object_store.h"
#include "varve/os/storage.h"
#include "varve/snapshot/image.h"

namespace varve::store {

/// Threads that read live images for commits, compress, and write packs (one for each commit); that help to move detours
/// home; and that read ahead for snapshot images.
inline constexpr std::size_t kReaderThreads = 4;
inline constexpr std::size_t kEncoderThreads = 2;
inline constexpr std::size_t kPackThreads = 2;
inline constexpr std::size_t kMoverThreads = 3;
inline constexpr std::size_t kPrefetchThreads = 4;
inline constexpr std::size_t kMaxQueuedPrefetches = 256;

/// One of the things that are done once after the store was opened, while it is used; for status.json.
struct StartupTask {
  enum class State { waiting, running, done, failed };
  std::atomic<State> state{State::waiting};
  std::atomic<std::uint64_t> looked_at{0};
};

/// What collect does and did, for status.json and metrics.
struct CollectState {
  std::atomic<std::uint64_t> running{0};     ///< how many
  std::atomic<std::uint64_t> packs_done{0};  ///< of the sweep that goes on
  std::atomic<std::uint64_t> packs_total{0};
  std::atomic<std::uint64_t> collected{0};  ///< of Services::garbage, when the last one began
  std::atomic<std::uint64_t> runs{0};       ///< since the store was opened; so are these
  std::atomic<std::uint64_t> records_removed{0};
  std::atomic<std::uint64_t> bytes_removed{0};
  std::atomic<std::uint64_t> packs_joined{0};
  std::atomic<std::uint64_t> waiting_records{0};  ///< as the last one found
  std::atomic<std::uint64_t> waiting_bytes{0};
};

/// The layers below, in the order in which they stand on each other. Assembled once, in Store::open().
struct Services {
  std::unique_ptr<os::Storage> storage;
  std::unique_ptr<Reserve> reserve;
  std::unique_ptr<Quota> quota = std::make_unique<Quota>();
  Clock clock = now;
  std::atomic<std::int64_t> trash_keep{0};  ///< nanoseconds; 0: what is deleted is gone
  std::unique_ptr<os::VolatileStorage> maps;
  std::unique_ptr<chunks::Locator> locator;
  std::unique_ptr<objects::ObjectStore> objects;
  std::unique_ptr<ThreadPool> pack_writers;  ///< null without background threads: a pack is written where it is filled
  chunks::RootRegistry registry;
  std::unique_ptr<chunks::ChunkStore> chunks;
  std::unique_ptr<snapshot::MapSource> base;
  std::unique_ptr<ThreadPool> readers;  ///< null without background threads: a commit reads where it runs
  std::unique_ptr<ThreadPool> encoders;
  std::unique_ptr<ThreadPool> movers;  ///< null without background threads
  std::unique_ptr<ThreadPool> prefetchers;
  BufferPool pending_reads{kMiB, 4};  ///< what reads of pending snapshots fill; nobody caches those
  std::atomic<bool> stopping{false};
  std::atomic<std::uint64_t> garbage{0};  ///< grows with whatever leaves records behind that nothing reaches
  CollectState collect;
  StartupTask locator_check;  ///< counts packs that were not known, or are gone
  StartupTask first_collect;  ///< counts records
};

}  // namespace varve::store
