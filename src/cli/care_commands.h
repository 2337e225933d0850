// limit, trash, undelete and prune.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "options.h"

namespace varve::cli {

[[nodiscard]] int run_limit(const Options& options);
[[nodiscard]] int run_trash(const Options& options);
[[nodiscard]] int run_undelete(const Options& options);
[[nodiscard]] int run_prune(const Options& options);
[[nodiscard]] int run_policy(const Options& options);
void print_trash(const nlohmann::json& answer);

/// The --keep-… that were given, as a request has them. EINVAL (refused) with a sentence.
[[nodiscard]] Result<nlohmann::json> keep_of(const Options& options);

}  // namespace varve::cli
