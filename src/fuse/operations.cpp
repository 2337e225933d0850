// libfuse's functions: arguments decoded, exceptions stopped.
#include <exception>
#include <new>
#include <span>

#include "filesystem.h"
#include "varve/core/log.h"

namespace varve::fuse {
namespace {

Filesystem& filesystem_of(fuse_req_t raw) {
  return *static_cast<Filesystem*>(fuse_req_userdata(raw));
}

/// Calls `body(filesystem, request)`, which answers the request or passes it on. A request that an exception leaves
/// behind unanswered answers EIO by itself.
template <class Body>
void guarded(fuse_req_t raw, Body body) noexcept {
  try {
    body(filesystem_of(raw), Request(raw));
  } catch (const std::exception& exception) {
    log::error("a request of the kernel was abandoned: {}", exception.what());
  }
}

ByteOffset offset(off_t at) {
  return ByteOffset{static_cast<std::uint64_t>(at)};
}

void init(void*, fuse_conn_info* connection) {
  // Behind DESIGN.md 6a. What is not named stays as libfuse has it for this kernel.
  constexpr unsigned kMaxBackground = 512;  // well above the readahead in flight
  constexpr unsigned kCongestion = 384;
  constexpr unsigned kUnwanted = FUSE_CAP_AUTO_INVAL_DATA | FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE |
                                 FUSE_CAP_SPLICE_MOVE | FUSE_CAP_WRITEBACK_CACHE | FUSE_CAP_HANDLE_KILLPRIV;
  constexpr unsigned kWanted = FUSE_CAP_ATOMIC_O_TRUNC | FUSE_CAP_EXPLICIT_INVAL_DATA | FUSE_CAP_ASYNC_READ |
                               FUSE_CAP_ASYNC_DIO | FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_READDIRPLUS |
                               FUSE_CAP_READDIRPLUS_AUTO;
  connection->want = (connection->want & ~kUnwanted) | (connection->capable & kWanted);
  connection->max_background = kMaxBackground;
  connection->congestion_threshold = kCongestion;
}

void lookup(fuse_req_t raw, fuse_ino_t parent, const char* name) {
  guarded(raw, [&](Filesystem& fs, Request request) { fs.lookup(std::move(request), parent, name); });
}

void forget(fuse_req_t raw, fuse_ino_t, std::uint64_t) {
  fuse_reply_none(raw);  // inode numbers say all by themselves
}

void forget_multi(fuse_req_t raw, std::size_t, fuse_forget_data*) {
  fuse_reply_none(raw);
}

void getattr(fuse_req_t raw, fuse_ino_t ino, fuse_file_info*) {
  guarded(raw, [&](Filesystem& fs, Request request) { fs.get_attributes(std::move(request), ino); });
}

void setattr(fuse_req_t raw, fuse_ino_t ino, struct stat* wanted, int which, fuse_file_info* info) {
  guarded(raw,
          [&](Filesystem& fs, Request request) { fs.set_attributes(std::move(request), ino, *wanted, which, info); });
}

void mknod(fuse_req_t raw, fuse_ino_t parent, const char* name, mode_t mode, dev_t) {
  guarded(raw, [&](Filesystem& fs, Request request) { fs.make_node(std::move(request), parent, name, mode); });
}

void mkdir(fuse_req_t raw, fuse_ino_t parent, const char* name, mode_t mode) {
  guarded(raw, [&](Filesystem& fs, Request request) { fs.make_directory(std::move(request), parent, name, mode); });
}

void unlink(fuse_req_t raw, fuse_ino_t parent, const char* name) {
  guarded(raw, [&](Filesystem& fs, Request request) { fs.remove(std::move(request), parent, name, false); });
}

void rmdir(fuse_req_t raw, fuse_ino_t parent, const char* name) {
  guarded(raw, [&](Filesystem& fs, Request request) { fs.remove(std::move(request), parent, name, true); });
}

void symlink(fuse_req_t raw, const char*, fuse_ino_t parent, const char*) {
  guarded(raw, [&](Filesystem& fs, Request request) { fs.refuse_link(std::move(request), parent); });
}

void link(fuse_req_t raw, fuse_ino_t, fuse_ino_t parent, const char*) {
  guarded(raw, [&](Filesystem& fs, Request request) { fs.refuse_link(std::move(request), parent); });
}

void rename(fuse_req_t raw, fuse_ino_t parent, const char* name, fuse_ino_t new_parent, const char* new_name,
            unsigned flags) {
  guarded(raw, [&](Filesystem& fs, Request request) {
    fs.rename(std::move(request), parent, name, new_parent, new_name, flags);
  });
}

void create(fuse_req_t raw, fuse_ino_t parent, const char* name, mode_t mode, fuse_file_info* info) {
  guarded(raw, [&](Filesystem& fs, Request request) { fs.create(std::move(request), parent, name, mode, *info); });
}

void open(fuse_req_t raw, fuse_ino_t ino, fuse_file_info* info) {
  guarded(raw, [&](Filesystem& fs, Request request) { fs.open(std::move(request), ino, *info); });
}

void read(fuse_req_t raw, fuse_ino_t, std::size_t size, off_t at, fuse_file_info* info) {
  guarded(raw, [&](Filesystem& fs, Request request) { fs.read(std::move(request), *info, size, offset(at)); });
}

void write(fuse_req_t raw, fuse_ino_t, const char* data, std::size_t size, off_t at, fuse_file_info* info) {
  guarded(raw, [&](Filesystem& fs, Request request) {
    fs.write(std::move(request), *info, std::as_bytes(std::span(data, size)), offset(at));
  });
}

void release(fuse_req_t raw, fuse_ino_t, fuse_file_info* info) {
  guarded(raw, [&](Filesystem& fs, Request request) { fs.release(std::move(request), *info); });
}

void fsync(fuse_req_t raw, fuse_ino_t, int, fuse_file_info* info) {
  guarded(raw, [&](Filesystem& fs, Request request) { fs.flush_to_disk(std::move(request), *info); });
}

void fsyncdir(fuse_req_t raw, fuse_ino_t, int, fuse_file_info*) {
  fuse_reply_err(raw, 0);  // what makes, renames and removes names is durable when it returns
}

void opendir(fuse_req_t raw, fuse_ino_t ino, fuse_file_info* info) {
  guarded(raw, [&](Filesystem& fs, Request request) { fs.open_directory(std::move(request), ino, *info); });
}

void readdir(fuse_req_t raw, fuse_ino_t, std::size_t size, off_t at, fuse_file_info* info) {
  guarded(raw, [&](Filesystem& fs, Request request) { fs.read_directory(std::move(request), *info, size, at, false); });
}

void readdirplus(fuse_req_t raw, fuse_ino_t, std::size_t size, off_t at, fuse_file_info* info) {
  guarded(raw, [&](Filesystem& fs, Request request) { fs.read_directory(std::move(request), *info, size, at, true); });
}

void releasedir(fuse_req_t raw, fuse_ino_t, fuse_file_info* info) {
  guarded(raw, [&](Filesystem& fs, Request request) { fs.release_directory(std::move(request), *info); });
}

void statfs(fuse_req_t raw, fuse_ino_t) {
  guarded(raw, [&](Filesystem& fs, Request request) { fs.filesystem_status(std::move(request)); });
}

void setxattr(fuse_req_t raw, fuse_ino_t ino, const char* name, const char* value, std::size_t size, int flags) {
  guarded(raw, [&](Filesystem& fs, Request request) {
    fs.set_xattr(std::move(request), ino, name, std::string(value, size), flags);
  });
}

void getxattr(fuse_req_t raw, fuse_ino_t ino, const char* name, std::size_t size) {
  guarded(raw, [&](Filesystem& fs, Request request) { fs.get_xattr(std::move(request), ino, name, size); });
}

void listxattr(fuse_req_t raw, fuse_ino_t ino, std::size_t size) {
  guarded(raw, [&](Filesystem& fs, Request request) { fs.list_xattr(std::move(request), ino, size); });
}

void removexattr(fuse_req_t raw, fuse_ino_t ino, const char* name) {
  guarded(raw, [&](Filesystem& fs, Request request) { fs.remove_xattr(std::move(request), ino, name); });
}

void fallocate(fuse_req_t raw, fuse_ino_t, int mode, off_t at, off_t count, fuse_file_info* info) {
  guarded(raw, [&](Filesystem& fs, Request request) {
    fs.allocate(std::move(request), *info, mode, offset(at), ByteCount{static_cast<std::uint64_t>(count)});
  });
}

void copy_file_range(fuse_req_t raw, fuse_ino_t, off_t from_at, fuse_file_info* from, fuse_ino_t, off_t to_at,
                     fuse_file_info* to, std::size_t count, int flags) {
  guarded(raw, [&](Filesystem& fs, Request request) {
    if (flags != 0) return request.fail(EINVAL);
    fs.copy(std::move(request), *from, offset(from_at), *to, offset(to_at), ByteCount{count});
  });
}

void lseek(fuse_req_t raw, fuse_ino_t, off_t at, int whence, fuse_file_info* info) {
  guarded(raw, [&](Filesystem& fs, Request request) {
    // The kernel itself does the others.
    if (whence != SEEK_DATA && whence != SEEK_HOLE) return request.fail(EINVAL);
    if (at < 0) return request.fail(ENXIO);
    fs.seek(std::move(request), *info, offset(at), whence == SEEK_DATA);
  });
}

}  // namespace

/// What is missing is answered by libfuse with ENOSYS, after which the kernel does it itself or never asks again:
/// flush (close has nothing to wait for), locks, access, ioctl, poll, tmpfile.
const fuse_lowlevel_ops& operations() {
  static const fuse_lowlevel_ops table = [] {
    fuse_lowlevel_ops ops{};
    ops.init = init;
    ops.lookup = lookup;
    ops.forget = forget;
    ops.forget_multi = forget_multi;
    ops.getattr = getattr;
    ops.setattr = setattr;
    ops.mknod = mknod;
    ops.mkdir = mkdir;
    ops.unlink = unlink;
    ops.rmdir = rmdir;
    ops.symlink = symlink;
    ops.link = link;
    ops.rename = rename;
    ops.create = create;
    ops.open = open;
    ops.read = read;
    ops.write = write;
    ops.release = release;
    ops.fsync = fsync;
    ops.opendir = opendir;
    ops.readdir = readdir;
    ops.readdirplus = readdirplus;
    ops.releasedir = releasedir;
    ops.fsyncdir = fsyncdir;
    ops.statfs = statfs;
    ops.setxattr = setxattr;
    ops.getxattr = getxattr;
    ops.listxattr = listxattr;
    ops.removexattr = removexattr;
    ops.fallocate = fallocate;
    ops.copy_file_range = copy_file_range;
    ops.lseek = lseek;
    return ops;
  }();
  return table;
}

}  // namespace varve::fuse
