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

/// A small object, and one that is written past the page cache, in pieces.
class ObjectOfEachSize : public ::testing::TestWithParam<std::string> {
 protected:
  static constexpr std::string_view kName = "packs/ab/1.pack";
  const std::string& text_ = GetParam();

  [[nodiscard]] Result<PutOutcome> put(objects::ObjectStore& objects) const {
    return objects.put_if_absent(kName, bytes_of(text_));
  }
  /// Calls that change something, in a put that succeeds.
  [[nodiscard]] std::uint64_t calls_of_a_put() const {
    MemoryStorage storage;
    EXPECT_OK(put(*objects::make_directory_objects(storage)));
    return storage.change_count();
  }
};

TEST_P(ObjectOfEachSize, IsWholeOrNotThereAtEveryCrash) {
  const std::uint64_t seed = seed_for("WholeOrNotThere");
  const std::uint64_t calls = calls_of_a_put();
  std::set<bool> outcomes;
  for (std::uint64_t i = 0; i < 40 * (calls + 1); ++i) {
    MemoryStorage storage;
    auto objects = objects::make_directory_objects(storage);
    storage.cut_off_at(1 + i % (calls + 1));
    const bool created = put(*objects).has_value();
    storage.lose_power(seed + i);
    const std::string found = content_of(storage, kName);
    EXPECT_TRUE(found == text_ || (!created && found == "absent")) << "seed " << seed + i;
    outcomes.insert(found == text_);

    EXPECT_OK(objects::remove_temporaries(storage));
    const auto left = storage.list("packs");
    for (const auto& entry : left.value_or(std::vector<os::DirectoryEntry>{})) EXPECT_EQ(entry.name, "ab");
  }
  EXPECT_EQ(outcomes.size(), 2U);
}

TEST_P(ObjectOfEachSize, LeavesNothingWhenItCannotBePutAndTheStoreWorksOn) {
  const std::uint64_t calls = calls_of_a_put();
  for (std::uint64_t k = 1; k <= calls; ++k) {
    for (const int code : {ENOSPC, EIO, EOPNOTSUPP}) {
      MemoryStorage storage;
      auto objects = objects::make_directory_objects(storage);
      storage.fail_at(k, code);
      const auto outcome = put(*objects);
      if (!outcome) {
        EXPECT_EQ(outcome.error().code, code);
      }
      const std::string found = content_of(storage, kName);
      EXPECT_TRUE(found == text_ || (!outcome && found == "absent")) << "call " << k << ", error " << code;
      storage.clear_faults();
      ASSERT_OK(put(*objects));
      EXPECT_EQ(content_of(storage, kName) == text_, true) << "call " << k << ", error " << code;
      EXPECT_EQ(storage.list("packs/ab")->size(), 1U) << "call " << k << ", error " << code;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(DirectoryObjects, ObjectOfEachSize, ::testing::Values(kText, kLargeText),
                         [](const auto& text) { return text.param == kText ? "Small" : "Large"; });

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
