// Limits: what there may be at most, of disks and of the store; refused with EDQUOT before anything is changed, kept to
// also by many at once, kept for ever.
#include <gtest/gtest.h>

#include <atomic>
#include <nlohmann/json.hpp>
#include <thread>

#include "store_fixture.h"
#include "varve/store/commands.h"

namespace varve::store {
namespace {

constexpr std::uint64_t kImage = 4 * kMinChunkSize;

class LimitsTest : public StoreFixture {
 protected:
  LimitsTest() : StoreFixture(kMinChunkSize) {}
  std::shared_ptr<Disk> make(const std::string& name, std::uint64_t size = kImage) { return make_disk(name, size); }
  static void expect_quota(const Status& status, std::string_view which) {
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().code, EDQUOT);
    EXPECT_EQ(status.error().kind, ErrorKind::refused);
    EXPECT_NE(status.error().message.find(which), std::string::npos) << status.error().message;
    EXPECT_NE(status.error().message.find("varve limit"), std::string::npos) << status.error().message;
  }
  static Status take(Disk& disk, const std::string& name) {
    return disk.take_snapshot(name, {}).map([](const auto&) {});
  }
  nlohmann::json used() { return store_->status().at("used"); }
  /// What is counted is what is there.
  void expect_counted() {
    std::uint64_t snapshots = 0;
    std::uint64_t bytes = 0;
    std::uint64_t live = 0;
    for (const auto& disk : store_->disks()) {
      for (const auto& one : disk->snapshots()) bytes += one.size.value();
      snapshots += disk->snapshots().size();
      live += disk->live().info().size.value();
    }
    EXPECT_EQ(used(), (nlohmann::json{{"snapshots", snapshots}, {"snapshot_bytes", bytes}, {"live_bytes", live}}));
  }
};

TEST_F(LimitsTest, ASnapshotBeyondTheNumberIsRefusedAndChangesNothing) {
  auto a = make("a");
  auto b = make("b");
  ASSERT_TRUE(store_->set_limits({.snapshots = 3, .snapshot_bytes = {}, .live_bytes = {}}));
  ASSERT_TRUE(a->set_limits({.snapshots = 1, .snapshot_bytes = {}, .live_bytes = {}}));
  EXPECT_TRUE(take(*a, "1"));
  expect_quota(take(*a, "2"), "the disk's limit of 1 snapshots");
  EXPECT_EQ(a->snapshots().size(), 1U);
  EXPECT_EQ(a->snapshot_count(), 1U);
  EXPECT_EQ(a->live().pending_count(), 1U);
  EXPECT_TRUE(take(*b, "1"));
  EXPECT_TRUE(take(*b, "2"));
  expect_quota(take(*b, "3"), "the store's limit of 3 snapshots");
  // A place that is given back is there for the next, wherever.
  ASSERT_TRUE(b->remove_snapshot(b->find_snapshot("1")->id));
  EXPECT_TRUE(take(*b, "3"));
  expect_quota(take(*b, "4"), "the store's limit");
  ASSERT_TRUE(store_->set_limits({}));
  EXPECT_TRUE(take(*b, "4"));
  expect_counted();
}

TEST_F(LimitsTest, SnapshotsCountWithTheSizeThatAReaderSees) {
  auto a = make("a");
  ASSERT_TRUE(a->set_limits({.snapshots = {}, .snapshot_bytes = 2 * kImage, .live_bytes = {}}));
  EXPECT_TRUE(take(*a, "1"));
  ASSERT_TRUE(a->resize_image(ByteCount{kImage + 1}, nullptr));
  expect_quota(take(*a, "2"), "for the images of all snapshots");
  ASSERT_TRUE(a->resize_image(ByteCount{kImage}, nullptr));
  EXPECT_TRUE(take(*a, "2"));
  ASSERT_TRUE(store_->step_commit(a->id()));  // complete counts as pending does
  expect_quota(take(*a, "3"), "the disk's limit");
  expect_counted();
}

TEST_F(LimitsTest, NothingMakesALiveImageLargerThanItsLimit) {
  auto a = make("a");
  auto b = make("b", 2 * kImage);
  ASSERT_TRUE(take(*b, "s"));
  ASSERT_TRUE(store_->step_commit(b->id()));
  const SnapshotId s = b->find_snapshot("s")->id;
  ASSERT_TRUE(a->set_limits({.snapshots = {}, .snapshot_bytes = {}, .live_bytes = kImage}));
  const std::vector<std::byte> bytes(kMinChunkSize, std::byte{1});
  expect_quota(a->resize_image(ByteCount{kImage + 1}, nullptr), "the disk's limit");
  expect_quota(a->live().write(ByteOffset{kImage - 10}, bytes), "the disk's limit");
  expect_quota(store_->copy_range({b, s}, ByteOffset{0}, a, ByteOffset{kMinChunkSize}, ByteCount{kImage}).map([](auto) {}),
               "the disk's limit");
  expect_quota(store_->copy_range({b, SnapshotId{0}}, ByteOffset{0}, a, ByteOffset{kMinChunkSize}, ByteCount{kImage})
                   .map([](auto) {}),
               "the disk's limit");
  expect_quota(store_->restore(b, s, a), "the disk's limit");
  EXPECT_EQ(a->live().info().size, ByteCount{kImage});
  // What does not grow goes on.
  EXPECT_TRUE(a->live().write(ByteOffset{kImage - kMinChunkSize}, bytes));
  EXPECT_TRUE(a->resize_image(ByteCount{kImage / 2}, nullptr));
  EXPECT_TRUE(a->resize_image(ByteCount{kImage}, nullptr));
  // The store's.
  ASSERT_TRUE(a->set_limits({}));
  ASSERT_TRUE(store_->set_limits({.snapshots = {}, .snapshot_bytes = {}, .live_bytes = 3 * kImage}));
  expect_quota(a->resize_image(ByteCount{kImage + 1}, nullptr), "the store's limit");
  expect_quota(store_->clone({b, s}, "c", {}).map([](const auto&) {}), "the store's limit");
  expect_quota(store_->clone({b, SnapshotId{0}}, "c", {}).map([](const auto&) {}), "the store's limit");
  EXPECT_EQ(store_->disks().size(), 2U);
  EXPECT_EQ(b->snapshots().size(), 1U);
  ASSERT_TRUE(b->remove_image());
  EXPECT_TRUE(a->resize_image(ByteCount{3 * kImage}, nullptr));
  expect_counted();
}

TEST_F(LimitsTest, LessThanThereIsIsAcceptedAndRefusesOnlyGrowth) {
  auto a = make("a", 2 * kImage);
  ASSERT_TRUE(take(*a, "1"));
  ASSERT_TRUE(take(*a, "2"));
  const Limits low{.snapshots = 1, .snapshot_bytes = 1, .live_bytes = 1};
  ASSERT_TRUE(a->set_limits(low));
  ASSERT_TRUE(store_->set_limits(low));
  EXPECT_EQ(a->limits(), low);
  expect_quota(take(*a, "3"), "limit");
  EXPECT_TRUE(a->rename_snapshot(a->find_snapshot("1")->id, "one"));
  EXPECT_TRUE(a->live().write(ByteOffset{0}, std::vector<std::byte>(100)));
  EXPECT_TRUE(a->resize_image(ByteCount{kImage}, nullptr));
  EXPECT_TRUE(store_->step_commit(a->id()));
  ASSERT_TRUE(store_->restore(a, a->find_snapshot("one")->id, make("b", 0)).error().code == EDQUOT);
  EXPECT_TRUE(a->remove_snapshot(a->find_snapshot("one")->id));
  expect_counted();
}

TEST_F(LimitsTest, AreThereAfterAKillAndAPowerLoss) {
  auto a = make("a");
  const Limits of_disk{.snapshots = 5, .snapshot_bytes = {}, .live_bytes = 7 * kImage};
  const Limits of_store{.snapshots = {}, .snapshot_bytes = UINT64_MAX, .live_bytes = {}};
  ASSERT_TRUE(a->set_limits(of_disk));
  ASSERT_TRUE(store_->set_limits(of_store));
  ASSERT_TRUE(take(*a, "1"));
  for (const bool power_loss : {false, true}) {
    a.reset();
    end_and_open(power_loss);
    a = *store_->find_disk("a");
    EXPECT_EQ(a->limits(), of_disk);
    EXPECT_EQ(store_->limits(), of_store);
    expect_counted();
    expect_quota(a->resize_image(ByteCount{7 * kImage + 1}, nullptr), "the disk's");
  }
}

TEST_F(LimitsTest, OfManyWhoWantTheLastPlaceOneGetsIt) {
  constexpr int kThreads = 4;
  constexpr int kRounds = 25;
  std::vector<std::shared_ptr<Disk>> disks;
  for (int i = 0; i < kThreads; ++i) disks.push_back(make("d" + std::to_string(i)));
  for (int round = 0; round < kRounds; ++round) {
    ASSERT_TRUE(store_->set_limits({.snapshots = 2, .snapshot_bytes = {}, .live_bytes = {}}));
    std::atomic<int> taken{0};
    std::vector<std::thread> threads;
    for (const auto& disk : disks) {
      threads.emplace_back([&taken, &disk] {
        for (const char* name : {"x", "y"}) {
          const auto done = take(*disk, name);
          if (done) ++taken;
          EXPECT_TRUE(done || done.error().code == EDQUOT);
        }
      });
    }
    for (auto& thread : threads) thread.join();
    EXPECT_EQ(taken, 2) << "in round " << round;
    expect_counted();
    for (const auto& disk : disks) {
      for (const auto& one : disk->snapshots()) ASSERT_TRUE(disk->remove_snapshot(one.id));
    }
  }
}

TEST_F(LimitsTest, AFreezeThatFailsGivesItsPlaceBack) {
  auto a = make("a");
  ASSERT_TRUE(a->set_limits({.snapshots = 1, .snapshot_bytes = {}, .live_bytes = {}}));
  machine_.storage.fail_at(1, ENOSPC, test::Repeat::for_good, test::Calls::changes);
  const auto failed = take(*a, "1");
  machine_.storage.clear_faults();
  ASSERT_FALSE(failed);
  EXPECT_EQ(used().at("snapshots"), 0);
  if (a->live().latched()) {
    a.reset();
    end_and_open(false);
    a = *store_->find_disk("a");
  }
  EXPECT_TRUE(take(*a, "2"));
  expect_counted();
}

TEST_F(LimitsTest, TheCommandSetsEachAloneAndShowsThem) {
  auto a = make("a");
  ASSERT_TRUE(take(*a, "1"));
  const auto run = [&](const nlohmann::json& request) { return run_command(*store_, request, {}); };
  auto answer = run({{"command", "limit"}, {"disk", "a"}, {"set", {{"snapshots", 9U}, {"live_bytes", kImage}}}});
  ASSERT_TRUE(answer) << answer.error().message;
  answer = run({{"command", "limit"}, {"disk", "a"}, {"set", {{"snapshots", nullptr}}}});
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->at("limits"),
            (nlohmann::json{{"snapshots", nullptr}, {"snapshot_bytes", nullptr}, {"live_bytes", kImage}}));
  EXPECT_EQ(answer->at("used").at("snapshots"), 1);
  ASSERT_TRUE(run({{"command", "limit"}, {"set", {{"snapshot_bytes", 5U}}}}));
  EXPECT_EQ(store_->status().at("limits").at("snapshot_bytes"), 5);
  EXPECT_EQ(store_->status().at("disks").at(0).at("limits").at("live_bytes"), kImage);
  EXPECT_NE(store_->metrics().find("varve_limit_snapshot_bytes 5\n"), std::string::npos);
  EXPECT_NE(store_->metrics().find("varve_used_snapshots{disk=\"a\"} 1\n"), std::string::npos);
  for (const auto& bad : {R"({"snapshots":-1})", R"({"snapshots":"2"})", R"({"disks":1})", R"([])", R"(5)"}) {
    const auto refused = run({{"command", "limit"}, {"set", nlohmann::json::parse(bad)}});
    ASSERT_FALSE(refused) << bad;
    EXPECT_EQ(refused.error().code, EINVAL) << bad;
  }
  EXPECT_EQ(run({{"command", "limit"}, {"disk", "b"}}).error().code, ENOENT);
}

}  // namespace
}  // namespace varve::store
