#include "open_store.h"
#include "retention.h"
#include "varve/catalog/names.h"
#include "varve/core/log.h"

namespace varve::store {
namespace {

using catalog::quoted;

}  // namespace

/// One snapshot of one disk, or why there is none.
Status OpenStore::follow(const Policy& policy, DiskEntry& disk, Time time) {
  if (!disk.live().exists()) return fail(ENODATA, ErrorKind::absent, "it has no live image");
  for (const auto& pending : disk.live().pending()) {
    const auto info = disk.any_snapshot(pending.id);
    if (!info || info->state != SnapshotStateKind::pending || info->care.policy != policy.name) continue;
    return fail_refused(EAGAIN, fmt::format("its last snapshot {} is still pending", quoted(info->name)));
  }
  VARVE_TRY_ASSIGN(const std::string name, name_at(policy, time));
  Attributes directory = disk.directory_attributes();
  directory.xattrs.clear();
  VARVE_TRY_ASSIGN(const SnapshotInfo taken, disk.take(name, directory, policy.name, DiskEntry::Limited::yes));
  observe([&](Observer& observer) { observer.snapshot_appeared(disk.id(), taken.id, name); });
  return {};
}

/// Of those that it took itself: what somebody made by hand is somebody's.
void OpenStore::remove_what_policy_keeps_not(const Policy& policy, const std::shared_ptr<DiskEntry>& disk, Time time) {
  if (policy.keep.empty()) return;
  auto own = disk->snapshots();
  std::erase_if(own, [&](const SnapshotInfo& info) { return info.care.policy != policy.name; });
  for (const Judged& one : judge(std::move(own), policy.keep, time)) {
    if (!one.reasons.empty()) continue;
    const auto removed = remove_snapshot(disk, one.snapshot.id);
    if (removed || removed.error().code == ENOENT) continue;
    log::warning("policy {}: snapshot {} of {} need not be kept and stays: {}", quoted(policy.name),
                 quoted(one.snapshot.name), quoted(disk->name()), removed.error().message);
  }
}

Status OpenStore::run_policy(const std::string& name) {
  VARVE_TRY_ASSIGN(const Policy policy, policies_->find(name));
  const Time time = services_.clock();
  PolicyRun run{time, 0, {}};
  for (const auto& disk : entries()) {
    if (disk->hidden() || services_.stopping || !covers(policy, disk->name())) continue;
    if (const auto taken = follow(policy, *disk, time); taken) {
      ++run.taken;
    } else {
      const auto why = fmt::format("disk {}: {}", quoted(disk->name()), taken.error().message);
      log::warning("policy {}: no snapshot of {}", quoted(name), why);
      if (run.skipped.size() < kMaxSkipped) run.skipped.push_back(why);
    }
    remove_what_policy_keeps_not(policy, disk, time);
  }
  return policies_->note_run(name, run);
}

void OpenStore::step_schedule() {
  const Time time = services_.clock();
  for (const Policy& policy : policies_->all()) {
    if (policy.paused || next_run(policy, time) > time) continue;
    // It may have been removed meanwhile.
    if (const auto run = run_policy(policy.name); !run && run.error().code != ENOENT) {
      log::warning("policy {}: {}", quoted(policy.name), run.error().message);
    }
  }
  for (const auto& disk : entries()) {
    for (const SnapshotInfo& ended : disk->end_what_is_over(time)) {
      observe([&](Observer& observer) { observer.snapshot_gone(disk->id(), ended.id, ended.name); });
    }
  }
  make_space_from_trash();
  remove_hidden_disks();
}

}  // namespace varve::store
