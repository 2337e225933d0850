#include "request_printing.h"

#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <nlohmann/json.hpp>

#include "print.h"
#include "report.h"
#include "requests.h"

namespace varve::cli {

using nlohmann::json;

namespace {

/// Set by SIGINT and SIGTERM: a command under way stops at its next convenience, and the store is closed properly.
std::atomic<bool> interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free);

}  // namespace

void stop_when_interrupted() {
  struct sigaction action {};
  action.sa_handler = [](int) { interrupted = true; };
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) ::sigaction(signal, &action, nullptr);
}

store::CommandContext context_of_caller() {
  store::CommandContext context;
  context.user = ::getuid();
  context.group = ::getgid();
  context.stop = [] { return interrupted.load(); };
  return context;
}

int request(const Options& options, const Target& target, const json& question,
            void (*print)(const json& answer), const std::string& progress) {
  stop_when_interrupted();
  auto context = context_of_caller();
  const auto answer = [&] {
    ProgressBar bar(progress);
    if (!progress.empty()) context.progress = [&](std::uint64_t done, std::uint64_t total) { bar.show(done, total); };
    return run_request(target.store, question, context);
  }();
  if (!answer) return report(answer.error());
  options.json ? print_json(*answer) : print(*answer);
  return kExitSuccess;
}

Result<Target> store_target(const Options& options) {
  if (options.path.empty()) return find_target(options.store, "");
  if (options.store) {
    return fail_refused(EINVAL, "the store is given twice: as the argument and with --store");
  }
  VARVE_TRY_ASSIGN(auto path, find_store(options.path));
  Target target;
  target.store = std::move(path);
  return target;
}

}  // namespace varve::cli
