// Diff of any two images of a store: snapshots, pending or complete, and live images.
#pragma once

#include "instant.h"

namespace varve::store {

/// See Store::diff.
[[nodiscard]] Result<DiffSizes> diff_of_images(const InstantHooks& hooks, const ImageName& a, const ImageName& b,
                                               const std::function<Status(const snapshot::Extent&)>& visit,
                                               const std::function<void(std::uint64_t, std::uint64_t)>& progress,
                                               const std::function<bool()>& stop);

}  // namespace varve::store
