#include "settings.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "checked_json.h"

namespace varve::store {
namespace {

using nlohmann::json;

constexpr std::size_t kIdDigits = 32;

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
  auto read = read_checked_json(storage, kSettingsFile, kFormatVersion);
  if (!read) {
    if (read.error().kind == ErrorKind::damaged) return damaged(read.error().message);
    if (read.error().code != ENOENT) return tl::unexpected(std::move(read).error());
    return fail(ENOENT, ErrorKind::absent, "not a varve store (there is no store.json); `varve init` makes one");
  }
  const json& object = *read;
  const auto* id = get_text(object, "id");
  const auto* compression = get_text(object, "compression");
  const auto chunk_size = object.find("chunk_size");
  const auto created = object.find("created");
  const auto trash_keep = object.find("trash_keep");
  if (id == nullptr || !is_store_id(*id) || compression == nullptr || chunk_size == object.end() ||
      !chunk_size->is_number_unsigned() || created == object.end() || !created->is_number_integer() ||
      !object.contains("root") || !object.contains("limits") || trash_keep == object.end() ||
      !trash_keep->is_number_unsigned() || trash_keep->get<std::uint64_t>() > kMaxTrashKeep) {
    return damaged("a member is missing or of the wrong type");
  }
  const auto chunk_bytes = chunk_size->get<std::uint64_t>();
  if (!Geometry::valid_chunk_size(chunk_bytes)) return damaged("an impossible chunk size");
  auto parsed = chunks::Compression::parse(*compression);
  if (!parsed) return damaged(parsed.error().message);
  auto root = attributes_from_json(object["root"]);
  if (!root) return damaged(root.error().message);
  auto limits = catalog::limits_from_json(object["limits"]);
  if (!limits) return damaged(limits.error().message);

  StoredSettings stored;
  stored.settings.id = *id;
  stored.settings.geometry = Geometry{ByteCount{chunk_bytes}};
  stored.settings.compression = *parsed;
  stored.settings.created = Time{created->get<std::int64_t>()};
  stored.root = std::move(*root);
  stored.limits = *limits;
  stored.trash_keep = std::chrono::seconds{trash_keep->get<std::int64_t>()};
  return stored;
}

Status write_settings(os::Storage& storage, const StoredSettings& stored) {
  json object{{"format", kFormatVersion},
              {"id", stored.settings.id},
              {"chunk_size", stored.settings.geometry.chunk_size().value()},
              {"compression", stored.settings.compression.to_text()},
              {"created", stored.settings.created.nanoseconds},
              {"root", to_json(stored.root)},
              {"limits", catalog::to_json(stored.limits)},
              {"trash_keep", stored.trash_keep.count()}};
  return write_checked_json(storage, kSettingsFile, std::move(object));
}

}  // namespace varve::store
