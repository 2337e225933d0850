// Running the store's commands, whoever has the store: the daemon through its socket, or this process itself.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "varve/core/result.h"
#include "varve/store/commands.h"
#include "varve/store/store.h"

namespace varve::cli {

/// How long a store that is just being closed, or just being used by another command, is waited for.
constexpr std::chrono::seconds kHolderPatience{60};

/// How long a daemon that still answers is waited for when its mount is gone: just now, or it is seen elsewhere only.
constexpr std::chrono::seconds kUnmountedPatience{5};

/// Opens a store in this process. Somebody else has it: EBUSY naming them when a daemon has served it for `daemon_patience`,
/// else (it is being closed, or a command runs) after kHolderPatience. `waiting` is called once, when it becomes
/// noticeable.
[[nodiscard]] Result<std::unique_ptr<store::Store>> open_store(const std::string& path,
                                                               const store::OpenOptions& options,
                                                               const std::function<void(const Error&)>& waiting,
                                                               std::chrono::seconds daemon_patience = {});

/// Sends the request to the daemon that serves the store, or opens the store for it (without its background work).
[[nodiscard]] Result<nlohmann::json> run_request(const std::string& store_path, const nlohmann::json& request,
                                                 const store::CommandContext& context);

}  // namespace varve::cli
