// The records of holds, deadlines, the trash, hidden disks and limits: every beginning of a log that has them adds up to what
// was true then, with and without checkpoints; one that is malformed, or contradicts those before it, is damage that names
// the object and says why; and what could not be read is never written.
#include <functional>

#include "log_fixture.h"

namespace varve::catalog::test {
namespace {

using nlohmann::json;

constexpr SnapshotId kFirst{1};
constexpr SnapshotId kSecond{2};
constexpr SnapshotId kThird{3};

Care held(const std::string& why) {
  Care care;
  care.hold = why;
  return care;
}
Care ending(std::int64_t when) {
  Care care;
  care.deadline = Time{when};
  return care;
}
Care trashed(std::int64_t since, std::int64_t until) {
  Care care;
  care.trashed = Trashed{Time{since}, Time{until}};
  return care;
}

class CareRecordsTest : public LogTest {
 protected:
  using Append = std::function<Status(DiskLog&)>;

  /// Record 1 is `created`, step i is record i + 2.
  static std::vector<Append> steps() {
    const auto take = [](std::uint64_t id, const std::string& name, const Care& care) -> Append {
      SnapshotEntry entry = snapshot(id, name);
      entry.care = care;
      return [entry](DiskLog& log) { return log.append_snapshot(entry); };
    };
    const auto care = [](SnapshotId id, const std::string& name, const Care& to) -> Append {
      return [=](DiskLog& log) { return log.append_snapshot_care(id, name, to); };
    };
    const auto limits = [](const Limits& to) -> Append { return [=](DiskLog& log) { return log.append_limits(to); }; };
    const auto hidden = [](bool is) -> Append { return [=](DiskLog& log) { return log.append_hidden(is); }; };
    Care by_policy = ending(50);
    by_policy.policy = "nightly";
    return {
        take(1, "a", {}),                      // 2
        take(2, "b", held("")),                // 3
        care(kFirst, "a", held("because")),    // 4
        limits({5, std::nullopt, 7}),          // 5
        care(kFirst, "a", ending(-1)),         // 6
        care(kFirst, "a", trashed(100, 200)),  // 7
        take(3, "a", by_policy),               // 8: the name is free again
        care(kFirst, "c", {}),                 // 9: comes back by another
        limits({}),                            // 10
        care(kSecond, "b", {}),                // 11
        care(kSecond, "b", trashed(1, 2)),     // 12
        care(kFirst, "c", trashed(1, 2)),      // 13
        care(kThird, "a", trashed(INT64_MIN, INT64_MAX)),                   // 14
        hidden(true),                                                       // 15
        [](DiskLog& log) { return log.append_deleted(kSecond); },           // 16: out of the trash
        hidden(false),                                                      // 17
        care(kThird, "a", {}),                                              // 18
        limits({0, UINT64_MAX, 0}),                                         // 19
        [](DiskLog& log) { return log.append_snapshot_renamed(kThird, "b"); },  // 20
        [](DiskLog& log) { return log.append_deleted(kThird); },            // 21
        [](DiskLog& log) { return log.append_deleted(kFirst); },            // 22
        [](DiskLog& log) { return log.append_removed(); },                  // 23
    };
  }

  /// The states after each record.
  std::vector<std::shared_ptr<const DiskState>> write(bool checkpoints) {
    auto log = create();
    std::vector<std::shared_ptr<const DiskState>> states{log->state()};
    for (const Append& step : steps()) {
      EXPECT_OK(step(*log));
      if (checkpoints) EXPECT_OK(log->checkpoint_if_due());
      states.push_back(log->state());
    }
    return states;
  }

  void expect_refused(std::uint64_t number, const std::string& what, const std::function<void(json&)>& edit,
                      const std::string& says) {
    const std::string original = objects.get(record_name(number));
    json content = json::parse(original);
    edit(content);
    objects.set(record_name(number), sealed(content));
    const Error error = open_error();
    EXPECT_EQ(error.code, EIO) << what;
    EXPECT_EQ(error.kind, ErrorKind::damaged) << what;
    EXPECT_NE(error.message.find(record_name(number)), std::string::npos) << what << ": " << error.message;
    EXPECT_NE(error.message.find(says), std::string::npos) << what << ": " << error.message;
    const auto problems = verify();
    ASSERT_FALSE(problems.empty()) << what;
    EXPECT_NE(problems.front().find(record_name(number)), std::string::npos) << what << ": " << problems.front();
    objects.set(record_name(number), original);
  }
};

TEST_F(CareRecordsTest, EveryBeginningOfALogIsWhatWasTrueThen) {
  const auto states = write(false);
  const auto all = objects.contents();
  for (std::uint64_t number = states.size(); number >= 1; --number) {
    const auto log = open();
    ASSERT_NE(log, nullptr);
    EXPECT_TRUE(same(*log->state(), *states[number - 1])) << "after record " << number;
    EXPECT_TRUE(verify().empty()) << "after record " << number;
    EXPECT_OK(objects.remove(record_name(number)));
  }
  objects.replace(all);
  EXPECT_TRUE(open()->state()->removed);
}

TEST_F(CareRecordsTest, ACheckpointAfterAnyRecordSaysTheSame) {
  const auto steps = CareRecordsTest::steps();
  // So many other records first that the checkpoint comes after each of these in turn.
  for (std::size_t before = 0; before < steps.size(); ++before) {
    objects.replace({});
    auto log = create();
    for (std::size_t i = 0; i < before; ++i) EXPECT_OK(steps[i](*log));
    const auto state = log->state();
    for (int i = 0; i < 8 && !state->removed; ++i) EXPECT_OK(log->append_disk_renamed("web01"));
    EXPECT_OK(log->checkpoint_if_due());
    const auto reopened = open();
    ASSERT_NE(reopened, nullptr);
    EXPECT_TRUE(same(*reopened->state(), *state)) << "after " << before << " records";
    EXPECT_TRUE(verify().empty()) << "after " << before << " records";
    // What it was made from is not needed to go on.
    if (before < steps.size()) EXPECT_OK(steps[before](*reopened));
  }
}

TEST_F(CareRecordsTest, WhatIsMalformedIsDamageAndSaysWhy) {
  write(false);
  expect_refused(4, "no care", [](json& j) { j.erase("care"); }, "care");
  expect_refused(4, "care of another type", [](json& j) { j["care"] = json::array(); }, "care");
  expect_refused(4, "an unknown member", [](json& j) { j["care"]["holder"] = "x"; }, "holder");
  expect_refused(4, "a hold that is no text", [](json& j) { j["care"]["hold"] = true; }, "hold");
  expect_refused(4, "a hold with a control character", [](json& j) { j["care"]["hold"] = "a\nb"; }, "hold");
  expect_refused(4, "a hold that is too long", [](json& j) { j["care"]["hold"] = std::string(kMaxHoldSize + 1, 'x'); }, "hold");
  expect_refused(4, "no id", [](json& j) { j.erase("id"); }, "id");
  expect_refused(4, "no name", [](json& j) { j.erase("name"); }, "name");
  expect_refused(4, "an impossible name", [](json& j) { j["name"] = ".."; }, "name");
  expect_refused(6, "a deadline that is no number", [](json& j) { j["care"]["deadline"] = "2030-01-01"; }, "deadline");
  expect_refused(6, "a deadline out of range", [](json& j) { j["care"]["deadline"] = UINT64_MAX; }, "deadline");
  expect_refused(6, "a fraction of a deadline", [](json& j) { j["care"]["deadline"] = 0.5; }, "deadline");
  expect_refused(7, "in the trash without an end", [](json& j) { j["care"].erase("until"); }, "until");
  expect_refused(7, "an end of no beginning", [](json& j) { j["care"].erase("trashed"); }, "trashed");
  expect_refused(7, "held in the trash", [](json& j) { j["care"]["hold"] = "x"; }, "held");
  expect_refused(8, "a policy that can have no such name", [](json& j) { j["snapshot"]["care"]["policy"] = "a/b"; }, "policy");
  expect_refused(5, "no limits", [](json& j) { j.erase("limits"); }, "limits");
  expect_refused(5, "a negative limit", [](json& j) { j["limits"]["snapshots"] = -1; }, "snapshots");
  expect_refused(5, "a limit of nothing", [](json& j) { j["limits"]["snapshots"] = nullptr; }, "snapshots");
  expect_refused(5, "an unknown limit", [](json& j) { j["limits"]["disks"] = 1; }, "disks");
  expect_refused(15, "hidden or not", [](json& j) { j["hidden"] = 1; }, "hidden");
  expect_refused(15, "hidden what", [](json& j) { j.erase("hidden"); }, "hidden");
}

TEST_F(CareRecordsTest, WhatContradictsTheRecordsBeforeItIsDamageAndSaysWhy) {
  write(false);
  const std::string contradicts = "contradicts the records before it";
  expect_refused(4, "care of what never was", [](json& j) { j["id"] = 9; }, contradicts);
  expect_refused(4, "a name that is another's", [](json& j) { j["name"] = "b"; }, contradicts);
  expect_refused(9, "back by a name that was given away", [](json& j) { j["name"] = "a"; }, contradicts);
  expect_refused(18, "care of what was deleted", [](json& j) { j["id"] = 2; }, contradicts);
  expect_refused(18, "back while its disk is hidden",
                 [this](json& j) {
                   // As if record 17 had not been.
                   json seventeen = json::parse(objects.get(record_name(17)));
                   seventeen["hidden"] = true;
                   objects.set(record_name(17), sealed(seventeen));
                   j["name"] = "a";
                 },
                 "in the trash");
}

TEST_F(CareRecordsTest, AHiddenDiskHasNothingButItsTrash) {
  write(false);
  for (std::uint64_t number = 15; number <= 23; ++number) EXPECT_OK(objects.remove(record_name(number)));
  expect_refused(14, "hidden with a snapshot that users see",
                 [](json& j) {
                   j["type"] = "hidden";
                   j["hidden"] = true;
                 },
                 "still has");
}

TEST_F(CareRecordsTest, WhatCouldNotBeReadIsNotWritten) {
  auto log = create();
  EXPECT_OK(log->append_snapshot(snapshot(1, "a")));
  EXPECT_OK(log->append_snapshot(snapshot(2, "b")));
  EXPECT_OK(log->append_deleted(kFirst));
  const auto before = objects.contents();
  EXPECT_REFUSED(log->append_snapshot_care(kFirst, "a", held("x")), ENOENT);
  EXPECT_REFUSED(log->append_snapshot_care(kThird, "a", {}), ENOENT);
  EXPECT_REFUSED(log->append_snapshot_renamed(kFirst, "c"), ENOENT);
  EXPECT_REFUSED(log->append_snapshot_care(kSecond, "b", held("a\tb")), EINVAL);
  EXPECT_REFUSED(log->append_snapshot_care(kSecond, "a/b", {}), EINVAL);
  Care both = trashed(1, 2);
  both.hold = "x";
  EXPECT_REFUSED(log->append_snapshot_care(kSecond, "b", both), EINVAL);
  EXPECT_REFUSED(log->append_hidden(true), ENOTEMPTY);
  EXPECT_OK(log->append_snapshot_care(kSecond, "b", trashed(1, 2)));
  EXPECT_REFUSED(log->append_snapshot_renamed(kSecond, "c"), ENOENT);
  EXPECT_OK(log->append_hidden(true));
  EXPECT_REFUSED(log->append_snapshot(snapshot(4, "d")), ENOENT);
  EXPECT_REFUSED(log->append_snapshot_care(kSecond, "b", {}), ENOENT);
  EXPECT_EQ(objects.contents().size(), before.size() + 2);
  EXPECT_TRUE(same(*open()->state(), *log->state()));
}

}  // namespace
}  // namespace varve::catalog::test
