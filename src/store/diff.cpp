#include "diff.h"

#include <optional>

namespace varve::store {
namespace {

/// What is held needs no snapshot any more: a live image's goes before this returns.
Result<snapshot::DiffSide> hold_image(const InstantHooks& hooks, const ImageName& image,
                                      chunks::RootRegistry::Hold& hold, const std::function<bool()>& stop) {
  auto& disk = static_cast<DiskEntry&>(*image.disk);
  std::optional<TemporarySnapshot> taken;
  SnapshotId id = image.snapshot;
  if (id == SnapshotId{0}) {
    VARVE_TRY_ASSIGN(auto temporary, TemporarySnapshot::take(hooks, disk, "diff"));
    id = taken.emplace(std::move(temporary)).id();
  }
  VARVE_TRY_ASSIGN(const auto entry, hold_complete(hooks, disk, id, hold, stop));
  return snapshot::DiffSide{entry->root, entry->size};
}

}  // namespace

Result<DiffSizes> diff_of_images(const InstantHooks& hooks, const ImageName& a, const ImageName& b,
                                 const std::function<Status(const snapshot::Extent&)>& visit,
                                 const std::function<void(std::uint64_t, std::uint64_t)>& progress,
                                 const std::function<bool()>& stop) {
  chunks::RootRegistry::Hold hold(hooks.services.registry);
  VARVE_TRY_ASSIGN(const auto a_side, hold_image(hooks, a, hold, stop));
  // The live image twice is one instant.
  const bool same = a.disk == b.disk && a.snapshot == b.snapshot;
  VARVE_TRY_ASSIGN(const auto b_side, same ? Result<snapshot::DiffSide>(a_side) : hold_image(hooks, b, hold, stop));
  VARVE_TRY(snapshot::diff_images(*hooks.services.chunks, a_side, b_side, visit, progress, stop));
  return DiffSizes{a_side.size, b_side.size};
}

}  // namespace varve::store
