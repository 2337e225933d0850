#include "varve/catalog/names.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstdint>

namespace varve::catalog {
namespace {

/// Longest part of a name that is put into a message.
constexpr std::size_t kQuotedBytes = 80;

struct CodePoint {
  std::uint32_t value = 0;
  std::size_t bytes = 0;  ///< 0: not UTF-8 here
};

constexpr std::uint32_t byte_at(std::string_view text, std::size_t at) {
  return static_cast<unsigned char>(text[at]);
}

/// The code point `text` begins with. Strict (RFC 3629): neither overlong forms nor surrogates.
CodePoint first_code_point(std::string_view text) {
  const std::uint32_t lead = byte_at(text, 0);
  if (lead < 0x80) return {lead, 1};
  const std::size_t bytes = lead >= 0xF0 && lead <= 0xF4 ? 4 : lead >= 0xE0 && lead <= 0xEF ? 3 : lead >= 0xC2 ? 2 : 0;
  if (bytes == 0 || lead > 0xF4 || text.size() < bytes) return {};
  std::uint32_t value = lead & (0xFFu >> (bytes + 1));
  for (std::size_t i = 1; i < bytes; ++i) {
    if ((byte_at(text, i) & 0xC0) != 0x80) return {};
    value = value << 6 | (byte_at(text, i) & 0x3F);
  }
  const bool overlong = (bytes == 3 && value < 0x800) || (bytes == 4 && value < 0x10000);
  const bool surrogate = value >= 0xD800 && value <= 0xDFFF;
  if (overlong || surrogate || value > 0x10FFFF) return {};
  return {value, bytes};
}

constexpr bool is_control(std::uint32_t code_point) {
  return code_point < 0x20 || (code_point >= 0x7F && code_point < 0xA0);
}

std::string_view to_text(NameKind kind) {
  switch (kind) {
    case NameKind::disk:
      return "disk";
    case NameKind::snapshot:
      return "snapshot";
    case NameKind::policy:
      break;
  }
  return "policy";
}

}  // namespace

std::string_view wrong_in_text(std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    const CodePoint code_point = first_code_point(text.substr(at));
    if (code_point.bytes == 0) return "it is not valid UTF-8";
    if (is_control(code_point.value)) return "it has a control character";
    at += code_point.bytes;
  }
  return {};
}

Status validate_name(std::string_view name, NameKind kind) {
  const auto refuse = [&](int code, std::string_view why) {
    return fail_refused(code, fmt::format("{} cannot be the name of a {}: {}", quoted(name), to_text(kind), why));
  };
  if (name.empty()) return refuse(EINVAL, "it is empty");
  if (name.size() > kMaxNameSize) {
    return refuse(ENAMETOOLONG, fmt::format("it has {} bytes, {} are allowed", name.size(), kMaxNameSize));
  }
  if (const auto why = wrong_in_text(name); !why.empty()) return refuse(EINVAL, why);
  if (name.find('/') != std::string_view::npos) return refuse(EINVAL, "it has a '/'");
  if (name.front() == '.') return refuse(EINVAL, "names beginning with '.' are reserved");
  if (name == kImageName) return refuse(EINVAL, "that is the name of the image itself");
  return {};
}

std::string Quoted::operator()(std::string_view bytes) const {
  std::string text = "\"";
  std::size_t at = 0;
  while (at < bytes.size() && at < kQuotedBytes) {
    const CodePoint code_point = first_code_point(bytes.substr(at));
    if (code_point.bytes == 0 || is_control(code_point.value)) {
      text += fmt::format("\\x{:02x}", byte_at(bytes, at));
      // A two-byte control character (C1) is escaped byte by byte: its second byte is not UTF-8 by itself.
      ++at;
      continue;
    }
    if (code_point.value == '"' || code_point.value == '\\') text += '\\';
    text += bytes.substr(at, code_point.bytes);
    at += code_point.bytes;
  }
  text += at < bytes.size() ? "...\"" : "\"";
  return text;
}

}  // namespace varve::catalog
