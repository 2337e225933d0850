// What a worker says while it works, a line each, written in one call: "B THREAD COUNT" before an operation that is a
// barrier, "A THREAD COUNT" when any has returned. The order of the lines is an order of events: what was acknowledged
// before a "B" had returned before that operation began, and of what comes after an "A" at most one operation of each
// thread had begun.
//
//   R                          it begins
//   F THREAD COUNT ERRNO WHAT  an operation failed, and so the program ends
//   X SENTENCE                 wrong bytes were read
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace exerciser {

struct Event {
  char kind = 0;  ///< B, A or F
  unsigned thread = 0;
  std::uint64_t count = 0;  ///< of the operations of this thread, from 0
};

struct Trace {
  std::vector<Event> events;
  std::string wrong;  ///< the sentence of an X
};

void say_begun(unsigned thread, std::uint64_t count);
void say_acknowledged(unsigned thread, std::uint64_t count);
void say_ready();
[[noreturn]] void say_failed(unsigned thread, std::uint64_t count, int error, const std::string& what);
[[noreturn]] void say_wrong(const std::string& sentence);

/// A last line without an end was cut off with the power.
[[nodiscard]] Trace read_trace(const std::string& path);

}  // namespace exerciser
