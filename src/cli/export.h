// `varve export`: a snapshot, or what changed since another one, as a stream (stream.h).
#pragma once

#include "options.h"
#include "varve/store/commands.h"

namespace varve::cli {

/// The exit code; everything is said.
int run_export(const Options& options, store::CommandContext context);

}  // namespace varve::cli
