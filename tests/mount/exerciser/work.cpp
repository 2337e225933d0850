#include "work.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "trace.h"

extern char** environ;

namespace exerciser {
namespace {

/// What a thread is at, for the handler of SIGBUS: so a mapping of a dead mount answers.
thread_local unsigned current_thread = 0;
thread_local std::uint64_t current_count = 0;

void on_bus_error(int) { say_failed(current_thread, current_count, EIO, "SIGBUS"); }

struct Free {
  void operator()(std::byte* memory) const { std::free(memory); }
};
using Buffer = std::unique_ptr<std::byte, Free>;

Buffer aligned_buffer(std::uint64_t size) {
  return Buffer(static_cast<std::byte*>(std::aligned_alloc(kBlock, (size + kBlock - 1) / kBlock * kBlock)));
}

class Worker {
 public:
  Worker(const Exercise& exercise, const Target& target, World& world, unsigned thread)
      : exercise_(exercise), target_(target), world_(world), thread_(thread), chooser_(exercise, thread) {
    open_image();
  }

  void run(std::uint64_t operations) {
    current_thread = thread_;
    for (count_ = 0; operations == 0 || count_ < operations; ++count_) {
      current_count = count_;
      operation_ = chooser_.next(world_);
      if (is_barrier(operation_)) say_begun(thread_, count_);
      perform(operation_);
      remember(operation_);
      say_acknowledged(thread_, count_);
    }
  }

 private:
  [[nodiscard]] std::string path(const std::string& name) const { return target_.disk + "/" + name; }
  [[nodiscard]] bool alone() const { return exercise_.threads == 1; }

  /// A transfer that a death cut short counts as failed.
  void check_whole(ssize_t done, std::uint64_t size) const {
    if (done >= 0) errno = EIO;
    check(done == static_cast<ssize_t>(size));
  }

  void check(bool worked) const {
    if (!worked) say_failed(thread_, count_, errno, describe(operation_));
  }

  void open_image() {
    const auto image = path("disk.img");
    buffered_ = ::open(image.c_str(), O_RDWR | O_CLOEXEC);
    direct_ = ::open(image.c_str(), O_RDWR | O_CLOEXEC | O_DIRECT);
    check(buffered_ >= 0 && direct_ >= 0);
  }

  void close_image() const {
    check(::close(buffered_) == 0);
    check(::close(direct_) == 0);
  }

  void perform(const Operation& operation) {
    switch (operation.kind) {
      case Kind::write: return write(operation);
      case Kind::read: return read(operation);
      case Kind::read_mapped: return read_mapped(operation);
      case Kind::truncate: return truncate(operation);
      case Kind::punch: return allocate(operation, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
      case Kind::zero: return allocate(operation, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE);
      case Kind::copy_within: return copy(operation, buffered_);
      case Kind::copy_from: return copy_from(operation);
      case Kind::sync: return check((count_ % 2 == 0 ? ::fsync(buffered_) : ::fdatasync(buffered_)) == 0);
      case Kind::take: return check(::mkdir(path(operation.name).c_str(), 0755) == 0);
      case Kind::remove: return check(::rmdir(path(operation.name).c_str()) == 0);
      case Kind::rename: return check(::rename(path(operation.name).c_str(), path(operation.new_name).c_str()) == 0);
      case Kind::restore: return restore(operation);
    }
  }

  void write(const Operation& operation) const {
    const auto buffer = aligned_buffer(operation.size);
    fill(buffer.get(), operation.seed, operation.at, operation.size);
    const auto put = ::pwrite(operation.direct ? direct_ : buffered_, buffer.get(), operation.size,
                              static_cast<off_t>(operation.at));
    check_whole(put, operation.size);
  }

  void read(const Operation& operation) const {
    const auto buffer = aligned_buffer(operation.size);
    const auto got = ::pread(operation.direct ? direct_ : buffered_, buffer.get(), operation.size,
                             static_cast<off_t>(operation.at));
    check_whole(got, operation.size);
    compare(buffer.get(), operation);
  }

  void read_mapped(const Operation& operation) const {
    const auto begin = operation.at / kBlock * kBlock;
    const auto length = operation.at + operation.size - begin;
    void* memory = ::mmap(nullptr, length, PROT_READ, MAP_SHARED, buffered_, static_cast<off_t>(begin));
    check(memory != MAP_FAILED);
    compare(static_cast<const std::byte*>(memory) + (operation.at - begin), operation);
    ::munmap(memory, length);
  }

  void compare(const std::byte* bytes, const Operation& operation) const {
    if (std::memcmp(bytes, world_.live.bytes.data() + operation.at, operation.size) != 0) {
      say_wrong("operation " + std::to_string(count_) + " of thread " + std::to_string(thread_) + ", " +
                describe(operation) + ": not what was written");
    }
  }

  /// Shrinking is refused while it is open for writing elsewhere, and our other descriptor is elsewhere.
  void truncate(const Operation& operation) {
    close_image();
    buffered_ = ::open(path("disk.img").c_str(), O_RDWR | O_CLOEXEC);
    check(buffered_ >= 0 && ::ftruncate(buffered_, static_cast<off_t>(operation.size)) == 0);
    check(::close(buffered_) == 0);
    open_image();
  }

  void allocate(const Operation& operation, int mode) const {
    check(::fallocate(buffered_, mode, static_cast<off_t>(operation.at), static_cast<off_t>(operation.size)) == 0);
  }

  void copy(const Operation& operation, int source) const {
    auto from = static_cast<off64_t>(operation.from);
    auto to = static_cast<off64_t>(operation.at);
    for (auto left = operation.size; left > 0;) {
      const auto done = ::copy_file_range(source, &from, buffered_, &to, left, 0);
      if (done == 0) errno = EIO;
      check(done > 0);
      left -= static_cast<std::uint64_t>(done);
    }
  }

  void copy_from(const Operation& operation) const {
    const int source = ::open((path(operation.name) + "/disk.img").c_str(), O_RDONLY | O_CLOEXEC);
    check(source >= 0);
    copy(operation, source);
    check(::close(source) == 0);
  }

  /// Refused while the image is open for writing.
  void restore(const Operation& operation) {
    close_image();
    const auto disk = target_.disk.substr(target_.disk.rfind('/') + 1);
    std::string words[] = {target_.varve, "--store", target_.store, "restore", disk + "@" + operation.name};
    char* pointers[] = {words[0].data(), words[1].data(), words[2].data(), words[3].data(), words[4].data(), nullptr};
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, STDERR_FILENO, STDOUT_FILENO);
    pid_t child = 0;
    int status = -1;
    errno = ::posix_spawn(&child, target_.varve.c_str(), &actions, nullptr, pointers, environ);
    posix_spawn_file_actions_destroy(&actions);
    check(errno == 0 && ::waitpid(child, &status, 0) == child);
    errno = EIO;
    check(status == 0);
    open_image();
  }

  void remember(const Operation& operation) {
    // Of several threads' work nobody knows what a snapshot has caught.
    const bool known = alone() && operation.kind == Kind::take;
    apply_to_live(world_.live, world_.snapshots, operation);
    apply_to_snapshots(world_.snapshots, operation, known ? std::make_shared<const Image>(world_.live) : nullptr);
  }

  const Exercise& exercise_;
  const Target& target_;
  World& world_;
  const unsigned thread_;
  Chooser chooser_;
  std::uint64_t count_ = 0;
  Operation operation_;
  int buffered_ = -1;
  int direct_ = -1;
};

}  // namespace

void work(const Exercise& exercise, const Target& target, World world, std::uint64_t operations) {
  std::signal(SIGBUS, on_bus_error);
  std::vector<std::unique_ptr<Worker>> workers;
  for (unsigned i = 0; i < exercise.threads; ++i) {
    workers.push_back(std::make_unique<Worker>(exercise, target, world, i));
  }
  say_ready();
  std::vector<std::thread> threads;
  for (auto& worker : workers) threads.emplace_back([&] { worker->run(operations); });
  for (auto& thread : threads) thread.join();
}

}  // namespace exerciser
