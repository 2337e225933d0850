// Policies: when they are due, what they take and delete, what they skip and say so; by a clock of the test's own.
#include "../../src/store/policy.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <ctime>
#include <nlohmann/json.hpp>

#include "../../src/store/policies.h"
#include "local_time.h"
#include "store_fixture.h"
#include "varve/store/commands.h"
#include "varve/store/store.h"

namespace varve::store {
namespace {

using nlohmann::json;
using test::at;

class TimetableTest : public ::testing::Test {
 protected:
  static std::string next(const Timetable& times, const std::string& after) {
    return to_iso8601(next_time(times, at(after))).substr(0, 16);
  }

 private:
  test::CentralEuropeanTime zone_;
};

TEST_F(TimetableTest, EverySoOftenIsCountedFromLocalMidnight) {
  EXPECT_EQ(next({.every = 900, .at = {}, .days = {}}, "2026-01-01T10:07Z"), "2026-01-01T10:15");
  EXPECT_EQ(next({.every = 900, .at = {}, .days = {}}, "2026-01-01T10:15Z"), "2026-01-01T10:30");
  EXPECT_EQ(next({.every = 6 * 3600, .at = {}, .days = {}}, "2026-01-01T10:07Z"), "2026-01-01T11:00");
  EXPECT_EQ(next({.every = 6 * 3600, .at = {}, .days = {}}, "2026-07-01T10:07Z"), "2026-07-01T16:00");
  EXPECT_EQ(next({.every = 86'400, .at = {}, .days = {}}, "2026-01-01T10:07Z"), "2026-01-01T23:00");
}

TEST_F(TimetableTest, TimesOfTheDayAreLocalAndKeepToTheirDays) {
  const Timetable twice{.every = 0, .at = {150, 870}, .days = {}};
  EXPECT_EQ(next(twice, "2026-01-01T01:29Z"), "2026-01-01T01:30");
  EXPECT_EQ(next(twice, "2026-01-01T01:30Z"), "2026-01-01T13:30");
  EXPECT_EQ(next(twice, "2026-01-01T20:00Z"), "2026-01-02T01:30");
  EXPECT_EQ(next(twice, "2026-07-01T20:00Z"), "2026-07-02T00:30");
  // The 1st is a Thursday.
  const Timetable mondays{.every = 0, .at = {480}, .days = {1}};
  EXPECT_EQ(next(mondays, "2026-01-01T20:00Z"), "2026-01-05T07:00");
  EXPECT_EQ(next(mondays, "2026-01-05T07:00Z"), "2026-01-12T07:00");
  // 02:30 of the 29th of March does not exist; it is done all the same, once.
  EXPECT_EQ(next(twice, "2026-03-28T23:00Z"), "2026-03-29T01:30");
}

class PolicyTest : public StoreFixture {
 protected:
  PolicyTest() {
    options_.clock = [this] { return time_; };
  }
  void SetUp() override {
    StoreFixture::SetUp();
    for (const char* name : {"web1", "web2", "db"}) {
      auto disk = store_->create_disk(name, Attributes{7, 8, 0750, {{"user.note", "x"}}});
      ASSERT_TRUE(disk);
      ASSERT_TRUE((*disk)->create_image({}));
    }
  }
  Result<json> run(json request) {
    request["command"] = "policy";
    return run_command(*store_, request, {});
  }
  void add(const json& policy) {
    const auto added = run({{"action", "add"}, {"policy", policy}});
    ASSERT_TRUE(added) << added.error().message;
  }
  static json hourly() {
    return {{"name", "hourly"}, {"disks", {"web*"}}, {"every", 3600}, {"pattern", "h-%Y%m%d-%H%M"}};
  }
  void to(const std::string& time) {
    time_ = at(time);
    store_->step_schedule();
  }
  std::vector<std::string> names(const std::string& disk) {
    std::vector<std::string> out;
    for (const auto& one : (*store_->find_disk(disk))->snapshots()) out.push_back(one.name);
    return out;
  }
  void commit_all() {
    for (const auto& disk : store_->disks()) StoreFixture::commit_all(*disk);
  }
  json last() { return run({{"action", "show"}, {"name", "hourly"}})->at("last"); }
  using Names = std::vector<std::string>;

  test::CentralEuropeanTime zone_;
  Time time_ = at("2026-01-01T10:07Z");
};

TEST_F(PolicyTest, TakesWhatIsDueOfTheDisksThatFit) {
  add(hourly());
  to("2026-01-01T10:59Z");
  EXPECT_TRUE(names("web1").empty());
  to("2026-01-01T11:00Z");
  EXPECT_EQ(names("web1"), (Names{"h-20260101-1200"}));
  EXPECT_EQ(names("web2"), (Names{"h-20260101-1200"}));
  EXPECT_TRUE(names("db").empty());
  to("2026-01-01T11:01Z");
  EXPECT_EQ(names("web1").size(), 1U);
  const auto info = (*store_->find_disk("web1"))->find_snapshot("h-20260101-1200");
  EXPECT_EQ(info->care.policy, "hourly");
  EXPECT_EQ(info->directory.owner, 7U);
  EXPECT_TRUE(info->directory.xattrs.empty());
  EXPECT_EQ(last().at("taken"), 2);
  commit_all();
  to("2026-01-01T12:00Z");
  EXPECT_EQ(names("web1").size(), 2U);
}

TEST_F(PolicyTest, WhatWasMissedIsMadeUpForOnce) {
  add(hourly());
  to("2026-01-01T11:00Z");
  commit_all();
  for (const bool power_loss : {false, true}) {
    end_and_open(power_loss);
    to(power_loss ? "2026-01-03T08:30Z" : "2026-01-02T20:10Z");
    store_->step_schedule();
    commit_all();
  }
  EXPECT_EQ(names("web1"), (Names{"h-20260101-1200", "h-20260102-2110", "h-20260103-0930"}));
  to("2026-01-03T08:59Z");
  EXPECT_EQ(names("web1").size(), 3U);
  to("2026-01-03T09:00Z");
  EXPECT_EQ(names("web1").size(), 4U);
}

TEST_F(PolicyTest, SkipsWithAReasonRatherThanPileUp) {
  add(hourly());
  ASSERT_TRUE((*store_->find_disk("web2"))->remove_image());
  to("2026-01-01T11:00Z");
  EXPECT_EQ(last().at("taken"), 1);
  EXPECT_NE(last().at("skipped").at(0).get<std::string>().find("no live image"), std::string::npos);
  to("2026-01-01T12:00Z");  // nothing was committed
  EXPECT_EQ(names("web1").size(), 1U);
  EXPECT_NE(last().at("skipped").at(0).get<std::string>().find("still pending"), std::string::npos);
  commit_all();
  ASSERT_TRUE((*store_->find_disk("web1"))->take_snapshot("h-20260101-1400", {}));
  to("2026-01-01T13:00Z");
  EXPECT_NE(last().at("skipped").at(0).get<std::string>().find("already"), std::string::npos);
  ASSERT_TRUE(store_->set_limits({.snapshots = 2, .snapshot_bytes = {}, .live_bytes = {}}));
  to("2026-01-01T14:00Z");
  EXPECT_EQ(names("web1").size(), 2U);
  EXPECT_NE(last().at("skipped").at(0).get<std::string>().find("limit"), std::string::npos);
}

TEST_F(PolicyTest, DeletesOnlyWhatItTookAndNeedNotKeep) {
  auto policy = hourly();
  policy["keep"] = {{"last", 2U}};
  add(policy);
  ASSERT_TRUE((*store_->find_disk("web1"))->take_snapshot("by-hand", {}));
  commit_all();
  for (const char* time : {"2026-01-01T11:00Z", "2026-01-01T12:00Z", "2026-01-01T13:00Z", "2026-01-01T14:00Z"}) {
    to(time);
    commit_all();
    if (std::string(time) != "2026-01-01T11:00Z") continue;
    const auto first = (*store_->find_disk("web2"))->find_snapshot("h-20260101-1200");
    ASSERT_TRUE((*store_->find_disk("web2"))->change_snapshot_care(first->id, [](Care& care) -> Status {
      care.hold = "why";
      return {};
    }));
  }
  EXPECT_EQ(names("web1"), (Names{"by-hand", "h-20260101-1400", "h-20260101-1500"}));
  EXPECT_EQ(names("web2"), (Names{"h-20260101-1200", "h-20260101-1400", "h-20260101-1500"}));
}

TEST_F(PolicyTest, PausedItRestsAndResumedItDoesNotMakeUp) {
  add(hourly());
  ASSERT_TRUE(run({{"action", "pause"}, {"name", "hourly"}}));
  to("2026-01-01T15:30Z");
  EXPECT_TRUE(names("web1").empty());
  ASSERT_TRUE(run({{"action", "resume"}, {"name", "hourly"}}));
  store_->step_schedule();
  EXPECT_TRUE(names("web1").empty());
  EXPECT_EQ(run({{"action", "show"}, {"name", "hourly"}})->at("next").get<std::string>().substr(0, 16),
            "2026-01-01T16:00");
  ASSERT_TRUE(run({{"action", "run"}, {"name", "hourly"}}));
  EXPECT_EQ(names("web1"), (Names{"h-20260101-1630"}));
  ASSERT_TRUE(run({{"action", "remove"}, {"name", "hourly"}}));
  EXPECT_EQ(names("web1").size(), 1U);
  EXPECT_EQ(run({{"action", "show"}, {"name", "hourly"}}).error().code, ENOENT);
}

TEST_F(PolicyTest, AClockThatWasSetBackDoesNotSilenceIt) {
  add(hourly());
  to("2027-01-01T00:00Z");
  commit_all();
  to("2026-01-01T10:00Z");
  to("2026-01-01T10:30Z");
  EXPECT_EQ(names("web1").size(), 1U);
}

TEST_F(PolicyTest, BadOnesAreRefusedWithASentence) {
  const auto refused = [&](const char* key, const json& value) {
    auto policy = hourly();
    policy[key] = value;
    const auto added = run({{"action", "add"}, {"policy", policy}});
    ASSERT_FALSE(added) << policy;
    EXPECT_EQ(added.error().code, EINVAL) << policy;
    EXPECT_FALSE(added.error().message.empty());
  };
  refused("name", "a/b");
  refused("name", "");
  refused("disks", json::array());
  refused("disks", json::array({5}));
  refused("every", 0);
  refused("every", -5);
  refused("every", UINT64_MAX);
  refused("at", json::array({"02:30"}));
  refused("days", json::array({"mon"}));
  refused("pattern", "%D");
  refused("pattern", ".hidden");
  refused("pattern", "");
  refused("keep", json{{"last", -1}});
  refused("paused", true);
  refused("last", json::object());
  auto at_times = hourly();
  at_times.erase("every");
  for (const char* bad : {"24:00", "2:30", "02:60", "noon", ""}) {
    at_times["at"] = {bad};
    EXPECT_FALSE(run({{"action", "add"}, {"policy", at_times}})) << bad;
  }
  at_times["at"] = {"14:30", "02:30", "14:30"};
  at_times["days"] = {"sun", "mon"};
  add(at_times);
  EXPECT_EQ(run({{"action", "add"}, {"policy", at_times}}).error().code, EEXIST);
  EXPECT_EQ(run({{"action", "show"}, {"name", "hourly"}})->at("at"), (json{"02:30", "14:30"}));
  EXPECT_EQ(run({{"action", "dance"}, {"name", "hourly"}}).error().code, EINVAL);
}

TEST_F(PolicyTest, AFileThatCannotBeReadIsNamedAndTheStoreIsServed) {
  add(hourly());
  store_.reset();
  auto bytes = os::read_file(machine_.storage, kPoliciesFile, ByteCount{kMiB});
  ASSERT_TRUE(bytes);
  (*bytes)[bytes->size() / 2] ^= std::byte{1};
  ASSERT_TRUE(os::replace_file_durably(machine_.storage, kPoliciesFile, *bytes));
  open();
  EXPECT_EQ(store_->disks().size(), 3U);
  const auto listed = run({{"action", "list"}});
  ASSERT_FALSE(listed);
  EXPECT_EQ(listed.error().kind, ErrorKind::damaged);
  EXPECT_NE(listed.error().message.find("policies.json"), std::string::npos);
  EXPECT_FALSE(run({{"action", "add"}, {"policy", hourly()}}));
  to("2026-01-05T00:00Z");
  EXPECT_TRUE(names("web1").empty());
  const auto checked = store_->check({}, {});
  ASSERT_TRUE(checked);
  ASSERT_EQ(checked->problems.size(), 1U);
  EXPECT_NE(checked->problems[0].find("policies.json"), std::string::npos);
}

}  // namespace
}  // namespace varve::store
