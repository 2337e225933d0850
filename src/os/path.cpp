#include <fmt/format.h>

#include <array>
#include <random>

#include "varve/os/storage.h"

namespace varve::os {

bool valid_path(std::string_view path) {
  if (path.find('\0') != std::string_view::npos) return false;
  for (std::size_t begin = 0;;) {
    const std::size_t end = std::min(path.find('/', begin), path.size());
    const std::string_view part = path.substr(begin, end - begin);
    if (part.empty() || part == "." || part == "..") return false;
    if (end == path.size()) return true;
    begin = end + 1;
  }
}

std::string_view parent_of(std::string_view path) {
  const std::size_t slash = path.rfind('/');
  return slash == std::string_view::npos ? std::string_view{} : path.substr(0, slash);
}

std::string_view leaf_of(std::string_view path) {
  const std::size_t slash = path.rfind('/');
  return slash == std::string_view::npos ? path : path.substr(slash + 1);
}

std::string temporary_name() {
  // 128 bits straight from the system: names must differ between processes and boots.
  std::random_device random;
  std::array<unsigned, 4> words{};
  for (unsigned& word : words) word = random();
  return fmt::format("{}{:08x}{:08x}{:08x}{:08x}", kTemporaryPrefix, words[0], words[1], words[2], words[3]);
}

}  // namespace varve::os
