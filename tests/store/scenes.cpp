#include "scenes.h"

#include <cstdlib>

namespace varve::test {
namespace {

constexpr std::uint64_t kChunk = kStoreChunk;

// --- beginnings ---

void nothing(ModeledStore&) {}

void an_image(ModeledStore& store) {
  store.create_disk("a");
  store.create_image("a");
  store.resize("a", 6 * kChunk);
  store.write("a", 0, 3 * kChunk);
  store.write("a", 4 * kChunk + 100, 5000);
  store.flush("a");
}

void a_complete_snapshot(ModeledStore& store) {
  an_image(store);
  store.snapshot("a", "s1");
  store.commit("a");
}

/// What s2 froze lies at Home, the later writes in detours.
void a_pending_snapshot(ModeledStore& store) {
  a_complete_snapshot(store);
  store.write("a", kChunk, 6000);
  store.snapshot("a", "s2");
  store.write("a", kChunk + 4096, 5000);
}

/// Each froze something else, and something that another froze too.
void three_pending_snapshots(ModeledStore& store) {
  a_complete_snapshot(store);
  store.write("a", 0, kChunk + 4096);
  store.snapshot("a", "s2");
  store.write("a", kChunk, kChunk);
  store.snapshot("a", "s3");
  store.zero("a", 2 * kChunk, kChunk);
  store.write("a", 4096, 512);
  store.snapshot("a", "s4");
  store.write("a", 0, 100);
}

void two_disks(ModeledStore& store) {
  a_pending_snapshot(store);
  store.create_disk("b");
  store.create_image("b");
  store.resize("b", 3 * kChunk + 1000);
  store.write("b", 100, 2 * kChunk);
  store.snapshot("b", "t1");
  store.commit("b");
  store.write("b", kChunk, 100);
}

void an_almost_empty_disk(ModeledStore& store) {
  a_complete_snapshot(store);
  store.write("a", 0, 4096);
  store.snapshot("a", "s2");
}

// --- plays ---

void writes_and_syncs(ModeledStore& store) {
  store.write("a", 0, 4096);
  store.write("a", 3 * kChunk, 2 * kChunk);
  store.flush("a");
  store.write("a", 4096, 100);
  store.write("a", 6 * kChunk - 512, kChunk);
  store.flush("a");
  store.write("a", 0, 2 * kChunk);
}

void snapshots(ModeledStore& store) {
  store.write("a", 100, 2 * kChunk);
  store.snapshot("a", "x1");
  store.write("a", 50, 2 * kChunk);
  store.snapshot("a", "x2");
  store.zero("a", kChunk, kChunk);
  store.flush("a");
  store.snapshot("a", "x3");
}

void commits(ModeledStore& store) {
  store.commit("a");
  store.write("a", kChunk, 3000);
  store.commit("a");
  store.upkeep("a");
  store.write("a", 2 * kChunk, 3000);
  store.snapshot("a", "x1");
  store.commit("a");
  store.commit("a");
}

void moves_home(ModeledStore& store) {
  store.commit("a");
  store.commit("a");
  store.commit("a");
  store.upkeep("a");
  store.write("a", kChunk, 4096);
  store.upkeep("a");
  store.write("a", 0, 3 * kChunk);
  store.snapshot("a", "x1");
  store.write("a", 0, 100);
}

void restores(ModeledStore& store) {
  store.restore("a", "s1", "a");
  store.write("a", 100, kChunk);
  store.flush("a");
  store.restore("b", "t1", "a");
  store.snapshot("a", "x1");
  store.restore("a", "s2", "b");  // pending: it is committed first
  store.write("b", 0, 4096);
  store.remove_image("b");
  store.restore("a", "s1", "b");
}

void clones(ModeledStore& store) {
  store.clone("a", "s1", "c");
  store.write("c", 0, 100);
  store.clone("a", "", "d");
  store.write("d", kChunk, kChunk);
  store.snapshot("d", "x1");
}

void removes_complete_snapshots(ModeledStore& store) {
  store.commit("a");
  store.remove_snapshot("a", "s1");
  store.write("a", 0, 4096);
  store.remove_snapshot("b", "t1");
  store.commit("a");
  store.remove_snapshot("a", "s2");
  store.collect();
}

void removes_pending_snapshots(ModeledStore& store) {
  store.remove_snapshot("a", "s3");
  store.write("a", kChunk, 2 * kChunk);
  store.remove_snapshot("a", "s2");
  store.upkeep("a");
  store.write("a", 0, 2 * kChunk);
  store.commit("a");
  store.remove_snapshot("a", "s1");
}

void removes_the_newest_pending(ModeledStore& store) {
  store.remove_snapshot("a", "s4");
  store.write("a", 0, 3 * kChunk);
  store.upkeep("a");
  store.snapshot("a", "s4");
  store.commit("a");
}

void renames(ModeledStore& store) {
  store.rename_snapshot("a", "s1", "r1");
  store.rename_snapshot("a", "s2", "s1");
  store.rename_disk("a", "z");
  store.commit("z");
  store.rename_snapshot("z", "s1", "s2");
  store.rename_disk("b", "a");
}

void resizes(ModeledStore& store) {
  store.resize("a", kChunk + 5000);
  store.resize("a", 5 * kChunk);
  store.flush("a");
  store.upkeep("a");
  store.write("a", 2 * kChunk, kChunk);
  store.resize("a", 0);
  store.resize("a", 3 * kChunk);
  store.snapshot("a", "x1");
  store.upkeep("a");
}

void punches(ModeledStore& store) {
  store.zero("a", 100, 2 * kChunk);
  store.write("a", kChunk + 100, 100);
  store.flush("a");
  store.zero("a", 0, 6 * kChunk);
  store.upkeep("a");
  store.write("a", 0, kChunk);
  store.flush("a");
  store.upkeep("a");
}

void removes_the_image(ModeledStore& store) {
  store.remove_image("a");
  store.upkeep("a");
  store.create_image("a");
  store.resize("a", 2 * kChunk + 1);
  store.write("a", kChunk, 100);
  store.snapshot("a", "x1");
  store.commit("a");
  store.commit("a");
}

void removes_the_disk(ModeledStore& store) {
  store.remove_snapshot("a", "s1");
  store.remove_image("a");
  store.remove_snapshot("a", "s2");
  store.remove_disk("a");
  store.create_disk("a");
  store.collect();
}

void copies(ModeledStore& store) {
  store.copy("a", "s1", 0, "b", 0, 6 * kChunk);                 // refs
  store.flush("b");
  store.copy("a", "s2", kChunk, "b", 3 * kChunk, 2 * kChunk);   // of a pending one
  store.copy("a", "", 0, "b", kChunk, 2 * kChunk);              // of a live one
  store.copy("b", "t1", 10, "a", 5000, 3 * kChunk);             // bytes
  store.snapshot("b", "x1");
  store.commit("b");
}

void collects(ModeledStore& store) {
  store.remove_snapshot("b", "t1");
  store.collect();
  store.commit("a");
  store.remove_snapshot("a", "s1");
  store.collect();
  store.write("a", 0, 2 * kChunk);
  store.snapshot("a", "x1");
  store.commit("a");
  store.collect();
}

/// Most of a pack dies, then a long run of another.
void thins(ModeledStore& store) {
  store.create_disk("m");
  store.create_image("m");
  store.resize("m", 20 * kChunk);
  store.write("m", 0, 20 * kChunk);
  store.snapshot("m", "t1");
  store.commit("m");
  store.write("m", 2 * kChunk, 16 * kChunk);
  store.snapshot("m", "t2");
  store.commit("m");
  store.remove_snapshot("m", "t1");
  store.collect();
  store.write("m", 4 * kChunk, 6 * kChunk);
  store.snapshot("m", "t3");
  store.commit("m");
  store.remove_snapshot("m", "t2");
  store.collect();
}

/// The live disk's parent goes: to an older one, with a pending one in between, to none.
void falls_back(ModeledStore& store) {
  store.commit("a");
  store.write("a", 3 * kChunk, 100);
  store.remove_snapshot("a", "s2");
  store.upkeep("a");
  store.collect();
  store.snapshot("a", "x1");
  store.commit("a");
  store.snapshot("a", "x2");
  store.remove_snapshot("a", "x1");
  store.upkeep("a");
  store.remove_snapshot("a", "x2");
  store.remove_snapshot("a", "s1");
  store.upkeep("a");
  store.collect();
  store.snapshot("a", "x3");
  store.commit("a");
}

void remounts(ModeledStore& store) {
  store.write("a", 0, kChunk);
  store.remount();
  store.write("a", kChunk, kChunk);
  store.snapshot("b", "x1");
  store.remount();
  store.commit("a");
}

/// Enough records for a checkpoint, and for the removal of an older one.
void many_log_records(ModeledStore& store) {
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < 8; ++i) store.change_attributes("a");
    store.upkeep("a");
  }
}

/// Complete and pending ones go to the trash and come back; what the trash holds is not collected.
void trash(ModeledStore& store) {
  store.keep_trash(100);
  store.remove_snapshot("a", "s1");
  store.remove_snapshot("a", "s2");
  store.write("a", kChunk, 2 * kChunk);
  store.collect();
  store.commit("a");
  store.undelete("a", "s1");
  store.upkeep("a");
  store.undelete("a", "s2");
  store.remove_snapshot("b", "t1");
  store.remove_snapshot("a", "s1");
  store.empty_trash();
  store.remove_snapshot("a", "s2");
  store.keep_trash(0);
  store.pass_time(101);
  store.collect();
}

void trash_of_a_removed_disk(ModeledStore& store) {
  store.keep_trash(100);
  store.hold("a", "s1", "kept for the auditors");
  store.remove_snapshot("a", "s1");
  store.hold("a", "s1", std::nullopt);
  store.remove_snapshot("a", "s1");
  store.remove_image("a");
  store.remove_snapshot("a", "s2");
  store.remove_disk("a");
  store.collect();
  store.undelete("a", "s2");
  store.commit("a");
  store.remove_snapshot("a", "s2");
  store.remove_disk("a");
  store.pass_time(101);
  store.collect();
}

void deadlines(ModeledStore& store) {
  for (const char* name : {"s1", "s2", "s3", "s4"}) store.set_deadline("a", name, 10);
  store.hold("a", "s2", "");
  store.commit("a");
  store.remount();
  store.set_deadline("a", "s4", 30);
  store.rename_snapshot("a", "s3", "r3");
  store.pass_time(10);
  store.collect();
  store.upkeep("a");
  store.hold("a", "s2", std::nullopt);
  store.pass_time(0);
  store.keep_trash(100);
  store.remove_snapshot("a", "s4");
  store.pass_time(20);
  store.collect();
}

void prunes(ModeledStore& store) {
  store.hold("a", "s2", "the one that works");
  store.commit("a");
  store.prune("a", 1);
  store.collect();
  store.write("a", 0, kChunk);
  store.snapshot("a", "x1");
  store.snapshot("a", "x2");
  store.prune("a", 2);
  store.hold("a", "s2", std::nullopt);
  store.commit("a");
  store.prune("a", 1);
  store.collect();
}

void limits(ModeledStore& store) {
  store.limit_snapshots("a", 2);
  store.snapshot("a", "x1");
  store.limit_snapshots("a", 1);
  store.commit("a");
  store.remove_snapshot("a", "s1");
  store.snapshot("a", "x1");
  store.limit_snapshots("", 3);
  store.limit_snapshots("a", std::nullopt);
  store.snapshot("a", "x1");
  store.snapshot("b", "x1");
  store.limit_snapshots("", std::nullopt);
  store.remount();
  store.snapshot("b", "x1");
}

}  // namespace

const std::vector<Scene>& scenes() {
  static const std::vector<Scene> all{
      {"Birth", nothing, a_complete_snapshot},
      {"WritesAndSyncs", an_image, writes_and_syncs},
      {"Snapshots", an_image, snapshots},
      {"SnapshotsWhilePending", a_pending_snapshot, snapshots},
      {"Commits", a_pending_snapshot, commits},
      {"MovesHome", three_pending_snapshots, moves_home},
      {"Restores", two_disks, restores},
      {"Clones", two_disks, clones},
      {"RemovesCompleteSnapshots", two_disks, removes_complete_snapshots},
      {"RemovesPendingSnapshots", three_pending_snapshots, removes_pending_snapshots},
      {"RemovesTheNewestPending", three_pending_snapshots, removes_the_newest_pending},
      {"Renames", two_disks, renames},
      {"Resizes", a_pending_snapshot, resizes},
      {"Punches", a_pending_snapshot, punches},
      {"RemovesTheImage", a_pending_snapshot, removes_the_image},
      {"RemovesTheDisk", an_almost_empty_disk, removes_the_disk},
      {"Copies", two_disks, copies},
      {"Collects", two_disks, collects},
      {"Thins", nothing, thins},
      {"FallsBack", a_pending_snapshot, falls_back},
      {"Remounts", two_disks, remounts},
      {"ManyLogRecords", a_complete_snapshot, many_log_records},
      {"Trash", two_disks, trash, false},
      {"TrashOfARemovedDisk", an_almost_empty_disk, trash_of_a_removed_disk, false},
      {"Deadlines", three_pending_snapshots, deadlines, false},
      {"Prunes", three_pending_snapshots, prunes, false},
      {"Limits", two_disks, limits, false},
  };
  return all;
}

std::vector<Scene> chosen_scenes() {
  const char* wanted = std::getenv("VARVE_SCENE");
  std::vector<Scene> chosen;
  for (const Scene& scene : scenes()) {
    if (wanted == nullptr || std::string(wanted) == scene.name) chosen.push_back(scene);
  }
  return chosen;
}

}  // namespace varve::test
