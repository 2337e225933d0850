// What the words of a command line name: a store, a disk in it, a snapshot of that.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "paths.h"
#include "varve/core/result.h"

namespace varve::cli {

/// Where a path leads.
struct Place {
  std::string store;  ///< absolute path of the store's directory
  std::optional<std::string> disk;
  std::optional<std::string> snapshot;
};

/// A path in a mount of a store (the root, a disk, a snapshot, or the image in one of these), or else the directory of
/// a store. `path` absolute and normalised. EINVAL (refused) for a path in a mount that names none of them.
[[nodiscard]] Result<Place> place_of_path(const MountTable& table, const std::string& path);

/// A store, and what to put into the request for it (store/commands.h).
struct Target {
  std::string store;
  std::optional<std::string> written;  ///< DISK or DISK@SNAPSHOT as typed: the store finds out what it means
  std::optional<std::string> disk;
  std::optional<std::string> snapshot;

  [[nodiscard]] bool names_image() const { return written || disk; }
  /// Puts "image", or "disk" and "snapshot", into a request.
  void add_to(nlohmann::json& request) const;
};

/// `image`: DISK, DISK@SNAPSHOT, DISK/SNAPSHOT, or a path, which begins with '/' or '.' or, without --store, leads to
/// something in a mount; empty: none. `store`: what --store said. Without it the path says it, else VARVE_STORE, else the mount of the current directory.
/// EINVAL (refused) with a sentence.
[[nodiscard]] Result<Target> find_target(const std::optional<std::string>& store, const std::string& image);

/// The store that --store or a positional STORE names. Absolute.
[[nodiscard]] Result<std::string> find_store(const std::string& path);

}  // namespace varve::cli
