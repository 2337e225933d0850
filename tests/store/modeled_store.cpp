#include "modeled_store.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <stdexcept>
#include <utility>

#include "varve/chunks/ref.h"

namespace varve::test {
namespace {

using store::Attributes;
using store::Disk;
using store::SnapshotInfo;
using store::Store;

constexpr std::size_t kMostProblems = 10;
constexpr std::uint64_t kSector = 512;
constexpr int kMostSteps = 1000;
/// How a snapshot is called that is taken for a clone; it stays when the clone does not come to its end.
constexpr std::string_view kForClone = "clone-";
const std::string kAnyForClone = "clone-*";

const Attributes kDirectoryAttributes{0, 0, 0755, {}};
const Attributes kImageAttributes{0, 0, 0644, {}};

std::string text(std::uint64_t value) { return std::to_string(value); }

std::string normal(const std::string& snapshot) { return snapshot.starts_with(kForClone) ? kAnyForClone : snapshot; }

void must(const Status& status) {
  if (!status) throw std::runtime_error(status.error().message);
}

/// The same disks with the same snapshots.
template <class Stores>
std::map<std::string, std::set<std::string>> structure(const Stores& stores) {
  std::map<std::string, std::set<std::string>> names;
  for (const auto& [disk, item] : stores) {
    auto& snapshots = names[disk];
    for (const auto& snapshot : item.snapshots) {
      if constexpr (std::is_same_v<std::decay_t<decltype(snapshot)>, std::string>) {
        snapshots.insert(normal(snapshot));
      } else {
        snapshots.insert(normal(snapshot.first));
      }
    }
  }
  return names;
}

void remember(std::vector<MaybeImage>& history, const MaybeImage& image) {
  const bool known = std::ranges::any_of(history, [&image](const MaybeImage& past) {
    return past.has_value() == image.has_value() && (!image || past->is(*image));
  });
  if (!known) history.push_back(image);
}

std::string to_text(const std::map<std::string, std::set<std::string>>& names) {
  std::string out;
  for (const auto& [disk, snapshots] : names) {
    out += " " + disk + "(";
    for (const auto& snapshot : snapshots) out += " " + snapshot;
    out += " )";
  }
  return out.empty() ? " nothing" : out;
}

}  // namespace

// --- coming and going ---

ModeledStore::ModeledStore() : machine_(std::make_unique<Machine>()) {
  store::InitOptions options;
  options.chunk_size = ByteCount{kStoreChunk};
  must(Store::init(machine_->storage, options));
  must(open_store());
}

ModeledStore::ModeledStore(std::unique_ptr<Machine> machine, Knowledge knowledge)
    : machine_(std::move(machine)), knowledge_(std::move(knowledge)) {}

ModeledStore::ModeledStore(std::function<store::Environment()> environment) : environment_(std::move(environment)) {
  must(open_store());
}

ModeledStore::~ModeledStore() {
  hook(false);
  if (machine_ != nullptr) machine_->cut_off();
}

store::Environment ModeledStore::environment() {
  return machine_ != nullptr ? environment_on(*machine_) : environment_();
}

Status ModeledStore::open_store() {
  store::OpenOptions options;
  options.background = false;
  options.chunk_cache_bytes = 1 * kMiB;
  options.node_cache_bytes = 1 * kMiB;
  VARVE_TRY_ASSIGN(store_, Store::open(environment(), options));
  return {};
}

void ModeledStore::problem(const std::string& what) {
  if (problems_.size() < kMostProblems) problems_.push_back(label_ + operation_ + ": " + what);
}

void ModeledStore::end(bool power_loss, std::uint64_t seed) {
  if (power_loss) {
    machine_->lose_power(seed);
    knowledge_.lost_power = true;
  } else {
    machine_->kill();
  }
}

std::unique_ptr<Machine> ModeledStore::leave() {
  auto left = machine_->copy();
  hook(false);
  machine_->cut_off();
  store_.reset();
  return left;
}

void ModeledStore::open() {
  operation_ = knowledge_.lost_power ? "open after a power loss" : "open after a kill";
  if (auto opened = open_store(); !opened) return problem(opened.error().message);
  for (const std::string& damaged : store_->damaged_disks()) problem("not served: " + damaged);
  std::vector<State> outcomes{knowledge_.state};
  const bool by_blocks = knowledge_.flight && knowledge_.flight->by_blocks;
  if (knowledge_.flight) {
    outcomes.insert(outcomes.end(), knowledge_.flight->outcomes.begin(), knowledge_.flight->outcomes.end());
  }
  const bool strict = knowledge_.doubts.empty();
  outcomes.insert(outcomes.end(), knowledge_.doubts.begin(), knowledge_.doubts.end());
  judge(outcomes, by_blocks || !strict, strict);
  knowledge_.flight.reset();
  knowledge_.doubts.clear();
  knowledge_.latched.clear();
  knowledge_.lost_power = false;
}

void ModeledStore::open_watched(std::function<void(Moment&&)> visit) {
  operation_ = "open";
  watch(std::move(visit));
  const auto opened = open_store();
  if (!opened) problem(opened.error().message);
  hand_over_moments(nullptr);
  watch({});
  store_.reset();
}

void ModeledStore::watch(std::function<void(Moment&&)> visit) {
  visit_ = std::move(visit);
  hook(visit_ != nullptr);
}

void ModeledStore::hook(bool on) {
  if (machine_ == nullptr) return;
  for (CallGate* gate : {&machine_->storage.calls(), &machine_->memory.calls()}) {
    gate->look_into_writes(on);
    if (!on) {
      gate->set_hook({});
      continue;
    }
    gate->set_hook([this](std::string_view action, std::string_view path) {
      Moment& moment = met_.emplace_back();
      moment.machine = machine_->copy();
      moment.call = ++calls_;
      moment.text = "before " + std::string(action) + " " + std::string(path);
    });
  }
}

/// Not from within the call: the store on the copy would run below locks of this one.
void ModeledStore::hand_over_moments(const Flight* flight) {
  if (met_.empty()) return;
  hook(false);
  for (Moment& moment : met_) {
    moment.knowledge = knowledge_;
    if (flight != nullptr) moment.knowledge.flight = *flight;
    moment.text = operation_ + ", " + moment.text;
    visit_(std::move(moment));
  }
  met_.clear();
  hook(true);
}

// --- operations ---

ModeledStore::DiskModel* ModeledStore::model(const std::string& disk) {
  const auto it = knowledge_.state.find(disk);
  return it == knowledge_.state.end() ? nullptr : &it->second;
}

std::shared_ptr<Disk> ModeledStore::pointer(const std::string& disk) {
  auto found = store_->find_disk(disk);
  return found ? *found : nullptr;
}

/// 0 unless both have it: after a failure a name may be in doubt.
SnapshotId ModeledStore::id_of(const std::string& disk, const std::string& snapshot) {
  if (model(disk) == nullptr || !model(disk)->snapshots.contains(snapshot)) return SnapshotId{0};
  const auto entry = pointer(disk);
  if (entry == nullptr) return SnapshotId{0};
  const auto info = entry->find_snapshot(snapshot);
  return info ? info->id : SnapshotId{0};
}

void ModeledStore::perform(const std::string& what, Flight flight, const std::function<Status()>& call) {
  operation_ = what;
  const Status status = call();
  hand_over_moments(&flight);
  if (!status) return failed(status.error(), flight);
  knowledge_.state = std::move(flight.outcomes.back());
}

/// It must be one that was asked for, and what is there is what was before or what should be after, or on the way.
void ModeledStore::failed(const Error& error, const Flight& flight) {
  ++failures_;
  const bool refuses = error.kind == ErrorKind::latched && error.code == EIO;
  if (!fault_ || (!refuses && fault_->code != error.code)) problem("failed: " + error.message);
  if (!fault_) return;
  std::vector<State> outcomes{knowledge_.state};
  outcomes.insert(outcomes.end(), flight.outcomes.begin(), flight.outcomes.end());
  for (const auto& disk : store_->disks()) {
    if (disk->live().latched()) knowledge_.latched.insert(disk->name());
  }
  judge_after_fault(outcomes);
}

/// The look is not what is to fail.
void ModeledStore::judge_after_fault(const std::vector<State>& outcomes) {
  knowledge_.doubts.insert(knowledge_.doubts.end(), outcomes.begin(), outcomes.end());
  const bool lasts = fault_at_ != 0 && (fault_->repeat == Repeat::for_good || !fault_was_met());
  const std::uint64_t calls = machine_->storage.calls().calls(fault_->calls);
  if (lasts) machine_->storage.clear_faults();
  judge(outcomes, true, true);
  fault_met_ = fault_met_ || calls >= fault_at_;
  if (lasts) fail_at(fault_at_ > calls ? fault_at_ - calls : 1, *fault_);
}

void ModeledStore::fail_at(std::uint64_t nth, const Fault& fault) {
  fault_ = fault;
  fault_at_ = machine_->storage.calls().calls(fault.calls) + nth;
  machine_->storage.fail_at(nth, fault.code, fault.repeat, fault.calls);
}

void ModeledStore::expect_no_space(bool expected) {
  fault_ = expected ? std::optional(Fault{ENOSPC}) : std::nullopt;
  if (!expected) knowledge_.doubts.clear();
}

bool ModeledStore::fault_was_met() const {
  return fault_at_ != 0 && machine_->storage.calls().calls(fault_->calls) >= fault_at_;
}

bool ModeledStore::end_faults() {
  if (fault_at_ != 0) fault_met_ = fault_met_ || fault_was_met();
  machine_->storage.clear_faults();
  fault_at_ = 0;
  return fault_met_;
}

void ModeledStore::create_disk(const std::string& disk) {
  if (model(disk) != nullptr) return;
  State after = knowledge_.state;
  after[disk];
  perform("create disk " + disk, {{after}}, [&]() -> Status {
    VARVE_TRY(store_->create_disk(disk, kDirectoryAttributes));
    return {};
  });
}

void ModeledStore::create_image(const std::string& disk) {
  if (model(disk) == nullptr || model(disk)->live) return;
  State after = knowledge_.state;
  after[disk].history.clear();
  after[disk].live.emplace();
  perform("create image of " + disk, {{after}}, [&] { return pointer(disk)->create_image(kImageAttributes); });
}

void ModeledStore::resize(const std::string& disk, std::uint64_t size) {
  if (model(disk) == nullptr || !model(disk)->live) return;
  State after = knowledge_.state;
  after[disk].history.push_back(after[disk].live);
  after[disk].live->resize(size);
  perform("resize " + disk + " to " + text(size), {{after}, true},
          [&] { return pointer(disk)->resize_image(ByteCount{size}, nullptr); });
}

void ModeledStore::write(const std::string& disk, std::uint64_t at, std::uint64_t count) {
  if (model(disk) == nullptr || !model(disk)->live) return;
  Content bytes(static_cast<std::size_t>(count));
  const std::uint64_t stamp = knowledge_.stamp++ * 0x9E3779B97F4A7C15u;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = static_cast<std::byte>((stamp >> (i % 8 * 8)) + (at + i) / 512);
  }
  State after = knowledge_.state;
  after[disk].history.push_back(after[disk].live);
  after[disk].live->write(at, bytes);
  perform("write " + disk + " " + text(at) + "+" + text(count), {{after}, true},
          [&] { return pointer(disk)->live().write(ByteOffset{at}, bytes); });
}

void ModeledStore::zero(const std::string& disk, std::uint64_t at, std::uint64_t count) {
  if (model(disk) == nullptr || !model(disk)->live) return;
  State after = knowledge_.state;
  after[disk].history.push_back(after[disk].live);
  after[disk].live->zero(at, count);
  perform("punch " + disk + " " + text(at) + "+" + text(count), {{after}, true},
          [&] { return pointer(disk)->live().zero(ByteOffset{at}, ByteCount{count}); });
}

void ModeledStore::flush(const std::string& disk) {
  if (model(disk) == nullptr || !model(disk)->live) return;
  State after = knowledge_.state;
  after[disk].history.clear();
  perform("flush " + disk, {{after}}, [&] { return pointer(disk)->live().flush(); });
}

void ModeledStore::snapshot(const std::string& disk, const std::string& name) {
  if (model(disk) == nullptr || !model(disk)->live || model(disk)->snapshots.contains(name)) return;
  State after = knowledge_.state;
  after[disk].history.clear();
  after[disk].snapshots[name] = std::make_shared<const SparseImage>(*after[disk].live);
  perform("snapshot " + disk + "@" + name, {{after}}, [&]() -> Status {
    VARVE_TRY(pointer(disk)->take_snapshot(name, kDirectoryAttributes));
    return {};
  });
}

void ModeledStore::remove_snapshot(const std::string& disk, const std::string& name) {
  if (id_of(disk, name) == SnapshotId{0}) return;
  State after = knowledge_.state;
  after[disk].snapshots.erase(name);
  perform("remove " + disk + "@" + name, {{after}},
          [&] { return pointer(disk)->remove_snapshot(id_of(disk, name)); });
}

void ModeledStore::rename_snapshot(const std::string& disk, const std::string& from, const std::string& to) {
  if (id_of(disk, from) == SnapshotId{0} || model(disk)->snapshots.contains(to)) return;
  State after = knowledge_.state;
  auto node = after[disk].snapshots.extract(from);
  node.key() = to;
  after[disk].snapshots.insert(std::move(node));
  perform("rename " + disk + "@" + from + " to " + to, {{after}},
          [&] { return pointer(disk)->rename_snapshot(id_of(disk, from), to); });
}

void ModeledStore::commit(const std::string& disk) {
  if (model(disk) == nullptr) return;
  perform("commit " + disk, {{knowledge_.state}}, [&]() -> Status {
    VARVE_TRY(store_->step_commit(pointer(disk)->id()));
    return {};
  });
}

void ModeledStore::upkeep(const std::string& disk) {
  if (model(disk) == nullptr) return;
  perform("upkeep of " + disk, {{knowledge_.state}}, [&] { return store_->step_upkeep(pointer(disk)->id()); });
}

void ModeledStore::collect() {
  perform("collect", {{knowledge_.state}}, [&]() -> Status {
    VARVE_TRY(store_->collect([] { return false; }));
    return {};
  });
}

void ModeledStore::restore(const std::string& from, const std::string& snapshot, const std::string& to) {
  const SnapshotId id = id_of(from, snapshot);
  if (id == SnapshotId{0} || model(to) == nullptr) return;
  State after = knowledge_.state;
  after[to].live = *after[from].snapshots.at(snapshot);
  after[to].history.clear();
  perform("restore " + from + "@" + snapshot + " to " + to, {{after}},
          [&] { return store_->restore(pointer(from), id, pointer(to)); });
}

void ModeledStore::clone(const std::string& from, const std::string& snapshot, const std::string& name) {
  if (model(from) == nullptr || model(name) != nullptr) return;
  const SnapshotId id = snapshot.empty() ? SnapshotId{0} : id_of(from, snapshot);
  if (snapshot.empty() ? !model(from)->live : id == SnapshotId{0}) return;
  Flight flight;
  State after = knowledge_.state;
  DiskModel& source = after[from];
  const MaybeImage image = snapshot.empty() ? *source.live : *source.snapshots.at(snapshot);
  if (snapshot.empty()) {
    source.history.clear();
    source.snapshots[kAnyForClone] = std::make_shared<const SparseImage>(*image);
    flight.outcomes.push_back(after);
  }
  // The disk comes before its image: a crash in between leaves it as a mkdir would have made it.
  after[name];
  flight.outcomes.push_back(after);
  after[name].live = image;
  flight.outcomes.push_back(after);
  if (snapshot.empty()) {
    after[from].snapshots.erase(kAnyForClone);
    flight.outcomes.push_back(after);
    // One that failed has taken away what it had made.
    State undone = knowledge_.state;
    undone[from].history.clear();
    flight.outcomes.insert(flight.outcomes.begin(), std::move(undone));
  }
  const auto outcomes = flight.outcomes;
  perform("clone " + from + "@" + snapshot + " as " + name, std::move(flight), [&]() -> Status {
    VARVE_TRY(store_->clone({pointer(from), id}, name, kDirectoryAttributes));
    return {};
  });
  // Done all the same when what was taken for it could not be removed again.
  if (fault_ && model(name) != nullptr) judge_after_fault(outcomes);
}

void ModeledStore::copy(const std::string& from, const std::string& snapshot, std::uint64_t at, const std::string& to,
                        std::uint64_t to_at, std::uint64_t count) {
  if (model(from) == nullptr || model(to) == nullptr || !model(to)->live) return;
  const SnapshotId id = snapshot.empty() ? SnapshotId{0} : id_of(from, snapshot);
  if (snapshot.empty() ? !model(from)->live : id == SnapshotId{0}) return;
  State after = knowledge_.state;
  const SparseImage& source = snapshot.empty() ? *model(from)->live : *model(from)->snapshots.at(snapshot);
  const std::uint64_t length = at >= source.size() ? 0 : std::min(count, source.size() - at);
  DiskModel& target = after[to];
  target.history.push_back(target.live);
  target.live->write(to_at, source.read(at, length));
  perform("copy " + from + "@" + snapshot + " " + text(at) + "+" + text(count) + " to " + to + " " + text(to_at),
          {{after}, true}, [&]() -> Status {
            VARVE_TRY_ASSIGN(const ByteCount copied, store_->copy_range({pointer(from), id}, ByteOffset{at}, pointer(to),
                                                                        ByteOffset{to_at}, ByteCount{count}));
            if (copied.value() != length) problem("copied " + text(copied.value()) + " bytes");
            return {};
          });
}

void ModeledStore::remove_image(const std::string& disk) {
  if (model(disk) == nullptr || !model(disk)->live) return;
  State after = knowledge_.state;
  after[disk].live.reset();
  after[disk].history.clear();
  perform("remove image of " + disk, {{after}}, [&] { return pointer(disk)->remove_image(); });
}

void ModeledStore::remove_disk(const std::string& disk) {
  if (model(disk) == nullptr || model(disk)->live || !model(disk)->snapshots.empty()) return;
  State after = knowledge_.state;
  after.erase(disk);
  perform("remove disk " + disk, {{after}}, [&] { return store_->remove_disk(pointer(disk)->id()); });
}

void ModeledStore::rename_disk(const std::string& from, const std::string& to) {
  if (model(from) == nullptr || model(to) != nullptr) return;
  State after = knowledge_.state;
  auto node = after.extract(from);
  node.key() = to;
  after.insert(std::move(node));
  perform("rename disk " + from + " to " + to, {{after}},
          [&] { return store_->rename_disk(pointer(from)->id(), to); });
}

void ModeledStore::change_attributes(const std::string& disk) {
  if (model(disk) == nullptr) return;
  perform("change attributes of " + disk, {{knowledge_.state}}, [&] {
    return pointer(disk)->change_directory_attributes([this](Attributes& attributes) -> Status {
      attributes.mode = 0700 + static_cast<std::uint32_t>(knowledge_.stamp++ % 8);
      return {};
    });
  });
}

void ModeledStore::remount() {
  State after = knowledge_.state;
  for (auto& [name, disk] : after) disk.history.clear();
  perform("remount", {{after}}, [&]() -> Status {
    Status closed = store_->close();
    store_.reset();
    auto opened = open_store();
    if (opened && store_->damaged_disks().empty()) return closed;
    if (!fault_) return opened ? fail_damaged(store_->damaged_disks().front()) : opened;
    // Nobody can do anything but mount again when the trouble is over.
    store_.reset();
    end_faults();
    must(open_store());
    return fail_system(fault_->code, "mount");
  });
  knowledge_.latched.clear();
}

// --- looking ---

MaybeImage ModeledStore::read_live(Disk& disk) {
  if (!disk.live().exists()) return std::nullopt;
  const std::uint64_t size = disk.live().info().size.value();
  SparseImage image;
  Content bytes(static_cast<std::size_t>(size + 1));
  const auto got = disk.live().read(ByteOffset{0}, bytes);
  if (!got) {
    problem(disk.name() + " cannot be read: " + got.error().message);
  } else if (*got != size) {
    problem(disk.name() + " has " + text(size) + " bytes and gave " + text(*got));
  } else {
    image.write(0, std::span(bytes).first(*got));
  }
  image.resize(size);
  return image;
}

ModeledStore::FoundStore ModeledStore::look() {
  FoundStore found;
  for (const auto& disk : store_->disks()) {
    Found& item = found[disk->name()];
    item.live = read_live(*disk);
    for (const SnapshotInfo& info : disk->snapshots()) item.snapshots.insert(info.name);
    if (disk->snapshot_count() != item.snapshots.size()) problem(disk->name() + ": snapshots are counted wrongly");
  }
  return found;
}

void ModeledStore::judge(const std::vector<State>& outcomes, bool by_blocks, bool strict) {
  const FoundStore found = look();
  const auto names = structure(found);
  std::vector<State> fitting;
  for (const State& outcome : outcomes) {
    if (!strict || structure(outcome) == names) fitting.push_back(outcome);
  }
  if (fitting.empty()) {
    problem("there is" + to_text(names) + ", and should be" + to_text(structure(outcomes.front())) + " or" +
            to_text(structure(outcomes.back())));
    return;
  }
  State state = assemble(found, fitting);
  for (auto& [disk, item] : state) judge_live(disk, item, found.at(disk).live, outcomes, by_blocks);
  knowledge_.state = std::move(state);
}

/// Disks and snapshots as they are found, each such as some outcome has it.
ModeledStore::State ModeledStore::assemble(const FoundStore& found, const std::vector<State>& outcomes) {
  State state;
  std::set<const SparseImage*> seen;
  for (const auto& [disk, item] : found) {
    DiskModel& model = state[disk];
    for (const std::string& snapshot : item.snapshots) {
      std::vector<ImagePointer> possible;
      for (const State& outcome : outcomes) {
        const auto it = outcome.find(disk);
        if (it == outcome.end()) continue;
        for (const auto& [name, image] : it->second.snapshots) {
          if (normal(name) == normal(snapshot)) possible.push_back(image);
        }
      }
      if (possible.empty()) {
        problem(disk + "@" + snapshot + " appeared");
        continue;
      }
      compare_snapshot(*pointer(disk), snapshot, possible);
      model.snapshots[snapshot] = possible.front();
      for (const ImagePointer& image : possible) seen.insert(image.get());
    }
  }
  // Whatever happened, and whatever it is called: what every outcome has is there.
  for (const auto& [disk, item] : outcomes.front()) {
    for (const auto& [name, image] : item.snapshots) {
      const bool always = std::ranges::all_of(outcomes, [&image = image](const State& outcome) {
        return std::ranges::any_of(outcome, [&image](const auto& other) {
          return std::ranges::any_of(other.second.snapshots, [&image](const auto& one) { return one.second == image; });
        });
      });
      if (always && !seen.contains(image.get())) problem(disk + "@" + name + " is lost");
    }
    const bool always = std::ranges::all_of(outcomes, [&disk = disk](const State& one) { return one.contains(disk); });
    if (always && !found.contains(disk)) problem("disk " + disk + " is lost");
  }
  return state;
}

void ModeledStore::judge_live(const std::string& disk, DiskModel& model, const MaybeImage& found,
                              const std::vector<State>& outcomes, bool by_blocks) {
  const bool latched = knowledge_.latched.contains(disk);
  const bool any_version = knowledge_.lost_power || latched || !knowledge_.doubts.empty();
  std::vector<const MaybeImage*> mixed;
  std::string why = "it was never there";
  bool first = true;
  for (const State& outcome : outcomes) {
    const auto it = outcome.find(disk);
    if (it == outcome.end()) continue;
    std::vector<const MaybeImage*> group{&it->second.live};
    if (any_version) {
      for (const MaybeImage& past : it->second.history) group.push_back(&past);
    }
    if (first || by_blocks) mixed.insert(mixed.end(), group.begin(), group.end());
    first = false;
    if (why_not(found, group, false).empty()) why.clear();
  }
  // A write that failed may have got as far as any sector; what was put on pages that a failed sync dropped, any byte.
  const std::uint64_t grain = latched ? 1 : fault_ ? kSector : kBlockSize;
  if (!why.empty()) why = why_not(found, mixed, by_blocks, grain);
  const bool still_running = latched && knowledge_.flight == std::nullopt && !knowledge_.doubts.empty();
  if (!why.empty() && !still_running) problem("the live image of " + disk + " is as it never was: " + why);

  model.history.clear();
  model.live = found;
  for (const State& outcome : outcomes) {
    const auto it = outcome.find(disk);
    if (it == outcome.end()) continue;
    if (why_not(found, {&it->second.live}, false).empty()) model.live = it->second.live;
    if (knowledge_.lost_power) continue;
    for (const MaybeImage& past : it->second.history) remember(model.history, past);
    remember(model.history, it->second.live);
  }
}

void ModeledStore::compare_snapshot(Disk& disk, const std::string& name, const std::vector<ImagePointer>& possible) {
  const std::string what = disk.name() + "@" + name;
  const auto info = disk.find_snapshot(name);
  if (!info) return problem(what + ": " + info.error().message);
  Content bytes(static_cast<std::size_t>(info->size.value() + 1));
  const auto got = disk.read_snapshot(info->id, ByteOffset{0}, bytes);
  if (!got) return problem(what + ": " + got.error().message);
  if (*got != info->size.value()) return problem(what + " has " + text(info->size.value()) + " bytes and gave " + text(*got));
  bytes.resize(*got);
  for (const ImagePointer& image : possible) {
    if (image->size() == bytes.size() && image->read(0, image->size()) == bytes) return;
  }
  const Content expected = possible.front()->read(0, possible.front()->size());
  std::size_t at = 0;
  while (at < std::min(expected.size(), bytes.size()) && expected[at] == bytes[at]) ++at;
  problem(what + (info->state == store::SnapshotStateKind::pending ? " (pending)" : " (complete)") + " has " +
          text(bytes.size()) + " bytes, should have " + text(expected.size()) + ", and differs from " + text(at) + " on");
}

/// What seek calls a hole is zeros.
void ModeledStore::check_holes(Disk& disk, const SparseImage& expected) {
  for (ByteOffset at{0}; at.value() < expected.size();) {
    const auto hole = disk.live().seek(at, false);
    if (!hole) return problem(disk.name() + ": seek: " + hole.error().message);
    if (hole->value() >= expected.size()) return;
    const auto data = disk.live().seek(*hole, true);
    const std::uint64_t end = data ? data->value() : expected.size();
    if (end <= hole->value()) return problem(disk.name() + ": no way on behind a hole at " + text(hole->value()));
    if (!expected.zeros(hole->value(), end - hole->value())) {
      return problem(disk.name() + ": data is called a hole at " + text(hole->value()));
    }
    at = ByteOffset{end};
  }
}

void ModeledStore::verify() {
  if (store_ == nullptr) return;
  if (structure(look()) != structure(knowledge_.state)) {
    return problem("there is" + to_text(structure(look())) + ", and should be" + to_text(structure(knowledge_.state)));
  }
  for (const auto& [name, item] : knowledge_.state) {
    Disk& disk = *pointer(name);
    for (const auto& [snapshot, image] : item.snapshots) compare_snapshot(disk, snapshot, {image});
    if (knowledge_.latched.contains(name)) continue;
    const MaybeImage live = read_live(disk);
    if (const std::string why = why_not(live, {&item.live}, false); !why.empty()) {
      problem("the live image of " + name + " is not as it should be: " + why);
    }
    if (live) check_holes(disk, *live);
  }
}

std::size_t ModeledStore::check_refusals() {
  std::size_t count = 0;
  for (const auto& disk : store_->disks()) {
    if (!disk->live().latched()) continue;
    ++count;
    const auto flushed = disk->live().flush();
    if (flushed || flushed.error().code != EIO || flushed.error().kind != ErrorKind::latched) {
      problem(disk->name() + " says that all is durable after a sync that failed");
    } else if (flushed.error().message.find("mount the store again") == std::string::npos) {
      problem(disk->name() + " does not say what to do: " + flushed.error().message);
    }
    if (!disk->live().exists()) continue;
    const auto taken = disk->take_snapshot("refused", kDirectoryAttributes);
    if (taken || taken.error().code != EIO) problem(disk->name() + " takes a snapshot after a sync that failed");
  }
  return count;
}

void ModeledStore::work() {
  if (store_ == nullptr) return;
  std::vector<std::string> names;
  for (const auto& [name, item] : knowledge_.state) names.push_back(name);
  for (const std::string& name : names) {
    write(name, kStoreChunk + 100, kBlockSize);
    flush(name);
    snapshot(name, "afterwards");
    for (int steps = 0; !pointer(name)->live().pending().empty() && steps < kMostSteps; ++steps) commit(name);
    auto& snapshots = knowledge_.state.at(name).snapshots;
    if (!snapshots.empty()) remove_snapshot(name, std::string(snapshots.begin()->first));
    const auto& live = pointer(name)->live();
    for (int steps = 0; live.counters().detour_chunks > 0 && steps < 10; ++steps) upkeep(name);
    upkeep(name);
    const auto counters = live.counters();
    if (counters.detour_chunks != 0 || counters.free_slots != counters.slots) problem(name + " has lost a detour slot");
  }
  collect();
  verify();
  const auto checked = store_->check({}, {});
  if (!checked) return problem("check: " + checked.error().message);
  for (const std::string& one : checked->problems) problem("check: " + one);
  for (const auto& one : checked->records.damaged) problem("check: damaged: " + one.target);
}

std::map<std::string, std::string> ModeledStore::stored() {
  std::map<std::string, std::string> files;
  const std::function<void(const std::string&)> walk = [&](const std::string& folder) {
    for (const os::DirectoryEntry& entry : machine_->storage.list(folder).value_or(std::vector<os::DirectoryEntry>{})) {
      const std::string path = folder.empty() ? entry.name : folder + "/" + entry.name;
      if (entry.type == os::FileType::directory) {
        if (path != "live") walk(path);
      } else if (!entry.name.starts_with(os::kTemporaryPrefix) && path != "lock") {
        const auto bytes = os::read_file(machine_->storage, path, ByteCount{kGiB});
        files[path] = bytes ? std::string(reinterpret_cast<const char*>(bytes->data()), bytes->size()) : "unreadable";
      }
    }
  };
  walk("");
  for (const auto& disk : store_->disks()) {
    const auto counters = disk->live().counters();
    std::string& live = files["live image of " + disk->name()];
    live = text(counters.home_chunks) + " " + text(counters.detour_chunks) + " " + text(counters.base_chunks) + " " +
           text(counters.segments) + " " + text(disk->live().high_water().value());
    for (const auto& pending : disk->live().pending()) live += " " + text(pending.id.value()) + " " + pending.attributes;
    for (const OpaqueRoot& root : disk->live().roots()) {
      live += " " + chunks::to_text(chunks::from_opaque(root).value_or(chunks::Ref{}));
    }
  }
  return files;
}

}  // namespace varve::test
