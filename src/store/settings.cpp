#include "settings.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <span>

namespace varve::store {
namespace {

using nlohmann::json;

constexpr ByteCount kMaxSettingsSize{1 * kMiB};
constexpr std::size_t kIdDigits = 32;
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

const std::string* get_text(const json& object, const char* name) {
  const auto it = object.find(name);
  return it != object.end() && it->is_string() ? it->get_ptr<const json::string_t*>() : nullptr;
}

tl::unexpected<Error> damaged(std::string_view what) {
  return fail_damaged(fmt::format("{}: {}; restore the file from a backup of the store", kSettingsFile, what));
}

bool is_store_id(const std::string& id) {
  return id.size() == kIdDigits && id.find_first_not_of("0123456789abcdef") == std::string::npos;
}

}  // namespace

Result<StoredSettings> read_settings(os::Storage& storage) {
  auto bytes = os::read_file(storage, kSettingsFile, kMaxSettingsSize);
  if (!bytes) {
    if (bytes.error().code != ENOENT) return tl::unexpected(std::move(bytes).error());
    return fail(ENOENT, ErrorKind::absent, "not a varve store (there is no store.json); `varve init` makes one");
  }
  const auto* text = reinterpret_cast<const char*>(bytes->data());
  if (too_deep({text, bytes->size()})) return damaged("not what varve writes");
  const json object = json::parse(text, text + bytes->size(), nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) return damaged("not a JSON object");
  const auto format = object.find("format");
  if (format == object.end() || !format->is_number_unsigned()) return damaged("no format version");
  if (*format != kFormatVersion) {
    return fail_refused(ENOTSUP, fmt::format("{}: format {} is not known to this version of varve, which reads format "
                                             "{}; use a newer varve",
                                             kSettingsFile, format->dump(), kFormatVersion));
  }
  const auto* checksum = get_text(object, "checksum");
  if (checksum == nullptr || *checksum != checksum_of(object)) return damaged("its checksum does not match");

  const auto* id = get_text(object, "id");
  const auto* compression = get_text(object, "compression");
  const auto chunk_size = object.find("chunk_size");
  const auto created = object.find("created");
  if (id == nullptr || !is_store_id(*id) || compression == nullptr || chunk_size == object.end() ||
      !chunk_size->is_number_unsigned() || created == object.end() || !created->is_number_integer() ||
      !object.contains("root")) {
    return damaged("a member is missing or of the wrong type");
  }
  const auto chunk_bytes = chunk_size->get<std::uint64_t>();
  if (!Geometry::valid_chunk_size(chunk_bytes)) return damaged("an impossible chunk size");
  auto parsed = chunks::Compression::parse(*compression);
  if (!parsed) return damaged(parsed.error().message);
  auto root = attributes_from_json(object["root"]);
  if (!root) return damaged(root.error().message);

  StoredSettings stored;
  stored.settings.id = *id;
  stored.settings.geometry = Geometry{ByteCount{chunk_bytes}};
  stored.settings.compression = *parsed;
  stored.settings.created = Time{created->get<std::int64_t>()};
  stored.root = std::move(*root);
  return stored;
}

Status write_settings(os::Storage& storage, const StoredSettings& stored) {
  json object{{"format", kFormatVersion},
              {"id", stored.settings.id},
              {"chunk_size", stored.settings.geometry.chunk_size().value()},
              {"compression", stored.settings.compression.to_text()},
              {"created", stored.settings.created.nanoseconds},
              {"root", to_json(stored.root)}};
  object["checksum"] = checksum_of(object);
  const std::string text = object.dump(2) + "\n";
  return os::replace_file_durably(storage, kSettingsFile, std::as_bytes(std::span(text)));
}

}  // namespace varve::store
