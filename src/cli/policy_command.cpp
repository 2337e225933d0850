#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "care_commands.h"
#include "duration.h"
#include "print.h"
#include "report.h"
#include "request_printing.h"

namespace varve::cli {
namespace {

using nlohmann::json;

std::string joined(const json& words) {
  std::string out;
  for (const auto& word : words) out += (out.empty() ? "" : ",") + word.get<std::string>();
  return out;
}

std::string times_of(const json& policy) {
  if (policy.contains("every")) return "every " + readable_duration(policy.at("every").get<std::uint64_t>());
  const auto days = policy.contains("days") ? " " + joined(policy.at("days")) : "";
  return "at " + joined(policy.at("at")) + days;
}

std::string keep_words(const json& keep) {
  std::string out;
  for (const auto& [key, value] : keep.items()) {
    out += (out.empty() ? "" : " ") + key + " " + (value.is_string() ? value.get<std::string>() : value.dump());
  }
  return out.empty() ? "all" : out;
}

std::string next_of(const json& policy) {
  if (policy.at("paused").get<bool>()) return "paused";
  return policy.at("next").is_null() ? "-" : readable_time(policy.at("next").get<std::string>());
}

std::string last_of(const json& policy) {
  if (!policy.contains("last")) return "-";
  const auto& last = policy.at("last");
  const auto skipped = last.at("skipped").size();
  return fmt::format("{}: {} taken{}", readable_time(last.at("time").get<std::string>()), last.at("taken").get<std::uint64_t>(),
                     skipped == 0 ? "" : fmt::format(", {} skipped", skipped));
}

void print_policies(const json& answer) {
  Table table({"POLICY", "DISKS", "WHEN", "KEEPS", "NEXT", "LAST"});
  for (const auto& policy : answer.at("policies")) {
    table.add({policy.at("name").get<std::string>(), joined(policy.at("disks")), times_of(policy),
               keep_words(policy.at("keep")), next_of(policy), last_of(policy)});
  }
  table.print();
}

void print_policy(const json& policy) {
  Table table({"POLICY", policy.at("name").get<std::string>()});
  table.add({"disks", joined(policy.at("disks"))});
  table.add({"when", times_of(policy)});
  table.add({"name", policy.at("pattern").get<std::string>()});
  table.add({"keeps", keep_words(policy.at("keep"))});
  table.add({"next", next_of(policy)});
  table.add({"last", last_of(policy)});
  table.print();
  if (!policy.contains("last")) return;
  for (const auto& why : policy.at("last").at("skipped")) fmt::print("skipped: {}\n", why.get<std::string>());
}

/// What strftime(3) would take for its own.
std::string without_percent(const std::string& name) {
  std::string out;
  for (const char c : name) out += c == '%' ? std::string("%%") : std::string(1, c);
  return out;
}

Result<json> new_policy(const Options& options) {
  json policy{{"name", options.name},
              {"disks", options.disks},
              {"pattern", options.pattern ? *options.pattern : without_percent(options.name) + "-%F-%H%M%S"}};
  if (options.every) policy["every"] = *options.every;
  if (!options.at.empty()) policy["at"] = options.at;
  if (!options.days.empty()) policy["days"] = options.days;
  VARVE_TRY_ASSIGN(policy["keep"], keep_of(options));
  return policy;
}

}  // namespace

int run_policy(const Options& options) {
  const auto target = find_target(options.store, "");
  if (!target) return report(target.error());
  json question{{"command", "policy"}, {"action", options.action}};
  if (options.action == "add") {
    const auto policy = new_policy(options);
    if (!policy) return report(policy.error());
    question["policy"] = *policy;
  } else if (options.action != "list") {
    question["name"] = options.name;
  }
  return request(options, *target, question, options.action == "list" ? print_policies : print_policy);
}

}  // namespace varve::cli
