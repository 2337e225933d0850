#include "support/call_gate.h"

#include <cerrno>

namespace varve::test {

CallGate::Answer CallGate::enter(Calls kind, std::string_view action, std::string_view path) {
  if (const auto& hook = kind == Calls::changes ? hook_ : read_hook_; hook && !cut_) hook(action, path);
  const std::uint64_t number = ++(kind == Calls::changes ? changes_ : reads_);
  if (armed_) {
    MutexLock lock(mutex_);
    if (kind == Calls::changes && cut_at_ != 0 && number >= cut_at_) cut_ = true;
    Fault& planned = fault(kind);
    if (!cut_ && planned.at != 0 && number >= planned.at) {
      const int code = planned.code;
      if (planned.repeat == Repeat::once) planned = Fault{};
      return {code, true};
    }
  }
  if (cut_) return {EIO, false};
  if (bad_) {
    if (const int code = bad_(action, path); code != 0) return {code, true};
  }
  if (liar_ && action.starts_with("sync") && liar_(action, path)) return {0, false, true};
  return {};
}

void CallGate::fail_at(std::uint64_t nth, int code, Repeat repeat, Calls kind) {
  MutexLock lock(mutex_);
  fault(kind) = Fault{counter(kind).load() + nth, code, repeat};
  armed_ = true;
}

void CallGate::cut_off_at(std::uint64_t nth) {
  MutexLock lock(mutex_);
  cut_at_ = changes_.load() + nth;
  armed_ = true;
}

void CallGate::clear() {
  MutexLock lock(mutex_);
  change_fault_ = Fault{};
  read_fault_ = Fault{};
  cut_at_ = 0;
  armed_ = false;
  cut_ = false;
}

}  // namespace varve::test
