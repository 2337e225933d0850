#include "varve/fuse/mount.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdarg>
#include <fstream>
#include <thread>

#include "filesystem.h"
#include "mountpoint.h"
#include "notifier.h"
#include "privileges.h"
#include "request.h"
#include "varve/core/log.h"
#include "varve/fuse/mount_table.h"
#include "varve/os/descriptor.h"
#include "worker.h"

namespace varve::fuse {
namespace {

/// How often a mount that is to end is tried again, while it is in use.
constexpr std::chrono::milliseconds kUnmountInterval{500};
constexpr std::chrono::milliseconds kNotificationPatience{1000};
constexpr std::size_t kMaxHoldersLogged = 20;

// --- what libfuse says ---

/// The last complaint of the thread that mounts: libfuse's functions only say -1.
thread_local std::string last_complaint;

void log_from_libfuse(fuse_log_level level, const char* format, va_list arguments) {
  char line[512];
  const int size = std::vsnprintf(line, sizeof line, format, arguments);
  std::string_view text(line, std::min(static_cast<std::size_t>(std::max(size, 0)), sizeof line - 1));
  while (text.ends_with('\n')) text.remove_suffix(1);
  if (text.starts_with("fuse: ")) text.remove_prefix(6);
  if (level <= FUSE_LOG_WARNING) last_complaint = text;
  log::write(level <= FUSE_LOG_ERR ? log::Level::warning : log::Level::debug, text);
}

// --- signals ---

/// A signal handler may do little more than write(2): it wakes the thread in run().
int signal_event = -1;

void on_signal(int) {
  const int saved = errno;
  const std::uint64_t one = 1;
  static_cast<void>(!::write(signal_event, &one, sizeof one));
  errno = saved;
}

/// Ours while it lives, then as they were.
class SignalHandlers {
 public:
  explicit SignalHandlers(int event) {
    signal_event = event;
    struct sigaction action {};
    action.sa_handler = on_signal;
    action.sa_flags = SA_RESTART;
    for (std::size_t i = 0; i < std::size(kSignals); ++i) ::sigaction(kSignals[i], &action, &saved_[i]);
  }
  ~SignalHandlers() {
    for (std::size_t i = 0; i < std::size(kSignals); ++i) ::sigaction(kSignals[i], &saved_[i], nullptr);
  }
  SignalHandlers(const SignalHandlers&) = delete;
  SignalHandlers& operator=(const SignalHandlers&) = delete;

 private:
  static constexpr int kSignals[] = {SIGTERM, SIGINT, SIGHUP};
  struct sigaction saved_[std::size(kSignals)];
};

/// A counter that poll(2) waits for.
class Event {
 public:
  Event() : fd_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}
  [[nodiscard]] int fd() const { return fd_.get(); }
  void set() const {
    const std::uint64_t one = 1;
    static_cast<void>(!::write(fd_.get(), &one, sizeof one));
  }
  /// Whether it was set since the last time.
  [[nodiscard]] bool take() const {
    std::uint64_t count = 0;
    return ::read(fd_.get(), &count, sizeof count) == sizeof count;
  }

 private:
  os::Descriptor fd_;
};

// --- mounting ---

struct SessionDeleter {
  void operator()(fuse_session* session) const { fuse_session_destroy(session); }
};
using FuseSession = std::unique_ptr<fuse_session, SessionDeleter>;

/// Within -o a comma separates, unless it is escaped.
std::string escape_option(std::string_view value) {
  std::string out;
  for (const char c : value) {
    if (c == ',' || c == '\\') out += '\\';
    out += c;
  }
  return out;
}

std::string option_list(const MountOptions& options) {
  // default_permissions: the kernel checks modes and owners; without allow_other it changes nothing.
  std::string list =
      fmt::format("fsname={},subtype={},default_permissions", escape_option(options.source), kMountSubtype);
  if (options.allow_other) list += ",allow_other";
  if (options.read_only) list += ",ro";
  if (options.debug) list += ",debug";
  return list;
}

Result<FuseSession> make_session(const MountOptions& options, Filesystem& filesystem) {
  fuse_set_log_func(log_from_libfuse);
  last_complaint.clear();
  std::string words[] = {"varve", "-o", option_list(options)};
  char* pointers[] = {words[0].data(), words[1].data(), words[2].data(), nullptr};
  fuse_args arguments = FUSE_ARGS_INIT(3, pointers);
  FuseSession session(fuse_session_new(&arguments, &operations(), sizeof(fuse_lowlevel_ops), &filesystem));
  fuse_opt_free_args(&arguments);
  if (session == nullptr) return fail_refused(EINVAL, "mount options: " + last_complaint);
  return session;
}

Status mount_session(fuse_session* session, const std::string& mountpoint, const MountOptions& options) {
  const auto mounted = [&] {
    const RaisedPrivileges raised;
    return fuse_session_mount(session, mountpoint.c_str()) == 0;
  }();
  if (!mounted) {
    std::string sentence = fmt::format("mounting on {} was refused", mountpoint);
    if (!last_complaint.empty()) sentence += ": " + last_complaint;
    if (::geteuid() != 0 && options.allow_other) sentence += " (allow_other needs user_allow_other in /etc/fuse.conf)";
    return fail_refused(EPERM, sentence);
  }
  if (route_answers(session)) return {};
  const RaisedPrivileges raised;
  fuse_session_unmount(session);
  return fail_refused(EIO, "libfuse refused to have its replies routed");
}

/// Best effort: only root may. The mount itself is not touched: whoever looks into it keeps others from unmounting it.
void set_readahead(const std::string& device, unsigned kib) {
  const auto path = fmt::format("/sys/class/bdi/{}/read_ahead_kb", device);
  std::ofstream file(path);
  if (!(file << kib << std::flush)) log::debug("{} can't be set: sequential reads are slower", path);
}

void log_holders(const std::string& mountpoint) {
  const RaisedPrivileges raised;
  const auto holders = find_holders(mountpoint);
  log::warning("{} is in use and stays mounted until these have gone:", mountpoint);
  for (std::size_t i = 0; i < std::min(holders.size(), kMaxHoldersLogged); ++i) log::warning("  {}", holders[i]);
  if (holders.size() > kMaxHoldersLogged) log::warning("  and {} more", holders.size() - kMaxHoldersLogged);
  if (holders.empty()) log::warning("  somebody who can't be seen from here (another user or namespace)");
}

}  // namespace

void prepare_process() {
  // With it, memory that the kernel wants for us is not looked for among dirty pages that only we can clean. Inherited
  // by every thread started from here on.
  if (::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) != 0) log::debug("PR_SET_IO_FLUSHER: not permitted");
  drop_privileges();
}

// --- the session ---

/// Order of death: the mount, so that nobody waits for an answer or holds what a notification wants; the filesystem's
/// pools, which answer to libfuse's session and notify; the notifier; the session.
struct Session::Implementation {
  store::Store& store;
  MountOptions options;
  std::string mountpoint;
  std::string device;  ///< "major:minor" of the mount
  FuseSession session;
  std::unique_ptr<Filesystem> filesystem;
  std::unique_ptr<Notifier> notifier;
  Event end_wanted;
  Event ended;                       ///< no worker is left
  std::atomic<unsigned> serving{0};  ///< workers
  bool ending = false;
  bool served = false;

  explicit Implementation(store::Store& s) : store(s) {}
  ~Implementation();

  Status start();
  void serve_all(const std::function<void()>& on_ready);
  [[nodiscard]] std::vector<std::thread> start_workers();
  void wait_for_end();
  void try_to_end(bool say_why_not);
  [[nodiscard]] bool is_mounted() const;
};

Session::Implementation::~Implementation() {
  // Whoever still uses it gets ENOTCONN: nobody is left to serve it.
  if (session != nullptr && !served && is_mounted()) {
    if (auto gone = unmount(mountpoint, UnmountHow::lazily); !gone) log::warning("{}", gone.error().message);
  }
  if (session != nullptr) {
    const RaisedPrivileges raised;
    fuse_session_unmount(session.get());
  }
  store.set_observer(nullptr);
  filesystem.reset();
  notifier.reset();
}

bool Session::Implementation::is_mounted() const {
  const auto table = read_mount_table();
  const auto* there = mounted_at(table, mountpoint);
  return there != nullptr && there->type == kMountType && (device.empty() || there->device == device);
}

Status Session::Implementation::start() {
  VARVE_TRY(check_mounting_possible());
  VARVE_TRY_ASSIGN(mountpoint, prepare_mountpoint(options.mountpoint));
  filesystem = std::make_unique<Filesystem>(store, options.real_blocks, options.threads);
  VARVE_TRY_ASSIGN(session, make_session(options, *filesystem));
  VARVE_TRY(mount_session(session.get(), mountpoint, options));
  const auto table = read_mount_table();
  if (const auto* there = mounted_at(table, mountpoint); there != nullptr) device = there->device;
  notifier = std::make_unique<Notifier>(session.get());
  filesystem->notify_through(*notifier);
  store.set_observer(filesystem.get());
  return {};
}

std::vector<std::thread> Session::Implementation::start_workers() {
  const unsigned wanted = options.threads;
  std::vector<std::thread> workers;
  workers.reserve(wanted);
  serving = wanted;
  for (unsigned i = 0; i < wanted; ++i) {
    // The first serves the session's own descriptor: what nobody else's queue has comes there too.
    auto clone = i == 0 ? Result<os::Descriptor>(os::Descriptor()) : clone_device(session.get());
    if (!clone) log::debug("all threads share one descriptor: {}", clone.error().message);
    workers.emplace_back([this, clone = clone ? std::move(*clone) : os::Descriptor()] {
      serve(session.get(), clone.get() >= 0 ? clone.get() : fuse_session_fd(session.get()));
      if (--serving == 0) ended.set();
    });
    pthread_setname_np(workers.back().native_handle(), fmt::format("fuse-{}", i).c_str());
  }
  return workers;
}

void Session::Implementation::serve_all(const std::function<void()>& on_ready) {
  const SignalHandlers handlers(end_wanted.fd());
  auto workers = start_workers();
  set_readahead(device, options.readahead_kib);
  if (on_ready) on_ready();
  wait_for_end();
  for (auto& worker : workers) worker.join();
}

void Session::Implementation::wait_for_end() {
  for (;;) {
    pollfd events[] = {{.fd = ended.fd(), .events = POLLIN, .revents = 0},
                       {.fd = end_wanted.fd(), .events = POLLIN, .revents = 0}};
    const int timeout = ending ? static_cast<int>(kUnmountInterval.count()) : -1;
    const int ready = ::poll(events, std::size(events), timeout);
    if (ready > 0 && events[0].revents != 0) return;
    const bool asked = end_wanted.take();
    if (asked) ending = true;
    if (ending) try_to_end(asked);
  }
}

/// Never lazily, never by force: a loop device above would lose what it has not written yet.
void Session::Implementation::try_to_end(bool say_why_not) {
  if (!is_mounted()) {
    // umount -l has taken it away from the tree already.
    if (say_why_not) log::warning("{} is unmounted, but still in use; waiting for the last user", mountpoint);
    return;
  }
  const auto unmounted = unmount(mountpoint, UnmountHow::plain);
  if (unmounted || !say_why_not) return;
  if (unmounted.error().code == EBUSY) return log_holders(mountpoint);
  log::error("{}", unmounted.error().message);
}

Session::Session() = default;
Session::~Session() = default;

Result<std::unique_ptr<Session>> Session::mount(store::Store& store, const MountOptions& options) {
  std::unique_ptr<Session> session(new Session);
  session->implementation_ = std::make_unique<Implementation>(store);
  session->implementation_->options = options;
  VARVE_TRY(session->implementation_->start());
  return session;
}

Status Session::run(const std::function<void()>& on_ready) {
  auto& self = *implementation_;
  VARVE_TRY_ASSIGN(const auto negotiated, serve_init(self.session.get()));
  self.filesystem->begin(negotiated);
  self.serve_all(on_ready);
  self.served = true;
  return {};
}

void Session::request_end() {
  implementation_->end_wanted.set();
}

void Session::wait_until_notified() {
  if (!implementation_->notifier->wait_until_sent(kNotificationPatience)) {
    log::debug("the kernel has not taken all notifications yet");
  }
}

}  // namespace varve::fuse
