// JSON objects that carry a checksum over themselves, from and to bytes that are not trusted: bounded in depth and
// values before anything is built, types and ranges checked on access, and no exception but for want of memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>

#include "varve/core/result.h"

namespace varve::catalog {

using Json = nlohmann::json;

/// Version of the format of records and checkpoints.
inline constexpr std::uint64_t kFormat = 1;
/// Deeper than anything we write (a checkpoint: object, state, snapshots, entry, attributes, xattrs).
inline constexpr std::size_t kMaxDepth = 8;
/// Arrays, objects and members in one object: what bounds the memory that parsing takes (about 128 bytes each). Some
/// 170,000 snapshots fit a checkpoint.
inline constexpr std::size_t kMaxValues = std::size_t{4} << 20;

/// Sorted keys, no spaces, UTF-8 as it is.
[[nodiscard]] std::string canonical(const Json& json);
/// The bytes of an object that holds `content` with "format" and "checksum" put in; ends in a newline.
[[nodiscard]] std::string seal(Json content);
/// Whether unseal() would accept an object of this size and shape.
[[nodiscard]] bool within_bounds(std::string_view text);
/// EIO (damaged) for bytes that seal() did not make or a newer format; the message does not name the object.
[[nodiscard]] Result<Json> unseal(std::span<const std::byte> bytes);

/// Reads members of an object. A missing one, another type or a number out of range is noted in `problem` (the first
/// only) and gives zero or nothing: the caller asks once, at the end.
class Fields {
 public:
  Fields(const Json& object, std::string_view what, std::string& problem);
  [[nodiscard]] std::uint64_t number(const char* key,
                                     std::uint64_t largest = std::numeric_limits<std::uint64_t>::max()) const;
  [[nodiscard]] std::int64_t signed_number(const char* key) const;
  [[nodiscard]] bool boolean(const char* key) const;
  [[nodiscard]] const std::string& text(const char* key) const;
  /// Null when missing.
  [[nodiscard]] const Json& member(const char* key) const;
  void note(std::string problem) const;
  [[nodiscard]] std::string& problem() const { return problem_; }

 private:
  const Json& object_;
  const std::string_view what_;
  std::string& problem_;
};

}  // namespace varve::catalog
