// What may be said to the commands about space.
#include <CLI/CLI.hpp>

#include "option_builder.h"
#include "size.h"

namespace varve::cli {

void add_space_commands(CLI::App& app, Options& options) {
  auto& du = add_command(app, options, Command::du, "du", "tell what snapshots take and what deleting them would free");
  du.add_option("TARGET", options.images, "disks and snapshots (default: the whole store)")->type_name("");
  add_store(du, options);
  add_json(du, options);

  auto& rm = add_command(app, options, Command::rm, "rm", "delete snapshots, and tell what that frees together");
  rm.add_option("SNAPSHOT", options.images, "DISK@SNAPSHOT, DISK/SNAPSHOT, or paths in a mount")->type_name("")->required();
  rm.add_flag("-n,--dry-run", options.dry_run, "delete nothing, only tell");
  add_store(rm, options);
  add_json(rm, options);

  auto& free = add_command(app, options, Command::free, "free", "propose which snapshots to delete for so many bytes");
  free.add_option_function<std::string>(
          "BYTES",
          [&options](const std::string& text) {
            const auto size = parse_size(text);
            if (!size) refuse(size.error().message);
            options.bytes = size->value();
          },
          "how many bytes are needed, for example 20G")
      ->type_name("")
      ->required();
  free.add_option("--disk", options.disk, "only snapshots of this disk (default: of all)")->type_name("DISK");
  free.add_flag("--yes", options.yes, "delete them");
  add_store(free, options);
  add_json(free, options);
}

}  // namespace varve::cli
