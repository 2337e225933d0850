// Holds, deadlines, the trash, prune and limits of a ModeledStore.
#include <algorithm>
#include <cerrno>
#include <nlohmann/json.hpp>
#include <utility>

#include "modeled_store.h"
#include "varve/store/commands.h"

namespace varve::test {
namespace {

using store::Care;
using store::TrashedSnapshot;

constexpr std::int64_t kSecond = 1'000'000'000;

std::string key_of(const TrashedSnapshot& one) {
  return one.disk_removed ? std::string(kHidden) + one.disk_name : one.disk_name;
}

bool is_over(const Care& care, Time time) {
  if (care.trashed && care.trashed->until <= time) return true;
  return care.deadline && !care.hold && *care.deadline <= time;
}

void erase_if_empty(ModeledStore::State& state, const std::string& disk) {
  if (disk.starts_with(kHidden) && state.at(disk).trash.empty()) state.erase(disk);
}

bool is_reached(const std::optional<std::uint64_t>& limit, std::size_t count) { return limit && count + 1 > *limit; }

}  // namespace

Time ModeledStore::later(std::int64_t seconds) const {
  return Time{knowledge_.time.nanoseconds + seconds * kSecond};
}

bool ModeledStore::limits_refuse(const std::string& disk) const {
  std::size_t all = 0;
  for (const auto& [name, one] : knowledge_.state) all += one.snapshots.size();
  const DiskModel& own = knowledge_.state.at(disk);
  return is_reached(own.limits.snapshots, own.snapshots.size()) || is_reached(knowledge_.state.limits.snapshots, all);
}

void ModeledStore::change_care(const std::string& what, const std::string& disk, const std::string& snapshot,
                               const std::function<void(Care&)>& change) {
  if (id_of(disk, snapshot) == SnapshotId{0}) return;
  State after = knowledge_.state;
  Care& care = after[disk].care[snapshot];
  change(care);
  if (care == Care{}) after[disk].care.erase(snapshot);
  perform(what + " " + disk + "@" + snapshot, {{after}}, [&] {
    return pointer(disk)->change_snapshot_care(id_of(disk, snapshot), [&](Care& own) -> Status {
      change(own);
      return {};
    });
  });
}

void ModeledStore::hold(const std::string& disk, const std::string& snapshot, const std::optional<std::string>& reason) {
  change_care("hold", disk, snapshot, [&](Care& care) { care.hold = reason; });
}

void ModeledStore::set_deadline(const std::string& disk, const std::string& snapshot, std::int64_t seconds) {
  change_care("deadline of", disk, snapshot, [&](Care& care) { care.deadline = later(seconds); });
}

void ModeledStore::remove_from(State& state, const std::string& disk, const std::string& snapshot) const {
  DiskModel& own = state.at(disk);
  Trashed trashed{own.snapshots.at(snapshot), {}};
  if (const auto care = own.care.find(snapshot); care != own.care.end()) trashed.care = care->second;
  trashed.care.trashed = catalog::Trashed{knowledge_.time, later(state.trash_keep)};
  own.snapshots.erase(snapshot);
  own.care.erase(snapshot);
  if (state.trash_keep > 0) own.trash[snapshot] = std::move(trashed);
}

/// What is over goes disk by disk, each from its oldest snapshot on.
std::vector<ModeledStore::State> ModeledStore::outcomes_of_time() const {
  struct One {
    DiskId disk_id;
    SnapshotId id;
    std::string disk;
    std::string name;
    bool trashed = false;
  };
  std::vector<One> over;
  for (const auto& disk : store_->disks()) {
    for (const auto& info : disk->snapshots()) {
      if (is_over(info.care, knowledge_.time)) over.push_back({disk->id(), info.id, disk->name(), info.name, false});
    }
  }
  for (const auto& one : store_->trash()) {
    if (is_over(one.info.care, knowledge_.time)) {
      over.push_back({one.disk->id(), one.info.id, key_of(one), one.info.name, true});
    }
  }
  std::ranges::sort(over, {}, [](const One& one) { return std::pair(one.disk_id, one.id); });
  std::vector<Step> steps;
  for (const One& one : over) {
    steps.push_back([one](State& next) {
      DiskModel& disk = next.at(one.disk);
      if (one.trashed) {
        disk.trash.erase(one.name);
      } else {
        disk.snapshots.erase(one.name);
        disk.care.erase(one.name);
      }
      erase_if_empty(next, one.disk);
    });
  }
  return outcomes_of(steps);
}

std::vector<ModeledStore::State> ModeledStore::outcomes_of(const std::vector<Step>& steps) const {
  std::vector<State> outcomes{knowledge_.state};
  const std::uint64_t all = std::uint64_t{1} << steps.size();
  for (std::uint64_t done = 1; done < all; done = fault_ ? done + 1 : done * 2 + 1) {
    State& next = outcomes.emplace_back(knowledge_.state);
    for (std::size_t i = 0; i < steps.size(); ++i) {
      if ((done >> i & 1) != 0) steps[i](next);
    }
  }
  return outcomes;
}

void ModeledStore::forget_what_the_trash_could_not_take() {
  if (!fault_ || store_ == nullptr) return;
  const auto trash = store_->trash();
  for (auto& [key, disk] : knowledge_.state) {
    std::erase_if(disk.trash, [&trash, &key = key](const auto& item) {
      return std::ranges::none_of(trash, [&](const auto& one) { return key_of(one) == key && one.info.name == item.first; });
    });
  }
}

bool ModeledStore::anything_is_over() const {
  for (const auto& disk : store_->disks()) {
    for (const auto& info : disk->snapshots()) {
      if (is_over(info.care, knowledge_.time)) return true;
    }
  }
  return std::ranges::any_of(store_->trash(),
                             [this](const TrashedSnapshot& one) { return is_over(one.info.care, knowledge_.time); });
}

void ModeledStore::pass_time(std::int64_t seconds) {
  knowledge_.time = later(seconds);
  perform("pass time", {outcomes_of_time()}, [&]() -> Status {
    store_->step_schedule();
    // It tells nobody what it could not do, and tries again.
    if (!anything_is_over()) return {};
    return fail_system(fault_ ? fault_->code : EIO, "something is there beyond its time");
  });
}

void ModeledStore::keep_trash(std::int64_t seconds) {
  State after = knowledge_.state;
  after.trash_keep = seconds;
  perform("keep the trash for " + std::to_string(seconds), {{after}},
          [&] { return store_->set_trash_keep(std::chrono::seconds(seconds)); });
}

void ModeledStore::undelete(const std::string& disk, const std::string& snapshot) {
  const auto trash = store_->trash();
  const std::string hidden = std::string(kHidden) + disk;
  const auto which = std::ranges::find_if(trash, [&](const TrashedSnapshot& one) {
    return one.disk_name == disk && one.info.name == snapshot;
  });
  const std::string key = which == trash.end() ? disk : key_of(*which);
  if (model(key) == nullptr || !model(key)->trash.contains(snapshot) || which == trash.end()) return;
  Flight flight;
  State after = knowledge_.state;
  if (key == hidden) {
    // The directory comes back before what is in it.
    auto node = after.extract(hidden);
    node.key() = disk;
    after.insert(std::move(node));
    flight.outcomes.push_back(after);
  }
  auto node = after[disk].trash.extract(snapshot);
  node.mapped().care.trashed.reset();
  after[disk].snapshots[snapshot] = node.mapped().image;
  if (node.mapped().care != Care{}) after[disk].care[snapshot] = node.mapped().care;
  flight.outcomes.push_back(std::move(after));
  perform("undelete " + disk + "@" + snapshot, std::move(flight), [&] { return store_->undelete(*which, snapshot); });
}

void ModeledStore::empty_trash() {
  std::vector<Step> steps;
  for (const auto& one : store_->trash()) {
    steps.push_back([key = key_of(one), name = one.info.name](State& next) {
      next.at(key).trash.erase(name);
      erase_if_empty(next, key);
    });
  }
  perform("empty the trash", {outcomes_of(steps)}, [&]() -> Status {
    VARVE_TRY(store_->empty_trash());
    return {};
  });
}

void ModeledStore::prune(const std::string& disk, std::size_t keep_last) {
  if (model(disk) == nullptr || pointer(disk) == nullptr) return;
  auto infos = pointer(disk)->snapshots();
  std::ranges::sort(infos, std::ranges::greater{}, &store::SnapshotInfo::id);
  std::vector<Step> steps;
  for (std::size_t i = keep_last; i < infos.size(); ++i) {
    if (infos[i].care.hold || !model(disk)->snapshots.contains(infos[i].name)) continue;
    steps.push_back([this, disk, name = infos[i].name](State& next) { remove_from(next, disk, name); });
  }
  perform("prune " + disk, {outcomes_of(steps)}, [&]() -> Status {
    const nlohmann::json request{{"command", "prune"}, {"disk", disk}, {"keep", {{"last", keep_last}}}};
    VARVE_TRY_ASSIGN(const auto pruned, store::run_command(*store_, request, {}));
    if (pruned.at("failed").empty()) return {};
    // The first that stayed does not keep the others.
    return fail_system(fault_ ? fault_->code : EIO, pruned.at("failed").dump());
  });
}

void ModeledStore::limit_snapshots(const std::string& disk, std::optional<std::uint64_t> count) {
  if (!disk.empty() && model(disk) == nullptr) return;
  State after = knowledge_.state;
  store::Limits& limits = disk.empty() ? after.limits : after[disk].limits;
  limits.snapshots = count;
  perform("limit " + (disk.empty() ? "the store" : disk), {{after}},
          [&, set = limits] { return disk.empty() ? store_->set_limits(set) : pointer(disk)->set_limits(set); });
}

}  // namespace varve::test
