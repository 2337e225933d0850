// The commands about space: see varve/store/commands.h.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "varve/store/commands.h"

namespace varve::store {

[[nodiscard]] Result<nlohmann::json> run_du(Store& store, const nlohmann::json& request, const CommandContext& context);
[[nodiscard]] Result<nlohmann::json> run_rm(Store& store, const nlohmann::json& request, const CommandContext& context);
[[nodiscard]] Result<nlohmann::json> run_free(Store& store, const nlohmann::json& request, const CommandContext& context);

}  // namespace varve::store
