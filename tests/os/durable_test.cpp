// The helpers keep their promises at every point where the process or the machine can die.
#include <set>

#include "support/expect.h"
#include "support/memory_storage.h"
#include "support/seed.h"
#include "support/text.h"
#include "varve/os/storage.h"

namespace varve::test {
namespace {

TEST(ValidPath, IsWhatEveryStorageTakes) {
  for (const char* good : {"a", "a/b", "a.b", "..a", ".a", "a/b/c.d"}) EXPECT_TRUE(os::valid_path(good)) << good;
  for (const char* bad : {"", "/", "a/", "/a", "a//b", ".", "..", "a/.", "a/../b"}) {
    EXPECT_FALSE(os::valid_path(bad)) << bad;
  }
}

TEST(ValidPath, SplitsIntoParentAndLeaf) {
  EXPECT_EQ(os::parent_of("a/b/c"), "a/b");
  EXPECT_EQ(os::leaf_of("a/b/c"), "c");
  EXPECT_EQ(os::parent_of("a"), "");
  EXPECT_EQ(os::leaf_of("a"), "a");
}

TEST(TemporaryName, IsNeverTheSame) {
  std::set<std::string> names;
  for (int i = 0; i < 100; ++i) names.insert(os::temporary_name());
  EXPECT_EQ(names.size(), 100U);
  EXPECT_TRUE(names.begin()->starts_with(os::kTemporaryPrefix));
}

TEST(MakeDirectoriesDurably, SurvivesAnyPowerLoss) {
  const std::uint64_t seed = seed_for("MakeDirectoriesDurably");
  for (std::uint64_t i = 0; i < 50; ++i) {
    MemoryStorage storage;
    ASSERT_OK(os::make_directories_durably(storage, "a/b/c"));
    storage.lose_power(seed + i);
    EXPECT_OK(storage.status("a/b/c")) << "seed " << seed + i;
  }
}

TEST(MakeDirectoriesDurably, MakesDurableWhatAKilledProcessOnlyMade) {
  const std::uint64_t seed = seed_for("MakeDirectoriesDurablyAfterKill");
  for (std::uint64_t i = 0; i < 50; ++i) {
    MemoryStorage storage;
    ASSERT_OK(storage.make_directory("a"));
    ASSERT_OK(storage.make_directory("a/b"));
    storage.kill();
    ASSERT_OK(os::make_directories_durably(storage, "a/b"));
    storage.lose_power(seed + i);
    EXPECT_OK(storage.status("a/b")) << "seed " << seed + i;
  }
}

TEST(ReplaceFileDurably, LeavesTheOldOrTheNewAtEveryCrash) {
  const std::uint64_t seed = seed_for("ReplaceFileDurably");
  const std::string old_text(5000, 'o');
  const std::string new_text(9000, 'n');
  std::set<std::string> outcomes;
  for (std::uint64_t i = 0; i < 400; ++i) {
    MemoryStorage storage;
    ASSERT_OK(os::make_directories_durably(storage, "d"));
    ASSERT_OK(os::replace_file_durably(storage, "d/f", bytes_of(old_text)));
    storage.cut_off_at(1 + i % 8);
    const bool done = os::replace_file_durably(storage, "d/f", bytes_of(new_text)).has_value();
    storage.lose_power(seed + i);
    const std::string found = content_of(storage, "d/f");
    EXPECT_TRUE(found == new_text || (!done && found == old_text)) << "seed " << seed + i << ": " << found.size();
    outcomes.insert(found);
  }
  EXPECT_EQ(outcomes.size(), 2U) << "the crashes did not reach both sides";
}

TEST(ReplaceFileDurably, UndoesItselfWhenTheDiskIsFull) {
  MemoryStorage storage;
  ASSERT_OK(os::replace_file_durably(storage, "f", bytes_of("old")));
  storage.set_capacity(ByteCount{8192});
  EXPECT_FAILS(os::replace_file_durably(storage, "f", bytes_of(std::string(100000, 'n'))), ENOSPC);
  EXPECT_EQ(content_of(storage, "f"), "old");
  EXPECT_EQ(storage.list("")->size(), 1U);
}

TEST(ReadFile, RefusesWhatIsTooLongBeforeTakingMemoryForIt) {
  MemoryStorage storage;
  auto file = storage.open("f", {.write = true, .create = true}).value();
  ASSERT_OK(file->resize(ByteCount{8 * kTiB}));
  EXPECT_FAILS(os::read_file(storage, "f", ByteCount{kMiB}), EFBIG);
  EXPECT_FAILS(os::read_file(storage, "absent", ByteCount{kMiB}), ENOENT);
}

}  // namespace
}  // namespace varve::test
