// Refs: names of records that stay valid wherever collect moves the bytes.
#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "varve/core/digest.h"
#include "varve/core/result.h"
#include "varve/core/units.h"

namespace varve::chunks {

/// Names one record for ever. 28 bytes when stored: pack u64 LE, ordinal u32 LE, digest 16 bytes canonical.
/// Pack 0 never exists: {0, 0, 0} encodes "nothing" (zeros), {0, kDamagedOrdinal, 0} a damaged chunk (rule 10).
struct Ref {
  static constexpr std::size_t kEncodedSize = 28;
  static constexpr std::uint32_t kDamagedOrdinal = 0xFFFFFFFF;
  PackId pack;
  std::uint32_t ordinal = 0;
  Digest digest;  ///< of the decoded bytes
  [[nodiscard]] bool damaged() const { return pack == PackId{0} && ordinal == kDamagedOrdinal; }
  static Ref make_damaged() { return Ref{PackId{0}, kDamagedOrdinal, Digest{}}; }
  friend auto operator<=>(const Ref&, const Ref&) = default;
};

/// What a chunk index maps to, and the root of a map: a ref, or nothing (zeros).
using MaybeRef = std::optional<Ref>;

void encode(const Ref& ref, std::span<std::byte, Ref::kEncodedSize> out);
[[nodiscard]] MaybeRef decode(std::span<const std::byte, Ref::kEncodedSize> in);
/// Roots as the disk layer carries them.
[[nodiscard]] OpaqueRoot to_opaque(const MaybeRef& root);
[[nodiscard]] MaybeRef from_opaque(const OpaqueRoot& root);
/// "pack 00ab…/17" for messages.
[[nodiscard]] std::string to_text(const Ref& ref);
/// "PACKHEX:ORDINAL:DIGESTHEX", the form in disk logs; empty for nothing.
[[nodiscard]] std::string to_log_text(const MaybeRef& ref);
[[nodiscard]] Result<MaybeRef> parse_log_text(std::string_view text);

}  // namespace varve::chunks

template <>
struct std::hash<varve::chunks::Ref> {
  std::size_t operator()(const varve::chunks::Ref& r) const noexcept {
    return static_cast<std::size_t>(r.digest.low ^ (r.pack.value() * 0x9E3779B97F4A7C15u) ^ r.ordinal);
  }
};
