// Comparing bytes at the speed of memory: std::ranges::equal over std::byte goes one by one.
#pragma once

#include <cstddef>
#include <cstring>
#include <span>

namespace varve {

[[nodiscard]] inline bool same_bytes(std::span<const std::byte> a, std::span<const std::byte> b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size()) == 0);
}

/// Bytes that begin with a zero and equal themselves shifted by one are nothing but zeros; stops at the first that
/// differs.
[[nodiscard]] inline bool all_zero(std::span<const std::byte> bytes) {
  return bytes.empty() ||
         (bytes[0] == std::byte{0} && std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0);
}

}  // namespace varve
