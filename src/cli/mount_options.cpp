#include "mount_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "size.h"
#include "varve/catalog/names.h"

namespace varve::cli {
namespace {

constexpr ByteCount kLeastCache{8 * kMiB};
constexpr ByteCount kMostCache{1 * kTiB};

struct Word {
  std::string_view name;
  std::optional<std::string_view> value;
};

Word split(std::string_view word) {
  const auto equals = word.find('=');
  if (equals == std::string_view::npos) return {word, std::nullopt};
  return {word.substr(0, equals), word.substr(equals + 1)};
}

Status set_cache(std::string_view value, MountOptions& out) {
  const auto size = parse_size(value);
  if (!size) return tl::unexpected(size.error().in("mount option \"cache\""));
  if (*size < kLeastCache || *size > kMostCache) {
    return fail_refused(EINVAL, fmt::format("mount option \"cache\": {} is not between 8M and 1T", value));
  }
  out.cache_bytes = static_cast<std::size_t>(size->value());
  return {};
}

Status apply(const Word& word, MountOptions& out) {
  if (word.name == "cache") return set_cache(*word.value, out);
  if (word.name == "allow_other") out.allow_other = true;
  if (word.name == "real_blocks") out.real_blocks = true;
  if (word.name == "assume_power_loss") out.assume_power_loss = true;
  if (word.name == "ro") out.read_only = true;
  if (word.name == "rw") out.read_only = false;
  return {};
}

bool is_ignored(std::string_view name) {
  const auto& ignored = ignored_mount_options();
  return name.starts_with("x-") || name.starts_with("X-") || std::ranges::find(ignored, name) != ignored.end();
}

Status apply_word(std::string_view text, UnknownOptions unknown, MountOptions& out) {
  const auto word = split(text);
  const auto& ours = mount_option_table();
  const auto found = std::ranges::find(ours, word.name, &MountOptionHelp::name);
  if (found == ours.end()) {
    if (is_ignored(word.name) || unknown == UnknownOptions::ignore) return {};
    return fail_refused(EINVAL, fmt::format("unknown mount option {}; mount.varve(8) lists those there are",
                                            catalog::quoted(text)));
  }
  if (found->argument.empty() && word.value) {
    return fail_refused(EINVAL, fmt::format("mount option \"{}\" takes no value", word.name));
  }
  if (!found->argument.empty() && !word.value) {
    return fail_refused(EINVAL, fmt::format("mount option \"{0}\" needs a value: {0}={1}", word.name, found->argument));
  }
  return apply(word, out);
}

}  // namespace

const std::vector<MountOptionHelp>& mount_option_table() {
  static const std::vector<MountOptionHelp> table{
      {"allow_other", "", "let users other than the one who mounts use the disks, by their modes and owners"},
      {"cache", "SIZE", "memory for chunks of snapshots (default 256M, less on a small machine; 8M to 1T)"},
      {"real_blocks", "", "snapshot images report the storage they hold: cp, tar -S and du see their holes"},
      {"assume_power_loss", "", "trust nothing that memory kept: every chunk counts as changed in the next snapshot"},
      {"ro", "", "refuse every change through the mount"},
      {"rw", "", "allow changes (default)"},
  };
  return table;
}

const std::vector<std::string_view>& ignored_mount_options() {
  static const std::vector<std::string_view> names{
      "defaults", "auto",    "noauto",   "user",     "nouser",     "users",      "owner",       "group",
      "nofail",   "_netdev", "suid",     "nosuid",   "dev",        "nodev",      "exec",        "noexec",
      "async",    "atime",   "noatime",  "relatime", "norelatime", "diratime",   "nodiratime",  "strictatime",
      "lazytime", "nolazytime", "silent", "loud",    "comment",    "uhelper",    "helper",
  };
  return names;
}

Status parse_mount_options(std::string_view list, UnknownOptions unknown, MountOptions& out) {
  while (!list.empty()) {
    const auto comma = std::min(list.find(','), list.size());
    const auto word = list.substr(0, comma);
    list.remove_prefix(std::min(comma + 1, list.size()));
    if (!word.empty()) VARVE_TRY(apply_word(word, unknown, out));
  }
  return {};
}

}  // namespace varve::cli
