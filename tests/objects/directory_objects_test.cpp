// Durability and failures of the directory object store, on the double.
#include <set>
#include <string>

#include "support/expect.h"
#include "support/memory_storage.h"
#include "support/seed.h"
#include "support/text.h"
#include "varve/objects/object_store.h"

namespace varve::test {
namespace {

using objects::PutOutcome;

const std::string kText(7000, 'p');
/// Written past the page cache, in pieces.
const std::string kLargeText(3 * kMiB / 2 + 5, 'p');

TEST(DirectoryObjects, CreatedMeansDurableWithTheNameAndItsFolders) {
  const std::uint64_t seed = seed_for("CreatedMeansDurable");
  for (std::uint64_t i = 0; i < 100; ++i) {
    MemoryStorage storage;
    auto objects = objects::make_directory_objects(storage);
    ASSERT_EQ(objects->put_if_absent("packs/ab/1.pack", bytes_of(kText)).value(), PutOutcome::created);
    storage.lose_power(seed + i);
    ASSERT_EQ(content_of(storage, "packs/ab/1.pack") == kText, true) << "seed " << seed + i;
  }
}

TEST(DirectoryObjects, AtEveryCrashAnObjectIsWholeOrNotThere) {
  const std::uint64_t seed = seed_for("WholeOrNotThere");
  std::set<std::string> outcomes;
  for (std::uint64_t i = 0; i < 600; ++i) {
    MemoryStorage storage;
    auto objects = objects::make_directory_objects(storage);
    storage.cut_off_at(1 + i % 12);
    const bool created = objects->put_if_absent("packs/ab/1.pack", bytes_of(kText)).has_value();
    storage.lose_power(seed + i);
    const std::string found = content_of(storage, "packs/ab/1.pack");
    EXPECT_TRUE(found == kText || (!created && found == "absent")) << "seed " << seed + i;
    outcomes.insert(found);

    EXPECT_OK(objects::remove_temporaries(storage));
    const auto left = storage.list("packs");
    for (const auto& entry : left.value_or(std::vector<os::DirectoryEntry>{})) EXPECT_EQ(entry.name, "ab");
  }
  EXPECT_EQ(outcomes.size(), 2U);
}

TEST(DirectoryObjects, AtEveryCrashALargeObjectIsWholeOrNotThere) {
  const std::uint64_t seed = seed_for("LargeWholeOrNotThere");
  std::set<bool> outcomes;
  for (std::uint64_t i = 0; i < 160; ++i) {
    MemoryStorage storage;
    auto objects = objects::make_directory_objects(storage);
    storage.cut_off_at(1 + i % 16);
    const bool created = objects->put_if_absent("packs/ab/1.pack", bytes_of(kLargeText)).has_value();
    storage.lose_power(seed + i);
    const auto found = os::read_file(storage, "packs/ab/1.pack", ByteCount{4 * kMiB});
    EXPECT_TRUE(found ? text_of(*found) == kLargeText : !created) << "seed " << seed + i;
    outcomes.insert(created);
  }
  EXPECT_EQ(outcomes.size(), 2U);
}

TEST(DirectoryObjects, AFailedPutOfALargeObjectLeavesNothing) {
  for (std::uint64_t k = 1; k <= 16; ++k) {
    for (const int code : {ENOSPC, EIO, EOPNOTSUPP}) {
      MemoryStorage storage;
      auto objects = objects::make_directory_objects(storage);
      storage.fail_at(k, code);
      const auto outcome = objects->put_if_absent("packs/ab/1", bytes_of(kLargeText));
      const auto found = os::read_file(storage, "packs/ab/1", ByteCount{4 * kMiB});
      EXPECT_TRUE(found ? text_of(*found) == kLargeText : !outcome) << "call " << k << ", error " << code;
      storage.clear_faults();
      ASSERT_OK(objects->put_if_absent("packs/ab/1", bytes_of(kLargeText)));
      EXPECT_EQ(storage.list("packs/ab")->size(), 1U) << "call " << k;
    }
  }
}

TEST(DirectoryObjects, ExistsIsSaidOfDurableObjectsOnly) {
  const std::uint64_t seed = seed_for("ExistsIsDurable");
  bool met = false;
  for (std::uint64_t i = 0; i < 300; ++i) {
    MemoryStorage storage;
    {
      auto objects = objects::make_directory_objects(storage);
      storage.cut_off_at(1 + i % 12);
      static_cast<void>(objects->put_if_absent("d/log/1", bytes_of(kText)));
    }
    storage.kill();
    auto objects = objects::make_directory_objects(storage);
    const auto outcome = objects->put_if_absent("d/log/1", bytes_of(kText));
    ASSERT_OK(outcome);
    met = met || *outcome == PutOutcome::exists;
    storage.lose_power(seed + i);
    ASSERT_EQ(content_of(storage, "d/log/1") == kText, true) << "seed " << seed + i;
  }
  EXPECT_TRUE(met);
}

TEST(DirectoryObjects, RemovedMeansDurablyRemovedAlsoAfterAKillInBetween) {
  const std::uint64_t seed = seed_for("RemovedMeansDurable");
  for (std::uint64_t i = 0; i < 100; ++i) {
    MemoryStorage storage;
    {
      auto objects = objects::make_directory_objects(storage);
      ASSERT_OK(objects->put_if_absent("d/o", bytes_of(kText)));
      storage.cut_off_at(1 + i % 3);
      static_cast<void>(objects->remove("d/o"));
    }
    storage.kill();
    auto objects = objects::make_directory_objects(storage);
    ASSERT_OK(objects->remove("d/o"));
    storage.lose_power(seed + i);
    EXPECT_EQ(content_of(storage, "d/o"), "absent") << "seed " << seed + i;
  }
}

TEST(DirectoryObjects, AFailedPutLeavesNothingAndTheStoreWorksOn) {
  for (std::uint64_t k = 1; k <= 12; ++k) {
    for (const int code : {ENOSPC, EIO}) {
      MemoryStorage storage;
      auto objects = objects::make_directory_objects(storage);
      storage.fail_at(k, code);
      const auto outcome = objects->put_if_absent("packs/ab/1", bytes_of(kText));
      if (!outcome) {
        EXPECT_EQ(outcome.error().code, code);
      }
      const std::string found = content_of(storage, "packs/ab/1");
      EXPECT_TRUE(found == "absent" || found == kText) << "call " << k;
      storage.clear_faults();
      ASSERT_OK(objects->put_if_absent("packs/ab/1", bytes_of(kText)));
      EXPECT_EQ(content_of(storage, "packs/ab/1"), kText);
    }
  }
}

TEST(DirectoryObjects, AFullDiskTakesNoTemporaryAndStillDeletes) {
  MemoryStorage storage({.capacity = 32 * kKiB});
  auto objects = objects::make_directory_objects(storage);
  ASSERT_OK(objects->put_if_absent("packs/a", bytes_of(std::string(20 * kKiB, 'a'))));
  EXPECT_FAILS(objects->put_if_absent("packs/b", bytes_of(std::string(20 * kKiB, 'b'))), ENOSPC);
  EXPECT_EQ(storage.list("packs")->size(), 1U);
  ASSERT_OK(objects->remove("packs/a"));
  EXPECT_OK(objects->put_if_absent("packs/b", bytes_of(std::string(20 * kKiB, 'b'))));
}

TEST(DirectoryObjects, RemoveTemporariesTouchesNothingElse) {
  MemoryStorage storage;
  auto objects = objects::make_directory_objects(storage);
  ASSERT_OK(objects->put_if_absent("store.json", bytes_of("x")));
  ASSERT_OK(objects->put_if_absent("packs/ab/1", bytes_of("x")));
  for (const char* left : {".tmp-1", "packs/.tmp-2"}) ASSERT_OK(storage.open(left, {.write = true, .create = true}));
  ASSERT_OK(objects::remove_temporaries(storage));
  EXPECT_EQ(content_of(storage, ".tmp-1"), "absent");
  EXPECT_EQ(content_of(storage, "packs/.tmp-2"), "absent");
  EXPECT_EQ(content_of(storage, "store.json"), "x");
  EXPECT_EQ(content_of(storage, "packs/ab/1"), "x");
}

}  // namespace
}  // namespace varve::test
