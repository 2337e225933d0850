#include <algorithm>
#include <cstring>

#include "../../src/cli/stream.h"
#include "fuzz.h"
#include "varve/core/bytes.h"

namespace varve::fuzz {
namespace {

using Bytes = std::vector<std::byte>;

/// The right digest behind [begin, end), if it fits.
bool seal(Bytes& bytes, std::size_t begin, std::size_t end) {
  if (end < begin || bytes.size() < 16 || end > bytes.size() - 16) return false;
  const Digest digest = digest_of(std::span<const std::byte>(bytes).subspan(begin, end - begin));
  for (std::size_t i = 0; i < 8; ++i) {
    bytes[end + i] = static_cast<std::byte>(digest.high >> (56 - 8 * i));
    bytes[end + 8 + i] = static_cast<std::byte>(digest.low >> (56 - 8 * i));
  }
  return true;
}

std::uint32_t number_at(const Bytes& bytes, std::size_t at) {
  if (at + 4 > bytes.size()) return 0;
  return ByteReader(std::span<const std::byte>(bytes).subspan(at, 4)).get<std::uint32_t>();
}

/// Header and frames with the digests that they should have: what is behind those is reached.
Bytes sealed(Input input) {
  Bytes bytes(input.begin(), input.end());
  std::size_t at = 16 + std::size_t{number_at(bytes, 12)};
  if (!seal(bytes, 0, at)) return bytes;
  at += 16;
  while (at < bytes.size()) {
    const std::size_t count = number_at(bytes, at + 4);
    const std::size_t stored = number_at(bytes, at + 12);
    const bool is_end = number_at(bytes, at) == 0x454e4f44;
    const std::size_t end = is_end ? at + 48 : at + 24 + 48 * count + stored;
    if (!seal(bytes, at, end)) return bytes;
    at = end + 16;
  }
  return bytes;
}

void read_to_the_end(const Bytes& bytes) {
  std::size_t at = 0;
  cli::StreamReader reader([&](std::span<std::byte> out) -> Result<std::size_t> {
    const auto count = std::min(out.size(), bytes.size() - at);
    if (count > 0) std::memcpy(out.data(), bytes.data() + at, count);
    at += count;
    return count;
  });
  const auto header = reader.header();
  if (!header) {
    require(header.error().code == EIO && !header.error().message.empty(), "what is no stream is refused with a sentence");
    return;
  }
  std::uint64_t end = 0;
  for (;;) {
    const auto frame = reader.next();
    require(reader.position() <= bytes.size(), "no more is read than there is");
    if (!frame || !*frame) return;
    require(!(*frame)->pieces.empty() && (*frame)->bytes.size() <= cli::kMaxFrameBytes, "a frame is bounded");
    std::size_t used = 0;
    for (const auto& piece : (*frame)->pieces) {
      require(piece.count > 0 && piece.at >= end && piece.at + piece.count <= header->size, "pieces ascend in the image");
      end = piece.at + piece.count;
      if (!piece.zeros) used += piece.count;
    }
    require(used == (*frame)->bytes.size(), "each piece has its bytes");
  }
}

}  // namespace

void fuzz_export_stream(Input input) {
  read_to_the_end(Bytes(input.begin(), input.end()));
  read_to_the_end(sealed(input));
}

Seeds export_stream_seeds() {
  Seeds seeds;
  for (const bool incremental : {false, true}) {
    Bytes out;
    cli::StreamWriter writer([&](std::span<const std::byte> bytes) -> Status {
      out.insert(out.end(), bytes.begin(), bytes.end());
      return {};
    });
    cli::StreamHeader header{"ab/1/2/2026-01-31T23:59:59.1Z", "web01", "s", 100'000, std::nullopt};
    if (incremental) header.base = cli::StreamHeader::Base{"ab/1/1/2026-01-30T23:59:59.1Z", "r"};
    cli::Frame frame;
    frame.bytes.assign(5000, std::byte{'x'});
    const Bytes zeros(4096);
    frame.pieces.push_back({4096, 4096, true, digest_of(zeros), Digest{1, 2}});
    frame.pieces.push_back({20'000, 5000, false, digest_of(frame.bytes), Digest{3, 4}});
    require(writer.header(header).has_value() && writer.frame(frame).has_value() && writer.end().has_value(), "a seed");
    seeds.push_back(std::move(out));
  }
  return seeds;
}

}  // namespace varve::fuzz
