// Owning file descriptors, retrying interrupted calls and saying what failed: the manners of all files here.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <string_view>
#include <utility>

#include "varve/core/result.h"

namespace varve::os {

class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  [[nodiscard]] int get() const { return fd_; }
  /// The caller owns it now.
  [[nodiscard]] int release() { return std::exchange(fd_, -1); }

 private:
  int fd_ = -1;
};

/// Repeats a system call that answers -1 with EINTR.
template <class Call>
auto retry(Call&& call) {
  for (;;) {
    const auto answer = call();
    if (answer != -1 || errno != EINTR) return answer;
  }
}

/// "action where: strerror"; ENOENT has the kind `absent`.
[[nodiscard]] inline tl::unexpected<Error> fail_os(int code, std::string_view action, std::string_view where) {
  auto failure = fail_system(code, std::string(action) + " " + std::string(where));
  if (code == ENOENT) failure.value().kind = ErrorKind::absent;
  return failure;
}

}  // namespace varve::os
