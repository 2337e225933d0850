// The daemon's door for `varve`: a Unix socket named `control` in the store, mode 0600, for root and the store's owner.
//
// One request a connection: one line of JSON (commands.h), at most kMaxRequestSize bytes. The answer is JSON lines:
// any number of {"progress": {"done": N, "total": N}} and {"part": ...}, then one {"result": ...} or
// {"error": {"code": ERRNO, "kind": "refused", "message": "..."}}, and the end of the connection. Closing the
// connection stops the command.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "varve/core/result.h"
#include "varve/store/commands.h"

namespace varve::store {

constexpr char kControlSocketName[] = "control";
constexpr std::size_t kMaxRequestSize = 64 * kKiB;
/// A list of ten thousand snapshots takes 4 MiB; more than this is not an answer of ours.
constexpr std::size_t kMaxReplySize = 256 * kMiB;
/// Connections served at once; each more is told so and closed.
constexpr std::size_t kMaxConnections = 16;
/// How long a client may take to send its request, or to accept progress and result. {"part": ...} lines wait as long as
/// the client is there: it may be working on the last one, and the command behind them stands still meanwhile.
constexpr std::chrono::seconds kControlTimeout{10};

/// Serves a store until it is destroyed.
class ControlServer {
 public:
  using Handler = std::function<Result<nlohmann::json>(const nlohmann::json& request, const CommandContext& context)>;

  /// `store_path` must be locked by the caller: a socket found there is a dead daemon's and is replaced. A file of
  /// that name that is no socket is refused (EEXIST). The handler is called from several threads at once.
  [[nodiscard]] static Result<std::unique_ptr<ControlServer>> start(const std::string& store_path, Handler handler);
  /// Removes the socket, stops the commands under way and waits for them.
  ~ControlServer();
  ControlServer(const ControlServer&) = delete;
  ControlServer& operator=(const ControlServer&) = delete;

 private:
  struct Implementation;
  explicit ControlServer(std::unique_ptr<Implementation> implementation);
  std::unique_ptr<Implementation> implementation_;
};

/// The other end: one request to whoever serves the store.
class ControlClient {
 public:
  /// ENOENT or ECONNREFUSED (kind absent): nobody serves it. EACCES: only root and the store's owner may.
  [[nodiscard]] static Result<ControlClient> connect(const std::string& store_path);
  ~ControlClient();
  ControlClient(ControlClient&& other) noexcept;
  ControlClient& operator=(ControlClient&& other) noexcept;

  /// Once. The result, or the error the daemon answered with; EIO when it went away. `context.stop` is asked several
  /// times a second: true gives the command up (ECANCELED).
  [[nodiscard]] Result<nlohmann::json> call(const nlohmann::json& request, const CommandContext& context);

 private:
  explicit ControlClient(int socket) : socket_(socket) {}
  int socket_ = -1;
};

}  // namespace varve::store
