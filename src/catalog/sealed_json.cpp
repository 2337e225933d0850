#include "sealed_json.h"

#include <fmt/format.h>

#include <algorithm>

#include "varve/core/digest.h"

namespace varve::catalog {
namespace {

struct Shape {
  std::size_t depth = 0;
  std::size_t values = 1;
};

/// What a parser would have to build for `text`, be it JSON or not: counted without building anything.
Shape shape_of(std::string_view text) {
  Shape shape;
  std::size_t depth = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      ++shape.values;
      shape.depth = std::max(shape.depth, ++depth);
    } else if (c == '}' || c == ']') {
      if (depth > 0) --depth;
    } else if (c == ',') {
      ++shape.values;
    }
  }
  return shape;
}

std::string checksum_of(const Json& content) {
  const std::string text = canonical(content);
  return to_hex(digest_of(std::as_bytes(std::span(text))));
}

}  // namespace

std::string canonical(const Json& json) {
  // The handler that never throws: text is validated before it gets here, and parsed text is UTF-8 already.
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string seal(Json content) {
  content["format"] = kFormat;
  std::string checksum = checksum_of(content);
  content["checksum"] = std::move(checksum);
  return canonical(content) + "\n";
}

bool within_bounds(std::string_view text) {
  const Shape shape = shape_of(text);
  return shape.depth <= kMaxDepth && shape.values <= kMaxValues;
}

Result<Json> unseal(std::span<const std::byte> bytes) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (!within_bounds(text)) return fail_damaged("nested too deeply or too many values");
  Json content = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!content.is_object()) return fail_damaged("not a JSON object");

  std::string problem;
  const Fields fields(content, "object", problem);
  const std::uint64_t format = fields.number("format");
  const std::string checksum = fields.text("checksum");
  if (!problem.empty()) return fail_damaged(problem);
  content.erase("checksum");
  const bool intact = checksum == checksum_of(content);
  // A newer format may also seal in another way; but a flipped bit in the version must not send people upgrading.
  if (format > kFormat) {
    return fail_damaged(fmt::format("has format {}, newer than this varve knows ({}){}", format, kFormat,
                                    intact ? ": upgrade varve" : ", and its checksum does not match"));
  }
  if (!intact) return fail_damaged("the checksum does not match");
  if (format != kFormat) return fail_damaged(fmt::format("there is no format {}", format));
  return content;
}

Fields::Fields(const Json& object, std::string_view what, std::string& problem)
    : object_(object), what_(what), problem_(problem) {
  if (!object.is_object()) note(fmt::format("{} is not an object", what));
}

const Json& Fields::member(const char* key) const {
  static const Json null;
  if (!object_.is_object()) return null;
  const auto found = object_.find(key);
  return found == object_.end() ? null : *found;
}

std::uint64_t Fields::number(const char* key, std::uint64_t largest) const {
  const Json& value = member(key);
  const auto* number = value.get_ptr<const Json::number_unsigned_t*>();
  if (number == nullptr) {
    note(fmt::format("{} has no number \"{}\"", what_, key));
    return 0;
  }
  if (*number > largest) {
    note(fmt::format("{}: \"{}\" is {}, more than {}", what_, key, *number, largest));
    return 0;
  }
  return *number;
}

std::int64_t Fields::signed_number(const char* key) const {
  const Json& value = member(key);
  if (const auto* number = value.get_ptr<const Json::number_unsigned_t*>()) {
    if (*number <= static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
      return static_cast<std::int64_t>(*number);
    }
  } else if (const auto* integer = value.get_ptr<const Json::number_integer_t*>()) {
    return *integer;
  }
  note(fmt::format("{} has no integer \"{}\"", what_, key));
  return 0;
}

bool Fields::boolean(const char* key) const {
  const auto* value = member(key).get_ptr<const Json::boolean_t*>();
  if (value == nullptr) note(fmt::format("{} has no truth value \"{}\"", what_, key));
  return value != nullptr && *value;
}

const std::string& Fields::text(const char* key) const {
  static const std::string nothing;
  const auto* value = member(key).get_ptr<const Json::string_t*>();
  if (value == nullptr) note(fmt::format("{} has no text \"{}\"", what_, key));
  return value == nullptr ? nothing : *value;
}

void Fields::note(std::string problem) const {
  if (problem_.empty()) problem_ = std::move(problem);
}

}  // namespace varve::catalog
