// Opening and closing.
//
//   journal ends with Clean, sealed    -> clean: maps come from the journal
//   witness of this boot and store     -> killed: every record counts, maps are in volatile memory
//   anything else                      -> power lost: records up to the last seal count; all counts as changed
//
// Durable order (rule 9): what is cut is cut; all-changed is set where needed and the clean mark is gone (Opened, in a
// journal written anew after a power loss); then the witness; then the disk is served.
#include <fmt/format.h>

#include <algorithm>

#include "implementation.h"
#include "varve/core/log.h"

namespace varve::disk {

/// What is made here is durable afterwards. What is there already is so after a clean close; open() syncs it else. Its
/// directory is: it was durable before anything was put in it.
Status LiveDisk::Implementation::open_files() {
  const auto open_file = [&](const char* name, bool create) {
    return storage.open(directory + name, {.write = true, .create = create, .direct = true});
  };
  auto old_home = open_file("/home.img", false);
  auto old_detour = open_file("/detour.img", false);
  if (old_home && old_detour) {
    home = std::move(*old_home);
    detour = std::move(*old_detour);
    return {};
  }
  VARVE_TRY(os::make_directories_durably(storage, directory));
  VARVE_TRY_ASSIGN(home, open_file("/home.img", true));
  VARVE_TRY_ASSIGN(detour, open_file("/detour.img", true));
  return storage.sync_directory(directory);
}

/// Sets `state` and `opened`, and `journal` unless it must be written anew; it is not appended to yet.
Status LiveDisk::Implementation::recover_journal(const std::vector<Witness::Mark>& marks) {
  auto file = storage.open(directory + kJournalName, {.write = true});
  if (!file) {
    if (file.error().code != ENOENT) return tl::unexpected(std::move(file).error());
    VARVE_TRY_ASSIGN(journal, Journal::create(storage, directory, id, geometry, {record::State{}}));
    opened = Opened::fresh;
    return {};
  }
  VARVE_TRY_ASSIGN(JournalScan scan, Journal::scan(**file, id, geometry, marks));
  const bool trusted = !options.assume_power_loss;
  for (const Witness::Mark& mark : marks) {
    // A kill takes nothing back: what was there in this boot and is not any more was damaged.
    if (trusted && mark.nonce == scan.header.nonce && mark.position > scan.end) {
      return fail_damaged(fmt::format("the journal ends at offset {} and was longer when its daemon ended; restore the "
                                      "live image from a snapshot (varve restore) after moving live/ of this disk away",
                                      scan.end));
    }
  }
  Released ignored;
  MutexLock lock(state_mutex);
  const auto apply = [&](const Record& record) VARVE_NO_ANALYSIS {
    auto applied = state.apply(record, ignored);
    ignored = {};
    return applied;
  };
  VARVE_TRY(Journal::replay(**file, scan.header.nonce, scan.covered, apply));
  if (trusted && state.is_clean() && scan.last_change <= scan.covered) {
    opened = Opened::clean;
  } else if (trusted && scan.witnessed) {
    opened = Opened::killed;
    // From the start: `covered` may lie before seals that were counted already.
    state = DiskState(geometry);
    VARVE_TRY(Journal::replay(**file, scan.header.nonce, scan.end, apply));
  } else {
    opened = Opened::power_lost;
    // Else there are records that don't count before a seal that does: open() writes a new journal.
    if (!scan.clean_cut) return {};
    witness->clear();  // it may know of what is cut now
    scan.end = *scan.clean_cut;
    scan.last_change = scan.covered;
  }
  VARVE_TRY_ASSIGN(journal, Journal::open(std::move(*file), scan));
  return {};
}

/// The map of that number as the daemon before left it; one that counts all as changed where it is gone.
Result<std::shared_ptr<ChangeMap>> LiveDisk::Implementation::recover_map(std::uint64_t number, std::uint64_t blocks) {
  const std::string name = map_name(id, number);
  if (opened == Opened::killed) {
    auto adopted = ChangeMap::adopt(volatile_storage, name, number);
    if (adopted) return adopted;
    log::warning("disk {}: {}; everything it covered counts as changed", id.value(), adopted.error().message);
  }
  MutexLock lock(state_mutex);
  const auto stored = opened == Opened::clean ? state.stored_maps().find(number) : state.stored_maps().end();
  VARVE_TRY_ASSIGN(auto map, ChangeMap::create(volatile_storage, name, number, blocks));
  if (stored == state.stored_maps().end() || !stored->second.whole || stored->second.all) {
    map->mark_all();
  } else {
    for (const auto& [page, bits] : stored->second.pages) map->load_page(page, bits);
  }
  return map;
}

Status LiveDisk::Implementation::recover_maps() {
  std::vector<std::uint64_t> live_numbers;
  std::uint64_t number = 0;
  std::uint64_t blocks = 0;
  std::size_t pending_count = 0;
  {
    MutexLock lock(state_mutex);
    if (opened == Opened::killed || opened == Opened::clean) live_numbers = state.maps();
    number = state.next_map();
    blocks = home_chunks * blocks_per_chunk();
    pending_count = state.pending().size();
  }
  for (std::size_t i = 0; i < pending_count; ++i) {
    auto f = std::make_shared<Frozen>();
    std::vector<std::uint64_t> numbers;
    bool kept = false;
    auto chunks = std::make_shared<FrozenChunkPages>();
    {
      MutexLock lock(state_mutex);
      const PendingState& pending = state.pending()[i];
      f->id = pending.id;
      f->chunks = geometry.chunks_in(pending.size);
      f->incarnation = pending.incarnation;
      f->all_changed = pending.all_changed;
      kept = pending.map_kept;
      numbers = pending.maps;
      *chunks = pending.chunks;
    }
    f->map_durable = kept;
    f->shown = true;
    if (opened == Opened::power_lost && kept) numbers.clear();
    // What is kept in the journal needs no map; the map knows blocks and not only chunks, so it is taken if there.
    bool complete = !numbers.empty();
    for (const std::uint64_t map_number : numbers) {
      VARVE_TRY_ASSIGN(auto map, recover_map(map_number, blocks));
      complete = complete && !map->all();
      f->maps.push_back(std::move(map));
    }
    if (kept && !complete) {
      f->maps.clear();
      f->kept = std::move(chunks);
    } else {
      f->kept = std::make_shared<FrozenChunkPages>();
    }
    MutexLock lock(state_mutex);
    frozen.push_back(std::move(f));
  }
  // One new map with all that the live maps of before had.
  VARVE_TRY_ASSIGN(auto live, ChangeMap::create(volatile_storage, map_name(id, number), number, blocks));
  for (const std::uint64_t old : live_numbers) {
    VARVE_TRY_ASSIGN(const auto map, recover_map(old, blocks));
    if (map->all()) live->mark_all();
    for (std::uint64_t page = 0; page < map->page_count(); ++page) {
      if (const std::byte* bits = map->page(page)) live->load_page(page, {bits, kMapPageBytes});
    }
  }
  ExclusiveLock exclusive(gate);
  live_maps = {std::move(live)};
  return {};
}

/// Maps that nothing names: of snapshots that were committed, of live maps that were merged, spares.
void LiveDisk::Implementation::remove_other_maps() {
  std::set<std::uint64_t> used;
  {
    SharedLock shared(gate);
    for (const auto& map : live_maps) used.insert(map->number());
    MutexLock lock(state_mutex);
    for (const auto& f : frozen) {
      for (const auto& map : f->maps) used.insert(map->number());
    }
  }
  const auto remove_unless_used = [&](const std::string& name) {
    const auto number = map_number(id, name);
    if (number && !used.contains(*number)) (void)volatile_storage.remove(name);
  };
  if (options.volatile_names == nullptr) {
    const auto names = volatile_storage.list();
    if (names) std::ranges::for_each(*names, remove_unless_used);
    return;
  }
  const std::string prefix = map_name_prefix(id);
  auto name = std::ranges::lower_bound(*options.volatile_names, prefix);
  for (; name != options.volatile_names->end() && name->starts_with(prefix); ++name) remove_unless_used(*name);
}

Status LiveDisk::Implementation::recover_slots() {
  VARVE_TRY_ASSIGN(const auto home_status, home->status());
  VARVE_TRY_ASSIGN(const auto detour_status, detour->status());
  MutexLock lock(state_mutex);
  const std::uint64_t chunk = geometry.chunk_size().value();
  home_chunks = home_status.size.value() / chunk;
  if (home_chunks < state.chunks().value()) {
    return fail_damaged(fmt::format("{}/home.img is cut short: {} bytes, the image has {}", directory,
                                    home_status.size.value(), state.size().value()));
  }
  const auto named = state.used_slots();
  if (!named) return fail_damaged(fmt::format("{}/journal: {}", directory, named.error().message));
  const std::set<Slot>& used = *named;
  slot_count = used.empty() ? 0 : *used.rbegin() + 1;
  if (detour_status.size < state.detour_bytes(used)) {
    return fail_damaged(fmt::format("{}/detour.img is cut short: {} bytes, slot {} is in use", directory,
                                    detour_status.size.value(), slot_count - 1));
  }
  if (slot_count > 4 * used.size() + kPageChunks * kPageChunks) {
    return fail_damaged(fmt::format("{}/journal names slot {} with only {} in use", directory, slot_count - 1,
                                    used.size()));
  }
  const bool others_have_storage = detour_status.allocated > geometry.bytes_in(ChunkCount{used.size()});
  for (Slot slot = 0; slot < slot_count; ++slot) {
    if (!used.contains(slot)) (others_have_storage ? stored_slots : free_slots).insert(slot);
  }
  const Time newest = std::max({state.modified(), home_status.modified, detour_status.modified});
  modified = (opened == Opened::clean ? state.modified() : newest).nanoseconds;
  if (opened == Opened::killed || opened == Opened::power_lost) {
    homes_to_punch.push_back({ChunkIndex{0}, ChunkCount{home_chunks}});
    if (home_chunks == 0) homes_to_punch.clear();
  }
  return {};
}

/// Free slots at the end go at once; those in between are reused. Not before the seal: what a killed daemon let go of
/// last is still in use for the sealed journal (rule 1).
Status LiveDisk::Implementation::cut_detour() {
  VARVE_TRY_ASSIGN(const auto status, detour->status());
  std::uint64_t used = 0;
  {
    MutexLock lock(state_mutex);
    used = slot_count * geometry.chunk_size().value();
  }
  return status.size.value() > used ? detour->resize(ByteCount{used}) : Status{};
}

Status LiveDisk::Implementation::open() {
  VARVE_TRY(open_files());
  VARVE_TRY_ASSIGN(const auto identity, storage.identity());
  VARVE_TRY_ASSIGN(auto page, volatile_storage.open(witness_name(id), ByteCount{Witness::kSize}));
  if (page->bytes().size() < Witness::kSize) return fail_damaged("the witness in volatile memory is cut short");
  VARVE_TRY(page->reserve(ByteOffset{0}, ByteCount{Witness::kSize}));
  witness = std::make_unique<Witness>(std::move(page), identity, id);
  VARVE_TRY(recover_journal(witness->marks()));
  // The names of files that a daemon made and was killed before it had synced them.
  if (opened == Opened::killed || opened == Opened::power_lost) VARVE_TRY(storage.sync_directory(directory));
  VARVE_TRY(recover_slots());
  if (opened == Opened::power_lost) {
    // First of all in memory, so that no map is looked for; then the journal is written anew, whole.
    MutexLock lock(state_mutex);
    Released ignored;
    VARVE_TRY(state.apply(record::Opened{1, state.next_map()}, ignored));
  }
  VARVE_TRY(recover_maps());
  // After a kill what was acknowledged may not be durable yet, and a power loss may have been a kill.
  home_dirty = detour_dirty = opened == Opened::killed || opened == Opened::power_lost;
  {
    ExclusiveLock exclusive(gate);
    MutexLock lock(state_mutex);
    const record::Opened begins{static_cast<std::uint8_t>(opened == Opened::power_lost ? 1 : 0),
                                live_maps.front()->number()};
    if (journal != nullptr) {
      VARVE_TRY(record_and_apply(begins));
    } else {
      Released ignored;
      VARVE_TRY(state.apply(begins, ignored));
      VARVE_TRY(sync_data());
      VARVE_TRY_ASSIGN(journal, Journal::create(storage, directory, id, geometry, state.encode()));
      compacted_bytes = journal->end();
    }
    state.forget_stored_maps();
  }
  VARVE_TRY(flush());
  VARVE_TRY(cut_detour());
  {
    MutexLock lock(state_mutex);
    assert_consistent();
    witness->clear();
    journal->set_witness(witness.get());
  }
  remove_other_maps();
  return {};
}

Result<std::unique_ptr<LiveDisk>> LiveDisk::open(os::Storage& storage, os::VolatileStorage& maps,
                                                 const std::string& directory, DiskId id, Geometry geometry,
                                                 BaseSource& base, const LiveDiskOptions& options) {
  std::unique_ptr<LiveDisk> disk(new LiveDisk());
  disk->implementation_ = std::make_unique<Implementation>(storage, maps, directory, id, geometry, base, options);
  auto done = disk->implementation_->open();
  if (!done) return tl::unexpected(done.error().in(directory));
  return disk;
}

// --- closing ---

Status LiveDisk::Implementation::store_map(const ChangeMap& map) {
  static const std::array<std::byte, kMapPageBytes> kNothing{};
  for (std::uint64_t page = 0; page < map.page_count(); ++page) {
    const std::byte* bits = map.page(page);
    if (bits == nullptr || std::equal(kNothing.begin(), kNothing.end(), bits)) continue;
    record::MapPage stored{map.number(), static_cast<std::uint32_t>(page), {bits, bits + kMapPageBytes}};
    VARVE_TRY(journal->append(stored));
  }
  return journal->append(record::MapWhole{map.number(), static_cast<std::uint8_t>(map.all() ? 1 : 0)});
}

Status LiveDisk::Implementation::close() {
  VARVE_TRY(flush());
  std::vector<std::shared_ptr<ChangeMap>> maps;
  {
    ExclusiveLock exclusive(gate);
    MutexLock lock(state_mutex);
    maps = live_maps;
    for (const auto& f : frozen) maps.insert(maps.end(), f->maps.begin(), f->maps.end());
    for (const auto& map : maps) VARVE_TRY(store_map(*map));
    VARVE_TRY(journal->append(record::Clean{modified.load()}));
  }
  VARVE_TRY(flush());
  MutexLock lock(state_mutex);
  journal->set_witness(nullptr);
  journal->give_back_reserve();
  // The journal has them now; what stays behind is removed by the next open.
  const auto remove_map = [&](const std::shared_ptr<ChangeMap>& map) {
    (void)volatile_storage.remove(map_name(id, map->number()));
  };
  std::ranges::for_each(maps, remove_map);
  (void)volatile_storage.remove(witness_name(id));
  return {};
}

Status LiveDisk::close() { return implementation_->close(); }

Status verify_journal(os::Storage& storage, const std::string& directory, DiskId id, Geometry geometry) {
  auto file = storage.open(directory + kJournalName, {});
  if (!file) return file.error().code == ENOENT ? Status{} : Status(tl::unexpected(std::move(file).error()));
  auto verified = [&]() -> Status {
    VARVE_TRY_ASSIGN(const JournalScan scan, Journal::scan(**file, id, geometry, {}));
    DiskState state(geometry);
    Released ignored;
    return Journal::replay(**file, scan.header.nonce, scan.covered, [&](const Record& record) {
      ignored = {};
      return state.apply(record, ignored);
    });
  }();
  return verified ? verified : Status(tl::unexpected(verified.error().in(directory + kJournalName)));
}

}  // namespace varve::disk
