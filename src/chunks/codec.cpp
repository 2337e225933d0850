#include "varve/chunks/codec.h"

#include <fmt/format.h>
#include <zstd.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <memory>
#include <new>

#include "varve/core/same_bytes.h"
#include "varve/core/units.h"

namespace varve::chunks {
namespace {

constexpr int kMinLevel = 1;
constexpr int kMaxLevel = 19;
constexpr std::size_t kWorthwhileFraction = 16;

// A context costs about a megabyte to set up, more than a chunk to compress: one a thread, kept as long as it.
template <class Context, Context* (*create)(), std::size_t (*destroy)(Context*)>
Context& thread_context() {
  struct Destroy {
    void operator()(Context* context) const { destroy(context); }
  };
  thread_local const std::unique_ptr<Context, Destroy> context(create());
  if (context == nullptr) throw std::bad_alloc();
  return *context;
}

ZSTD_CCtx& compressor() {
  return thread_context<ZSTD_CCtx, ZSTD_createCCtx, ZSTD_freeCCtx>();
}
ZSTD_DCtx& decompressor() {
  return thread_context<ZSTD_DCtx, ZSTD_createDCtx, ZSTD_freeDCtx>();
}

/// Up to here (deltas, most of all) a second encoding costs little: 9 us for a block, where the level itself costs 20 to 30.
constexpr std::size_t kShort = 32 * kKiB;
/// Short matches do not pay where entropy coding alone does well: 4 KiB of random letters become 1902 bytes with these
/// alone, 1997 at level 3. Of text or programs it is the other way round.
constexpr int kLongMatchesOnly = 7;

/// False when it becomes no shorter than `out` was (or zstd cannot: raw always can).
bool compress(std::span<const std::byte> plain, int level, int min_match, std::vector<std::byte>& out) {
  ZSTD_CCtx& context = compressor();
  const bool set = !ZSTD_isError(ZSTD_CCtx_setParameter(&context, ZSTD_c_compressionLevel, level)) &&
                   !ZSTD_isError(ZSTD_CCtx_setParameter(&context, ZSTD_c_minMatch, min_match));
  if (!set) return false;
  // With no more room than is worth using, zstd itself gives up early on what does not compress.
  const std::size_t size = ZSTD_compress2(&context, out.data(), out.size(), plain.data(), plain.size());
  if (ZSTD_isError(size)) return false;
  out.resize(size);
  return true;
}

/// False when it does not pay.
bool compress(std::span<const std::byte> plain, int level, std::vector<std::byte>& out) {
  const std::size_t saving = std::max<std::size_t>(1, plain.size() / kWorthwhileFraction);
  if (plain.size() <= saving) return false;
  out.resize(plain.size() - saving);
  const bool done = compress(plain, level, 0, out);  // 0: the level's own
  if (plain.size() > kShort || out.size() < 2) return done;
  std::vector<std::byte> other(out.size() - (done ? 1 : 0));
  if (!compress(plain, kMinLevel, kLongMatchesOnly, other)) return done;
  out = std::move(other);
  return true;
}

}  // namespace

Result<Compression> Compression::parse(std::string_view text) {
  if (text == "none") return Compression{Codec::raw, 0};
  constexpr std::string_view kPrefix = "zstd:";
  Compression compression;
  if (text.starts_with(kPrefix)) {
    const auto digits = text.substr(kPrefix.size());
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), compression.level);
    const bool number = error == std::errc{} && end == digits.data() + digits.size() && digits.front() != '0';
    if (number && compression.level >= kMinLevel && compression.level <= kMaxLevel) return compression;
  }
  return fail_refused(
      EINVAL, fmt::format("compression \"{}\" is not known: none, or zstd:{} to zstd:{}", text, kMinLevel, kMaxLevel));
}

std::string Compression::to_text() const {
  return codec == Codec::raw ? "none" : fmt::format("zstd:{}", level);
}

Result<Encoded> encode_payload(std::span<const std::byte> plain, Compression compression) {
  Encoded encoded;
  if (compression.codec == Codec::zstd && compress(plain, compression.level, encoded.bytes)) {
    encoded.codec = Codec::zstd;
  } else {
    encoded.bytes.assign(plain.begin(), plain.end());
  }
  thread_local std::vector<std::byte> decoded;
  decoded.resize(plain.size());
  if (!decode_payload(encoded.codec, encoded.bytes, decoded) || !same_bytes(decoded, plain)) {
    return fail_damaged(
        "what was just encoded does not decode to the same bytes: suspect this machine's memory or "
        "processor");
  }
  return encoded;
}

Status decode_payload(Codec codec, std::span<const std::byte> payload, std::span<std::byte> out) {
  switch (codec) {
    case Codec::raw:
      if (payload.size() != out.size()) return fail_damaged("a raw payload is not as long as its record");
      if (!out.empty()) std::memcpy(out.data(), payload.data(), out.size());
      return {};
    case Codec::zstd: {
      // In one call: zstd uses `out` as its window, so that no frame header can make it allocate anything.
      const std::size_t size =
          ZSTD_decompressDCtx(&decompressor(), out.data(), out.size(), payload.data(), payload.size());
      if (ZSTD_isError(size)) return fail_damaged(fmt::format("zstd: {}", ZSTD_getErrorName(size)));
      if (size != out.size()) return fail_damaged("a payload decodes to fewer bytes than its record has");
      return {};
    }
  }
  return fail_damaged(fmt::format("codec {} is not known here", static_cast<unsigned>(codec)));
}

std::optional<std::uint64_t> claimed_size(Codec codec, std::span<const std::byte> payload) {
  if (codec == Codec::raw) return payload.size();
  const unsigned long long size = ZSTD_getFrameContentSize(payload.data(), payload.size());
  if (size == ZSTD_CONTENTSIZE_UNKNOWN || size == ZSTD_CONTENTSIZE_ERROR) return std::nullopt;
  return size;
}

}  // namespace varve::chunks
