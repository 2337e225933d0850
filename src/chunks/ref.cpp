#include "varve/chunks/ref.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <vector>

#include "format.h"
#include "varve/core/bytes.h"

namespace varve::chunks {
namespace {

/// All of `text` as an unsigned number of exactly `digits` digits (0: any number of them).
template <class T>
bool parse_number(std::string_view text, int base, std::size_t digits, T& value) {
  if (text.empty() || (digits != 0 && text.size() != digits)) return false;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  return error == std::errc{} && end == text.data() + text.size();
}

/// Only forms that we write ourselves stand for something; whatever else names no pack must not read as zeros.
MaybeRef interpret(const Ref& ref) {
  if (ref.pack != PackId{0}) return ref;
  return ref == Ref{} ? std::nullopt : MaybeRef(Ref::make_damaged());
}

}  // namespace

void encode(const Ref& ref, std::span<std::byte, Ref::kEncodedSize> out) {
  std::vector<std::byte> bytes;
  bytes.reserve(Ref::kEncodedSize);
  ByteWriter writer(bytes);
  writer.put(ref.pack.value());
  writer.put(ref.ordinal);
  format::put_digest(writer, ref.digest);
  std::ranges::copy(bytes, out.begin());
}

MaybeRef decode(std::span<const std::byte, Ref::kEncodedSize> in) {
  ByteReader reader(in);
  Ref ref;
  ref.pack = PackId{reader.get<std::uint64_t>()};
  ref.ordinal = reader.get<std::uint32_t>();
  ref.digest = format::get_digest(reader);
  return interpret(ref);
}

OpaqueRoot to_opaque(const MaybeRef& root) {
  OpaqueRoot opaque;
  if (root) encode(*root, opaque.bytes);
  return opaque;
}

MaybeRef from_opaque(const OpaqueRoot& root) {
  return decode(root.bytes);
}

std::string to_text(const Ref& ref) {
  if (ref.damaged()) return "a chunk that was already unreadable when it was committed";
  return fmt::format("pack {:016x}/{}", ref.pack.value(), ref.ordinal);
}

std::string to_log_text(const MaybeRef& ref) {
  if (!ref) return {};
  return fmt::format("{:016x}:{}:{}", ref->pack.value(), ref->ordinal, to_hex(ref->digest));
}

Result<MaybeRef> parse_log_text(std::string_view text) {
  if (text.empty()) return MaybeRef{};
  const auto first = text.find(':');
  const auto second = first == std::string_view::npos ? first : text.find(':', first + 1);
  Ref ref;
  std::uint64_t pack = 0;
  const bool good = second != std::string_view::npos && text.size() - second - 1 == 32 &&
                    parse_number(text.substr(0, first), 16, 16, pack) &&
                    parse_number(text.substr(first + 1, second - first - 1), 10, 0, ref.ordinal) &&
                    parse_number(text.substr(second + 1, 16), 16, 16, ref.digest.high) &&
                    parse_number(text.substr(second + 17), 16, 16, ref.digest.low);
  ref.pack = PackId{pack};
  // What we wrote ourselves reads back the same; anything else (capitals, leading zeros, pack 0) is damage.
  if (!good || to_log_text(ref) != text || interpret(ref) != MaybeRef(ref)) {
    return fail_damaged(fmt::format("\"{}\" is not a record's name", text));
  }
  return MaybeRef(ref);
}

}  // namespace varve::chunks
