// The command line: what may be said, and what was said. The only file that knows how it is parsed.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "mount_options.h"
#include "varve/core/result.h"
#include "varve/store/store.h"

namespace CLI {
class App;
}

namespace varve::cli {

/// Exit codes; listed in varve(1), EXIT STATUS.
enum ExitCode : int {
  kExitSuccess = 0,
  kExitFailure = 1,
  kExitUsage = 2,
  kExitDamage = 3,  ///< `check` found damage, or left some unrepaired
};

enum class Command {
  init, mount, list, info, restore, clone, diff, export_stream, import_stream, check, collect, du, rm, free,
  limit, trash, undelete, prune, policy
};

/// What was said. Words are as typed: image.h finds out what they mean.
struct Options {
  Command command = Command::list;
  bool json = false;
  std::optional<std::string> store;  ///< --store
  std::string path;                  ///< STORE of init, mount, check, collect, FILE of export, import; empty: not given
  std::string image;                 ///< DISK, DISK@SNAPSHOT or a path; empty: not given
  std::string name;                  ///< NEW of clone, B of diff
  std::optional<std::string> to;     ///< --to of restore
  bool repair = false;               ///< --repair of check
  bool raw = false;                  ///< --raw of diff
  std::optional<std::string> since;  ///< --since of export
  std::optional<std::string> as;     ///< --as of import and undelete
  bool force = false;                ///< --force of import
  std::vector<std::string> images;   ///< TARGETs of du and rm
  bool dry_run = false;              ///< --dry-run of rm and prune
  std::uint64_t bytes = 0;           ///< BYTES of free
  std::optional<std::string> disk;   ///< --disk of free
  bool yes = false;                  ///< --yes of free
  bool trash = false;                ///< --trash of list
  std::map<std::string, std::optional<std::uint64_t>> limits;  ///< of limit: what to set; nothing: no limit
  std::optional<std::uint64_t> trash_keep;                     ///< --keep of trash, in seconds
  bool empty_trash = false;                                    ///< --empty of trash
  std::map<std::string, std::string> keep;                     ///< --keep-… of prune, without "keep-", as typed
  std::string action;                  ///< of policy: "add", "list" …
  std::vector<std::string> disks;      ///< --disks of policy add
  std::optional<std::uint64_t> every;  ///< --every, in seconds
  std::vector<std::string> at;         ///< --at
  std::vector<std::string> days;       ///< --days
  std::optional<std::string> pattern;  ///< --name
  store::InitOptions init;
  std::string mountpoint;
  bool foreground = false;
  MountOptions mount;
};

/// Either what to do, or how to exit at once (help, version, a mistake: everything is said already).
struct Parsed {
  std::optional<Options> options;
  int exit_code = kExitSuccess;
};
[[nodiscard]] Parsed parse_command_line(int argc, const char* const* argv);

/// An option as --help shows it, for the test that compares it with the manual pages.
struct OptionHelp {
  std::string command;             ///< empty: of varve itself
  std::vector<std::string> names;  ///< "-s", "--store"
};
[[nodiscard]] std::vector<OptionHelp> all_options();
/// What `varve COMMAND --help` prints; empty: `varve --help`.
[[nodiscard]] std::string help_text(const std::string& command);

}  // namespace varve::cli
