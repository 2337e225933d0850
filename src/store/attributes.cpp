#include "attributes.h"

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

namespace varve::store {
namespace {

using nlohmann::json;

/// xattr values are any bytes; JSON text is not.
std::string to_hex(std::string_view bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string hex;
  hex.reserve(bytes.size() * 2);
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    hex.push_back(kDigits[byte >> 4]);
    hex.push_back(kDigits[byte & 15]);
  }
  return hex;
}

int digit_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

std::optional<std::string> from_hex(std::string_view hex) {
  if (hex.size() % 2 != 0) return std::nullopt;
  std::string bytes;
  bytes.reserve(hex.size() / 2);
  for (std::size_t i = 0; i < hex.size(); i += 2) {
    const int high = digit_value(hex[i]);
    const int low = digit_value(hex[i + 1]);
    if (high < 0 || low < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(high * 16 + low));
  }
  return bytes;
}

std::optional<std::uint32_t> get_u32(const json& object, const char* name) {
  const auto it = object.find(name);
  if (it == object.end() || !it->is_number_unsigned()) return std::nullopt;
  const auto value = it->get<std::uint64_t>();
  if (value > UINT32_MAX) return std::nullopt;
  return static_cast<std::uint32_t>(value);
}

}  // namespace

json to_json(const Attributes& attributes) {
  json xattrs = json::object();
  for (const auto& [name, value] : attributes.xattrs) xattrs[to_hex(name)] = to_hex(value);
  return json{{"owner", attributes.owner}, {"group", attributes.group}, {"mode", attributes.mode}, {"xattrs", xattrs}};
}

Result<Attributes> attributes_from_json(const json& object) {
  if (!object.is_object()) return fail_damaged("attributes are not an object");
  const auto owner = get_u32(object, "owner");
  const auto group = get_u32(object, "group");
  const auto mode = get_u32(object, "mode");
  const auto xattrs = object.find("xattrs");
  if (!owner || !group || !mode || *mode > 07777 || xattrs == object.end() || !xattrs->is_object()) {
    return fail_damaged("attributes have a missing or impossible member");
  }
  Attributes attributes{*owner, *group, *mode, {}};
  for (const auto& [name, value] : xattrs->items()) {
    if (!value.is_string()) return fail_damaged("an extended attribute is not text");
    auto plain_name = from_hex(name);
    auto plain_value = from_hex(value.get_ref<const std::string&>());
    if (!plain_name || !plain_value) return fail_damaged("an extended attribute is not hexadecimal");
    attributes.xattrs.emplace(std::move(*plain_name), std::move(*plain_value));
  }
  return attributes;
}

std::string encode(const PendingAttributes& attributes) {
  return json{{"directory", to_json(attributes.directory)},
              {"image", to_json(attributes.image)},
              {"care", catalog::to_json(attributes.care)}}
      .dump();
}

Result<PendingAttributes> decode_pending_attributes(std::string_view text) {
  const json object = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object() || !object.contains("directory") || !object.contains("image") || !object.contains("care")) {
    return fail_damaged("the attributes of a pending snapshot cannot be read");
  }
  VARVE_TRY_ASSIGN(Attributes directory, attributes_from_json(object["directory"]));
  VARVE_TRY_ASSIGN(Attributes image, attributes_from_json(object["image"]));
  VARVE_TRY_ASSIGN(catalog::Care care, catalog::care_from_json(object["care"]));
  return PendingAttributes{std::move(directory), std::move(image), std::move(care)};
}

}  // namespace varve::store
