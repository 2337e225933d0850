// How bytes become a record's payload. Every encode is decoded and compared before it is handed out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "varve/core/result.h"

namespace varve::chunks {

/// How a record is stored. What it holds is a chunk (full, delta) or a map node (node, node_delta); where a function
/// asks for one or the other it takes `full` or `node`.
enum class RecordKind : std::uint8_t { full = 1, delta = 2, node = 3, node_delta = 4 };
[[nodiscard]] constexpr bool is_delta(RecordKind kind) {
  return kind == RecordKind::delta || kind == RecordKind::node_delta;
}
[[nodiscard]] constexpr RecordKind content_of(RecordKind kind) {
  return kind == RecordKind::node || kind == RecordKind::node_delta ? RecordKind::node : RecordKind::full;
}
enum class Codec : std::uint8_t { raw = 0, zstd = 1 };

struct Compression {
  Codec codec = Codec::zstd;
  int level = 3;  ///< zstd 1…19
  /// "none" or "zstd:1" … "zstd:19".
  static Result<Compression> parse(std::string_view text);
  [[nodiscard]] std::string to_text() const;
};

struct Encoded {
  Codec codec = Codec::raw;
  std::vector<std::byte> bytes;
};

/// Raw where compression does not save at least a sixteenth. Any thread. EIO (damaged) when what was encoded does
/// not decode to the same bytes: a bad core, bad memory or a bug, found while the source still exists.
[[nodiscard]] Result<Encoded> encode_payload(std::span<const std::byte> plain, Compression compression);
/// Exactly out.size() bytes or EIO (damaged); never writes past `out`, whatever the payload says.
[[nodiscard]] Status decode_payload(Codec codec, std::span<const std::byte> payload, std::span<std::byte> out);

/// What a payload says that it decodes to; nothing when it does not say. Not to be trusted: at most what to ask for.
[[nodiscard]] std::optional<std::uint64_t> claimed_size(Codec codec, std::span<const std::byte> payload);

}  // namespace varve::chunks
