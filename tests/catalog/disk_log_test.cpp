// What a log keeps, what it refuses, and what bounds the reading of it.
#include <algorithm>
#include <random>

#include "log_fixture.h"
#include "support/seed.h"

namespace varve::catalog::test {
namespace {

using DiskLogTest = LogTest;

TEST_F(DiskLogTest, EveryFieldSurvivesReopening) {
  auto log = create();
  SnapshotEntry entry = snapshot(5, "größer");
  std::string every_byte;
  for (int i = 0; i < 256; ++i) every_byte += static_cast<char>(i);
  entry.image.xattrs["user.any"] = every_byte;
  entry.directory.xattrs["user.\xFF %\n\"\\"] = "";
  entry.directory.owner = UINT32_MAX;
  entry.changed_bytes = UINT64_MAX;
  entry.stored_bytes = (std::uint64_t{1} << 53) + 1;
  entry.time = Time{-5};
  entry.image_modified = Time{INT64_MAX};
  EXPECT_OK(log->append_snapshot(entry));
  SnapshotEntry zeros = snapshot(kIdLimit - 1, "zeros");
  zeros.root.reset();
  zeros.time = Time{INT64_MIN};
  EXPECT_OK(log->append_snapshot(zeros));
  EXPECT_OK(log->append_disk_attributes(Attributes{1, 2, 07777, {}}, Attributes{3, 4, 0644, {{"user.a", "b"}}}));

  EXPECT_TRUE(same(*log->state()->snapshots.at(SnapshotId{5}), entry));
  const auto reopened = open();
  ASSERT_NE(reopened, nullptr);
  EXPECT_TRUE(same(*reopened->state(), *log->state()));
  EXPECT_TRUE(same(*reopened->state()->snapshots.at(zeros.id), zeros));
  EXPECT_EQ(reopened->state()->live_image.xattrs.at("user.a"), "b");
  EXPECT_TRUE(verify().empty());
}

TEST_F(DiskLogTest, DamagedRootsSurvive) {
  auto log = create();
  SnapshotEntry entry = snapshot(1, "a");
  entry.root = chunks::Ref::make_damaged();
  EXPECT_OK(log->append_snapshot(entry));
  EXPECT_TRUE(same(*open()->state(), *log->state()));
}

TEST_F(DiskLogTest, WhatHappenedAddsUp) {
  auto log = create();
  EXPECT_EQ(log->state()->name, "web01");
  EXPECT_EQ(log->state()->directory, some_attributes());
  EXPECT_OK(log->append_snapshot(snapshot(1, "a")));
  EXPECT_OK(log->append_snapshot(snapshot(4, "b")));
  EXPECT_OK(log->append_snapshot_renamed(SnapshotId{1}, "c"));
  EXPECT_OK(log->append_snapshot(snapshot(6, "a")));
  EXPECT_OK(log->append_snapshot_attributes(SnapshotId{6}, some_attributes(1), some_attributes(2)));
  EXPECT_OK(log->append_deleted(SnapshotId{4}));
  EXPECT_OK(log->append_disk_renamed("web02"));
  for (const auto& state : {log->state(), open()->state()}) {
    EXPECT_EQ(state->name, "web02");
    ASSERT_EQ(state->snapshots.size(), 2u);
    EXPECT_EQ(state->snapshots.at(SnapshotId{1})->name, "c");
    EXPECT_EQ(state->snapshots.at(SnapshotId{6})->image.owner, 2u);
    EXPECT_EQ(state->high_water, SnapshotId{6});
  }
}

TEST_F(DiskLogTest, WhatContradictsTheStateIsRefusedAndLeavesItAlone) {
  auto log = create();
  EXPECT_OK(log->append_snapshot(snapshot(3, "a")));
  const auto before = log->state();
  EXPECT_REFUSED(log->append_snapshot(snapshot(3, "b")), EINVAL);
  EXPECT_REFUSED(log->append_snapshot(snapshot(2, "b")), EINVAL);
  EXPECT_REFUSED(log->append_snapshot(snapshot(kIdLimit, "b")), EINVAL);
  EXPECT_REFUSED(log->append_snapshot(snapshot(4, "a")), EEXIST);
  EXPECT_REFUSED(log->append_snapshot(snapshot(4, "a/b")), EINVAL);
  EXPECT_REFUSED(log->append_snapshot(snapshot(4, "\xFF")), EINVAL);
  EXPECT_REFUSED(log->append_snapshot(snapshot(4, std::string(241, 'x'))), ENAMETOOLONG);
  SnapshotEntry child = snapshot(4, "b");
  child.parent = SnapshotId{4};
  EXPECT_REFUSED(log->append_snapshot(child), EINVAL);
  EXPECT_REFUSED(log->append_deleted(SnapshotId{1}), ENOENT);
  EXPECT_REFUSED(log->append_snapshot_renamed(SnapshotId{9}, "b"), ENOENT);
  EXPECT_REFUSED(log->append_snapshot_renamed(SnapshotId{3}, ".b"), EINVAL);
  EXPECT_REFUSED(log->append_snapshot_attributes(SnapshotId{9}, {}, {}), ENOENT);
  EXPECT_REFUSED(log->append_disk_renamed("disk.img"), EINVAL);
  EXPECT_REFUSED(log->append_disk_attributes(Attributes{0, 0, 0100644, {}}, {}), EINVAL);
  EXPECT_REFUSED(log->append_disk_attributes({}, Attributes{0, 0, 0, {{"trusted.a", ""}}}), EINVAL);
  EXPECT_REFUSED(log->append_disk_attributes({}, Attributes{0, 0, 0, {{"user.a", std::string(65537, 'x')}}}), E2BIG);
  EXPECT_REFUSED(log->append_removed(), ENOTEMPTY);
  EXPECT_EQ(log->state(), before);
  EXPECT_EQ(objects.contents().size(), 2u);
}

TEST_F(DiskLogTest, ARecordThatIsTooLargeIsRefused) {
  auto log = create();
  Attributes large = some_attributes();
  for (int i = 0; i < 200; ++i) large.xattrs[fmt::format("user.{}", i)] = std::string(65536, 'x');
  EXPECT_REFUSED(log->append_disk_attributes(large, {}), E2BIG);
  EXPECT_OK(log->append_disk_renamed("goes on"));
}

TEST_F(DiskLogTest, ARemovedDiskKeepsItsLogAndItsId) {
  auto log = create();
  EXPECT_OK(log->append_removed());
  EXPECT_REFUSED(log->append_disk_renamed("again"), ESTALE);
  EXPECT_TRUE(open()->state()->removed);
  EXPECT_REFUSED(DiskLog::create(objects, kDisk, "other", {}), EEXIST);
  EXPECT_EQ(*DiskLog::list(objects), std::vector<DiskId>{kDisk});
  EXPECT_TRUE(verify().empty());
}

TEST_F(DiskLogTest, ListsEveryDiskThatWasEverLogged) {
  EXPECT_TRUE(DiskLog::list(objects)->empty());
  for (const std::uint64_t id : {3u, 123456789u, 12u}) {
    ASSERT_TRUE(DiskLog::create(objects, DiskId{id}, "d", {}));
  }
  objects.set("disks/00000099/log/readme.txt", "");         // nothing was logged there, which open() says
  objects.set("disks/00000050/log/0000000002.json", "{}");  // damaged: must not vanish from sight
  objects.set("disks/lost+found/log/0000000001.json", "{}");
  EXPECT_EQ(*DiskLog::list(objects), (std::vector<DiskId>{DiskId{3}, DiskId{12}, DiskId{50}, DiskId{99}, DiskId{123456789}}));
  const auto nothing = DiskLog::open(objects, DiskId{99});
  ASSERT_FALSE(nothing);
  EXPECT_EQ(nothing.error().kind, ErrorKind::absent);
  const auto damaged = DiskLog::open(objects, DiskId{50});
  ASSERT_FALSE(damaged);
  EXPECT_EQ(damaged.error().kind, ErrorKind::damaged);
}

TEST_F(DiskLogTest, NoLogIsAbsentNotDamaged) {
  const auto log = DiskLog::open(objects, kDisk);
  ASSERT_FALSE(log);
  EXPECT_EQ(log.error().code, ENOENT);
  EXPECT_EQ(log.error().kind, ErrorKind::absent);
}

TEST_F(DiskLogTest, AStateOnceGivenOutNeverChanges) {
  auto log = create();
  EXPECT_OK(log->append_snapshot(snapshot(1, "a")));
  const auto before = log->state();
  EXPECT_EQ(before, log->state());
  EXPECT_OK(log->append_snapshot_renamed(SnapshotId{1}, "b"));
  EXPECT_EQ(before->snapshots.at(SnapshotId{1})->name, "a");
  EXPECT_EQ(log->state()->snapshots.at(SnapshotId{1})->name, "b");
}

// ---- checkpoints ----------------------------------------------------------------------------------------------------

TEST_F(DiskLogTest, IdsAreNotUsedAgainAfterDeletionAndCheckpoints) {
  auto log = create();
  for (std::uint64_t id = 1; id <= 30; ++id) {
    EXPECT_OK(log->append_snapshot(snapshot(id, "a")));
    EXPECT_OK(log->append_deleted(SnapshotId{id}));
    EXPECT_OK(log->checkpoint_if_due());
  }
  log = open();
  EXPECT_TRUE(log->state()->snapshots.empty());
  EXPECT_EQ(log->state()->high_water, SnapshotId{30});
  EXPECT_REFUSED(log->append_snapshot(snapshot(30, "b")), EINVAL);
  EXPECT_OK(log->append_snapshot(snapshot(31, "b")));
}

TEST_F(DiskLogTest, TheTwoNewestCheckpointsAreKept) {
  auto log = create();
  for (int i = 0; i < 40; ++i) {
    EXPECT_OK(log->append_disk_renamed(fmt::format("n{}", i)));
    EXPECT_OK(log->checkpoint_if_due());
  }
  const auto there = *objects.list("disks/00000007/checkpoint");
  EXPECT_EQ(there, (std::vector<std::string>{"0000000040.json", "0000000032.json"}));
  EXPECT_TRUE(verify().empty());
}

TEST_F(DiskLogTest, ADamagedCheckpointFallsBackAndIsReplacedInTime) {
  auto log = create();
  for (int i = 0; i < 20; ++i) {
    EXPECT_OK(log->append_disk_renamed(fmt::format("n{}", i)));
    EXPECT_OK(log->checkpoint_if_due());
  }
  objects.set(checkpoint_name(16), objects.get(checkpoint_name(8)));  // right checksum, wrong place
  EXPECT_EQ(verify().size(), 1u);
  log = open();
  ASSERT_NE(log, nullptr);
  EXPECT_EQ(log->state()->name, "n19");
  objects.set(checkpoint_name(8), "");
  log = open();
  ASSERT_NE(log, nullptr);
  EXPECT_EQ(log->state()->name, "n19");
  // Nothing good is left, so one is due; the damaged ones go once it is there.
  objects.set(checkpoint_name(21), "rubbish in its place");
  EXPECT_OK(log->checkpoint_if_due());
  EXPECT_EQ(*objects.list("disks/00000007/checkpoint"), std::vector<std::string>{"0000000021.json"});
  EXPECT_TRUE(verify().empty());
}

TEST_F(DiskLogTest, OpeningALongLogReadsFewObjects) {
  auto log = create();
  std::uint64_t id = 0;
  while (objects.contents().size() < 10) {  // some snapshots stay
    EXPECT_OK(log->append_snapshot(snapshot(++id, fmt::format("s{}", id))));
  }
  for (int i = 0; i < 20'000; ++i) {
    ASSERT_TRUE(log->append_disk_renamed(fmt::format("n{}", i)));
    ASSERT_TRUE(log->checkpoint_if_due());
  }
  const std::uint64_t before = objects.reads();
  const auto reopened = open();
  ASSERT_NE(reopened, nullptr);
  EXPECT_LE(objects.reads() - before, 1 + checkpoint_interval(10));
  EXPECT_TRUE(same(*reopened->state(), *log->state()));
}

TEST(CheckpointInterval, GrowsWithWhatACheckpointCosts) {
  EXPECT_EQ(checkpoint_interval(0), 8u);
  EXPECT_EQ(checkpoint_interval(128), 8u);
  EXPECT_EQ(checkpoint_interval(1600), 100u);
}

TEST_F(DiskLogTest, RecordsBelowACheckpointAreNeededByCheckOnly) {
  auto log = create();
  for (int i = 0; i < 20; ++i) {
    EXPECT_OK(log->append_disk_renamed(fmt::format("n{}", i)));
    EXPECT_OK(log->checkpoint_if_due());
  }
  EXPECT_OK(objects.remove(record_name(3)));
  EXPECT_EQ(open()->state()->name, "n19");
  const auto problems = verify();
  ASSERT_EQ(problems.size(), 1u);
  EXPECT_EQ(problems[0], record_name(3) + ": missing");
}

TEST_F(DiskLogTest, StatesShareTheirEntries) {
  auto log = create();
  for (std::uint64_t id = 1; id <= 100; ++id) {
    ASSERT_TRUE(log->append_snapshot(snapshot(id, fmt::format("s{}", id))));
  }
  const auto before = log->state();
  EXPECT_OK(log->append_snapshot_renamed(SnapshotId{50}, "renamed"));
  const auto after = log->state();
  for (const auto& [id, entry] : before->snapshots) {
    EXPECT_EQ(entry == after->snapshots.at(id), id != SnapshotId{50}) << id.value();
  }
}

// ---- random operations against a model ------------------------------------------------------------------------------

/// What the state must be, kept in the plainest way.
struct Model {
  DiskState state;
  std::uint64_t next_id = 1;
};

/// One random operation on both; names come from a small set, so that some are refused.
void step(DiskLog& log, Model& model, std::mt19937_64& random) {
  auto& snapshots = model.state.snapshots;
  const auto pick = [&](std::uint64_t below) { return random() % below; };
  const std::string name = fmt::format("n{}", pick(60));
  const bool taken = std::ranges::any_of(snapshots, [&](const auto& one) { return one.second->name == name; });
  const SnapshotId id{1 + pick(model.next_id + 1)};
  const bool known = snapshots.contains(id);
  const auto change = [&](auto&& edit) {
    auto entry = *snapshots.at(id);
    edit(entry);
    snapshots.set(id, std::make_shared<const SnapshotEntry>(entry));
  };
  switch (pick(6)) {
    case 0:
    case 1: {
      const SnapshotEntry entry = snapshot(model.next_id, name);
      ASSERT_EQ(log.append_snapshot(entry).has_value(), !taken);
      if (taken) break;
      snapshots.set(entry.id, std::make_shared<const SnapshotEntry>(entry));
      model.state.high_water = entry.id;
      model.next_id += 1 + pick(3);
      break;
    }
    case 2:
      ASSERT_EQ(log.append_deleted(id).has_value(), known);
      snapshots.erase(id);
      break;
    case 3:
      ASSERT_EQ(log.append_snapshot_renamed(id, name).has_value(), known && !taken);
      if (known && !taken) change([&](SnapshotEntry& entry) { entry.name = name; });
      break;
    case 4: {
      const Attributes attributes = some_attributes(static_cast<std::uint32_t>(random()));
      ASSERT_EQ(log.append_snapshot_attributes(id, attributes, attributes).has_value(), known);
      if (known) change([&](SnapshotEntry& entry) { entry.directory = entry.image = attributes; });
      break;
    }
    default:
      model.state.name = name;
      ASSERT_TRUE(log.append_disk_renamed(name));
  }
}

TEST_F(DiskLogTest, RandomOperationsMatchAModelAcrossReopening) {
  std::mt19937_64 random(varve::test::seed_for("disk log operations"));
  auto log = create();
  Model model{*log->state()};
  for (int i = 0; i < 3000; ++i) {
    ASSERT_NO_FATAL_FAILURE(step(*log, model, random));
    if (random() % 3 == 0) {
      ASSERT_TRUE(log->checkpoint_if_due());
    }
    if (random() % 20 == 0) log = open();
    ASSERT_TRUE(same(*log->state(), model.state)) << "after operation " << i;
  }
  EXPECT_TRUE(verify().empty());
}

}  // namespace
}  // namespace varve::catalog::test
