#include "worker.h"

#include <linux/fuse.h>
#include <sys/ioctl.h>

#include <cstring>
#include <span>

#include "request.h"
#include "varve/core/buffer.h"
#include "varve/core/log.h"
#include "varve/core/units.h"
#include "wire.h"

namespace varve::fuse {
namespace {

/// The most that one request carries; what libfuse 3.14 agrees on with every kernel of the last ten years.
constexpr std::size_t kMaxRequestData = kMiB;
constexpr std::size_t kPage = AlignedBuffer::kAlignment;

/// A buffer that has the data of a write at a page's start.
class RequestBuffer {
 public:
  [[nodiscard]] std::byte* start() { return memory_.data() + kPage - kWriteHeaderSize; }
  [[nodiscard]] std::size_t size() const { return memory_.size() - (kPage - kWriteHeaderSize); }

 private:
  AlignedBuffer memory_{kPage + kMaxRequestData + kPage};
};

/// The size of the next request, 0 when the filesystem is unmounted.
std::size_t read_request(int device, RequestBuffer& buffer) {
  for (;;) {
    const ssize_t size = ::read(device, buffer.start(), buffer.size());
    if (size > 0) return static_cast<std::size_t>(size);
    // ENOENT: whoever asked was killed between the kernel's wake-up and our read.
    if (size < 0 && (errno == EINTR || errno == ENOENT || errno == EAGAIN)) continue;
    if (size < 0 && errno != ENODEV) log::error("reading a request of the kernel: {}", std::strerror(errno));
    return 0;
  }
}

void process(fuse_session* session, std::byte* start, std::size_t size) {
  fuse_buf buffer{};
  buffer.mem = start;
  buffer.size = size;
  fuse_session_process_buf(session, &buffer);
}

}  // namespace

Result<Negotiated> serve_init(fuse_session* session) {
  RequestBuffer buffer;
  const int device = fuse_session_fd(session);
  const std::size_t size = read_request(device, buffer);
  if (size == 0) return fail_refused(ENODEV, "the filesystem was unmounted before it was ready");
  const WireRequest request = inspect_request({buffer.start(), size});
  incoming() = {.device = device,
                .kills_privileges = false,
                .is_init = request.sort == RequestSort::init,
                .patch_killpriv_v2 = request.offers_killpriv_v2};
  process(session, buffer.start(), size);
  incoming() = {};
  return Negotiated{.parallel_direct_writes = request.has_parallel_direct_writes};
}

Result<os::Descriptor> clone_device(fuse_session* session) {
  os::Descriptor device(::open("/dev/fuse", O_RDWR | O_CLOEXEC));
  if (device.get() < 0) return fail_system(errno, "opening /dev/fuse");
  auto master = static_cast<std::uint32_t>(fuse_session_fd(session));
  if (::ioctl(device.get(), FUSE_DEV_IOC_CLONE, &master) != 0) return fail_system(errno, "FUSE_DEV_IOC_CLONE");
  return device;
}

void serve(fuse_session* session, int device) {
  RequestBuffer buffer;
  while (const std::size_t size = read_request(device, buffer)) {
    const WireRequest request = inspect_request({buffer.start(), size});
    incoming() = {
        .device = device, .kills_privileges = request.kills_privileges, .is_init = false, .patch_killpriv_v2 = false};
    process(session, buffer.start(), size);
  }
  incoming() = {};
}

}  // namespace varve::fuse
