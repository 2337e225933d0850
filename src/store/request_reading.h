// What a request says, for the commands that take it.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "varve/core/result.h"
#include "varve/store/store.h"

namespace varve::store {

/// EINVAL (refused) when it is there and no text.
[[nodiscard]] Result<std::optional<std::string>> optional_string(const nlohmann::json& request, const char* key);
/// EINVAL also when it is not there.
[[nodiscard]] Result<std::string> required_string(const nlohmann::json& request, const char* key);
/// False when it is not there.
[[nodiscard]] Result<bool> flag(const nlohmann::json& request, const char* key);

/// ENOENT with a sentence.
[[nodiscard]] Result<std::shared_ptr<Disk>> find_disk(Store& store, std::string_view name);
/// Whether only snapshots will do.
enum class Wanted { image, snapshot };
/// What "image", or "disk" and "snapshot", name.
[[nodiscard]] Result<ImageName> requested_image(Store& store, const nlohmann::json& request, Wanted wanted);

}  // namespace varve::store
