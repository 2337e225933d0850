// Every call to a double passes here first: it is counted, may be made to fail, and meets a wall once the process
// that makes it is supposed to be dead.
//
// EINTR and short counts do not exist here: os/storage.h promises that they are dealt with below it.
// store/interrupted_calls_test.cpp makes them where they come from.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string_view>

#include "varve/core/sync.h"

namespace varve::test {

/// changes: whatever writes, syncs, makes, renames or removes. reads: the rest (read, list, status, plain open).
enum class Calls { changes, reads };
enum class Repeat { once, for_good };

/// Any thread.
class CallGate {
 public:
  /// 0, or the errno the call must fail with. `with_effect` tells whether a failing call may leave half of its effect
  /// (an injected error) or none at all (the process is dead).
  struct Answer {
    int code = 0;
    bool with_effect = false;
    bool lie = false;  ///< say that it was done, and do nothing
  };
  Answer enter(Calls kind, std::string_view action, std::string_view path);

  [[nodiscard]] std::uint64_t calls(Calls kind) const { return counter(kind).load(); }
  /// The nth call of a kind from now on (1 = the next) fails with `code`; with for_good, all later ones too.
  void fail_at(std::uint64_t nth, int code, Repeat repeat, Calls kind);
  /// From the nth change on (1 = the next), every call of any kind fails with EIO and changes nothing.
  void cut_off_at(std::uint64_t nth);
  void cut_off() { cut_ = true; }
  [[nodiscard]] bool is_cut_off() const { return cut_; }
  /// Forgets planned faults and ends a cut.
  void clear();

  /// Called before each counted change, holding no lock; set it before threads start. For tests that stop a
  /// call half-way: "sync", "home.img".
  void set_hook(std::function<void(std::string_view action, std::string_view path)> hook) { hook_ = std::move(hook); }
  /// The same for calls that change nothing.
  void set_read_hook(std::function<void(std::string_view action, std::string_view path)> hook) {
    read_hook_ = std::move(hook);
  }
  /// With this the hook is also called when the first pages of a write of several are done ("half of write"): a kill may
  /// come there.
  void look_into_writes(bool wanted) { look_into_writes_ = wanted; }
  [[nodiscard]] bool looks_into_writes() const { return look_into_writes_; }
  void half_way(std::string_view action, std::string_view path) {
    if (hook_ && !cut_) hook_(action, path);
  }
  /// Calls of either kind for which this gives an errno fail with it: a bad sector, a directory on another medium. Set it
  /// before threads start; an empty function ends it.
  void fail_where(std::function<int(std::string_view action, std::string_view path)> code) { bad_ = std::move(code); }
  /// Syncs of which this says true answer that all is durable, and nothing is: a disk that lies. What rests on them must
  /// then be seen to break, or a test that cuts the power proves nothing. Set it before threads start.
  void set_liar(std::function<bool(std::string_view action, std::string_view path)> liar) { liar_ = std::move(liar); }

  /// Open files of an earlier epoch are dead.
  [[nodiscard]] std::uint64_t epoch() const { return epoch_; }
  void next_epoch() { ++epoch_; }

 private:
  struct Fault {
    std::uint64_t at = 0;  ///< counter value; 0 = none
    int code = 0;
    Repeat repeat = Repeat::once;
  };
  [[nodiscard]] const std::atomic<std::uint64_t>& counter(Calls kind) const {
    return kind == Calls::changes ? changes_ : reads_;
  }
  Fault& fault(Calls kind) VARVE_REQUIRES(mutex_) { return kind == Calls::changes ? change_fault_ : read_fault_; }

  std::function<void(std::string_view, std::string_view)> hook_;
  std::function<void(std::string_view, std::string_view)> read_hook_;
  std::function<int(std::string_view, std::string_view)> bad_;
  std::function<bool(std::string_view, std::string_view)> liar_;
  bool look_into_writes_ = false;
  std::atomic<std::uint64_t> changes_{0};
  std::atomic<std::uint64_t> reads_{0};
  std::atomic<std::uint64_t> epoch_{1};
  std::atomic<bool> cut_{false};
  std::atomic<bool> armed_{false};  ///< some fault or cut is planned: only then is the mutex taken
  Mutex mutex_;
  Fault change_fault_ VARVE_GUARDED_BY(mutex_);
  Fault read_fault_ VARVE_GUARDED_BY(mutex_);
  std::uint64_t cut_at_ VARVE_GUARDED_BY(mutex_) = 0;
};

}  // namespace varve::test
