// Opening below a directory without leaving it and without following a link.
#pragma once

#include <sys/types.h>

#include <string>

namespace varve::os {

/// As openat(2), with O_CLOEXEC; ELOOP for a symbolic link anywhere in the path, also at its end. By openat2(2) where
/// the kernel has it and a sandbox allows it, else by open_by_steps(). `path`: as valid_path() wants it, or ".".
[[nodiscard]] int open_beneath(int root, const std::string& path, int flags, mode_t mode);

/// The same part by part, for kernels before 5.6.
[[nodiscard]] int open_by_steps(int root, const std::string& path, int flags, mode_t mode);

}  // namespace varve::os
