#include "options.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cctype>
#include <cstdio>

#include "option_builder.h"
#include "size.h"
#include "varve/catalog/names.h"
#include "varve/core/version.h"

namespace varve::cli {
namespace {

constexpr char kImageHelp[] = "DISK, DISK@SNAPSHOT, DISK/SNAPSHOT, or a path in a mount";

void add_init(CLI::App& app, Options& options) {
  auto& init = add_command(app, options, Command::init, "init", "create a store");
  init.add_option("STORE", options.path, "a directory that is empty or does not exist yet")->type_name("")->required();
  init.add_option_function<std::string>(
          "--chunk-size",
          [&options](const std::string& text) {
            const auto size = parse_size(text);
            if (!size) refuse("--chunk-size: " + size.error().message);
            if (!Geometry::valid_chunk_size(size->value())) {
              refuse(fmt::format("--chunk-size: {} is not a power of two from 16K to 4M", text));
            }
            options.init.chunk_size = *size;
          },
          "unit of storage, a power of two from 16K to 4M (default 64K); cannot be changed later")
      ->type_name("SIZE");
  init.add_option_function<std::string>(
          "--compression",
          [&options](const std::string& text) {
            const auto compression = chunks::Compression::parse(text);
            if (!compression) refuse("--compression: " + compression.error().message);
            options.init.compression = *compression;
          },
          "zstd:1 to zstd:19, or none; zstd:3 unless given")
      ->type_name("METHOD");
  add_json(init, options);
}

std::string mount_options_footer() {
  std::string out = "Mount options:\n";
  for (const auto& option : mount_option_table()) {
    const auto name = option.argument.empty() ? std::string(option.name) : fmt::format("{}={}", option.name, option.argument);
    out += fmt::format("  {:<26}  {}\n", name, option.help);
  }
  return out + "Options of mount(8) and fstab(5) that mean nothing here are accepted: see mount.varve(8).";
}

void add_mount(CLI::App& app, Options& options) {
  auto& mount = add_command(app, options, Command::mount, "mount", "serve a store as a filesystem");
  mount.add_option("STORE", options.path, "the store's directory")->type_name("")->required();
  mount.add_option("MOUNTPOINT", options.mountpoint, "the directory where the disks appear")->type_name("")->required();
  mount.add_option_function<std::vector<std::string>>(
           "-o",
           [&options](const std::vector<std::string>& lists) {
             for (const auto& list : lists) {
               const auto parsed = parse_mount_options(list, UnknownOptions::refuse, options.mount);
               if (!parsed) refuse(parsed.error().message);
             }
           },
           "mount options, separated by commas")
      ->type_name("OPTIONS")
      ->allow_extra_args(false);
  mount.add_flag("-f,--foreground", options.foreground, "stay in the foreground and log to standard error");
  mount.footer(mount_options_footer());
}

void add_list(CLI::App& app, Options& options) {
  auto& list = add_command(app, options, Command::list, "list", "list disks, or the snapshots of a disk");
  list.add_option("DISK", options.image, "a disk, a path in a mount, or a store's directory")->type_name("");
  list.add_flag("--trash", options.trash, "list the snapshots in the trash");
  add_store(list, options);
  add_json(list, options);
}

void add_info(CLI::App& app, Options& options) {
  auto& info = add_command(app, options, Command::info, "info", "everything about a disk, a snapshot or the store");
  info.add_option("IMAGE", options.image, kImageHelp)->type_name("");
  add_store(info, options);
  add_json(info, options);
}

void add_restore(CLI::App& app, Options& options) {
  auto& restore = add_command(app, options, Command::restore, "restore", "make a live image what a snapshot is, at once");
  restore.add_option("SNAPSHOT", options.image, kImageHelp)->type_name("")->required();
  restore.add_option("--to", options.to, "another disk to restore to (default: the snapshot's own)")->type_name("DISK");
  add_store(restore, options);
  add_json(restore, options);
}

void add_clone(CLI::App& app, Options& options) {
  auto& clone = add_command(app, options, Command::clone, "clone", "make a new disk from a disk or a snapshot, at once");
  clone.add_option("IMAGE", options.image, kImageHelp)->type_name("")->required();
  clone.add_option("NEW", options.name, "name of the new disk")->type_name("")->required();
  add_store(clone, options);
  add_json(clone, options);
}

void add_diff(CLI::App& app, Options& options) {
  auto& diff = add_command(app, options, Command::diff, "diff", "where two images differ");
  diff.add_option("A", options.image, kImageHelp)->type_name("")->required();
  diff.add_option("B", options.name, "the same; of any disk in the store")->type_name("")->required();
  auto* raw = diff.add_flag("--raw", options.raw, "only \"OFFSET LENGTH\" lines, in bytes, for tools");
  add_store(diff, options);
  add_json(diff, options);
  raw->excludes("--json");
}

void add_export(CLI::App& app, Options& options) {
  auto& command = add_command(app, options, Command::export_stream, "export",
                              "write a snapshot, or what changed since another, as a stream");
  command.add_option("SNAPSHOT", options.image, kImageHelp)->type_name("")->required();
  command.add_option("FILE", options.path, "what to write; - is standard output")->type_name("")->required();
  command.add_option("--since", options.since, "only what changed since this snapshot, of the same disk or an IMAGE")
      ->type_name("BASE");
  add_store(command, options);
  add_json(command, options);
}

void add_import(CLI::App& app, Options& options) {
  auto& command = add_command(app, options, Command::import_stream, "import", "make a snapshot of what export wrote");
  command.add_option("FILE", options.path, "what to read; - is standard input")->type_name("")->required();
  command.add_option("DISK", options.image, "a disk, or a path in a mount; a new one unless the stream has a base")
      ->type_name("")
      ->required();
  command.add_option("--as", options.as, "name of the new snapshot (default: the one it had)")->type_name("NAME");
  command.add_flag("--force", options.force, "give up changes of the live image, and an import that was interrupted");
  add_store(command, options);
  add_json(command, options);
}

void add_check(CLI::App& app, Options& options) {
  auto& check = add_command(app, options, Command::check, "check", "read and verify everything in a store");
  check.add_option("STORE", options.path, "the store's directory, or any path in its mount")->type_name("");
  check.add_flag("--repair", options.repair, "put back what is damaged and intact elsewhere, then check again");
  add_store(check, options);
  add_json(check, options);
}

void add_collect(CLI::App& app, Options& options) {
  auto& collect = add_command(app, options, Command::collect, "collect", "free the space of deleted snapshots now");
  collect.add_option("STORE", options.path, "the store's directory, or any path in its mount")->type_name("");
  add_store(collect, options);
  add_json(collect, options);
}

void build(CLI::App& app, Options& options) {
  app.name("varve");
  app.description("Disks whose snapshots are directories: mkdir takes one, and every one is there to be read.");
  app.set_version_flag("--version", std::string("varve ") + kVersion, "print the version and exit");
  app.set_help_flag("-h,--help", "print this help and exit");
  app.require_subcommand(1);
  add_init(app, options);
  add_mount(app, options);
  add_list(app, options);
  add_info(app, options);
  add_restore(app, options);
  add_clone(app, options);
  add_diff(app, options);
  add_export(app, options);
  add_import(app, options);
  add_check(app, options);
  add_collect(app, options);
  add_space_commands(app, options);
  add_care_commands(app, options);
  add_policy(app, options);
  add_store(app, options);
  app.footer("`varve COMMAND --help` explains a command; the manual is varve(1) and varve(7).");
}

/// CLI11's sentence in our form.
int report_mistake(const CLI::App& app, const CLI::ParseError& error) {
  std::string message = error.what();
  const auto chosen = app.get_subcommands();
  if (const auto unknown = app.remaining(); chosen.empty() && !unknown.empty()) {
    message = fmt::format("there is no command or option {}", catalog::quoted(unknown.front()));
  }
  if (message.size() > 1 && std::isupper(static_cast<unsigned char>(message[0])) != 0 &&
      std::isupper(static_cast<unsigned char>(message[1])) == 0) {
    message[0] = static_cast<char>(std::tolower(static_cast<unsigned char>(message[0])));
  }
  const auto help = chosen.empty() ? std::string("varve --help") : fmt::format("varve {} --help", chosen[0]->get_name());
  fmt::print(stderr, "varve: {} (see `{}`)\n", message, help);
  return kExitUsage;
}

}  // namespace

Parsed parse_command_line(int argc, const char* const* argv) {
  CLI::App app;
  Options options;
  build(app, options);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& asked) {  // help or version
    return {std::nullopt, app.exit(asked)};
  } catch (const CLI::ParseError& mistake) {
    return {std::nullopt, report_mistake(app, mistake)};
  }
  return {std::move(options), kExitSuccess};
}

std::vector<OptionHelp> all_options() {
  CLI::App app;
  Options options;
  build(app, options);
  std::vector<OptionHelp> out;
  const auto add = [&](const CLI::App& command, const std::string& name) {
    for (const auto* option : command.get_options()) {
      if (option->get_positional()) continue;
      OptionHelp help{name, {}};
      for (const auto& flag : option->get_snames()) help.names.push_back("-" + flag);
      for (const auto& flag : option->get_lnames()) help.names.push_back("--" + flag);
      out.push_back(std::move(help));
    }
  };
  add(app, "");
  for (const auto* command : app.get_subcommands({})) {
    add(*command, command->get_name());
    for (const auto* action : command->get_subcommands({})) add(*action, command->get_name() + " " + action->get_name());
  }
  return out;
}

std::string help_text(const std::string& command) {
  CLI::App app;
  Options options;
  build(app, options);
  if (command.empty()) return app.help();
  const auto space = std::min(command.find(' '), command.size());
  const auto* chosen = app.get_subcommand(command.substr(0, space));
  if (space != command.size()) chosen = chosen->get_subcommand(command.substr(space + 1));
  return chosen->help("varve");
}

}  // namespace varve::cli
