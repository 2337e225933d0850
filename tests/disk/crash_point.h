// Death at a chosen call: of all changes that a stack makes to files and to shared memory from now on, the nth and all
// later ones don't happen. What the dying stack does to its mappings afterwards (undoing, say) is undone too.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "support/sparse_image.h"
#include "support/machine.h"

namespace varve::test {

class CrashPoint {
 public:
  /// nth = 0: never, only counts. No other hooks on the machine meanwhile.
  CrashPoint(Machine& machine, std::uint64_t nth);
  ~CrashPoint();
  CrashPoint(const CrashPoint&) = delete;
  CrashPoint& operator=(const CrashPoint&) = delete;

  [[nodiscard]] bool reached() const { return reached_; }
  [[nodiscard]] std::uint64_t calls() const { return calls_; }
  /// "sync live/1/journal": the call that did not happen any more.
  [[nodiscard]] const std::string& call() const { return call_; }
  /// Instead of Machine::kill(), when the stack is gone: the shared memory is as it was at the moment of death.
  void kill();

 private:
  struct SavedMemory {
    std::uint64_t size = 0;
    std::map<std::uint64_t, Content> pages;
  };
  void enter(std::string_view action, std::string_view path);
  void save_memory();

  Machine& machine_;
  std::uint64_t nth_;
  std::uint64_t calls_ = 0;
  bool reached_ = false;
  std::string call_;
  std::map<std::string, SavedMemory> memory_;
};

}  // namespace varve::test
