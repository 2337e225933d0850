// Which snapshots are kept: the semantics of `restic forget`, worked out by hand.
#include "../../src/store/retention.h"

#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>

#include "local_time.h"

namespace varve::store {
namespace {

using nlohmann::json;
using test::at;

class RetentionTest : public ::testing::Test {
 protected:
  void add(const std::string& text) {
    SnapshotInfo info;
    info.id = SnapshotId{snapshots_.size() + 1};
    info.name = text;
    info.time = at(text);
    snapshots_.push_back(std::move(info));
  }
  /// Name to reasons of what is kept.
  std::map<std::string, std::string> kept(const Retention& retention, const std::string& now = "2030-01-01") {
    std::map<std::string, std::string> out;
    for (const Judged& one : judge(snapshots_, retention, at(now))) {
      if (one.reasons.empty()) continue;
      std::string all;
      for (const auto& reason : one.reasons) all += (all.empty() ? "" : ", ") + reason;
      out[one.snapshot.name] = all;
    }
    return out;
  }
  using Kept = std::map<std::string, std::string>;

  test::CentralEuropeanTime zone_;
  std::vector<SnapshotInfo> snapshots_;
};

TEST_F(RetentionTest, KeepsTheLastOfEachDayThatHasSome) {
  for (const char* time : {"2026-01-01T10:00Z", "2026-01-01T20:00Z", "2026-01-03T08:00Z", "2026-01-03T09:00Z",
                           "2026-01-04T08:00Z"}) {
    add(time);
  }
  Retention retention;
  retention.daily = 2;
  EXPECT_EQ(kept(retention), (Kept{{"2026-01-04T08:00Z", "daily snapshot"}, {"2026-01-03T09:00Z", "daily snapshot"}}));
}

TEST_F(RetentionTest, DaysAreThoseOfTheLocalTimeZone) {
  // 23:30 UTC is half past midnight of the next day here.
  add("2026-01-01T22:30Z");
  add("2026-01-01T23:30Z");
  add("2026-01-02T10:00Z");
  Retention retention;
  retention.daily = 2;
  EXPECT_EQ(kept(retention), (Kept{{"2026-01-02T10:00Z", "daily snapshot"}, {"2026-01-01T22:30Z", "daily snapshot"}}));
}

TEST_F(RetentionTest, TheOldestIsKeptByARuleThatHasSomeLeft) {
  add("2026-01-01T10:00Z");
  add("2026-01-01T11:00Z");
  add("2026-01-01T12:00Z");
  Retention retention;
  retention.daily = 5;
  EXPECT_EQ(kept(retention),
            (Kept{{"2026-01-01T12:00Z", "daily snapshot"}, {"2026-01-01T10:00Z", "oldest daily snapshot"}}));
  retention.daily = 1;
  EXPECT_EQ(kept(retention), (Kept{{"2026-01-01T12:00Z", "daily snapshot"}}));
}

TEST_F(RetentionTest, RulesAddUpAndEachSaysWhy) {
  for (const char* time : {"2024-12-31T10:00Z", "2025-06-30T10:00Z", "2025-12-29T10:00Z", "2025-12-31T10:00Z",
                           "2026-01-01T10:00Z"}) {
    add(time);
  }
  Retention retention;
  retention.last = 1;
  retention.weekly = 2;
  retention.monthly = 2;
  retention.yearly = kKeepAll;
  // The 29th, the 31st and the 1st are of one week of ISO 8601.
  EXPECT_EQ(kept(retention), (Kept{{"2026-01-01T10:00Z", "last snapshot, weekly snapshot, monthly snapshot, yearly snapshot"},
                                   {"2025-12-31T10:00Z", "monthly snapshot, yearly snapshot"},
                                   {"2025-06-30T10:00Z", "weekly snapshot"},
                                   {"2024-12-31T10:00Z", "yearly snapshot"}}));
}

TEST_F(RetentionTest, HoursAreToldApartAcrossDays) {
  add("2026-01-01T10:10Z");
  add("2026-01-01T10:50Z");
  add("2026-01-02T10:10Z");
  Retention retention;
  retention.hourly = 2;
  EXPECT_EQ(kept(retention), (Kept{{"2026-01-02T10:10Z", "hourly snapshot"}, {"2026-01-01T10:50Z", "hourly snapshot"}}));
}

TEST_F(RetentionTest, WithinIsCountedBackFromTheNewestThatIsNotInTheFuture) {
  for (const char* time : {"2026-01-31T12:00Z", "2026-02-27T11:00Z", "2026-02-27T13:00Z", "2026-02-28T12:00Z",
                           "2027-01-01T00:00Z"}) {
    add(time);
  }
  Retention retention;
  retention.within = {.years = 0, .months = 0, .days = 1, .hours = 0};
  EXPECT_EQ(kept(retention, "2026-03-01"), (Kept{{"2027-01-01T00:00Z", "within 1d"},
                                                 {"2026-02-28T12:00Z", "within 1d"},
                                                 {"2026-02-27T13:00Z", "within 1d"}}));
  retention.within = {.years = 0, .months = 1, .days = 0, .hours = 1};
  EXPECT_EQ(kept(retention, "2026-03-01").size(), 5U);
}

TEST_F(RetentionTest, WhatIsHeldIsKeptAndCountsAsAnyOther) {
  add("2026-01-01T10:00Z");
  add("2026-01-02T10:00Z");
  add("2026-01-03T10:00Z");
  snapshots_[1].care.hold = "audit";
  Retention retention;
  retention.last = 1;
  EXPECT_EQ(kept(retention), (Kept{{"2026-01-03T10:00Z", "last snapshot"}, {"2026-01-02T10:00Z", "held: audit"}}));
  snapshots_[2].care.hold = "";
  EXPECT_EQ(kept(retention), (Kept{{"2026-01-03T10:00Z", "held: , last snapshot"}, {"2026-01-02T10:00Z", "held: audit"}}));
}

TEST_F(RetentionTest, NothingKeepsNothing) {
  EXPECT_TRUE(judge({}, {}, at("2026-01-01")).empty());
  add("2026-01-01T10:00Z");
  EXPECT_TRUE(kept({}).empty());
}

TEST(RetentionText, SpansAreReadAndWritten) {
  EXPECT_EQ(to_text(parse_span("2y5m7d3h").value()), "2y5m7d3h");
  EXPECT_EQ(to_text(parse_span("30d").value()), "30d");
  for (const char* bad : {"", "d", "5", "3d2y", "1d1d", "-1d", "1w", "10000d", "0d", "99999999999999999999h", "1d "}) {
    const auto span = parse_span(bad);
    ASSERT_FALSE(span) << bad;
    EXPECT_EQ(span.error().code, EINVAL) << bad;
  }
}

TEST(RetentionText, RulesComeBackFromJson) {
  Retention retention;
  retention.last = 3;
  retention.yearly = kKeepAll;
  retention.within = {1, 2, 3, 4};
  EXPECT_EQ(retention_from_json(to_json(retention)).value(), retention);
  EXPECT_EQ(retention_from_json(json::object()).value(), Retention{});
  for (const char* bad : {R"([])", R"({"last":-1})", R"({"last":"some"})", R"({"last":1000001})", R"({"secondly":1})",
                          R"({"within":5})", R"({"within":"5"})"}) {
    EXPECT_FALSE(retention_from_json(json::parse(bad))) << bad;
  }
}

}  // namespace
}  // namespace varve::store
