// The limit of a libfuse daemon: one file, handed through, and nothing else. What speed.py holds the live image against.
//
//   passthrough FILE MOUNTPOINT [direct]      MOUNTPOINT/disk.img is FILE; `direct`: FILE is opened O_DIRECT
#define FUSE_USE_VERSION 312
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

constexpr fuse_ino_t kImage = 2;
constexpr const char* kName = "disk.img";
constexpr double kForEver = 86400;
constexpr std::size_t kAlignment = 4096;

int backing = -1;
bool direct = false;

struct stat attributes(fuse_ino_t ino) {
  struct stat result {};
  if (ino == kImage) {
    ::fstat(backing, &result);
  } else {
    result.st_mode = S_IFDIR | 0755;
    result.st_nlink = 2;
  }
  result.st_ino = ino;
  return result;
}

void init(void*, fuse_conn_info* connection) {
  connection->want &= ~static_cast<unsigned>(FUSE_CAP_AUTO_INVAL_DATA);
  if (direct) connection->want &= ~static_cast<unsigned>(FUSE_CAP_SPLICE_READ);
}

void lookup(fuse_req_t request, fuse_ino_t, const char* name) {
  if (std::strcmp(name, kName) != 0) {
    fuse_reply_err(request, ENOENT);
    return;
  }
  fuse_entry_param entry{};
  entry.ino = kImage;
  entry.attr = attributes(kImage);
  entry.attr_timeout = entry.entry_timeout = kForEver;
  fuse_reply_entry(request, &entry);
}

void getattr(fuse_req_t request, fuse_ino_t ino, fuse_file_info*) {
  const auto result = attributes(ino);
  fuse_reply_attr(request, &result, kForEver);
}

void open(fuse_req_t request, fuse_ino_t, fuse_file_info* file) {
  file->keep_cache = 1;
  fuse_reply_open(request, file);
}

void read(fuse_req_t request, fuse_ino_t, std::size_t size, off_t at, fuse_file_info*) {
  if (!direct) {
    fuse_bufvec bytes = FUSE_BUFVEC_INIT(size);
    bytes.buf[0].flags = static_cast<fuse_buf_flags>(FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK);
    bytes.buf[0].fd = backing;
    bytes.buf[0].pos = at;
    fuse_reply_data(request, &bytes, FUSE_BUF_SPLICE_MOVE);
    return;
  }
  void* buffer = std::aligned_alloc(kAlignment, (size + kAlignment - 1) / kAlignment * kAlignment);
  const ssize_t got = ::pread(backing, buffer, size, at);
  if (got < 0) {
    fuse_reply_err(request, errno);
  } else {
    fuse_reply_buf(request, static_cast<const char*>(buffer), static_cast<std::size_t>(got));
  }
  std::free(buffer);
}

void write_buf(fuse_req_t request, fuse_ino_t, fuse_bufvec* in, off_t at, fuse_file_info*) {
  const std::size_t size = fuse_buf_size(in);
  ssize_t done = 0;
  if (direct) {
    void* buffer = std::aligned_alloc(kAlignment, (size + kAlignment - 1) / kAlignment * kAlignment);
    fuse_bufvec out = FUSE_BUFVEC_INIT(size);
    out.buf[0].mem = buffer;
    done = fuse_buf_copy(&out, in, static_cast<fuse_buf_copy_flags>(0));
    if (done >= 0) done = ::pwrite(backing, buffer, size, at);
    if (done < 0) done = -errno;
    std::free(buffer);
  } else {
    fuse_bufvec out = FUSE_BUFVEC_INIT(size);
    out.buf[0].flags = static_cast<fuse_buf_flags>(FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK);
    out.buf[0].fd = backing;
    out.buf[0].pos = at;
    done = fuse_buf_copy(&out, in, static_cast<fuse_buf_copy_flags>(0));
  }
  if (done < 0) {
    fuse_reply_err(request, static_cast<int>(-done));
  } else {
    fuse_reply_write(request, static_cast<std::size_t>(done));
  }
}

void fsync(fuse_req_t request, fuse_ino_t, int, fuse_file_info*) {
  fuse_reply_err(request, ::fdatasync(backing) == 0 ? 0 : errno);
}

}  // namespace

int main(int count, char** words) {
  if (count < 3) {
    std::fprintf(stderr, "usage: passthrough FILE MOUNTPOINT [direct]\n");
    return 2;
  }
  direct = count > 3;
  backing = ::open(words[1], O_RDWR | O_CLOEXEC | (direct ? O_DIRECT : 0));
  if (backing < 0) {
    std::perror(words[1]);
    return 1;
  }
  fuse_lowlevel_ops operations{};
  operations.init = init;
  operations.lookup = lookup;
  operations.getattr = getattr;
  operations.open = open;
  operations.read = read;
  operations.write_buf = write_buf;
  operations.fsync = fsync;
  char* options[] = {words[0], nullptr};
  fuse_args arguments = FUSE_ARGS_INIT(1, options);
  fuse_session* session = fuse_session_new(&arguments, &operations, sizeof operations, nullptr);
  if (session == nullptr || fuse_set_signal_handlers(session) != 0 || fuse_session_mount(session, words[2]) != 0) {
    return 1;
  }
  fuse_loop_config* config = fuse_loop_cfg_create();
  fuse_loop_cfg_set_clone_fd(config, 1);
  fuse_loop_cfg_set_idle_threads(config, 16);
  fuse_loop_cfg_set_max_threads(config, 16);
  const int ended = fuse_session_loop_mt(session, config);
  fuse_loop_cfg_destroy(config);
  fuse_session_unmount(session);
  fuse_remove_signal_handlers(session);
  fuse_session_destroy(session);
  return ended == 0 ? 0 : 1;
}
