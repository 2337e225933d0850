#include "mount_table.h"

#include <fmt/format.h>

#include <filesystem>
#include <fstream>
#include <sstream>

namespace varve::cli {
namespace {

/// Spaces, tabs, newlines and backslashes are written as \ooo.
std::string unescape(std::string_view field) {
  std::string out;
  for (std::size_t i = 0; i < field.size(); ++i) {
    const auto octal = [&](std::size_t at) { return at < field.size() && field[at] >= '0' && field[at] <= '7'; };
    if (field[i] == '\\' && octal(i + 1) && octal(i + 2) && octal(i + 3)) {
      out += static_cast<char>((field[i + 1] - '0') * 64 + (field[i + 2] - '0') * 8 + (field[i + 3] - '0'));
      i += 3;
    } else {
      out += field[i];
    }
  }
  return out;
}

}  // namespace

std::vector<MountEntry> parse_mount_table(std::string_view text) {
  std::vector<MountEntry> out;
  std::istringstream lines{std::string(text)};
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string word;
    std::vector<std::string> before;
    while (words >> word && word != "-") before.push_back(word);
    MountEntry entry;
    if (before.size() < 6 || !(words >> entry.type >> entry.source)) continue;
    entry.mountpoint = unescape(before[4]);
    entry.source = unescape(entry.source);
    out.push_back(std::move(entry));
  }
  return out;
}

std::vector<MountEntry> read_mount_table() {
  std::ifstream file("/proc/self/mountinfo");
  std::ostringstream text;
  text << file.rdbuf();
  return parse_mount_table(text.str());
}

std::optional<MountEntry> mounted_at(const std::vector<MountEntry>& table, std::string_view path) {
  for (auto entry = table.rbegin(); entry != table.rend(); ++entry) {
    if (entry->mountpoint == path) return *entry;
  }
  return std::nullopt;
}

std::optional<MountEntry> mount_of(const std::vector<MountEntry>& table, std::string_view path) {
  std::optional<MountEntry> best;
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
  const auto mount = mount_of(read_mount_table(), normal.native());
  if (mount && mount->type == kMountType) return normal.native();
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
