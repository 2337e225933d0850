#include "duration.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <utility>

#include "varve/catalog/names.h"

namespace varve::cli {
namespace {

constexpr std::array<std::pair<char, std::uint64_t>, 5> kUnits{
    {{'w', 604'800}, {'d', 86'400}, {'h', 3'600}, {'m', 60}, {'s', 1}}};
/// Far more than any period that is accepted anywhere.
constexpr std::uint64_t kMost = std::uint64_t{1} << 40;

}  // namespace

Result<std::chrono::duration<std::uint64_t>> parse_duration(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
  for (const auto& [unit, seconds] : kUnits) {
    const bool only_unit = end + 1 == text.data() + text.size() && *end == unit;
    if (problem == std::errc{} && only_unit && value > 0 && value <= kMost / seconds) {
      return std::chrono::duration<std::uint64_t>{value * seconds};
    }
  }
  return fail_refused(EINVAL, fmt::format("{} is no length of time; write it as 90s, 15m, 6h, 7d or 2w",
                                          catalog::quoted(text)));
}

std::string readable_duration(std::uint64_t seconds) {
  for (const auto& [unit, size] : kUnits) {
    if (seconds % size == 0 && seconds > 0) return fmt::format("{}{}", seconds / size, unit);
  }
  return "0s";
}

}  // namespace varve::cli
