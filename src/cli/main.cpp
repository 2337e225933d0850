#include <exception>
#include <string_view>

#include "commands.h"
#include "mount_helper.h"
#include "options.h"
#include "report.h"

namespace {

std::string_view base_name(std::string_view path) { return path.substr(path.rfind('/') + 1); }

int run(int argc, char** argv) {
  if (argc > 0 && base_name(argv[0]) == "mount.varve") return varve::cli::run_mount_helper(argc, argv);
  const auto parsed = varve::cli::parse_command_line(argc, argv);
  return parsed.options ? varve::cli::run(*parsed.options) : parsed.exit_code;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& exception) {
    return varve::cli::report(varve::Error{EIO, varve::ErrorKind::system,
                                           std::string("internal error: ") + exception.what()});
  }
}
