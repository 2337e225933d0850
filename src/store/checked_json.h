// Files of the store that are one JSON object each, carry a checksum over themselves, and are replaced as a whole.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string_view>

#include "varve/core/result.h"
#include "varve/os/storage.h"

namespace varve::store {

inline constexpr ByteCount kMaxCheckedJson{1 * kMiB};

/// ENOENT (absent); EIO (damaged), the message does not name the file; ENOTSUP (refused), naming it, for another
/// "format" than `format`.
[[nodiscard]] Result<nlohmann::json> read_checked_json(os::Storage& storage, std::string_view path, unsigned format);
/// Durable. E2BIG (refused) for an object that could not be read back.
[[nodiscard]] Status write_checked_json(os::Storage& storage, std::string_view path, nlohmann::json object);

}  // namespace varve::store
