// XXH3-128: fast, not cryptographic. It finds damage and candidates for sharing; it never proves that two
// chunks are one (a guest chooses its data), so bytes are compared before anything is shared.
// Source: xxHash specification, XXH3_128bits with seed 0; stored canonical (big-endian high, then low).
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

namespace varve {

struct Digest {
  std::uint64_t high = 0;
  std::uint64_t low = 0;
  friend constexpr auto operator<=>(const Digest&, const Digest&) = default;
};

[[nodiscard]] Digest digest_of(std::span<const std::byte> bytes);
/// 32 lower-case hex digits, high half first.
[[nodiscard]] std::string to_hex(const Digest& digest);

/// The root of a chunk map as the layers above see it that must not know what a map is (disk): the encoded ref,
/// or all zeros for the empty map (a disk of zeros). Encoded and decoded by chunks/ref.h only.
struct OpaqueRoot {
  static constexpr std::size_t kSize = 28;
  std::array<std::byte, kSize> bytes{};
  [[nodiscard]] bool empty() const { return *this == OpaqueRoot{}; }
  friend auto operator<=>(const OpaqueRoot&, const OpaqueRoot&) = default;
};

}  // namespace varve

template <>
struct std::hash<varve::Digest> {
  std::size_t operator()(const varve::Digest& d) const noexcept { return static_cast<std::size_t>(d.low); }
};
