// What is mounted where, and which store a path in a mount belongs to.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "varve/core/result.h"

namespace varve::cli {

/// The type of our mounts as /proc/self/mountinfo shows it; their source is the absolute path of the store.
constexpr std::string_view kMountType = "fuse.varve";

struct MountEntry {
  std::string mountpoint;
  std::string type;
  std::string source;
};

/// The lines of a mountinfo file, see proc_pid_mountinfo(5); what does not parse is left out.
[[nodiscard]] std::vector<MountEntry> parse_mount_table(std::string_view text);
/// Of this process. Empty where /proc is not to be had.
[[nodiscard]] std::vector<MountEntry> read_mount_table();
/// What is mounted (topmost) exactly at an absolute path.
[[nodiscard]] std::optional<MountEntry> mounted_at(const std::vector<MountEntry>& table, std::string_view path);
/// The mount that an absolute, normalised path is in.
[[nodiscard]] std::optional<MountEntry> mount_of(const std::vector<MountEntry>& table, std::string_view path);
/// Absolute and without symbolic links, "." and ".."; the last parts need not exist. Asks nothing of a filesystem
/// below a mountpoint of ours, whose daemon may be dead.
[[nodiscard]] Result<std::string> absolute_path(const std::string& path);
/// Whether `path` is `directory` or below it; both absolute and normalised.
[[nodiscard]] bool is_within(std::string_view path, std::string_view directory);

}  // namespace varve::cli
