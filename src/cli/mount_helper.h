// mount.varve: what mount(8) runs for `mount -t varve STORE MOUNTPOINT` and for lines of /etc/fstab.
#pragma once

#include <optional>
#include <string>

#include "mount.h"
#include "varve/core/result.h"

namespace varve::cli {

/// Exit codes as mount(8) documents them for itself.
enum MountHelperExit : int { kMountSuccess = 0, kMountUsage = 1, kMountFailure = 32 };

struct HelperRequest {
  MountRequest mount;
  bool pretend = false;                        ///< -f: everything but the mount
  std::optional<std::string> mount_namespace;  ///< -N: a path to one
};

/// STORE MOUNTPOINT [-sfnv] [-N NAMESPACE] [-t TYPE] [-o OPTIONS], in any order. EINVAL (refused) with a sentence.
[[nodiscard]] Result<HelperRequest> parse_helper_arguments(int argc, const char* const* argv);
[[nodiscard]] int run_mount_helper(int argc, const char* const* argv);

}  // namespace varve::cli
