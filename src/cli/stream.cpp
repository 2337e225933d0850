#include "stream.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string_view>

#include "varve/catalog/names.h"
#include "varve/chunks/codec.h"
#include "varve/core/bytes.h"

namespace varve::cli {
namespace {

using nlohmann::json;
using Bytes = std::vector<std::byte>;

constexpr std::string_view kMagic = "VARVEXP1";
constexpr std::uint32_t kVersion = 1;
constexpr std::uint32_t kDataFrame = 0x41544144;  // "DATA"
constexpr std::uint32_t kEndFrame = 0x454e4f44;   // "DONE"
constexpr std::size_t kHeaderHead = 16;
constexpr std::size_t kFrameHead = 24;
constexpr std::size_t kPieceBytes = 48;
constexpr std::size_t kDigestBytes = 16;
constexpr std::size_t kEndFrameBytes = 48 + kDigestBytes;
constexpr std::uint32_t kZeros = 1;
constexpr std::size_t kMaxIdentity = 200;
constexpr chunks::Compression kCompression{chunks::Codec::zstd, 3};
/// Beyond every image that there can be.
constexpr std::uint64_t kMaxImage = kMaxChunkSize * kMaxChunksPerImage;

void put_digest(ByteWriter& out, const Digest& digest) {
  for (const std::uint64_t half : {digest.high, digest.low}) {
    for (int shift = 56; shift >= 0; shift -= 8) out.put(static_cast<std::uint8_t>(half >> shift));
  }
}

Digest get_digest(ByteReader& in) {
  const auto half = [&in] {
    std::uint64_t value = 0;
    for (int i = 0; i < 8; ++i) value = value << 8 | in.get<std::uint8_t>();
    return value;
  };
  Digest digest;
  digest.high = half();
  digest.low = half();
  return digest;
}

void seal(Bytes& bytes) {
  const Digest digest = digest_of(bytes);
  ByteWriter out(bytes);
  put_digest(out, digest);
}

/// Whether the last 16 bytes are the digest of those before them.
bool is_sealed(std::span<const std::byte> bytes) {
  ByteReader in(bytes.last(kDigestBytes));
  return get_digest(in) == digest_of(bytes.first(bytes.size() - kDigestBytes));
}

Digest chained(const Digest& chain, std::span<const std::byte> sealed) {
  Bytes both;
  ByteWriter out(both);
  put_digest(out, chain);
  out.put_bytes(sealed.last(kDigestBytes));
  return digest_of(both);
}

bool is_identity(const std::string& text) {
  return !text.empty() && text.size() <= kMaxIdentity &&
         std::ranges::all_of(text, [](char c) { return c > 0x20 && c < 0x7f; });
}

bool is_name(const std::string& text, catalog::NameKind kind) { return catalog::validate_name(text, kind).has_value(); }

json to_json(const StreamHeader& header) {
  json out{{"block_size", kBlockSize}, {"disk", header.disk},         {"identity", header.identity},
           {"size", header.size},      {"snapshot", header.snapshot}, {"base", nullptr}};
  if (header.base) out["base"] = json{{"identity", header.base->identity}, {"snapshot", header.base->snapshot}};
  return out;
}

std::optional<std::string> text_of(const json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_string()) return std::nullopt;
  return found->get<std::string>();
}

std::optional<StreamHeader> from_json(const json& object) {
  if (!object.is_object()) return std::nullopt;
  StreamHeader header;
  header.identity = text_of(object, "identity").value_or("");
  header.disk = text_of(object, "disk").value_or("");
  header.snapshot = text_of(object, "snapshot").value_or("");
  const auto number = [&](const char* key) -> std::uint64_t {
    const auto found = object.find(key);
    return found != object.end() && found->is_number_unsigned() ? found->get<std::uint64_t>() : UINT64_MAX;
  };
  header.size = number("size");
  const auto base = object.find("base");
  if (base == object.end() || number("block_size") != kBlockSize) return std::nullopt;
  if (!base->is_null()) {
    if (!base->is_object()) return std::nullopt;
    header.base = {text_of(*base, "identity").value_or(""), text_of(*base, "snapshot").value_or("")};
    if (!is_identity(header.base->identity) || !is_name(header.base->snapshot, catalog::NameKind::snapshot)) {
      return std::nullopt;
    }
  }
  const bool valid = is_identity(header.identity) && is_name(header.disk, catalog::NameKind::disk) &&
                     is_name(header.snapshot, catalog::NameKind::snapshot) && header.size <= kMaxImage;
  return valid ? std::optional(std::move(header)) : std::nullopt;
}


}  // namespace

// --- writing ---------------------------------------------------------------------------------------------------------

Status StreamWriter::header(const StreamHeader& header) {
  const std::string text = to_json(header).dump();
  Bytes bytes;
  ByteWriter out(bytes);
  out.put_text(kMagic);
  out.put(kVersion);
  out.put(static_cast<std::uint32_t>(text.size()));
  out.put_text(text);
  seal(bytes);
  totals_.chain = chained({}, bytes);
  return sink_(bytes);
}

Status StreamWriter::frame(const Frame& frame) {
  chunks::Encoded payload;
  if (!frame.bytes.empty()) {
    VARVE_TRY_ASSIGN(payload, chunks::encode_payload(frame.bytes, kCompression));
  }
  Bytes bytes;
  ByteWriter out(bytes);
  out.put(kDataFrame);
  out.put(static_cast<std::uint32_t>(frame.pieces.size()));
  out.put(static_cast<std::uint32_t>(frame.bytes.size()));
  out.put(static_cast<std::uint32_t>(payload.bytes.size()));
  out.put(static_cast<std::uint64_t>(payload.codec));
  for (const Piece& piece : frame.pieces) {
    out.put(piece.at);
    out.put(piece.count);
    out.put(piece.zeros ? kZeros : std::uint32_t{0});
    put_digest(out, piece.now);
    put_digest(out, piece.before);
    totals_.bytes += piece.count;
    totals_.end = piece.at + piece.count;
  }
  out.put_bytes(payload.bytes);
  seal(bytes);
  ++totals_.frames;
  totals_.pieces += frame.pieces.size();
  totals_.chain = chained(totals_.chain, bytes);
  return sink_(bytes);
}

Status StreamWriter::end() {
  Bytes bytes;
  ByteWriter out(bytes);
  out.put(kEndFrame);
  out.put(std::uint32_t{0});
  out.put(totals_.frames);
  out.put(totals_.pieces);
  out.put(totals_.bytes);
  put_digest(out, totals_.chain);
  seal(bytes);
  return sink_(bytes);
}

// --- reading ---------------------------------------------------------------------------------------------------------

tl::unexpected<Error> StreamReader::damaged(const std::string& what) const {
  return fail_damaged(fmt::format("the stream is damaged in what begins at its byte {}: {}", position_, what));
}

Status StreamReader::fill(std::span<std::byte> out) {
  VARVE_TRY_ASSIGN(const std::size_t got, source_(out));
  taken_ += got;
  if (got == out.size()) return {};
  return fail_damaged(fmt::format("the stream ends at its byte {}, before its end frame: it was not written whole", taken_));
}

Result<StreamHeader> StreamReader::header() {
  Bytes bytes(kHeaderHead);
  VARVE_TRY(fill(bytes));
  ByteReader head(bytes);
  const auto magic = head.get_bytes(kMagic.size());
  if (!std::ranges::equal(magic, std::as_bytes(std::span(kMagic)))) {
    return fail_damaged("this is no stream of varve export");
  }
  if (const auto version = head.get<std::uint32_t>(); version != kVersion) {
    return fail_damaged(fmt::format("the stream has version {}, this varve knows {}", version, kVersion));
  }
  const auto length = head.get<std::uint32_t>();
  if (length > kMaxStreamHeader) return damaged("the header's length");
  bytes.resize(kHeaderHead + length + kDigestBytes);
  VARVE_TRY(fill(std::span(bytes).subspan(kHeaderHead)));
  if (!is_sealed(bytes)) return damaged("the header does not match its digest");
  const auto* text = reinterpret_cast<const char*>(bytes.data()) + kHeaderHead;
  auto header = from_json(json::parse(text, text + length, nullptr, false));
  if (!header) return damaged("the header has not what it needs");
  size_ = header->size;
  totals_.chain = chained({}, bytes);
  position_ = taken_;
  return *std::move(header);
}

Result<std::optional<Frame>> StreamReader::next() {
  Bytes head(kFrameHead);
  VARVE_TRY(fill(head));
  ByteReader in(head);
  const auto kind = in.get<std::uint32_t>();
  if (kind == kDataFrame) {
    VARVE_TRY_ASSIGN(Frame frame, data_frame(head));
    position_ = taken_;
    return std::optional(std::move(frame));
  }
  if (kind != kEndFrame) return damaged("neither a frame nor the end");
  VARVE_TRY(end_frame(head));
  position_ = taken_;
  return std::optional<Frame>();
}

Status StreamReader::end_frame(std::span<const std::byte> head) {
  Bytes bytes(head.begin(), head.end());
  bytes.resize(kEndFrameBytes);
  VARVE_TRY(fill(std::span(bytes).subspan(kFrameHead)));
  if (!is_sealed(bytes)) return damaged("the end does not match its digest");
  ByteReader in(std::span<const std::byte>(bytes).subspan(4));
  const bool reserved = in.get<std::uint32_t>() == 0;
  const bool counts = in.get<std::uint64_t>() == totals_.frames && in.get<std::uint64_t>() == totals_.pieces &&
                      in.get<std::uint64_t>() == totals_.bytes;
  if (!reserved || !counts || get_digest(in) != totals_.chain) return damaged("the end is another stream's");
  std::byte more{};
  VARVE_TRY_ASSIGN(const std::size_t got, source_({&more, 1}));
  if (got != 0) return damaged("something is behind the end");
  return {};
}

Result<Frame> StreamReader::data_frame(std::span<const std::byte> head) {
  ByteReader in(head.subspan(4));
  const auto count = in.get<std::uint32_t>();
  const auto plain = in.get<std::uint32_t>();
  const auto stored = in.get<std::uint32_t>();
  const auto codec = in.get<std::uint64_t>();
  if (count == 0 || count > kMaxFramePieces || plain > kMaxFrameBytes || stored > plain || (stored == 0) != (plain == 0) ||
      codec > static_cast<std::uint64_t>(chunks::Codec::zstd)) {
    return damaged("a frame's head");
  }
  Bytes whole(head.begin(), head.end());
  whole.resize(kFrameHead + count * kPieceBytes + stored + kDigestBytes);
  VARVE_TRY(fill(std::span(whole).subspan(kFrameHead)));
  if (!is_sealed(whole)) return damaged("a frame does not match its digest");

  Frame frame;
  StreamTotals totals = totals_;
  std::uint64_t in_payload = 0;
  ByteReader entries(std::span<const std::byte>(whole).subspan(kFrameHead));
  for (std::uint32_t i = 0; i < count; ++i) {
    Piece piece;
    piece.at = entries.get<std::uint64_t>();
    piece.count = entries.get<std::uint32_t>();
    const auto flags = entries.get<std::uint32_t>();
    piece.zeros = flags == kZeros;
    piece.now = get_digest(entries);
    piece.before = get_digest(entries);
    if (flags > kZeros || piece.count == 0 || piece.count > kMaxPieceBytes || piece.at < totals.end || piece.at > size_ ||
        piece.count > size_ - piece.at) {
      return damaged("a piece of a frame");
    }
    totals.end = piece.at + piece.count;
    totals.bytes += piece.count;
    if (!piece.zeros) in_payload += piece.count;
    frame.pieces.push_back(piece);
  }
  if (in_payload != plain) return damaged("a frame's length is not that of its pieces");

  const auto payload = entries.get_bytes(stored);
  frame.bytes.resize(plain);
  if (plain > 0) {
    const auto decoded = chunks::decode_payload(static_cast<chunks::Codec>(codec), payload, frame.bytes);
    if (!decoded) return damaged("a frame's payload: " + decoded.error().message);
  }
  static const Bytes kZeroBytes(kMaxPieceBytes);
  std::size_t at = 0;
  for (const Piece& piece : frame.pieces) {
    const auto bytes = piece.zeros ? std::span(kZeroBytes).first(piece.count) : std::span<const std::byte>(frame.bytes).subspan(at, piece.count);
    if (!piece.zeros) at += piece.count;
    if (digest_of(bytes) != piece.now) {
      return damaged(fmt::format("the bytes for {} of the image do not match their digest", piece.at));
    }
  }
  ++totals.frames;
  totals.pieces += count;
  totals.chain = chained(totals.chain, whole);
  totals_ = totals;
  return frame;
}

}  // namespace varve::cli
