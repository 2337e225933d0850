// du, rm and free: see varve(1).
#pragma once

#include "options.h"

namespace varve::cli {

int run_du(const Options& options);
int run_rm(const Options& options);
int run_free(const Options& options);

}  // namespace varve::cli
