// store.json: the one file that makes a directory a store. Replaced as a whole, durably; checked by its digest.
#pragma once

#include "attributes.h"
#include "varve/os/storage.h"
#include "varve/store/store.h"

namespace varve::store {

inline constexpr std::string_view kSettingsFile = "store.json";
inline constexpr unsigned kFormatVersion = 1;

struct StoredSettings {
  StoreSettings settings;
  Attributes root;  ///< owner and mode of the mount's root directory
};

/// ENOENT (absent) when there is no store.json: "is not a varve store"; EIO (damaged), or ENOTSUP (refused) for a
/// format this version does not know.
[[nodiscard]] Result<StoredSettings> read_settings(os::Storage& storage);
[[nodiscard]] Status write_settings(os::Storage& storage, const StoredSettings& settings);

}  // namespace varve::store
