// Pending snapshots: freezing, reading, dropping, and what a commit asks for.
//
//     (none) -- freeze: record Freeze, sealed --> pending, all places pinned
//     pending, all places pinned -- keep_map: records FrozenChunks, MapKept, sealed --> pending, changed chunks pinned
//     pending -- committed: record Committed (the log has it) --> gone; P is its root
//     pending -- drop: records Inherited, PendingDropped, sealed --> gone; its successor inherits
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "implementation.h"
#include "varve/core/log.h"

namespace varve::disk {

// --- Frozen ---

bool Frozen::marked(ChunkIndex chunk, std::uint64_t blocks_per_chunk) const {
  if (all_changed) return true;
  for (const auto& map : maps) {
    if (map->all() || map->any(chunk.value() * blocks_per_chunk, blocks_per_chunk)) return true;
  }
  const auto page = kept->find(chunk.value() / kPageChunks);
  if (page == kept->end()) return false;
  const std::uint64_t bit = chunk.value() % kPageChunks;
  return (static_cast<unsigned>(page->second[bit / 8]) >> (bit % 8) & 1) != 0;
}

ChunkIndex Frozen::next_marked(ChunkIndex from, ChunkIndex end, std::uint64_t blocks_per_chunk) const {
  if (from >= end) return end;
  if (all_changed) return from;
  std::uint64_t first = end.value();
  for (const auto& map : maps) {
    if (map->all()) return from;
    const std::uint64_t block = map->next(from.value() * blocks_per_chunk, end.value() * blocks_per_chunk, true);
    first = std::min(first, block / blocks_per_chunk);
  }
  for (auto page = kept->lower_bound(from.value() / kPageChunks); page != kept->end(); ++page) {
    const std::uint64_t start = page->first * kPageChunks;
    if (start >= first) break;
    for (std::uint64_t bit = from.value() > start ? from.value() - start : 0; bit < kPageChunks; ++bit) {
      if ((static_cast<unsigned>(page->second[bit / 8]) >> (bit % 8) & 1) == 0) continue;
      first = std::min(first, start + bit);
      break;
    }
  }
  return ChunkIndex{std::max(from.value(), first)};
}

ChunkIndex Frozen::marked_until(ChunkIndex from, ChunkIndex end, std::uint64_t blocks_per_chunk) const {
  const bool all = all_changed || std::any_of(maps.begin(), maps.end(), [](const auto& map) { return map->all(); });
  if (all) return end;
  ChunkIndex next = from + ChunkCount{1};
  if (maps.size() == 1 && kept->empty()) {
    const ChangeMap& map = *maps.front();
    while (next < end) {
      const std::uint64_t start = next.value() * blocks_per_chunk;
      const std::uint64_t limit = end.value() * blocks_per_chunk;
      const std::uint64_t marked = map.next(start, limit, true);
      if (marked / blocks_per_chunk > next.value() || marked == limit) return next;
      const std::uint64_t unmarked = map.next(marked, limit, false);
      next = std::max(next + ChunkCount{1}, ChunkIndex{unmarked / blocks_per_chunk});
    }
    return end;
  }
  while (next < end && marked(next, blocks_per_chunk)) next += ChunkCount{1};
  return next;
}

std::uint64_t Frozen::changed_blocks(std::uint64_t blocks_per_chunk) const {
  const bool all = all_changed || std::any_of(maps.begin(), maps.end(), [](const auto& map) { return map->all(); });
  if (all) return chunks.value() * blocks_per_chunk;
  std::uint64_t blocks = 0;
  for (const auto& map : maps) blocks += map->marked_blocks();
  if (!maps.empty()) return blocks;
  for (const auto& [page, bits] : *kept) {
    for (const std::byte b : bits) blocks += static_cast<std::uint64_t>(std::popcount(static_cast<unsigned>(b)));
  }
  return blocks * blocks_per_chunk;
}

std::optional<BlockSet> Frozen::blocks_of(ChunkIndex chunk, std::uint64_t blocks_per_chunk) const {
  if (all_changed || maps.empty() || kept->contains(chunk.value() / kPageChunks)) return std::nullopt;
  BlockSet blocks;
  for (const auto& map : maps) {
    if (map->all()) return std::nullopt;
    for (std::uint64_t i = 0; i < blocks_per_chunk; ++i) {
      if (map->any(chunk.value() * blocks_per_chunk + i, 1)) blocks.set(static_cast<std::size_t>(i));
    }
  }
  return blocks;
}

// --- freeze ---

namespace {

tl::unexpected<Error> not_pending(SnapshotId id) {
  return fail(ENOENT, ErrorKind::absent, fmt::format("snapshot {} is not pending", id.value()));
}

}  // namespace

Result<PendingInfo> LiveDisk::freeze(SnapshotId id, SnapshotId parent, const std::string& name,
                                     const std::string& attributes) {
  auto& self = *implementation_;
  VARVE_TRY(self.refuse_if_latched());
  // The bulk is flushed while writes go on; what is left inside the gate is little.
  VARVE_TRY(self.flush());
  std::uint64_t number = 0;
  std::uint64_t blocks = 0;
  {
    MutexLock lock(self.state_mutex);
    if (!self.state.exists()) return fail(ENODATA, ErrorKind::absent, "there is no live image to take a snapshot of");
    if (id <= self.state.high_water()) return fail_refused(EINVAL, "snapshot ids must grow");
    number = self.state.next_map();
    blocks = self.home_chunks * self.blocks_per_chunk();
  }
  VARVE_TRY_ASSIGN(auto spare, ChangeMap::create(self.volatile_storage, map_name(self.id, number), number, blocks));
  auto next = std::make_shared<Frozen>();
  next->kept = std::make_shared<FrozenChunkPages>();
  {
    ExclusiveLock exclusive(self.gate);
    // Grown since: the spare must cover it.
    MutexLock lock(self.state_mutex);
    VARVE_TRY(self.refuse_if_absent());
    if (self.state.next_map() != number) return fail_system(EAGAIN, "two freezes of one disk at once");
    VARVE_TRY(spare->set_blocks(self.home_chunks * self.blocks_per_chunk()));
    record::Freeze freeze{id.value(), parent.value(), now().nanoseconds, self.modified.load(),
                          number,     name,           attributes};
    next->all_changed = self.state.all_changed();
    VARVE_TRY(self.record_and_apply(freeze));
    next->id = id;
    next->chunks = self.state.chunks();
    next->incarnation = self.state.incarnation();
    next->maps = std::move(self.live_maps);
    self.live_maps = {std::move(spare)};
    self.frozen.push_back(next);
    self.assert_consistent();
  }
  if (auto sealed = self.flush(); !sealed) {
    if (auto undone = self.undo_freeze(id); !undone) {
      // The journal has it for as long as it is not written again: its pins stay, and nothing is sealed on top.
      self.latch("undoing a snapshot that failed", undone.error());
    }
    return tl::unexpected(std::move(sealed).error());
  }
  MutexLock lock(self.state_mutex);
  const auto position = self.state.position_of(id);
  if (!position) return not_pending(id);
  // Not `next`: it may have become the heir of one that was dropped meanwhile.
  self.frozen[*position]->shown = true;
  return self.describe(*position);
}

Status LiveDisk::Implementation::undo_freeze(SnapshotId id) {
  ExclusiveLock exclusive(gate);
  return drop(id);
}

Result<std::size_t> LiveDisk::Implementation::position_of(SnapshotId id) const {
  const auto position = state.position_of(id);
  if (position && frozen[*position]->shown) return *position;
  return not_pending(id);
}

PendingInfo LiveDisk::Implementation::describe(std::size_t position) const {
  const PendingState& pending = state.pending()[position];
  PendingInfo info;
  info.id = pending.id;
  info.parent = pending.parent;
  info.name = pending.name;
  info.attributes = pending.attributes;
  info.time = pending.time;
  info.image_modified = pending.image_modified;
  info.size = pending.size;
  info.incarnation = pending.incarnation;
  info.changed_blocks = frozen[position]->changed_blocks(blocks_per_chunk());
  return info;
}

std::vector<PendingInfo> LiveDisk::pending() const {
  auto& self = *implementation_;
  MutexLock lock(self.state_mutex);
  std::vector<PendingInfo> all;
  all.reserve(self.frozen.size());
  for (std::size_t i = 0; i < self.frozen.size(); ++i) {
    if (self.frozen[i]->shown) all.push_back(self.describe(i));
  }
  return all;
}

std::size_t LiveDisk::pending_count() const {
  auto& self = *implementation_;
  MutexLock lock(self.state_mutex);
  return static_cast<std::size_t>(std::ranges::count_if(self.frozen, [](const auto& f) { return f->shown; }));
}

std::optional<PendingInfo> LiveDisk::find_pending(SnapshotId id) const {
  auto& self = *implementation_;
  MutexLock lock(self.state_mutex);
  const auto position = self.position_of(id);
  return position ? std::optional(self.describe(*position)) : std::nullopt;
}

std::optional<PendingInfo> LiveDisk::oldest_pending() const {
  auto& self = *implementation_;
  MutexLock lock(self.state_mutex);
  for (std::size_t i = 0; i < self.frozen.size(); ++i) {
    if (self.frozen[i]->shown) return self.describe(i);
  }
  return std::nullopt;
}

std::optional<PendingInfo> LiveDisk::newest_pending() const {
  auto& self = *implementation_;
  MutexLock lock(self.state_mutex);
  for (std::size_t i = self.frozen.size(); i-- > 0;) {
    if (self.frozen[i]->shown) return self.describe(i);
  }
  return std::nullopt;
}

SnapshotId LiveDisk::high_water() const {
  MutexLock lock(implementation_->state_mutex);
  return implementation_->state.high_water();
}

Status LiveDisk::update_pending(SnapshotId id, const std::string& name, const std::string& attributes) {
  auto& self = *implementation_;
  {
    MutexLock lock(self.state_mutex);
    VARVE_TRY(self.position_of(id));
    VARVE_TRY(self.record_and_apply(record::PendingUpdated{id.value(), name, attributes}));
  }
  return self.flush();
}

// --- the frozen map becomes durable ---

Status LiveDisk::Implementation::keep_map(SnapshotId snapshot) {
  std::shared_ptr<Frozen> f;
  {
    MutexLock lock(state_mutex);
    // Also for one that is not shown yet: the successor of one that is dropped.
    const auto position = state.position_of(snapshot);
    if (!position) return not_pending(snapshot);
    f = frozen[*position];
    // Where everything counts as changed there is nothing to know.
    if (f->map_durable || f->all_changed) return {};
  }
  // A frozen map does not change: it is read without a lock.
  std::uint64_t last = f->chunks.value();
  for (const auto& map : f->maps) {
    last = std::max(last, map->page_count() * ChangeMap::kPageBlocks / blocks_per_chunk());
  }
  if (!f->kept->empty()) last = std::max(last, (f->kept->rbegin()->first + 1) * kPageChunks);
  const ChunkIndex end{std::min(last, kMaxChunksPerImage)};
  FrozenChunkPages pages;
  for (ChunkIndex c = f->next_marked(ChunkIndex{0}, end, blocks_per_chunk()); c < end;) {
    const ChunkIndex until = f->marked_until(c, end, blocks_per_chunk());
    for (; c < until; c += ChunkCount{1}) {
      const std::uint64_t bit = c.value() % kPageChunks;
      pages[c.value() / kPageChunks][bit / 8] |= static_cast<std::byte>(1u << (bit % 8));
    }
    c = f->next_marked(c, end, blocks_per_chunk());
  }
  {
    MutexLock lock(state_mutex);
    if (!state.position_of(snapshot)) return not_pending(snapshot);
    for (const auto& [page, bits] : pages) {
      VARVE_TRY(record_and_apply(record::FrozenChunks{snapshot.value(), static_cast<std::uint32_t>(page), bits}));
    }
    VARVE_TRY(record_and_apply(record::MapKept{snapshot.value()}));
  }
  VARVE_TRY(flush());
  MutexLock lock(state_mutex);
  f->map_durable = true;
  return {};
}

// --- dropping ---

/// Where the successor finds chunks that only the dropped snapshot froze, when the live image has left that place
/// since: what the successor's own freeze found may have been overwritten, for it was not pinned for it.
void LiveDisk::Implementation::append_inherited(std::size_t position, std::vector<Record>& records) const {
  const PendingState& dropped = state.pending()[position];
  const PendingState& heir = state.pending()[position + 1];
  if (heir.incarnation != dropped.incarnation) return;
  const Frozen& dropped_map = *frozen[position];
  const Frozen& heir_map = *frozen[position + 1];
  const auto pass_on = [&](ChunkIndex chunk) VARVE_NO_ANALYSIS {
    if (!dropped_map.changed(chunk, blocks_per_chunk()) || heir_map.changed(chunk, blocks_per_chunk())) return;
    if (heir.inherited.contains(chunk.value())) return;
    records.emplace_back(record::Inherited{heir.id.value(), chunk.value(), state.place_of(position, chunk)});
  };
  dropped.saved.for_each([&](ChunkIndex chunk, Place) { pass_on(chunk); });
  for (const auto& [chunk, place] : dropped.inherited) pass_on(ChunkIndex{chunk});
}

/// Not sealed.
Status LiveDisk::Implementation::drop(SnapshotId snapshot) {
  MutexLock lock(state_mutex);
  const auto found = state.position_of(snapshot);
  if (!found) return not_pending(snapshot);
  const std::size_t position = *found;
  const bool has_heir = position + 1 < frozen.size();
  if (has_heir) {
    std::vector<Record> inherited;
    append_inherited(position, inherited);
    for (const Record& record : inherited) VARVE_TRY(record_and_apply(record));
  }
  VARVE_TRY(record_and_apply(record::PendingDropped{snapshot.value()}));
  const std::shared_ptr<Frozen> dropped = frozen[position];
  unsealed_snapshots.emplace_back(journal->end(), dropped);
  frozen.erase(frozen.begin() + static_cast<std::ptrdiff_t>(position));
  if (!has_heir) {
    live_maps.insert(live_maps.end(), dropped->maps.begin(), dropped->maps.end());
    // Only known by chunk, after a power loss: then the live image counts as changed anyway.
    for (const auto& [page, bits] : *dropped->kept) {
      for (std::uint64_t bit = 0; bit < kPageChunks; ++bit) {
        const ChunkIndex chunk{page * kPageChunks + bit};
        const bool changed = (static_cast<unsigned>(bits[bit / 8]) >> (bit % 8) & 1) != 0;
        if (changed && chunk.value() < home_chunks) mark_chunks(chunk, ChunkCount{1});
      }
    }
    assert_consistent();
    return {};
  }
  auto heir = std::make_shared<Frozen>(*frozen[position]);
  heir->maps.insert(heir->maps.end(), dropped->maps.begin(), dropped->maps.end());
  heir->all_changed |= dropped->all_changed;
  heir->map_durable = heir->map_durable && dropped->map_durable;
  auto kept = std::make_shared<FrozenChunkPages>(*heir->kept);
  for (const auto& [page, bits] : *dropped->kept) {
    auto& own = (*kept)[page];
    for (std::size_t i = 0; i < bits.size(); ++i) own[i] |= bits[i];
  }
  heir->kept = std::move(kept);
  frozen[position] = std::move(heir);
  assert_consistent();
  return {};
}

Status LiveDisk::drop_pending(SnapshotId id) {
  auto& self = *implementation_;
  VARVE_TRY(self.refuse_if_latched());
  SnapshotId heir;
  {
    MutexLock lock(self.state_mutex);
    VARVE_TRY_ASSIGN(const std::size_t position, self.position_of(id));
    if (position + 1 < self.frozen.size()) heir = self.frozen[position + 1]->id;
  }
  // With an heir both maps must be known for good: what the heir may lose to a later power loss would otherwise be
  // read from places that were not pinned for it.
  if (heir != SnapshotId{0}) {
    VARVE_TRY(self.keep_map(id));
    VARVE_TRY(self.keep_map(heir));
  }
  {
    ExclusiveLock exclusive(self.gate);
    VARVE_TRY(self.drop(id));
  }
  return self.flush();
}

// --- reading ---

/// Newest pending snapshot up to this one that froze the chunk, in its place; else P.
Resolved LiveDisk::Implementation::resolve_frozen_run(std::size_t position, ChunkIndex chunk, ChunkIndex end,
                                                      ChunkCount& count) const {
  const Incarnation incarnation = frozen[position]->incarnation;
  for (std::size_t i = position + 1; i-- > 0;) {
    const Frozen& f = *frozen[i];
    if (f.incarnation != incarnation) break;
    if (chunk.value() >= f.chunks.value()) {
      // Behind the end of an older one there was nothing, and nothing came since.
      count = end - chunk;
      return {};
    }
    end = std::min(end, ChunkIndex{f.chunks.value()});
    const ChunkIndex changed = f.next_changed(chunk, end, blocks_per_chunk());
    if (changed > chunk) {
      end = changed;
      continue;
    }
    const PlaceRun run = state.frozen_run(i, chunk, f.changed_until(chunk, end, blocks_per_chunk()));
    count = run.count;
    Resolved resolved{run.place, {}, {}};
    resolved.blocks = state.blocks_at(chunk, run.place);
    if (run.place.kind == PlaceKind::base) {
      if (const auto found = state.pending()[i].segments->find(chunk)) {
        resolved.root = found->root;
        resolved.source = found->source;
      }
    }
    return resolved;
  }
  count = end - chunk;
  return {{PlaceKind::base, 0}, state.parent_root(incarnation), chunk};
}

Resolved LiveDisk::Implementation::resolve_frozen(std::size_t position, ChunkIndex chunk) const {
  ChunkCount one;
  return resolve_frozen_run(position, chunk, chunk + ChunkCount{1}, one);
}

Status LiveDisk::Implementation::read_frozen_part(SnapshotId snapshot, ChunkIndex chunk, std::size_t within,
                                                  std::span<std::byte> out) {
  for (;;) {
    Resolved resolved;
    {
      Stripes::Lock lock(stripes, chunk, 1, Stripes::Lock::Mode::shared);
      {
        MutexLock state_lock(state_mutex);
        VARVE_TRY_ASSIGN(const std::size_t position, position_of(snapshot));
        resolved = resolve_frozen(position, chunk);
      }
      if (resolved.place.kind == PlaceKind::zero) {
        std::memset(out.data(), 0, out.size());
        return {};
      }
      if (resolved.place.kind != PlaceKind::base) {
        return read_stored(chunk, resolved, within, out);
      }
    }
    auto read = read_base(resolved.root, resolved.source, within, out);
    if (read) return {};
    MutexLock state_lock(state_mutex);
    VARVE_TRY_ASSIGN(const std::size_t position, position_of(snapshot));
    // An older one was committed meanwhile, and what it stood on may be collected: look again.
    if (resolve_frozen(position, chunk) == resolved) return read;
  }
}

Result<std::size_t> LiveDisk::read_pending(SnapshotId id, ByteOffset at, std::span<std::byte> out) {
  auto& self = *implementation_;
  std::uint64_t size = 0;
  {
    MutexLock lock(self.state_mutex);
    VARVE_TRY_ASSIGN(const std::size_t position, self.position_of(id));
    size = self.state.pending()[position].size.value();
  }
  if (at.value() >= size) return 0;
  out = out.first(static_cast<std::size_t>(std::min<std::uint64_t>(out.size(), size - at.value())));
  const std::size_t total = out.size();
  while (!out.empty()) {
    const std::size_t within = self.geometry.within_chunk(at);
    const auto part = out.first(std::min(out.size(), self.geometry.chunk_bytes() - within));
    VARVE_TRY(self.read_frozen_part(id, self.geometry.chunk_of(at), within, part));
    out = out.subspan(part.size());
    at += ByteCount{part.size()};
  }
  return total;
}

Result<ByteOffset> LiveDisk::seek_pending(SnapshotId id, ByteOffset at, bool data) {
  auto& self = *implementation_;
  return self.seek_in(at, data, [&self, id](ChunkIndex chunk) -> Result<ResolvedRun> {
    MutexLock lock(self.state_mutex);
    VARVE_TRY_ASSIGN(const std::size_t position, self.position_of(id));
    ResolvedRun run{{}, ChunkCount{0}, self.state.pending()[position].size};
    const ChunkIndex end{self.frozen[position]->chunks.value()};
    if (chunk < end) run.resolved = self.resolve_frozen_run(position, chunk, end, run.count);
    return run;
  });
}

// --- what a copy asks for ---

namespace {

/// Adds a chunk to the last run when it continues it; false when it needs a new one and there is no room.
bool add_to_runs(std::vector<CopyRun>& runs, const CopyRun& next, std::size_t max_runs) {
  if (!runs.empty()) {
    CopyRun& last = runs.back();
    const bool continues = last.kind == next.kind && last.first + last.count == next.first &&
                           (next.kind != CopyRun::Kind::shared ||
                            (last.root == next.root && last.source + last.count == next.source));
    if (continues) {
      last.count += next.count;
      return true;
    }
  }
  if (runs.size() >= max_runs) return false;
  runs.push_back(next);
  return true;
}

CopyRun run_of(ChunkIndex chunk, ChunkCount count, const Resolved& resolved) {
  if (resolved.place.kind == PlaceKind::base && !resolved.root.empty()) {
    return {chunk, count, CopyRun::Kind::shared, resolved.root, resolved.source};
  }
  const bool bytes = resolved.place.kind == PlaceKind::home || resolved.place.kind == PlaceKind::detour;
  return {chunk, count, bytes ? CopyRun::Kind::bytes : CopyRun::Kind::zeros, {}, {}};
}

}  // namespace

Result<std::vector<CopyRun>> LiveDisk::describe(ChunkIndex first, ChunkCount count, std::size_t max_runs) {
  auto& self = *implementation_;
  std::vector<CopyRun> runs;
  SharedLock gate(self.gate);
  MutexLock lock(self.state_mutex);
  VARVE_TRY(self.refuse_if_absent());
  const ChunkIndex end = std::min(first + count, ChunkIndex{self.state.chunks().value()});
  // The live image as one more frozen one: unchanged since every freeze is unchanged since P.
  Frozen live;
  live.chunks = self.state.chunks();
  live.maps = self.live_maps;
  live.kept = std::make_shared<FrozenChunkPages>();
  live.all_changed = self.state.all_changed();
  const Incarnation incarnation = self.state.incarnation();
  const OpaqueRoot parent = self.state.parent_root(incarnation);
  const auto unchanged = [&](ChunkIndex chunk) VARVE_NO_ANALYSIS {
    if (live.changed(chunk, self.blocks_per_chunk())) return false;
    for (const auto& f : self.frozen) {
      if (f->incarnation == incarnation && f->changed(chunk, self.blocks_per_chunk())) return false;
    }
    return true;
  };
  for (ChunkIndex c = first; c < end;) {
    PlaceRun run = self.state.places().run_at(c, end);
    Resolved resolved = self.resolve_live(c);
    if (run.place.kind == PlaceKind::base) {
      if (const auto found = self.state.segments().find(c)) run.count = std::min(run.count, found->left);
    } else if (run.place.kind != PlaceKind::zero) {
      run.count = ChunkCount{1};
      if (unchanged(c)) resolved = {{PlaceKind::base, 0}, parent, c};
    }
    if (!add_to_runs(runs, run_of(c, run.count, resolved), max_runs)) break;
    c += run.count;
  }
  return runs;
}

std::vector<CopyRun> LiveDisk::base_runs(ChunkIndex from, std::size_t max_runs) const {
  auto& self = *implementation_;
  std::vector<CopyRun> runs;
  MutexLock lock(self.state_mutex);
  if (!self.state.exists()) return runs;
  const ChunkIndex end{self.state.chunks().value()};
  for (ChunkIndex c = from; c < end;) {
    PlaceRun run = self.state.places().run_at(c, end);
    if (run.place.kind == PlaceKind::base) {
      const auto found = self.state.segments().find(c);
      // Where L says nothing it is zeros.
      run.count = found ? std::min(run.count, found->left) : ChunkCount{1};
      if (found && !found->root.empty() &&
          !add_to_runs(runs, {c, run.count, CopyRun::Kind::shared, found->root, found->source}, max_runs)) {
        break;
      }
    }
    c += run.count;
  }
  return runs;
}

Result<std::vector<CopyRun>> LiveDisk::describe_pending(SnapshotId id, ChunkIndex first, ChunkCount count,
                                                        std::size_t max_runs) {
  auto& self = *implementation_;
  std::vector<CopyRun> runs;
  MutexLock lock(self.state_mutex);
  VARVE_TRY_ASSIGN(const std::size_t position, self.position_of(id));
  const ChunkIndex end = std::min(first + count, ChunkIndex{self.frozen[position]->chunks.value()});
  for (ChunkIndex c = first; c < end;) {
    ChunkCount run;
    const Resolved resolved = self.resolve_frozen_run(position, c, end, run);
    if (!add_to_runs(runs, run_of(c, run, resolved), max_runs)) break;
    c += run;
  }
  return runs;
}

// --- what a commit asks for ---

OpaqueRoot LiveDisk::parent_root() const {
  auto& self = *implementation_;
  MutexLock lock(self.state_mutex);
  const Incarnation incarnation =
      self.frozen.empty() ? self.state.incarnation() : self.frozen.front()->incarnation;
  return self.state.parent_root(incarnation);
}

Result<std::vector<FrozenRun>> LiveDisk::frozen_runs(SnapshotId id, ChunkIndex from, std::size_t max_runs) {
  auto& self = *implementation_;
  if (from == ChunkIndex{0}) {
    // Writers can overwrite in place again what this snapshot has not frozen; failing that, they only detour longer.
    if (auto kept = self.keep_map(id); !kept && kept.error().code == ENOENT) return tl::unexpected(kept.error());
  }
  std::vector<FrozenRun> runs;
  MutexLock lock(self.state_mutex);
  VARVE_TRY_ASSIGN(const std::size_t position, self.position_of(id));
  const Frozen& f = *self.frozen[position];
  const ChunkIndex end{f.chunks.value()};
  ChunkIndex c = f.next_changed(from, end, self.blocks_per_chunk());
  while (c < end && runs.size() < max_runs) {
    const ChunkIndex until = f.changed_until(c, end, self.blocks_per_chunk());
    while (c < until && runs.size() < max_runs) {
      const PlaceRun run = self.state.frozen_run(position, c, until);
      FrozenRun out{c, run.count, run.place.kind, {}, {}};
      if (run.place.kind == PlaceKind::base) {
        if (const auto found = self.state.pending()[position].segments->find(c)) {
          out.root = found->root;
          out.source = found->source;
        }
      }
      runs.push_back(out);
      c += run.count;
    }
    if (c >= until) c = f.next_changed(c, end, self.blocks_per_chunk());
  }
  return runs;
}

Status LiveDisk::read_frozen(SnapshotId id, ChunkIndex chunk, std::span<std::byte> out) {
  return implementation_->read_frozen_part(id, chunk, 0, out);
}

Result<std::optional<BlockSet>> LiveDisk::frozen_blocks(SnapshotId id, ChunkIndex chunk) {
  auto& self = *implementation_;
  std::shared_ptr<Frozen> f;
  {
    MutexLock lock(self.state_mutex);
    VARVE_TRY_ASSIGN(const std::size_t position, self.position_of(id));
    f = self.frozen[position];
  }
  // A frozen map does not change: it is read without a lock.
  return f->blocks_of(chunk, self.blocks_per_chunk());
}

Status LiveDisk::read_frozen_blocks(SnapshotId id, ChunkIndex chunk, std::size_t first_block,
                                    std::span<std::byte> out) {
  return implementation_->read_frozen_part(id, chunk, first_block * kBlockSize, out);
}

Status LiveDisk::committed(SnapshotId id, const OpaqueRoot& root) {
  auto& self = *implementation_;
  std::shared_ptr<Frozen> done;
  {
    MutexLock lock(self.state_mutex);
    VARVE_TRY(self.position_of(id));
    if (self.frozen.front()->id != id) return fail_refused(EINVAL, "only the oldest pending snapshot is committed");
    VARVE_TRY(self.record_and_apply(record::Committed{id.value(), root}));
    done = self.frozen.front();
    self.frozen.pop_front();
    self.unsealed_snapshots.emplace_back(self.journal->end(), done);
    self.assert_consistent();
  }
  VARVE_TRY(self.flush());
  for (const auto& map : done->maps) {
    if (auto removed = self.volatile_storage.remove(map_name(self.id, map->number())); !removed) {
      log::debug("disk {}: a change map stays until the next mount: {}", self.id.value(), removed.error().message);
    }
  }
  return {};
}

std::vector<OpaqueRoot> LiveDisk::roots() const {
  auto& self = *implementation_;
  MutexLock lock(self.state_mutex);
  std::vector<OpaqueRoot> roots = self.named_roots();
  for (const auto& [position, root] : self.unsealed_roots) roots.push_back(root);
  std::sort(roots.begin(), roots.end());
  roots.erase(std::unique(roots.begin(), roots.end()), roots.end());
  return roots;
}

std::vector<OpaqueRoot> LiveDisk::Implementation::named_roots() const {
  std::vector<OpaqueRoot> roots;
  const auto add = [&roots](const OpaqueRoot& root) {
    if (!root.empty()) roots.push_back(root);
  };
  add(state.stored_parent_root());
  // Snapshots share a list until the next splice.
  const Segments* last = nullptr;
  const auto add_all = [&](const Segments& segments) {
    if (&segments == last) return;
    last = &segments;
    for (const auto& [first, segment] : segments.all()) add(segment.root);
  };
  for (const auto& pending : state.pending()) add_all(*pending.segments);
  add_all(state.segments());
  std::sort(roots.begin(), roots.end());
  roots.erase(std::unique(roots.begin(), roots.end()), roots.end());
  return roots;
}

}  // namespace varve::disk
