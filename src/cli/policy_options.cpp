// The options of policy and its actions.
#include "duration.h"
#include "option_builder.h"

namespace varve::cli {
namespace {

CLI::App& add_action(CLI::App& policy, Options& options, const std::string& name, const std::string& description) {
  auto* action = policy.add_subcommand(name, description);
  action->final_callback([&options, name] { options.action = name; });
  add_store(*action, options);
  add_json(*action, options);
  return *action;
}

void add_add(CLI::App& policy, Options& options) {
  auto& add = add_action(policy, options, "add", "make a policy");
  add.add_option("NAME", options.name, "its name")->type_name("")->required();
  add.add_option("--disks", options.disks, "patterns of disks' names, as a shell has them: 'web*'")
      ->type_name("PATTERN")
      ->required();
  add.add_option_function<std::string>(
         "--every",
         [&options](const std::string& text) {
           const auto seconds = parse_duration(text);
           if (!seconds) refuse("--every: " + seconds.error().message);
           options.every = seconds->count();
         },
         "how often: 15m, 6h, 1d")
      ->type_name("TIME");
  add.add_option("--at", options.at, "at these times of the day: 02:30,14:30")
      ->type_name("HH:MM")
      ->delimiter(',')
      ->allow_extra_args(false);
  add.add_option("--days", options.days, "on these days only: mon,wed,fri (with --at)")
      ->type_name("DAY")
      ->delimiter(',')
      ->allow_extra_args(false);
  add.add_option("--name", options.pattern, "how its snapshots are called, as strftime(3) has it (default: NAME-%F-%H%M%S)")
      ->type_name("PATTERN");
  add_keep_options(add, options);
}

}  // namespace

void add_policy(CLI::App& app, Options& options) {
  auto& policy = add_command(app, options, Command::policy, "policy", "snapshots that are taken by themselves");
  policy.require_subcommand(1);
  add_add(policy, options);
  add_action(policy, options, "list", "list the policies: when they run, and what became of the last run");
  const auto add_named = [&](const std::string& name, const std::string& description) {
    add_action(policy, options, name, description)
        .add_option("NAME", options.name, "of a policy")
        ->type_name("")
        ->required();
  };
  add_named("show", "everything about a policy");
  add_named("remove", "end a policy; its snapshots stay");
  add_named("pause", "let a policy rest");
  add_named("resume", "let it go on; what was due meanwhile is not done");
  add_named("run", "take its snapshots now, due or not");
}

}  // namespace varve::cli
