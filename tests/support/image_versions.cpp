#include "support/image_versions.h"

#include <algorithm>
#include <cstring>
#include <set>

namespace varve::test {

std::string why_not(const MaybeImage& found, const std::vector<const MaybeImage*>& group, bool sizes_between,
                    std::uint64_t grain) {
  std::vector<const SparseImage*> images;
  bool absent = false;
  for (const MaybeImage* image : group) {
    absent = absent || !*image;
    if (*image) images.push_back(&**image);
  }
  if (!found) return absent ? "" : "there is no image";
  if (images.empty()) return "there is an image";
  std::uint64_t smallest = UINT64_MAX;
  std::uint64_t largest = 0;
  bool known = false;
  std::set<std::uint64_t> look;
  for (const auto& [index, unused] : found->blocks()) look.insert(index);
  for (const SparseImage* image : images) {
    known = known || image->size() == found->size();
    smallest = std::min(smallest, image->size());
    largest = std::max(largest, image->size());
    for (const auto& [index, unused] : image->blocks()) look.insert(index);
  }
  if (sizes_between) known = known || (found->size() >= smallest && found->size() <= largest);
  if (!known) return "its size is " + std::to_string(found->size());
  for (const std::uint64_t index : look) {
    if (index * kBlockSize >= found->size()) continue;
    const std::uint64_t inside = std::min(kBlockSize, found->size() - index * kBlockSize);
    const Block& block = found->block(index);
    for (std::uint64_t at = 0; at < inside; at += grain) {
      const auto length = static_cast<std::size_t>(std::min(grain, inside - at));
      const bool fits = std::ranges::any_of(images, [&](const SparseImage* image) {
        return std::memcmp(block.data() + at, image->block(index).data() + at, length) == 0;
      });
      if (!fits) return "the block at " + std::to_string(index * kBlockSize) + " was never so";
    }
  }
  return "";
}

}  // namespace varve::test
