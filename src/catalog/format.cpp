#include "format.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <string_view>

#include "sealed_json.h"
#include "varve/catalog/names.h"

namespace varve::catalog {
namespace {

constexpr std::uint64_t kLargestId = kIdLimit - 1;
constexpr std::uint64_t kLargestImage = kMaxChunkSize * kMaxChunksPerImage;

// ---- bytes as text ----------------------------------------------------------------------------------------------

std::string to_hex_text(std::string_view bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  text.reserve(2 * bytes.size());
  for (const char c : bytes) {
    text += kDigits[static_cast<unsigned char>(c) >> 4];
    text += kDigits[static_cast<unsigned char>(c) & 15];
  }
  return text;
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

std::optional<std::string> from_hex_text(std::string_view text) {
  if (text.size() % 2 != 0) return std::nullopt;
  std::string bytes;
  bytes.reserve(text.size() / 2);
  for (std::size_t i = 0; i < text.size(); i += 2) {
    const int high = hex_digit(text[i]);
    const int low = hex_digit(text[i + 1]);
    if (high < 0 || low < 0) return std::nullopt;
    bytes += static_cast<char>(high * 16 + low);
  }
  return bytes;
}

/// xattr names may be any bytes but are nearly always plain words: "%" and what is not printable ASCII become %XX.
std::string to_percent_text(std::string_view bytes) {
  std::string text;
  for (const char c : bytes) {
    if (c > 0x20 && c < 0x7F && c != '%') {
      text += c;
    } else {
      text += '%' + to_hex_text(std::string_view(&c, 1));
    }
  }
  return text;
}

/// Only what to_percent_text() gives, so that two names in a log are never one in memory.
std::optional<std::string> from_percent_text(std::string_view text) {
  std::string bytes;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      bytes += text[i];
      continue;
    }
    const auto byte = from_hex_text(text.substr(i + 1, 2));
    if (!byte || byte->empty()) return std::nullopt;
    bytes += *byte;
    i += 2;
  }
  if (to_percent_text(bytes) != text) return std::nullopt;
  return bytes;
}

// ---- parts shared by records and checkpoints --------------------------------------------------------------------

Json to_json(const Attributes& attributes) {
  Json xattrs = Json::object();
  for (const auto& [name, value] : attributes.xattrs) xattrs[to_percent_text(name)] = to_hex_text(value);
  return {{"owner", attributes.owner},
          {"group", attributes.group},
          {"mode", attributes.mode},
          {"xattrs", std::move(xattrs)}};
}

Attributes read_attributes(const Fields& parent, const char* key) {
  const Fields fields(parent.member(key), key, parent.problem());
  Attributes attributes;
  attributes.owner = static_cast<std::uint32_t>(fields.number("owner", UINT32_MAX));
  attributes.group = static_cast<std::uint32_t>(fields.number("group", UINT32_MAX));
  attributes.mode = static_cast<std::uint32_t>(fields.number("mode", UINT32_MAX));
  const Json& xattrs = fields.member("xattrs");
  if (!xattrs.is_object()) {
    fields.note(fmt::format("{} has no object \"xattrs\"", key));
    return attributes;
  }
  for (auto member = xattrs.begin(); member != xattrs.end(); ++member) {
    const auto* text = member->get_ptr<const Json::string_t*>();
    auto name = from_percent_text(member.key());
    auto value = text == nullptr ? std::nullopt : from_hex_text(*text);
    if (!name || !value) {
      fields.note(fmt::format("{}: the xattr {} is not spelled as it should be", key, quoted(member.key())));
      return attributes;
    }
    attributes.xattrs.emplace(std::move(*name), std::move(*value));
  }
  return attributes;
}

Json to_json(const SnapshotEntry& entry) {
  return {{"id", entry.id.value()},
          {"parent", entry.parent.value()},
          {"name", entry.name},
          {"time", entry.time.nanoseconds},
          {"image_modified", entry.image_modified.nanoseconds},
          {"size", entry.size.value()},
          {"incarnation", entry.incarnation.value()},
          {"root", chunks::to_log_text(entry.root)},
          {"changed_bytes", entry.changed_bytes},
          {"stored_bytes", entry.stored_bytes},
          {"directory", to_json(entry.directory)},
          {"image", to_json(entry.image)},
          {"care", catalog::to_json(entry.care)}};
}

Care read_care(const Fields& parent) {
  auto care = care_from_json(parent.member("care"));
  if (!care) parent.note(care.error().message);
  return care ? std::move(*care) : Care{};
}

Limits read_limits(const Fields& parent) {
  auto limits = limits_from_json(parent.member("limits"));
  if (!limits) parent.note(limits.error().message);
  return limits.value_or(Limits{});
}

SnapshotId read_id(const Fields& fields, const char* key) {
  return SnapshotId{fields.number(key, kLargestId)};
}

std::shared_ptr<const SnapshotEntry> read_entry(const Json& json, std::string& problem) {
  const Fields fields(json, "snapshot", problem);
  auto entry = std::make_shared<SnapshotEntry>();
  entry->id = read_id(fields, "id");
  entry->parent = read_id(fields, "parent");
  entry->name = fields.text("name");
  entry->time = Time{fields.signed_number("time")};
  entry->image_modified = Time{fields.signed_number("image_modified")};
  entry->size = ByteCount{fields.number("size", kLargestImage)};
  entry->incarnation = Incarnation{fields.number("incarnation", kLargestId)};
  if (const auto root = chunks::parse_log_text(fields.text("root"))) {
    entry->root = *root;
  } else {
    fields.note("snapshot: \"root\": " + root.error().message);
  }
  entry->changed_bytes = fields.number("changed_bytes");
  entry->stored_bytes = fields.number("stored_bytes");
  entry->directory = read_attributes(fields, "directory");
  entry->image = read_attributes(fields, "image");
  entry->care = read_care(fields);
  return entry;
}

// ---- events -----------------------------------------------------------------------------------------------------

Json to_json(const Created& event) {
  return {{"type", "created"}, {"name", event.name}, {"directory", to_json(event.directory)}};
}
Json to_json(const SnapshotLogged& event) {
  return {{"type", "snapshot"}, {"snapshot", to_json(*event.entry)}};
}
Json to_json(const SnapshotDeleted& event) {
  return {{"type", "deleted"}, {"id", event.id.value()}};
}
Json to_json(const SnapshotRenamed& event) {
  return {{"type", "snapshot-renamed"}, {"id", event.id.value()}, {"name", event.name}};
}
Json to_json(const SnapshotAttributes& event) {
  return {{"type", "snapshot-attributes"},
          {"id", event.id.value()},
          {"directory", to_json(event.directory)},
          {"image", to_json(event.image)}};
}
Json to_json(const SnapshotCare& event) {
  return {{"type", "snapshot-care"},
          {"id", event.id.value()},
          {"name", event.name},
          {"care", catalog::to_json(event.care)}};
}
Json to_json(const DiskRenamed& event) {
  return {{"type", "renamed"}, {"name", event.name}};
}
Json to_json(const DiskAttributes& event) {
  return {{"type", "attributes"}, {"directory", to_json(event.directory)}, {"live_image", to_json(event.live_image)}};
}
Json to_json(const DiskLimits& event) {
  return {{"type", "limits"}, {"limits", catalog::to_json(event.limits)}};
}
Json to_json(const DiskHidden& event) {
  return {{"type", "hidden"}, {"hidden", event.hidden}};
}
Json to_json(const DiskRemoved&) {
  Json json;  // not `{{"type", "removed"}}`: compilers differ on whether that is an object or an array
  json["type"] = "removed";
  return json;
}

Json to_json(const Event& event) {
  return std::visit([](const auto& one) { return to_json(one); }, event);
}

Event read_event(const Fields& fields) {
  const std::string& type = fields.text("type");
  if (type == "created") return Created{fields.text("name"), read_attributes(fields, "directory")};
  if (type == "snapshot") return SnapshotLogged{read_entry(fields.member("snapshot"), fields.problem())};
  if (type == "deleted") return SnapshotDeleted{read_id(fields, "id")};
  if (type == "snapshot-renamed") return SnapshotRenamed{read_id(fields, "id"), fields.text("name")};
  if (type == "snapshot-attributes") {
    return SnapshotAttributes{read_id(fields, "id"), read_attributes(fields, "directory"),
                              read_attributes(fields, "image")};
  }
  if (type == "snapshot-care") return SnapshotCare{read_id(fields, "id"), fields.text("name"), read_care(fields)};
  if (type == "limits") return DiskLimits{read_limits(fields)};
  if (type == "hidden") return DiskHidden{fields.boolean("hidden")};
  if (type == "renamed") return DiskRenamed{fields.text("name")};
  if (type == "attributes") {
    return DiskAttributes{read_attributes(fields, "directory"), read_attributes(fields, "live_image")};
  }
  if (type != "removed") fields.note(fmt::format("there is no record of type {}", quoted(type)));
  return DiskRemoved{};
}

/// An object moved or copied to another name must not be taken for what belongs there.
void check_place(const Fields& fields, DiskId disk, std::uint64_t number) {
  const std::uint64_t own_disk = fields.number("disk");
  const std::uint64_t own_number = fields.number("number");
  if (own_disk == disk.value() && own_number == number) return;
  fields.note(fmt::format("it is number {} of disk {}, misplaced", own_number, own_disk));
}

bool valid_nonce(std::string_view nonce) {
  return nonce.size() == 32 && std::ranges::all_of(nonce, [](char c) { return hex_digit(c) >= 0; });
}

}  // namespace

std::string encode_record(DiskId disk, const Record& record) {
  Json json = to_json(record.event);
  json["disk"] = disk.value();
  json["number"] = record.number;
  json["nonce"] = record.nonce;
  json["time"] = record.time.nanoseconds;
  return seal(std::move(json));
}

std::string event_text(const Event& event) {
  return canonical(to_json(event));
}

Result<Record> decode_record(std::span<const std::byte> bytes, DiskId disk, std::uint64_t number) {
  VARVE_TRY_ASSIGN(const Json json, unseal(bytes));
  std::string problem;
  const Fields fields(json, "record", problem);
  check_place(fields, disk, number);
  Record record;
  record.number = number;
  record.nonce = fields.text("nonce");
  if (!valid_nonce(record.nonce)) fields.note("the nonce is not 32 hex digits");
  record.time = Time{fields.signed_number("time")};
  record.event = read_event(fields);
  if (!problem.empty()) return fail_damaged(problem);
  return record;
}

std::string encode_checkpoint(const DiskState& state, std::uint64_t number) {
  Json snapshots = Json::array();
  for (const auto& [id, entry] : state.snapshots) snapshots.push_back(to_json(*entry));
  return seal({{"type", "checkpoint"},
               {"disk", state.id.value()},
               {"number", number},
               {"name", state.name},
               {"removed", state.removed},
               {"hidden", state.hidden},
               {"limits", catalog::to_json(state.limits)},
               {"created", state.created.nanoseconds},
               {"directory", to_json(state.directory)},
               {"live_image", to_json(state.live_image)},
               {"high_water", state.high_water.value()},
               {"snapshots", std::move(snapshots)}});
}

Result<DiskState> decode_checkpoint(std::span<const std::byte> bytes, DiskId disk, std::uint64_t number) {
  VARVE_TRY_ASSIGN(const Json json, unseal(bytes));
  std::string problem;
  const Fields fields(json, "checkpoint", problem);
  if (fields.text("type") != "checkpoint") fields.note("it is not a checkpoint");
  check_place(fields, disk, number);
  DiskState state;
  state.id = disk;
  state.name = fields.text("name");
  state.removed = fields.boolean("removed");
  state.hidden = fields.boolean("hidden");
  state.limits = read_limits(fields);
  state.created = Time{fields.signed_number("created")};
  state.directory = read_attributes(fields, "directory");
  state.live_image = read_attributes(fields, "live_image");
  state.high_water = read_id(fields, "high_water");
  const Json& snapshots = fields.member("snapshots");
  if (!snapshots.is_array()) fields.note("checkpoint has no array \"snapshots\"");
  std::vector<SnapshotTable::Item> items;
  for (const Json& snapshot : snapshots) {
    auto entry = read_entry(snapshot, problem);
    if (!problem.empty()) break;
    const SnapshotId id = entry->id;
    if (!items.empty() && id <= items.back().first) {
      fields.note(fmt::format("snapshot {} comes after {}", id.value(), items.back().first.value()));
    }
    items.emplace_back(id, std::move(entry));
  }
  if (problem.empty()) state.snapshots = SnapshotTable::of_ascending(items);
  if (!problem.empty()) return fail_damaged(problem);
  return state;
}

}  // namespace varve::catalog
