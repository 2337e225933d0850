// The format of `varve export`, without files: a header, frames of changed extents in ascending order, an end. Described
// byte for byte in varve-store(5), EXPORT STREAMS.
//
// Nothing in a stream is trusted: each number is checked before it is used, memory is bounded by a frame whatever it
// says, and the only way to its end is through every digest of it.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "varve/core/digest.h"
#include "varve/core/result.h"
#include "varve/core/units.h"

namespace varve::cli {

/// A piece, and what the payload of one frame decodes to, at most.
constexpr std::size_t kMaxPieceBytes = 1 * kMiB;
constexpr std::size_t kMaxFrameBytes = 1 * kMiB;
constexpr std::size_t kMaxFramePieces = 4096;
constexpr std::size_t kMaxStreamHeader = 64 * kKiB;

struct StreamHeader {
  /// Which snapshot, wherever it is now: STORE/DISK/SNAPSHOT/INSTANT of the store that took it.
  std::string identity;
  std::string disk;      ///< its names when it was exported
  std::string snapshot;
  std::uint64_t size = 0;  ///< of the image, in bytes
  /// What the stream is the difference to; nothing: to zeros.
  struct Base {
    std::string identity;
    std::string snapshot;
    friend bool operator==(const Base&, const Base&) = default;
  };
  std::optional<Base> base;
  friend bool operator==(const StreamHeader&, const StreamHeader&) = default;
};

/// What is at [at, at + count) of the image, and what the base has there.
struct Piece {
  std::uint64_t at = 0;
  std::uint32_t count = 0;
  bool zeros = false;  ///< nothing but: not in the payload
  Digest now;
  Digest before;
};

struct Frame {
  std::vector<Piece> pieces;
  std::vector<std::byte> bytes;  ///< of pieces that are not zeros, one behind the other
};

/// What is behind the frames so far: where a stream that was interrupted goes on.
struct StreamTotals {
  std::uint64_t frames = 0;
  std::uint64_t pieces = 0;
  std::uint64_t bytes = 0;  ///< of the image, zeros included
  std::uint64_t end = 0;    ///< of the last piece
  Digest chain;             ///< over the header and the digest of each frame
};

class StreamWriter {
 public:
  using Sink = std::function<Status(std::span<const std::byte>)>;
  explicit StreamWriter(Sink sink) : sink_(std::move(sink)) {}
  /// Goes on behind frames that are there: for `totals` of a reader.
  StreamWriter(Sink sink, const StreamTotals& totals) : sink_(std::move(sink)), totals_(totals) {}

  [[nodiscard]] Status header(const StreamHeader& header);
  /// One that is_sound() and begins behind all before it; of its pieces, digests included, the caller is the author.
  [[nodiscard]] Status frame(const Frame& frame);
  [[nodiscard]] Status end();
  [[nodiscard]] const StreamTotals& totals() const { return totals_; }

 private:
  const Sink sink_;
  StreamTotals totals_;
};

/// Errors: EIO (damaged) with the byte of the stream it is about; those of the source.
class StreamReader {
 public:
  /// Fills `out`; short only at the end of the stream.
  using Source = std::function<Result<std::size_t>(std::span<std::byte> out)>;
  explicit StreamReader(Source source) : source_(std::move(source)) {}

  /// First, once.
  [[nodiscard]] Result<StreamHeader> header();
  /// The next frame, decoded, each of its pieces verified against its digest; nothing when the end came, and said that
  /// these were all, and nothing is behind it.
  [[nodiscard]] Result<std::optional<Frame>> next();
  [[nodiscard]] const StreamTotals& totals() const { return totals_; }
  /// Bytes of the stream up to the end of what the last successful call returned.
  [[nodiscard]] std::uint64_t position() const { return position_; }

 private:
  Status fill(std::span<std::byte> out);
  Result<Frame> data_frame(std::span<const std::byte> head);
  Status end_frame(std::span<const std::byte> head);
  [[nodiscard]] tl::unexpected<Error> damaged(const std::string& what) const;

  const Source source_;
  StreamTotals totals_;
  std::uint64_t size_ = 0;      ///< of the image
  std::uint64_t position_ = 0;
  std::uint64_t taken_ = 0;     ///< from the source
};

}  // namespace varve::cli
