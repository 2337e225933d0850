"""What breaks each of the live disk's 13 rules (DESIGN.md, "The live disk"), and those of collect (14), and the test that
must notice.

A mutation replaces one text, found exactly once in one file, by another.
"""
from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    rule: int
    breaks: str     # what the code does no more
    file: str
    old: str
    new: str
    test: str       # executable below tests/, or a whole-mount test
    cases: str      # gtest filter, or names of whole-mount tests


DISK = 'disk/disk_test'
RULES = 'LiveDiskRules.'


MUTATIONS = [
    Mutation(1, 'a slot waits for the seal', 'src/disk/live_disk.cpp',
             'for (const Slot slot : released.slots) unsealed_slots.emplace_back(position, slot);',
             'for (const Slot slot : released.slots) free_slots.insert(slot);',
             DISK, RULES + 'Rule1AFreedSlot*'),
    Mutation(1, 'a snapshot that goes leaves the slots that another has inherited', 'src/disk/disk_state.cpp',
             'return it != pending.inherited.end() && it->second == place;',
             'return it != pending.inherited.end() && it->second == place && pending.inherited.empty();',
             DISK, RULES + 'Rule1ASlotThatTheSuccessor*'),
    Mutation(1, 'a Home waits for the seal', 'src/disk/live_disk.cpp',
             'return !unsealed_homes.contains(chunk) && !pinned(chunk, {PlaceKind::home, 0});',
             'return !pinned(chunk, {PlaceKind::home, 0});',
             DISK, RULES + 'Rule1AHomeThatWasLeft*'),
    Mutation(1, 'a Home waits for the snapshots that find their bytes there', 'src/disk/live_disk.cpp',
             'return !unsealed_homes.contains(chunk) && !pinned(chunk, {PlaceKind::home, 0});',
             'return !unsealed_homes.contains(chunk);',
             DISK, RULES + 'Rule1AHome*'),
    Mutation(1, 'a root waits for the seal that forgets it', 'src/disk/snapshots.cpp',
             'for (const auto& [position, root] : self.unsealed_roots) roots.push_back(root);', '',
             DISK, RULES + 'Rule1ARoot*'),
    Mutation(1, 'a slot waits for who reads at it', 'src/disk/upkeep.cpp',
             'Stripes::Lock barrier(stripes, ChunkIndex{stripe}, 1, Stripes::Lock::Mode::exclusive);', '(void)stripe;',
             DISK, RULES + 'Rule1AReaderOfASlot*'),
    Mutation(2, 'the copy home keeps writers out', 'src/disk/upkeep.cpp',
             '''  SharedLock shared(gate);
  Stripes::Lock lock(stripes, chunk, 1, Stripes::Lock::Mode::exclusive);
  Place from;''',
             '''  SharedLock shared(gate);
  Place from;''',
             DISK, RULES + 'Rule2AWrite*'),
    Mutation(2, 'a move home is durable before its slot is reused', 'src/disk/writing.cpp',
             'detour_dirty) = true;', 'detour_dirty) = place.kind != PlaceKind::home;',
             DISK, RULES + 'Rule2AMove*'),
    Mutation(3, 'the tail of the cut chunk becomes zeros', 'src/disk/resizing.cpp',
             'tail = within != 0 && state.places().get(cut).kind != PlaceKind::zero;', 'tail = false;',
             DISK, RULES + 'Rule3ThePartial*'),
    Mutation(3, 'what is cut off becomes Zero', 'src/disk/disk_state.cpp',
             'if (after < before) fill(ChunkIndex{after.value()}, before - after, PlaceKind::zero, released);',
             '(void)before, (void)after, (void)released;',
             DISK, RULES + 'Rule3WhatWasCutOff*'),
    Mutation(3, 'an image that was removed and made again is a new incarnation', 'src/disk/live_disk.cpp',
             'VARVE_TRY(self.record_and_apply(record::Image{self.state.incarnation().value() + 1, 1}));',
             'VARVE_TRY(self.record_and_apply(record::Image{std::max<std::uint64_t>(1, '
             'self.state.incarnation().value()), 1}));',
             DISK, RULES + 'Rule3AnImage*'),
    Mutation(4, 'the root of a commit becomes P', 'src/disk/disk_state.cpp',
             'parent_root_ = r.root;\n  parent_incarnation_ = committed.incarnation;',
             'parent_incarnation_ = committed.incarnation;',
             DISK, RULES + 'Rule4TheRoot*'),
    Mutation(4, 'the successor of a dropped snapshot inherits its places', 'src/disk/snapshots.cpp',
             'for (const Record& record : inherited) VARVE_TRY(record_and_apply(record));', '',
             DISK, RULES + 'Rule4ADropped*'),
    Mutation(4, 'what differs from the parent that takes its place counts as changed', 'src/disk/parent.cpp',
             '    mark_chunks(first, count);', '    (void)first, (void)count;',
             DISK, 'ParentOfALiveDisk.FallsBack*'),
    Mutation(4, 'a parent is not replaced when a snapshot took the marks along', 'src/disk/parent.cpp',
             'self.state.next_map() != map || ', '',
             DISK, 'ParentOfALiveDisk.IsNotSwitched*'),
    Mutation(1, 'the parent of a live disk does not outlive its snapshot', 'src/store/disk_entry.cpp',
             'VARVE_TRY(let_parent_fall_back());', '',
             'store/store_test', 'ParentFallsBack.*'),
    Mutation(1, 'the old parent waits for the seal that forgets it', 'src/disk/live_disk.cpp',
             '      std::holds_alternative<record::ParentReplaced>(record) ||\n', '',
             DISK, 'ParentOfALiveDisk.Rule1*'),
    Mutation(5, 'a snapshot id is not used again', 'src/disk/disk_state.cpp',
             'high_water_ = SnapshotId{r.id};', '',
             DISK, RULES + 'Rule5SnapshotIds*'),
    Mutation(5, 'a drop is durable when it returns', 'src/disk/snapshots.cpp',
             '    VARVE_TRY(self.drop(id));\n  }\n  return self.flush();', '    VARVE_TRY(self.drop(id));\n  }\n  return {};',
             DISK, RULES + 'Rule5ADropped*'),
    Mutation(6, 'what was written is copied and not shared', 'src/disk/snapshots.cpp',
             'if (unchanged(c)) resolved = {{PlaceKind::base, 0}, parent, c};',
             'resolved = {{PlaceKind::base, 0}, parent, c};',
             DISK, RULES + 'Rule6*'),
    Mutation(7, 'a failed sync latches', 'src/disk/live_disk.cpp',
             'if (!latched.exchange(true)) {', 'if (!latched.load()) {',
             DISK, RULES + 'Rule7AFailedSync*'),
    Mutation(7, 'a flush that failed serves nobody', 'src/disk/flushing.cpp',
             'if (done) flushes_done = std::max(flushes_done, served);', 'flushes_done = std::max(flushes_done, served);',
             DISK, RULES + 'Rule7AFlush*'),
    Mutation(8, 'the directory of a new file is synced', 'src/disk/recovery.cpp',
             'return storage.sync_directory(directory);', 'return {};',
             DISK, RULES + 'Rule8AFile*'),
    Mutation(8, 'parent directories that were made are synced', 'src/os/durable.cpp',
             'VARVE_TRY(storage.sync_directory(parent_of(directory)));', '',
             DISK, 'LiveDiskBirth.Rule8*'),
    Mutation(9, 'after a power loss all counts as changed', 'src/disk/disk_state.cpp',
             '  if (r.lost == 1) {\n    all_changed_ = true;', '  if (r.lost == 1) {',
             DISK, RULES + 'Rule9AfterAPowerLoss*'),
    Mutation(9, 'the witness knows boot, device, mount and inode', 'src/disk/journal.cpp',
             'identity_ = XXH3_64bits(text.data(), text.size());', 'identity_ = 1;',
             DISK, RULES + 'Rule9TheWay*:' + RULES + 'Rule9AChangeMap*'),
    Mutation(10, 'a chunk that cannot be read is committed as damaged', 'src/snapshot/commit.cpp',
             'return MaybeRef{Ref::make_damaged()};', 'return MaybeRef{};',
             'snapshot/snapshot_test', '*ommit*'),
    Mutation(11, 'a slot whose write failed is free again', 'src/disk/writing.cpp',
             'if (to.kind == PlaceKind::detour) give_back_slot(to.slot);', '',
             DISK, RULES + 'Rule11NoSpace*'),
    Mutation(11, 'the journal has space reserved', 'src/disk/journal.cpp',
             'if (auto done = file_->preallocate(ByteOffset{reserved_}, ByteCount{until - reserved_}); !done) {',
             'if (Status done; !done) {',
             DISK, RULES + 'Rule11FreezesAndDrops*'),
    Mutation(12, 'notifications are sent from a thread of their own', 'src/fuse/notifier.cpp',
             '''    queue_.push_back(std::move(notification));
    ++pushed_;''',
             '''    std::visit([this](const auto& what) { return send(session_, what); }, notification);
    ++pushed_, ++sent_;''',
             'fuse/fuse_test', 'NotifierTest.Rule12*'),
    Mutation(13, 'Homes that nothing names are freed after a crash', 'src/disk/recovery.cpp',
             'homes_to_punch.push_back({ChunkIndex{0}, ChunkCount{home_chunks}});', '',
             DISK, RULES + 'Rule13Homes*'),
    Mutation(13, 'change maps that nothing names are removed', 'src/disk/recovery.cpp',
             'if (number && !used.contains(*number)) (void)volatile_storage.remove(name);', '',
             DISK, RULES + 'Rule13ChangeMaps*'),
    # Not of the live disk: what the accounting promises.
    Mutation(0, 'a record that a delta stands on is kept', 'src/snapshot/accounting.cpp',
             'if (table_.drop_base(base) > 0 || table_.maps(base) > 0) return {};',
             'if (table_.drop_base(base) > 0) return {};',
             'snapshot/snapshot_test', 'Accounting.*'),
    Mutation(0, 'what goes is uncounted while it can still be read', 'src/snapshot/accounting.cpp',
             '  for (const Ref& root : all) visit(root);', '',
             'snapshot/snapshot_test', 'Accounting.*'),
    Mutation(0, 'a parent that falls back is promised with its snapshot', 'src/store/space.cpp',
             'push(is_a_snapshot || needed ? removed.roots : removed.before, root);', '(void)is_a_snapshot, (void)needed, (void)root;',
             'store/store_test', 'AccountingOfAStore.*'),
    # A write of what the base has.
    Mutation(0, 'what L has is looked at again within the gate', 'src/disk/writing.cpp',
             'return there && there->root == fill->root && there->source == fill->source;', 'return there.has_value();',
             DISK, RULES + 'AWriteThatWasTheSame*'),
    Mutation(0, 'a chunk that becomes Base again is marked', 'src/disk/writing.cpp',
             'mark_blocks(geometry.start_of(chunk), bytes.size());', '',
             DISK, RULES + 'AChunkThatIsWrittenBack*'),
    Mutation(0, 'a digest match alone never makes bytes what the base has', 'src/snapshot/image.cpp',
             'return there && same_bytes(**there, bytes);', 'return there.has_value();',
             'snapshot/snapshot_test', 'MapSourceTest.*'),
    # Collect's (collect.cpp opens with its invariants).
    Mutation(14, 'a pack that somebody uses keeps its records', 'src/chunks/root_registry.cpp',
             'if (held_packs_.contains(pack) || kept_packs_.contains(pack)) return false;', '',
             'snapshot/snapshot_test', 'Thinning.ALivingRecord*:Collect.KeepsWhatAHold*'),
    Mutation(14, 'what a delta stands on stays', 'src/snapshot/collect.cpp',
             '{ live_.insert(base); }', '{ static_cast<void>(base); }',
             'snapshot/snapshot_test', 'Thinning.APackThatIsMostlyDead*'),
    Mutation(14, 'no dead record can be held while it goes', 'src/chunks/root_registry.cpp',
             'condemned_.insert_or_assign(pack, std::move(kept));', 'static_cast<void>(kept);',
             'chunks/chunks_test', 'RootRegistry*'),
    # Deleting with care.
    Mutation(0, 'that something is in the trash is durable before it is gone from sight', 'src/store/disk_entry_care.cpp',
             'return set_care(info, info.name, info.care); }));', 'return Status{}; }));',
             'store/store_test', 'StoreModel.*'),
    Mutation(0, 'no record of care gives a snapshot the name of another', 'src/catalog/replay.cpp',
             'if (event.care.trashed || named_so) return validate_name', 'if (true || named_so) return validate_name',
             'catalog/catalog_test', 'CareRecordsTest.*'),
]
