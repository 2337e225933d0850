// A Storage that is a directory. Every path is resolved below the root's descriptor and without following any link, so
// that neither a link planted in the store nor a renamed parent leads out of it.
#include <dirent.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include <array>
#include <cstdio>
#include <utility>

#include "file.h"
#include "resolve.h"
#include "varve/os/descriptor.h"
#include "varve/os/storage.h"

namespace varve::os {
namespace {

constexpr mode_t kFileMode = 0600;
constexpr mode_t kDirectoryMode = 0700;

FileType type_of(int directory, const dirent& entry) {
  switch (entry.d_type) {
    case DT_REG:
      return FileType::regular;
    case DT_DIR:
      return FileType::directory;
    case DT_UNKNOWN: {  // some filesystems leave the look-up to us
      struct stat status {};
      if (::fstatat(directory, entry.d_name, &status, AT_SYMLINK_NOFOLLOW) != 0) return FileType::other;
      return to_file_status(status).type;
    }
    default:
      return FileType::other;
  }
}

struct CloseDirectory {
  void operator()(DIR* stream) const { ::closedir(stream); }
};

class DirectoryStorage final : public Storage {
 public:
  DirectoryStorage(Descriptor root, std::string name) : root_(std::move(root)), name_(std::move(name)) {}

  Result<std::unique_ptr<File>> open(std::string_view path, OpenMode mode) override {
    VARVE_TRY(check(path, "open"));
    // Not O_TRUNC: nothing may be cut before it is known to be a regular file.
    int flags = (mode.write || mode.create || mode.truncate ? O_RDWR : O_RDONLY) | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY;
    if (mode.create) flags |= O_CREAT;
    if (mode.create && mode.exclusive) flags |= O_EXCL;
    Descriptor file(open_beneath(root_.get(), std::string(path), flags, kFileMode));
    if (file.get() < 0) {
      // EISDIR: a directory opened for writing. ENXIO: a socket, or a device without a driver.
      if (errno == EISDIR || errno == ENXIO) return fail_os(EINVAL, "open (not a regular file)", full(path));
      return fail_os(errno, errno == ELOOP ? "open (there is a symbolic link)" : "open", full(path));
    }
    struct stat status {};
    if (::fstat(file.get(), &status) != 0) return fail_os(errno, "stat", full(path));
    if (!S_ISREG(status.st_mode)) return fail_os(EINVAL, "open (not a regular file)", full(path));
    VARVE_TRY(check_ours(status, path, (flags & O_ACCMODE) != O_RDONLY));
    if (mode.truncate && retry([&] { return ::ftruncate(file.get(), 0); }) != 0) {
      return fail_os(errno, "truncate", full(path));
    }
    return make_file(std::move(file), full(path), mode.direct);
  }

  Result<bool> make_directory(std::string_view path) override {
    VARVE_TRY_ASSIGN(const Place place, find(path, "make directory"));
    if (::mkdirat(place.parent.get(), place.leaf.c_str(), kDirectoryMode) == 0) return true;
    if (errno != EEXIST) return fail_os(errno, "make directory", full(path));
    struct stat status {};
    if (::fstatat(place.parent.get(), place.leaf.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) {
      return fail_os(errno, "stat", full(path));
    }
    if (!S_ISDIR(status.st_mode)) return fail_os(ENOTDIR, "make directory (something else is there)", full(path));
    return false;
  }

  Status remove(std::string_view path) override { return unlink(path, 0, "remove"); }
  Status remove_directory(std::string_view path) override { return unlink(path, AT_REMOVEDIR, "remove directory"); }

  Status rename(std::string_view from, std::string_view to) override {
    VARVE_TRY_ASSIGN(const Place source, find(from, "rename"));
    VARVE_TRY_ASSIGN(const Place target, find(to, "rename"));
    if (::renameat(source.parent.get(), source.leaf.c_str(), target.parent.get(), target.leaf.c_str()) != 0) {
      return fail_os(errno, "rename", full(from) + " to " + full(to));
    }
    return {};
  }

  Status link(std::string_view from, std::string_view to) override {
    VARVE_TRY_ASSIGN(const Place source, find(from, "link"));
    VARVE_TRY_ASSIGN(const Place target, find(to, "link"));
    if (::linkat(source.parent.get(), source.leaf.c_str(), target.parent.get(), target.leaf.c_str(), 0) != 0) {
      return fail_os(errno, "link", full(from) + " to " + full(to));
    }
    return {};
  }

  Result<std::vector<DirectoryEntry>> list(std::string_view path) override {
    VARVE_TRY_ASSIGN(Descriptor directory, open_folder(path, O_RDONLY, "list"));
    std::unique_ptr<DIR, CloseDirectory> stream(::fdopendir(directory.get()));
    if (stream == nullptr) return fail_os(errno, "list", full(path));
    const int fd = directory.release();  // the stream closes it
    std::vector<DirectoryEntry> entries;
    for (;;) {
      errno = 0;
      const dirent* entry = ::readdir(stream.get());
      if (entry == nullptr) break;
      const std::string_view name = entry->d_name;
      if (name == "." || name == "..") continue;
      entries.push_back({std::string(name), type_of(fd, *entry)});
    }
    if (errno != 0) return fail_os(errno, "list", full(path));
    return entries;
  }

  Result<FileStatus> status(std::string_view path) override {
    struct stat status {};
    if (path.empty()) {
      if (::fstat(root_.get(), &status) != 0) return fail_os(errno, "stat", name_);
      return to_file_status(status);
    }
    VARVE_TRY_ASSIGN(const Place place, find(path, "stat"));
    if (::fstatat(place.parent.get(), place.leaf.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) {
      return fail_os(errno, "stat", full(path));
    }
    return to_file_status(status);
  }

  Status sync_directory(std::string_view path) override {
    VARVE_TRY_ASSIGN(const Descriptor directory, open_folder(path, O_RDONLY, "sync directory"));
    if (retry([&] { return ::fsync(directory.get()); }) != 0) return fail_os(errno, "sync directory", full(path));
    return {};
  }

  Result<Capacity> capacity() override {
    struct statvfs answer {};
    if (retry([&] { return ::fstatvfs(root_.get(), &answer); }) != 0) return fail_os(errno, "statfs", name_);
    const auto bytes = [&](fsblkcnt_t blocks) { return ByteCount{std::uint64_t{blocks} * answer.f_frsize}; };
    return Capacity{bytes(answer.f_blocks), bytes(answer.f_bfree), bytes(answer.f_bavail)};
  }

  Result<Identity> identity() override {
    struct statx answer {};
    if (::statx(root_.get(), "", AT_EMPTY_PATH, STATX_INO | STATX_MNT_ID, &answer) != 0) {
      return fail_os(errno, "statx", name_);
    }
    Identity identity;
    VARVE_TRY_ASSIGN(identity.boot_id, boot_id());
    identity.device = (std::uint64_t{answer.stx_dev_major} << 32U) | answer.stx_dev_minor;
    identity.inode = answer.stx_ino;
    identity.mount = answer.stx_mnt_id;
    return identity;
  }

 private:
  /// An entry: its directory, held open, and its name there.
  struct Place {
    Descriptor parent;
    std::string leaf;
  };

  [[nodiscard]] std::string full(std::string_view path) const {
    return path.empty() ? name_ : name_ + "/" + std::string(path);
  }

  Status check(std::string_view path, std::string_view action) const {
    if (!valid_path(path)) return fail_os(EINVAL, action, full(path));
    return {};
  }

  /// Whoever owns a file may write to it, and so may whoever has another name for it: a copy of the store made with
  /// hard links would change along with it.
  Status check_ours(const struct stat& status, std::string_view path, bool for_writing) const {
    if (status.st_uid != ::geteuid()) {
      return fail_refused(EPERM, full(path) + ": belongs to user " + std::to_string(status.st_uid) + ", not to user " +
                                     std::to_string(::geteuid()) + ": chown it if you know where it comes from");
    }
    if (for_writing && status.st_nlink > 1) {
      return fail_refused(EMLINK, full(path) +
                                      ": has another name elsewhere (a hard link), and who uses that would see "
                                      "it change; put a copy in its place");
    }
    return {};
  }

  Result<Descriptor> open_folder(std::string_view path, int flags, std::string_view action) const {
    if (!path.empty()) VARVE_TRY(check(path, action));
    // "." gives an open file description of its own, so that two listings of the root do not share a position.
    // Without O_NOFOLLOW: O_PATH would take it to mean the link itself, and say ENOTDIR instead of ELOOP.
    Descriptor directory(open_beneath(root_.get(), path.empty() ? "." : std::string(path), flags | O_DIRECTORY, 0));
    if (directory.get() < 0) return fail_os(errno, action, full(path));
    return directory;
  }

  Result<Place> find(std::string_view path, std::string_view action) const {
    VARVE_TRY(check(path, action));
    auto parent = open_folder(parent_of(path), O_PATH, action);
    if (!parent) return fail_os(parent.error().code, action, full(path));
    return Place{std::move(*parent), std::string(leaf_of(path))};
  }

  Status unlink(std::string_view path, int flags, std::string_view action) {
    VARVE_TRY_ASSIGN(const Place place, find(path, action));
    if (::unlinkat(place.parent.get(), place.leaf.c_str(), flags) != 0) return fail_os(errno, action, full(path));
    return {};
  }

  static Result<std::string> boot_id() {
    static constexpr char kPath[] = "/proc/sys/kernel/random/boot_id";
    const Descriptor file(::open(kPath, O_RDONLY | O_CLOEXEC));
    if (file.get() < 0) return fail_os(errno, "open", kPath);
    std::array<char, 64> text{};
    const ssize_t n = retry([&] { return ::read(file.get(), text.data(), text.size()); });
    if (n <= 0) return fail_os(n == 0 ? EIO : errno, "read", kPath);
    std::string id(text.data(), static_cast<std::size_t>(n));
    while (!id.empty() && id.back() == '\n') id.pop_back();
    return id;
  }

  Descriptor root_;
  std::string name_;
};

}  // namespace

Result<std::unique_ptr<Storage>> open_directory(const std::string& path) {
  Descriptor root(retry([&] { return ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); }));
  if (root.get() < 0) return fail_os(errno, "open directory", path);
  return std::make_unique<DirectoryStorage>(std::move(root), path);
}

}  // namespace varve::os
