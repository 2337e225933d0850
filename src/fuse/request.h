// One request of the kernel: answered exactly once, from whichever thread has the answer.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>
#include <utility>

#include "libfuse.h"
#include "varve/core/byte_view.h"

namespace varve::fuse {

/// What the thread that serves the kernel knows of the request it is handing to libfuse.
struct Incoming {
  int device = -1;                ///< the descriptor it came from: the kernel takes the answer on no other
  bool kills_privileges = false;  ///< wire.h
  bool is_init = false;
  bool patch_killpriv_v2 = false;  ///< the answer to INIT accepts FUSE_HANDLE_KILLPRIV_V2
};
[[nodiscard]] Incoming& incoming();

/// Makes all answers of `session` go through the descriptor their request came from, patched as the Incoming or the
/// Request says. After the mount, before the first request. False: libfuse refused.
[[nodiscard]] bool route_answers(fuse_session* session);

/// Move-only; dropped without an answer it answers EIO and says so in the log. Nothing that the request stands for
/// (open files, names) may be touched after the answer: the kernel may let go of it at once.
class Request {
 public:
  /// On the thread that serves the kernel, within libfuse's callback.
  explicit Request(fuse_req_t raw) : raw_(raw), incoming_(incoming()) {}
  Request(Request&& other) noexcept : raw_(std::exchange(other.raw_, nullptr)), incoming_(other.incoming_) {}
  Request& operator=(Request&&) = delete;
  ~Request();

  /// Who asks. Only before the answer.
  [[nodiscard]] const fuse_ctx& caller() const { return *fuse_req_ctx(raw_); }
  [[nodiscard]] bool kills_privileges() const { return incoming_.kills_privileges; }
  /// A signal has reached who waits; that it is a deadly one is not known.
  [[nodiscard]] bool interrupted() const { return fuse_req_interrupted(raw_) != 0; }
  /// For libfuse's functions that build an answer.
  [[nodiscard]] fuse_req_t raw() const { return raw_; }

  void done() { fail(0); }
  void fail(int code);  ///< no effect once answered, so that a catch-all may use it
  void entry(const fuse_entry_param& entry);
  /// False: nobody got the answer, and no RELEASE will come for `file`.
  [[nodiscard]] bool created(const fuse_entry_param& entry, const fuse_file_info& file, bool parallel_direct_writes);
  [[nodiscard]] bool opened(const fuse_file_info& file, bool parallel_direct_writes);
  void attributes(const struct stat& status, double timeout);
  void data(std::span<const std::byte> bytes);
  void data(const ByteView& bytes);
  void text(std::string_view bytes) { data(std::as_bytes(std::span(bytes.data(), bytes.size()))); }
  void written(std::size_t count);
  void xattr_size(std::size_t size);
  void filesystem(const struct statvfs& status);
  void position(off_t at);

 private:
  template <class Reply>
  bool answer(Reply reply, bool patch_open = false);

  fuse_req_t raw_;
  Incoming incoming_;
};

}  // namespace varve::fuse
