#include "target.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "mount.h"
#include "support/expect.h"

namespace varve::cli {
namespace {

constexpr char kTable[] =
    "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
    "90 22 0:40 / /mnt/v rw,nosuid,nodev,relatime shared:7 - fuse.varve /srv/varve rw,user_id=0\n"
    "91 22 0:41 / /mnt/with\\040space rw - fuse.varve /srv/with\\134backslash rw\n"
    "92 90 0:42 / /mnt/v/web01 rw - tmpfs tmpfs rw\n"
    "broken line\n"
    "93 22 0:43 / /mnt/other rw - fuse.sshfs host: rw\n";

TEST(MountOf, IsTheDeepestMountAboveAPath) {
  const auto table = fuse::parse_mount_table(kTable);
  EXPECT_EQ(mount_of(table, "/mnt/v/disk")->mountpoint, "/mnt/v");
  EXPECT_EQ(mount_of(table, "/mnt/vx")->mountpoint, "/");
  EXPECT_EQ(mount_of(table, "/mnt/v/web01/x")->type, "tmpfs");
}

TEST(PlaceOfPath, KnowsDisksSnapshotsAndImages) {
  const auto table = fuse::parse_mount_table(kTable);
  const auto root = place_of_path(table, "/mnt/v");
  ASSERT_OK(root);
  EXPECT_EQ(root->store, "/srv/varve");
  EXPECT_FALSE(root->disk);
  const auto image = place_of_path(table, "/mnt/v/db/disk.img");
  ASSERT_OK(image);
  EXPECT_EQ(image->disk, "db");
  EXPECT_FALSE(image->snapshot);
  const auto snapshot = place_of_path(table, "/mnt/v/db/before/disk.img");
  ASSERT_OK(snapshot);
  EXPECT_EQ(snapshot->disk, "db");
  EXPECT_EQ(snapshot->snapshot, "before");
  EXPECT_FAILS(place_of_path(table, "/mnt/v/db/before/etc/passwd"), EINVAL);
  const auto elsewhere = place_of_path(table, "/srv/varve");
  ASSERT_OK(elsewhere);
  EXPECT_EQ(elsewhere->store, "/srv/varve");
}

TEST(FindTarget, TellsNamesFromPaths) {
  const auto written = find_target("/srv/varve", "web01@before");
  ASSERT_OK(written);
  EXPECT_EQ(written->store, "/srv/varve");
  EXPECT_EQ(written->written, "web01@before");
  const auto slash = find_target("/srv/varve", "web@01/b@4");
  ASSERT_OK(slash);
  EXPECT_EQ(slash->disk, "web@01");
  EXPECT_EQ(slash->snapshot, "b@4");
  const auto completed = find_target("/srv/varve", "web01/");
  ASSERT_OK(completed);
  EXPECT_EQ(completed->disk, "web01");
  EXPECT_FALSE(completed->snapshot);
  nlohmann::json request;
  slash->add_to(request);
  EXPECT_EQ(request, (nlohmann::json{{"disk", "web@01"}, {"snapshot", "b@4"}}));
}

TEST(FindTarget, RefusesWhatCannotBeAName) {
  for (const char* bad : {"a/b/c", "caf\xe9", "caf\xe9@x", "a\nb", "web01/.hidden", "web01/a\x7f"}) {
    EXPECT_FAILS(find_target("/srv/varve", bad), EINVAL) << bad;
  }
  EXPECT_FAILS(find_target("/srv/varve", std::string(300, 'x')), ENAMETOOLONG);
}

TEST(FindTarget, TakesTheStoreFromTheEnvironmentAndAsksForOneElse) {
  ::setenv("VARVE_STORE", "/srv/from-environment", 1);
  const auto found = find_target(std::nullopt, "web01");
  ::unsetenv("VARVE_STORE");
  ASSERT_OK(found);
  EXPECT_EQ(found->store, "/srv/from-environment");
  const auto none = find_target(std::nullopt, "web01");
  ASSERT_FALSE(none);
  EXPECT_NE(none.error().message.find("--store"), std::string::npos) << none.error().message;
}

TEST(CheckMountpoint, RefusesASecondMountNamingTheFirst) {
  const auto table = fuse::parse_mount_table(kTable);
  const auto refused = check_mountpoint(table, "/srv/varve", "/mnt/w");
  ASSERT_TRUE(::varve::test::failed_with(refused, EBUSY));
  EXPECT_NE(refused.error().message.find("/mnt/v"), std::string::npos) << refused.error().message;
}

TEST(CheckMountpoint, RefusesAMountpointInUseAndOneWithinTheOther) {
  const auto table = fuse::parse_mount_table(kTable);
  EXPECT_FAILS(check_mountpoint(table, "/srv/new", "/mnt/other"), EBUSY);
  EXPECT_FAILS(check_mountpoint(table, "/srv/new", "/srv/new/mnt"), EINVAL);
  EXPECT_FAILS(check_mountpoint(table, "/srv/new", "/srv"), EINVAL);
  EXPECT_FAILS(check_mountpoint(table, "/srv/new", "/srv/new"), EINVAL);
  EXPECT_OK(check_mountpoint(table, "/srv/new", "/srv/newer"));
}

}  // namespace
}  // namespace varve::cli
