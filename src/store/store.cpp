#include "varve/store/store.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/filesystem.hpp>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <set>
#include <utility>

#include "background.h"
#include "care_report.h"
#include "check.h"
#include "collector.h"
#include "copy.h"
#include "diff.h"
#include "disk_entry.h"
#include "instant.h"
#include "policies.h"
#include "report.h"
#include "services.h"
#include "settings.h"
#include "space.h"
#include "varve/catalog/names.h"
#include "varve/core/log.h"

namespace varve::store {
namespace {

using catalog::quoted;

constexpr std::string_view kLockFile = "lock";
constexpr std::string_view kLocatorDirectory = "locator";
constexpr std::size_t kMaxLockText = 4096;
constexpr std::uint32_t kWritableByOthers = 0022;
/// Disks are opened and closed side by side: each costs a few dozen reads and a few syncs, mostly waiting.
constexpr std::size_t kOpenThreads = 8;
constexpr std::chrono::milliseconds kPollInterval{5};
constexpr std::uint64_t kShortOfSpace = 20;  ///< less than this part of it is free: collect then hurries

std::int64_t nanoseconds_of(std::chrono::seconds time) { return std::chrono::nanoseconds(time).count(); }

/// Below so much free space the trash is emptied.
constexpr ByteCount kMostTrashReserve{10 * kGiB};
ByteCount trash_reserve(ByteCount total) { return std::min(ByteCount{total.value() / 20}, kMostTrashReserve); }

bool is_in_trash(const SnapshotInfo& info) { return info.care.trashed.has_value(); }

std::string random_id() {
  std::random_device source;
  std::string id;
  while (id.size() < 32) id += fmt::format("{:08x}", static_cast<std::uint32_t>(source()));
  return id;
}

constexpr std::array<const char*, 3> kDirectories{"packs", "disks", "live"};

/// What an interrupted init may have left (and what mkfs makes), and nothing else, can be initialised. A store whose
/// store.json was lost has its directories, too, and they are not empty: a new one on top would disown its disks.
Status refuse_occupied(os::Storage& storage, const std::vector<os::DirectoryEntry>& entries) {
  for (const os::DirectoryEntry& entry : entries) {
    if (entry.name.starts_with(".tmp-") || entry.name == "lost+found") continue;
    if (std::find(kDirectories.begin(), kDirectories.end(), entry.name) != kDirectories.end()) {
      VARVE_TRY_ASSIGN(const auto inside, storage.list(entry.name));
      if (inside.empty()) continue;
      return fail_refused(ENOTEMPTY, fmt::format("the directory holds what seems to be a store without its store.json "
                                                 "({}/ is not empty); bring that file back, or name an empty directory",
                                                 entry.name));
    }
    return fail_refused(ENOTEMPTY, "the directory is not empty; name one that is, or that does not exist yet");
  }
  return {};
}

/// Takes the lock, or says who has it.
Result<std::unique_ptr<os::File>> lock_store(os::Storage& storage, const std::string& purpose) {
  VARVE_TRY_ASSIGN(auto file, storage.open(kLockFile, {.write = true, .create = true}));
  VARVE_TRY_ASSIGN(const bool locked, file->try_lock());
  if (!locked) {
    std::string holder(kMaxLockText, '\0');
    const auto got = file->read(ByteOffset{0}, std::as_writable_bytes(std::span(holder)));
    holder.resize(got ? *got : 0);
    return fail_refused(EBUSY, fmt::format("the store is in use{}{}; unmount it or wait until that is done",
                                           holder.empty() ? "" : ": ", holder));
  }
  // Only for people: a full store must open all the same.
  const std::string text = purpose.substr(0, kMaxLockText);
  Status noted = file->resize(ByteCount{0});
  if (noted) noted = file->write(ByteOffset{0}, std::as_bytes(std::span(text)));
  if (!noted) log::warning("the lock file cannot say who holds the store: {}", noted.error().message);
  return file;
}

class OpenStore final : public Store {
 public:
  OpenStore(Environment environment, std::unique_ptr<os::File> lock, StoredSettings stored, OpenOptions options)
      : lock_(std::move(lock)), settings_(std::move(stored.settings)), options_(std::move(options)),
        root_attributes_(std::move(stored.root)), root_modified_(settings_.created) {
    services_.clock = options_.clock;
    services_.quota->set_limits(stored.limits);
    services_.trash_keep = nanoseconds_of(stored.trash_keep);
    assemble(std::move(environment));
  }

  ~OpenStore() override {
    background_.reset();
    space_->stop();
  }

  Status recover();
  void start_background();
  [[nodiscard]] bool short_of_space() const;
  [[nodiscard]] Result<snapshot::Collected> collect_with(snapshot::CollectOptions options);
  Status close() override;

  const StoreSettings& settings() const override { return settings_; }
  std::vector<std::string> damaged_disks() const override { return damaged_; }
  void set_observer(Observer* observer) override;

  std::vector<std::shared_ptr<Disk>> disks() const override;
  Result<std::shared_ptr<Disk>> find_disk(std::string_view name) const override;
  Result<std::shared_ptr<Disk>> disk(DiskId id) const override;
  Result<std::shared_ptr<Disk>> create_disk(const std::string& name, const Attributes& directory) override;
  Status remove_disk(DiskId id) override;
  Status rename_disk(DiskId id, const std::string& name) override;
  Time root_modified() const override;
  Attributes root_attributes() const override;
  Status change_root_attributes(const std::function<Status(Attributes&)>& change) override;

  Limits limits() const override { return services_.quota->limits(); }
  Usage usage() const override { return services_.quota->usage(); }
  Status set_limits(const Limits& limits) override;
  std::chrono::seconds trash_keep() const override;
  Status set_trash_keep(std::chrono::seconds keep) override;
  std::vector<TrashedSnapshot> trash() const override;
  Status undelete(const TrashedSnapshot& which, const std::string& as) override;
  Result<std::size_t> empty_trash() override;
  Status remove_snapshot(const std::shared_ptr<Disk>& disk, SnapshotId id) override;
  Time time() const override { return services_.clock(); }
  Policies& policies() const override { return *policies_; }
  Status run_policy(const std::string& name) override;

  Result<ByteCount> copy_range(const ImageName& from, ByteOffset from_at, const std::shared_ptr<Disk>& to,
                               ByteOffset to_at, ByteCount count) override;
  Status restore(const std::shared_ptr<Disk>& from, SnapshotId snapshot, const std::shared_ptr<Disk>& to) override;
  Result<std::shared_ptr<Disk>> clone(const ImageName& from, const std::string& name,
                                      const Attributes& directory) override;
  Result<DiffSizes> diff(const ImageName& a, const ImageName& b,
                         const std::function<Status(const snapshot::Extent&)>& visit,
                         const std::function<void(std::uint64_t, std::uint64_t)>& progress,
                         const std::function<bool()>& stop) override;

  Result<os::Capacity> capacity() const override;
  Space& space() const override { return *space_; }
  nlohmann::json status() const override {
    auto report = report_status(*this, services_);
    add_care(report, *this);
    return report;
  }
  std::string metrics() const override { return report_metrics(*this, services_) + care_metrics(*this); }
  nlohmann::json describe(const ImageName& image) const override {
    auto report = report_image(image);
    add_care(report, image);
    return report;
  }

  Result<CheckReport> check(const std::function<void(std::uint64_t, std::uint64_t)>& progress,
                            const std::function<bool()>& stop) override;
  Result<RepairReport> repair(const std::function<void(std::uint64_t, std::uint64_t)>& progress,
                              const std::function<bool()>& stop) override;
  Result<snapshot::Collected> collect(const std::function<bool()>& stop,
                                      const std::function<void(std::uint64_t, std::uint64_t)>& progress) override;

  bool wait_until_quiet(std::chrono::milliseconds limit) override;
  Result<bool> step_commit(DiskId id) override;
  Status step_upkeep(DiskId id) override;
  void step_schedule() override;

 private:
  /// One line a layer: the whole stack, bottom to top.
  void assemble(Environment environment) {
    services_.storage = std::move(environment.storage);
    services_.reserve = std::make_unique<Reserve>(*services_.storage);
    services_.maps = std::move(environment.maps);
    services_.locator = std::move(environment.locator);
    services_.objects = objects::make_directory_objects(*services_.storage);
    policies_ = std::make_unique<Policies>(*services_.storage, *services_.reserve);
    chunks::ChunkStoreOptions chunk_options;
    chunk_options.compression = settings_.compression;
    chunk_options.chunk_cache_bytes = options_.chunk_cache_bytes;
    chunk_options.node_cache_bytes = options_.node_cache_bytes;
    chunk_options.pack_bytes = options_.pack_bytes;
    services_.chunks = std::make_unique<chunks::ChunkStore>(*services_.objects, *services_.locator, services_.registry,
                                                            settings_.geometry, std::move(chunk_options));
    services_.base = std::make_unique<snapshot::MapSource>(*services_.chunks);
    services_.encoders = std::make_unique<ThreadPool>("encode", kEncoderThreads, kEncoderThreads * 8);
    services_.prefetchers = std::make_unique<ThreadPool>("prefetch", kPrefetchThreads, kMaxQueuedPrefetches);
    space_ = std::make_unique<CountedSpace>(services_, [this] { return entries(); });
  }

  Result<std::shared_ptr<DiskEntry>> open_disk(DiskId id);
  Result<std::shared_ptr<DiskEntry>> open_log(std::unique_ptr<catalog::DiskLog> log);
  /// A name that nobody else can take until the result goes.
  class NameReservation {
   public:
    NameReservation(OpenStore& store, std::string name) : store_(&store), name_(std::move(name)) {}
    NameReservation(NameReservation&& other) noexcept
        : store_(std::exchange(other.store_, nullptr)), name_(std::move(other.name_)) {}
    NameReservation& operator=(NameReservation&&) = delete;
    ~NameReservation() {
      if (store_ == nullptr) return;
      MutexLock lock(store_->table_mutex_);
      store_->reserved_.erase(name_);
    }

   private:
    OpenStore* store_;
    std::string name_;
  };
  Result<NameReservation> reserve(const std::string& name, DiskId except = DiskId{0});
  DiskId take_disk_id();
  Status store_settings(const Limits& limits, std::chrono::seconds keep) VARVE_REQUIRES(disk_operations_);
  Status show_again(const std::shared_ptr<DiskEntry>& disk, const std::string& snapshot, SnapshotId id);
  void remove_hidden_disks();
  void make_space_from_trash();
  Status follow(const Policy& policy, DiskEntry& disk, Time time);
  void remove_what_policy_keeps_not(const Policy& policy, const std::shared_ptr<DiskEntry>& disk, Time time);
  /// In the log and on the live side, not in the table yet. Leaves nothing behind when it fails.
  Result<std::shared_ptr<DiskEntry>> make_disk(DiskId id, const std::string& name, const Attributes& directory);
  void undo_make_disk(DiskId id);
  std::shared_ptr<Disk> publish(const std::shared_ptr<DiskEntry>& entry);
  void adopt_opened(const std::shared_ptr<DiskEntry>& entry) VARVE_REQUIRES(disk_operations_);
  void adopt(const std::shared_ptr<DiskEntry>& entry) VARVE_REQUIRES(table_mutex_);
  std::vector<std::shared_ptr<DiskEntry>> entries() const;
  Result<std::shared_ptr<DiskEntry>> entry(DiskId id) const;
  InstantHooks instant_hooks();
  /// One that is not in the trash.
  Result<std::shared_ptr<DiskEntry>> shown_entry(DiskId id) const;
  Status replace_from(DiskEntry& from, SnapshotId snapshot, DiskEntry& to);
  Result<std::shared_ptr<DiskEntry>> clone_of(DiskEntry& source, SnapshotId snapshot, const std::string& name,
                                              const Attributes& directory);
  void at_start();
  std::vector<std::string> known_problems() const;
  template <class Call>
  void observe(Call call);

  const std::unique_ptr<os::File> lock_;  ///< released last
  const StoreSettings settings_;
  const OpenOptions options_;
  mutable Services services_;
  std::unique_ptr<CountedSpace> space_;  ///< asks for the disks until it is stopped
  std::unique_ptr<Policies> policies_;
  std::vector<std::string> damaged_;  ///< written in recover() only
  std::set<std::string, std::less<>> damaged_names_;  ///< of those whose log is good; in recover() only

  Mutex disk_operations_;  ///< before table_mutex_: renaming, removing disks; root attributes

  mutable Mutex table_mutex_;
  DiskId next_disk_ VARVE_GUARDED_BY(table_mutex_);
  std::set<std::string, std::less<>> reserved_ VARVE_GUARDED_BY(table_mutex_);
  std::map<DiskId, std::shared_ptr<DiskEntry>> disks_ VARVE_GUARDED_BY(table_mutex_);
  std::map<std::string, DiskId, std::less<>> names_ VARVE_GUARDED_BY(table_mutex_);
  Attributes root_attributes_ VARVE_GUARDED_BY(table_mutex_);
  Time root_modified_ VARVE_GUARDED_BY(table_mutex_);

  Mutex observer_mutex_;
  Observer* observer_ VARVE_GUARDED_BY(observer_mutex_) = nullptr;

  std::unique_ptr<Collector> collector_;
  std::unique_ptr<Background> background_;  ///< ends first
};

// --- opening and closing ---

Result<std::shared_ptr<DiskEntry>> OpenStore::open_log(std::unique_ptr<catalog::DiskLog> log) {
  disk::LiveDiskOptions live_options;
  live_options.assume_power_loss = options_.assume_power_loss;
  const DiskId id = log->state()->id;
  return DiskEntry::open(services_, std::move(log), live_options, [this, id] {
    if (background_) background_->want_commit(id);
  });
}

/// Null for a disk that was removed; what a crash left of its files goes now (rule 13).
Result<std::shared_ptr<DiskEntry>> OpenStore::open_disk(DiskId id) {
  VARVE_TRY_ASSIGN(auto log, catalog::DiskLog::open(*services_.objects, id));
  if (log->state()->removed) {
    if (auto swept = remove_live_files(*services_.storage, id); !swept) {
      log::warning("files of the removed disk {} stay: {}", id.value(), swept.error().message);
    }
    return std::shared_ptr<DiskEntry>();
  }
  const std::string name = log->state()->name;
  auto opened = open_log(std::move(log));
  if (!opened) {
    MutexLock lock(table_mutex_);
    damaged_names_.insert(name);
  }
  return opened;
}

Status OpenStore::recover() {
  // Before anything of ours writes: it can't tell a dead temporary from a living one.
  if (auto swept = objects::remove_temporaries(*services_.storage); !swept) {
    log::warning("temporaries of an interrupted write stay: {}", swept.error().message);
  }
  VARVE_TRY_ASSIGN(const auto ids, catalog::DiskLog::list(*services_.objects));
  std::vector<Result<std::shared_ptr<DiskEntry>>> opened(ids.size(), std::shared_ptr<DiskEntry>());
  {
    // Driven by hand, things happen in one order.
    ThreadPool pool("open", options_.background ? kOpenThreads : 1, kOpenThreads * 2);
    for (std::size_t i = 0; i < ids.size(); ++i) {
      pool.submit([this, &ids, &opened, i] { opened[i] = open_disk(ids[i]); });
    }
  }
  MutexLock operations(disk_operations_);
  DiskId last;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (!opened[i]) {
      // The rest of the store is served; a damaged disk is named and left exactly as it is.
      damaged_.push_back(fmt::format("disk number {}: {}", ids[i].value(), opened[i].error().message));
      log::error("{}; it is not served, `varve check` tells more", damaged_.back());
    } else if (*opened[i] != nullptr) {
      adopt_opened(*opened[i]);
    }
    last = std::max(last, ids[i]);
  }
  // After the journals have theirs.
  services_.reserve->fill();
  MutexLock lock(table_mutex_);
  next_disk_ = DiskId{last.value() + 1};
  return {};
}

/// Two logs with one name: a mkdir that failed on the way, and could not be undone, left an empty one; that goes. Else
/// somebody copied a folder of disks/: both are data, and neither may hide the other.
void OpenStore::adopt_opened(const std::shared_ptr<DiskEntry>& entry) {
  const auto give_up = [](const std::shared_ptr<DiskEntry>& empty) {
    auto removed = empty->remove();
    if (!removed) log::warning("{}: {}", quoted(empty->name()), removed.error().message);
    return removed.has_value();
  };
  std::shared_ptr<DiskEntry> other;
  {
    MutexLock lock(table_mutex_);
    const auto it = entry->hidden() ? names_.end() : names_.find(entry->name());
    if (it != names_.end()) other = disks_.at(it->second);
  }
  if (other != nullptr && entry->empty() && give_up(entry)) return;
  const bool alone = other != nullptr && other->empty() && give_up(other);
  MutexLock lock(table_mutex_);
  if (alone) {
    names_.erase(names_.find(entry->name()));
    disks_.erase(other->id());
  } else if (other != nullptr) {
    const std::string name = entry->name();
    std::string alias = fmt::format("{} (number {})", name, entry->id().value());
    while (names_.contains(alias)) alias += "'";
    log::error("two disks are called {}; the second is served as {}, rename one", quoted(name), quoted(alias));
    entry->serve_as(alias);
  }
  adopt(entry);
}

void OpenStore::adopt(const std::shared_ptr<DiskEntry>& entry) {
  if (!entry->hidden()) names_.emplace(entry->name(), entry->id());
  root_modified_ = std::max(root_modified_, entry->created());
  disks_.emplace(entry->id(), entry);
}

void OpenStore::start_background() {
  if (!options_.background) return;
  background_ = std::make_unique<Background>(services_, [this] { return entries(); }, [this] { at_start(); },
                                             [this] { step_schedule(); });
  background_->start();
  space_->start();
  collector_ = std::make_unique<Collector>(
      services_,
      [this](const snapshot::CollectOptions& options) -> Status {
        VARVE_TRY(collect_with(options));
        return {};
      },
      [this] { return short_of_space(); });
  collector_->start();
}

bool OpenStore::short_of_space() const {
  const auto now = capacity();
  return now && now->available.value() < now->total.value() / kShortOfSpace;
}

/// Once, in the background, after the store is usable.
void OpenStore::at_start() {
  const auto run = [this](StartupTask& task, const auto& work, std::string_view complaint) {
    task.state = StartupTask::State::running;
    // Asked once for each thing that is looked at.
    const std::function<bool()> stop = [this, &task] {
      ++task.looked_at;
      return services_.stopping.load();
    };
    const Status done = work(stop);
    task.state = done ? StartupTask::State::done : StartupTask::State::failed;
    if (!done && done.error().code != ECANCELED) log::warning("{}: {}", complaint, done.error().message);
  };
  run(services_.locator_check, [this](const auto& stop) { return services_.chunks->reconcile_locator(stop); },
      "the locator is incomplete, deduplication finds less");
  run(services_.first_collect,
      [this](const auto& stop) -> Status {
        VARVE_TRY(collect_with({stop, {}, {}}));
        return {};
      },
      "collect did not run");
}

Status OpenStore::close() {
  if (background_) background_->stop();
  if (collector_) collector_->stop();
  services_.stopping = true;
  space_->stop();
  const auto disks = entries();
  std::vector<Status> closed(disks.size());
  {
    // Mostly waiting for syncs, like opening. A few disks are closed in order: threads gain nothing there.
    ThreadPool pool("close", disks.size() < kOpenThreads ? 1 : kOpenThreads, kOpenThreads * 2);
    for (std::size_t i = 0; i < disks.size(); ++i) {
      pool.submit([&disks, &closed, i] { closed[i] = disks[i]->close(); });
    }
  }
  Status first;
  for (Status& one : closed) {
    if (one) continue;
    log::error("{}", one.error().message);
    if (first) first = std::move(one);
  }
  return first;
}

void OpenStore::set_observer(Observer* observer) {
  MutexLock lock(observer_mutex_);
  observer_ = observer;
}

/// Under observer_mutex_ only, so that set_observer(null) returns when no call is under way.
template <class Call>
void OpenStore::observe(Call call) {
  MutexLock lock(observer_mutex_);
  if (observer_ != nullptr) call(*observer_);
}

// --- disks ---

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
  if (!undone) log::warning("what is left of a disk that was not made goes at the next mount: {}", undone.error().message);
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

// --- limits and the trash ---

Status OpenStore::store_settings(const Limits& limits, std::chrono::seconds keep) {
  return services_.reserve->spend([&] {
    return write_settings(*services_.storage, {settings_, root_attributes(), limits, keep});
  });
}

Status OpenStore::set_limits(const Limits& limits) {
  MutexLock operations(disk_operations_);
  VARVE_TRY(store_settings(limits, trash_keep()));
  services_.quota->set_limits(limits);
  return {};
}

std::chrono::seconds OpenStore::trash_keep() const {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::nanoseconds{services_.trash_keep});
}

Status OpenStore::set_trash_keep(std::chrono::seconds keep) {
  if (keep.count() < 0 || static_cast<std::uint64_t>(keep.count()) > kMaxTrashKeep) {
    return fail_refused(EINVAL, fmt::format("the trash can keep snapshots for {} days at most", kMaxTrashKeep / 86'400));
  }
  MutexLock operations(disk_operations_);
  VARVE_TRY(store_settings(limits(), keep));
  services_.trash_keep = nanoseconds_of(keep);
  return {};
}

std::vector<TrashedSnapshot> OpenStore::trash() const {
  std::vector<TrashedSnapshot> all;
  for (const auto& disk : entries()) {
    for (auto& info : disk->trash()) all.push_back({disk, disk->name(), disk->hidden(), std::move(info)});
  }
  std::ranges::stable_sort(all, {}, [](const TrashedSnapshot& one) { return one.info.care.trashed->since; });
  return all;
}

Status OpenStore::undelete(const TrashedSnapshot& which, const std::string& as) {
  const auto disk = std::static_pointer_cast<DiskEntry>(which.disk);
  if (!disk->hidden()) {
    VARVE_TRY(disk->undelete_snapshot(which.info.id, as));
  } else {
    VARVE_TRY(show_again(disk, as, which.info.id));
    observe([&](Observer& observer) { observer.disk_appeared(disk->id(), disk->name()); });
  }
  observe([&](Observer& observer) { observer.snapshot_appeared(disk->id(), which.info.id, as); });
  return {};
}

/// The disk comes back for its snapshot, and goes again if that cannot come.
Status OpenStore::show_again(const std::shared_ptr<DiskEntry>& disk, const std::string& snapshot, SnapshotId id) {
  MutexLock operations(disk_operations_);
  auto reserved = reserve(disk->name());
  if (!reserved) {
    return fail_refused(reserved.error().code, fmt::format("the disk {} of this snapshot was removed, and there is another "
                                                           "of that name now; rename that one first",
                                                           quoted(disk->name())));
  }
  VARVE_TRY(disk->set_hidden(false));
  if (auto undeleted = disk->undelete_snapshot(id, snapshot); !undeleted) {
    if (auto hidden = disk->set_hidden(true); hidden) return undeleted;
    log::warning("the disk {} came back from the trash without a snapshot", quoted(disk->name()));
    MutexLock lock(table_mutex_);
    names_.emplace(disk->name(), disk->id());
    return undeleted;
  }
  MutexLock lock(table_mutex_);
  names_.emplace(disk->name(), disk->id());
  root_modified_ = now();
  return {};
}

Result<std::size_t> OpenStore::empty_trash() {
  std::size_t count = 0;
  for (const TrashedSnapshot& one : trash()) {
    const auto deleted = static_cast<DiskEntry&>(*one.disk).delete_while(one.info.id, is_in_trash);
    if (deleted) ++count;
    // What went, or came back, meanwhile is not in the trash.
    if (!deleted && deleted.error().code != ENOENT && deleted.error().code != ECANCELED) {
      return tl::unexpected(deleted.error());
    }
  }
  remove_hidden_disks();
  return count;
}

Status OpenStore::remove_snapshot(const std::shared_ptr<Disk>& disk, SnapshotId id) {
  VARVE_TRY_ASSIGN(const SnapshotInfo info, disk->snapshot(id));
  VARVE_TRY(disk->remove_snapshot(id));
  observe([&](Observer& observer) { observer.snapshot_gone(disk->id(), id, info.name); });
  return {};
}

/// Nothing is left of them, not even in the trash.
void OpenStore::remove_hidden_disks() {
  MutexLock operations(disk_operations_);
  for (const auto& disk : entries()) {
    if (!disk->hidden() || !disk->trash().empty()) continue;
    if (auto removed = disk->remove(); !removed) {
      log::warning("what is left of disk {} stays: {}", quoted(disk->name()), removed.error().message);
      continue;
    }
    MutexLock lock(table_mutex_);
    disks_.erase(disk->id());
  }
}

/// One at a time, the oldest first: what it held comes back only when it is collected.
void OpenStore::make_space_from_trash() {
  const auto there = capacity();
  if (!there || there->available >= trash_reserve(there->total)) return;
  for (const TrashedSnapshot& one : trash()) {
    if (!static_cast<DiskEntry&>(*one.disk).delete_while(one.info.id, is_in_trash)) continue;
    log::info("snapshot {} of {} was deleted from the trash: the store is nearly full", quoted(one.info.name),
              quoted(one.disk_name));
    return;
  }
}

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

// --- copies ---

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

/// What the reserve will take again is not there for writers.
Result<os::Capacity> OpenStore::capacity() const {
  VARVE_TRY_ASSIGN(os::Capacity capacity, services_.storage->capacity());
  const ByteCount missing = services_.reserve->missing();
  capacity.available = capacity.available > missing ? capacity.available - missing : ByteCount{0};
  return capacity;
}

// --- check and collect ---

/// What is known to be wrong with files that check_store() does not read.
std::vector<std::string> OpenStore::known_problems() const {
  auto problems = damaged_;
  if (const auto problem = policies_->problem()) problems.push_back(problem->message);
  return problems;
}

Result<CheckReport> OpenStore::check(const std::function<void(std::uint64_t, std::uint64_t)>& progress,
                                     const std::function<bool()>& stop) {
  return check_store(services_, entries(), known_problems(), progress, stop);
}

Result<RepairReport> OpenStore::repair(const std::function<void(std::uint64_t, std::uint64_t)>& progress,
                                       const std::function<bool()>& stop) {
  return repair_store(services_, entries(), known_problems(), progress, stop);
}

Result<snapshot::Collected> OpenStore::collect(const std::function<bool()>& stop,
                                               const std::function<void(std::uint64_t, std::uint64_t)>& progress) {
  return collect_with({stop, progress, {}});
}

Result<snapshot::Collected> OpenStore::collect_with(snapshot::CollectOptions options) {
  // A disk that could not be opened has roots that nobody can name.
  if (!damaged_.empty()) {
    return fail_refused(EIO, "nothing is collected while a disk of the store is damaged: its data could not be told "
                             "from garbage");
  }
  space_->let_go();
  space_->collect_begins();
  CollectState& state = services_.collect;
  const std::uint64_t garbage = services_.garbage;
  ++state.running;
  options.progress = [&state, tell = std::move(options.progress)](std::uint64_t done, std::uint64_t total) {
    state.packs_done = done;
    state.packs_total = total;
    if (tell) tell(done, total);
  };
  auto collected = snapshot::collect_garbage(*services_.chunks, options);
  --state.running;
  if (!collected) return collected;
  space_->collect_ended();
  ++state.runs;
  state.collected = garbage;
  state.records_removed += collected->records_removed;
  state.bytes_removed += collected->bytes_removed;
  state.waiting_records = collected->waiting_records;
  state.waiting_bytes = collected->waiting_bytes;
  return collected;
}

// --- driven by hand ---

bool OpenStore::wait_until_quiet(std::chrono::milliseconds limit) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  for (;;) {
    bool quiet = true;
    for (const auto& disk : entries()) {
      if (!background_) {
        while (disk->commit_one().value_or(false)) {
        }
        while (disk->upkeep().value_or(false)) {
        }
      }
      quiet = quiet && disk->live().pending_count() == 0 && disk->live().counters().detour_chunks == 0;
    }
    if (quiet) return true;
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(kPollInterval);
  }
}

Result<bool> OpenStore::step_commit(DiskId id) {
  VARVE_TRY_ASSIGN(const auto disk, entry(id));
  return disk->commit_one();
}

Status OpenStore::step_upkeep(DiskId id) {
  VARVE_TRY_ASSIGN(const auto disk, entry(id));
  VARVE_TRY(disk->upkeep());
  return {};
}

/// RocksDB opens its files by path and asks nothing: a pipe would hold it up, a link lead it elsewhere.
Status refuse_foreign_locator(os::Storage& storage) {
  const std::string directory(kLocatorDirectory);
  VARVE_TRY(storage.make_directory(directory));
  VARVE_TRY_ASSIGN(const auto entries, storage.list(directory));
  for (const auto& entry : entries) {
    if (entry.type != os::FileType::directory) VARVE_TRY(storage.open(directory + "/" + entry.name, {.write = true}));
  }
  return {};
}

Result<std::unique_ptr<chunks::Locator>> open_locator(os::Storage& storage, const std::string& path,
                                                      std::size_t memory) {
  VARVE_TRY(refuse_foreign_locator(storage));
  const auto directory = boost::filesystem::absolute(path).string() + "/" + std::string(kLocatorDirectory);
  return chunks::open_rocksdb_locator(directory, memory);
}

/// The volatile directory and the locator of a store at `path`.
Result<Environment> real_environment(const std::string& path, std::unique_ptr<os::Storage> storage,
                                     const std::string& store_id, std::size_t locator_bytes) {
  Environment environment;
  environment.storage = std::move(storage);
  VARVE_TRY_ASSIGN(environment.maps, os::open_volatile(store_id));
  auto locator = open_locator(*environment.storage, path, locator_bytes);
  if (locator) {
    environment.locator = std::move(*locator);
  } else {
    log::warning("the locator can't be used, deduplication knows only what is written from now on: {}",
                 locator.error().message);
    environment.locator = chunks::make_memory_locator();
  }
  return environment;
}

Result<std::unique_ptr<Store>> finish_open(Environment environment, std::unique_ptr<os::File> lock,
                                           StoredSettings stored, const OpenOptions& options) {
  auto store = std::make_unique<OpenStore>(std::move(environment), std::move(lock), std::move(stored), options);
  VARVE_TRY(store->recover());
  store->start_background();
  return std::unique_ptr<Store>(std::move(store));
}

/// A store that others own or may write to holds what they put there, at any moment.
Status refuse_foreign(os::Storage& storage, const std::string& path) {
  VARVE_TRY_ASSIGN(const auto status, storage.status(""));
  if (status.owner == ::geteuid() && (status.mode & kWritableByOthers) != 0) {
    return fail_refused(EACCES, fmt::format("{}: others than its owner may write to this directory; chmod go-w it", path));
  }
  if (status.owner == ::geteuid()) return {};
  return fail_refused(EACCES, fmt::format("{}: the store belongs to user {}, and this is user {}; run varve as that user, "
                                          "or chown the whole store",
                                          path, status.owner, ::geteuid()));
}

}  // namespace

Status Store::init(os::Storage& storage, const InitOptions& options) {
  if (!Geometry::valid_chunk_size(options.chunk_size.value())) {
    return fail_refused(EINVAL, fmt::format("a chunk size of {} bytes is not possible: it is a power of two from {} to {}",
                                            options.chunk_size.value(), kMinChunkSize, kMaxChunkSize));
  }
  VARVE_TRY_ASSIGN(const auto entries, storage.list(""));
  for (const auto& entry : entries) {
    if (entry.name == kSettingsFile) return fail_refused(EEXIST, "there is a store already");
  }
  VARVE_TRY(refuse_occupied(storage, entries));
  for (const char* directory : kDirectories) VARVE_TRY(os::make_directories_durably(storage, directory));
  StoredSettings stored;
  stored.settings.id = random_id();
  stored.settings.geometry = Geometry{options.chunk_size};
  stored.settings.compression = options.compression;
  stored.settings.created = now();
  stored.root = Attributes{::geteuid(), ::getegid(), 0755, {}};
  // Last: a directory is a store when, and only when, this file is there.
  return write_settings(storage, stored);
}

Status Store::init(const std::string& path, const InitOptions& options) {
  boost::system::error_code problem;
  boost::filesystem::path target = boost::filesystem::absolute(path).lexically_normal();
  // "store/": its parent is the one above the slash.
  if (target.filename() == ".") target = target.parent_path();
  if (!boost::filesystem::exists(target, problem)) {
    if (::mkdir(target.c_str(), 0700) != 0) return fail_system(errno, fmt::format("making the store {}", path));
    VARVE_TRY_ASSIGN(const auto above, os::open_directory(target.parent_path().string()));
    VARVE_TRY(above->sync_directory(""));
  }
  VARVE_TRY_ASSIGN(const auto storage, os::open_directory(path));
  VARVE_TRY(refuse_foreign(*storage, path));
  auto done = init(*storage, options);
  return done ? done : Status(tl::unexpected(done.error().in(path)));
}

Result<std::unique_ptr<Store>> Store::open(const std::string& path, const OpenOptions& options) {
  VARVE_TRY_ASSIGN(auto storage, os::open_directory(path));
  VARVE_TRY(refuse_foreign(*storage, path));
  auto stored = read_settings(*storage);
  if (!stored) return tl::unexpected(stored.error().in(path));
  auto lock = lock_store(*storage, options.purpose);
  if (!lock) return tl::unexpected(lock.error().in(path));
  // Once more: whoever had the lock may have changed them.
  stored = read_settings(*storage);
  if (!stored) return tl::unexpected(stored.error().in(path));
  VARVE_TRY_ASSIGN(auto environment,
                   real_environment(path, std::move(storage), stored->settings.id, options.locator_bytes));
  return finish_open(std::move(environment), std::move(*lock), std::move(*stored), options);
}

Result<std::unique_ptr<Store>> Store::open(Environment environment, const OpenOptions& options) {
  VARVE_TRY_ASSIGN(auto stored, read_settings(*environment.storage));
  VARVE_TRY_ASSIGN(auto lock, lock_store(*environment.storage, options.purpose));
  return finish_open(std::move(environment), std::move(lock), std::move(stored), options);
}

}  // namespace varve::store
