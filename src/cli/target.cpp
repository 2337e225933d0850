#include "target.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

#include "varve/catalog/names.h"

namespace varve::cli {
namespace {

std::vector<std::string> parts_of(std::string_view path) {
  std::vector<std::string> out;
  while (!path.empty()) {
    const auto slash = std::min(path.find('/'), path.size());
    if (slash > 0) out.emplace_back(path.substr(0, slash));
    path.remove_prefix(std::min(slash + 1, path.size()));
  }
  return out;
}

bool is_path(std::string_view word) { return word.starts_with('/') || word.starts_with('.'); }

Result<Place> place_of(const std::string& path) {
  VARVE_TRY_ASSIGN(const auto absolute, absolute_path(path));
  return place_of_path(fuse::read_mount_table(), absolute);
}

/// "mnt/web01/before", as shells complete it: a path that leads to something in a mount of ours.
bool leads_into_mount(const std::string& word) {
  if (word.find('/') == std::string::npos) return false;
  const auto path = absolute_path(word);
  if (!path) return false;
  const auto mount = mount_of(fuse::read_mount_table(), *path);
  return mount && mount->type == fuse::kMountType && ::access(path->c_str(), F_OK) == 0;
}

/// The mount that the current directory is in.
std::optional<std::string> store_of_current_directory() {
  const auto path = absolute_path(".");
  if (!path) return std::nullopt;
  const auto mount = mount_of(fuse::read_mount_table(), *path);
  if (!mount || mount->type != fuse::kMountType) return std::nullopt;
  return mount->source;
}

Result<std::string> default_store() {
  if (const char* variable = std::getenv("VARVE_STORE"); variable != nullptr && *variable != '\0') {
    return find_store(variable);
  }
  if (auto store = store_of_current_directory()) return *std::move(store);
  return fail_refused(EINVAL, "which store? Say --store STORE, set VARVE_STORE, or name a path in its mount");
}

Status validate(const std::string& name, catalog::NameKind kind) {
  return catalog::validate_name(name, kind);
}

/// DISK/SNAPSHOT, as shells complete it in the root of a mount; or DISK/.
Status split_at_slash(const std::string& word, Target& out) {
  auto parts = parts_of(word);
  if (parts.size() > 1 && parts.back() == catalog::kImageName) parts.pop_back();
  if (parts.empty() || parts.size() > 2) {
    return fail_refused(EINVAL, fmt::format("{} names no disk or snapshot; write DISK, DISK@SNAPSHOT or DISK/SNAPSHOT",
                                            catalog::quoted(word)));
  }
  VARVE_TRY(validate(parts[0], catalog::NameKind::disk));
  out.disk = parts[0];
  if (parts.size() == 1) return {};
  VARVE_TRY(validate(parts[1], catalog::NameKind::snapshot));
  out.snapshot = parts[1];
  return {};
}

/// What goes into a request is UTF-8, as every name that exists is.
Status check_written(const std::string& word) {
  if (word.find('@') == std::string::npos) return validate(word, catalog::NameKind::disk);
  nlohmann::json probe(word);
  try {
    static_cast<void>(probe.dump());
  } catch (const nlohmann::json::exception&) {
    return fail_refused(EINVAL, fmt::format("{} is not UTF-8: no disk or snapshot has such a name",
                                            catalog::quoted(word)));
  }
  return {};
}

}  // namespace

Result<Place> place_of_path(const MountTable& table, const std::string& path) {
  const auto mount = mount_of(table, path);
  if (!mount || mount->type != fuse::kMountType) return Place{path, std::nullopt, std::nullopt};
  auto parts = parts_of(std::string_view(path).substr(mount->mountpoint.size()));
  if (parts.size() > 1 && parts.back() == catalog::kImageName) parts.pop_back();
  Place place{mount->source, std::nullopt, std::nullopt};
  if (parts.size() > 2) {
    return fail_refused(EINVAL, fmt::format("{} is no disk or snapshot of the mount at {}", catalog::quoted(path),
                                            mount->mountpoint));
  }
  if (!parts.empty()) place.disk = parts[0];
  if (parts.size() > 1) place.snapshot = parts[1];
  return place;
}

void Target::add_to(nlohmann::json& request) const {
  if (written) request["image"] = *written;
  if (disk) request["disk"] = *disk;
  if (snapshot) request["snapshot"] = *snapshot;
}

Result<Target> find_target(const std::optional<std::string>& store, const std::string& image) {
  Target out;
  std::optional<std::string> store_of_path;
  if (is_path(image) || (!store && leads_into_mount(image))) {
    VARVE_TRY_ASSIGN(auto place, place_of(image));
    if (place.disk) VARVE_TRY(validate(*place.disk, catalog::NameKind::disk));
    if (place.snapshot) VARVE_TRY(validate(*place.snapshot, catalog::NameKind::snapshot));
    store_of_path = std::move(place.store);
    out.disk = std::move(place.disk);
    out.snapshot = std::move(place.snapshot);
  } else if (image.find('/') != std::string::npos) {
    VARVE_TRY(split_at_slash(image, out));
  } else if (!image.empty()) {
    VARVE_TRY(check_written(image));
    out.written = image;
  }
  if (store) {
    VARVE_TRY_ASSIGN(out.store, find_store(*store));
    if (store_of_path && *store_of_path != out.store) {
      return fail_refused(EINVAL, fmt::format("{} is of the store {}, not of {}, which --store names", image,
                                              *store_of_path, out.store));
    }
  } else if (store_of_path) {
    out.store = *std::move(store_of_path);
  } else {
    VARVE_TRY_ASSIGN(out.store, default_store());
  }
  return out;
}

Result<std::string> find_store(const std::string& path) {
  VARVE_TRY_ASSIGN(const auto place, place_of(path));
  return place.store;
}

}  // namespace varve::cli
