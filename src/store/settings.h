// store.json: the one file that makes a directory a store. Replaced as a whole, durably; checked by its digest.
#pragma once

#include <chrono>

#include "attributes.h"
#include "varve/catalog/care.h"
#include "varve/os/storage.h"
#include "varve/store/store.h"

namespace varve::store {

inline constexpr std::string_view kSettingsFile = "store.json";
inline constexpr unsigned kFormatVersion = 1;

/// Seconds: a century, for whoever wants "for ever".
inline constexpr std::uint64_t kMaxTrashKeep = std::uint64_t{36'500} * 86'400;

struct StoredSettings {
  StoreSettings settings;
  Attributes root;  ///< owner and mode of the mount's root directory
  catalog::Limits limits;
  std::chrono::seconds trash_keep{0};  ///< at most kMaxTrashKeep; 0: there is no trash
};

/// ENOENT (absent) when there is no store.json: "is not a varve store"; EIO (damaged), or ENOTSUP (refused) for a
/// format this version does not know.
[[nodiscard]] Result<StoredSettings> read_settings(os::Storage& storage);
[[nodiscard]] Status write_settings(os::Storage& storage, const StoredSettings& settings);

}  // namespace varve::store
