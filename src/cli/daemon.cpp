#include "daemon.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "report.h"
#include "varve/core/log.h"

namespace varve::cli {
namespace {

/// First byte of the news; a failure is followed by its sentence.
constexpr char kReady = '+';
constexpr char kFailed = '-';

void redirect_to_null(int descriptor, int flags) {
  const os::Descriptor null(::open("/dev/null", flags | O_CLOEXEC));
  if (null.get() >= 0) ::dup2(null.get(), descriptor);
}

std::string read_news(int pipe) {
  std::string news;
  char buffer[4096];
  for (;;) {
    const auto got = os::retry([&] { return ::read(pipe, buffer, sizeof buffer); });
    if (got <= 0) return news;
    news.append(buffer, static_cast<std::size_t>(got));
    if (news.front() == kReady) return news;
  }
}

/// In the process that was started.
int wait_for_news(int pipe, pid_t daemon) {
  const auto news = read_news(pipe);
  if (!news.empty() && news.front() == kReady) return kExitSuccess;
  int status = 0;
  os::retry([&] { return ::waitpid(daemon, &status, 0); });
  if (!news.empty()) return report(Error{EIO, ErrorKind::system, news.substr(1)});
  const auto how = WIFSIGNALED(status) ? fmt::format("was ended by signal {}", WTERMSIG(status))
                                       : fmt::format("ended with code {}", WEXITSTATUS(status));
  return report(Error{EIO, ErrorKind::system,
                      fmt::format("the daemon {} before the mount was usable; the system log may say why", how)});
}

void become_daemon() {
  ::setsid();
  redirect_to_null(STDIN_FILENO, O_RDONLY);
  redirect_to_null(STDOUT_FILENO, O_WRONLY);
  // A daemon must not hold on to the filesystem it was started in.
  if (::chdir("/") != 0) log::warning("cannot change to /: {}", std::strerror(errno));
}

/// sd_notify(3): systemd, where it started us and wants to know, hears that the mount is usable.
void notify_systemd(std::string_view state) {
  const char* path = std::getenv("NOTIFY_SOCKET");
  if (path == nullptr || (path[0] != '/' && path[0] != '@')) return;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string_view name(path);
  if (name.size() >= sizeof address.sun_path) return;
  std::memcpy(address.sun_path, name.data(), name.size());
  if (path[0] == '@') address.sun_path[0] = '\0';
  const os::Descriptor socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size());
  ::sendto(socket.get(), state.data(), state.size(), MSG_NOSIGNAL, reinterpret_cast<const sockaddr*>(&address), size);
}

void write_news(int pipe, std::string_view news) {
  while (!news.empty()) {
    const auto put = os::retry([&] { return ::write(pipe, news.data(), news.size()); });
    if (put <= 0) return;
    news.remove_prefix(static_cast<std::size_t>(put));
  }
}

}  // namespace

void Readiness::ready() {
  notify_systemd("READY=1");
  if (news_.get() < 0) return;
  log::set_target(log::Target::syslog);
  redirect_to_null(STDERR_FILENO, O_WRONLY);
  write_news(news_.get(), std::string_view(&kReady, 1));
  news_ = os::Descriptor();
}

bool Readiness::failed(const std::string& message) {
  if (news_.get() < 0) return false;
  write_news(news_.get(), kFailed + message);
  news_ = os::Descriptor();
  return true;
}

Readiness start_in_background(int& exit_code) {
  exit_code = -1;
  // Locks and pipes of whoever started us are not ours to hold for as long as the mount lives.
  ::close_range(STDERR_FILENO + 1, UINT_MAX, 0);
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) {
    exit_code = report(Error{errno, ErrorKind::system, "cannot make a pipe"});
    return {};
  }
  os::Descriptor read_end(ends[0]);
  os::Descriptor write_end(ends[1]);
  std::fflush(nullptr);
  const pid_t daemon = ::fork();
  if (daemon < 0) {
    exit_code = report(Error{errno, ErrorKind::system, fmt::format("cannot fork: {}", std::strerror(errno))});
    return {};
  }
  if (daemon == 0) {
    become_daemon();
    return Readiness(std::move(write_end));
  }
  write_end = os::Descriptor();
  exit_code = wait_for_news(read_end.get(), daemon);
  return {};
}

void raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace varve::cli
