#include "checked_json.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <span>
#include <string>

#include "varve/core/digest.h"

namespace varve::store {
namespace {

using nlohmann::json;

/// The library copies and prints by recursion: a file that is all brackets would take the stack.
constexpr int kMaxDepth = 16;

bool too_deep(std::string_view text) {
  int depth = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '"') in_string = !in_string;
    if (in_string && c == '\\') ++i;
    if (in_string) continue;
    if (c == '[' || c == '{') ++depth;
    if (c == ']' || c == '}') --depth;
    if (depth > kMaxDepth) return true;
  }
  return false;
}

std::string checksum_of(json object) {
  object.erase("checksum");
  const std::string text = object.dump();
  return to_hex(digest_of(std::as_bytes(std::span(text))));
}

}  // namespace

Result<json> read_checked_json(os::Storage& storage, std::string_view path, unsigned format) {
  VARVE_TRY_ASSIGN(const auto bytes, os::read_file(storage, path, kMaxCheckedJson));
  const auto* text = reinterpret_cast<const char*>(bytes.data());
  if (too_deep({text, bytes.size()})) return fail_damaged("not what varve writes");
  json object = json::parse(text, text + bytes.size(), nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) return fail_damaged("not a JSON object");
  const auto version = object.find("format");
  if (version == object.end() || !version->is_number_unsigned()) return fail_damaged("no format version");
  if (*version != format) {
    return fail_refused(ENOTSUP, fmt::format("{}: format {} is not known to this version of varve, which reads format "
                                             "{}; use a newer varve",
                                             path, version->dump(), format));
  }
  const auto checksum = object.find("checksum");
  if (checksum == object.end() || !checksum->is_string() || *checksum != checksum_of(object)) {
    return fail_damaged("its checksum does not match");
  }
  return object;
}

Status write_checked_json(os::Storage& storage, std::string_view path, json object) {
  object["checksum"] = checksum_of(object);
  const std::string text = object.dump(2) + "\n";
  if (text.size() > kMaxCheckedJson.value()) {
    return fail_refused(E2BIG, fmt::format("{} would have {} bytes, {} are allowed", path, text.size(),
                                           kMaxCheckedJson.value()));
  }
  return os::replace_file_durably(storage, path, std::as_bytes(std::span(text)));
}

}  // namespace varve::store
