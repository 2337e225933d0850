// libFuzzer's side: `varve_fuzz TARGET [arguments]`; with --list the targets, with --seeds DIR the target's seeds are
// written there and nothing is run.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>

#include "fuzz.h"
#include "varve/core/log.h"

namespace {

const varve::fuzz::Target* chosen = nullptr;

[[noreturn]] void write_seeds(const std::string& directory) {
  int number = 0;
  for (const auto& seed : chosen->seeds()) {
    std::ofstream file(directory + "/seed-" + std::to_string(number++), std::ios::binary);
    file.write(reinterpret_cast<const char*>(seed.data()), static_cast<std::streamsize>(seed.size()));
  }
  std::exit(0);
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  using namespace varve;
  log::set_level(static_cast<log::Level>(static_cast<int>(log::Level::error) + 1));
  const std::string name = *argc > 1 ? (*argv)[1] : "";
  if (name == "--list") {
    for (const auto& target : fuzz::targets()) std::printf("%.*s\n", static_cast<int>(target.name.size()), target.name.data());
    std::exit(0);
  }
  for (const auto& target : fuzz::targets()) {
    if (target.name == name) chosen = &target;
  }
  if (chosen == nullptr) {
    std::fprintf(stderr, "which target? --list names them\n");
    std::exit(2);
  }
  if (*argc > 3 && std::strcmp((*argv)[2], "--seeds") == 0) write_seeds((*argv)[3]);
  // What libFuzzer sees begins with the program and goes on with its own arguments.
  (*argv)[1] = (*argv)[0];
  ++*argv;
  --*argc;
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  chosen->run(std::as_bytes(std::span(data, size)));
  return 0;
}
