// `varve diff`: where two images read differently, as it is found.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>

#include "options.h"
#include "target.h"
#include "varve/store/commands.h"

namespace varve::cli {

/// The exit code; everything is said.
int run_diff(const Options& options, store::CommandContext context);

/// Asks the store for the diff of two images of it and calls `visit` for each extent, ascending. The daemon waits while
/// `visit` works. The result is the command's (store/commands.h); a `visit` that fails ends it with its error.
[[nodiscard]] Result<nlohmann::json> request_diff(const Target& a, const Target& b, store::CommandContext context,
                                                  const std::function<Status(std::uint64_t at, std::uint64_t count)>&
                                                      visit);

/// Two images of one store. Where only one of the words says which, it is the other's, too.
[[nodiscard]] Result<std::pair<Target, Target>> find_targets(const std::optional<std::string>& store,
                                                             const std::string& a, const std::string& b);

}  // namespace varve::cli
