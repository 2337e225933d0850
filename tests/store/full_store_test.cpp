// A store that is 100 % full: whatever gives space back works, from the reserve where that needs space itself; all the rest
// fails with ENOSPC and is as before; and when there is space again all goes on (promise 7, rule 11 of DESIGN.md).
#include <gtest/gtest.h>

#include <cerrno>

#include "scenes.h"

namespace varve::store {
namespace {

using test::Machine;
using test::ModeledStore;
using test::Scene;
using test::kStoreChunk;

void expect_no_problems(const ModeledStore& store) {
  for (const std::string& problem : store.problems()) ADD_FAILURE() << problem;
}

/// Snapshots, the image, the disk itself; after each of them the rest is looked at.
void delete_disk(ModeledStore& store, const std::string& disk) {
  const auto snapshots = store.state().at(disk).snapshots;
  for (const auto& [name, image] : snapshots) {
    store.remove_snapshot(disk, name);
    store.verify();
  }
  store.remove_image(disk);
  store.remove_disk(disk);
  store.verify();
  EXPECT_FALSE(store.state().contains(disk));
}

enum class Before { nothing, kill, power_loss };

void fill_and_delete(const Scene& scene, Before how) {
  ModeledStore store;
  scene.before(store);
  scene.play(store);
  std::unique_ptr<ModeledStore> opened;
  ModeledStore* full = &store;
  if (how == Before::nothing) {
    store.machine().storage.fill_up();
  } else {
    opened = std::make_unique<ModeledStore>(store.leave(), store.knowledge());
    full = opened.get();
    full->end(how == Before::power_loss, 7);
    full->machine().storage.fill_up();
    full->open();
  }
  full->set_label(std::string(scene.name) + ", full: ");
  const auto disks = full->state();
  for (const auto& [disk, model] : disks) delete_disk(*full, disk);
  full->collect();
  full->machine().storage.set_capacity(ByteCount{kTiB});
  full->create_disk("new");
  full->create_image("new");
  full->work();
  expect_no_problems(*full);
}

TEST(FullStore, EverythingOnItCanBeDeletedAndTheRestIsExact) {
  for (const Scene& scene : test::scenes()) {
    for (const Before how : {Before::nothing, Before::kill, Before::power_loss}) {
      SCOPED_TRACE(scene.name);
      fill_and_delete(scene, how);
      if (::testing::Test::HasFailure()) return;
    }
  }
}

TEST(FullStore, NoRoomForADetourFailsThatWriteAndAllGoesOnWhenThereIsSome) {
  ModeledStore store;
  store.create_disk("a");
  store.create_image("a");
  store.resize("a", 6 * kStoreChunk);
  store.write("a", 0, 4 * kStoreChunk);
  store.snapshot("a", "s1");
  const std::uint64_t failures = store.failures();
  store.machine().storage.fill_up();
  store.expect_no_space(true);
  store.write("a", 100, kStoreChunk);
  EXPECT_EQ(store.failures(), failures + 1) << "the store is not full";
  store.commit("a");
  EXPECT_EQ(store.failures(), failures + 2);
  store.flush("a");
  EXPECT_EQ(store.failures(), failures + 2) << "what is there is durable as before";
  store.verify();
  store.machine().storage.set_capacity(ByteCount{kTiB});
  store.expect_no_space(false);
  store.write("a", 100, kStoreChunk);
  store.work();
  expect_no_problems(store);
}

/// The reserve has an end: this is also the control that shows the store was full.
TEST(FullStore, TheReserveIsFilledAgainWhenThereIsSpace) {
  constexpr int kSnapshots = 400;
  ModeledStore store;
  store.create_disk("a");
  store.create_image("a");
  store.resize("a", kStoreChunk);
  for (int i = 0; i < kSnapshots; ++i) {
    store.snapshot("a", "s" + std::to_string(1000 + i));
    store.commit("a");
  }
  store.machine().storage.fill_up();
  store.expect_no_space(true);
  int deleted = 0;
  while (deleted < kSnapshots && store.failures() == 0) {
    store.remove_snapshot("a", "s" + std::to_string(1000 + deleted));
    if (store.failures() == 0) ++deleted;
  }
  EXPECT_GE(deleted, 100);
  EXPECT_LT(deleted, kSnapshots) << "the store is not full";
  store.machine().storage.set_capacity(ByteCount{kTiB});
  store.upkeep("a");
  store.machine().storage.fill_up();
  const std::uint64_t failures = store.failures();
  for (int i = 0; i < 50; ++i) store.remove_snapshot("a", "s" + std::to_string(1000 + deleted + i));
  EXPECT_EQ(store.failures(), failures);
  store.verify();
  expect_no_problems(store);
}

}  // namespace
}  // namespace varve::store
