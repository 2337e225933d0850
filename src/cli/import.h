// `varve import`: a stream of `varve export` becomes a snapshot.
#pragma once

#include "options.h"
#include "varve/store/commands.h"

namespace varve::cli {

/// The exit code; everything is said.
int run_import(const Options& options, store::CommandContext context);

}  // namespace varve::cli
