// The options of limit, trash, undelete and prune.
#include <fmt/format.h>

#include <charconv>
#include <optional>

#include "duration.h"
#include "option_builder.h"
#include "size.h"

namespace varve::cli {
namespace {

constexpr char kNone[] = "none";

void add_limit_option(CLI::App& command, Options& options, const std::string& flag, const std::string& key, bool bytes,
                      const std::string& help) {
  command
      .add_option_function<std::string>(
          flag,
          [&options, flag, key, bytes](const std::string& text) {
            if (text == kNone) {
              options.limits[key] = std::nullopt;
            } else if (bytes) {
              const auto size = parse_size(text);
              if (!size) refuse(flag + ": " + size.error().message);
              options.limits[key] = size->value();
            } else {
              std::uint64_t count = 0;
              const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), count);
              if (problem != std::errc{} || end != text.data() + text.size()) {
                refuse(fmt::format("{}: {} is not a number of snapshots; write 100, or none", flag, text));
              }
              options.limits[key] = count;
            }
          },
          help)
      ->type_name(bytes ? "SIZE" : "N");
}

void add_limit(CLI::App& app, Options& options) {
  auto& limit = add_command(app, options, Command::limit, "limit", "show or set how much there may be");
  limit.add_option("DISK", options.image, "a disk, or any path in a mount; without it the store")->type_name("");
  add_limit_option(limit, options, "--snapshots", "snapshots", false, "how many snapshots; none: no limit");
  add_limit_option(limit, options, "--snapshot-bytes", "snapshot_bytes", true,
                   "the sizes of all snapshots' images together; none: no limit");
  add_limit_option(limit, options, "--live-bytes", "live_bytes", true,
                   "the sizes of all live images together; none: no limit");
  add_store(limit, options);
  add_json(limit, options);
}

void add_trash(CLI::App& app, Options& options) {
  auto& trash = add_command(app, options, Command::trash, "trash", "show or set for how long deleted snapshots are kept");
  trash.add_option("STORE", options.path, "the store's directory, or any path in its mount")->type_name("");
  trash
      .add_option_function<std::string>(
          "--keep",
          [&options](const std::string& text) {
            if (text == "off") {
              options.trash_keep = 0;
              return;
            }
            const auto seconds = parse_duration(text);
            if (!seconds) refuse("--keep: " + seconds.error().message + ", or off");
            options.trash_keep = seconds->count();
          },
          "for so long what is deleted from now on can be had back (7d, 12h), or off")
      ->type_name("TIME");
  trash.add_flag("--empty", options.empty_trash, "delete for good what is in the trash now");
  add_store(trash, options);
  add_json(trash, options);
}

void add_undelete(CLI::App& app, Options& options) {
  auto& undelete = add_command(app, options, Command::undelete, "undelete", "bring a snapshot back from the trash");
  undelete.add_option("SNAPSHOT", options.image, "DISK@SNAPSHOT as it was called, or the path it had")
      ->type_name("")
      ->required();
  undelete.add_option("--as", options.as, "another name for it")->type_name("NEW");
  add_store(undelete, options);
  add_json(undelete, options);
}

}  // namespace

void add_keep_options(CLI::App& command, Options& options) {
  const auto add = [&](const std::string& key, const std::string& type, const std::string& help) {
    command.add_option("--keep-" + key, options.keep[key], help)->type_name(type);
  };
  add("last", "N", "keep the last N snapshots (all: all)");
  add("hourly", "N", "keep the last snapshot of each of N hours that have some");
  add("daily", "N", "the same for days");
  add("weekly", "N", "the same for weeks");
  add("monthly", "N", "the same for months");
  add("yearly", "N", "the same for years");
  add("within", "SPAN", "keep all within SPAN (2y5m7d3h) before the newest");
}

namespace {

void add_prune(CLI::App& app, Options& options) {
  auto& prune = add_command(app, options, Command::prune, "prune", "delete the snapshots of a disk that need not be kept");
  prune.add_option("DISK", options.image, "a disk, or its path in a mount")->type_name("")->required();
  add_keep_options(prune, options);
  prune.add_flag("-n,--dry-run", options.dry_run, "only say what would be deleted");
  add_store(prune, options);
  add_json(prune, options);
}

}  // namespace

void add_care_commands(CLI::App& app, Options& options) {
  add_limit(app, options);
  add_trash(app, options);
  add_undelete(app, options);
  add_prune(app, options);
}

}  // namespace varve::cli
