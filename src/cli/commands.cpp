#include "commands.h"

#include <fmt/format.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "care_commands.h"
#include "diff.h"
#include "export.h"
#include "import.h"
#include "mount.h"
#include "print.h"
#include "report.h"
#include "request_printing.h"
#include "requests.h"
#include "size.h"
#include "space_commands.h"
#include "target.h"

namespace varve::cli {
namespace {

using nlohmann::json;

int run_init(const Options& options) {
  const auto path = absolute_path(options.path);
  if (!path) return report(path.error());
  if (const auto made = store::Store::init(*path, options.init); !made) return report(made.error());
  if (options.json) {
    print_json(json{{"store", *path},
                    {"chunk_size", options.init.chunk_size.value()},
                    {"compression", options.init.compression.to_text()}});
  } else {
    fmt::print("{} is a store now; next: varve mount {} MOUNTPOINT\n", *path, options.path);
  }
  return kExitSuccess;
}

int run_mount(const Options& options) {
  return mount_store(MountRequest{options.path, options.mountpoint, options.foreground, options.mount});
}

int run_list(const Options& options) {
  const auto target = find_target(options.store, options.image);
  if (!target) return report(target.error());
  if (target->snapshot) {
    return report(Error{EINVAL, ErrorKind::refused,
                        fmt::format("{} is a snapshot; `varve info` tells about it", options.image)});
  }
  json question{{"command", "list"}};
  if (options.trash) question["trash"] = true;
  if (target->names_image()) question["disk"] = target->disk ? *target->disk : *target->written;
  if (options.trash) return request(options, *target, question, print_trash);
  return request(options, *target, question, target->names_image() ? print_snapshots : print_disks);
}

int run_info(const Options& options) {
  const auto target = find_target(options.store, options.image);
  if (!target) return report(target.error());
  json question{{"command", target->names_image() ? "info" : "status"}};
  target->add_to(question);
  return request(options, *target, question, target->names_image() ? print_image : print_status);
}

int run_restore(const Options& options) {
  const auto target = find_target(options.store, options.image);
  if (!target) return report(target.error());
  json question{{"command", "restore"}};
  target->add_to(question);
  if (options.to) question["to"] = *options.to;
  return request(options, *target, question, [](const json& answer) {
    fmt::print("{} is now {}@{} ({})\n", answer.at("disk").get<std::string>(),
               answer.at("from").at("disk").get<std::string>(), answer.at("from").at("snapshot").get<std::string>(),
               readable_size(answer.at("size").get<std::uint64_t>()));
  });
}

int run_clone(const Options& options) {
  const auto target = find_target(options.store, options.image);
  if (!target) return report(target.error());
  json question{{"command", "clone"}, {"name", options.name}};
  target->add_to(question);
  return request(options, *target, question, [](const json& answer) {
    fmt::print("{} is a new disk ({})\n", answer.at("disk").get<std::string>(),
               readable_size(answer.at("size").get<std::uint64_t>()));
  });
}

int run_check(const Options& options) {
  const auto target = store_target(options);
  if (!target) return report(target.error());
  stop_when_interrupted();
  auto context = context_of_caller();
  Result<json> answer = [&] {
    ProgressBar bar(options.repair ? "repairing" : "checking");
    context.progress = [&](std::uint64_t done, std::uint64_t total) { bar.show(done, total); };
    json question{{"command", "check"}};
    if (options.repair) question["repair"] = true;
    return run_request(target->store, question, context);
  }();
  if (!answer) {
    report(answer.error());
    return answer.error().kind == ErrorKind::damaged ? kExitDamage : kExitFailure;
  }
  options.json ? print_json(*answer) : print_check(*answer);
  return answer->value("clean", false) ? kExitSuccess : kExitDamage;
}

int run_collect(const Options& options) {
  const auto target = store_target(options);
  if (!target) return report(target.error());
  return request(options, *target, json{{"command", "collect"}}, print_collected, "collecting");
}

int dispatch(const Options& options) {
  switch (options.command) {
    case Command::init:
      return run_init(options);
    case Command::mount:
      return run_mount(options);
    case Command::list:
      return run_list(options);
    case Command::info:
      return run_info(options);
    case Command::restore:
      return run_restore(options);
    case Command::clone:
      return run_clone(options);
    case Command::diff:
      stop_when_interrupted();
      return run_diff(options, context_of_caller());
    case Command::export_stream:
      stop_when_interrupted();
      return run_export(options, context_of_caller());
    case Command::import_stream:
      stop_when_interrupted();
      return run_import(options, context_of_caller());
    case Command::check:
      return run_check(options);
    case Command::collect:
      return run_collect(options);
    case Command::du:
      return run_du(options);
    case Command::rm:
      return run_rm(options);
    case Command::free:
      return run_free(options);
    case Command::limit:
      return run_limit(options);
    case Command::trash:
      return run_trash(options);
    case Command::undelete:
      return run_undelete(options);
    case Command::prune:
      return run_prune(options);
    case Command::policy:
      break;
  }
  return run_policy(options);
}

}  // namespace

int run(const Options& options) {
  const int code = dispatch(options);
  // What could not be written (a full disk, a closed pipe) was not said.
  if (code == kExitSuccess && (std::fflush(stdout) != 0 || std::ferror(stdout) != 0)) {
    return report(Error{errno, ErrorKind::system, "the answer could not be written to standard output"});
  }
  return code;
}

}  // namespace varve::cli
