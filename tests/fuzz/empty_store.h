// A Store without disks: for requests, whose decoding asks for no more.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "../../src/store/policies.h"
#include "support/memory_storage.h"
#include "varve/store/space.h"
#include "varve/store/store.h"

namespace varve::fuzz {

class EmptySpace final : public store::Space {
 public:
  bool ready() const override { return true; }
  unsigned percent() const override { return 0; }
  bool failed() const override { return false; }
  Status catch_up(const std::function<void(std::uint64_t, std::uint64_t)>&, const std::function<bool()>&) override {
    return {};
  }
  Result<snapshot::RecordSums> freed_without(const std::vector<store::SnapshotName>&) override {
    return snapshot::RecordSums{};
  }
  Result<std::uint64_t> logical_of(store::Disk&, SnapshotId) override { return std::uint64_t{0}; }
  Result<std::uint64_t> logical_of(store::Disk&) override { return std::uint64_t{0}; }
  Result<store::SpaceSums> sums_of(store::Disk&) override { return store::SpaceSums{}; }
  Result<store::SpaceSums> sums() override { return store::SpaceSums{}; }
  Result<store::FreePlan> plan(std::uint64_t, const std::vector<std::shared_ptr<store::Disk>>&,
                               const std::function<bool()>&) override {
    return store::FreePlan{};
  }
  snapshot::RecordSums counted() const override { return {}; }
  store::SpaceSums live() const override { return {}; }
  std::uint64_t waiting() const override { return 0; }
  std::size_t memory_bytes() const override { return 0; }
  Result<std::optional<std::string>> verify() override { return std::optional<std::string>(); }
};

class EmptyStore final : public store::Store {
 public:
  Status close() override { return {}; }
  const store::StoreSettings& settings() const override { return settings_; }
  std::vector<std::string> damaged_disks() const override { return {}; }
  void set_observer(store::Observer*) override {}
  std::vector<std::shared_ptr<store::Disk>> disks() const override { return {}; }
  Result<std::shared_ptr<store::Disk>> find_disk(std::string_view) const override { return absent(); }
  Result<std::shared_ptr<store::Disk>> disk(DiskId) const override { return absent(); }
  Result<std::shared_ptr<store::Disk>> create_disk(const std::string&, const store::Attributes&) override {
    return absent();
  }
  Status remove_disk(DiskId) override { return absent(); }
  Status rename_disk(DiskId, const std::string&) override { return absent(); }
  Time root_modified() const override { return {}; }
  store::Attributes root_attributes() const override { return {}; }
  Status change_root_attributes(const std::function<Status(store::Attributes&)>&) override { return {}; }
  store::Limits limits() const override { return {}; }
  store::Usage usage() const override { return {}; }
  Status set_limits(const store::Limits&) override { return {}; }
  std::chrono::seconds trash_keep() const override { return {}; }
  Status set_trash_keep(std::chrono::seconds) override { return {}; }
  std::vector<store::TrashedSnapshot> trash() const override { return {}; }
  Status undelete(const store::TrashedSnapshot&, const std::string&) override { return absent(); }
  Result<std::size_t> empty_trash() override { return std::size_t{0}; }
  Status remove_snapshot(const std::shared_ptr<store::Disk>&, SnapshotId) override { return absent(); }
  Time time() const override { return {}; }
  store::Policies& policies() const override { return policies_; }
  Status run_policy(const std::string& name) override { return policies_.find(name).map([](const auto&) {}); }
  Result<ByteCount> copy_range(const store::ImageName&, ByteOffset, const std::shared_ptr<store::Disk>&, ByteOffset,
                               ByteCount) override {
    return absent();
  }
  Status restore(const std::shared_ptr<store::Disk>&, SnapshotId, const std::shared_ptr<store::Disk>&) override {
    return absent();
  }
  Result<std::shared_ptr<store::Disk>> clone(const store::ImageName&, const std::string&,
                                             const store::Attributes&) override {
    return absent();
  }
  Result<store::DiffSizes> diff(const store::ImageName&, const store::ImageName&,
                                const std::function<Status(const snapshot::Extent&)>&,
                                const std::function<void(std::uint64_t, std::uint64_t)>&,
                                const std::function<bool()>&) override {
    return absent();
  }
  Result<os::Capacity> capacity() const override { return os::Capacity{}; }
  store::Space& space() const override { return space_; }
  nlohmann::json status() const override { return nlohmann::json::object(); }
  std::string metrics() const override { return {}; }
  nlohmann::json describe(const store::ImageName&) const override { return nlohmann::json::object(); }
  Result<store::CheckReport> check(const std::function<void(std::uint64_t, std::uint64_t)>&,
                                   const std::function<bool()>&) override {
    return store::CheckReport{};
  }
  Result<store::RepairReport> repair(const std::function<void(std::uint64_t, std::uint64_t)>&,
                                     const std::function<bool()>&) override {
    return store::RepairReport{};
  }
  Result<snapshot::Collected> collect(const std::function<bool()>&,
                                        const std::function<void(std::uint64_t, std::uint64_t)>&) override { return snapshot::Collected{}; }
  bool wait_until_quiet(std::chrono::milliseconds) override { return true; }
  Result<bool> step_commit(DiskId) override { return false; }
  Status step_upkeep(DiskId) override { return {}; }
  void step_schedule() override {}

 private:
  static tl::unexpected<Error> absent() { return fail(ENOENT, ErrorKind::absent, "there is nothing"); }
  store::StoreSettings settings_;
  mutable EmptySpace space_;
  mutable test::MemoryStorage storage_{{.power_loss = false}};
  mutable store::Reserve reserve_{storage_};
  mutable store::Policies policies_{storage_, reserve_};
};

}  // namespace varve::fuzz
