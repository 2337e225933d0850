#include "mount_helper.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>

#include <string_view>
#include <vector>

#include "report.h"
#include "varve/catalog/names.h"
#include "varve/core/version.h"
#include "varve/os/descriptor.h"

namespace varve::cli {
namespace {

constexpr char kUsage[] =
    "Usage: mount.varve STORE MOUNTPOINT [-s] [-f] [-n] [-v] [-N NAMESPACE] [-t TYPE] [-o OPTIONS]\n"
    "Run by mount(8); see mount.varve(8).\n";

/// What the words amount to before -o is looked at: -s, which decides about unknown options, may come after it.
struct Words {
  std::vector<std::string> positional;
  std::string options;
  bool sloppy = false;
  bool pretend = false;
  std::optional<std::string> mount_namespace;
};

Status take_flags(std::string_view flags, Words& words) {
  for (const char flag : flags) {
    if (flag == 's') {
      words.sloppy = true;
    } else if (flag == 'f') {
      words.pretend = true;
    } else if (flag != 'n' && flag != 'v') {
      return fail_refused(EINVAL, fmt::format("unknown option -{}", catalog::quoted(std::string_view(&flag, 1))));
    }
  }
  return {};
}

Result<Words> split_words(int argc, const char* const* argv) {
  Words words;
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    if (!word.starts_with('-') || word == "-") {
      words.positional.emplace_back(word);
      continue;
    }
    if (word != "-o" && word != "-t" && word != "-N") {
      VARVE_TRY(take_flags(word.substr(1), words));
      continue;
    }
    if (++i == argc) return fail_refused(EINVAL, fmt::format("{} needs a value", word));
    if (word == "-o") words.options += "," + std::string(argv[i]);
    if (word == "-N") words.mount_namespace = argv[i];
  }
  return words;
}

Status enter_namespace(const std::string& path) {
  const os::Descriptor target(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (target.get() < 0) return fail_system(errno, "cannot open the namespace " + path);
  if (::setns(target.get(), CLONE_NEWNS) != 0) return fail_system(errno, "cannot enter the namespace " + path);
  return {};
}

}  // namespace

Result<HelperRequest> parse_helper_arguments(int argc, const char* const* argv) {
  VARVE_TRY_ASSIGN(const auto words, split_words(argc, argv));
  if (words.positional.size() != 2) return fail_refused(EINVAL, "mount.varve takes a store and a mountpoint");
  HelperRequest request;
  request.mount.store = words.positional[0];
  request.mount.mountpoint = words.positional[1];
  request.pretend = words.pretend;
  request.mount_namespace = words.mount_namespace;
  VARVE_TRY(parse_mount_options(words.options, words.sloppy ? UnknownOptions::ignore : UnknownOptions::refuse,
                                request.mount.options));
  return request;
}

int run_mount_helper(int argc, const char* const* argv) {
  if (argc == 2 && std::string_view(argv[1]) == "--help") {
    fmt::print("{}", kUsage);
    return kMountSuccess;
  }
  if (argc == 2 && std::string_view(argv[1]) == "--version") {
    fmt::print("mount.varve {}\n", kVersion);
    return kMountSuccess;
  }
  const auto request = parse_helper_arguments(argc, argv);
  if (!request) {
    report(request.error());
    return kMountUsage;
  }
  if (request->pretend) return kMountSuccess;
  if (request->mount_namespace) {
    if (const auto entered = enter_namespace(*request->mount_namespace); !entered) {
      report(entered.error());
      return kMountFailure;
    }
  }
  return mount_store(request->mount) == kExitSuccess ? kMountSuccess : kMountFailure;
}

}  // namespace varve::cli
