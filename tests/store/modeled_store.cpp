#include "modeled_store.h"

#include <cerrno>
#include <stdexcept>
#include <utility>


namespace varve::test {
namespace {

using store::Attributes;
using store::Disk;
using store::Store;

constexpr std::size_t kMostProblems = 10;
const Attributes kImageAttributes{0, 0, 0644, {}};

std::string text(std::uint64_t value) { return std::to_string(value); }

void must(const Status& status) {
  if (!status) throw std::runtime_error(status.error().message);
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
  options.clock = [this] { return knowledge_.time; };
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
  const bool refused = limits_refuse(disk);
  if (!refused) {
    after[disk].history.clear();
    after[disk].snapshots[name] = std::make_shared<const SparseImage>(*after[disk].live);
  }
  perform("snapshot " + disk + "@" + name, {{after}}, [&]() -> Status {
    const auto taken = pointer(disk)->take_snapshot(name, kDirectoryAttributes);
    if (refused && taken) problem("it is beyond a limit");
    if (refused && !taken && taken.error().code == EDQUOT) return {};
    VARVE_TRY(taken);
    return {};
  });
}

void ModeledStore::remove_snapshot(const std::string& disk, const std::string& name) {
  if (id_of(disk, name) == SnapshotId{0}) return;
  State after = knowledge_.state;
  const auto care = after[disk].care.find(name);
  const bool held = care != after[disk].care.end() && care->second.hold.has_value();
  Flight flight;
  if (!held) {
    remove_from(after, disk, name);
    State gone = after;
    gone[disk].trash.erase(name);
    if (fault_ && after.trash_keep > 0) flight.outcomes.push_back(std::move(gone));
  }
  flight.outcomes.push_back(std::move(after));
  perform("remove " + disk + "@" + name, std::move(flight), [&] {
    Status removed = pointer(disk)->remove_snapshot(id_of(disk, name));
    if (held && removed) problem("it was held");
    return held && !removed && removed.error().code == EBUSY ? Status{} : removed;
  });
  forget_what_the_trash_could_not_take();
}

void ModeledStore::rename_snapshot(const std::string& disk, const std::string& from, const std::string& to) {
  if (id_of(disk, from) == SnapshotId{0} || model(disk)->snapshots.contains(to)) return;
  State after = knowledge_.state;
  auto node = after[disk].snapshots.extract(from);
  node.key() = to;
  after[disk].snapshots.insert(std::move(node));
  if (auto care = after[disk].care.extract(from)) {
    care.key() = to;
    after[disk].care.insert(std::move(care));
  }
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
    source.snapshots[std::string(kAnyForClone)] = std::make_shared<const SparseImage>(*image);
    flight.outcomes.push_back(after);
  }
  // The disk comes before its image: a crash in between leaves it as a mkdir would have made it.
  after[name];
  flight.outcomes.push_back(after);
  after[name].live = image;
  flight.outcomes.push_back(after);
  if (snapshot.empty()) {
    after[from].snapshots.erase(std::string(kAnyForClone));
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
  auto node = after.extract(disk);
  if (!node.mapped().trash.empty()) {
    node.key() = std::string(kHidden) + disk;
    after.insert(std::move(node));
  }
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

}  // namespace varve::test
