#include <nlohmann/json.hpp>
#include <string>

#include "../../src/cli/mount_options.h"
#include "../../src/cli/size.h"
#include "empty_store.h"
#include "fuzz.h"
#include "varve/catalog/names.h"
#include "varve/store/commands.h"

namespace varve::fuzz {
namespace {

std::string text_of(Input input) { return {reinterpret_cast<const char*>(input.data()), input.size()}; }

Seeds seeds_of(std::initializer_list<std::string_view> texts) {
  Seeds seeds;
  for (const auto text : texts) {
    const auto bytes = std::as_bytes(std::span(text));
    seeds.emplace_back(bytes.begin(), bytes.end());
  }
  return seeds;
}

}  // namespace

void fuzz_mount_options(Input input) {
  for (const auto unknown : {cli::UnknownOptions::refuse, cli::UnknownOptions::ignore}) {
    cli::MountOptions options;
    const auto parsed = cli::parse_mount_options(text_of(input), unknown, options);
    if (!parsed) require(parsed.error().code == EINVAL && !parsed.error().message.empty(), "a refusal says why");
  }
  if (const auto size = cli::parse_size(text_of(input))) (void)cli::readable_size(size->value());
}

Seeds mount_options_seeds() {
  return seeds_of({"allow_other,cache=64M,ro", "rw,nofail,x-systemd.automount,noatime", "cache=", "64KiB",
                   "9223372036854775807"});
}

/// A request as the control socket takes it: up to its limit, JSON or not.
void fuzz_request(Input input) {
  if (input.size() > 64 * kKiB) return;
  const auto request = nlohmann::json::parse(text_of(input), nullptr, false);
  if (request.is_discarded()) return;
  EmptyStore store;
  const auto answer = store::run_command(store, request, {});
  const std::string line =
      answer ? answer->dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) : answer.error().message;
  require(!line.empty(), "every request has an answer");
}

Seeds request_seeds() {
  return seeds_of({R"({"command":"status"})", R"({"command":"list","disk":"web01"})",
                   R"({"command":"info","image":"a@b@c"})", R"({"command":"restore","disk":"a","snapshot":"b","to":"c"})",
                   R"({"command":"clone","image":"a","name":"b"})", R"({"command":"check","repair":true})",
                   R"({"command":"diff","a":{"image":"a@b"},"b":{"disk":"a","snapshot":"c"}})",
                   R"({"command":"collect"})",
                   R"({"command":"du","images":[{"image":"a@b"}]})", R"({"command":"free","bytes":5,"yes":true})",
                   R"({"command":"rm","images":[{"disk":"a","snapshot":"b"}],"dry_run":true})",
                   R"({"command":"limit","set":{"snapshots":3,"live_bytes":null}})", R"({"command":"list","trash":true})",
                   R"({"command":"trash","keep":60,"empty":true})", R"({"command":"undelete","image":"a@b","as":"c"})",
                   R"({"command":"prune","disk":"a","keep":{"last":3,"daily":"all","within":"1y2m"},"dry_run":true})",
                   R"({"command":"policy","action":"add","policy":{"name":"n","disks":["*"],"at":["02:30"],"days":["mon"],"pattern":"n-%F"}})",
                   R"({"command":"policy","action":"list"})", R"({"command":"policy","action":"run","name":"n"})"});
}

void fuzz_names(Input input) {
  const std::string name = text_of(input);
  for (const auto kind : {catalog::NameKind::disk, catalog::NameKind::snapshot}) {
    if (!catalog::validate_name(name, kind)) continue;
    require(!name.empty() && name.size() <= catalog::kMaxNameSize && name.front() != '.' &&
                name.find_first_of(std::string("/\0\n", 3)) == std::string::npos,
            "a name that is valid can be a file's");
  }
  const std::string word = catalog::quoted(name);
  require(word.find('\n') == std::string::npos, "no name makes a line of its own");
}

Seeds names_seeds() { return seeds_of({"web01", "caf\xC3\xA9", ".hidden", "a/b", "disk.img", "\xF0\x9F\x92\xBE"}); }

}  // namespace varve::fuzz
