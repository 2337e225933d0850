// The locator: digest -> where a record with this digest was put. A cache of hints for deduplication: a hit is
// compared byte by byte before it is used, any hit that fails is a miss, and it may be deleted at any time.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "varve/chunks/codec.h"
#include "varve/chunks/ref.h"
#include "varve/core/units.h"

namespace varve::chunks {

/// Any thread. Errors are for the log only: a caller treats them as a miss, and add_pack() failing loses nothing but
/// space. Hits may be stale (the pack is gone) whatever was forgotten: after a crash, for one.
class Locator {
 public:
  virtual ~Locator() = default;
  /// The newest record added with this digest and kind.
  [[nodiscard]] virtual Result<std::optional<Ref>> find(const Digest& digest, RecordKind kind) = 0;
  struct Entry {
    RecordKind kind;
    Ref ref;
  };
  /// Adds all records of a pack and remembers the pack as known, in one atomic batch. Adding it again changes nothing.
  [[nodiscard]] virtual Status add_pack(PackId pack, std::span<const Entry> entries) = 0;
  /// Forgets the pack and those of `entries` that still lead to it (a digest may have moved to another pack since).
  /// When it cannot (full disk), the whole locator drops itself, which is success too: it is rebuilt from the packs
  /// later. An error means that even this failed; stale hits are then misses like any others.
  [[nodiscard]] virtual Status forget_pack(PackId pack, std::span<const Entry> entries) = 0;
  /// Packs added and not forgotten: compared at mount with the packs that exist. Never names a pack whose entries
  /// were lost.
  [[nodiscard]] virtual Result<std::vector<PackId>> known_packs() = 0;
};

constexpr std::size_t kLocatorBytes = 48 * kMiB;  ///< of memory

[[nodiscard]] std::unique_ptr<Locator> make_memory_locator();
/// RocksDB in the directory `path` (absolute). One that cannot be opened is deleted and made anew, and so is one that
/// turns out to be damaged later. Writes nothing durably on its own: what a crash takes, reconcile_locator() brings
/// back. About `memory` bytes, 64 files, two background threads. An error (the directory is in use, or cannot be
/// written): the caller may go on with make_memory_locator().
[[nodiscard]] Result<std::unique_ptr<Locator>> open_rocksdb_locator(const std::string& path,
                                                                    std::size_t memory = kLocatorBytes);

}  // namespace varve::chunks
