#include "mount_options.h"

#include <gtest/gtest.h>

#include "mount_helper.h"
#include "support/expect.h"

namespace varve::cli {
namespace {

Status parse(std::string_view list, MountOptions& out, UnknownOptions unknown = UnknownOptions::refuse) {
  return parse_mount_options(list, unknown, out);
}

TEST(MountOptions, SetWhatTheySay) {
  MountOptions options;
  ASSERT_OK(parse("allow_other,cache=64M,real_blocks,assume_power_loss,ro", options));
  EXPECT_TRUE(options.allow_other);
  EXPECT_TRUE(options.real_blocks);
  EXPECT_TRUE(options.assume_power_loss);
  EXPECT_TRUE(options.read_only);
  EXPECT_EQ(options.cache_bytes, 64 * kMiB);
  ASSERT_OK(parse("rw", options));
  EXPECT_FALSE(options.read_only) << "the last one counts, as for mount(8)";
}

TEST(MountOptions, AcceptWhatFstabLinesHold) {
  MountOptions options;
  EXPECT_OK(parse("rw,nosuid,nodev,noatime,_netdev,nofail,x-systemd.requires-mounts-for=/srv,user,auto,noauto,defaults",
                  options));
  EXPECT_OK(parse(",,", options));
  EXPECT_OK(parse("comment=systemd.automount,X-mount.mkdir=0755", options));
  for (const auto name : ignored_mount_options()) EXPECT_OK(parse(name, options));
}

TEST(MountOptions, RefuseTheUnknownByName) {
  MountOptions options;
  const auto refused = parse("rw,alow_other,noatime", options);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message.find("\"alow_other\""), std::string::npos) << refused.error().message;
  EXPECT_OK(parse("alow_other", options, UnknownOptions::ignore)) << "-s";
}

TEST(MountOptions, RefuseValuesThatMakeNoSense) {
  MountOptions options;
  for (const char* bad : {"cache", "cache=", "cache=x", "cache=-1", "cache=1", "cache=2T", "cache=99999999999999999999G",
                          "allow_other=1", "ro=yes", "=", "=1"}) {
    EXPECT_FAILS(parse(bad, options), EINVAL) << bad;
  }
}

Result<HelperRequest> helper(std::vector<const char*> words) {
  words.insert(words.begin(), "mount.varve");
  return parse_helper_arguments(static_cast<int>(words.size()), words.data());
}

TEST(MountHelper, TakesWhatMountPasses) {
  const auto request = helper({"/srv/varve", "/mnt/v", "-s", "-fnv", "-N", "/proc/1/ns/mnt", "-t", "varve", "-o",
                               "rw,allow_other,unheard_of"});
  ASSERT_OK(request);
  EXPECT_EQ(request->mount.store, "/srv/varve");
  EXPECT_EQ(request->mount.mountpoint, "/mnt/v");
  EXPECT_TRUE(request->pretend);
  EXPECT_TRUE(request->mount.options.allow_other);
  EXPECT_EQ(request->mount_namespace, "/proc/1/ns/mnt");
}

TEST(MountHelper, OptionsMayComeFirstAndSloppyLast) {
  EXPECT_OK(helper({"-o", "unheard_of", "/srv/varve", "/mnt/v", "-s"}));
}

TEST(MountHelper, RefusesMistakes) {
  EXPECT_FAILS(helper({}), EINVAL);
  EXPECT_FAILS(helper({"/srv/varve"}), EINVAL);
  EXPECT_FAILS(helper({"a", "b", "c"}), EINVAL);
  EXPECT_FAILS(helper({"a", "b", "-o"}), EINVAL);
  EXPECT_FAILS(helper({"a", "b", "-x"}), EINVAL);
  EXPECT_FAILS(helper({"a", "b", "-o", "unheard_of"}), EINVAL);
}

}  // namespace
}  // namespace varve::cli
