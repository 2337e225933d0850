// A log in a directory that loses power: each append is there whole or not at all, and stays once it was acknowledged.
#include "log_fixture.h"
#include "support/memory_storage.h"
#include "support/seed.h"

namespace varve::catalog::test {
namespace {

using varve::test::MemoryStorage;

/// What a log goes through before the power goes.
constexpr std::uint64_t kSnapshotsBefore = 6;

class PowerLossTest : public ::testing::Test {
 protected:
  static void write_first_records(MemoryStorage& storage) {
    auto objects = objects::make_directory_objects(storage);
    auto log = DiskLog::create(*objects, kDisk, "web01", some_attributes());
    ASSERT_TRUE(log) << log.error().message;
    for (std::uint64_t id = 1; id <= kSnapshotsBefore; ++id) {
      ASSERT_TRUE((*log)->append_snapshot(snapshot(id, fmt::format("s{}", id))));
    }
  }

  struct Acknowledged {
    bool appended = false;
    bool deleted = false;
    bool cut_short = true;  ///< the deletion was not tried unless the snapshot was logged
  };

  /// A snapshot, a checkpoint that is due with it, a deletion: what is cut short.
  static Acknowledged go_on(MemoryStorage& storage) {
    auto objects = objects::make_directory_objects(storage);
    auto log = DiskLog::open(*objects, kDisk);
    if (!log) return {};
    Acknowledged done;
    done.appended = (*log)->append_snapshot(snapshot(kSnapshotsBefore + 1, "last")).has_value();
    static_cast<void>((*log)->checkpoint_if_due());
    done.deleted = (*log)->append_deleted(SnapshotId{1}).has_value();
    return done;
  }

  static void expect_what_was_acknowledged(MemoryStorage& storage, const Acknowledged& done, const std::string& when) {
    auto objects = objects::make_directory_objects(storage);
    auto log = DiskLog::open(*objects, kDisk);
    ASSERT_TRUE(log) << when << ": " << log.error().message;
    const auto state = (*log)->state();
    const bool has_last = state->snapshots.contains(SnapshotId{kSnapshotsBefore + 1});
    const bool has_first = state->snapshots.contains(SnapshotId{1});
    if (done.appended) {
      EXPECT_TRUE(has_last) << when;
    }
    if (done.deleted) {
      EXPECT_FALSE(has_first) << when;
    }
    if (done.cut_short && !has_first) {
      EXPECT_TRUE(has_last) << when << ": N+1 without N";
    }
    EXPECT_EQ(state->snapshots.size(), kSnapshotsBefore + (has_last ? 1 : 0) - (has_first ? 0 : 1)) << when;
    std::vector<std::string> problems;
    EXPECT_TRUE(verify_log(*objects, kDisk, problems));
    for (const auto& problem : problems) {
      EXPECT_EQ(problem, "") << when;
    }
    // And it goes on from there.
    EXPECT_TRUE((*log)->append_disk_renamed("web02")) << when;
  }
};

TEST_F(PowerLossTest, AtAnyCallLeavesEachRecordWholeOrAbsent) {
  const std::uint64_t seed = varve::test::seed_for("power loss of a disk log");
  for (std::uint64_t call = 1;; ++call) {
    bool was_cut = false;
    for (std::uint64_t round = 0; round < 6; ++round) {
      MemoryStorage storage;
      ASSERT_NO_FATAL_FAILURE(write_first_records(storage));
      storage.cut_off_at(call);
      const Acknowledged done = go_on(storage);
      was_cut = !done.deleted;
      storage.lose_power(seed + 1000 * call + round);
      ASSERT_NO_FATAL_FAILURE(expect_what_was_acknowledged(storage, done, fmt::format("cut at change {}", call)));
    }
    if (!was_cut) break;
  }
}

TEST_F(PowerLossTest, KilledAtAnyCallTheLogOpens) {
  for (std::uint64_t call = 1;; ++call) {
    MemoryStorage storage;
    ASSERT_NO_FATAL_FAILURE(write_first_records(storage));
    storage.cut_off_at(call);
    const Acknowledged done = go_on(storage);
    storage.kill();
    ASSERT_NO_FATAL_FAILURE(expect_what_was_acknowledged(storage, done, fmt::format("killed at change {}", call)));
    if (done.deleted) break;
  }
}

TEST_F(PowerLossTest, AFailingCallFailsTheAppendAndTheNextOneWorks) {
  for (const int code : {ENOSPC, EIO}) {
    for (std::uint64_t call = 1;; ++call) {
      MemoryStorage storage;
      ASSERT_NO_FATAL_FAILURE(write_first_records(storage));
      auto objects = objects::make_directory_objects(storage);
      auto log = DiskLog::open(*objects, kDisk);
      ASSERT_TRUE(log);
      const std::uint64_t before = storage.change_count();
      storage.fail_at(call, code);
      const bool appended = (*log)->append_snapshot(snapshot(kSnapshotsBefore + 1, "last")).has_value();
      const std::uint64_t used = storage.change_count() - before;
      storage.clear_faults();
      const bool deleted = (*log)->append_deleted(SnapshotId{1}).has_value();
      EXPECT_TRUE(deleted) << "after change " << call << " failed";
      storage.lose_power(call);
      expect_what_was_acknowledged(storage, {appended, deleted, false}, fmt::format("change {} failed", call));
      if (used < call) break;
    }
  }
}

TEST_F(PowerLossTest, WhatAKilledDaemonLeftIsDurableOnceConfirmed) {
  for (std::uint64_t call = 1;; ++call) {
    MemoryStorage storage;
    ASSERT_NO_FATAL_FAILURE(write_first_records(storage));
    storage.cut_off_at(call);
    const Acknowledged done = go_on(storage);
    storage.kill();
    std::shared_ptr<const DiskState> seen;
    {
      auto objects = objects::make_directory_objects(storage);
      auto log = DiskLog::open(*objects, kDisk);
      ASSERT_TRUE(log);
      EXPECT_OK((*log)->confirm());
      seen = (*log)->state();
    }
    storage.lose_power(call);
    auto objects = objects::make_directory_objects(storage);
    auto log = DiskLog::open(*objects, kDisk);
    ASSERT_TRUE(log) << log.error().message;
    EXPECT_TRUE(same(*(*log)->state(), *seen)) << "cut at change " << call;
    if (done.deleted) break;
  }
}

TEST_F(PowerLossTest, ACreationCutShortLeavesALogOrNone) {
  const std::uint64_t seed = varve::test::seed_for("power loss while a disk is created");
  for (std::uint64_t call = 1;; ++call) {
    MemoryStorage storage;
    storage.cut_off_at(call);
    bool created = false;
    {
      auto objects = objects::make_directory_objects(storage);
      created = DiskLog::create(*objects, kDisk, "web01", some_attributes()).has_value();
    }
    storage.lose_power(seed + call);
    auto objects = objects::make_directory_objects(storage);
    const auto ids = DiskLog::list(*objects);
    ASSERT_TRUE(ids) << ids.error().message;
    EXPECT_LE(ids->size(), 1u);
    const auto log = DiskLog::open(*objects, kDisk);
    EXPECT_TRUE(log || (!created && log.error().kind == ErrorKind::absent)) << "cut at change " << call;
    EXPECT_TRUE(!log || !ids->empty()) << "cut at change " << call;
    if (!log) {
      EXPECT_TRUE(DiskLog::create(*objects, kDisk, "web01", some_attributes()));
    }
    if (created) break;
  }
}

}  // namespace
}  // namespace varve::catalog::test
