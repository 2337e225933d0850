#include "file.h"

#include <linux/falloc.h>
#include <sys/file.h>

#include <array>
#include <cstdint>
#include <limits>
#include <utility>

#include "varve/core/buffer.h"

namespace varve::os {
namespace {

constexpr std::uint64_t kLargestOffset = static_cast<std::uint64_t>(std::numeric_limits<off_t>::max());
/// st_blocks counts in these, whatever the filesystem's block is.
constexpr std::uint64_t kStatBlock = 512;

bool addressable(ByteOffset at, std::uint64_t count) {
  return at.value() <= kLargestOffset && count <= kLargestOffset - at.value();
}

off_t to_off(std::uint64_t value) {
  return static_cast<off_t>(value);
}

class DescriptorFile final : public File {
 public:
  DescriptorFile(Descriptor descriptor, std::string name, std::size_t alignment)
      : descriptor_(std::move(descriptor)), name_(std::move(name)), alignment_(alignment) {}

  Result<std::size_t> read(ByteOffset at, std::span<std::byte> out) const override {
    if (!addressable(at, out.size())) return fail_os(EFBIG, "read", name_);
    std::size_t done = 0;
    while (done < out.size()) {
      const auto rest = out.subspan(done);
      const ssize_t n = retry([&] { return ::pread(fd(), rest.data(), rest.size(), to_off(at.value() + done)); });
      if (n < 0) return fail_os(errno, "read", name_);
      done += static_cast<std::size_t>(n);
      // A direct read that stops off the grid met the end of the file; to ask again from there would be EINVAL.
      if (n == 0 || done % alignment_ != 0) break;
    }
    return done;
  }

  void expect(ByteOffset at, ByteCount count) const override {
    static_cast<void>(::posix_fadvise(fd(), static_cast<off_t>(at.value()), static_cast<off_t>(count.value()),
                                      POSIX_FADV_WILLNEED));
  }
  Status write(ByteOffset at, std::span<const std::byte> bytes) override {
    if (!addressable(at, bytes.size())) return fail_os(EFBIG, "write", name_);
    std::size_t done = 0;
    while (done < bytes.size()) {
      const auto rest = bytes.subspan(done);
      const ssize_t n = retry([&] { return ::pwrite(fd(), rest.data(), rest.size(), to_off(at.value() + done)); });
      if (n < 0) return fail_os(errno, "write", name_);
      if (n == 0) return fail_os(EIO, "write (nothing was taken)", name_);
      done += static_cast<std::size_t>(n);
    }
    return {};
  }

  Status sync_data() override {
    return checked(retry([&] { return ::fdatasync(fd()); }), "sync");
  }

  Status resize(ByteCount size) override {
    if (size.value() > kLargestOffset) return fail_os(EFBIG, "resize", name_);
    return checked(retry([&] { return ::ftruncate(fd(), to_off(size.value())); }), "resize");
  }

  Status punch(ByteOffset at, ByteCount count) override {
    return allocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, count, "free a range of");
  }

  Result<ByteOffset> next_data(ByteOffset at) const override {
    if (!addressable(at, 0)) return ByteOffset{std::numeric_limits<std::uint64_t>::max()};
    const off_t found = ::lseek(fd(), to_off(at.value()), SEEK_DATA);
    if (found >= 0) return ByteOffset{static_cast<std::uint64_t>(found)};
    if (errno == ENXIO) return ByteOffset{std::numeric_limits<std::uint64_t>::max()};
    if (errno == EINVAL) return at;  // unknown here
    return fail_os(errno, "seek in", name_);
  }

  Status preallocate(ByteOffset at, ByteCount count) override { return allocate(0, at, count, "reserve space in"); }

  Result<FileStatus> status() const override {
    struct stat status {};
    if (::fstat(fd(), &status) != 0) return fail_os(errno, "stat", name_);
    return to_file_status(status);
  }

  std::size_t alignment() const override { return alignment_; }

  Status set_modified(Time time) override {
    timespec access{};
    access.tv_nsec = UTIME_OMIT;
    const std::array<timespec, 2> times{access, time.to_timespec()};
    return checked(::futimens(fd(), times.data()), "set the time of");
  }

  Result<bool> try_lock() override {
    if (retry([&] { return ::flock(fd(), LOCK_EX | LOCK_NB); }) == 0) return true;
    if (errno == EWOULDBLOCK) return false;
    return fail_os(errno, "lock", name_);
  }

 private:
  [[nodiscard]] int fd() const { return descriptor_.get(); }

  Status checked(int answer, std::string_view action) const {
    if (answer != 0) return fail_os(errno, action, name_);
    return {};
  }

  Status allocate(int mode, ByteOffset at, ByteCount count, std::string_view action) {
    if (count.value() == 0) return {};  // fallocate(2) takes it for a mistake
    if (!addressable(at, count.value())) return fail_os(EFBIG, action, name_);
    return checked(retry([&] { return ::fallocate(fd(), mode, to_off(at.value()), to_off(count.value())); }), action);
  }

  Descriptor descriptor_;
  std::string name_;
  std::size_t alignment_;
};

/// Whether the filesystem promises O_DIRECT with our alignment, by its own words where it has any (statx since
/// Linux 6.1), else by trying.
bool direct_works(int fd) {
#ifdef STATX_DIOALIGN
  struct statx answer {};
  if (::statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &answer) == 0 && (answer.stx_mask & STATX_DIOALIGN) != 0) {
    return answer.stx_dio_offset_align != 0 && answer.stx_dio_offset_align <= AlignedBuffer::kAlignment &&
           answer.stx_dio_mem_align <= AlignedBuffer::kAlignment;
  }
#endif
  AlignedBuffer buffer(AlignedBuffer::kAlignment);
  return retry([&] { return ::pread(fd, buffer.data(), buffer.size(), 0); }) >= 0;
}

/// Clears O_NONBLOCK, which only kept the open from waiting, and sets O_DIRECT when it can be had.
Result<std::size_t> set_flags(int fd, const std::string& name, bool direct) {
  if (direct && ::fcntl(fd, F_SETFL, O_DIRECT) == 0) {
    if (direct_works(fd)) return AlignedBuffer::kAlignment;
  }
  if (::fcntl(fd, F_SETFL, 0) != 0) return fail_os(errno, "set the flags of", name);
  return 1;
}

}  // namespace

FileStatus to_file_status(const struct stat& status) {
  FileStatus out;
  out.type = S_ISREG(status.st_mode)   ? FileType::regular
             : S_ISDIR(status.st_mode) ? FileType::directory
                                       : FileType::other;
  out.size = ByteCount{static_cast<std::uint64_t>(status.st_size)};
  out.allocated = ByteCount{static_cast<std::uint64_t>(status.st_blocks) * kStatBlock};
  out.owner = status.st_uid;
  out.mode = status.st_mode & 07777U;
  out.modified = Time::from_timespec(status.st_mtim);
  return out;
}

Result<std::unique_ptr<File>> make_file(Descriptor descriptor, std::string name, bool direct) {
  VARVE_TRY_ASSIGN(const std::size_t alignment, set_flags(descriptor.get(), name, direct));
  return std::make_unique<DescriptorFile>(std::move(descriptor), std::move(name), alignment);
}

}  // namespace varve::os
