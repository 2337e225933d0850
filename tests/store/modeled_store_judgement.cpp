// What is found in a store against what may be there.
#include <algorithm>
#include <cerrno>
#include <utility>

#include <nlohmann/json.hpp>

#include "modeled_store.h"
#include "varve/catalog/care.h"
#include "varve/chunks/ref.h"

namespace varve::test {
namespace {

using store::Disk;
using store::SnapshotInfo;

constexpr std::uint64_t kSector = 512;
constexpr int kMostSteps = 1000;
/// How a snapshot is called that is taken for a clone; it stays when the clone does not come to its end.
constexpr std::string_view kForClone = "clone-";

std::string text(std::uint64_t value) { return std::to_string(value); }

std::string normal(const std::string& snapshot) { return snapshot.starts_with(kForClone) ? std::string(kAnyForClone) : snapshot; }

/// What is there beside the images, as words that no snapshot is called.
template <class Disk>
void add_care(const Disk& disk, std::set<std::string>& words) {
  for (const auto& [name, care] : disk.care) words.insert("." + name + " " + catalog::to_json(care).dump());
  for (const auto& [name, one] : disk.trash) words.insert(".trash: " + name + " " + catalog::to_json(one.care).dump());
  if (disk.limits != store::Limits{}) words.insert(".limits " + catalog::to_json(disk.limits).dump());
}

/// The same disks with the same snapshots, which are cared for alike.
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
    add_care(item, snapshots);
  }
  names[".store"] = {catalog::to_json(stores.limits).dump(), "trash " + std::to_string(stores.trash_keep)};
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
    item.limits = disk->limits();
    for (const SnapshotInfo& info : disk->snapshots()) {
      item.snapshots.insert(info.name);
      if (info.care != store::Care{}) item.care[info.name] = info.care;
    }
    if (disk->snapshot_count() != item.snapshots.size()) problem(disk->name() + ": snapshots are counted wrongly");
  }
  for (const auto& one : store_->trash()) {
    Found& item = found[one.disk_removed ? std::string(kHidden) + one.disk_name : one.disk_name];
    item.limits = one.disk->limits();
    item.trash[one.info.name] = {nullptr, one.info.care};
  }
  found.limits = store_->limits();
  found.trash_keep = store_->trash_keep().count();
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
  state.limits = found.limits;
  state.trash_keep = found.trash_keep;
  std::set<const SparseImage*> seen;
  for (const auto& [disk, item] : found) {
    DiskModel& model = state[disk];
    model.care = item.care;
    model.limits = item.limits;
    for (const auto& [name, one] : item.trash) {
      const ImagePointer image = image_for_trash(outcomes, disk, name);
      if (image == nullptr) problem(disk + "@" + name + " appeared in the trash");
      model.trash[name] = {image, one.care};
    }
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

/// What was called so where it was deleted. What is in the trash cannot be read: its bytes are compared when it comes back.
ModeledStore::ImagePointer ModeledStore::image_for_trash(const std::vector<State>& outcomes, const std::string& disk,
                                                         const std::string& snapshot) {
  const std::string plain = disk.starts_with(kHidden) ? disk.substr(kHidden.size()) : disk;
  for (const State& outcome : outcomes) {
    for (const std::string& name : {plain, std::string(kHidden) + plain}) {
      const auto it = outcome.find(name);
      if (it == outcome.end()) continue;
      if (const auto one = it->second.trash.find(snapshot); one != it->second.trash.end()) return one->second.image;
      if (const auto one = it->second.snapshots.find(snapshot); one != it->second.snapshots.end()) return one->second;
    }
  }
  return nullptr;
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
    if (name.starts_with(kHidden)) continue;
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
  for (const auto& [name, item] : knowledge_.state) {
    if (!name.starts_with(kHidden)) names.push_back(name);
  }
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
