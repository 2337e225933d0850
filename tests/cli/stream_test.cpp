// Streams of varve export: what was written is read, and nothing else is taken for it.
#include "stream.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>

#include "support/expect.h"
#include "support/seed.h"

namespace varve::cli {
namespace {

using Bytes = std::vector<std::byte>;

StreamReader reader_of(std::span<const std::byte> bytes) {
  return StreamReader([bytes, at = std::size_t{0}](std::span<std::byte> out) mutable -> Result<std::size_t> {
    const auto count = std::min(out.size(), bytes.size() - at);
    if (count > 0) std::memcpy(out.data(), bytes.data() + at, count);
    at += count;
    return count;
  });
}

StreamWriter::Sink into(Bytes& out) {
  return [&out](std::span<const std::byte> bytes) -> Status {
    out.insert(out.end(), bytes.begin(), bytes.end());
    return {};
  };
}

bool operator==(const Piece& a, const Piece& b) {
  return a.at == b.at && a.count == b.count && a.zeros == b.zeros && a.now == b.now && a.before == b.before;
}

StreamHeader some_header() {
  StreamHeader header;
  header.identity = "0123456789abcdef/1/5/2026-01-31T23:59:59.123456789Z";
  header.disk = "web01";
  header.snapshot = "before \"upgrade\" ü";
  header.size = 10 * kGiB + 777;
  header.base = StreamHeader::Base{"0123456789abcdef/1/4/2026-01-30T23:59:59.123456789Z", "a"};
  return header;
}

/// Small ones, so that each byte can be tried.
std::vector<Frame> some_frames(std::mt19937_64& random, std::size_t frames, std::size_t most_bytes) {
  std::vector<Frame> out;
  std::uint64_t at = 0;
  for (std::size_t i = 0; i < frames; ++i) {
    Frame frame;
    for (std::size_t pieces = 1 + random() % 5; pieces > 0; --pieces) {
      Piece piece;
      piece.at = at + random() % 100'000;
      piece.count = static_cast<std::uint32_t>(1 + random() % most_bytes);
      piece.zeros = random() % 4 == 0;
      Bytes bytes(piece.count);
      if (!piece.zeros) std::ranges::generate(bytes, [&] { return static_cast<std::byte>(random() % 16); });
      piece.now = digest_of(bytes);
      piece.before = Digest{random(), random()};
      if (!piece.zeros) frame.bytes.insert(frame.bytes.end(), bytes.begin(), bytes.end());
      at = piece.at + piece.count;
      frame.pieces.push_back(piece);
    }
    out.push_back(std::move(frame));
  }
  return out;
}

Bytes stream_of(const StreamHeader& header, const std::vector<Frame>& frames) {
  Bytes out;
  StreamWriter writer(into(out));
  EXPECT_OK(writer.header(header));
  for (const auto& frame : frames) EXPECT_OK(writer.frame(frame));
  EXPECT_OK(writer.end());
  return out;
}

/// All frames up to the end, or the error.
Result<std::vector<Frame>> read_all(std::span<const std::byte> bytes) {
  auto reader = reader_of(bytes);
  VARVE_TRY(reader.header());
  std::vector<Frame> frames;
  for (;;) {
    VARVE_TRY_ASSIGN(auto frame, reader.next());
    if (!frame) return frames;
    frames.push_back(*std::move(frame));
  }
}

TEST(Stream, IsReadAsItWasWritten) {
  std::mt19937_64 random(test::seed_for("stream"));
  for (const std::size_t frames : {0U, 1U, 7U}) {
    const auto written = some_frames(random, frames, 100'000);
    auto header = some_header();
    if (frames == 7) header.base.reset();
    const auto bytes = stream_of(header, written);
    auto reader = reader_of(bytes);
    const auto found = reader.header();
    ASSERT_OK(found);
    EXPECT_EQ(*found, header);
    for (const auto& frame : written) {
      const auto read = reader.next();
      ASSERT_OK(read);
      ASSERT_TRUE(*read);
      EXPECT_TRUE(std::ranges::equal((*read)->pieces, frame.pieces, [](const auto& a, const auto& b) { return a == b; }));
      EXPECT_EQ((*read)->bytes, frame.bytes);
    }
    const auto end = reader.next();
    ASSERT_OK(end);
    EXPECT_FALSE(*end);
    EXPECT_EQ(reader.position(), bytes.size());
  }
}

TEST(Stream, CutAnywhereItIsNotWhole) {
  std::mt19937_64 random(test::seed_for("stream"));
  const auto bytes = stream_of(some_header(), some_frames(random, 3, 300));
  ASSERT_OK(read_all(bytes));
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    const auto read = read_all(std::span(bytes).first(size));
    ASSERT_FALSE(read) << size;
    EXPECT_EQ(read.error().kind, ErrorKind::damaged);
    EXPECT_NE(read.error().message.find("not written whole"), std::string::npos) << read.error().message;
  }
  auto longer = bytes;
  longer.push_back(std::byte{0});
  EXPECT_FAILS(read_all(longer), EIO);
}

TEST(Stream, AnyByteThatIsAnotherIsFound) {
  std::mt19937_64 random(test::seed_for("stream"));
  const auto bytes = stream_of(some_header(), some_frames(random, 3, 300));
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    auto changed = bytes;
    changed[at] ^= static_cast<std::byte>(1U << random() % 8);
    const auto read = read_all(changed);
    ASSERT_FALSE(read) << at;
    EXPECT_EQ(read.error().kind, ErrorKind::damaged) << at;
  }
}

TEST(Stream, FramesLeftOutExchangedOrOfAnotherStreamAreFound) {
  std::mt19937_64 random(test::seed_for("stream"));
  const auto frames = some_frames(random, 4, 300);
  auto other_header = some_header();
  other_header.identity += "x";
  // Where each frame begins, and the end.
  const auto marks_of = [](const Bytes& bytes) {
    auto reader = reader_of(bytes);
    EXPECT_OK(reader.header());
    std::vector<std::size_t> marks{static_cast<std::size_t>(reader.position())};
    while (reader.next().value()) marks.push_back(static_cast<std::size_t>(reader.position()));
    return marks;
  };
  const auto bytes = stream_of(some_header(), frames);
  const auto marks = marks_of(bytes);
  ASSERT_EQ(marks.size(), frames.size() + 1);
  const auto cut_out = [](Bytes from, std::size_t begin, std::size_t end) {
    from.erase(from.begin() + static_cast<std::ptrdiff_t>(begin), from.begin() + static_cast<std::ptrdiff_t>(end));
    return from;
  };
  for (std::size_t i = 0; i < frames.size(); ++i) EXPECT_FAILS(read_all(cut_out(bytes, marks[i], marks[i + 1])), EIO) << i;
  Bytes twice = bytes;
  twice.insert(twice.begin() + static_cast<std::ptrdiff_t>(marks[1]), bytes.begin() + static_cast<std::ptrdiff_t>(marks[0]),
               bytes.begin() + static_cast<std::ptrdiff_t>(marks[1]));
  EXPECT_FAILS(read_all(twice), EIO);
  // The frames of one behind the header of another.
  const auto other = stream_of(other_header, frames);
  Bytes mixed(other.begin(), other.begin() + static_cast<std::ptrdiff_t>(marks_of(other)[0]));
  mixed.insert(mixed.end(), bytes.begin() + static_cast<std::ptrdiff_t>(marks[0]), bytes.end());
  EXPECT_FAILS(read_all(mixed), EIO);
}

TEST(Stream, GoesOnBehindAnyFrame) {
  std::mt19937_64 random(test::seed_for("stream"));
  const auto frames = some_frames(random, 5, 5000);
  const auto whole = stream_of(some_header(), frames);
  for (std::size_t size = 0; size < whole.size(); size += 97) {
    auto reader = reader_of(std::span(whole).first(size));
    if (!reader.header()) continue;
    std::size_t kept = 0;
    while (reader.next()) ++kept;
    Bytes again(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(reader.position()));
    StreamWriter writer(into(again), reader.totals());
    for (std::size_t i = kept; i < frames.size(); ++i) ASSERT_OK(writer.frame(frames[i]));
    ASSERT_OK(writer.end());
    ASSERT_EQ(again, whole) << size;
  }
}

}  // namespace
}  // namespace varve::cli
