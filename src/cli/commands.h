// What each command of `varve` does.
#pragma once

#include "options.h"

namespace varve::cli {

/// The exit code; a failure is reported already.
[[nodiscard]] int run(const Options& options);

}  // namespace varve::cli
