#include "varve/store/control_socket.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <list>
#include <nlohmann/json.hpp>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

#include "varve/core/log.h"
#include "varve/core/sync.h"
#include "varve/os/descriptor.h"

namespace varve::store {
namespace {

using nlohmann::json;
using os::Descriptor;
using Clock = std::chrono::steady_clock;

/// At most this often does a progress line go out, and at least this often is a client's hanging up noticed.
constexpr std::chrono::milliseconds kProgressInterval{200};

/// The socket's address through an open directory: sun_path holds 107 bytes, a store's path may be longer.
sockaddr_un address_within(const Descriptor& directory) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const auto path = fmt::format("/proc/self/fd/{}/{}", directory.get(), kControlSocketName);
  std::memcpy(address.sun_path, path.data(), std::min(path.size(), sizeof(address.sun_path) - 1));
  return address;
}

Result<Descriptor> open_store_directory(const std::string& store_path) {
  Descriptor directory(::open(store_path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (directory.get() < 0) return os::fail_os(errno, "cannot open", store_path);
  return directory;
}

std::string to_line(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
}

std::string_view kind_name(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::system:
      return "system";
    case ErrorKind::damaged:
      return "damaged";
    case ErrorKind::refused:
      return "refused";
    case ErrorKind::absent:
      return "absent";
    case ErrorKind::latched:
      break;
  }
  return "latched";
}

ErrorKind kind_from_name(std::string_view name) {
  for (const auto kind : {ErrorKind::damaged, ErrorKind::refused, ErrorKind::absent, ErrorKind::latched}) {
    if (kind_name(kind) == name) return kind;
  }
  return ErrorKind::system;
}

json error_to_json(const Error& error) {
  return json{{"error", {{"code", error.code}, {"kind", kind_name(error.kind)}, {"message", error.message}}}};
}

Error error_from_json(const json& error) {
  Error out;
  if (!error.is_object()) return out.in("the daemon's answer was not understood");
  out.code = error.value("code", json()).is_number_integer() ? error["code"].get<int>() : EIO;
  if (out.code <= 0) out.code = EIO;
  if (error.contains("kind") && error["kind"].is_string()) out.kind = kind_from_name(error["kind"].get<std::string>());
  if (error.contains("message") && error["message"].is_string()) out.message = error["message"].get<std::string>();
  return out;
}

/// False when the other side does not take it within kControlTimeout, or is gone.
bool send_all(int socket, std::string_view bytes) {
  while (!bytes.empty()) {
    const auto sent = os::retry([&] { return ::send(socket, bytes.data(), bytes.size(), MSG_NOSIGNAL); });
    if (sent <= 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(sent));
  }
  return true;
}

/// As long as it takes, unless `stop`. False as above.
bool send_patiently(int socket, std::string_view bytes, const std::function<bool()>& stop) {
  while (!bytes.empty()) {
    const auto sent = os::retry([&] { return ::send(socket, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT); });
    if (sent > 0) {
      bytes.remove_prefix(static_cast<std::size_t>(sent));
      continue;
    }
    if (sent == 0 || (errno != EAGAIN && errno != EWOULDBLOCK) || stop()) return false;
    pollfd entry{socket, POLLOUT, 0};
    static_cast<void>(::poll(&entry, 1, static_cast<int>(kProgressInterval.count())));
  }
  return true;
}

void set_timeouts(int socket) {
  const timeval limit{kControlTimeout.count(), 0};
  ::setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  ::setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
}

/// Waits for input until `deadline`; false when none came.
bool wait_for_input(int socket, Clock::time_point deadline) {
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
  pollfd entry{socket, POLLIN, 0};
  return left > 0 && os::retry([&] { return ::poll(&entry, 1, static_cast<int>(left)); }) > 0;
}

/// The request: bytes up to the first newline or the end, within the size and the time allowed.
Result<json> receive_request(int socket) {
  const auto deadline = Clock::now() + kControlTimeout;
  std::string text;
  char buffer[4096];
  while (text.size() <= kMaxRequestSize) {
    if (!wait_for_input(socket, deadline)) return fail_refused(ETIMEDOUT, "the request did not come in time");
    const auto got = os::retry([&] { return ::recv(socket, buffer, sizeof buffer, 0); });
    if (got < 0) return fail_system(errno, "receiving a request");
    const auto end = static_cast<const char*>(std::memchr(buffer, '\n', static_cast<std::size_t>(got)));
    text.append(buffer, end != nullptr ? static_cast<std::size_t>(end - buffer) : static_cast<std::size_t>(got));
    if (end == nullptr && got > 0) continue;
    if (text.size() > kMaxRequestSize) break;
    auto request = json::parse(text, nullptr, false);
    if (request.is_discarded()) return fail_refused(EINVAL, "the request is not JSON");
    return request;
  }
  return fail_refused(E2BIG, fmt::format("the request is longer than {} bytes", kMaxRequestSize));
}

bool hung_up(int socket) {
  pollfd entry{socket, 0, 0};
  return ::poll(&entry, 1, 0) > 0 && (entry.revents & (POLLHUP | POLLERR)) != 0;
}

}  // namespace

// --- server ----------------------------------------------------------------------------------------------------------

struct ControlServer::Implementation {
  struct Connection {
    Descriptor socket;
    std::thread thread;
    std::atomic<bool> done{false};
  };

  Descriptor directory;
  Descriptor listener;
  Descriptor wake_read;
  Descriptor wake_write;
  Handler handler;
  std::atomic<bool> stopping{false};
  std::list<Connection> connections;  ///< the accepting thread's own
  std::thread acceptor;

  ~Implementation();
  Status listen(const std::string& store_path);
  void accept_until_stopped();
  void admit(Descriptor socket);
  void reap();
  void serve(Connection& connection);
  Result<json> answer(int socket, const json& request, const ucred& peer);
};

Status ControlServer::Implementation::listen(const std::string& store_path) {
  VARVE_TRY_ASSIGN(directory, open_store_directory(store_path));
  struct stat found {};
  if (::fstatat(directory.get(), kControlSocketName, &found, AT_SYMLINK_NOFOLLOW) == 0) {
    if (!S_ISSOCK(found.st_mode)) {
      return fail_refused(EEXIST, fmt::format("{}/{} is in the way of the control socket and is none; move it elsewhere",
                                              store_path, kControlSocketName));
    }
    if (::unlinkat(directory.get(), kControlSocketName, 0) != 0) {
      return os::fail_os(errno, "cannot remove", store_path + "/" + kControlSocketName);
    }
  }
  listener = Descriptor(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (listener.get() < 0) return fail_system(errno, "cannot make a socket");
  // Before bind(2), so that there is no instant in which others may connect.
  ::fchmod(listener.get(), 0600);
  const auto address = address_within(directory);
  if (::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(listener.get(), static_cast<int>(kMaxConnections)) != 0) {
    return os::fail_os(errno, "cannot listen on", store_path + "/" + kControlSocketName);
  }
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return fail_system(errno, "cannot make a pipe");
  wake_read = Descriptor(ends[0]);
  wake_write = Descriptor(ends[1]);
  acceptor = std::thread([this] { accept_until_stopped(); });
  return {};
}

ControlServer::Implementation::~Implementation() {
  if (!acceptor.joinable()) return;
  ::unlinkat(directory.get(), kControlSocketName, 0);
  stopping = true;
  wake_write = Descriptor();
  acceptor.join();
}

void ControlServer::Implementation::accept_until_stopped() {
  while (!stopping) {
    pollfd entries[2] = {{listener.get(), POLLIN, 0}, {wake_read.get(), POLLIN, 0}};
    ::poll(entries, 2, -1);
    reap();
    if (stopping || (entries[0].revents & POLLIN) == 0) continue;
    Descriptor socket(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (socket.get() >= 0) {
      admit(std::move(socket));
    } else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
      std::this_thread::sleep_for(kProgressInterval);  // the connection stays queued: do not spin on it
    }
  }
  for (auto& connection : connections) ::shutdown(connection.socket.get(), SHUT_RD);
  for (auto& connection : connections) connection.thread.join();
}

void ControlServer::Implementation::admit(Descriptor socket) {
  set_timeouts(socket.get());
  if (connections.size() >= kMaxConnections) {
    static_cast<void>(send_all(
        socket.get(), to_line(error_to_json(Error{EAGAIN, ErrorKind::refused,
                                                  "too many commands run at once on this store; try again later"}))));
    return;
  }
  auto& connection = connections.emplace_back();
  connection.socket = std::move(socket);
  try {
    connection.thread = std::thread([this, &connection] { serve(connection); });
  } catch (const std::system_error& error) {
    log::warning("no thread for a command on the control socket: {}", error.what());
    connections.pop_back();
  }
}

void ControlServer::Implementation::reap() {
  connections.remove_if([](Connection& connection) {
    if (!connection.done) return false;
    connection.thread.join();
    return true;
  });
}

void ControlServer::Implementation::serve(Connection& connection) {
  const int socket = connection.socket.get();
  ucred peer{};
  socklen_t size = sizeof peer;
  json reply;
  // The mode of the socket keeps others out already; a descriptor handed on, or a store whose mode was changed by
  // hand, must not let them in.
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 || (peer.uid != 0 && peer.uid != ::geteuid())) {
    reply = error_to_json(Error{EACCES, ErrorKind::refused, "only root and the owner of the store may do this"});
  } else if (const auto request = receive_request(socket); !request) {
    reply = error_to_json(request.error());
  } else if (auto result = answer(socket, *request, peer); !result) {
    reply = error_to_json(result.error());
  } else {
    reply = json{{"result", *std::move(result)}};
  }
  static_cast<void>(send_all(socket, to_line(reply)));
  ::shutdown(socket, SHUT_RDWR);
  connection.done = true;
}

Result<json> ControlServer::Implementation::answer(int socket, const json& request, const ucred& peer) {
  Mutex mutex;
  Clock::time_point last_progress{};
  std::atomic<bool> gone{false};
  CommandContext context;
  context.user = peer.uid;
  context.group = peer.gid;
  context.progress = [&](std::uint64_t done, std::uint64_t total) {
    MutexLock lock(mutex);
    if (gone || Clock::now() - last_progress < kProgressInterval) return;
    last_progress = Clock::now();
    if (!send_all(socket, to_line(json{{"progress", {{"done", done}, {"total", total}}}}))) gone = true;
  };
  context.stop = [&] { return stopping || gone || hung_up(socket); };
  context.part = [&](const json& part) -> Status {
    MutexLock lock(mutex);
    if (gone || !send_patiently(socket, to_line(json{{"part", part}}), context.stop)) {
      gone = true;
      return fail(ECANCELED, ErrorKind::refused, "the client went away");
    }
    return {};
  };
  try {
    return handler(request, context);
  } catch (const std::exception& exception) {
    // A bug or no memory: this command fails, the disks stay served.
    log::error("a command on the control socket failed: {}", exception.what());
    return fail(EIO, ErrorKind::system, fmt::format("the daemon could not do it: {}", exception.what()));
  }
}

ControlServer::ControlServer(std::unique_ptr<Implementation> implementation)
    : implementation_(std::move(implementation)) {}
ControlServer::~ControlServer() = default;

Result<std::unique_ptr<ControlServer>> ControlServer::start(const std::string& store_path, Handler handler) {
  auto implementation = std::make_unique<Implementation>();
  implementation->handler = std::move(handler);
  VARVE_TRY(implementation->listen(store_path));
  return std::unique_ptr<ControlServer>(new ControlServer(std::move(implementation)));
}

// --- client ----------------------------------------------------------------------------------------------------------

ControlClient::ControlClient(ControlClient&& other) noexcept : socket_(std::exchange(other.socket_, -1)) {}
ControlClient& ControlClient::operator=(ControlClient&& other) noexcept {
  std::swap(socket_, other.socket_);
  return *this;
}
ControlClient::~ControlClient() {
  if (socket_ >= 0) ::close(socket_);
}

Result<ControlClient> ControlClient::connect(const std::string& store_path) {
  VARVE_TRY_ASSIGN(const auto directory, open_store_directory(store_path));
  Descriptor socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (socket.get() < 0) return fail_system(errno, "cannot make a socket");
  set_timeouts(socket.get());
  const auto address = address_within(directory);
  if (os::retry([&] {
        return ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
      }) != 0) {
    const int code = errno;
    if (code == ENOENT || code == ECONNREFUSED) {
      return fail(code, ErrorKind::absent, fmt::format("nobody serves the store {}", store_path));
    }
    if (code == EACCES || code == EPERM) {
      return fail_refused(EACCES, fmt::format("the store {} is another user's: only root and its owner may do this",
                                              store_path));
    }
    return os::fail_os(code, "cannot reach the daemon that serves", store_path);
  }
  return ControlClient(socket.release());
}

namespace {

/// Lines of an answer as they come.
class LineReader {
 public:
  explicit LineReader(int socket) : socket_(socket) {}

  /// EIO when the daemon went away, ECANCELED when `stop` said so.
  Result<std::string> next(const std::function<bool()>& stop) {
    for (;;) {
      if (const auto end = text_.find('\n', searched_); end != std::string::npos) {
        std::string line = text_.substr(0, end);
        text_.erase(0, end + 1);
        searched_ = 0;
        return line;
      }
      searched_ = text_.size();
      if (text_.size() > kMaxReplySize) return fail(EIO, ErrorKind::system, "the daemon's answer is too long");
      if (stop()) return fail(ECANCELED, ErrorKind::refused, "interrupted");
      if (!wait_for_input(socket_, Clock::now() + kProgressInterval)) continue;
      char buffer[65536];
      const auto got = os::retry([&] { return ::recv(socket_, buffer, sizeof buffer, 0); });
      if (got <= 0) return fail(EIO, ErrorKind::system, "the daemon that serves the store went away");
      text_.append(buffer, static_cast<std::size_t>(got));
    }
  }

 private:
  int socket_;
  std::string text_;
  std::size_t searched_ = 0;
};

}  // namespace

Result<json> ControlClient::call(const json& request, const CommandContext& context) {
  // A daemon that refuses at once may have closed already: its reason is still there to be read.
  static_cast<void>(send_all(socket_, to_line(request)));
  LineReader reader(socket_);
  for (;;) {
    VARVE_TRY_ASSIGN(const auto line, reader.next(context.stop));
    auto reply = json::parse(line, nullptr, false);
    if (!reply.is_object()) return fail(EIO, ErrorKind::system, "the daemon's answer was not understood");
    if (reply.contains("result")) return std::move(reply["result"]);
    if (reply.contains("error")) return tl::unexpected(error_from_json(reply["error"]));
    if (const auto part = reply.find("part"); part != reply.end()) VARVE_TRY(context.part(*part));
    if (const auto progress = reply.value("progress", json()); progress.is_object()) {
      const auto number = [&](const char* key) {
        const auto found = progress.find(key);
        return found != progress.end() && found->is_number_unsigned() ? found->get<std::uint64_t>() : 0;
      };
      context.progress(number("done"), number("total"));
    }
  }
}

}  // namespace varve::store
