// A VolatileStorage in memory: what is in it outlives kill() and is gone after lose_power().
//
// A page that was not reserved is not mapped: touching it kills the test (SIGSEGV), as a full tmpfs would (SIGBUS).
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "support/call_gate.h"
#include "varve/os/storage.h"

namespace varve::test {

class MemoryVolatileStorage final : public os::VolatileStorage {
 public:
  MemoryVolatileStorage();
  ~MemoryVolatileStorage() override;
  Result<std::unique_ptr<os::SharedMemory>> open(std::string_view name, ByteCount size) override;
  Result<std::unique_ptr<os::SharedMemory>> open_existing(std::string_view name) override;
  Result<std::vector<std::string>> list() override;
  Status remove(std::string_view name) override;
  Status rename(std::string_view from, std::string_view to) override;

  /// The process died: nothing changes. What it has mapped stays valid, and whoever still writes there is heard:
  /// destroy the old stack first. Ends a cut and forgets faults.
  void kill() { gate_->clear(); }
  /// The machine died: empty from now on. Mappings still held belong to nobody.
  void lose_power();

  /// Makes `other` what this one is now, for another future.
  void copy_to(MemoryVolatileStorage& other);

  /// Counts and fails open, reserve, resize, remove and rename (changes), open_existing and list (reads).
  CallGate& calls() { return *gate_; }
  void cut_off() { gate_->cut_off(); }
  /// Reservations beyond fail with ENOSPC.
  void set_capacity(ByteCount bytes) { *limit_ = bytes.value(); }

  class Segment;

 private:
  Status enter(Calls kind, std::string_view action, std::string_view name);

  std::shared_ptr<CallGate> gate_ = std::make_shared<CallGate>();
  std::shared_ptr<std::atomic<std::uint64_t>> used_ = std::make_shared<std::atomic<std::uint64_t>>(0);
  std::shared_ptr<std::atomic<std::uint64_t>> limit_ = std::make_shared<std::atomic<std::uint64_t>>(kTiB);
  Mutex mutex_;
  std::map<std::string, std::shared_ptr<Segment>, std::less<>> segments_ VARVE_GUARDED_BY(mutex_);
};

}  // namespace varve::test
