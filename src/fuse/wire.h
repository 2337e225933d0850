// What libfuse 3.14 does not pass on of the protocol between kernel and daemon (linux/fuse.h), read from requests and
// patched into replies: FUSE_HANDLE_KILLPRIV_V2, without which every write is preceded by a GETXATTR of
// security.capability, and FOPEN_PARALLEL_DIRECT_WRITES.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>

namespace varve::fuse {

/// What stands before the data of a WRITE: a buffer that is read into at this distance before a page has the data in
/// it at the page's start.
extern const std::size_t kWriteHeaderSize;

enum class RequestSort { init, other };

/// What is to be known of a request besides what libfuse says.
struct WireRequest {
  RequestSort sort = RequestSort::other;
  bool kills_privileges = false;            ///< set-user-ID and set-group-ID go with this write, truncation or open
  bool offers_killpriv_v2 = false;          ///< init only
  bool has_parallel_direct_writes = false;  ///< init only: with these, direct writes invalidate the page cache too
};

/// Any bytes.
[[nodiscard]] WireRequest inspect_request(std::span<const std::byte> request);

/// Sets FUSE_HANDLE_KILLPRIV_V2 in a reply to INIT, given as writev(2) will get it. False: it is not one.
bool patch_init_reply(std::span<iovec> reply);
/// Sets FOPEN_PARALLEL_DIRECT_WRITES in a reply to OPEN or CREATE.
bool patch_open_reply(std::span<iovec> reply);

}  // namespace varve::fuse
