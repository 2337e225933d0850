#include "wire.h"

#include <linux/fuse.h>

#include <cstring>
#include <optional>

namespace varve::fuse {
namespace {

/// The protocol of the first kernel (6.6) in which writes of files opened with FOPEN_DIRECT_IO drop cached pages.
constexpr std::uint32_t kMinorOfSafeDirectWrites = 39;

template <class T>
std::optional<T> read_at(std::span<const std::byte> bytes, std::size_t at) {
  if (bytes.size() < at || bytes.size() - at < sizeof(T)) return std::nullopt;
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof(T));
  return value;
}

void inspect_init(std::span<const std::byte> request, WireRequest& out) {
  out.sort = RequestSort::init;
  // Old kernels send a shorter one; the first four fields are always there.
  constexpr std::size_t kBody = sizeof(fuse_in_header);
  const auto minor = read_at<std::uint32_t>(request, kBody + offsetof(fuse_init_in, minor));
  const auto flags = read_at<std::uint32_t>(request, kBody + offsetof(fuse_init_in, flags));
  out.offers_killpriv_v2 = flags && (*flags & FUSE_HANDLE_KILLPRIV_V2) != 0;
  out.has_parallel_direct_writes = minor && *minor >= kMinorOfSafeDirectWrites;
}

/// An error reply has no body; a first element that is not the header alone is none of libfuse's.
bool is_reply_with_body(std::span<const iovec> reply) {
  if (reply.size() != 2 || reply[0].iov_len != sizeof(fuse_out_header)) return false;
  fuse_out_header header;
  std::memcpy(&header, reply[0].iov_base, sizeof header);
  return header.error == 0 && header.unique != 0;
}

void set_bits(const iovec& body, std::size_t at, std::uint32_t bits) {
  std::uint32_t word;
  std::byte* const place = static_cast<std::byte*>(body.iov_base) + at;
  std::memcpy(&word, place, sizeof word);
  word |= bits;
  std::memcpy(place, &word, sizeof word);
}

}  // namespace

const std::size_t kWriteHeaderSize = sizeof(fuse_in_header) + sizeof(fuse_write_in);

WireRequest inspect_request(std::span<const std::byte> request) {
  WireRequest out;
  const auto header = read_at<fuse_in_header>(request, 0);
  if (!header) return out;
  constexpr std::size_t kBody = sizeof(fuse_in_header);
  const auto flag_is_set = [&](std::size_t at, std::uint32_t flag) {
    const auto flags = read_at<std::uint32_t>(request, kBody + at);
    return flags && (*flags & flag) != 0;
  };
  switch (header->opcode) {
    case FUSE_INIT:
      inspect_init(request, out);
      break;
    case FUSE_WRITE:
      out.kills_privileges = flag_is_set(offsetof(fuse_write_in, write_flags), FUSE_WRITE_KILL_SUIDGID);
      break;
    case FUSE_SETATTR:
      out.kills_privileges = flag_is_set(offsetof(fuse_setattr_in, valid), FATTR_KILL_SUIDGID);
      break;
    case FUSE_OPEN:
      out.kills_privileges = flag_is_set(offsetof(fuse_open_in, open_flags), FUSE_OPEN_KILL_SUIDGID);
      break;
    case FUSE_CREATE:
      out.kills_privileges = flag_is_set(offsetof(fuse_create_in, open_flags), FUSE_OPEN_KILL_SUIDGID);
      break;
    default:
      break;
  }
  return out;
}

bool patch_init_reply(std::span<iovec> reply) {
  if (!is_reply_with_body(reply) || reply[1].iov_len < offsetof(fuse_init_out, flags) + sizeof(std::uint32_t)) {
    return false;
  }
  set_bits(reply[1], offsetof(fuse_init_out, flags), FUSE_HANDLE_KILLPRIV_V2);
  return true;
}

bool patch_open_reply(std::span<iovec> reply) {
  if (!is_reply_with_body(reply)) return false;
  std::size_t at = offsetof(fuse_open_out, open_flags);
  if (reply[1].iov_len == sizeof(fuse_entry_out) + sizeof(fuse_open_out)) {
    at += sizeof(fuse_entry_out);
  } else if (reply[1].iov_len != sizeof(fuse_open_out)) {
    return false;
  }
  set_bits(reply[1], at, FOPEN_PARALLEL_DIRECT_WRITES);
  return true;
}

}  // namespace varve::fuse
