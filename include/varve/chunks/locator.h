// The locator: digest -> where a record with this digest was put. A cache of hints for deduplication: a hit is
// compared byte by byte before it is used, any hit that fails is a miss, and it may be deleted at any time.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "varve/chunks/codec.h"
#include "varve/chunks/ref.h"

namespace varve::chunks {

/// Any thread. Errors are for the log only: a caller treats them as a miss, and add() failing loses nothing but
/// space. forget() failing is different: see it.
class Locator {
 public:
  virtual ~Locator() = default;
  [[nodiscard]] virtual Result<std::optional<Ref>> find(const Digest& digest, RecordKind kind) = 0;
  struct Entry {
    RecordKind kind;
    Ref ref;
  };
  /// Adds all records of a pack and remembers the pack as known, in one atomic batch.
  [[nodiscard]] virtual Status add_pack(PackId pack, std::span<const Entry> entries) = 0;
  /// Must succeed before a record's bytes may go; if it cannot (full disk), the whole locator is dropped instead.
  [[nodiscard]] virtual Status forget_pack(PackId pack, std::span<const Entry> entries) = 0;
  /// Packs added and not forgotten: compared at mount with the packs that exist.
  [[nodiscard]] virtual Result<std::vector<PackId>> known_packs() = 0;
};

[[nodiscard]] std::unique_ptr<Locator> make_memory_locator();
/// RocksDB in the directory `path` (absolute). One that cannot be opened is deleted and made anew.
[[nodiscard]] Result<std::unique_ptr<Locator>> open_rocksdb_locator(const std::string& path);

}  // namespace varve::chunks
