// How failures reach people: one line, "varve: ...".
#pragma once

#include "options.h"
#include "varve/core/result.h"

namespace varve::cli {

/// Prints the error's sentence to standard error; returns kExitFailure.
int report(const Error& error);

}  // namespace varve::cli
