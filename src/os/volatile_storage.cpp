// A VolatileStorage that is a directory on tmpfs.
#include <dirent.h>
#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <algorithm>
#include <cstdint>
#include <utility>

#include "varve/core/buffer.h"
#include "varve/core/log.h"
#include "varve/os/descriptor.h"
#include "varve/os/storage.h"

namespace varve::os {
namespace {

constexpr std::size_t kPage = AlignedBuffer::kAlignment;
constexpr mode_t kFileMode = 0600;
constexpr mode_t kDirectoryMode = 0700;

class MappedFile final : public SharedMemory {
 public:
  MappedFile(Descriptor descriptor, std::string name) : descriptor_(std::move(descriptor)), name_(std::move(name)) {}
  ~MappedFile() override { unmap(); }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  /// Maps the file as long as it is; called once before anything else.
  Status map() {
    struct stat status {};
    if (::fstat(fd(), &status) != 0) return fail_os(errno, "stat", name_);
    return map(static_cast<std::size_t>(status.st_size));
  }

  std::span<std::byte> bytes() override { return {data_, size_}; }

  Status reserve(ByteOffset at, ByteCount count) override {
    if (at.value() > size_ || count.value() > size_ - at.value()) return fail_os(EINVAL, "reserve beyond", name_);
    if (count.value() == 0) return {};
    const int answer =
        retry([&] { return ::fallocate(fd(), 0, static_cast<off_t>(at.value()), static_cast<off_t>(count.value())); });
    if (answer != 0) return fail_os(errno, "reserve memory in", name_);
    // A page that is allocated but was never touched counts as a hole in SEEK_DATA: a look makes it data, so that
    // reserved() finds it after a crash. Atomic, since others may be storing into the page by now.
    const std::size_t end = static_cast<std::size_t>(at.value() + count.value());
    for (std::size_t i = static_cast<std::size_t>(at.value()) / kPage * kPage; i < end; i += kPage) {
      __atomic_load_n(reinterpret_cast<unsigned char*>(data_ + i), __ATOMIC_RELAXED);
    }
    return {};
  }

  Result<std::vector<Extent>> reserved() override {
    std::vector<Extent> extents;
    const off_t size = static_cast<off_t>(size_);
    for (off_t at = 0; at < size;) {
      const off_t begin = ::lseek(fd(), at, SEEK_DATA);
      if (begin < 0 && errno == ENXIO) break;
      if (begin < 0) return fail_os(errno, "seek in", name_);
      const off_t end = ::lseek(fd(), begin, SEEK_HOLE);
      if (end < 0) return fail_os(errno, "seek in", name_);
      extents.push_back(
          {ByteOffset{static_cast<std::uint64_t>(begin)}, ByteCount{static_cast<std::uint64_t>(end - begin)}});
      at = end;
    }
    return extents;
  }

  Status resize(ByteCount size) override {
    // The mapping goes first: pages beyond a shrunk file must not stay mapped. On failure the old one comes back.
    const std::size_t before = size_;
    unmap();
    if (retry([&] { return ::ftruncate(fd(), static_cast<off_t>(size.value())); }) != 0) {
      const int code = errno;
      VARVE_TRY(map(before));
      return fail_os(code, "resize", name_);
    }
    return map(static_cast<std::size_t>(size.value()));
  }

 private:
  [[nodiscard]] int fd() const { return descriptor_.get(); }

  Status map(std::size_t size) {
    if (size == 0) return {};  // mmap(2) refuses it
    void* data = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd(), 0);
    if (data == MAP_FAILED) return fail_os(errno, "map", name_);
    data_ = static_cast<std::byte*>(data);
    size_ = size;
    return {};
  }

  void unmap() {
    if (data_ != nullptr) ::munmap(data_, size_);
    data_ = nullptr;
    size_ = 0;
  }

  Descriptor descriptor_;
  std::string name_;
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

struct CloseDirectory {
  void operator()(DIR* stream) const { ::closedir(stream); }
};

/// Without "." and "..", in no order.
Result<std::vector<std::string>> list_names(int folder, const std::string& path) {
  Descriptor directory(::openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (directory.get() < 0) return fail_os(errno, "list", path);
  std::unique_ptr<DIR, CloseDirectory> stream(::fdopendir(directory.get()));
  if (stream == nullptr) return fail_os(errno, "list", path);
  static_cast<void>(directory.release());  // the stream closes it
  std::vector<std::string> names;
  for (;;) {
    errno = 0;
    const dirent* entry = ::readdir(stream.get());
    if (entry == nullptr) break;
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
  }
  if (errno != 0) return fail_os(errno, "list", path);
  return names;
}

class TmpfsDirectory final : public VolatileStorage {
 public:
  TmpfsDirectory(Descriptor directory, std::string name) : directory_(std::move(directory)), name_(std::move(name)) {}

  Result<std::unique_ptr<SharedMemory>> open(std::string_view name, ByteCount size) override {
    VARVE_TRY_ASSIGN(Descriptor file, open_file(name, O_CREAT));
    struct stat status {};
    if (::fstat(file.get(), &status) != 0) return fail_os(errno, "stat", full(name));
    if (status.st_size == 0 && retry([&] { return ::ftruncate(file.get(), static_cast<off_t>(size.value())); }) != 0) {
      return fail_os(errno, "resize", full(name));
    }
    return map(std::move(file), name);
  }

  Result<std::unique_ptr<SharedMemory>> open_existing(std::string_view name) override {
    VARVE_TRY_ASSIGN(Descriptor file, open_file(name, 0));
    return map(std::move(file), name);
  }

  Result<std::vector<std::string>> list() override { return list_names(directory_.get(), name_); }

  Status remove(std::string_view name) override {
    VARVE_TRY(check(name));
    if (::unlinkat(directory_.get(), std::string(name).c_str(), 0) != 0) return fail_os(errno, "remove", full(name));
    return {};
  }

  Status rename(std::string_view from, std::string_view to) override {
    VARVE_TRY(check(from));
    VARVE_TRY(check(to));
    const int fd = directory_.get();
    if (::renameat(fd, std::string(from).c_str(), fd, std::string(to).c_str()) != 0) {
      return fail_os(errno, "rename", full(from) + " to " + full(to));
    }
    return {};
  }

 private:
  [[nodiscard]] std::string full(std::string_view name) const { return name_ + "/" + std::string(name); }

  Status check(std::string_view name) const {
    if (!valid_path(name) || name.find('/') != std::string_view::npos) return fail_os(EINVAL, "open", full(name));
    return {};
  }

  Result<Descriptor> open_file(std::string_view name, int more) const {
    VARVE_TRY(check(name));
    const int flags = O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC | more;
    Descriptor file(retry([&] { return ::openat(directory_.get(), std::string(name).c_str(), flags, kFileMode); }));
    if (file.get() < 0) {
      if (errno == EISDIR || errno == ENXIO) return fail_os(EINVAL, "open (not a regular file)", full(name));
      return fail_os(errno, errno == ELOOP ? "open (there is a symbolic link)" : "open", full(name));
    }
    struct stat status {};
    if (::fstat(file.get(), &status) != 0) return fail_os(errno, "stat", full(name));
    if (!S_ISREG(status.st_mode)) return fail_os(EINVAL, "open (not a regular file)", full(name));
    return file;
  }

  Result<std::unique_ptr<SharedMemory>> map(Descriptor file, std::string_view name) const {
    auto memory = std::make_unique<MappedFile>(std::move(file), full(name));
    VARVE_TRY(memory->map());
    return memory;
  }

  Descriptor directory_;
  std::string name_;
};

Result<bool> is_memory_filesystem(int fd, const std::string& path) {
  struct statfs answer {};
  if (retry([&] { return ::fstatfs(fd, &answer); }) != 0) return fail_os(errno, "statfs", path);
  // Not ramfs: it has no limit, so that reserving there promises nothing.
  return static_cast<std::uint64_t>(answer.f_type) == std::uint64_t{TMPFS_MAGIC};
}

/// Others could otherwise put their own change maps in ours' stead.
Status check_private(int fd, const std::string& path) {
  struct stat status {};
  if (::fstat(fd, &status) != 0) return fail_os(errno, "stat", path);
  if (status.st_uid != ::geteuid()) {
    return fail_refused(EPERM, path + " belongs to user " + std::to_string(status.st_uid) + ": remove it");
  }
  if ((status.st_mode & 0022U) != 0) return fail_refused(EPERM, path + " may be written by others: chmod 0700 it");
  return {};
}

Result<Descriptor> open_folder(int parent, const std::string& name, const std::string& path) {
  Descriptor directory(::openat(parent, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (directory.get() < 0) return fail_os(errno, "open directory", path);
  return directory;
}

Result<Descriptor> make_folder(int parent, const std::string& name, const std::string& path) {
  if (::mkdirat(parent, name.c_str(), kDirectoryMode) != 0 && errno != EEXIST) {
    return fail_os(errno, "make directory", path);
  }
  VARVE_TRY_ASSIGN(Descriptor directory, open_folder(parent, name, path));
  VARVE_TRY(check_private(directory.get(), path));
  return directory;
}

/// Names in /dev/shm that begin so, in order.
Result<std::vector<std::string>> names_with_prefix(int folder, std::string_view prefix, const std::string& path) {
  VARVE_TRY_ASSIGN(auto names, list_names(folder, path));
  std::erase_if(names, [&](const std::string& name) { return !name.starts_with(prefix); });
  std::sort(names.begin(), names.end());
  return names;
}

/// A folder of this user in /dev/shm, where anybody may make one of any name before: what is not ours is passed over,
/// and another name taken, which the next mount finds again because it is ours.
Result<std::pair<Descriptor, std::string>> own_folder_in(int shm, const std::string& shm_path) {
  const std::string name = fmt::format("varve-{}", ::geteuid());
  VARVE_TRY_ASSIGN(const auto candidates, names_with_prefix(shm, name, shm_path));
  for (const std::string& candidate : candidates) {
    if (candidate != name && !candidate.starts_with(name + "-")) continue;
    const std::string path = shm_path + "/" + candidate;
    struct stat status {};
    if (::fstatat(shm, candidate.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) continue;
    if (!S_ISDIR(status.st_mode) || status.st_uid != ::geteuid()) {
      log::warning("{} belongs to user {} and is not used", path, status.st_uid);
      continue;
    }
    VARVE_TRY_ASSIGN(Descriptor folder, make_folder(shm, candidate, path));
    return std::pair{std::move(folder), path};
  }
  const bool taken = std::binary_search(candidates.begin(), candidates.end(), name);
  const std::string chosen = taken ? name + "-" + temporary_name().substr(kTemporaryPrefix.size()) : name;
  VARVE_TRY_ASSIGN(Descriptor folder, make_folder(shm, chosen, shm_path + "/" + chosen));
  return std::pair{std::move(folder), shm_path + "/" + chosen};
}

/// An ordinary user cannot write to /run, and /run/user/UID goes with the last session.
Result<std::pair<Descriptor, std::string>> choose_base() {
  if (::geteuid() == 0) {
    VARVE_TRY_ASSIGN(Descriptor run, open_folder(AT_FDCWD, "/run", "/run"));
    VARVE_TRY_ASSIGN(const bool memory, is_memory_filesystem(run.get(), "/run"));
    if (memory) {
      VARVE_TRY_ASSIGN(Descriptor base, make_folder(run.get(), "varve", "/run/varve"));
      return std::pair{std::move(base), std::string("/run/varve")};
    }
  }
  VARVE_TRY_ASSIGN(const Descriptor shm, open_folder(AT_FDCWD, "/dev/shm", "/dev/shm"));
  return own_folder_in(shm.get(), "/dev/shm");
}

Result<std::unique_ptr<VolatileStorage>> wrap(Descriptor directory, std::string path) {
  VARVE_TRY_ASSIGN(const bool memory, is_memory_filesystem(directory.get(), path));
  if (!memory) return fail_refused(ENODEV, path + " is not on tmpfs: change maps must live in memory");
  VARVE_TRY(check_private(directory.get(), path));
  return std::make_unique<TmpfsDirectory>(std::move(directory), std::move(path));
}

}  // namespace

Result<std::unique_ptr<VolatileStorage>> open_volatile(std::string_view store_id) {
  if (!valid_path(store_id) || store_id.find('/') != std::string_view::npos) {
    return fail_refused(EINVAL, "not a store id: " + std::string(store_id));
  }
  VARVE_TRY_ASSIGN(auto base, choose_base());
  const std::string path = base.second + "/" + std::string(store_id);
  VARVE_TRY_ASSIGN(Descriptor directory, make_folder(base.first.get(), std::string(store_id), path));
  return wrap(std::move(directory), path);
}

Result<std::unique_ptr<VolatileStorage>> open_volatile_directory(const std::string& path) {
  VARVE_TRY_ASSIGN(Descriptor directory, open_folder(AT_FDCWD, path, path));
  return wrap(std::move(directory), path);
}

}  // namespace varve::os
