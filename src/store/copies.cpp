#include <optional>

#include "copy.h"
#include "diff.h"
#include "open_store.h"
#include "varve/catalog/names.h"
#include "varve/core/log.h"

namespace varve::store {
namespace {

using catalog::quoted;

}  // namespace

Result<ByteCount> OpenStore::copy_range(const ImageName& from, ByteOffset from_at, const std::shared_ptr<Disk>& to,
                                        ByteOffset to_at, ByteCount count) {
  return store::copy_range(services_, static_cast<DiskEntry&>(*from.disk), from.snapshot, from_at,
                           static_cast<DiskEntry&>(*to), to_at, count);
}

/// Of a restore or clone of a pending snapshot, too: it would have to copy bytes, and the commit does that already.
InstantHooks OpenStore::instant_hooks() {
  const auto help_commit = [this](DiskEntry& disk) -> Status {
    if (!background_) {
      VARVE_TRY(disk.commit_one());
      return {};
    }
    background_->want_commit(disk.id());
    return background_->trouble_with(disk.id());
  };
  return {services_, help_commit, [this](const std::function<void(Observer&)>& call) { observe(call); }};
}

Status OpenStore::replace_from(DiskEntry& from, SnapshotId snapshot, DiskEntry& to) {
  chunks::RootRegistry::Hold hold(services_.registry);
  VARVE_TRY_ASSIGN(const auto entry, hold_complete(instant_hooks(), from, snapshot, hold, {}));
  return to.replace_image(*entry);
}

Status OpenStore::restore(const std::shared_ptr<Disk>& from, SnapshotId snapshot, const std::shared_ptr<Disk>& to) {
  VARVE_TRY(replace_from(static_cast<DiskEntry&>(*from), snapshot, static_cast<DiskEntry&>(*to)));
  observe([&](Observer& observer) { observer.image_replaced(to->id()); });
  return {};
}

Result<std::shared_ptr<Disk>> OpenStore::clone(const ImageName& from, const std::string& name,
                                               const Attributes& directory) {
  auto& source = static_cast<DiskEntry&>(*from.disk);
  VARVE_TRY_ASSIGN(const auto reserved, reserve(name));
  const InstantHooks hooks = instant_hooks();
  std::optional<TemporarySnapshot> taken;
  SnapshotId snapshot = from.snapshot;
  ByteCount size = source.live().info().size;
  if (snapshot != SnapshotId{0}) {
    VARVE_TRY_ASSIGN(const SnapshotInfo info, source.snapshot(snapshot));
    size = info.size;
  }
  VARVE_TRY(services_.quota->refuse_new_live(size));
  if (snapshot == SnapshotId{0}) {
    auto temporary = TemporarySnapshot::take(hooks, source, "clone");
    if (!temporary) return tl::unexpected(temporary.error().in(fmt::format("cloning to {}", quoted(name))));
    snapshot = taken.emplace(*std::move(temporary)).id();
  }
  VARVE_TRY_ASSIGN(const auto made, clone_of(source, snapshot, name, directory));
  auto published = publish(made);
  observe([&](Observer& observer) { observer.disk_appeared(published->id(), name); });
  return published;
}

Result<DiffSizes> OpenStore::diff(const ImageName& a, const ImageName& b,
                                  const std::function<Status(const snapshot::Extent&)>& visit,
                                  const std::function<void(std::uint64_t, std::uint64_t)>& progress,
                                  const std::function<bool()>& stop) {
  return diff_of_images(instant_hooks(), a, b, visit, progress, stop);
}

/// Seen by nobody until it has its image: one that failed can go without asking whether somebody uses it.
Result<std::shared_ptr<DiskEntry>> OpenStore::clone_of(DiskEntry& source, SnapshotId snapshot, const std::string& name,
                                                       const Attributes& directory) {
  // The long part first: a crash meanwhile leaves no empty disk.
  VARVE_TRY(wait_complete(instant_hooks(), source, snapshot, {}));
  VARVE_TRY_ASSIGN(auto target, make_disk(take_disk_id(), name, directory));
  auto filled = replace_from(source, snapshot, *target);
  if (filled) return target;
  if (auto undone = target->discard(); !undone) {
    log::warning("the disk {} of a clone that failed comes back at the next mount: {}", quoted(name),
                 undone.error().message);
  }
  return tl::unexpected(std::move(filled).error());
}

}  // namespace varve::store
