#include "size.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <limits>

#include "varve/catalog/names.h"

namespace varve::cli {
namespace {

constexpr std::string_view kUnits = "KMGTP";

/// The power of 1024 that a suffix stands for: "" is 0, "k", "K", "KiB" are 1; -1 for what is no suffix.
int exponent_of(std::string_view suffix) {
  if (suffix.empty() || suffix == "B") return 0;
  const char letter = suffix.front() == 'k' ? 'K' : suffix.front();
  const auto found = kUnits.find(letter);
  if (found == std::string_view::npos) return -1;
  const auto rest = suffix.substr(1);
  return rest.empty() || rest == "iB" ? static_cast<int>(found) + 1 : -1;
}

}  // namespace

Result<ByteCount> parse_size(std::string_view text) {
  const auto refuse = [&](std::string_view why) {
    return fail_refused(EINVAL, fmt::format("{} {}; a size is a whole number of bytes with an optional K, M, G, T or P "
                                            "(powers of 1024), as in 64K", catalog::quoted(text), why));
  };
  std::uint64_t number = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), number);
  if (parsed.ec == std::errc::result_out_of_range) return refuse("is too large");
  if (parsed.ec != std::errc{}) return refuse("is not a size");
  const int exponent = exponent_of(text.substr(static_cast<std::size_t>(parsed.ptr - text.data())));
  if (exponent < 0) return refuse("is not a size");
  constexpr auto kMost = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  if (number > kMost >> (10 * exponent)) return refuse("is too large");
  return ByteCount{number << (10 * exponent)};
}

std::string readable_size(std::uint64_t bytes) {
  constexpr std::array kNames{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  std::size_t unit = 0;
  auto value = static_cast<double>(bytes);
  for (; value >= 1024 && unit + 1 < kNames.size(); ++unit) value /= 1024;
  const bool whole = value == static_cast<double>(static_cast<std::uint64_t>(value)) || value >= 100;
  return fmt::format("{:.{}f} {}", value, whole ? 0 : 1, kNames[unit]);
}

}  // namespace varve::cli
