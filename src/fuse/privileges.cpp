#include "privileges.h"

#include <fmt/format.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <optional>

#include "varve/core/log.h"

namespace varve::fuse {
namespace {

constexpr std::uint64_t bit(int capability) { return std::uint64_t{1} << capability; }

constexpr std::uint64_t kAlways = bit(CAP_DAC_READ_SEARCH);
constexpr std::uint64_t kKept = kAlways | bit(CAP_SYS_ADMIN) | bit(CAP_SYS_PTRACE);
/// The kernel says where its list ends; it never had more.
constexpr int kMostCapabilities = 64;

struct Capabilities {
  std::uint64_t effective = 0;
  std::uint64_t permitted = 0;
  std::uint64_t inheritable = 0;
};

/// Of the calling thread, by the system calls themselves: libcap has nothing that is needed here.
std::optional<Capabilities> get_capabilities() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3> data{};
  if (::syscall(SYS_capget, &header, data.data()) != 0) return std::nullopt;
  const auto join = [](std::uint32_t low, std::uint32_t high) { return std::uint64_t{high} << 32U | low; };
  return Capabilities{join(data[0].effective, data[1].effective), join(data[0].permitted, data[1].permitted),
                      join(data[0].inheritable, data[1].inheritable)};
}

bool set_capabilities(const Capabilities& wanted) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3> data{};
  for (unsigned half = 0; half < data.size(); ++half) {
    data[half].effective = static_cast<std::uint32_t>(wanted.effective >> (32U * half));
    data[half].permitted = static_cast<std::uint32_t>(wanted.permitted >> (32U * half));
    data[half].inheritable = static_cast<std::uint32_t>(wanted.inheritable >> (32U * half));
  }
  return ::syscall(SYS_capset, &header, data.data()) == 0;
}

/// Needs CAP_SETPCAP, which goes itself.
bool drop_bounding_set() {
  bool dropped = true;
  for (int capability = 0; capability < kMostCapabilities; ++capability) {
    if ((kKept & bit(capability)) != 0 || ::prctl(PR_CAPBSET_READ, capability, 0, 0, 0) != 1) continue;
    if (::prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0) dropped = false;
  }
  return dropped;
}

}  // namespace

void drop_privileges() {
  if (::geteuid() != 0) return;
  const auto has = get_capabilities();
  const bool bounded = drop_bounding_set();
  ::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  const bool no_new = ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0;
  const bool dropped = has && set_capabilities({has->permitted & kAlways, has->permitted & kKept, 0});
  if (!dropped || !no_new) {
    log::warning("privileges that are not needed could not be dropped: {}", std::strerror(errno));
  }
  // Where CAP_SETPCAP was taken already (a container, a unit) the bounding set is somebody else's choice.
  if (!bounded) log::debug("the bounding set of capabilities stays as it was");
}

RaisedPrivileges::RaisedPrivileges() {
  auto has = get_capabilities();
  if (!has || (has->permitted & ~has->effective) == 0) return;
  before_ = has->effective;
  has->effective = has->permitted;
  raised_ = set_capabilities(*has);
}

RaisedPrivileges::~RaisedPrivileges() {
  if (!raised_) return;
  auto has = get_capabilities();
  if (!has) return;
  has->effective = before_;
  if (!set_capabilities(*has)) log::warning("privileges could not be put back: {}", std::strerror(errno));
}

}  // namespace varve::fuse
