// The words after -o of `varve mount` and `mount -t varve`.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "varve/core/result.h"
#include "varve/core/units.h"

namespace varve::cli {

struct MountOptions {
  bool allow_other = false;
  bool real_blocks = false;
  bool assume_power_loss = false;
  bool read_only = false;
  std::size_t cache_bytes = 0;  ///< 0: what plan_memory() gives
};

/// An option of ours.
struct MountOptionHelp {
  std::string_view name;
  std::string_view argument;  ///< "SIZE"; empty: takes none
  std::string_view help;
};
[[nodiscard]] const std::vector<MountOptionHelp>& mount_option_table();
/// Options of mount(8) and fstab(5) that are accepted and change nothing here.
[[nodiscard]] const std::vector<std::string_view>& ignored_mount_options();

enum class UnknownOptions { refuse, ignore };

/// Applies a comma-separated list. EINVAL (refused) naming the option that is unknown, lacks its value or has one it
/// does not take.
[[nodiscard]] Status parse_mount_options(std::string_view list, UnknownOptions unknown, MountOptions& out);

}  // namespace varve::cli
