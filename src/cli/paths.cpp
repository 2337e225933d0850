#include "paths.h"

#include <filesystem>

namespace varve::cli {

std::optional<fuse::MountEntry> mount_of(const MountTable& table, std::string_view path) {
  std::optional<fuse::MountEntry> best;
  for (const auto& entry : table) {
    if (!is_within(path, entry.mountpoint)) continue;
    if (!best || entry.mountpoint.size() >= best->mountpoint.size()) best = entry;
  }
  return best;
}

Result<std::string> absolute_path(const std::string& path) {
  if (path.empty()) return fail_refused(EINVAL, "a path is empty");
  std::error_code error;
  const auto absolute = std::filesystem::absolute(path, error);
  if (error) return fail_system(error.value(), "cannot resolve " + path);
  auto normal = absolute.lexically_normal();
  if (!normal.has_filename() && normal.has_relative_path()) normal = normal.parent_path();
  const auto mount = mount_of(fuse::read_mount_table(), normal.native());
  if (mount && mount->type == fuse::kMountType) return normal.native();
  auto canonical = std::filesystem::weakly_canonical(absolute, error);
  if (error) return fail_system(error.value(), "cannot resolve " + path);
  if (!canonical.has_filename() && canonical.has_relative_path()) canonical = canonical.parent_path();
  return canonical.native();
}

bool is_within(std::string_view path, std::string_view directory) {
  if (directory == "/") return path.starts_with('/');
  if (!path.starts_with(directory)) return false;
  return path.size() == directory.size() || path[directory.size()] == '/';
}

}  // namespace varve::cli
