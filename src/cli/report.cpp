#include "report.h"

#include <fmt/format.h>

#include <cstdio>

namespace varve::cli {

int report(const Error& error) {
  std::string line = error.message;
  // A name in the message must not be able to forge a second line or drive the terminal.
  for (char& c : line) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  fmt::print(stderr, "varve: {}\n", line);
  return kExitFailure;
}

}  // namespace varve::cli
