#include <algorithm>

#include "open_store.h"
#include "varve/catalog/names.h"
#include "varve/core/log.h"

namespace varve::store {
namespace {

using catalog::quoted;

}  // namespace

std::vector<std::shared_ptr<DiskEntry>> OpenStore::entries() const {
  MutexLock lock(table_mutex_);
  std::vector<std::shared_ptr<DiskEntry>> all;
  all.reserve(disks_.size());
  for (const auto& [id, disk] : disks_) all.push_back(disk);
  return all;
}

std::vector<std::shared_ptr<Disk>> OpenStore::disks() const {
  auto all = entries();
  std::erase_if(all, [](const auto& disk) { return disk->hidden(); });
  return {all.begin(), all.end()};
}

Result<std::shared_ptr<DiskEntry>> OpenStore::entry(DiskId id) const {
  MutexLock lock(table_mutex_);
  const auto it = disks_.find(id);
  if (it != disks_.end()) return it->second;
  return fail(ENOENT, ErrorKind::absent, fmt::format("there is no disk number {}", id.value()));
}

Result<std::shared_ptr<DiskEntry>> OpenStore::shown_entry(DiskId id) const {
  VARVE_TRY_ASSIGN(auto found, entry(id));
  if (!found->hidden()) return found;
  return fail(ENOENT, ErrorKind::absent, fmt::format("disk number {} is in the trash", id.value()));
}

Result<std::shared_ptr<Disk>> OpenStore::disk(DiskId id) const {
  VARVE_TRY_ASSIGN(auto found, shown_entry(id));
  return std::shared_ptr<Disk>(std::move(found));
}

Result<std::shared_ptr<Disk>> OpenStore::find_disk(std::string_view name) const {
  MutexLock lock(table_mutex_);
  const auto it = names_.find(name);
  if (it != names_.end()) return std::shared_ptr<Disk>(disks_.at(it->second));
  return fail(ENOENT, ErrorKind::absent, fmt::format("there is no disk {}", quoted(name)));
}

/// EEXIST also for the name of a disk that is damaged and not served: it may come back.
Result<OpenStore::NameReservation> OpenStore::reserve(const std::string& name, DiskId except) {
  VARVE_TRY(catalog::validate_name(name, catalog::NameKind::disk));
  MutexLock lock(table_mutex_);
  if (damaged_names_.contains(name)) {
    return fail_refused(EEXIST, fmt::format("there is a disk {} already; it is damaged and not served", quoted(name)));
  }
  const auto it = names_.find(name);
  if ((it != names_.end() && it->second != except) || !reserved_.insert(name).second) {
    return fail_refused(EEXIST, fmt::format("there is a disk {} already", quoted(name)));
  }
  return NameReservation(*this, name);
}

/// Used up even if what follows fails: a log may exist.
DiskId OpenStore::take_disk_id() {
  MutexLock lock(table_mutex_);
  return std::exchange(next_disk_, DiskId{next_disk_.value() + 1});
}

Result<std::shared_ptr<DiskEntry>> OpenStore::make_disk(DiskId id, const std::string& name,
                                                        const Attributes& directory) {
  VARVE_TRY_ASSIGN(auto log, catalog::DiskLog::create(*services_.objects, id, name, directory));
  auto entry = open_log(std::move(log));
  if (!entry) undo_make_disk(id);
  return entry;
}

/// Else the next mount would show a disk that was refused.
void OpenStore::undo_make_disk(DiskId id) {
  const auto undone = [&]() -> Status {
    VARVE_TRY_ASSIGN(const auto log, catalog::DiskLog::open(*services_.objects, id));
    VARVE_TRY(log->append_removed());
    return remove_live_files(*services_.storage, id);
  }();
  if (!undone)
    log::warning("what is left of a disk that was not made goes at the next mount: {}", undone.error().message);
}

std::shared_ptr<Disk> OpenStore::publish(const std::shared_ptr<DiskEntry>& entry) {
  MutexLock lock(table_mutex_);
  adopt(entry);
  root_modified_ = now();
  return entry;
}

Result<std::shared_ptr<Disk>> OpenStore::create_disk(const std::string& name, const Attributes& directory) {
  VARVE_TRY_ASSIGN(const auto reserved, reserve(name));
  VARVE_TRY_ASSIGN(const auto entry, make_disk(take_disk_id(), name, directory));
  return publish(entry);
}

Status OpenStore::remove_disk(DiskId id) {
  MutexLock operations(disk_operations_);
  VARVE_TRY_ASSIGN(const auto disk, shown_entry(id));
  const bool stays = !disk->trash().empty();
  VARVE_TRY(stays ? disk->set_hidden(true) : disk->remove());
  MutexLock lock(table_mutex_);
  std::erase_if(names_, [id](const auto& item) { return item.second == id; });
  if (!stays) disks_.erase(id);
  root_modified_ = now();
  return {};
}

Status OpenStore::rename_disk(DiskId id, const std::string& name) {
  MutexLock operations(disk_operations_);
  VARVE_TRY_ASSIGN(const auto disk, shown_entry(id));
  if (disk->name() == name) return {};
  VARVE_TRY_ASSIGN(const auto reserved, reserve(name, id));
  const auto renamed = disk->rename(name);
  MutexLock lock(table_mutex_);
  if (!renamed) {
    // It may be called so already, and nobody knows: then neither name is free for another.
    if (renamed.error().kind == ErrorKind::latched) names_.emplace(name, id);
    return renamed;
  }
  std::erase_if(names_, [id](const auto& item) { return item.second == id; });
  names_.emplace(name, id);
  root_modified_ = now();
  return {};
}

Time OpenStore::root_modified() const {
  MutexLock lock(table_mutex_);
  return root_modified_;
}

Attributes OpenStore::root_attributes() const {
  MutexLock lock(table_mutex_);
  return root_attributes_;
}

Status OpenStore::change_root_attributes(const std::function<Status(Attributes&)>& change) {
  MutexLock operations(disk_operations_);
  Attributes changed = root_attributes();
  VARVE_TRY(change(changed));
  VARVE_TRY(write_settings(*services_.storage, {settings_, changed, limits(), trash_keep()}));
  MutexLock lock(table_mutex_);
  root_attributes_ = std::move(changed);
  return {};
}

}  // namespace varve::store
