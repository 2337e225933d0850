// A machine as a store sees it: a disk, memory that outlives a killed daemon, and the two ways to die.
#pragma once

#include <cstdint>
#include <memory>

#include "support/memory_storage.h"
#include "support/memory_volatile_storage.h"

namespace varve::test {

struct Machine {
  MemoryStorageOptions options;
  MemoryStorage storage;
  MemoryVolatileStorage memory;

  explicit Machine(MemoryStorageOptions wanted = {}) : options(wanted), storage(wanted) {}
  /// What it is at this moment, for another future, in which it dies here.
  [[nodiscard]] std::unique_ptr<Machine> copy() {
    auto other = std::make_unique<Machine>(options);
    storage.copy_to(other->storage);
    memory.copy_to(other->memory);
    return other;
  }
  /// From now on the running stack can change nothing: destroy it, then kill() or lose_power().
  void cut_off() {
    storage.cut_off();
    memory.cut_off();
  }
  /// SIGKILL.
  void kill() {
    storage.kill();
    memory.kill();
  }
  void lose_power(std::uint64_t seed, const LossModel& model = {}) {
    storage.lose_power(seed, model);
    memory.lose_power();
  }
};

}  // namespace varve::test
