#include "import_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "diff.h"
#include "mounted.h"
#include "print.h"

namespace varve::cli {
namespace {

class Check {
 public:
  Check(const ImportedSnapshot& snapshot, const store::CommandContext& context)
      : size_(snapshot.header.size), pieces_(snapshot.pieces), snapshot_(snapshot), context_(context) {}

  Status run() {
    VARVE_TRY_ASSIGN(image_, open_file(snapshot_.path, O_RDONLY));
    VARVE_TRY_ASSIGN(const auto size, size_of(image_, snapshot_.path));
    if (size != size_) return fail_damaged(fmt::format("its size is {}, not {}", size, size_));
    VARVE_TRY(snapshot_.base ? nothing_but_pieces_differs() : nothing_but_pieces_is_there());
    return read_pieces();
  }

 private:
  /// The part of [at, end) that no piece covers: where it begins.
  std::optional<std::uint64_t> outside_pieces(std::uint64_t at, std::uint64_t end) const {
    auto piece = std::ranges::upper_bound(pieces_, at, {}, [](const Piece& one) { return one.at + one.count; });
    while (at < end) {
      if (piece == pieces_.end() || piece->at > at) return at;
      at = piece->at + piece->count;
      ++piece;
    }
    return std::nullopt;
  }

  static tl::unexpected<Error> fail_written(std::uint64_t at) {
    return fail_damaged(fmt::format("something else wrote to the live image, at {}", at));
  }

  Status nothing_but_pieces_differs() {
    const auto differs = [&](std::uint64_t at, std::uint64_t count) -> Status {
      // Behind its end nothing of the new image is left to differ.
      const auto outside = outside_pieces(at, std::min(at + count, std::max(at, size_)));
      return outside ? Status(fail_written(*outside)) : Status{};
    };
    VARVE_TRY(request_diff(*snapshot_.base, snapshot_.target, context_, differs));
    return {};
  }

  Status nothing_but_pieces_is_there() {
    for (std::uint64_t at = 0;;) {
      VARVE_TRY_ASSIGN(const auto data, next_data(image_, snapshot_.path, at, size_));
      if (!data) return {};
      VARVE_TRY(zeros_outside_pieces(*data));
      at = data->end;
    }
  }

  Status zeros_outside_pieces(const DataExtent& data) {
    for (auto outside = outside_pieces(data.at, data.end); outside;) {
      const auto next = std::ranges::upper_bound(pieces_, *outside, {}, &Piece::at);
      const auto end =
          std::min({data.end, next == pieces_.end() ? data.end : next->at, *outside + std::uint64_t{buffer_.size()}});
      const auto bytes = std::span(buffer_).first(static_cast<std::size_t>(end - *outside));
      VARVE_TRY(read_image(image_, snapshot_.path, *outside, bytes));
      const auto wrong = std::ranges::find_if(bytes, [](std::byte byte) { return byte != std::byte{0}; });
      if (wrong != bytes.end()) return fail_written(*outside + static_cast<std::uint64_t>(wrong - bytes.begin()));
      outside = outside_pieces(end, data.end);
    }
    return {};
  }

  Status read_pieces() {
    ProgressBar bar("reading back");
    for (const Piece& piece : pieces_) {
      if (context_.stop()) return fail(ECANCELED, ErrorKind::refused, "interrupted; the same command goes on from here");
      const auto bytes = std::span(buffer_).first(piece.count);
      VARVE_TRY(read_image(image_, snapshot_.path, piece.at, bytes));
      if (digest_of(bytes) != piece.now) return fail_damaged(fmt::format("it has other bytes at {}", piece.at));
      bar.show(piece.at, size_);
    }
    return {};
  }

  const std::uint64_t size_;
  const std::vector<Piece>& pieces_;
  const ImportedSnapshot& snapshot_;
  const store::CommandContext& context_;
  os::Descriptor image_;
  std::vector<std::byte> buffer_ = std::vector<std::byte>(kMaxPieceBytes);
};

}  // namespace

Status check_imported(const ImportedSnapshot& snapshot, const store::CommandContext& context) {
  return Check(snapshot, context).run();
}

}  // namespace varve::cli
