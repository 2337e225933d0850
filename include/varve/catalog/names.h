// Which names disks and snapshots may have, and how any name is put into a message.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "varve/core/result.h"

namespace varve::catalog {

enum class NameKind { disk, snapshot, policy };

/// Bytes. Short of NAME_MAX (255), so that tools can add a suffix to it.
inline constexpr std::size_t kMaxNameSize = 240;
/// The image within each disk and snapshot directory.
inline constexpr std::string_view kImageName = "disk.img";

/// Valid UTF-8 without control characters or '/', no leading '.', 1 to kMaxNameSize bytes, not kImageName. Kind
/// refused: ENAMETOOLONG, or EINVAL with a sentence that says what is wrong with the name.
[[nodiscard]] Status validate_name(std::string_view name, NameKind kind);

/// What is wrong with a text that people are to read, as the end of a sentence; empty: nothing, it is valid UTF-8 without
/// control characters.
[[nodiscard]] std::string_view wrong_in_text(std::string_view text);

/// Any bytes as a quoted word for messages: "web\x0a01". Control characters and what is not UTF-8 are escaped, long
/// ones are cut with "...".
/// An object, not a function: a call with a std::string must not find std::quoted by its argument.
struct Quoted {
  [[nodiscard]] std::string operator()(std::string_view bytes) const;
};
inline constexpr Quoted quoted;

}  // namespace varve::catalog
