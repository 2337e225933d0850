#include "diff.h"

#include <fmt/format.h>

#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "print.h"
#include "report.h"
#include "requests.h"
#include "size.h"

namespace varve::cli {
namespace {

using nlohmann::json;

enum class Form { table, raw, json };

/// "web01@before (20 GiB)"
std::string described(const json& image) {
  std::string name = image.value("disk", "");
  if (image.contains("snapshot")) name += "@" + image.value("snapshot", "");
  return fmt::format("{} ({})", name, readable_size(image.value("size", std::uint64_t{0})));
}

/// Line by line: there may be a hundred million.
class Printer {
 public:
  explicit Printer(Form form) : form_(form) {}

  Status add(std::uint64_t at, std::uint64_t count) {
    switch (form_) {
      case Form::table:
        if (!began_) fmt::print("{:>16}  {:>16}  {:>10}\n", "OFFSET", "LENGTH", "SIZE");
        fmt::print("{:>16}  {:>16}  {:>10}\n", at, count, readable_size(count));
        break;
      case Form::raw:
        fmt::print("{} {}\n", at, count);
        break;
      case Form::json:
        fmt::print("{}\n  {{\"offset\":{},\"length\":{}}}", began_ ? "," : "{\"extents\":[", at, count);
        break;
    }
    began_ = true;
    // Nobody reads on: let go of the daemon.
    if (std::ferror(stdout) != 0) return fail_system(errno, "the answer could not be written to standard output");
    return {};
  }

  void finish(const json& answer) {
    const auto bytes = answer.value("bytes", std::uint64_t{0});
    switch (form_) {
      case Form::table:
        fmt::print("{} and {} differ in {} ({} extents)\n", described(answer.at("a")), described(answer.at("b")),
                   readable_size(bytes), answer.value("extents", std::uint64_t{0}));
        break;
      case Form::raw:
        break;
      case Form::json: {
        // The rest of the object that the extents began.
        json rest{{"a", answer.at("a")}, {"b", answer.at("b")}, {"bytes", bytes}};
        const auto text = rest.dump(-1, ' ', false, json::error_handler_t::replace);
        fmt::print("{}],{}\n", began_ ? "\n" : "{\"extents\":[", text.substr(1));
        break;
      }
    }
  }

 private:
  const Form form_;
  bool began_ = false;
};

Status visit_part(const json& part, const std::function<Status(std::uint64_t, std::uint64_t)>& visit) {
  const auto extents = part.is_object() ? part.find("extents") : part.end();
  if (extents == part.end() || !extents->is_array()) return {};
  for (const auto& extent : *extents) {
    if (!extent.is_array() || extent.size() != 2 || !extent[0].is_number_unsigned() || !extent[1].is_number_unsigned()) {
      return fail(EIO, ErrorKind::system, "the daemon's answer was not understood");
    }
    VARVE_TRY(visit(extent[0].get<std::uint64_t>(), extent[1].get<std::uint64_t>()));
  }
  return {};
}

}  // namespace

Result<json> request_diff(const Target& a, const Target& b, store::CommandContext context,
                          const std::function<Status(std::uint64_t, std::uint64_t)>& visit) {
  json question{{"command", "diff"}, {"a", json::object()}, {"b", json::object()}};
  a.add_to(question["a"]);
  b.add_to(question["b"]);
  context.part = [&](const json& part) { return visit_part(part, visit); };
  return run_request(a.store, question, context);
}

Result<std::pair<Target, Target>> find_targets(const std::optional<std::string>& store, const std::string& a,
                                               const std::string& b) {
  auto first = find_target(store, a);
  auto second = find_target(store, b);
  if (!first && second && !store) first = find_target(second->store, a);
  if (first && !second && !store) second = find_target(first->store, b);
  if (!first) return tl::unexpected(std::move(first).error());
  if (!second) return tl::unexpected(std::move(second).error());
  if (first->store != second->store) {
    return fail_refused(EINVAL, fmt::format("{} and {} are in different stores, {} and {}: only images of one store can be "
                                            "compared",
                                            a, b, first->store, second->store));
  }
  for (const auto* target : {&*first, &*second}) {
    if (!target->names_image()) {
      return fail_refused(EINVAL, fmt::format("{} is a store: name a disk or a snapshot in it", target->store));
    }
  }
  return std::pair{*std::move(first), *std::move(second)};
}

int run_diff(const Options& options, store::CommandContext context) {
  const auto targets = find_targets(options.store, options.image, options.name);
  if (!targets) return report(targets.error());
  Printer printer(options.json ? Form::json : options.raw ? Form::raw : Form::table);
  const auto answer = [&] {
    ProgressBar bar("comparing");
    context.progress = [&](std::uint64_t done, std::uint64_t total) { bar.show(done, total); };
    return request_diff(targets->first, targets->second, context,
                        [&](std::uint64_t at, std::uint64_t count) { return printer.add(at, count); });
  }();
  if (!answer) {
    std::fflush(stdout);
    return report(answer.error());
  }
  printer.finish(*answer);
  return kExitSuccess;
}

}  // namespace varve::cli
