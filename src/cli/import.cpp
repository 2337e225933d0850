// A stream is applied to the live image of a disk, of which then a snapshot is taken and compared with the stream.
//
// What makes it exact, whatever happens on the way:
//  1. Before the first write the disk bears a mark (kImportAttribute): which stream, and the name its snapshot gets. A
//     snapshot of that name was not there then. While the disk bears it, the live image may be anything between the base
//     and the new one; with it the same import goes on, by comparing what is there, and nothing else is imported.
//  2. A piece is written only where the base has the bytes that the stream was made against.
//  3. A snapshot counts as imported when it bears its identity (kOriginAttribute), which it gets last: after it was
//     compared with the base (it differs nowhere but in the stream's pieces) and each piece of it read back and compared
//     with its digest. One that fails is removed.
#include "import.h"

#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "diff.h"
#include "import_check.h"
#include "mounted.h"
#include "print.h"
#include "report.h"
#include "requests.h"
#include "size.h"
#include "stream.h"
#include "target.h"
#include "varve/catalog/names.h"

namespace varve::cli {
namespace {

using catalog::quoted;
using nlohmann::json;

/// The bytes of a stream, from a file or standard input.
class Input {
 public:
  static Result<Input> open(const std::string& word) {
    Input input;
    input.name_ = word;
    if (word == "-") {
      input.file_ = os::Descriptor(::dup(STDIN_FILENO));
    } else {
      VARVE_TRY_ASSIGN(input.file_, open_file(word, O_RDONLY));
    }
    struct stat status {};
    if (::fstat(input.file_.get(), &status) != 0) return os::fail_os(errno, "cannot look at", word);
    if (S_ISDIR(status.st_mode)) return os::fail_os(EISDIR, "cannot read", word);
    if (S_ISREG(status.st_mode)) input.size_ = static_cast<std::uint64_t>(status.st_size);
    return input;
  }
  Result<std::size_t> read(std::span<std::byte> out) {
    std::size_t done = 0;
    while (done < out.size()) {
      const auto got = os::retry([&] { return ::read(file_.get(), out.data() + done, out.size() - done); });
      if (got < 0) return os::fail_os(errno, "cannot read", name_);
      if (got == 0) break;
      done += static_cast<std::size_t>(got);
    }
    return done;
  }
  /// False for what can be read but once.
  bool rewind() { return size_ && ::lseek(file_.get(), 0, SEEK_SET) == 0; }
  [[nodiscard]] std::optional<std::uint64_t> size() const { return size_; }

 private:
  std::string name_;
  os::Descriptor file_;
  std::optional<std::uint64_t> size_;
};

struct Imported {
  std::string disk;
  std::string snapshot;
  std::string identity;
  bool was_there = false;
  StreamTotals totals;
};

class Import {
 public:
  Import(const Options& options, const store::CommandContext& context, Input& input, Mounted mounted, Target target,
         StreamHeader header)
      : options_(options),
        context_(context),
        input_(input),
        mounted_(std::move(mounted)),
        disk_(*target.disk),
        target_(std::move(target)),
        header_(std::move(header)),
        name_(options.as.value_or(header_.snapshot)),
        directory_(mounted_.directory(disk_)),
        live_(mounted_.image(disk_)) {}

  /// `reader` is behind the header.
  Result<Imported> run(StreamReader& reader) {
    VARVE_TRY_ASSIGN(const auto there, look());
    if (there) return Imported{disk_, *there, header_.identity, true, {}};
    if (input_.size()) VARVE_TRY(verify_stream(reader));
    if (taken_already_) {
      if (!input_.size()) VARVE_TRY(for_each_frame(reader, "reading", [this](const Frame& frame) { return note(frame); }));
    } else {
      VARVE_TRY(prepare());
      VARVE_TRY(apply_stream(reader));
      VARVE_TRY(take());
    }
    VARVE_TRY(verify_snapshot());
    return Imported{disk_, name_, header_.identity, false, totals_};
  }

 private:
  // --- what is there ---

  /// The name of the snapshot when the stream has been imported. Refuses what cannot be.
  Result<std::optional<std::string>> look() {
    VARVE_TRY(catalog::validate_name(name_, catalog::NameKind::snapshot));
    if (!exists(directory_)) {
      if (header_.base) return fail_no_base();
      return std::nullopt;
    }
    VARVE_TRY_ASSIGN(const auto names, mounted_.snapshots(disk_));
    for (const auto& name : names) {
      auto identity = mounted_.identity(disk_, name);
      // Deleted meanwhile.
      if (!identity && identity.error().code == ENOENT) continue;
      if (!identity) return tl::unexpected(std::move(identity).error());
      if (*identity == header_.identity) return std::optional(name);
      if (header_.base && *identity == header_.base->identity) base_ = name;
    }
    VARVE_TRY_ASSIGN(const auto mark, attribute(directory_, kImportAttribute));
    if (mark) VARVE_TRY(look_at_mark(*mark));
    if (header_.base && !base_) return fail_no_base();
    if (!header_.base && !resuming_ && (exists(live_) || !names.empty())) {
      return fail_refused(EEXIST, fmt::format("the disk {} is there already, and the stream has all of an image, no "
                                              "difference: name a disk that is not there",
                                              quoted(disk_)));
    }
    if (exists(mounted_.directory(disk_, name_)) && !taken_already_) {
      return fail_refused(EEXIST, fmt::format("the disk {} has a snapshot {} already, another one; --as gives it another "
                                              "name",
                                              quoted(disk_), quoted(name_)));
    }
    return std::nullopt;
  }

  Status look_at_mark(const std::string& mark) {
    const auto space = mark.find(' ');
    const auto identity = mark.substr(0, space);
    const auto name = space == std::string::npos ? "" : mark.substr(space + 1);
    const auto taken = mounted_.directory(disk_, name);
    // It has its snapshot, and that is whole: only the mark was not removed any more.
    VARVE_TRY_ASSIGN(const auto origin, name.empty() || !exists(taken) ? Result<std::optional<std::string>>(std::nullopt)
                                                                       : attribute(taken, kOriginAttribute));
    if (origin && *origin == identity) return {};
    if (identity == header_.identity && !options_.force) {
      if (name != name_) {
        return fail_refused(EEXIST, fmt::format("the import of this stream into {} as {} was interrupted; run it again with "
                                                "--as {}, or with --force to begin anew",
                                                quoted(disk_), quoted(name), quoted(name)));
      }
      resuming_ = true;
      taken_already_ = exists(taken);
      return {};
    }
    if (!options_.force) {
      return fail_refused(EEXIST, fmt::format("the import of another stream into {} was interrupted; run that again, or this "
                                              "with --force, which gives that up",
                                              quoted(disk_)));
    }
    if (!name.empty() && exists(taken) && ::rmdir(taken.c_str()) != 0) {
      return fail_in_mount(errno, "cannot remove what the interrupted import left,", taken, directory_);
    }
    // Of a stream with all of an image nothing can be put back; it is applied once more.
    resuming_ = identity == header_.identity && !header_.base;
    return {};
  }

  [[nodiscard]] tl::unexpected<Error> fail_no_base() const {
    return fail(ENOENT, ErrorKind::absent,
                fmt::format("the stream is what changed since {}, and the disk {} has not that snapshot; import that first, "
                            "or export without --since",
                            quoted(header_.base->snapshot), quoted(disk_)));
  }

  // --- the stream ---

  template <class Use>
  Status for_each_frame(StreamReader& reader, const char* label, Use use) {
    ProgressBar bar(label);
    pieces_.clear();
    for (;;) {
      if (context_.stop()) return fail(ECANCELED, ErrorKind::refused, "interrupted; the same command goes on from here");
      VARVE_TRY_ASSIGN(const auto frame, reader.next());
      if (!frame) break;
      VARVE_TRY(use(*frame));
      bar.show(input_.size() ? reader.position() : reader.totals().end, input_.size().value_or(header_.size));
    }
    totals_ = reader.totals();
    return {};
  }

  /// 48 bytes a piece, a megabyte or what lay together.
  Status note(const Frame& frame) {
    pieces_.insert(pieces_.end(), frame.pieces.begin(), frame.pieces.end());
    return {};
  }

  /// Of a file all is known before anything is changed.
  Status verify_stream(StreamReader& reader) {
    VARVE_TRY(open_base());
    VARVE_TRY(for_each_frame(reader, "verifying", [this](const Frame& frame) -> Status {
      for (const Piece& piece : frame.pieces) VARVE_TRY(check_base(piece));
      return note(frame);
    }));
    return {};
  }

  Status open_base() {
    if (!base_ || base_image_.get() >= 0) return {};
    base_path_ = mounted_.image(disk_, *base_);
    VARVE_TRY_ASSIGN(base_image_, open_file(base_path_, O_RDONLY));
    return {};
  }

  Status check_base(const Piece& piece) {
    const auto bytes = std::span(buffer_).first(piece.count);
    VARVE_TRY(read_image(base_image_, base_path_, piece.at, bytes));
    if (digest_of(bytes) == piece.before) return {};
    return fail_damaged(fmt::format("the stream was made against other bytes than {}@{} has at {}; nothing is written there",
                                    disk_, base_.value_or("zeros"), piece.at));
  }

  // --- applying ---

  Status prepare() {
    if (!exists(directory_) && ::mkdir(directory_.c_str(), 0777) != 0 && errno != EEXIST) {
      return fail_in_mount(errno, "cannot make the disk", directory_, directory_.substr(0, directory_.rfind('/')));
    }
    VARVE_TRY(open_base());
    if (base_ && !resuming_) VARVE_TRY(begin_at_base());
    VARVE_TRY(set_attribute(directory_, kImportAttribute, header_.identity + " " + name_));
    image_ = os::Descriptor(os::retry([&] { return ::open(live_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666); }));
    if (image_.get() < 0) return fail_in_mount(errno, "cannot open", live_, directory_);
    if (::flock(image_.get(), LOCK_EX | LOCK_NB) != 0) {
      return fail_refused(EBUSY, fmt::format("another import into {} is running", quoted(disk_)));
    }
    VARVE_TRY_ASSIGN(const auto size, size_of(image_, live_));
    if (size != header_.size && ::ftruncate(image_.get(), static_cast<off_t>(header_.size)) != 0) {
      return fail_in_mount(errno, fmt::format("cannot give it {} bytes:", header_.size), live_, directory_);
    }
    return {};
  }

  Target target_of(const std::optional<std::string>& snapshot) const {
    Target target;
    target.store = target_.store;
    target.disk = disk_;
    target.snapshot = snapshot;
    return target;
  }

  /// The live image is what the base is, or becomes it where that loses nothing.
  Status begin_at_base() {
    if (exists(live_)) {
      std::optional<std::uint64_t> first;
      const auto compared = request_diff(target_of(base_), target_of(std::nullopt), context_,
                                         [&](std::uint64_t at, std::uint64_t) -> Status {
                                           first = at;
                                           return fail(ECANCELED, ErrorKind::refused, "one is enough");
                                         });
      if (!first && !compared) return tl::unexpected(compared.error());
      VARVE_TRY_ASSIGN(const auto live, open_file(live_, O_RDONLY));
      VARVE_TRY_ASSIGN(const auto live_size, size_of(live, live_));
      VARVE_TRY_ASSIGN(const auto base_size, size_of(base_image_, base_path_));
      if (!first && live_size == base_size) return {};
      if (!options_.force) {
        return fail_refused(EEXIST, fmt::format("the live image of {} is not what its snapshot {} is{}; take a snapshot of it "
                                                "if it is to be kept, then --force restores it to {} first",
                                                quoted(disk_), quoted(*base_),
                                                first ? fmt::format(" (first at {})", *first) : " (another size)",
                                                quoted(*base_)));
      }
    }
    json question{{"command", "restore"}};
    target_of(base_).add_to(question);
    VARVE_TRY(run_request(target_.store, question, context_));
    return {};
  }

  Status apply_stream(StreamReader& reader) {
    const auto apply = [this](const Frame& frame) -> Status {
      std::size_t at = 0;
      for (const Piece& piece : frame.pieces) {
        const auto bytes = std::span<const std::byte>(frame.bytes).subspan(at, piece.zeros ? 0 : piece.count);
        VARVE_TRY(apply_piece(piece, bytes));
        at += bytes.size();
      }
      return note(frame);
    };
    if (input_.size()) {
      if (!input_.rewind()) return fail_system(errno, "cannot read the stream again");
      StreamReader again([this](std::span<std::byte> out) { return input_.read(out); });
      VARVE_TRY_ASSIGN(const auto header, again.header());
      if (header != header_) return fail_damaged("the stream changed while it was read");
      VARVE_TRY(for_each_frame(again, "importing", apply));
    } else {
      VARVE_TRY(for_each_frame(reader, "importing", apply));
    }
    if (::fsync(image_.get()) != 0) return fail_in_mount(errno, "cannot sync", live_, directory_);
    return {};
  }

  Status apply_piece(const Piece& piece, std::span<const std::byte> bytes) {
    VARVE_TRY(check_base(piece));
    if (resuming_) {
      const auto there = std::span(buffer_).first(piece.count);
      VARVE_TRY(read_image(image_, live_, piece.at, there));
      if (digest_of(there) == piece.now) return {};
    }
    if (!piece.zeros) return write_at(image_, live_, piece.at, bytes);
    if (os::retry([&] {
          return ::fallocate(image_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(piece.at),
                             static_cast<off_t>(piece.count));
        }) == 0) {
      return {};
    }
    return os::fail_os(errno, fmt::format("cannot zero at {} of", piece.at), live_);
  }

  // --- the snapshot ---

  Status take() {
    image_ = os::Descriptor();
    const auto taken = mounted_.directory(disk_, name_);
    if (::mkdir(taken.c_str(), 0777) == 0) return {};
    return fail_in_mount(errno, "cannot take the snapshot", taken, directory_);
  }

  Status verify_snapshot() {
    const auto taken = mounted_.directory(disk_, name_);
    const auto verified = check_imported({header_, pieces_, mounted_.image(disk_, name_), target_of(name_),
                                          base_ ? std::optional(target_of(base_)) : std::nullopt},
                                         context_);
    if (!verified && verified.error().kind == ErrorKind::damaged) {
      if (::rmdir(taken.c_str()) != 0) {
        return tl::unexpected(verified.error().in(fmt::format("REMOVE {}@{}, it is wrong", disk_, name_)));
      }
      return tl::unexpected(verified.error().in("the snapshot did not become what the stream says, and is removed again"));
    }
    VARVE_TRY(verified);
    VARVE_TRY(set_attribute(taken, kOriginAttribute, header_.identity));
    return remove_attribute(directory_, kImportAttribute);
  }

  const Options& options_;
  const store::CommandContext& context_;
  Input& input_;
  const Mounted mounted_;
  const std::string disk_;
  const Target target_;
  const StreamHeader header_;
  const std::string name_;  ///< of the new snapshot
  const std::string directory_;
  const std::string live_;

  std::optional<std::string> base_;  ///< the snapshot here that is the stream's base
  bool resuming_ = false;
  bool taken_already_ = false;  ///< and not verified
  os::Descriptor base_image_;
  std::string base_path_;
  os::Descriptor image_;
  std::vector<Piece> pieces_;
  StreamTotals totals_;
  std::vector<std::byte> buffer_ = std::vector<std::byte>(kMaxPieceBytes);
};

/// A disk that need not be there, so that all of the word is its name.
Result<Target> find_disk_target(const Options& options) {
  VARVE_TRY_ASSIGN(auto target, find_target(options.store, options.image));
  if (target.written) target.disk = std::exchange(target.written, std::nullopt);
  if (!target.disk || target.snapshot) {
    return fail_refused(EINVAL, fmt::format("{} names no disk: a stream is imported into a disk", quoted(options.image)));
  }
  VARVE_TRY(catalog::validate_name(*target.disk, catalog::NameKind::disk));
  return target;
}

Result<Imported> import_stream(const Options& options, const store::CommandContext& context) {
  VARVE_TRY_ASSIGN(auto target, find_disk_target(options));
  VARVE_TRY_ASSIGN(auto mounted, Mounted::of(target.store, "import writes"));
  VARVE_TRY_ASSIGN(auto input, Input::open(options.path));
  StreamReader reader([&](std::span<std::byte> out) { return input.read(out); });
  VARVE_TRY_ASSIGN(auto header, reader.header());
  return Import(options, context, input, std::move(mounted), std::move(target), std::move(header)).run(reader);
}

}  // namespace

int run_import(const Options& options, store::CommandContext context) {
  const auto imported = import_stream(options, context);
  if (!imported) {
    report(imported.error());
    return imported.error().kind == ErrorKind::damaged ? kExitDamage : kExitFailure;
  }
  if (options.json) {
    print_json(json{{"disk", imported->disk},
                    {"snapshot", imported->snapshot},
                    {"identity", imported->identity},
                    {"was_there", imported->was_there},
                    {"bytes", imported->totals.bytes},
                    {"extents", imported->totals.pieces}});
  } else if (imported->was_there) {
    fmt::print("{}@{} is this snapshot already: nothing to do\n", imported->disk, imported->snapshot);
  } else {
    fmt::print("{}@{} imported and verified: {} written\n", imported->disk, imported->snapshot,
               readable_size(imported->totals.bytes));
  }
  return kExitSuccess;
}

}  // namespace varve::cli
