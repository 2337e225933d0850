#include "mountpoint.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <limits.h>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "privileges.h"
#include "varve/core/log.h"
#include "varve/fuse/mount_table.h"
#include "varve/os/descriptor.h"

namespace varve::fuse {
namespace {

constexpr const char* kFusermount = "fusermount3";

/// realpath(3) would ask a dead mount; its parent is asked instead, which is enough to find it in the mount table.
Result<std::string> resolve(const std::string& path) {
  char resolved[PATH_MAX];
  if (::realpath(path.c_str(), resolved) != nullptr) return std::string(resolved);
  if (errno != ENOTCONN) {
    if (errno == ENOENT) {
      return fail(ENOENT, ErrorKind::absent, fmt::format("mountpoint {} does not exist: mkdir it first", path));
    }
    return fail_system(errno, "mountpoint " + path);
  }
  std::string trimmed = path;
  while (trimmed.size() > 1 && trimmed.back() == '/') trimmed.pop_back();
  const std::filesystem::path whole = std::filesystem::absolute(trimmed);
  if (::realpath(whole.parent_path().c_str(), resolved) == nullptr) return fail_system(errno, "mountpoint " + path);
  return (std::filesystem::path(resolved) / whole.filename()).string();
}

bool is_in_path(const std::string& program) {
  const char* variable = std::getenv("PATH");
  std::string_view left = variable != nullptr ? variable : "/usr/local/bin:/usr/bin:/bin";
  while (!left.empty()) {
    const auto colon = std::min(left.find(':'), left.size());
    if (::access((std::string(left.substr(0, colon)) + "/" + program).c_str(), X_OK) == 0) return true;
    left.remove_prefix(std::min(colon + 1, left.size()));
  }
  return false;
}

/// It says no more than whether it worked; that it did not is taken for EBUSY, which by far is the usual reason.
Status run_fusermount(const std::string& mountpoint, UnmountHow how) {
  const char* options = how == UnmountHow::lazily ? "-uz" : "-u";
  char* const arguments[] = {const_cast<char*>(kFusermount), const_cast<char*>(options), const_cast<char*>("--"),
                             const_cast<char*>(mountpoint.c_str()), nullptr};
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  pid_t child = 0;
  const int error = ::posix_spawnp(&child, kFusermount, &actions, nullptr, arguments, environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) return fail_system(error, kFusermount);
  int status = 0;
  if (os::retry([&] { return ::waitpid(child, &status, 0); }) < 0) return fail_system(errno, kFusermount);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return {};
  return fail_system(EBUSY, "unmounting " + mountpoint);
}

}  // namespace

Result<std::string> prepare_mountpoint(const std::string& path) {
  VARVE_TRY_ASSIGN(const auto resolved, resolve(path));
  const auto table = read_mount_table();
  const auto* there = mounted_at(table, resolved);
  if (there != nullptr && there->type == kMountType) {
    if (!is_dead(resolved)) {
      return fail_refused(EBUSY, fmt::format("the store {} is mounted on {} already", there->source, resolved));
    }
    log::warning("the daemon that served {} is dead: its mount is removed", resolved);
    VARVE_TRY(unmount(resolved, UnmountHow::lazily));
    return prepare_mountpoint(resolved);
  }
  struct stat status {};
  if (::stat(resolved.c_str(), &status) != 0) return fail_system(errno, "mountpoint " + resolved);
  if (!S_ISDIR(status.st_mode)) return fail_refused(ENOTDIR, fmt::format("mountpoint {} is not a directory", resolved));
  return resolved;
}

Status check_mounting_possible() {
  const os::Descriptor device(::open("/dev/fuse", O_RDWR | O_CLOEXEC));
  if (device.get() < 0) {
    const int code = errno;
    if (code == ENOENT || code == ENODEV || code == ENXIO) {
      return fail(ENODEV, ErrorKind::absent,
                  "/dev/fuse is missing: load the module (modprobe fuse), or give the container the device");
    }
    return fail_system(code, "opening /dev/fuse");
  }
  if (::geteuid() != 0 && !is_in_path(kFusermount)) {
    return fail_refused(EPERM, "only root can mount without fusermount3: install the package fuse3");
  }
  return {};
}

Status unmount(const std::string& mountpoint, UnmountHow how) {
  const RaisedPrivileges raised;
  if (::umount2(mountpoint.c_str(), UMOUNT_NOFOLLOW | (how == UnmountHow::lazily ? MNT_DETACH : 0)) == 0) return {};
  if (errno == EPERM && ::geteuid() != 0) return run_fusermount(mountpoint, how);
  return fail_system(errno, "unmounting " + mountpoint);
}

}  // namespace varve::fuse
