#include "requests.h"

#include <fmt/format.h>
#include <unistd.h>

#include <nlohmann/json.hpp>
#include <thread>

#include "varve/store/control_socket.h"

namespace varve::cli {
namespace {

using nlohmann::json;
using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kRetryInterval{100};
constexpr std::chrono::seconds kNoticeableWait{2};

Result<json> run_here(store::Store& store, const json& request, const store::CommandContext& context) {
  auto result = store::run_command(store, request, context);
  const auto closed = store.close();
  if (result && !closed) return tl::unexpected(closed.error());
  return result;
}

}  // namespace

Result<std::unique_ptr<store::Store>> open_store(const std::string& path, const store::OpenOptions& options,
                                                 const std::function<void(const Error&)>& waiting,
                                                 std::chrono::seconds daemon_patience) {
  const auto begin = Clock::now();
  bool told = false;
  for (;;) {
    auto opened = store::Store::open(path, options);
    if (opened || opened.error().code != EBUSY) return opened;
    // A daemon that answers stays; one that is going away has taken its socket down already, or is about to.
    const auto waited = Clock::now() - begin;
    if (waited > kHolderPatience || (waited >= daemon_patience && store::ControlClient::connect(path))) return opened;
    if (!told && Clock::now() - begin > kNoticeableWait) {
      waiting(opened.error());
      told = true;
    }
    std::this_thread::sleep_for(kRetryInterval);
  }
}

Result<json> run_request(const std::string& store_path, const json& request,
                         const store::CommandContext& context) {
  store::OpenOptions options;
  options.background = false;
  options.purpose = fmt::format("used by `varve {}`, process {}", request.value("command", ""), ::getpid());
  const auto begin = Clock::now();
  for (;;) {
    auto client = store::ControlClient::connect(store_path);
    if (client) return client->call(request, context);
    if (client.error().kind == ErrorKind::refused) return tl::unexpected(std::move(client).error());
    auto opened = open_store(store_path, options, [](const Error& error) {
      fmt::print(stderr, "varve: waiting: {}\n", error.message);
    });
    if (opened) return run_here(**opened, request, context);
    // Mounted in the meantime: the daemon takes the request.
    const bool served_now = opened.error().code == EBUSY && Clock::now() - begin < kHolderPatience;
    if (!served_now || context.stop()) return tl::unexpected(std::move(opened).error());
  }
}

}  // namespace varve::cli
