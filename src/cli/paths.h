// Paths as the command line takes them, and which mount they are in.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "varve/core/result.h"
#include "varve/fuse/mount_table.h"

namespace varve::cli {

using MountTable = std::vector<fuse::MountEntry>;

/// The mount that an absolute, normalised path is in.
[[nodiscard]] std::optional<fuse::MountEntry> mount_of(const MountTable& table, std::string_view path);
/// Absolute and without symbolic links, "." and ".."; the last parts need not exist. Asks nothing of a filesystem
/// below a mountpoint of ours, whose daemon may be dead. EINVAL (refused) for an empty path.
[[nodiscard]] Result<std::string> absolute_path(const std::string& path);
/// Whether `path` is `directory` or below it; both absolute and normalised.
[[nodiscard]] bool is_within(std::string_view path, std::string_view directory);

}  // namespace varve::cli
