#include "space_commands.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "print.h"
#include "report.h"
#include "request_printing.h"
#include "requests.h"
#include "size.h"
#include "target.h"

namespace varve::cli {
namespace {

using nlohmann::json;

std::string text(const json& object, const char* key) { return object.at(key).get<std::string>(); }

std::string size(const json& object, const char* key) {
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? "-" : readable_size(found->get<std::uint64_t>());
}

std::string ratio(const json& object, const char* key) {
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? "-" : fmt::format("{:.2f}", found->get<double>());
}

void add_snapshot(Table& table, const std::string& name, const json& one) {
  table.add({name, readable_time(text(one, "time")), size(one, "size"), size(one, "logical"), size(one, "changed"),
             size(one, "added"), size(one, "freed")});
}

void print_store(const json& answer) {
  Table table({"DISK", ">SNAPSHOTS", ">SIZE", ">LOGICAL", ">ADDED", ">FREED", ">HOME", ">DETOUR"});
  for (const auto& disk : answer.at("disks")) {
    table.add({text(disk, "disk"), std::to_string(disk.at("snapshots").get<std::uint64_t>()), size(disk, "size"),
               size(disk, "logical"), size(disk, "added"), size(disk, "freed"), size(disk, "home"), size(disk, "detour")});
  }
  table.print();
  const json& store = answer.at("store");
  fmt::print("\nlogical {}, unique {} (deduplication {}), stored {} (compression {}), waiting for collect {}, "
             "home {}, detour {}, available {}\n",
             size(store, "logical"), size(store, "unique"), ratio(store, "dedup_ratio"), size(store, "stored"),
             ratio(store, "compression_ratio"), size(store, "waiting"), size(store, "home"), size(store, "detour"),
             size(store, "available"));
}

void print_disk(const json& disk) {
  Table table({"SNAPSHOT", "TIME", ">SIZE", ">LOGICAL", ">CHANGED", ">ADDED", ">FREED"});
  for (const auto& one : disk.at("snapshots")) add_snapshot(table, text(one, "name"), one);
  table.print();
  fmt::print("\n{}: logical {}, unique {} (deduplication {}), stored {} (compression {}), freed together {}, home {}, "
             "detour {}\n",
             text(disk, "disk"), size(disk, "logical"), size(disk, "unique"), ratio(disk, "dedup_ratio"),
             size(disk, "stored"), ratio(disk, "compression_ratio"), size(disk, "freed"), size(disk, "home"),
             size(disk, "detour"));
}

void print_du(const json& answer) {
  if (answer.contains("store")) return print_store(answer);
  for (const auto& disk : answer.at("disks")) print_disk(disk);
  const json& snapshots = answer.at("snapshots");
  if (!snapshots.empty()) {
    Table table({"SNAPSHOT", "TIME", ">SIZE", ">LOGICAL", ">CHANGED", ">ADDED", ">FREED"});
    for (const auto& one : snapshots) add_snapshot(table, text(one, "disk") + "@" + text(one, "name"), one);
    table.print();
  }
  if (snapshots.size() + answer.at("disks").size() > 1) fmt::print("\nfreed together: {}\n", size(answer, "freed"));
}

std::string name_of(const json& one) { return text(one, "disk") + "@" + text(one, "snapshot"); }

void print_failed(const json& answer) {
  for (const auto& one : answer.at("failed")) fmt::print(stderr, "varve: {}: {}\n", name_of(one), text(one, "error"));
}

void print_rm(const json& answer) {
  const bool dry_run = answer.at("dry_run").get<bool>();
  const bool trash = answer.at("trash").get<bool>();
  const char* did = dry_run ? (trash ? "would move to the trash" : "would delete") : (trash ? "moved to the trash" : "deleted");
  for (const auto& one : answer.at("deleted")) fmt::print("{} {}\n", did, name_of(one));
  if (!answer.at("freed").is_null()) {
    fmt::print("{} {} ({} bytes){}\n", dry_run ? "that would free" : "that frees", size(answer, "freed"),
               answer.at("freed").get<std::uint64_t>(), trash ? " when they leave the trash" : "");
  }
  print_failed(answer);
}

void print_free(const json& answer) {
  Table table({"SNAPSHOT", "TIME"});
  for (const auto& one : answer.at("proposed")) table.add({name_of(one), readable_time(text(one, "time"))});
  table.print();
  const bool done = answer.at("done").get<bool>();
  fmt::print("\n{} {}{}\n", done ? "deleted; that frees" : "deleting these would free", size(answer, "freed"),
             done                                ? ""
             : answer.at("enough").get<bool>() ? "; --yes does it"
                                                 : ", which is not enough");
  if (done) print_failed(answer);
}

/// The answer to a question that may take the store's first count.
Result<json> ask(const Options& options, const std::string& store, const json& question) {
  stop_when_interrupted();
  auto context = context_of_caller();
  ProgressBar bar("counting");
  if (!options.json) context.progress = [&](std::uint64_t done, std::uint64_t total) { bar.show(done, total); };
  return run_request(store, question, context);
}

int answer(const Options& options, const std::string& store, const json& question, void (*print)(const json&)) {
  const auto got = ask(options, store, question);
  if (!got) return report(got.error());
  options.json ? print_json(*got) : print(*got);
  const bool failed = got->contains("failed") && !got->at("failed").empty();
  return failed || !got->value("enough", true) ? kExitFailure : kExitSuccess;
}

/// All of one store; `images` gets what they are called there. A word that is a store alone stands for all of it.
Result<std::string> find_images(const Options& options, json& images) {
  std::string store;
  for (const std::string& word : options.images) {
    VARVE_TRY_ASSIGN(const auto target, find_target(options.store, word));
    if (!store.empty() && store != target.store) {
      return fail_refused(EINVAL, fmt::format("{} is in another store than {}; ask for one at a time", word,
                                              options.images.front()));
    }
    store = target.store;
    if (!target.names_image()) continue;
    json image = json::object();
    target.add_to(image);
    images.push_back(std::move(image));
  }
  if (!store.empty()) return store;
  VARVE_TRY_ASSIGN(const auto target, find_target(options.store, ""));
  return target.store;
}

}  // namespace

int run_du(const Options& options) {
  json images = json::array();
  const auto store = find_images(options, images);
  if (!store) return report(store.error());
  return answer(options, *store, json{{"command", "du"}, {"images", std::move(images)}}, print_du);
}

int run_rm(const Options& options) {
  json images = json::array();
  const auto store = find_images(options, images);
  if (!store) return report(store.error());
  json question{{"command", "rm"}, {"images", std::move(images)}};
  if (options.dry_run) question["dry_run"] = true;
  return answer(options, *store, question, print_rm);
}

int run_free(const Options& options) {
  const auto target = find_target(options.store, "");
  if (!target) return report(target.error());
  json question{{"command", "free"}, {"bytes", options.bytes}};
  if (options.disk) question["disk"] = *options.disk;
  if (options.yes) question["yes"] = true;
  return answer(options, target->store, question, print_free);
}

}  // namespace varve::cli
