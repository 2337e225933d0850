// Lost acknowledgements and second writers: no append is taken for done or undone while that is not known.
#include <algorithm>
#include <thread>

#include "log_fixture.h"

namespace varve::catalog::test {
namespace {

using SettleTest = LogTest;

TEST_F(SettleTest, ALostAcknowledgementIsSettledByReadingBack) {
  for (const Fault fault : {Fault::lose_acknowledgement, Fault::create_and_say_exists}) {
    objects.replace({});
    objects.plan({fault});
    auto log = create();
    ASSERT_NE(log, nullptr);
    objects.plan({fault});
    EXPECT_OK(log->append_snapshot(snapshot(1, "a")));
    EXPECT_OK(log->append_deleted(SnapshotId{1}));
    EXPECT_EQ(objects.contents().size(), 3u);
    EXPECT_TRUE(same(*open()->state(), *log->state()));
  }
}

TEST_F(SettleTest, ARefusedPutFailsWithItsErrnoAndChangesNothing) {
  auto log = create();
  objects.plan({Fault::refuse});
  const auto status = log->append_snapshot(snapshot(1, "a"));
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ENOSPC);
  EXPECT_EQ(status.error().kind, ErrorKind::system);
  EXPECT_TRUE(log->state()->snapshots.empty());
  EXPECT_OK(log->append_snapshot(snapshot(1, "a")));
  EXPECT_TRUE(same(*open()->state(), *log->state()));
}

TEST_F(SettleTest, WhatCanBeReadButIsNotSaidToBeDurableIsNotDone) {
  auto log = create();
  objects.plan({Fault::lose_acknowledgement, Fault::refuse});
  const auto status = log->append_snapshot(snapshot(1, "a"));
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().kind, ErrorKind::latched);
  EXPECT_TRUE(log->state()->snapshots.empty());
  EXPECT_OK(log->append_snapshot(snapshot(1, "a")));  // the same again: it is there, once
  EXPECT_EQ(log->state()->snapshots.size(), 1u);
  EXPECT_EQ(objects.contents().size(), 2u);
}

TEST_F(SettleTest, UnreadableIsLatchedUntilItCanBeRead) {
  auto log = create();
  objects.plan({Fault::lose_acknowledgement});
  objects.set_unreadable(true);
  for (int i = 0; i < 3; ++i) {
    const auto status = log->append_snapshot(snapshot(1, "a"));
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().code, EIO);
    EXPECT_EQ(status.error().kind, ErrorKind::latched);
    EXPECT_NE(status.error().message.find(record_name(2)), std::string::npos) << status.error().message;
  }
  EXPECT_TRUE(log->state()->snapshots.empty());
  objects.set_unreadable(false);
  // Another append settles it: the snapshot is there, and the new record comes after it.
  EXPECT_OK(log->append_disk_renamed("web02"));
  EXPECT_EQ(log->state()->snapshots.size(), 1u);
  EXPECT_EQ(log->state()->name, "web02");
  EXPECT_TRUE(same(*open()->state(), *log->state()));
}

TEST_F(SettleTest, UnreadableAndNeverThereIsSettledAsNotDone) {
  auto log = create();
  objects.plan({Fault::refuse});
  objects.set_unreadable(true);
  EXPECT_FALSE(log->append_snapshot(snapshot(1, "a")));
  objects.set_unreadable(false);
  EXPECT_OK(log->append_disk_renamed("web02"));
  EXPECT_TRUE(log->state()->snapshots.empty());
  EXPECT_TRUE(same(*open()->state(), *log->state()));
}

TEST_F(SettleTest, AnAppendThatArrivesLateIsRecognisedAsOurs) {
  auto log = create();
  objects.plan({Fault::arrive_late});
  EXPECT_FALSE(log->append_snapshot(snapshot(1, "a")));
  EXPECT_TRUE(log->state()->snapshots.empty());
  objects.deliver_late();
  EXPECT_OK(log->append_disk_renamed("web02"));
  EXPECT_EQ(log->state()->snapshots.size(), 1u);
  EXPECT_TRUE(same(*open()->state(), *log->state()));
}

TEST_F(SettleTest, AnAppendThatArrivesTooLateIsNothing) {
  auto log = create();
  objects.plan({Fault::arrive_late});
  EXPECT_FALSE(log->append_snapshot(snapshot(1, "a")));
  EXPECT_OK(log->append_disk_renamed("web02"));
  objects.deliver_late();
  EXPECT_OK(log->append_disk_renamed("web03"));
  EXPECT_TRUE(log->state()->snapshots.empty());
  EXPECT_TRUE(same(*open()->state(), *log->state()));
}

TEST_F(SettleTest, RefusalsWithoutEndNeitherGrowNorLatch) {
  auto log = create();
  for (int i = 0; i < 100; ++i) {
    objects.plan({Fault::refuse});
    EXPECT_FALSE(log->append_snapshot(snapshot(1, "a")));
  }
  EXPECT_OK(log->append_snapshot(snapshot(1, "a")));
}

TEST_F(SettleTest, OfTwoWritersOneLosesAndLearnsIt) {
  auto first = create();
  auto second = open();
  EXPECT_OK(first->append_snapshot(snapshot(1, "first")));
  for (int i = 0; i < 2; ++i) {
    const auto status = second->append_snapshot(snapshot(1, "second"));
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().code, EIO);
    EXPECT_EQ(status.error().kind, ErrorKind::latched);
    EXPECT_NE(status.error().message.find("somebody else"), std::string::npos) << status.error().message;
  }
  EXPECT_TRUE(second->state()->snapshots.empty());
  EXPECT_OK(first->append_snapshot(snapshot(2, "goes on")));
  EXPECT_TRUE(same(*open()->state(), *first->state()));
}

TEST_F(SettleTest, OfTwoThatCreateOneDiskOneGetsEexist) {
  std::vector<std::unique_ptr<DiskLog>> made(4);
  std::vector<int> codes(4);
  {
    std::vector<std::jthread> threads;
    for (std::size_t i = 0; i < 4; ++i) {
      threads.emplace_back([&, i] {
        auto log = DiskLog::create(objects, kDisk, fmt::format("d{}", i), {});
        if (log) made[i] = std::move(*log);
        if (!log) codes[i] = log.error().code;
      });
    }
  }
  EXPECT_EQ(std::ranges::count(codes, 0), 1);
  EXPECT_EQ(std::ranges::count(codes, EEXIST), 3);
}

TEST_F(SettleTest, AppendsAndReadersOfOneLogRunTogether) {
  auto log = create();
  {
    std::vector<std::jthread> threads;
    for (std::uint64_t t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        for (std::uint64_t i = 0; i < 50; ++i) {
          EXPECT_OK(log->append_disk_renamed(fmt::format("t{}-{}", t, i)));
          EXPECT_OK(log->checkpoint_if_due());
          EXPECT_FALSE(log->state()->name.empty());
        }
      });
    }
  }
  EXPECT_TRUE(same(*open()->state(), *log->state()));
  EXPECT_TRUE(verify().empty());
}

TEST_F(SettleTest, ConfirmAsksTheStoreOnce) {
  create();
  auto log = open();
  objects.plan({Fault::refuse});
  EXPECT_FALSE(log->confirm());
  EXPECT_OK(log->confirm());
  objects.plan({Fault::refuse});
  EXPECT_OK(log->confirm());
  EXPECT_EQ(objects.contents().size(), 1u);
}

TEST_F(SettleTest, AFailedCheckpointIsOnlySlower) {
  auto log = create();
  for (int i = 0; i < 10; ++i) {
    EXPECT_OK(log->append_disk_renamed(fmt::format("n{}", i)));
  }
  objects.plan({Fault::refuse});
  EXPECT_FALSE(log->checkpoint_if_due());
  EXPECT_OK(log->append_disk_renamed("web02"));
  EXPECT_EQ(open()->state()->name, "web02");
  objects.plan({Fault::lose_acknowledgement});
  EXPECT_FALSE(log->checkpoint_if_due());
  EXPECT_OK(log->checkpoint_if_due());
  EXPECT_EQ(objects.list("disks/00000007/checkpoint")->size(), 1u);
  EXPECT_EQ(open()->state()->name, "web02");
}

}  // namespace
}  // namespace varve::catalog::test
