// What the files that build the command line share.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "options.h"

namespace varve::cli {

/// Throws what CLI11 reports as a mistake on the command line.
[[noreturn]] inline void refuse(const std::string& message) {
  throw CLI::ValidationError(message, CLI::ExitCodes::ValidationError);
}

inline void add_store(CLI::App& command, Options& options) {
  command
      .add_option("-s,--store", options.store,
                  "the store: its directory, or any path in its mount (default: $VARVE_STORE, else the mount of the "
                  "current directory)")
      ->type_name("STORE");
}

inline void add_json(CLI::App& command, Options& options) {
  command.add_flag("--json", options.json, "print JSON for programs");
}

inline CLI::App& add_command(CLI::App& app, Options& options, Command command, const std::string& name,
                             const std::string& description) {
  auto* added = app.add_subcommand(name, description);
  added->final_callback([&options, command] { options.command = command; });
  return *added;
}

/// --keep-last and its kin.
void add_keep_options(CLI::App& command, Options& options);
/// limit, trash, undelete, prune.
void add_care_commands(CLI::App& app, Options& options);
void add_policy(CLI::App& app, Options& options);

/// du, rm, free.
void add_space_commands(CLI::App& app, Options& options);

}  // namespace varve::cli
