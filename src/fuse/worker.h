// The threads that serve the kernel. Ours instead of libfuse's loop: it reads requests so that the data of a write is
// aligned for O_DIRECT, keeps what libfuse drops (wire.h), and ends by itself, without cancelling threads, when the
// filesystem is unmounted.
#pragma once

#include "libfuse.h"
#include "varve/core/result.h"
#include "varve/os/descriptor.h"

namespace varve::fuse {

/// What the kernel said when the mount began.
struct Negotiated {
  bool parallel_direct_writes = false;
};

/// Serves the first request of a connection, which is INIT, on the session's own descriptor. ENODEV: unmounted before.
[[nodiscard]] Result<Negotiated> serve_init(fuse_session* session);
/// Another descriptor of the session's connection, with a queue of its own for requests that are being answered.
[[nodiscard]] Result<os::Descriptor> clone_device(fuse_session* session);
/// Serves until the filesystem is unmounted.
void serve(fuse_session* session, int device);

}  // namespace varve::fuse
