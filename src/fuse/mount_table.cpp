#include "varve/fuse/mount_table.h"

#include <sys/vfs.h>

#include <cerrno>
#include <fstream>
#include <sstream>

namespace varve::fuse {
namespace {

/// Spaces, tabs, newlines and backslashes are written as \ooo.
std::string unescape(std::string_view field) {
  const auto octal = [&](std::size_t at) { return at < field.size() && field[at] >= '0' && field[at] <= '7'; };
  std::string out;
  for (std::size_t i = 0; i < field.size(); ++i) {
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
    std::vector<std::string> before;  // a variable number of optional fields end at "-"
    while (words >> word && word != "-") before.push_back(word);
    MountEntry entry;
    if (before.size() < 6 || !(words >> entry.type >> entry.source)) continue;
    entry.device = before[2];
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

const MountEntry* mounted_at(const std::vector<MountEntry>& table, std::string_view path) {
  for (auto entry = table.rbegin(); entry != table.rend(); ++entry) {
    if (entry->mountpoint == path) return &*entry;
  }
  return nullptr;
}

bool is_dead(const std::string& mountpoint) {
  struct statfs status {};
  // Not stat(2): that is answered from attributes which the kernel keeps for long.
  return ::statfs(mountpoint.c_str(), &status) != 0 && errno == ENOTCONN;
}

}  // namespace varve::fuse
