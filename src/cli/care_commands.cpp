#include "care_commands.h"

#include <fmt/format.h>

#include <charconv>
#include <nlohmann/json.hpp>

#include "duration.h"
#include "print.h"
#include "report.h"
#include "request_printing.h"
#include "requests.h"
#include "size.h"
#include "varve/catalog/names.h"

namespace varve::cli {
namespace {

using nlohmann::json;

std::string text_of(const json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end() || found->is_null()) return "-";
  return found->is_string() ? found->get<std::string>() : found->dump(-1, ' ', false, json::error_handler_t::replace);
}

std::string time_of(const json& object, const char* key) { return readable_time(text_of(object, key)); }

std::string plural(std::size_t count, std::string_view what) { return fmt::format("{} {}{}", count, what, count == 1 ? "" : "s"); }

/// The disk that a command is about.
Result<std::string> disk_of(const Target& target, const std::string& word) {
  if (target.snapshot) {
    return fail_refused(EINVAL, fmt::format("{} is a snapshot; name a disk", catalog::quoted(word)));
  }
  return target.disk ? *target.disk : *target.written;
}

void print_limits(const json& answer) {
  Table table({"", ">USED", ">LIMIT"});
  struct Row {
    const char* key;
    const char* label;
  };
  for (const Row& row : {Row{"snapshots", "snapshots"}, Row{"snapshot_bytes", "snapshot bytes"}, Row{"live_bytes", "live bytes"}}) {
    const bool bytes = std::string_view(row.key).ends_with("bytes");
    const auto cell = [&](const char* of) -> std::string {
      const json& value = answer.at(of).at(row.key);
      if (value.is_null()) return "none";
      return bytes ? readable_size(value.get<std::uint64_t>()) : value.dump();
    };
    table.add({row.label, cell("used"), cell("limits")});
  }
  table.print();
}

void print_trash_settings(const json& answer) {
  const auto keep = answer.at("keep_seconds").get<std::uint64_t>();
  if (answer.contains("emptied")) {
    fmt::print("{} deleted for good\n", plural(answer.at("emptied").get<std::size_t>(), "snapshot"));
  }
  fmt::print("{}; {} in the trash ({})\n",
             keep == 0 ? "what is deleted is gone" : "what is deleted is kept for " + readable_duration(keep),
             plural(answer.at("snapshots").get<std::size_t>(), "snapshot"),
             readable_size(answer.at("bytes").get<std::uint64_t>()));
}

std::string joined(const json& words) {
  std::string out;
  for (const auto& word : words) out += (out.empty() ? "" : ", ") + word.get<std::string>();
  return out;
}

void print_pruned(const json& answer) {
  Table table({"", "SNAPSHOT", "TIME", "REASONS"});
  const bool dry_run = answer.at("dry_run").get<bool>();
  for (const auto& one : answer.at("kept")) {
    table.add({"keep", text_of(one, "name"), time_of(one, "time"), joined(one.at("reasons"))});
  }
  for (const auto& one : answer.at("removed")) {
    table.add({dry_run ? "would go" : "deleted", text_of(one, "name"), time_of(one, "time"), ""});
  }
  for (const auto& one : answer.at("failed")) {
    table.add({"failed", text_of(one, "name"), time_of(one, "time"), text_of(one, "error")});
  }
  table.print();
  fmt::print("{} kept, {} {}\n", answer.at("kept").size(), answer.at("removed").size(),
             dry_run ? "would be deleted" : "deleted");
}

}  // namespace

void print_trash(const json& answer) {
  Table table({"SNAPSHOT", "TIME", ">SIZE", "DELETED", "UNTIL"});
  for (const auto& one : answer.at("trash")) {
    const auto disk = text_of(one, "disk") + (one.value("disk_removed", false) ? " (removed)" : "");
    table.add({disk + "@" + text_of(one, "name"), time_of(one, "time"), readable_size(one.at("size").get<std::uint64_t>()),
               time_of(one, "deleted"), time_of(one, "until")});
  }
  table.print();
}

int run_limit(const Options& options) {
  const auto target = find_target(options.store, options.image);
  if (!target) return report(target.error());
  json question{{"command", "limit"}};
  if (target->names_image()) {
    const auto disk = disk_of(*target, options.image);
    if (!disk) return report(disk.error());
    question["disk"] = *disk;
  }
  for (const auto& [key, value] : options.limits) question["set"][key] = value ? json(*value) : json(nullptr);
  return request(options, *target, question, print_limits);
}

int run_trash(const Options& options) {
  const auto target = store_target(options);
  if (!target) return report(target.error());
  json question{{"command", "trash"}};
  if (options.trash_keep) question["keep"] = *options.trash_keep;
  if (options.empty_trash) question["empty"] = true;
  return request(options, *target, question, print_trash_settings);
}

int run_undelete(const Options& options) {
  const auto target = find_target(options.store, options.image);
  if (!target) return report(target.error());
  json question{{"command", "undelete"}};
  target->add_to(question);
  if (options.as) question["as"] = *options.as;
  return request(options, *target, question, [](const json& answer) {
    fmt::print("{}@{} is back ({})\n", text_of(answer, "disk"), text_of(answer, "name"),
               readable_size(answer.at("size").get<std::uint64_t>()));
  });
}

Result<json> keep_of(const Options& options) {
  json keep = json::object();
  for (const auto& [key, text] : options.keep) {
    if (text.empty()) continue;
    std::uint64_t count = 0;
    const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), count);
    const bool number = problem == std::errc{} && end == text.data() + text.size();
    // Zero is as if nothing was said.
    if (number && count == 0 && key != "within") continue;
    if (key != "within" && !number && text != "all") {
      return fail_refused(EINVAL, fmt::format("--keep-{}: {} is not a number; write 7, or all", key, catalog::quoted(text)));
    }
    keep[key] = number && key != "within" ? json(count) : json(text);
  }
  return keep;
}

int run_prune(const Options& options) {
  const auto target = find_target(options.store, options.image);
  if (!target) return report(target.error());
  if (!target->names_image()) {
    return report(Error{EINVAL, ErrorKind::refused, fmt::format("{} is a store; name a disk", catalog::quoted(options.image))});
  }
  const auto disk = disk_of(*target, options.image);
  if (!disk) return report(disk.error());
  const auto keep = keep_of(options);
  if (!keep) return report(keep.error());
  stop_when_interrupted();
  const auto answer = run_request(
      target->store, json{{"command", "prune"}, {"disk", *disk}, {"keep", *keep}, {"dry_run", options.dry_run}},
      context_of_caller());
  if (!answer) return report(answer.error());
  options.json ? print_json(*answer) : print_pruned(*answer);
  return answer->at("failed").empty() ? kExitSuccess : kExitFailure;
}

}  // namespace varve::cli
