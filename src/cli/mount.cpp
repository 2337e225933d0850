#include "mount.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "daemon.h"
#include "memory.h"
#include "report.h"
#include "requests.h"
#include "varve/core/log.h"
#include "varve/fuse/mount.h"
#include "varve/store/control_socket.h"

namespace varve::cli {
namespace {

/// A mount of ours whose daemon is gone: fuse::Session takes it away. The socket is asked first: a daemon that lives and
/// does not answer would be waited for.
bool is_left_over(const fuse::MountEntry& entry) {
  return entry.type == fuse::kMountType && !store::ControlClient::connect(entry.source) &&
         fuse::is_dead(entry.mountpoint);
}

Status check_directory(const std::string& path, std::string_view what) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) return fail_system(errno, fmt::format("the {} {}", what, path));
  if (!S_ISDIR(status.st_mode)) return fail_refused(ENOTDIR, fmt::format("the {} {} is not a directory", what, path));
  return {};
}

/// The request with absolute paths, once nothing speaks against it any more that can be known beforehand.
Result<MountRequest> prepare(MountRequest request) {
  VARVE_TRY_ASSIGN(request.store, absolute_path(request.store));
  VARVE_TRY_ASSIGN(request.mountpoint, absolute_path(request.mountpoint));
  VARVE_TRY(check_directory(request.store, "store"));
  auto table = fuse::read_mount_table();
  const auto left_over = std::erase_if(table, is_left_over);
  VARVE_TRY(check_mountpoint(table, request.store, request.mountpoint));
  if (left_over == 0) VARVE_TRY(check_directory(request.mountpoint, "mountpoint"));
  return request;
}

store::OpenOptions open_options(const MountRequest& request, const MemoryPlan& plan) {
  store::OpenOptions options;
  options.chunk_cache_bytes = request.options.cache_bytes != 0 ? request.options.cache_bytes : plan.chunk_cache;
  options.node_cache_bytes = plan.node_cache;
  options.locator_bytes = plan.locator;
  options.pack_bytes = plan.pack;
  options.assume_power_loss = request.options.assume_power_loss;
  options.purpose = fmt::format("mounted at {} by process {}", request.mountpoint, ::getpid());
  return options;
}

fuse::MountOptions fuse_options(const MountRequest& request, const MemoryPlan& plan) {
  fuse::MountOptions options;
  options.mountpoint = request.mountpoint;
  options.source = request.store;
  options.allow_other = request.options.allow_other;
  options.read_only = request.options.read_only;
  options.real_blocks = request.options.real_blocks;
  options.threads = plan.threads;
  options.readahead_kib = plan.readahead_kib;
  return options;
}

/// The whole of varve, a few lines a part: the store, which assembles the layers below itself (src/store/open_store.cpp);
/// the kernel's door to it; the command line's door to it. Returns when the mount has ended and everything is closed.
Status serve(const MountRequest& request, Readiness& readiness) {
  const auto plan = plan_memory(usable_memory());
  spare_memory(plan);
  fuse::prepare_process();
  raise_descriptor_limit();
  const auto waiting = [](const Error& busy) { log::info("waiting: {}", busy.message); };
  // It is mounted nowhere that we can see (check_mountpoint): a daemon that answers has just lost its mount.
  VARVE_TRY_ASSIGN(const auto store,
                   open_store(request.store, open_options(request, plan), waiting, kUnmountedPatience));
  const auto served = [&]() -> Status {
    VARVE_TRY_ASSIGN(const auto session, fuse::Session::mount(*store, fuse_options(request, plan)));
    const auto answer = [&](const nlohmann::json& question, const store::CommandContext& context) {
      auto result = store::run_command(*store, question, context);
      session->wait_until_notified();  // who reads the image after a restore must not see the old one
      return result;
    };
    VARVE_TRY_ASSIGN(const auto control, store::ControlServer::start(request.store, answer));
    return session->run([&] { readiness.ready(); });
  }();
  const auto closed = store->close();
  return served ? closed : served;
}

}  // namespace

Status check_mountpoint(const MountTable& table, const std::string& store, const std::string& mountpoint) {
  for (const auto& entry : table) {
    if (entry.type == fuse::kMountType && entry.source == store) {
      return fail_refused(EBUSY, fmt::format("{} is mounted at {} already; a store is mounted once", store,
                                             entry.mountpoint));
    }
  }
  if (const auto* there = fuse::mounted_at(table, mountpoint); there != nullptr && mountpoint != "/") {
    return fail_refused(EBUSY, fmt::format("{0}: something is mounted there already ({1}, {2}); `umount {0}`, or choose "
                                           "another mountpoint", mountpoint, there->source, there->type));
  }
  if (is_within(store, mountpoint) || is_within(mountpoint, store)) {
    return fail_refused(EINVAL, fmt::format("the store {} and the mountpoint {} must not be within each other", store,
                                            mountpoint));
  }
  return {};
}

int mount_store(const MountRequest& asked) {
  const auto request = prepare(asked);
  if (!request) return report(request.error());
  Readiness readiness;
  if (!request->foreground) {
    int exit_code = -1;
    readiness = start_in_background(exit_code);
    if (exit_code >= 0) return exit_code;
  }
  const auto served = serve(*request, readiness);
  if (served) return kExitSuccess;
  if (!readiness.failed(served.error().message)) {
    // After the mount was usable nobody waits: the log has it.
    request->foreground ? static_cast<void>(report(served.error())) : log::error("{}", served.error().message);
  }
  return kExitFailure;
}

}  // namespace varve::cli
