// The daemon's door: what comes in is bounded and answered with a sentence, and nobody can keep it from closing.
#include "varve/store/control_socket.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

#include "support/expect.h"
#include "support/temporary_directory.h"
#include "varve/os/descriptor.h"

namespace varve::store {
namespace {

using nlohmann::json;
using namespace std::chrono_literals;

Result<json> echo(const json& request, const CommandContext&) { return request; }

class ControlSocket : public ::testing::Test {
 protected:
  void start(ControlServer::Handler handler) {
    auto started = ControlServer::start(directory_.path(), std::move(handler));
    ASSERT_OK(started);
    server_ = *std::move(started);
  }
  Result<json> call(const json& request, const CommandContext& context = {}) {
    VARVE_TRY_ASSIGN(auto client, ControlClient::connect(directory_.path()));
    return client.call(request, context);
  }
  /// A client of no manners.
  os::Descriptor raw() {
    os::Descriptor socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, (directory_.path() + "/control").c_str(), sizeof address.sun_path - 1);
    EXPECT_EQ(::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    return socket;
  }
  static void put(const os::Descriptor& socket, std::string_view bytes) {
    while (!bytes.empty()) {
      const auto sent = ::send(socket.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return;
      bytes.remove_prefix(static_cast<std::size_t>(sent));
    }
  }
  static std::string get_all(const os::Descriptor& socket) {
    std::string all;
    char buffer[4096];
    for (;;) {
      const auto got = ::recv(socket.get(), buffer, sizeof buffer, 0);
      if (got <= 0) return all;
      all.append(buffer, static_cast<std::size_t>(got));
    }
  }
  static int error_code(const std::string& answer) {
    const auto parsed = json::parse(answer, nullptr, false);
    return parsed.is_object() && parsed.contains("error") ? parsed["error"]["code"].get<int>() : 0;
  }

  test::TemporaryDirectory directory_;
  std::unique_ptr<ControlServer> server_;
};

TEST_F(ControlSocket, CarriesRequestsAndAnswers) {
  start(echo);
  const json request{{"command", "list"}, {"name", "Ünïcödé \"quoted\"\n"}, {"numbers", {1, -2, 3.5, nullptr, true}}};
  const auto answer = call(request);
  ASSERT_OK(answer);
  EXPECT_EQ(*answer, request);
}

TEST_F(ControlSocket, CarriesErrorsWhole) {
  start([](const json&, const CommandContext&) -> Result<json> { return fail_refused(EBUSY, "web01 is in use"); });
  const auto answer = call(json::object());
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code, EBUSY);
  EXPECT_EQ(answer.error().kind, ErrorKind::refused);
  EXPECT_EQ(answer.error().message, "web01 is in use");
}

TEST_F(ControlSocket, CarriesPartsInOrderAndWaitsForWhoReadsThemSlowly) {
  // Far more than the socket's buffers take.
  constexpr int kParts = 300;
  const std::string filling(20'000, 'x');
  std::atomic<int> sent{0};
  start([&](const json&, const CommandContext& context) -> Result<json> {
    for (int i = 0; i < kParts; ++i) {
      VARVE_TRY(context.part(json{{"number", i}, {"filling", filling}}));
      sent = i + 1;
    }
    return json("done");
  });
  int next = 0;
  CommandContext context;
  context.part = [&](const json& part) -> Status {
    if (next == 0) {
      std::this_thread::sleep_for(300ms);
      EXPECT_LT(sent, kParts) << "parts pile up somewhere";
    }
    EXPECT_EQ(part["number"], next);
    ++next;
    return {};
  };
  const auto answer = call(json::object(), context);
  ASSERT_OK(answer);
  EXPECT_EQ(*answer, "done");
  EXPECT_EQ(next, kParts);
}

TEST_F(ControlSocket, AClientThatTakesNoMorePartsEndsTheCommand) {
  std::atomic<bool> ended{false};
  start([&](const json&, const CommandContext& context) -> Result<json> {
    Status sent;
    while (sent) sent = context.part(json(std::string(5000, 'x')));
    ended = sent.error().code == ECANCELED;
    return tl::unexpected(sent.error());
  });
  CommandContext context;
  context.part = [](const json&) -> Status { return fail_system(ENOSPC, "noting it"); };
  EXPECT_FAILS(call(json::object(), context), ENOSPC);
  server_.reset();  // waits for it
  EXPECT_TRUE(ended);
}

TEST_F(ControlSocket, AClientThatHangsDoesNotKeepTheServerFromEnding) {
  start([&](const json&, const CommandContext& context) -> Result<json> {
    Status sent;
    while (sent) sent = context.part(json(std::string(5000, 'x')));
    return tl::unexpected(sent.error());
  });
  const auto client = raw();
  put(client, "{}\n");
  server_.reset();
}

TEST_F(ControlSocket, IsForItsOwnerOnly) {
  start(echo);
  struct stat status {};
  ASSERT_EQ(::stat((directory_.path() + "/control").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0600u);
}

TEST_F(ControlSocket, ADeadDaemonsSocketIsReplacedAndAnythingElseIsNot) {
  start(echo);
  server_.reset();
  EXPECT_FAILS(call(json::object()), ENOENT);
  {
    // Bound, and never taken away: a kill.
    os::Descriptor socket(::socket(AF_UNIX, SOCK_STREAM, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, (directory_.path() + "/control").c_str(), sizeof address.sun_path - 1);
    ASSERT_EQ(::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  }
  EXPECT_FAILS(call(json::object()), ECONNREFUSED);
  start(echo);
  EXPECT_OK(call(json::object()));
  server_.reset();
  std::ofstream(directory_.path() + "/control") << "mine";
  EXPECT_FAILS(ControlServer::start(directory_.path(), echo), EEXIST);
}

TEST_F(ControlSocket, ServesAStoreWhosePathIsLongerThanASocketAddress) {
  std::string path = directory_.path();
  while (path.size() < 300) {
    path += "/" + std::string(60, 'x');
    ASSERT_EQ(::mkdir(path.c_str(), 0700), 0);
  }
  const auto server = ControlServer::start(path, echo);
  ASSERT_OK(server);
  auto client = ControlClient::connect(path);
  ASSERT_OK(client);
  EXPECT_OK(client->call(json::object(), {}));
}

TEST_F(ControlSocket, AnswersEveryHostileRequestWithASentence) {
  start([](const json& request, const CommandContext&) -> Result<json> {
    if (!request.is_object()) return fail_refused(EINVAL, "not an object");
    return request;
  });
  const std::string deep(kMaxRequestSize - 2, '[');
  for (const std::string& bad : {std::string("\n"), std::string("{\n"), std::string("nonsense\n"), std::string("\xff\xfe\n"),
                                 std::string("\0\0\0\n", 4), std::string("[1,2,3]\n"), deep + "\n",
                                 std::string("{\"a\":1e999}\n"), std::string("{} {}\n")}) {
    const auto socket = raw();
    put(socket, bad);
    EXPECT_EQ(error_code(get_all(socket)), EINVAL) << bad.substr(0, 20);
  }
  const auto socket = raw();
  put(socket, std::string(2 * kMaxRequestSize, 'x'));
  EXPECT_EQ(error_code(get_all(socket)), E2BIG);
  EXPECT_OK(call(json::object())) << "and goes on serving";
}

TEST_F(ControlSocket, ARequestThatEndsWithoutANewlineCounts) {
  start(echo);
  const auto socket = raw();
  put(socket, "{\"command\":\"list\"}");
  ::shutdown(socket.get(), SHUT_WR);
  EXPECT_EQ(get_all(socket), "{\"result\":{\"command\":\"list\"}}\n");
}

TEST_F(ControlSocket, AnExceptionEndsTheCommandAndNotTheDaemon) {
  start([](const json&, const CommandContext&) -> Result<json> { throw std::bad_alloc(); });
  EXPECT_FAILS(call(json::object()), EIO);
  EXPECT_FAILS(call(json::object()), EIO);
}

TEST_F(ControlSocket, ShowsProgress) {
  start([](const json&, const CommandContext& context) -> Result<json> {
    context.progress(3, 10);
    return json("done");
  });
  CommandContext context;
  std::atomic<std::uint64_t> seen{0};
  context.progress = [&](std::uint64_t done, std::uint64_t total) { seen = done * 100 + total; };
  EXPECT_OK(call(json::object(), context));
  EXPECT_EQ(seen, 310u);
}

/// Runs until it is told to stop.
Result<json> run_until_stopped(const json&, const CommandContext& context) {
  while (!context.stop()) std::this_thread::sleep_for(1ms);
  return fail(ECANCELED, ErrorKind::refused, "interrupted");
}

TEST_F(ControlSocket, HangingUpStopsTheCommand) {
  std::atomic<bool> stopped{false};
  start([&](const json& request, const CommandContext& context) -> Result<json> {
    auto result = run_until_stopped(request, context);
    stopped = true;
    return result;
  });
  CommandContext context;
  const auto begin = std::chrono::steady_clock::now();
  context.stop = [&] { return std::chrono::steady_clock::now() - begin > 100ms; };
  EXPECT_FAILS(call(json::object(), context), ECANCELED);
  for (int i = 0; i < 1000 && !stopped; ++i) std::this_thread::sleep_for(10ms);
  EXPECT_TRUE(stopped);
}

TEST_F(ControlSocket, ManyAtOnceAreServedOrTurnedAwayWithASentence) {
  start(run_until_stopped);
  std::vector<os::Descriptor> sockets;
  for (std::size_t i = 0; i < kMaxConnections; ++i) {
    sockets.push_back(raw());
    put(sockets.back(), "{}\n");
  }
  // Connections are admitted in the order in which they came.
  const auto socket = raw();
  put(socket, "{}\n");
  EXPECT_EQ(error_code(get_all(socket)), EAGAIN);
}

TEST_F(ControlSocket, ClosesAtOnceWhateverClientsDo) {
  start(run_until_stopped);
  const auto silent = raw();
  const auto half = raw();
  put(half, "{\"comm");
  const auto running = raw();
  put(running, "{}\n");
  std::this_thread::sleep_for(50ms);
  const auto begin = std::chrono::steady_clock::now();
  server_.reset();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 5s);
  EXPECT_FAILS(call(json::object()), ENOENT);
}

}  // namespace
}  // namespace varve::store
