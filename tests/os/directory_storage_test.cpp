// What only a real directory can get wrong: links, special files, and who else is on the filesystem.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "support/expect.h"
#include "support/temporary_directory.h"
#include "support/text.h"
#include "varve/os/storage.h"

namespace varve::test {
namespace {

class DirectoryStorage : public ::testing::Test {
 protected:
  TemporaryDirectory outside_;
  TemporaryDirectory inside_;
  std::unique_ptr<os::Storage> storage_ = os::open_directory(inside_.path()).value();
  std::string at(const std::string& name) { return inside_.path() + "/" + name; }
};

TEST_F(DirectoryStorage, NeverFollowsALink) {
  std::ofstream(outside_.path() + "/secret") << "secret";
  std::filesystem::create_symlink(outside_.path() + "/secret", at("file-link"));
  std::filesystem::create_symlink(outside_.path(), at("folder-link"));
  EXPECT_FAILS(storage_->open("file-link", {}), ELOOP);
  EXPECT_FAILS(storage_->open("file-link", {.write = true, .create = true, .truncate = true}), ELOOP);
  EXPECT_FAILS(storage_->open("folder-link/secret", {}), ELOOP);
  EXPECT_FAILS(storage_->open("folder-link/new", {.write = true, .create = true}), ELOOP);
  EXPECT_FAILS(storage_->remove("folder-link/secret"), ELOOP);
  EXPECT_FAILS(storage_->list("folder-link"), ELOOP);
  EXPECT_FALSE(storage_->make_directory("folder-link"));
  EXPECT_EQ(storage_->status("file-link")->type, os::FileType::other);
  EXPECT_TRUE(std::filesystem::exists(outside_.path() + "/secret"));
  EXPECT_FALSE(std::filesystem::exists(outside_.path() + "/new"));
  EXPECT_OK(storage_->remove("file-link")) << "the link itself may go";
  EXPECT_TRUE(std::filesystem::exists(outside_.path() + "/secret"));
}

TEST_F(DirectoryStorage, RefusesAFifoWithoutWaitingForItsOtherEnd) {
  ASSERT_EQ(::mkfifo(at("fifo").c_str(), 0600), 0);
  EXPECT_FAILS(storage_->open("fifo", {}), EINVAL);
  EXPECT_FAILS(storage_->open("fifo", {.write = true}), EINVAL);
  EXPECT_EQ(storage_->list("")->front().type, os::FileType::other);
}

TEST_F(DirectoryStorage, RefusesADevice) {
  if (::mknod(at("null").c_str(), S_IFCHR | 0600, 0x103) != 0) GTEST_SKIP() << "needs the right to make devices";
  EXPECT_FAILS(storage_->open("null", {.write = true, .truncate = true}), EINVAL);
}

TEST_F(DirectoryStorage, StaysInTheDirectoryItOpenedWhenThatIsMoved) {
  ASSERT_OK(storage_->open("f", {.write = true, .create = true}));
  const std::string moved = outside_.path() + "/moved";
  std::filesystem::rename(inside_.path(), moved);
  EXPECT_OK(storage_->open("f", {}));
  std::filesystem::rename(moved, inside_.path());
}

TEST_F(DirectoryStorage, OpeningNamesWhatIsMissing) {
  const auto absent = os::open_directory(inside_.path() + "/absent");
  EXPECT_FAILS(absent, ENOENT);
  EXPECT_NE(absent.error().message.find(inside_.path() + "/absent"), std::string::npos) << absent.error().message;
  std::ofstream(at("file")) << "x";
  EXPECT_FAILS(os::open_directory(at("file")), ENOTDIR);
}

TEST_F(DirectoryStorage, ErrorsNameThePath) {
  const auto absent = storage_->open("no/such", {});
  ASSERT_FALSE(absent);
  EXPECT_NE(absent.error().message.find(at("no/such")), std::string::npos) << absent.error().message;
}

TEST_F(DirectoryStorage, DirectIsUsedWhereTheFilesystemCan) {
  const int probe = ::open(at("probe").c_str(), O_RDWR | O_CREAT | O_DIRECT, 0600);
  const bool possible = probe >= 0;
  if (possible) ::close(probe);
  const auto file = storage_->open("f", {.write = true, .create = true, .direct = true});
  ASSERT_OK(file);
  EXPECT_EQ((*file)->alignment(), possible ? 4096U : 1U);
}

TEST_F(DirectoryStorage, DirectFallsBackToBufferedOnlyInAlignment) {
  TemporaryDirectory memory("/dev/shm");
  auto storage = os::open_directory(memory.path()).value();
  const auto file = storage->open("f", {.write = true, .create = true, .direct = true});
  ASSERT_OK(file);
  if ((*file)->alignment() == 1) {
    EXPECT_OK((*file)->write(ByteOffset{3}, bytes_of("odd")));
  }
}

}  // namespace
}  // namespace varve::test
