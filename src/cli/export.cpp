// The daemon says which extents differ; all else is done here, by reading images in the mount.
//
// A stream into a file is written as FILE.partial, which becomes FILE when all of it is durable. What an interrupted
// export left there is verified, kept up to its last whole frame, and continued.
#include "export.h"

#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>

#include "diff.h"
#include "mounted.h"
#include "paths.h"
#include "print.h"
#include "report.h"
#include "requests.h"
#include "size.h"
#include "stream.h"
#include "target.h"
#include "varve/core/same_bytes.h"

namespace varve::cli {
namespace {

using nlohmann::json;

/// A snapshot in the mount.
struct Source {
  std::string disk;
  std::string snapshot;
  std::string path;
  std::uint64_t size = 0;
  os::Descriptor image;
};

Result<Source> find_source(const Mounted& mounted, const Target& target, const store::CommandContext& context) {
  json question{{"command", "info"}};
  target.add_to(question);
  VARVE_TRY_ASSIGN(const auto answer, run_request(target.store, question, context));
  Source source;
  if (answer.is_object() && answer.contains("disk")) source.disk = answer.value("disk", "");
  source.snapshot = answer.is_object() ? answer.value("name", "") : "";
  if (source.disk.empty() || source.snapshot.empty()) {
    return fail_refused(EINVAL, "a live image changes while it is read: take a snapshot of the disk and name that, "
                                "DISK@SNAPSHOT");
  }
  source.path = mounted.image(source.disk, source.snapshot);
  VARVE_TRY_ASSIGN(source.image, open_file(source.path, O_RDONLY));
  VARVE_TRY_ASSIGN(source.size, size_of(source.image, source.path));
  return source;
}

/// BASE alone is a snapshot of the same disk.
Result<Target> find_base(const Options& options, const Target& target, const Source& source) {
  const std::string& word = *options.since;
  if (word.find_first_of("@/") != std::string::npos) return find_target(options.store ? options.store : target.store, word);
  Target base;
  base.store = target.store;
  base.disk = source.disk;
  base.snapshot = word;
  return base;
}

/// Makes frames of extents and hands them on.
class Framer {
 public:
  Framer(StreamWriter& writer, const Source& source, const Source* base) : writer_(writer), source_(source), base_(base) {
    frame_.bytes.reserve(kMaxFrameBytes);
  }

  /// Ascending. What is in the stream already, or behind the image's end, is left out.
  Status add(std::uint64_t at, std::uint64_t end) {
    at = std::max(at, writer_.totals().end);
    end = std::min(end, source_.size);
    while (at < end) {
      const auto count = static_cast<std::size_t>(std::min<std::uint64_t>(end - at, kMaxPieceBytes));
      VARVE_TRY(piece(at, count));
      at += count;
    }
    return {};
  }
  Status flush() {
    if (frame_.pieces.empty()) return {};
    VARVE_TRY(writer_.frame(frame_));
    frame_.pieces.clear();
    frame_.bytes.clear();
    return {};
  }

 private:
  Status piece(std::uint64_t at, std::size_t count) {
    if (frame_.bytes.size() + count > kMaxFrameBytes || frame_.pieces.size() == kMaxFramePieces) VARVE_TRY(flush());
    Piece piece;
    piece.at = at;
    piece.count = static_cast<std::uint32_t>(count);
    const auto before = std::span(base_bytes_).first(count);
    const os::Descriptor nothing;
    VARVE_TRY(read_image(base_ != nullptr ? base_->image : nothing, base_ != nullptr ? base_->path : "", at, before));
    piece.before = digest_of(before);
    const std::size_t old_size = frame_.bytes.size();
    frame_.bytes.resize(old_size + count);
    const auto now = std::span(frame_.bytes).subspan(old_size);
    VARVE_TRY(read_image(source_.image, source_.path, at, now));
    piece.now = digest_of(now);
    piece.zeros = all_zero(now);
    if (piece.zeros) frame_.bytes.resize(old_size);
    // In a stream that has all, what is not there is zeros.
    if (piece.zeros && base_ == nullptr) return {};
    frame_.pieces.push_back(piece);
    return {};
  }

  StreamWriter& writer_;
  const Source& source_;
  const Source* base_;
  Frame frame_;
  std::vector<std::byte> base_bytes_{kMaxPieceBytes};
};

/// Where the stream goes: standard output, or a file that has its name when it is whole.
class Output {
 public:
  static Result<Output> open(const std::string& word);
  struct Kept {
    StreamTotals totals;
    bool whole = false;
  };
  /// Keeps what is there of this very stream.
  Result<Kept> resume(const StreamHeader& header, const store::CommandContext& context);
  Status write(std::span<const std::byte> bytes);
  Status finish();
  [[nodiscard]] bool is_file() const { return !path_.empty(); }
  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::uint64_t size() const { return at_; }
  [[nodiscard]] std::uint64_t kept() const { return kept_; }

 private:
  std::string path_;  ///< empty: standard output
  std::string partial_;
  os::Descriptor file_;
  std::uint64_t at_ = 0;
  std::uint64_t kept_ = 0;
};

Result<Output> Output::open(const std::string& word) {
  Output out;
  if (word == "-") {
    if (::isatty(STDOUT_FILENO) == 1) return fail_refused(EINVAL, "a stream is not written to a terminal; redirect it");
    return out;
  }
  VARVE_TRY_ASSIGN(out.path_, absolute_path(word));
  if (exists(out.path_)) return fail_refused(EEXIST, fmt::format("{} is there already, and whole; name another file", word));
  out.partial_ = out.path_ + ".partial";
  VARVE_TRY_ASSIGN(out.file_, open_file(out.partial_, O_RDWR | O_CREAT | O_NOFOLLOW));
  if (::flock(out.file_.get(), LOCK_EX | LOCK_NB) != 0) {
    return fail_refused(EBUSY, fmt::format("another export is writing {}", out.partial_));
  }
  // It may have been finished, and renamed, before the lock was ours.
  if (exists(out.path_)) return fail_refused(EEXIST, fmt::format("{} is there already, and whole; name another file", word));
  return out;
}

Result<Output::Kept> Output::resume(const StreamHeader& header, const store::CommandContext& context) {
  VARVE_TRY_ASSIGN(const auto size, size_of(file_, partial_));
  std::uint64_t read = 0;
  StreamReader reader([&](std::span<std::byte> out) -> Result<std::size_t> {
    const auto count = static_cast<std::size_t>(std::min<std::uint64_t>(out.size(), size - read));
    VARVE_TRY(read_image(file_, partial_, read, out.first(count)));
    read += count;
    return count;
  });
  const auto found = reader.header();
  if (!found && size > kMaxStreamHeader) {
    return fail_refused(EEXIST, fmt::format("{} is in the way and is no export; remove it", partial_));
  }
  if (found && *found != header) {
    return fail_refused(EEXIST, fmt::format("{} is an unfinished export of {}@{}, not of this; remove it, or name another "
                                            "file",
                                            partial_, found->disk, found->snapshot));
  }
  bool whole = false;
  if (found) {
    ProgressBar bar("verifying");
    for (;;) {
      if (context.stop()) return fail(ECANCELED, ErrorKind::refused, "interrupted");
      const auto frame = reader.next();
      whole = frame && !*frame;
      if (!frame || whole) break;
      bar.show(reader.position(), size);
    }
  }
  at_ = kept_ = found ? reader.position() : 0;
  if (::ftruncate(file_.get(), static_cast<off_t>(at_)) != 0) return os::fail_os(errno, "cannot cut", partial_);
  return Kept{found ? reader.totals() : StreamTotals{}, whole};
}

Status Output::write(std::span<const std::byte> bytes) {
  if (is_file()) {
    VARVE_TRY(write_at(file_, partial_, at_, bytes));
    at_ += bytes.size();
    return {};
  }
  while (!bytes.empty()) {
    const auto put = os::retry([&] { return ::write(STDOUT_FILENO, bytes.data(), bytes.size()); });
    if (put < 0) return fail_system(errno, "cannot write to standard output");
    at_ += static_cast<std::uint64_t>(put);
    bytes = bytes.subspan(static_cast<std::size_t>(put));
  }
  return {};
}

Status Output::finish() {
  if (!is_file()) return {};
  if (::fsync(file_.get()) != 0) return os::fail_os(errno, "cannot sync", partial_);
  if (::rename(partial_.c_str(), path_.c_str()) != 0) return os::fail_os(errno, "cannot name", path_);
  VARVE_TRY_ASSIGN(const auto above, open_file(path_.substr(0, std::max<std::size_t>(path_.rfind('/'), 1)), O_RDONLY | O_DIRECTORY));
  if (::fsync(above.get()) != 0) return os::fail_os(errno, "cannot sync the directory of", path_);
  return {};
}

/// All extents of the stream that are not in it yet.
Status write_frames(const Target& store, const Source& source, const Source* base, StreamWriter& writer,
                    store::CommandContext context) {
  Framer framer(writer, source, base);
  ProgressBar bar("exporting");
  const auto add = [&](std::uint64_t at, std::uint64_t end) -> Status {
    if (context.stop()) return fail(ECANCELED, ErrorKind::refused, "interrupted");
    VARVE_TRY(framer.add(at, end));
    bar.show(end, source.size);
    return {};
  };
  if (base != nullptr) {
    const auto target_of = [&](const Source& image) {
      Target target;
      target.store = store.store;
      target.disk = image.disk;
      target.snapshot = image.snapshot;
      return target;
    };
    VARVE_TRY(request_diff(target_of(*base), target_of(source), context,
                           [&](std::uint64_t at, std::uint64_t count) { return add(at, at + count); }));
    return framer.flush();
  }
  for (std::uint64_t at = writer.totals().end;;) {
    VARVE_TRY_ASSIGN(const auto data, next_data(source.image, source.path, at, source.size));
    if (!data) return framer.flush();
    // A long one in pieces, so that it can be seen and stopped.
    at = std::min(data->end, data->at + 16 * kMaxPieceBytes);
    VARVE_TRY(add(data->at, at));
  }
}

struct Exported {
  std::string identity;
  std::string name;
  StreamTotals totals;
  std::uint64_t stream_bytes = 0;
  std::uint64_t kept = 0;
};

Result<Exported> export_stream(const Options& options, const store::CommandContext& context) {
  VARVE_TRY_ASSIGN(const auto target, find_target(options.store, options.image));
  if (!target.names_image()) return fail_refused(EINVAL, "name a snapshot: DISK@SNAPSHOT");
  VARVE_TRY_ASSIGN(const auto mounted, Mounted::of(target.store, "export reads"));
  VARVE_TRY_ASSIGN(const auto source, find_source(mounted, target, context));
  std::optional<Source> base;
  StreamHeader header;
  VARVE_TRY_ASSIGN(header.identity, mounted.identity(source.disk, source.snapshot));
  header.disk = source.disk;
  header.snapshot = source.snapshot;
  header.size = source.size;
  if (options.since) {
    VARVE_TRY_ASSIGN(const auto base_target, find_base(options, target, source));
    if (base_target.store != target.store) return fail_refused(EINVAL, "the base is in another store");
    VARVE_TRY_ASSIGN(base, find_source(mounted, base_target, context));
    VARVE_TRY_ASSIGN(auto identity, mounted.identity(base->disk, base->snapshot));
    header.base = StreamHeader::Base{std::move(identity), base->snapshot};
  }
  VARVE_TRY_ASSIGN(auto output, Output::open(options.path));
  Output::Kept there;
  if (output.is_file()) {
    VARVE_TRY_ASSIGN(there, output.resume(header, context));
  }
  StreamWriter writer([&](std::span<const std::byte> bytes) { return output.write(bytes); }, there.totals);
  if (!there.whole) {
    if (output.kept() == 0) VARVE_TRY(writer.header(header));
    VARVE_TRY(write_frames(target, source, base ? &*base : nullptr, writer, context));
    VARVE_TRY(writer.end());
  }
  VARVE_TRY(output.finish());
  return Exported{header.identity, fmt::format("{}@{}", source.disk, source.snapshot), writer.totals(), output.size(),
                  output.kept()};
}

}  // namespace

int run_export(const Options& options, store::CommandContext context) {
  const auto exported = export_stream(options, context);
  if (!exported) return report(exported.error());
  // Standard output may be the stream.
  FILE* out = options.path == "-" ? stderr : stdout;
  if (options.json) {
    const json answer{{"identity", exported->identity},  {"bytes", exported->totals.bytes},
                      {"extents", exported->totals.pieces}, {"stream_bytes", exported->stream_bytes},
                      {"kept", exported->kept}};
    fmt::print(out, "{}\n", answer.dump(2));
  } else {
    fmt::print(out, "{} exported: {} of the image in a stream of {}{}\n", exported->name,
               readable_size(exported->totals.bytes), readable_size(exported->stream_bytes),
               exported->kept > 0 ? fmt::format(" ({} were there)", readable_size(exported->kept)) : "");
  }
  return kExitSuccess;
}

}  // namespace varve::cli
