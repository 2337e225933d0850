// A store that is open: what Store promises, done by the rooms below it. Its parts are in several files:
//
//   open_store.cpp    recovering, the background, closing; check, repair, collect
//   disk_table.cpp    the disks by name and number
//   trash.cpp         limits, the trash
//   schedule.cpp      policies, deadlines: what is due by the clock
//   copies.cpp        what goes from image to image: copy, restore, clone, diff
#pragma once

#include <fmt/format.h>

#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "background.h"
#include "care_report.h"
#include "collector.h"
#include "disk_entry.h"
#include "instant.h"
#include "policies.h"
#include "report.h"
#include "services.h"
#include "settings.h"
#include "space.h"
#include "varve/store/store.h"

namespace varve::store {

class OpenStore final : public Store {
 public:
  OpenStore(Environment environment, std::unique_ptr<os::File> lock, StoredSettings stored, OpenOptions options)
      : lock_(std::move(lock)),
        settings_(std::move(stored.settings)),
        options_(std::move(options)),
        root_attributes_(std::move(stored.root)),
        root_modified_(settings_.created) {
    services_.clock = options_.clock;
    services_.quota->set_limits(stored.limits);
    services_.trash_keep = std::chrono::nanoseconds(stored.trash_keep).count();
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
  void assemble(Environment environment);
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
  std::vector<std::string> damaged_;                  ///< written in recover() only
  std::set<std::string, std::less<>> damaged_names_;  ///< of those whose log is good; in recover() only
  std::shared_ptr<const std::vector<std::string>> volatile_names_;  ///< while recover() opens disks

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

/// Under observer_mutex_ only, so that set_observer(null) returns when no call is under way.
template <class Call>
void OpenStore::observe(Call call) {
  MutexLock lock(observer_mutex_);
  if (observer_ != nullptr) call(*observer_);
}

}  // namespace varve::store
