#include "request_reading.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <vector>

#include "varve/catalog/names.h"

namespace varve::store {
namespace {

using nlohmann::json;

tl::unexpected<Error> no_such_disk(std::string_view name) {
  return fail(ENOENT, ErrorKind::absent,
              fmt::format("there is no disk {}; `varve list` shows those there are", catalog::quoted(name)));
}

tl::unexpected<Error> no_such_snapshot(std::string_view disk, std::string_view name) {
  return fail(ENOENT, ErrorKind::absent,
              fmt::format("the disk {0} has no snapshot {1}; `varve list DISK` shows those it has",
                          catalog::quoted(disk), catalog::quoted(name)));
}

Result<ImageName> find_image(Store& store, std::string_view disk, const std::optional<std::string>& snapshot) {
  VARVE_TRY_ASSIGN(auto found, find_disk(store, disk));
  if (!snapshot) return ImageName{std::move(found), SnapshotId{}};
  auto entry = found->find_snapshot(*snapshot);
  if (!entry) {
    if (entry.error().code == ENOENT) return no_such_snapshot(disk, *snapshot);
    return tl::unexpected(std::move(entry).error());
  }
  return ImageName{std::move(found), entry->id};
}

/// "DISK" or "DISK@SNAPSHOT", where either name may itself contain '@'.
Result<ImageName> find_written_image(Store& store, const std::string& text, Wanted wanted) {
  std::vector<ImageName> readings;
  std::vector<std::string> meanings;
  if (wanted == Wanted::image) {
    if (auto disk = store.find_disk(text)) {
      readings.push_back({*std::move(disk), SnapshotId{}});
      meanings.push_back(fmt::format("the disk {}", catalog::quoted(text)));
    }
  }
  for (auto at = text.find('@'); at != std::string::npos; at = text.find('@', at + 1)) {
    const auto disk_name = text.substr(0, at);
    const auto snapshot_name = text.substr(at + 1);
    auto disk = store.find_disk(disk_name);
    if (!disk) continue;
    const auto snapshot = (*disk)->find_snapshot(snapshot_name);
    if (!snapshot) continue;
    readings.push_back({*std::move(disk), snapshot->id});
    meanings.push_back(fmt::format("{}/{}", disk_name, snapshot_name));
  }
  if (readings.size() == 1) return std::move(readings.front());
  if (readings.size() > 1) {
    return fail_refused(EINVAL, fmt::format("{} may mean {} or {}; write DISK/SNAPSHOT to say which",
                                            catalog::quoted(text), meanings[0], meanings[1]));
  }
  const auto at = text.find('@');
  if (at == std::string::npos) {
    if (wanted == Wanted::image || !store.find_disk(text)) return no_such_disk(text);
    return fail_refused(EINVAL, fmt::format("{0} is a disk; say which of its snapshots: DISK@SNAPSHOT",
                                            catalog::quoted(text)));
  }
  if (!store.find_disk(text.substr(0, at))) return no_such_disk(text.substr(0, at));
  return no_such_snapshot(text.substr(0, at), text.substr(at + 1));
}

}  // namespace

Result<std::optional<std::string>> optional_string(const json& request, const char* key) {
  const auto found = request.find(key);
  if (found == request.end()) return std::nullopt;
  if (!found->is_string()) return fail_refused(EINVAL, fmt::format("\"{}\" of a request must be a string", key));
  return found->get<std::string>();
}

Result<std::string> required_string(const json& request, const char* key) {
  VARVE_TRY_ASSIGN(auto value, optional_string(request, key));
  if (!value) return fail_refused(EINVAL, fmt::format("the request lacks \"{}\"", key));
  return *std::move(value);
}

Result<bool> flag(const json& request, const char* key) {
  const auto found = request.find(key);
  if (found == request.end()) return false;
  if (!found->is_boolean()) return fail_refused(EINVAL, fmt::format("\"{}\" of a request must be true or false", key));
  return found->get<bool>();
}

Result<std::shared_ptr<Disk>> find_disk(Store& store, std::string_view name) {
  auto found = store.find_disk(name);
  if (!found && found.error().code == ENOENT) return no_such_disk(name);
  return found;
}

Result<ImageName> requested_image(Store& store, const json& request, Wanted wanted) {
  VARVE_TRY_ASSIGN(const auto image, optional_string(request, "image"));
  if (image) return find_written_image(store, *image, wanted);
  VARVE_TRY_ASSIGN(const auto disk, required_string(request, "disk"));
  VARVE_TRY_ASSIGN(const auto snapshot, optional_string(request, "snapshot"));
  if (wanted == Wanted::snapshot && !snapshot) {
    return fail_refused(EINVAL, fmt::format("{0} is a disk; say which of its snapshots: DISK@SNAPSHOT",
                                            catalog::quoted(disk)));
  }
  return find_image(store, disk, snapshot);
}

}  // namespace varve::store
