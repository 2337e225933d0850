// /proc/self/mountinfo, see proc_pid_mountinfo(5).
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace varve::fuse {

constexpr std::string_view kMountSubtype = "varve";
constexpr std::string_view kMountType = "fuse.varve";

struct MountEntry {
  std::string device;  ///< "major:minor"
  std::string mountpoint;
  std::string type;
  std::string source;
};

/// In the order in which they were mounted; what does not parse is left out.
[[nodiscard]] std::vector<MountEntry> parse_mount_table(std::string_view text);
/// Empty where /proc is not to be had.
[[nodiscard]] std::vector<MountEntry> read_mount_table();
/// The topmost mount exactly at an absolute path; null when there is none.
[[nodiscard]] const MountEntry* mounted_at(const std::vector<MountEntry>& table, std::string_view path);
/// Whether the daemon behind a mount of ours is gone: every call that reaches it answers ENOTCONN. Waits for a daemon
/// that lives and does not answer.
[[nodiscard]] bool is_dead(const std::string& mountpoint);

}  // namespace varve::fuse
