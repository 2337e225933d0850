// What commands share that ask the store and print the answer.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "options.h"
#include "target.h"
#include "varve/store/commands.h"

namespace varve::cli {

/// From now on SIGINT, SIGTERM and SIGHUP make contexts of callers say stop.
void stop_when_interrupted();
[[nodiscard]] store::CommandContext context_of_caller();
/// Runs one request on the store that the words name and prints the answer. The exit code. `progress`: the word for a
/// bar, empty: none.
[[nodiscard]] int request(const Options& options, const Target& target, const nlohmann::json& question,
                          void (*print)(const nlohmann::json& answer), const std::string& progress = {});
/// The store of a command that takes it as its argument, or as --store.
[[nodiscard]] Result<Target> store_target(const Options& options);

}  // namespace varve::cli
