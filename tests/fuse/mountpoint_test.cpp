#include "mountpoint.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "varve/fuse/mount.h"

namespace varve::fuse {
namespace {

class Mountpoint : public testing::Test {
 protected:
  Mountpoint() {
    std::string pattern = testing::TempDir() + "/mountpoint-XXXXXX";
    path_ = ::mkdtemp(pattern.data());
  }
  ~Mountpoint() override { std::filesystem::remove_all(path_); }
  std::filesystem::path path_;
};

TEST_F(Mountpoint, MissingOneIsNamed) {
  const auto prepared = prepare_mountpoint(path_ / "none");
  ASSERT_FALSE(prepared);
  EXPECT_EQ(prepared.error().code, ENOENT);
  EXPECT_NE(prepared.error().message.find("none"), std::string::npos);
}

TEST_F(Mountpoint, MustBeADirectory) {
  std::ofstream(path_ / "file") << "x";
  const auto prepared = prepare_mountpoint(path_ / "file");
  ASSERT_FALSE(prepared);
  EXPECT_EQ(prepared.error().code, ENOTDIR);
}

TEST_F(Mountpoint, IsFoundThroughLinks) {
  std::filesystem::create_directory(path_ / "real");
  std::filesystem::create_symlink("real", path_ / "link");
  const auto prepared = prepare_mountpoint(path_ / "link");
  ASSERT_TRUE(prepared);
  EXPECT_EQ(*prepared, std::filesystem::canonical(path_ / "real"));
}

TEST_F(Mountpoint, HoldersAreProcessesWithFilesThere) {
  const std::ofstream held(path_ / "file");
  const auto holders = find_holders(std::filesystem::canonical(path_));
  ASSERT_EQ(holders.size(), 1);
  EXPECT_NE(holders[0].find("has file open"), std::string::npos) << holders[0];
  EXPECT_NE(holders[0].find(std::to_string(::getpid())), std::string::npos) << holders[0];
  EXPECT_TRUE(find_holders(std::filesystem::canonical(path_) / "fil").empty());
}

TEST_F(Mountpoint, UnmountingWhatIsNotMountedFails) {
  const auto unmounted = unmount(path_, UnmountHow::plain);
  ASSERT_FALSE(unmounted);
}

}  // namespace
}  // namespace varve::fuse
