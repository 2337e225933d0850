// What a live image may be after a crash: each of its blocks as it was at one of several instants (promise 3).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "support/sparse_image.h"

namespace varve::test {

using MaybeImage = std::optional<SparseImage>;  ///< nothing: there is no image

/// Empty when each block of `found` is as it was in one of the group, and existence and size are one's too; else what is
/// wrong. `sizes_between`: a size between two of the group's will do. `grain`: what is old or new as a whole.
[[nodiscard]] std::string why_not(const MaybeImage& found, const std::vector<const MaybeImage*>& group,
                                  bool sizes_between, std::uint64_t grain = kBlockSize);

}  // namespace varve::test
