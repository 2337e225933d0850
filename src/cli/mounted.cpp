#include "mounted.h"

#include <dirent.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include <algorithm>
#include <array>
#include <memory>

#include "paths.h"
#include "varve/catalog/names.h"

namespace varve::cli {
namespace {

constexpr std::size_t kLongestAttribute = 64 * kKiB;

Result<std::string> required_attribute(const std::string& path, const char* name) {
  VARVE_TRY_ASSIGN(auto value, attribute(path, name));
  if (!value) return fail(ENODATA, ErrorKind::absent, fmt::format("{} has no attribute {}", path, name));
  return *std::move(value);
}

}  // namespace

Result<Mounted> Mounted::of(const std::string& store, const std::string& purpose) {
  for (const auto& entry : fuse::read_mount_table()) {
    // Where a bind mount begins below the root there is no such attribute.
    if (entry.type != fuse::kMountType || entry.source != store) continue;
    const auto id = attribute(entry.mountpoint, "user.varve.id");
    if (id && *id && exists(entry.mountpoint + "/.varve")) return Mounted(entry.mountpoint);
  }
  return fail_refused(ENOTCONN, fmt::format("{} through the mount, and the store {} is not mounted where this user sees it; "
                                            "first: varve mount {} MOUNTPOINT",
                                            purpose, store, store));
}

Result<std::string> Mounted::identity(const std::string& disk, const std::string& snapshot) const {
  const auto path = directory(disk, snapshot);
  VARVE_TRY_ASSIGN(auto origin, attribute(path, kOriginAttribute));
  if (origin) return *std::move(origin);
  VARVE_TRY_ASSIGN(const auto store_id, required_attribute(root_, "user.varve.id"));
  VARVE_TRY_ASSIGN(const auto disk_id, required_attribute(directory(disk), "user.varve.id"));
  VARVE_TRY_ASSIGN(const auto id, required_attribute(path, "user.varve.id"));
  VARVE_TRY_ASSIGN(const auto instant, required_attribute(path, "user.varve.btime"));
  return fmt::format("{}/{}/{}/{}", store_id, disk_id, id, instant);
}

Result<std::vector<std::string>> Mounted::snapshots(const std::string& disk) const {
  const auto path = directory(disk);
  const std::unique_ptr<DIR, int (*)(DIR*)> listing(::opendir(path.c_str()), &::closedir);
  if (listing == nullptr) return os::fail_os(errno, "cannot list", path);
  std::vector<std::string> names;
  for (;;) {
    errno = 0;
    const dirent* entry = ::readdir(listing.get());
    if (entry == nullptr) break;
    const std::string name = entry->d_name;
    if (!name.starts_with('.') && name != catalog::kImageName) names.push_back(name);
  }
  if (errno != 0) return os::fail_os(errno, "cannot list", path);
  return names;
}

bool exists(const std::string& path) {
  return ::access(path.c_str(), F_OK) == 0;
}

Result<std::optional<std::string>> attribute(const std::string& path, const char* name) {
  std::string value(kLongestAttribute, '\0');
  const auto got = ::getxattr(path.c_str(), name, value.data(), value.size());
  if (got < 0 && errno == ENODATA) return std::nullopt;
  if (got < 0) return os::fail_os(errno, fmt::format("cannot read {} of", name), path);
  value.resize(static_cast<std::size_t>(got));
  return value;
}

Status set_attribute(const std::string& path, const char* name, const std::string& value) {
  if (::setxattr(path.c_str(), name, value.data(), value.size(), 0) == 0) return {};
  return os::fail_os(errno, fmt::format("cannot set {} of", name), path);
}

Status remove_attribute(const std::string& path, const char* name) {
  if (::removexattr(path.c_str(), name) == 0 || errno == ENODATA) return {};
  return os::fail_os(errno, fmt::format("cannot remove {} of", name), path);
}

tl::unexpected<Error> fail_in_mount(int code, const std::string& action, const std::string& path,
                                    const std::string& directory) {
  auto failure = os::fail_os(code, action, path);
  if (const auto reason = attribute(directory, "user.varve.error"); reason && *reason && !(*reason)->empty()) {
    failure.value().message += ": " + **reason;
  }
  return failure;
}

Result<os::Descriptor> open_file(const std::string& path, int flags) {
  os::Descriptor file(os::retry([&] { return ::open(path.c_str(), flags | O_CLOEXEC, 0666); }));
  if (file.get() < 0) return os::fail_os(errno, "cannot open", path);
  return file;
}

Result<std::uint64_t> size_of(const os::Descriptor& file, const std::string& path) {
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) return os::fail_os(errno, "cannot look at", path);
  return static_cast<std::uint64_t>(status.st_size);
}

Status read_image(const os::Descriptor& file, const std::string& path, std::uint64_t at, std::span<std::byte> out) {
  while (!out.empty() && file.get() >= 0) {
    const auto got = os::retry([&] { return ::pread(file.get(), out.data(), out.size(), static_cast<off_t>(at)); });
    if (got < 0) return os::fail_os(errno, fmt::format("cannot read at {} of", at), path);
    if (got == 0) break;
    at += static_cast<std::uint64_t>(got);
    out = out.subspan(static_cast<std::size_t>(got));
  }
  std::ranges::fill(out, std::byte{0});
  return {};
}

Status write_at(const os::Descriptor& file, const std::string& path, std::uint64_t at, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const auto put = os::retry([&] { return ::pwrite(file.get(), bytes.data(), bytes.size(), static_cast<off_t>(at)); });
    if (put < 0) return os::fail_os(errno, fmt::format("cannot write at {} of", at), path);
    at += static_cast<std::uint64_t>(put);
    bytes = bytes.subspan(static_cast<std::size_t>(put));
  }
  return {};
}

Result<std::optional<DataExtent>> next_data(const os::Descriptor& file, const std::string& path, std::uint64_t from,
                                            std::uint64_t end) {
  if (from >= end) return std::nullopt;
  const off_t data = ::lseek(file.get(), static_cast<off_t>(from), SEEK_DATA);
  if (data < 0 && errno == ENXIO) return std::nullopt;
  if (data < 0) return os::fail_os(errno, "cannot find data in", path);
  const off_t hole = ::lseek(file.get(), data, SEEK_HOLE);
  if (hole < 0) return os::fail_os(errno, "cannot find holes in", path);
  if (static_cast<std::uint64_t>(data) >= end) return std::nullopt;
  return DataExtent{static_cast<std::uint64_t>(data), std::min(static_cast<std::uint64_t>(hole), end)};
}

}  // namespace varve::cli
