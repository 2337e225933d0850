// Objects in memory, with the faults of a far store: answers that get lost, requests that arrive late, objects that
// cannot be read for a while.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "varve/core/sync.h"
#include "varve/objects/object_store.h"

namespace varve::catalog::test {

/// What happens to a put.
enum class Fault {
  none,
  refuse,                ///< ENOSPC, nothing there
  lose_acknowledgement,  ///< there, but the caller hears EIO
  arrive_late,           ///< the caller hears EIO; there only after deliver_late()
  create_and_say_exists  ///< there, but the caller hears `exists` (a client that repeats requests by itself)
};

class MemoryObjects final : public objects::ObjectStore {
 public:
  Result<objects::PutOutcome> put_if_absent(std::string_view name, std::span<const std::byte> bytes) override;
  Result<std::size_t> read(std::string_view name, ByteOffset at, std::span<std::byte> out) override;
  Result<ByteCount> size(std::string_view name) override;
  Result<std::vector<std::string>> list(std::string_view folder) override;
  Result<std::vector<std::string>> list_folders(std::string_view folder) override;
  Status remove(std::string_view name) override;

  /// Faults of the next puts, in order; later ones succeed.
  void plan(std::deque<Fault> faults);
  void deliver_late();
  void set_unreadable(bool unreadable);
  [[nodiscard]] std::uint64_t reads();
  [[nodiscard]] std::map<std::string, std::string> contents();
  void replace(std::map<std::string, std::string> contents);
  void set(const std::string& name, std::string text);
  [[nodiscard]] std::string get(const std::string& name);

 private:
  Mutex mutex_;
  std::map<std::string, std::string, std::less<>> objects_ VARVE_GUARDED_BY(mutex_);
  std::deque<Fault> faults_ VARVE_GUARDED_BY(mutex_);
  std::vector<std::pair<std::string, std::string>> late_ VARVE_GUARDED_BY(mutex_);
  bool unreadable_ VARVE_GUARDED_BY(mutex_) = false;
  std::uint64_t reads_ VARVE_GUARDED_BY(mutex_) = 0;
};

}  // namespace varve::catalog::test
