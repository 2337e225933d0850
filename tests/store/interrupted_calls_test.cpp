// Every scene on real files, below which each system call is interrupted once before it does anything, and each read and
// write does but a part of what it was asked: nobody above os notices. (Linked with --wrap for the calls that can.)
#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/types.h>

#include <atomic>

#include "scenes.h"
#include "support/temporary_directory.h"

namespace {

std::atomic<bool> trouble{false};
std::atomic<std::uint64_t> interrupted{0};
std::atomic<std::uint64_t> shortened{0};
thread_local bool was_interrupted = false;

/// Every other call of a thread.
bool interrupts() {
  if (!trouble) return false;
  was_interrupted = !was_interrupted;
  if (!was_interrupted) return false;
  ++interrupted;
  errno = EINTR;
  return true;
}

/// Half of it; of a direct transfer a multiple of its blocks.
std::size_t part_of(int fd, std::size_t count) {
  constexpr std::size_t kBlock = 4096;
  if (!trouble || count < 2) return count;
  std::size_t part = count / 2;
  if ((::fcntl(fd, F_GETFL) & O_DIRECT) != 0) part = part / kBlock * kBlock;
  if (part == 0) return count;
  ++shortened;
  return part;
}

}  // namespace

extern "C" {
ssize_t __real_pread64(int, void*, size_t, off_t);
ssize_t __real_pwrite64(int, const void*, size_t, off_t);
int __real_fdatasync(int);
int __real_fsync(int);
int __real_ftruncate64(int, off_t);
int __real_fallocate64(int, int, off_t, off_t);

ssize_t __wrap_pread64(int fd, void* to, size_t count, off_t at) {
  return interrupts() ? -1 : __real_pread64(fd, to, part_of(fd, count), at);
}
ssize_t __wrap_pwrite64(int fd, const void* from, size_t count, off_t at) {
  return interrupts() ? -1 : __real_pwrite64(fd, from, part_of(fd, count), at);
}
int __wrap_fdatasync(int fd) { return interrupts() ? -1 : __real_fdatasync(fd); }
int __wrap_fsync(int fd) { return interrupts() ? -1 : __real_fsync(fd); }
int __wrap_ftruncate64(int fd, off_t size) { return interrupts() ? -1 : __real_ftruncate64(fd, size); }
int __wrap_fallocate64(int fd, int mode, off_t at, off_t count) {
  return interrupts() ? -1 : __real_fallocate64(fd, mode, at, count);
}
}

namespace varve::store {
namespace {

using test::ModeledStore;

TEST(InterruptedCalls, AndShortReadsAndWritesAreNobodysBusiness) {
  for (const test::Scene& scene : test::chosen_scenes()) {
    SCOPED_TRACE(scene.name);
    test::TemporaryDirectory directory;
    test::Machine memory;
    const auto environment = [&]() -> Environment {
      return {os::open_directory(directory.path()).value(),
              std::make_unique<test::BorrowedVolatileStorage>(memory.memory), chunks::make_memory_locator()};
    };
    InitOptions options;
    options.chunk_size = ByteCount{test::kStoreChunk};
    ASSERT_TRUE(Store::init(*environment().storage, options));
    trouble = true;
    {
      ModeledStore store(environment);
      scene.before(store);
      scene.play(store);
      store.remount();
      store.verify();
      store.work();
      for (const std::string& problem : store.problems()) ADD_FAILURE() << problem;
    }
    trouble = false;
  }
  EXPECT_GT(interrupted, 1000u);
  EXPECT_GT(shortened, 1000u);
}

}  // namespace
}  // namespace varve::store
