#include "request.h"

#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cassert>
#include <cerrno>

#include "varve/core/log.h"
#include "wire.h"

namespace varve::fuse {
namespace {

/// Where an answer that is being written goes: set around each, because the thread that answers need not be the one
/// that read the request.
struct Outgoing {
  int device = -1;
  bool patch_open = false;
};
thread_local Outgoing outgoing;

ssize_t write_answer(int fallback, iovec* parts, int count, void*) {
  const std::span reply(parts, static_cast<std::size_t>(count));
  if (outgoing.patch_open) patch_open_reply(reply);
  if (incoming().is_init && incoming().patch_killpriv_v2) patch_init_reply(reply);
  // libfuse itself answers what we have no function for, on the thread that read it; notifications use the fallback.
  int device = outgoing.device;
  if (device < 0) device = incoming().device;
  if (device < 0) device = fallback;
  return ::writev(device, parts, count);
}

ssize_t read_request(int fd, void* buffer, std::size_t size, void*) {
  return ::read(fd, buffer, size);
}

}  // namespace

Incoming& incoming() {
  static thread_local Incoming instance;
  return instance;
}

bool route_answers(fuse_session* session) {
  fuse_custom_io io{};
  io.writev = write_answer;
  io.read = read_request;
  return fuse_session_custom_io(session, &io, fuse_session_fd(session)) == 0;
}

Request::~Request() {
  if (raw_ == nullptr) return;
  log::error("a request of the kernel was dropped without an answer and fails with EIO; this is a bug");
  fail(EIO);
}

template <class Reply>
bool Request::answer(Reply reply, bool patch_open) {
  assert(raw_ != nullptr);
  const fuse_req_t raw = std::exchange(raw_, nullptr);
  outgoing = {.device = incoming_.device, .patch_open = patch_open};
  // It fails when who asked was interrupted or the mount is gone: nobody is left to tell.
  const bool delivered = reply(raw) == 0;
  outgoing = {};
  return delivered;
}

void Request::fail(int code) {
  if (raw_ == nullptr) return;
  answer([&](fuse_req_t raw) { return fuse_reply_err(raw, code); });
}

void Request::entry(const fuse_entry_param& entry) {
  answer([&](fuse_req_t raw) { return fuse_reply_entry(raw, &entry); });
}

bool Request::created(const fuse_entry_param& entry, const fuse_file_info& file, bool parallel_direct_writes) {
  return answer([&](fuse_req_t raw) { return fuse_reply_create(raw, &entry, &file); }, parallel_direct_writes);
}

bool Request::opened(const fuse_file_info& file, bool parallel_direct_writes) {
  return answer([&](fuse_req_t raw) { return fuse_reply_open(raw, &file); }, parallel_direct_writes);
}

void Request::attributes(const struct stat& status, double timeout) {
  answer([&](fuse_req_t raw) { return fuse_reply_attr(raw, &status, timeout); });
}

void Request::data(std::span<const std::byte> bytes) {
  answer(
      [&](fuse_req_t raw) { return fuse_reply_buf(raw, reinterpret_cast<const char*>(bytes.data()), bytes.size()); });
}

void Request::data(const ByteView& bytes) {
  std::vector<iovec> parts;
  parts.reserve(bytes.pieces().size());
  for (const auto piece : bytes.pieces()) parts.push_back({const_cast<std::byte*>(piece.data()), piece.size()});
  answer([&](fuse_req_t raw) { return fuse_reply_iov(raw, parts.data(), static_cast<int>(parts.size())); });
}

void Request::written(std::size_t count) {
  answer([&](fuse_req_t raw) { return fuse_reply_write(raw, count); });
}

void Request::xattr_size(std::size_t size) {
  answer([&](fuse_req_t raw) { return fuse_reply_xattr(raw, size); });
}

void Request::filesystem(const struct statvfs& status) {
  answer([&](fuse_req_t raw) { return fuse_reply_statfs(raw, &status); });
}

void Request::position(off_t at) {
  answer([&](fuse_req_t raw) { return fuse_reply_lseek(raw, at); });
}

}  // namespace varve::fuse
