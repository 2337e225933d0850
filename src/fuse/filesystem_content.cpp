// Opening, reading, writing, syncing, allocating, copying and seeking.
#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "filesystem.h"
#include "varve/catalog/names.h"

namespace varve::fuse {
namespace {

/// The kernel's FALLOC_FL_*, without <linux/falloc.h>, which defines what <fcntl.h> does.
constexpr int kKeepSize = FALLOC_FL_KEEP_SIZE;
constexpr int kPunchHole = FALLOC_FL_PUNCH_HOLE;
constexpr int kZeroRange = FALLOC_FL_ZERO_RANGE;

/// Between two of these a copy can be interrupted; bytes take less than a second, shared data no time.
constexpr std::uint64_t kCopyPiece = 256 * kMiB;

bool opens_for_writing(int flags) {
  return (flags & O_ACCMODE) != O_RDONLY;
}

/// Memory for a read that is answered by the thread that serves the kernel.
std::span<std::byte> scratch(std::size_t size) {
  static thread_local AlignedBuffer buffer;
  if (buffer.size() < size) buffer = AlignedBuffer(std::max<std::size_t>(size, kMiB));
  return buffer.span().first(size);
}

std::string at_offset(const store::Disk& disk, ByteOffset at, std::size_t count, std::string_view action) {
  return fmt::format("{} {} bytes at {} of disk {}", action, count, at.value(), catalog::quoted(disk.name()));
}

/// Where who writes to a disk finds the sentence that EDQUOT has not.
Ino directory_of_limit(const store::Disk& disk, const Error& error) {
  if (error.code != EDQUOT) return 0;
  return to_ino({.kind = NodeKind::disk, .disk = disk.id(), .snapshot = {}, .incarnation = {}}).value_or(0);
}

}  // namespace

// --- open ---

void Filesystem::open(Request request, Ino ino, fuse_file_info info) {
  const auto node = find_node(store_, ino);
  if (!node) return fail(request, node.error());
  switch (node->id.kind) {
    case NodeKind::live_image:
      return open_live(std::move(request), *node, info);
    case NodeKind::snapshot_image:
      return open_snapshot(std::move(request), *node, info);
    case NodeKind::status_file:
    case NodeKind::metrics_file:
      return open_control_file(std::move(request), *node, info);
    default:
      return request.fail(EISDIR);
  }
}

Result<std::unique_ptr<OpenFile>> Filesystem::use_live(const Node& node, int flags, bool kills_privileges) {
  auto file = std::make_unique<OpenFile>();
  file->node = node.id;
  file->disk = node.disk;
  file->writable = opens_for_writing(flags);
  VARVE_TRY_ASSIGN(file->use, node.disk->use_image(file->writable));
  if ((flags & O_TRUNC) != 0 && node.disk->live().info().size != ByteCount{0}) {
    VARVE_TRY(node.disk->resize_image(ByteCount{0}, file->writable ? &file->use : nullptr));
  }
  if (kills_privileges) VARVE_TRY(clear_privileges(*node.disk));
  return file;
}

/// One that is read and written past the kernel's cache anyway may have its writes in parallel, which the kernel allows
/// only under FOPEN_DIRECT_IO (four synchronous writers: 3,339 writes a second instead of 805 at 1 ms each).
bool Filesystem::opens_parallel(const OpenFile& file, int flags) const {
  return negotiated_.parallel_direct_writes && file.writable && file.is_live() && (flags & O_DIRECT) != 0;
}

void Filesystem::answer_open(Request& request, std::unique_ptr<OpenFile> file, fuse_file_info info) {
  const bool parallel = opens_parallel(*file, info.flags);
  info.keep_cache = file->is_image() ? 1 : 0;
  // A control file has no size that could be known beforehand.
  info.direct_io = parallel || !file->is_image() ? 1 : 0;
  info.fh = files_.add(std::move(file));
  if (!request.opened(info, parallel)) files_.remove(info.fh);
}

void Filesystem::open_live(Request request, const Node& node, fuse_file_info info) {
  const auto open_now = [this, node, info](Request& held) {
    auto file = use_live(node, info.flags, held.kills_privileges());
    if (!file) return fail(held, file.error(), disk_node(node.disk).map(&Node::ino).value_or(0));
    answer_open(held, std::move(*file), info);
  };
  if ((info.flags & O_TRUNC) == 0 && !request.kills_privileges()) return open_now(request);
  later(vacate_, std::move(request), open_now);
}

void Filesystem::open_snapshot(Request request, const Node& node, fuse_file_info info) {
  if (opens_for_writing(info.flags) || (info.flags & O_TRUNC) != 0) {
    return fail(request, {EROFS, ErrorKind::refused, describe(node) + " can't be changed"});
  }
  auto use = node.disk->use_snapshot(node.id.snapshot);
  if (!use) return fail(request, use.error());
  auto file = std::make_unique<OpenFile>();
  file->node = node.id;
  file->disk = node.disk;
  file->use = std::move(*use);
  answer_open(request, std::move(file), info);
}

void Filesystem::open_control_file(Request request, const Node& node, fuse_file_info info) {
  if (opens_for_writing(info.flags)) return request.fail(EROFS);
  later(control_, std::move(request), [this, id = node.id, info](Request& held) {
    auto file = std::make_unique<OpenFile>();
    file->node = id;
    file->text = std::make_shared<const std::string>(
        id.kind == NodeKind::metrics_file ? store_.metrics() : store_.status().dump(2) + "\n");
    answer_open(held, std::move(file), info);
  });
}

void Filesystem::release(Request request, const fuse_file_info& info) {
  // First, so that an rmdir which waits for it goes on before close(2) returns where the kernel waits for the answer.
  files_.remove(info.fh);
  request.done();
}

// --- read ---

void Filesystem::read_live(Request& request, store::Disk& disk, std::span<std::byte> buffer, ByteOffset at) {
  const auto size = disk.live().read(at, buffer);
  if (!size) return fail(request, size.error().in(at_offset(disk, at, buffer.size(), "reading")));
  request.data(buffer.first(*size));
}

void Filesystem::read_snapshot(Request& request, store::Disk& disk, SnapshotId id, ByteOffset at, ByteCount count) {
  const auto bytes = disk.view_snapshot(id, at, count);
  // Damage was logged where it was met, with all that is known of it.
  if (!bytes) return request.fail(bytes.error().code);
  request.data(*bytes);
}

namespace {

void read_text(Request& request, std::shared_ptr<const std::string> text, std::size_t size, ByteOffset at) {
  const auto begin = std::min<std::size_t>(at.value(), text->size());
  request.text(std::string_view(*text).substr(begin, size));
}

}  // namespace

void Filesystem::read(Request request, const fuse_file_info& info, std::size_t size, ByteOffset at) {
  const OpenFile& file = HandleSet<OpenFile>::get(info.fh);
  if (!file.is_image()) return read_text(request, file.text, size, at);
  const bool live = file.is_live();
  const auto snapshot = file.node.snapshot;
  const ByteCount count{size};
  const bool quick = live ? !file.disk->live().reads_base(at, count) : file.disk->snapshot_cached(snapshot, at, count);
  if (quick && live) return read_live(request, *file.disk, scratch(size), at);
  if (quick) return read_snapshot(request, *file.disk, snapshot, at, count);
  if (!live) {
    return later(snapshots_, std::move(request), [this, disk = file.disk, snapshot, at, count](Request& held) {
      read_snapshot(held, *disk, snapshot, at, count);
    });
  }
  later(live_, std::move(request), [this, disk = file.disk, size, at](Request& held) {
    auto lease = buffers_.take();
    AlignedBuffer larger;  // than any kernel asks for
    if (size > lease.span().size()) larger = AlignedBuffer(size);
    read_live(held, *disk, larger.size() != 0 ? larger.span() : lease.span().first(size), at);
  });
}

// --- write ---

void Filesystem::write_live(Request& request, store::Disk& disk, std::span<const std::byte> bytes, ByteOffset at) {
  const auto written = disk.live().write(at, bytes);
  if (!written) {
    const Error error = written.error().in(at_offset(disk, at, bytes.size(), "writing"));
    return fail(request, error, directory_of_limit(disk, error));
  }
  request.written(bytes.size());
}

Status Filesystem::clear_privileges(store::Disk& disk) {
  const std::uint32_t mode = disk.image_attributes().mode;
  if (without_privileges(mode) == mode) return {};
  VARVE_TRY(disk.change_image_attributes([](store::Attributes& attributes) -> Status {
    attributes.mode = without_privileges(attributes.mode);
    return {};
  }));
  const NodeId image{
      .kind = NodeKind::live_image, .disk = disk.id(), .snapshot = {}, .incarnation = disk.live().info().incarnation};
  if (const auto ino = to_ino(image)) notifier_->push(StaleAttributes{*ino});
  return {};
}

void Filesystem::write(Request request, const fuse_file_info& info, std::span<const std::byte> bytes, ByteOffset at) {
  const OpenFile& file = HandleSet<OpenFile>::get(info.fh);
  if (!file.is_live()) return request.fail(EROFS);
  store::Disk& disk = *file.disk;
  const bool clears =
      request.kills_privileges() && without_privileges(disk.image_attributes().mode) != disk.image_attributes().mode;
  if (!clears && !disk.live().writes_base(at, ByteCount{bytes.size()})) return write_live(request, disk, bytes, at);
  // The data is in the buffer of the thread that serves the kernel.
  const auto copy = std::make_shared<AlignedBuffer>(bytes.size());
  std::memcpy(copy->data(), bytes.data(), bytes.size());
  later(live_, std::move(request), [this, disk = file.disk, copy, clears, at](Request& held) {
    if (clears) {
      if (const auto cleared = clear_privileges(*disk); !cleared) return fail(held, cleared.error());
    }
    write_live(held, *disk, copy->span(), at);
  });
}

void Filesystem::flush_to_disk(Request request, const fuse_file_info& info) {
  const OpenFile& file = HandleSet<OpenFile>::get(info.fh);
  if (!file.is_live()) return request.done();
  later(flush_, std::move(request), [this, disk = file.disk](Request& held) { finish(held, disk->live().flush()); });
}

// --- fallocate ---

Status Filesystem::allocate_live(store::Disk& disk, int mode, ByteOffset at, ByteCount count) {
  if (mode == (kPunchHole | kKeepSize) || (mode & ~kKeepSize) == kZeroRange || (mode & ~kKeepSize) == 0) {
    const ByteCount end = ByteCount{at.value()} + count;
    if ((mode & kKeepSize) == 0 && end > disk.live().info().size) VARVE_TRY(disk.resize_image(end, nullptr));
    const ByteCount size = disk.live().info().size;
    if (at.value() >= size.value()) return {};
    const ByteCount within{std::min(count.value(), size.value() - at.value())};
    return (mode & (kPunchHole | kZeroRange)) != 0 ? disk.live().zero(at, within) : disk.live().preallocate(at, within);
  }
  return fail_refused(EOPNOTSUPP, "of fallocate, only reserving, punching and zeroing are possible");
}

void Filesystem::allocate(Request request, const fuse_file_info& info, int mode, ByteOffset at, ByteCount count) {
  const OpenFile& file = HandleSet<OpenFile>::get(info.fh);
  if (!file.is_live()) return request.fail(EROFS);
  later(live_, std::move(request), [this, disk = file.disk, mode, at, count](Request& held) {
    const auto allocated = allocate_live(*disk, mode, at, count);
    finish(held, allocated, allocated ? 0 : directory_of_limit(*disk, allocated.error()));
  });
}

// --- copy_file_range, lseek ---

void Filesystem::copy(Request request, const fuse_file_info& from, ByteOffset from_at, const fuse_file_info& to,
                      ByteOffset to_at, ByteCount count) {
  const OpenFile& source = HandleSet<OpenFile>::get(from.fh);
  const OpenFile& target = HandleSet<OpenFile>::get(to.fh);
  if (!source.is_image()) return request.fail(EOPNOTSUPP);  // then it is read and written
  if (!target.is_live()) return request.fail(EROFS);
  const store::ImageName image{source.disk, source.is_live() ? SnapshotId{0} : source.node.snapshot};
  const ByteCount at_most{std::min(count.value(), store::kMaxCopyReply)};
  later(copy_, std::move(request), [this, image, from_at, disk = target.disk, to_at, at_most](Request& held) {
    const auto copied = copy_in_pieces(held, image, from_at, disk, to_at, at_most);
    if (!copied) {
      const Error error = copied.error().in("copying to disk " + catalog::quoted(disk->name()));
      return fail(held, error, directory_of_limit(*disk, error));
    }
    held.written(copied->value());
  });
}

/// Until somebody wants to interrupt or kill who asked: what was copied till then is a valid answer. An error too shows
/// only when nothing was copied; whoever asks for the rest will meet it.
Result<ByteCount> Filesystem::copy_in_pieces(const Request& request, const store::ImageName& from, ByteOffset from_at,
                                             const std::shared_ptr<store::Disk>& to, ByteOffset to_at,
                                             ByteCount count) {
  ByteCount done{0};
  while (done < count && (done == ByteCount{0} || !request.interrupted())) {
    // Pieces end on multiples, so that whole subtrees can be shared.
    const std::uint64_t to_boundary = kCopyPiece - (to_at + done).value() % kCopyPiece;
    const ByteCount piece{std::min(to_boundary, (count - done).value())};
    const auto copied = store_.copy_range(from, from_at + done, to, to_at + done, piece);
    if (!copied && done == ByteCount{0}) return copied;
    if (!copied || *copied == ByteCount{0}) break;
    done += *copied;
  }
  return done;
}

void Filesystem::seek(Request request, const fuse_file_info& info, ByteOffset at, bool data) {
  const OpenFile& file = HandleSet<OpenFile>::get(info.fh);
  if (!file.is_image()) return request.fail(EOPNOTSUPP);
  const bool live = file.is_live();
  later(live ? live_ : snapshots_, std::move(request),
        [this, disk = file.disk, live, snapshot = file.node.snapshot, at, data](Request& held) {
          const auto found = live ? disk->live().seek(at, data) : disk->seek_snapshot(snapshot, at, data);
          if (found) return held.position(static_cast<off_t>(found->value()));
          // The plain answer behind the last data, not a refusal to keep or log.
          if (found.error().code == ENXIO) return held.fail(ENXIO);
          fail(held, found.error());
        });
}

}  // namespace varve::fuse
