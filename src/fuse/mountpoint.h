// The place where a store is mounted: whether it will do, and getting rid of what is there.
#pragma once

#include <string>

#include "varve/core/result.h"

namespace varve::fuse {

/// The absolute path of a directory that a store can be mounted on. Removes a mount of ours there whose daemon is dead.
/// Errors as Session::mount().
[[nodiscard]] Result<std::string> prepare_mountpoint(const std::string& path);
/// Whether this process may mount at all: /dev/fuse, fusermount3.
[[nodiscard]] Status check_mounting_possible();

enum class UnmountHow { plain, lazily };
/// As umount(8) does, with fusermount3 when we are not root. EBUSY, EINVAL (not mounted).
[[nodiscard]] Status unmount(const std::string& mountpoint, UnmountHow how);

}  // namespace varve::fuse
