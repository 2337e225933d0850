// Check of a whole store: logs, packs, and every image that people can name.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "disk_entry.h"
#include "services.h"
#include "varve/store/store.h"

namespace varve::store {

/// As Store::check. `damaged`: sentences about the disks that are not served.
[[nodiscard]] Result<CheckReport> check_store(
    Services& services, const std::vector<std::shared_ptr<DiskEntry>>& disks, const std::vector<std::string>& damaged,
    const std::function<void(std::uint64_t done, std::uint64_t total)>& progress, const std::function<bool()>& stop);

/// As Store::repair.
[[nodiscard]] Result<RepairReport> repair_store(
    Services& services, const std::vector<std::shared_ptr<DiskEntry>>& disks, const std::vector<std::string>& damaged,
    const std::function<void(std::uint64_t done, std::uint64_t total)>& progress, const std::function<bool()>& stop);

}  // namespace varve::store
