// The store's commands, as the socket and the command line both run them, on a real store.
#include "varve/store/commands.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <vector>

#include "support/expect.h"
#include "support/temporary_directory.h"

namespace varve::store {
namespace {

using nlohmann::json;

class Commands : public ::testing::Test {
 protected:
  void SetUp() override {
    path_ = directory_.path() + "/store";
    ASSERT_OK(Store::init(path_, {}));
    OpenOptions options;
    options.background = false;
    auto opened = Store::open(path_, options);
    ASSERT_OK(opened);
    store_ = *std::move(opened);
  }
  void TearDown() override {
    if (store_ == nullptr) return;
    EXPECT_OK(store_->close());
  }
  std::shared_ptr<Disk> make_disk(const std::string& name, char fill) {
    auto disk = store_->create_disk(name, Attributes{1000, 1000, 0755, {}});
    EXPECT_OK(disk);
    EXPECT_OK((*disk)->create_image(Attributes{1000, 1000, 0644, {}}));
    EXPECT_OK((*disk)->live().resize(ByteCount{kMiB}));
    write(**disk, fill);
    return *disk;
  }
  static void write(Disk& disk, char fill) {
    const std::vector<std::byte> bytes(256 * 1024, std::byte(fill));
    EXPECT_OK(disk.live().write(ByteOffset{65536}, bytes));
  }
  static char first_byte(Disk& disk) {
    std::vector<std::byte> bytes(1);
    EXPECT_OK(disk.live().read(ByteOffset{65536}, bytes));
    return static_cast<char>(bytes[0]);
  }
  Result<json> run(const json& request) {
    CommandContext context;
    context.user = 1234;
    context.group = 5678;
    return run_command(*store_, request, context);
  }

  test::TemporaryDirectory directory_;
  std::string path_;
  std::unique_ptr<Store> store_;
};

TEST_F(Commands, ListShowsDisksByNameAndTheirSnapshots) {
  make_disk("b", 'b');
  const auto a = make_disk("a", 'a');
  ASSERT_OK(a->take_snapshot("one", {}));
  ASSERT_OK(a->take_snapshot("two", {}));
  const auto disks = run({{"command", "list"}});
  ASSERT_OK(disks);
  ASSERT_EQ((*disks)["disks"].size(), 2u);
  EXPECT_EQ((*disks)["disks"][0]["name"], "a");
  EXPECT_EQ((*disks)["disks"][0]["snapshots"], 2);
  EXPECT_EQ((*disks)["disks"][0]["newest_snapshot"], "two");
  EXPECT_EQ((*disks)["disks"][1]["size"], kMiB);
  const auto snapshots = run({{"command", "list"}, {"disk", "a"}});
  ASSERT_OK(snapshots);
  EXPECT_EQ((*snapshots)["snapshots"][0]["name"], "one");
  EXPECT_EQ((*snapshots)["snapshots"][1]["name"], "two");
}

TEST_F(Commands, DiffSpeaksInPartsAndNamesWhatItCompared) {
  const auto disk = make_disk("a", 'a');
  ASSERT_OK(disk->take_snapshot("one", {}));
  // Every second block: 200,000 would be as well.
  ASSERT_OK(disk->live().resize(ByteCount{64 * kMiB}));
  for (std::uint64_t at = 0; at < 20 * kMiB; at += 8192) {
    const std::vector<std::byte> block(4096, std::byte('x'));
    ASSERT_OK(disk->live().write(ByteOffset{at}, block));
  }
  std::vector<std::pair<std::uint64_t, std::uint64_t>> extents;
  std::size_t parts = 0;
  CommandContext context;
  context.part = [&](const json& part) -> Status {
    ++parts;
    for (const auto& extent : part["extents"]) extents.emplace_back(extent[0], extent[1]);
    return {};
  };
  const json request{{"command", "diff"}, {"a", {{"image", "a@one"}}}, {"b", {{"disk", "a"}}}};
  const auto answer = run_command(*store_, request, context);
  ASSERT_OK(answer);
  EXPECT_EQ(extents.size(), 20 * kMiB / 8192);
  EXPECT_GT(parts, 1U);
  for (std::size_t i = 0; i < extents.size(); ++i) EXPECT_EQ(extents[i], std::pair(i * 8192, std::uint64_t{4096}));
  EXPECT_EQ((*answer)["extents"], extents.size());
  EXPECT_EQ((*answer)["bytes"], extents.size() * 4096);
  EXPECT_EQ((*answer)["a"], (json{{"disk", "a"}, {"snapshot", "one"}, {"size", kMiB}}));
  EXPECT_EQ((*answer)["b"], (json{{"disk", "a"}, {"size", 64 * kMiB}}));
  EXPECT_FAILS(run({{"command", "diff"}, {"a", {{"image", "a@one"}}}}), EINVAL);
  EXPECT_FAILS(run({{"command", "diff"}, {"a", "a@one"}, {"b", "a"}}), EINVAL);
  EXPECT_FAILS(run({{"command", "diff"}, {"a", {{"image", "a@one"}}}, {"b", {{"image", "a@two"}}}}), ENOENT);
}

TEST_F(Commands, RestoreMakesTheLiveImageTheSnapshot) {
  const auto disk = make_disk("web01", '1');
  ASSERT_OK(disk->take_snapshot("before", {}));
  write(*disk, '2');
  ASSERT_OK(run({{"command", "restore"}, {"image", "web01@before"}}));
  EXPECT_EQ(first_byte(*disk), '1');
  const auto other = make_disk("other", 'x');
  ASSERT_OK(run({{"command", "restore"}, {"disk", "web01"}, {"snapshot", "before"}, {"to", "other"}}));
  EXPECT_EQ(first_byte(*other), '1');
}

TEST_F(Commands, CloneMakesADiskOfWhoeverAsks) {
  const auto disk = make_disk("web01", '1');
  ASSERT_OK(disk->take_snapshot("before", {}));
  write(*disk, '2');
  ASSERT_OK(run({{"command", "clone"}, {"image", "web01@before"}, {"name", "web02"}}));
  ASSERT_OK(run({{"command", "clone"}, {"image", "web01"}, {"name", "web03"}}));
  const auto second = store_->find_disk("web02");
  ASSERT_OK(second);
  EXPECT_EQ(first_byte(**second), '1');
  EXPECT_EQ((*second)->directory_attributes().owner, 1234u);
  EXPECT_EQ((*second)->directory_attributes().group, 5678u);
  EXPECT_EQ(first_byte(**store_->find_disk("web03")), '2');
  EXPECT_EQ(disk->snapshots().size(), 1u) << "the one taken for the clone is gone";
  EXPECT_FAILS(run({{"command", "clone"}, {"image", "web01"}, {"name", "web02"}}), EEXIST);
}

TEST_F(Commands, NamesWithAtSignsMeanTheOneThatExists) {
  ASSERT_OK(make_disk("web@01", 'w')->take_snapshot("be@fore", {}));
  const auto found = run({{"command", "info"}, {"image", "web@01@be@fore"}});
  ASSERT_OK(found);
  EXPECT_EQ((*found)["name"], "be@fore");
  EXPECT_EQ((*run({{"command", "info"}, {"image", "web@01"}}))["name"], "web@01");
}

TEST_F(Commands, AmbiguousNamesAreRefusedAndSaidApart) {
  ASSERT_OK(make_disk("a", '1')->take_snapshot("b@c", {}));
  ASSERT_OK(make_disk("a@b", '2')->take_snapshot("c", {}));
  const auto refused = run({{"command", "restore"}, {"image", "a@b@c"}});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, EINVAL);
  EXPECT_NE(refused.error().message.find("a/b@c"), std::string::npos) << refused.error().message;
  EXPECT_NE(refused.error().message.find("a@b/c"), std::string::npos) << refused.error().message;
  EXPECT_OK(run({{"command", "restore"}, {"disk", "a@b"}, {"snapshot", "c"}}));
}

TEST_F(Commands, WhatDoesNotExistIsNamed) {
  make_disk("web01", '1');
  const auto expect = [&](const json& request, const std::string& name) {
    const auto refused = run(request);
    ASSERT_FALSE(refused) << request;
    EXPECT_EQ(refused.error().code, ENOENT) << request;
    EXPECT_NE(refused.error().message.find("\"" + name + "\""), std::string::npos) << refused.error().message;
  };
  expect({{"command", "list"}, {"disk", "nope"}}, "nope");
  expect({{"command", "info"}, {"image", "nope"}}, "nope");
  expect({{"command", "info"}, {"image", "nope@x"}}, "nope");
  expect({{"command", "info"}, {"image", "web01@nope"}}, "nope");
  expect({{"command", "restore"}, {"disk", "web01"}, {"snapshot", "nope"}}, "nope");
  EXPECT_FAILS(run({{"command", "restore"}, {"image", "web01"}}), EINVAL);
}

TEST_F(Commands, AnyOtherRequestIsRefused) {
  make_disk("web01", '1');
  for (const json& bad : {json(), json(1), json("list"), json::array(), json::object(), json{{"command", 1}},
                          json{{"command", "format"}}, json{{"command", nullptr}}, json{{"command", "list"}, {"disk", 7}},
                          json{{"command", "info"}}, json{{"command", "info"}, {"image", json::array()}},
                          json{{"command", "clone"}, {"image", "web01"}},
                          json{{"command", "clone"}, {"image", "web01"}, {"name", ".hidden"}},
                          json{{"command", "clone"}, {"image", "web01"}, {"name", "a/b"}},
                          json{{"command", "clone"}, {"image", "web01"}, {"name", ""}},
                          json{{"command", "restore"}, {"image", "web01"}, {"to", 5}}}) {
    EXPECT_FAILS(run(bad), EINVAL) << bad;
  }
}

TEST_F(Commands, CheckIsCleanAndCollectFreesWhatWasDeleted) {
  const auto disk = make_disk("web01", '1');
  const auto taken = disk->take_snapshot("gone-soon", {});
  ASSERT_OK(taken);
  ASSERT_TRUE(store_->wait_until_quiet(std::chrono::seconds(30)));
  const auto clean = run({{"command", "check"}});
  ASSERT_OK(clean);
  EXPECT_EQ((*clean)["clean"], true);
  EXPECT_GT((*clean)["records"].get<int>(), 0);
  const auto repaired = run({{"command", "check"}, {"repair", true}});
  ASSERT_OK(repaired);
  EXPECT_EQ((*repaired)["repair"]["records"], 0);
  EXPECT_FAILS(run({{"command", "check"}, {"repair", "yes"}}), EINVAL);
  ASSERT_OK(run({{"command", "collect"}}));
  EXPECT_OK(run({{"command", "status"}}));
}

}  // namespace
}  // namespace varve::store
