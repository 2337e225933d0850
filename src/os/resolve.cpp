#include "resolve.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <cstdint>

#include "varve/os/descriptor.h"

namespace varve::os {
namespace {

/// openat2 says EAGAIN when something was renamed while it looked; that passes.
constexpr int kResolveAttempts = 100;

int open_at_once(int root, const std::string& path, int flags, mode_t mode) {
  open_how how{};
  how.flags = static_cast<std::uint64_t>(static_cast<unsigned>(flags | O_CLOEXEC));
  how.mode = (flags & O_CREAT) != 0 ? mode : 0;
  // Not RESOLVE_NO_XDEV: the packs may well be on a filesystem of their own.
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS;
  int fd = -1;
  for (int attempt = 0; attempt < kResolveAttempts; ++attempt) {
    fd = static_cast<int>(retry([&] { return ::syscall(SYS_openat2, root, path.c_str(), &how, sizeof how); }));
    if (fd >= 0 || errno != EAGAIN) break;
  }
  return fd;
}

/// One part of a path. Asked for a directory and told not to follow, the kernel calls a link "not a directory".
int open_part(int directory, const std::string& name, int flags, mode_t mode) {
  const int fd = retry([&] { return ::openat(directory, name.c_str(), flags | O_NOFOLLOW | O_CLOEXEC, mode); });
  if (fd >= 0 || errno != ENOTDIR) return fd;
  struct stat status {};
  const bool is_link = ::fstatat(directory, name.c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(status.st_mode);
  errno = is_link ? ELOOP : ENOTDIR;
  return -1;
}

}  // namespace

int open_by_steps(int root, const std::string& path, int flags, mode_t mode) {
  Descriptor reached;
  int directory = root;
  std::size_t begin = 0;
  for (std::size_t slash; (slash = path.find('/', begin)) != std::string::npos; begin = slash + 1) {
    Descriptor next(open_part(directory, path.substr(begin, slash - begin), O_PATH | O_DIRECTORY, 0));
    if (next.get() < 0) return -1;
    reached = std::move(next);
    directory = reached.get();
  }
  const int fd = open_part(directory, path.substr(begin), flags, mode);
  const int code = errno;  // closing must not change it
  reached = Descriptor();
  errno = code;
  return fd;
}

int open_beneath(int root, const std::string& path, int flags, mode_t mode) {
  const int fd = open_at_once(root, path, flags, mode);
  // EPERM: what some sandboxes say to a system call that they do not know; else it comes again.
  if (fd >= 0 || (errno != ENOSYS && errno != EPERM)) return fd;
  return open_by_steps(root, path, flags, mode);
}

}  // namespace varve::os
