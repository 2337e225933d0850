// Who keeps a mount busy, from /proc and /sys alone: asking the mount could hang.
#include <fmt/format.h>
#include <limits.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <set>

#include "varve/fuse/mount.h"
#include "varve/fuse/mount_table.h"

namespace varve::fuse {
namespace {

namespace fs = std::filesystem;

std::string first_line(const fs::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

/// The names below a directory; empty when it can't be read.
std::vector<fs::path> entries(const fs::path& directory) {
  std::vector<fs::path> out;
  std::error_code error;
  for (fs::directory_iterator it(directory, error), end; !error && it != end; it.increment(error)) {
    out.push_back(it->path());
  }
  return out;
}

/// What a link of /proc says, which need not exist (nor be asked about).
std::optional<std::string> target_of(const fs::path& link) {
  std::string buffer(PATH_MAX, '\0');
  const ssize_t size = ::readlink(link.c_str(), buffer.data(), buffer.size());
  if (size < 0) return std::nullopt;
  buffer.resize(static_cast<std::size_t>(size));
  return buffer;
}

/// The path below `mountpoint`, "" for itself; nothing when it is elsewhere.
std::optional<std::string> below(const std::string& path, const std::string& mountpoint) {
  if (path == mountpoint) return "";
  const std::string prefix = mountpoint == "/" ? "/" : mountpoint + "/";
  if (!path.starts_with(prefix)) return std::nullopt;
  return path.substr(prefix.size());
}

std::string shown(const std::string& path) {
  return path.empty() ? "the mountpoint" : path;
}

void add_process(const fs::path& process, const std::string& mountpoint, std::vector<std::string>& out) {
  std::set<std::string> seen;
  const auto who = fmt::format("process {} ({})", process.filename().string(), first_line(process / "comm"));
  for (const auto& descriptor : entries(process / "fd")) {
    const auto target = target_of(descriptor);
    const auto path = target ? below(*target, mountpoint) : std::nullopt;
    if (path && seen.insert(*path).second) out.push_back(fmt::format("{} has {} open", who, shown(*path)));
  }
  for (const char* link : {"cwd", "root"}) {
    const auto target = target_of(process / link);
    const auto path = target ? below(*target, mountpoint) : std::nullopt;
    if (path)
      out.push_back(fmt::format("{} has its {} directory in {}", who,
                                link == std::string_view("cwd") ? "working" : "root", shown(*path)));
  }
}

void add_loop_device(const fs::path& device, const std::vector<MountEntry>& table, const std::string& mountpoint,
                     std::vector<std::string>& out) {
  const auto path = below(first_line(device / "loop" / "backing_file"), mountpoint);
  if (!path) return;
  const std::string name = "/dev/" + device.filename().string();
  for (const auto& entry : table) {
    if (entry.source == name || entry.source.starts_with(name + "p")) {
      out.push_back(
          fmt::format("{} on {} is mounted on {}: umount {}", name, *path, entry.mountpoint, entry.mountpoint));
      return;
    }
  }
  out.push_back(fmt::format("{0} is attached to {1}: losetup -d {0}", name, *path));
}

}  // namespace

std::vector<std::string> find_holders(const std::string& mountpoint) {
  std::vector<std::string> out;
  const auto table = read_mount_table();
  for (const auto& device : entries("/sys/block")) {
    if (device.filename().string().starts_with("loop")) add_loop_device(device, table, mountpoint, out);
  }
  for (const auto& entry : table) {
    const auto path = below(entry.mountpoint, mountpoint);
    if (path && !path->empty()) out.push_back(fmt::format("{} is mounted on {}", entry.source, entry.mountpoint));
  }
  for (const auto& process : entries("/proc")) {
    const std::string name = process.filename().string();
    if (name.find_first_not_of("0123456789") == std::string::npos) add_process(process, mountpoint, out);
  }
  return out;
}

}  // namespace varve::fuse
