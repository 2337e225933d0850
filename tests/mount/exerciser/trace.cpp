#include "trace.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "world.h"

namespace exerciser {
namespace {

constexpr int kFailed = 3;
constexpr int kWrong = 4;

void write_line(const std::string& line) {
  if (::write(STDOUT_FILENO, line.data(), line.size()) != static_cast<ssize_t>(line.size())) std::_Exit(1);
}

void say(char kind, unsigned thread, std::uint64_t count, const std::string& more = {}) {
  write_line(std::string(1, kind) + " " + std::to_string(thread) + " " + std::to_string(count) + more + "\n");
}

std::string contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) give_up("cannot read " + path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

}  // namespace

void say_begun(unsigned thread, std::uint64_t count) { say('B', thread, count); }
void say_acknowledged(unsigned thread, std::uint64_t count) { say('A', thread, count); }
void say_ready() { write_line("R\n"); }

void say_failed(unsigned thread, std::uint64_t count, int error, const std::string& what) {
  say('F', thread, count, " " + std::to_string(error) + " " + what);
  std::_Exit(kFailed);
}

void say_wrong(const std::string& sentence) {
  write_line("X " + sentence + "\n");
  std::_Exit(kWrong);
}

Trace read_trace(const std::string& path) {
  Trace trace;
  const auto text = contents(path);
  for (std::size_t at = 0;;) {
    const auto end = text.find('\n', at);
    if (end == std::string::npos) return trace;
    const auto line = text.substr(at, end - at);
    at = end + 1;
    if (line.starts_with("X ")) trace.wrong = line.substr(2);
    if (line.empty() || line[0] == 'R' || line[0] == 'X') continue;
    Event event;
    std::istringstream words(line);
    if (!(words >> event.kind >> event.thread >> event.count)) give_up(path + ": no line of a trace: " + line);
    trace.events.push_back(event);
  }
}

}  // namespace exerciser
