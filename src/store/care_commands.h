// The commands of limits, the trash and retention: see varve/store/commands.h.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "varve/store/commands.h"

namespace varve::store {

[[nodiscard]] Result<nlohmann::json> run_limit(Store& store, const nlohmann::json& request, const CommandContext& context);
[[nodiscard]] Result<nlohmann::json> list_trash(Store& store, const nlohmann::json& request,
                                                const CommandContext& context);
[[nodiscard]] Result<nlohmann::json> run_trash(Store& store, const nlohmann::json& request, const CommandContext& context);
[[nodiscard]] Result<nlohmann::json> run_undelete(Store& store, const nlohmann::json& request,
                                                  const CommandContext& context);
[[nodiscard]] Result<nlohmann::json> run_prune(Store& store, const nlohmann::json& request, const CommandContext& context);
[[nodiscard]] Result<nlohmann::json> run_policy_command(Store& store, const nlohmann::json& request,
                                                        const CommandContext& context);

}  // namespace varve::store
