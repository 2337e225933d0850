// No format is trusted: whatever the bytes are, a log opens with the right state or says which object is bad.
#include <functional>
#include <nlohmann/json.hpp>

#include "log_fixture.h"

namespace varve::catalog::test {
namespace {

using nlohmann::json;

class HostileTest : public LogTest {
 protected:
  /// created, two snapshots, a deletion, names and attributes: 7 records.
  void write_small_log() {
    auto log = create();
    EXPECT_OK(log->append_snapshot(snapshot(1, "a")));
    SnapshotEntry second = snapshot(2, "ü");
    second.image.xattrs["user.x"] = "\x01\xff";
    EXPECT_OK(log->append_snapshot(second));
    EXPECT_OK(log->append_deleted(SnapshotId{1}));
    EXPECT_OK(log->append_snapshot_renamed(SnapshotId{2}, "c"));
    EXPECT_OK(log->append_disk_renamed("web02"));
    EXPECT_OK(log->append_disk_attributes(some_attributes(1), some_attributes(2)));
    good_ = log->state();
  }

  void expect_right_or_named(const std::string& object, const std::string& what) {
    const auto log = DiskLog::open(objects, kDisk);
    if (log) {
      EXPECT_TRUE(same(*(*log)->state(), *good_)) << what << " is taken for another state";
      return;
    }
    EXPECT_EQ(log.error().code, EIO) << what;
    EXPECT_EQ(log.error().kind, ErrorKind::damaged) << what;
    EXPECT_NE(log.error().message.find(object), std::string::npos) << what << ": " << log.error().message;
  }

  /// Record `number` with `edit` done to it and a right checksum; the log must not open, naming it.
  void expect_edit_refused(std::uint64_t number, const std::function<void(json&)>& edit, const std::string& what) {
    const std::string original = objects.get(record_name(number));
    json content = json::parse(original);
    edit(content);
    objects.set(record_name(number), sealed(content));
    const Error error = open_error();
    EXPECT_EQ(error.kind, ErrorKind::damaged) << what;
    EXPECT_NE(error.message.find(record_name(number)), std::string::npos) << what << ": " << error.message;
    EXPECT_FALSE(verify().empty()) << what;
    objects.set(record_name(number), original);
  }

  std::shared_ptr<const DiskState> good_;
};

TEST_F(HostileTest, EveryFlippedBitOfARecordIsFoundAndNamed) {
  write_small_log();
  for (const auto& [name, text] : objects.contents()) {
    for (std::size_t i = 0; i < text.size(); ++i) {
      for (int bit = 0; bit < 8; ++bit) {
        std::string bad = text;
        bad[i] = static_cast<char>(bad[i] ^ (1 << bit));
        objects.set(name, bad);
        expect_right_or_named(name, fmt::format("{} with bit {} of byte {} flipped", name, bit, i));
      }
    }
    objects.set(name, text);
  }
}

TEST_F(HostileTest, EveryTruncationOfARecordIsFoundAndNamed) {
  write_small_log();
  for (const auto& [name, text] : objects.contents()) {
    for (std::size_t size = 0; size < text.size(); ++size) {
      objects.set(name, text.substr(0, size));
      expect_right_or_named(name, fmt::format("{} cut to {} bytes", name, size));
    }
    objects.set(name, text);
  }
}

TEST_F(HostileTest, ADamagedCheckpointNeverChangesTheState) {
  auto log = create();
  for (std::uint64_t id = 1; id < 8; ++id) {
    EXPECT_OK(log->append_snapshot(snapshot(id, fmt::format("s{}", id))));
  }
  EXPECT_OK(log->checkpoint_if_due());
  good_ = log->state();
  const std::string name = checkpoint_name(8);
  const std::string text = objects.get(name);
  ASSERT_FALSE(text.empty());
  for (std::size_t i = 0; i < text.size(); ++i) {
    std::string bad = text;
    bad[i] = static_cast<char>(bad[i] ^ (1 << (i % 8)));
    objects.set(name, bad);
    const auto reopened = DiskLog::open(objects, kDisk);
    ASSERT_TRUE(reopened) << reopened.error().message;
    EXPECT_TRUE(same(*(*reopened)->state(), *good_)) << "byte " << i;
  }
}

TEST_F(HostileTest, ACheckpointWithARightChecksumStillKeepsTheRules) {
  auto log = create();
  for (std::uint64_t id = 1; id < 8; ++id) {
    EXPECT_OK(log->append_snapshot(snapshot(id, fmt::format("s{}", id))));
  }
  EXPECT_OK(log->checkpoint_if_due());
  const json original = json::parse(objects.get(checkpoint_name(8)));
  const std::vector<std::function<void(json&)>> edits{
      [](json& j) { j["high_water"] = 6; },
      [](json& j) { j["removed"] = true; },
      [](json& j) { j["snapshots"][1]["id"] = 1; },
      [](json& j) { j["snapshots"][1]["name"] = "s1"; },
      [](json& j) { j["snapshots"][1] = 5; },
      [](json& j) { j["snapshots"] = json::object(); },
      [](json& j) { j["snapshots"][0]["id"] = 0; },
      [](json& j) { j["name"] = "a/b"; },
      [](json& j) { j["number"] = 9; },
      [](json& j) { j["disk"] = 8; },
      [](json& j) { j["directory"]["mode"] = 4096; },
      [](json& j) { j["snapshots"][3]["parent"] = 4; },
  };
  for (std::size_t i = 0; i < edits.size(); ++i) {
    json content = original;
    edits[i](content);
    objects.set(checkpoint_name(8), sealed(content));
    EXPECT_EQ(verify().size(), 1u) << i;
    EXPECT_TRUE(same(*open()->state(), *log->state())) << i;
  }
  // A state that breaks no rule, but is not what the records say: only check can tell.
  json content = original;
  content["name"] = "other";
  objects.set(checkpoint_name(8), sealed(content));
  EXPECT_EQ(verify().size(), 1u);
}

TEST_F(HostileTest, WrongContentWithARightChecksumIsDamageNamingTheObject) {
  write_small_log();
  using Edit = std::function<void(json&)>;
  const std::vector<std::tuple<std::uint64_t, const char*, Edit>> edits{
      {1, "no name", [](json& j) { j.erase("name"); }},
      {1, "a name of another type", [](json& j) { j["name"] = 5; }},
      {1, "a name with a slash", [](json& j) { j["name"] = "../x"; }},
      {1, "another type of record", [](json& j) { j["type"] = "renamed"; }},
      {2, "created twice",
       [](json& j) { j["type"] = "created", j["name"] = "x", j["directory"] = j["snapshot"]["image"]; }},
      {2, "an unknown type", [](json& j) { j["type"] = "frobnicated"; }},
      {2, "no entry", [](json& j) { j.erase("snapshot"); }},
      {2, "an array for an entry",
       [](json& j) {
         j["snapshot"] = json::array({1, 2});
       }},
      {2, "id 0", [](json& j) { j["snapshot"]["id"] = 0; }},
      {2, "a negative id", [](json& j) { j["snapshot"]["id"] = -1; }},
      {2, "a fraction for an id", [](json& j) { j["snapshot"]["id"] = 1.5; }},
      {2, "a float for an id", [](json& j) { j["snapshot"]["id"] = 1.0; }},
      {2, "a text for an id", [](json& j) { j["snapshot"]["id"] = "1"; }},
      {2, "an id that wraps", [](json& j) { j["snapshot"]["id"] = UINT64_MAX; }},
      {2, "an id at the limit", [](json& j) { j["snapshot"]["id"] = kIdLimit; }},
      {2, "its own parent", [](json& j) { j["snapshot"]["parent"] = 1; }},
      {2, "an impossible size", [](json& j) { j["snapshot"]["size"] = (std::uint64_t{1} << 54) + 1; }},
      {2, "a time out of range", [](json& j) { j["snapshot"]["time"] = std::uint64_t{1} << 63; }},
      {2, "a root that is none", [](json& j) { j["snapshot"]["root"] = "xyz"; }},
      {2, "a mode with a file type", [](json& j) { j["snapshot"]["image"]["mode"] = 0100644; }},
      {2, "an owner out of range", [](json& j) { j["snapshot"]["image"]["owner"] = std::uint64_t{1} << 32; }},
      {2, "an xattr of another namespace", [](json& j) { j["snapshot"]["image"]["xattrs"]["trusted.x"] = ""; }},
      {2, "an xattr that is not hex", [](json& j) { j["snapshot"]["image"]["xattrs"]["user.x"] = "0g"; }},
      {2, "an xattr of half a byte", [](json& j) { j["snapshot"]["image"]["xattrs"]["user.x"] = "abc"; }},
      {2, "an xattr name cut in its escape", [](json& j) { j["snapshot"]["image"]["xattrs"]["user.%4"] = ""; }},
      {2, "an xattr name escaped in vain", [](json& j) { j["snapshot"]["image"]["xattrs"]["user.%61"] = ""; }},
      {2, "xattrs of another type", [](json& j) { j["snapshot"]["image"]["xattrs"] = "x"; }},
      {3, "an id used before", [](json& j) { j["snapshot"]["id"] = 1; }},
      {3, "a name used before", [](json& j) { j["snapshot"]["name"] = "a"; }},
      {4, "an unknown snapshot deleted", [](json& j) { j["id"] = 3; }},
      {5, "a deleted snapshot renamed", [](json& j) { j["id"] = 1; }},
      {6, "removed with snapshots", [](json& j) { j["type"] = "removed"; }},
      {7, "another number", [](json& j) { j["number"] = 6; }},
      {7, "another disk", [](json& j) { j["disk"] = 8; }},
      {7, "no nonce", [](json& j) { j.erase("nonce"); }},
      {7, "a short nonce", [](json& j) { j["nonce"] = "abc"; }},
      {7, "no time", [](json& j) { j.erase("time"); }},
      {7, "format 0", [](json& j) { j["format"] = 0; }},
      {7, "no format", [](json& j) { j.erase("format"); }},
  };
  for (const auto& [number, what, edit] : edits) expect_edit_refused(number, edit, what);
  EXPECT_TRUE(same(*open()->state(), *good_));
  EXPECT_TRUE(verify().empty());
}

TEST_F(HostileTest, ANewerFormatIsSaidToBeNewer) {
  write_small_log();
  json content = json::parse(objects.get(record_name(3)));
  content["format"] = 2;
  objects.set(record_name(3), sealed(content));
  const Error error = open_error();
  EXPECT_EQ(error.code, EIO);
  EXPECT_NE(error.message.find(record_name(3)), std::string::npos);
  EXPECT_NE(error.message.find("upgrade varve"), std::string::npos) << error.message;
}

TEST_F(HostileTest, WhatIsNotAnObjectOfOursIsDamage) {
  write_small_log();
  const std::string name = record_name(7);
  const auto repeat = [](std::string_view text, std::size_t times) {
    std::string out;
    for (std::size_t i = 0; i < times; ++i) out += text;
    return out;
  };
  const std::vector<std::string> texts{"",
                                       "null",
                                       "[]",
                                       "5",
                                       "\"x\"",
                                       "{}",
                                       "{\"a\":",
                                       "\xFF\xFE{}",
                                       "{\"format\":1,\"checksum\":\"\"}",
                                       "{\"format\":1e400,\"checksum\":\"\"}",
                                       "{\"format\":99999999999999999999999,\"checksum\":\"\"}",
                                       std::string("{\"a\":\"\0\"}", 9),
                                       "{\"a\":\"\\ud800\"}",
                                       repeat("[", 1'000'000),
                                       repeat("{\"a\":", 1'000'000),
                                       "[" + repeat("[],", 5'000'000) + "[]]",
                                       repeat("\\", 1000),
                                       "\"" + repeat("\\", 1001)};
  for (const std::string& text : texts) {
    objects.set(name, text);
    expect_right_or_named(name, text.substr(0, 40));
    EXPECT_NE(open_error().message, "") << text.substr(0, 40);
  }
}

TEST_F(HostileTest, AnObjectThatIsTooLargeIsNotRead) {
  write_small_log();
  objects.set(record_name(7), std::string(static_cast<std::size_t>(kMaxRecordSize.value()) + 1, ' '));
  const std::uint64_t before = objects.reads();
  EXPECT_NE(open_error().message.find(record_name(7)), std::string::npos);
  EXPECT_EQ(objects.reads() - before, 6u);
}

TEST_F(HostileTest, AMissingRecordIsNamed) {
  write_small_log();
  const auto all = objects.contents();
  for (std::uint64_t number = 1; number < 7; ++number) {
    EXPECT_OK(objects.remove(record_name(number)));
    EXPECT_NE(open_error().message.find(record_name(number) + " is missing"), std::string::npos);
    const auto problems = verify();
    ASSERT_FALSE(problems.empty());
    EXPECT_EQ(problems.front(), record_name(number) + ": missing");
    objects.replace(all);
  }
}

TEST_F(HostileTest, AnAbsurdNumberIsAGapFoundAtOnce) {
  write_small_log();
  objects.set("disks/00000007/log/9223372036854775807.json", "{}");
  EXPECT_NE(open_error().message.find(record_name(8) + " is missing"), std::string::npos);
  EXPECT_EQ(verify().size(), 2u);
}

TEST_F(HostileTest, NamesThatAreNotNumbersAreLeftAloneAndReported) {
  write_small_log();
  for (const char* name : {"readme.txt", "0000000008.json~", "8.json", "00000000008.json", "+000000008.json",
                           "0000000000.json", "18446744073709551616.json", "-000000001.json"}) {
    objects.set(std::string("disks/00000007/log/") + name, "x");
  }
  EXPECT_TRUE(same(*open()->state(), *good_));
  EXPECT_EQ(verify().size(), 8u);
}

TEST_F(HostileTest, LosingTheNewestRecordsBelowAnUnreadableCheckpointIsNoticed) {
  auto log = create();
  for (int i = 0; i < 10; ++i) {
    EXPECT_OK(log->append_disk_renamed(fmt::format("n{}", i)));
  }
  EXPECT_OK(log->checkpoint_if_due());
  objects.set(checkpoint_name(11), "damaged");
  EXPECT_OK(objects.remove(record_name(11)));
  EXPECT_NE(open_error().message.find(record_name(11) + " is missing"), std::string::npos);
}

TEST_F(HostileTest, DamageInOneRecordIsReportedOnceAndCheckGoesOn) {
  auto log = create();
  for (int i = 0; i < 30; ++i) {
    EXPECT_OK(log->append_disk_renamed(fmt::format("n{}", i)));
    EXPECT_OK(log->checkpoint_if_due());
  }
  objects.set(record_name(3), "damaged");
  objects.set(record_name(30), "damaged, too");
  const auto problems = verify();
  ASSERT_EQ(problems.size(), 2u);
  EXPECT_TRUE(problems[0].starts_with(record_name(3)));
  EXPECT_TRUE(problems[1].starts_with(record_name(30)));
}

}  // namespace
}  // namespace varve::catalog::test
