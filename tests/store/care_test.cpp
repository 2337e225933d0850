// Deleting with care: holds, deadlines, the trash; pending and complete, across renames, kills and power losses.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <thread>

#include "store_fixture.h"
#include "varve/store/commands.h"
#include "varve/store/store.h"

namespace varve::store {
namespace {

using nlohmann::json;

constexpr std::uint64_t kImage = 4 * kMinChunkSize;
constexpr std::int64_t kSecond = 1'000'000'000;
constexpr std::chrono::seconds kDay{86'400};

class CareTest : public StoreFixture {
 protected:
  CareTest() : StoreFixture(kMinChunkSize) {
    options_.clock = [this] { return time_; };
  }
  void SetUp() override {
    StoreFixture::SetUp();
    a_ = make("a");
  }
  void after_open() override {
    store_->set_observer(&observer_);
    if (auto a = store_->find_disk("a")) a_ = *a;
  }
  void before_end() override { a_.reset(); }
  void pass(std::chrono::seconds time) {
    time_.nanoseconds += time.count() * kSecond;
    store_->step_schedule();
  }
  std::shared_ptr<Disk> make(const std::string& name) { return make_disk(name, kImage); }
  SnapshotId take(const std::string& name, char content = 'x') {
    EXPECT_TRUE(a_->live().write(ByteOffset{0}, std::vector<std::byte>(100, static_cast<std::byte>(content))));
    const auto taken = a_->take_snapshot(name, {});
    EXPECT_TRUE(taken) << taken.error().message;
    return taken->id;
  }
  void commit_all() { StoreFixture::commit_all(*a_); }
  Status care(SnapshotId id, const std::function<void(Care&)>& change) {
    return a_->change_snapshot_care(id, [&](Care& care) -> Status {
      change(care);
      return {};
    });
  }
  char first_byte(const std::string& name) {
    std::vector<std::byte> out(1);
    const auto info = a_->find_snapshot(name);
    EXPECT_TRUE(info) << name;
    EXPECT_TRUE(info && a_->read_snapshot(info->id, ByteOffset{0}, out));
    return static_cast<char>(out[0]);
  }
  std::vector<std::string> names() {
    std::vector<std::string> out;
    for (const auto& one : a_->snapshots()) out.push_back(one.name);
    return out;
  }
  Status undelete(const std::string& image, const std::string& as = {}) {
    json request{{"command", "undelete"}, {"image", image}};
    if (!as.empty()) request["as"] = as;
    return run_command(*store_, request, {}).map([](const json&) {});
  }

  class Seen final : public Observer {
   public:
    void disk_appeared(DiskId, const std::string& name) override { events.push_back("+" + name); }
    void disk_gone(DiskId, const std::string& name) override { events.push_back("-" + name); }
    void snapshot_appeared(DiskId, SnapshotId, const std::string& name) override { events.push_back("+@" + name); }
    void snapshot_gone(DiskId, SnapshotId, const std::string& name) override { events.push_back("-@" + name); }
    void image_replaced(DiskId) override {}
    std::vector<std::string> events;
  };

  Seen observer_;
  Time time_{1'800'000'000 * kSecond};
  std::shared_ptr<Disk> a_;
};

TEST_F(CareTest, WhatIsHeldStaysAndSaysWhy) {
  for (const bool complete : {false, true}) {
    const SnapshotId id = take("s");
    if (complete) commit_all();
    ASSERT_TRUE(care(id, [](Care& c) { c.hold = "audit 2026"; }));
    for (const auto& refused : {a_->remove_snapshot(id), a_->delete_snapshot(id)}) {
      ASSERT_FALSE(refused);
      EXPECT_EQ(refused.error().code, EBUSY);
      EXPECT_NE(refused.error().message.find("audit 2026"), std::string::npos);
    }
    EXPECT_TRUE(a_->rename_snapshot(id, "renamed"));
    for (const bool power_loss : {false, true}) {
      end_and_open(power_loss);
      EXPECT_EQ(a_->find_snapshot("renamed")->care.hold, "audit 2026");
      EXPECT_EQ(a_->remove_snapshot(id).error().code, EBUSY);
    }
    commit_all();
    EXPECT_EQ(a_->find_snapshot("renamed")->care.hold, "audit 2026");
    ASSERT_TRUE(care(id, [](Care& c) { c.hold.reset(); }));
    EXPECT_TRUE(a_->remove_snapshot(id));
  }
}

TEST_F(CareTest, AHoldIsTextAndNotTooLong) {
  const SnapshotId id = take("s");
  EXPECT_TRUE(care(id, [](Care& c) { c.hold = ""; }));
  EXPECT_EQ(a_->remove_snapshot(id).error().code, EBUSY);
  EXPECT_EQ(care(id, [](Care& c) { c.hold = std::string(1025, 'x'); }).error().code, EINVAL);
  EXPECT_EQ(care(id, [](Care& c) { c.hold = "\xFF"; }).error().code, EINVAL);
  EXPECT_EQ(care(id, [](Care& c) { c.hold = "two\nlines"; }).error().code, EINVAL);
  commit_all();
  EXPECT_EQ(care(id, [](Care& c) { c.hold = "\xFF"; }).error().code, EINVAL);
  EXPECT_EQ(a_->find_snapshot("s")->care.hold, "");
}

TEST_F(CareTest, NeitherRestoreNorCloneTakesItAlong) {
  const SnapshotId id = take("s");
  ASSERT_TRUE(care(id, [&](Care& c) {
    c.hold = "why";
    c.deadline = Time{time_.nanoseconds + kSecond};
  }));
  commit_all();
  ASSERT_TRUE(store_->clone({a_, id}, "c", {}));
  ASSERT_TRUE(store_->restore(a_, id, a_));
  take("after");
  EXPECT_EQ(a_->find_snapshot("after")->care, Care{});
  auto c = *store_->find_disk("c");
  ASSERT_TRUE(c->take_snapshot("s", {}));
  EXPECT_EQ(c->find_snapshot("s")->care, Care{});
}

TEST_F(CareTest, ADeadlineDeletesByItselfAlsoAfterDowntimeAndAHoldWins) {
  const SnapshotId pending = take("pending");
  const SnapshotId held = take("held");
  take("none");
  for (const SnapshotId id : {pending, held}) {
    ASSERT_TRUE(care(id, [&](Care& c) { c.deadline = Time{time_.nanoseconds + 100 * kSecond}; }));
  }
  ASSERT_TRUE(care(held, [](Care& c) { c.hold = "why"; }));
  pass(std::chrono::seconds{99});
  EXPECT_EQ(names().size(), 3U);
  pass(std::chrono::seconds{1});
  EXPECT_EQ(names(), (std::vector<std::string>{"held", "none"}));
  EXPECT_EQ(observer_.events, (std::vector<std::string>{"-@pending"}));
  ASSERT_TRUE(care(held, [](Care& c) { c.hold.reset(); }));
  pass(std::chrono::seconds{0});
  EXPECT_EQ(names(), (std::vector<std::string>{"none"}));
  // Down while it passes.
  commit_all();
  ASSERT_TRUE(care(a_->find_snapshot("none")->id, [&](Care& c) { c.deadline = Time{time_.nanoseconds + kSecond}; }));
  a_.reset();
  ASSERT_TRUE(store_->close());
  store_.reset();
  time_.nanoseconds += 1000 * kSecond;
  open();
  pass(std::chrono::seconds{0});
  EXPECT_TRUE(names().empty());
}

TEST_F(CareTest, ADeadlineThatIsPutOffOrLiftedDoesNotDelete) {
  const SnapshotId id = take("s");
  ASSERT_TRUE(care(id, [&](Care& c) { c.deadline = Time{time_.nanoseconds + 10 * kSecond}; }));
  ASSERT_TRUE(care(id, [&](Care& c) { c.deadline = Time{time_.nanoseconds + 50 * kSecond}; }));
  pass(std::chrono::seconds{10});
  ASSERT_EQ(names().size(), 1U);
  ASSERT_TRUE(care(id, [&](Care& c) { c.deadline.reset(); }));
  pass(std::chrono::seconds{100});
  EXPECT_EQ(names().size(), 1U);
}

TEST_F(CareTest, AnOpenImageIsDeletedAtItsDeadlineWhenItIsClosed) {
  const SnapshotId id = take("s");
  ASSERT_TRUE(care(id, [&](Care& c) { c.deadline = Time{time_.nanoseconds + kSecond}; }));
  {
    const auto use = a_->use_snapshot(id);
    ASSERT_TRUE(use);
    pass(std::chrono::seconds{1});
    EXPECT_EQ(names().size(), 1U);
  }
  pass(std::chrono::seconds{61});
  EXPECT_TRUE(names().empty());
}

TEST_F(CareTest, WithoutATrashDeletedIsGone) {
  const SnapshotId id = take("s");
  ASSERT_TRUE(a_->remove_snapshot(id));
  EXPECT_TRUE(store_->trash().empty());
  EXPECT_EQ(undelete("a@s").error().code, ENOENT);
}

TEST_F(CareTest, TheTrashGivesBackWhatItTookPendingAndComplete) {
  ASSERT_TRUE(store_->set_trash_keep(kDay));
  take("1", '1');
  commit_all();
  take("2", '2');
  for (const char* name : {"1", "2"}) ASSERT_TRUE(a_->remove_snapshot(a_->find_snapshot(name)->id));
  EXPECT_TRUE(names().empty());
  EXPECT_EQ(a_->snapshot_count(), 0U);
  EXPECT_EQ(store_->trash().size(), 2U);
  EXPECT_EQ(a_->snapshot(SnapshotId{1}).error().code, ENOENT);
  EXPECT_FALSE(a_->use_snapshot(SnapshotId{1}));
  take("1", '3');  // the names are free
  take("2", '4');
  for (const bool power_loss : {false, true}) {
    end_and_open(power_loss);
    EXPECT_EQ(names(), (std::vector<std::string>{"1", "2"}));
    EXPECT_EQ(store_->trash().size(), 2U);
  }
  const auto refused = undelete("a@1");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, EEXIST);
  EXPECT_NE(refused.error().message.find("--as"), std::string::npos);
  EXPECT_TRUE(undelete("a@1", "old1"));
  EXPECT_TRUE(undelete("a@2", "old2"));
  EXPECT_EQ(first_byte("old1"), '1');
  EXPECT_EQ(first_byte("old2"), '2');
  commit_all();
  end_and_open(true);
  EXPECT_EQ(first_byte("old1"), '1');
  EXPECT_EQ(first_byte("old2"), '2');
  EXPECT_EQ(first_byte("1"), '3');
  EXPECT_TRUE(store_->trash().empty());
}

TEST_F(CareTest, ASnapshotThatIsCommittedInTheTrashStaysThereAndComesBackWhole) {
  ASSERT_TRUE(store_->set_trash_keep(kDay));
  ASSERT_TRUE(a_->remove_snapshot(take("s", 's')));
  commit_all();
  EXPECT_EQ(a_->live().pending_count(), 0U);
  EXPECT_TRUE(names().empty());
  ASSERT_TRUE(store_->collect([] { return false; }));
  ASSERT_TRUE(undelete("a@s"));
  EXPECT_EQ(first_byte("s"), 's');
}

TEST_F(CareTest, TheTrashEmptiesItselfWhenItsTimeIsOver) {
  ASSERT_TRUE(store_->set_trash_keep(std::chrono::seconds{100}));
  ASSERT_TRUE(a_->remove_snapshot(take("1")));
  commit_all();
  ASSERT_TRUE(store_->set_trash_keep(std::chrono::seconds{1000}));
  ASSERT_TRUE(a_->remove_snapshot(take("2")));
  ASSERT_TRUE(store_->set_trash_keep(std::chrono::seconds{0}));
  ASSERT_TRUE(a_->remove_snapshot(take("3")));
  pass(std::chrono::seconds{99});
  EXPECT_EQ(store_->trash().size(), 2U);
  pass(std::chrono::seconds{1});
  ASSERT_EQ(store_->trash().size(), 1U);
  EXPECT_EQ(store_->trash()[0].info.name, "2");
  end_and_open(false);
  pass(std::chrono::seconds{900});
  EXPECT_TRUE(store_->trash().empty());
  EXPECT_EQ(a_->live().pending_count(), 0U);
}

TEST_F(CareTest, TheTrashIsEmptiedWhenTheStoreHasNoSpaceTheOldestFirst) {
  ASSERT_TRUE(store_->set_trash_keep(kDay));
  for (const char* name : {"1", "2"}) {
    ASSERT_TRUE(a_->remove_snapshot(take(name)));
    pass(std::chrono::seconds{1});
  }
  EXPECT_EQ(store_->trash().size(), 2U);
  const auto capacity = store_->capacity();
  ASSERT_TRUE(capacity);
  const std::uint64_t used = capacity->total.value() - capacity->available.value();
  machine_.storage.set_capacity(ByteCount{used + used / 30});
  store_->step_schedule();
  ASSERT_EQ(store_->trash().size(), 1U);
  EXPECT_EQ(store_->trash()[0].info.name, "2");
  store_->step_schedule();
  EXPECT_TRUE(store_->trash().empty());
}

TEST_F(CareTest, TheTrashDoesNotCountAgainstLimitsUntilSomethingComesBack) {
  ASSERT_TRUE(store_->set_trash_keep(kDay));
  ASSERT_TRUE(a_->set_limits({.snapshots = 1, .snapshot_bytes = {}, .live_bytes = {}}));
  ASSERT_TRUE(a_->remove_snapshot(take("1")));
  const SnapshotId second = take("2");
  EXPECT_EQ(a_->usage().snapshots, 1U);
  EXPECT_EQ(undelete("a@1").error().code, EDQUOT);
  EXPECT_EQ(store_->trash().size(), 1U);
  ASSERT_TRUE(a_->remove_snapshot(second));
  EXPECT_TRUE(undelete("a@1"));
  EXPECT_EQ(a_->take_snapshot("3", {}).error().code, EDQUOT);
}

TEST_F(CareTest, OfSeveralWithOneNameTheLastComesBackFirst) {
  ASSERT_TRUE(store_->set_trash_keep(kDay));
  for (const char content : {'1', '2'}) {
    ASSERT_TRUE(a_->remove_snapshot(take("s", content)));
    pass(std::chrono::seconds{1});
  }
  ASSERT_TRUE(undelete("a@s"));
  EXPECT_EQ(first_byte("s"), '2');
  ASSERT_TRUE(undelete("a@s", "before"));
  EXPECT_EQ(first_byte("before"), '1');
}

TEST_F(CareTest, ADiskOfWhichOnlyTheTrashIsLeftGoesAndComesBack) {
  ASSERT_TRUE(store_->set_trash_keep(kDay));
  ASSERT_TRUE(a_->remove_snapshot(take("s", 's')));
  EXPECT_EQ(store_->remove_disk(a_->id()).error().code, ENOTEMPTY);
  ASSERT_TRUE(a_->remove_image());
  const DiskId id = a_->id();
  ASSERT_TRUE(store_->remove_disk(id));
  EXPECT_TRUE(store_->disks().empty());
  EXPECT_EQ(store_->disk(id).error().code, ENOENT);
  for (const bool power_loss : {false, true}) {
    end_and_open(power_loss);
    EXPECT_TRUE(store_->disks().empty());
    ASSERT_EQ(store_->trash().size(), 1U);
    EXPECT_TRUE(store_->trash()[0].disk_removed);
  }
  auto other = make("a");
  EXPECT_EQ(undelete("a@s").error().code, EEXIST);
  ASSERT_TRUE(store_->rename_disk(other->id(), "b"));
  ASSERT_TRUE(undelete("a@s"));
  a_ = *store_->find_disk("a");
  EXPECT_EQ(a_->id(), id);
  EXPECT_EQ(first_byte("s"), 's');
  EXPECT_EQ(observer_.events, (std::vector<std::string>{"+a", "+@s"}));
}

TEST_F(CareTest, ADiskInTheTrashEndsWithTheLastThingThere) {
  ASSERT_TRUE(store_->set_trash_keep(kDay));
  ASSERT_TRUE(a_->remove_snapshot(take("s")));
  ASSERT_TRUE(a_->remove_image());
  const DiskId id = a_->id();
  ASSERT_TRUE(store_->remove_disk(id));
  a_.reset();
  pass(kDay);
  EXPECT_TRUE(store_->trash().empty());
  end_and_open(true);
  EXPECT_TRUE(store_->damaged_disks().empty());
  EXPECT_EQ(store_->step_commit(id).error().code, ENOENT);
  const auto again = run_command(*store_, {{"command", "trash"}, {"empty", true}}, {});
  ASSERT_TRUE(again);
  EXPECT_EQ(again->at("emptied"), 0);
}

TEST_F(CareTest, EmptyingDeletesForGood) {
  ASSERT_TRUE(store_->set_trash_keep(kDay));
  ASSERT_TRUE(a_->remove_snapshot(take("1")));
  commit_all();
  ASSERT_TRUE(a_->remove_snapshot(take("2")));
  take("stays");
  const auto emptied = run_command(*store_, {{"command", "trash"}, {"empty", true}}, {});
  ASSERT_TRUE(emptied) << emptied.error().message;
  EXPECT_EQ(emptied->at("emptied"), 2);
  EXPECT_EQ(names(), (std::vector<std::string>{"stays"}));
  EXPECT_EQ(undelete("a@1").error().code, ENOENT);
}

TEST_F(CareTest, OnAFullStoreDeletingWorksWithATrash) {
  ASSERT_TRUE(store_->set_trash_keep(kDay));
  const SnapshotId complete = take("1");
  commit_all();
  const SnapshotId pending = take("2");
  // All that is left is the reserve.
  const auto capacity = store_->capacity();
  ASSERT_TRUE(capacity);
  machine_.storage.set_capacity(ByteCount{capacity->total.value() - capacity->available.value()});
  EXPECT_TRUE(a_->remove_snapshot(complete));
  EXPECT_TRUE(a_->remove_snapshot(pending));
  EXPECT_TRUE(names().empty());
}

TEST_F(CareTest, AClonesOwnSnapshotDoesNotStayInTheTrash) {
  ASSERT_TRUE(store_->set_trash_keep(kDay));
  ASSERT_TRUE(a_->set_limits({.snapshots = 0, .snapshot_bytes = {}, .live_bytes = {}}));
  const auto cloned = store_->clone({a_, SnapshotId{0}}, "c", {});
  ASSERT_TRUE(cloned) << cloned.error().message;
  EXPECT_TRUE(names().empty());
  EXPECT_TRUE(store_->trash().empty());
}

TEST_F(CareTest, PruneKeepsWhatIsHeldAndSaysWhyItKeepsTheRest) {
  const SnapshotId held = take("1");
  take("2");
  take("3");
  ASSERT_TRUE(care(held, [](Care& c) { c.hold = "why"; }));
  json request{{"command", "prune"}, {"disk", "a"}, {"keep", {{"last", 1U}}}, {"dry_run", true}};
  auto answer = run_command(*store_, request, {});
  ASSERT_TRUE(answer) << answer.error().message;
  EXPECT_EQ(names().size(), 3U);
  request["dry_run"] = false;
  answer = run_command(*store_, request, {});
  ASSERT_TRUE(answer);
  EXPECT_EQ(names(), (std::vector<std::string>{"1", "3"}));
  EXPECT_EQ(answer->at("kept").at(0).at("reasons"), (json{"last snapshot"}));
  EXPECT_EQ(answer->at("kept").at(1).at("reasons"), (json{"held: why"}));
  EXPECT_EQ(answer->at("removed").at(0).at("name"), "2");
  EXPECT_EQ(observer_.events, (std::vector<std::string>{"-@2"}));
  request["keep"] = json::object();
  EXPECT_EQ(run_command(*store_, request, {}).error().code, EINVAL);
}

}  // namespace
}  // namespace varve::store
