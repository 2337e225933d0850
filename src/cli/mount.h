// `varve mount`: a store served as a filesystem by a process of its own.
#pragma once

#include <string>

#include "mount_options.h"
#include "paths.h"
#include "varve/core/result.h"

namespace varve::cli {

struct MountRequest {
  std::string store;
  std::string mountpoint;
  bool foreground = false;
  MountOptions options;
};

/// What is wrong with mounting `store` on `mountpoint`, both absolute, given what is mounted: another mount of the
/// store, a mountpoint in use, one within the other. A mount of this very store whose daemon is dead is not wrong.
[[nodiscard]] Status check_mountpoint(const MountTable& table, const std::string& store,
                                      const std::string& mountpoint);

/// In the foreground: returns when the mount has ended. Otherwise: in the process that was started, when the mount is
/// usable, or cannot be, which is reported; and in the daemon that serves it, when it has ended. The exit code.
[[nodiscard]] int mount_store(const MountRequest& request);

}  // namespace varve::cli
