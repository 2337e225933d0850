// What somebody may have put where varve keeps its files: links, devices, pipes, sockets, files of another user, other
// names of ours. Each is refused with a sentence that names it; none is followed, waited for or changed.
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstddef>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <thread>

#include "support/expect.h"
#include "support/temporary_directory.h"
#include "support/text.h"
#include "varve/os/descriptor.h"
#include "varve/os/storage.h"

namespace varve::test {
namespace {

constexpr uid_t kSomebody = 54321;
constexpr uid_t kSomebodyElse = 54322;

/// Runs in a thread of its own, for which the kernel answers openat2 with this errno: one from before 5.6 (ENOSYS), or a
/// sandbox that does not know it (EPERM).
void without_openat2(std::uint32_t code, const std::function<void()>& body) {
  std::thread([&] {
    sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat2, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | code),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const sock_fprog filter{static_cast<unsigned short>(std::size(program)), program};
    ASSERT_EQ(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    ASSERT_EQ(::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter), 0);
    ASSERT_EQ(::syscall(SYS_openat2, AT_FDCWD, "/", nullptr, 0), -1);
    ASSERT_EQ(errno, static_cast<int>(code)) << "the filter works";
    body();
  }).join();
}

void make_socket(const std::string& path) {
  const os::Descriptor socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
  ASSERT_EQ(::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0) << path;
}

class ForeignFiles : public ::testing::Test {
 protected:
  TemporaryDirectory outside_;
  TemporaryDirectory inside_;
  std::unique_ptr<os::Storage> storage_ = os::open_directory(inside_.path()).value();
  std::string at(const std::string& name) { return inside_.path() + "/" + name; }

  template <class T>
  void refused(const Result<T>& result, int code, const std::string& name) {
    EXPECT_FAILS(result, code) << name;
    if (!result) {
      EXPECT_NE(result.error().message.find(at(name)), std::string::npos) << result.error().message;
    }
  }
  /// At a file's name, however it is opened.
  void refused_as_file(const std::string& name, int code) {
    refused(storage_->open(name, {}), code, name);
    refused(storage_->open(name, {.write = true}), code, name);
    refused(storage_->open(name, {.write = true, .create = true, .truncate = true, .direct = true}), code, name);
    refused(storage_->open(name, {.write = true, .create = true, .exclusive = true}), EEXIST, name);
    refused(os::read_file(*storage_, name, ByteCount{kMiB}), code, name);
  }
  /// At a directory's.
  void refused_as_directory(const std::string& name, int code) {
    refused(storage_->open(name + "/f", {.write = true, .create = true}), code, name);
    refused(storage_->list(name), code, name);
    refused(storage_->sync_directory(name), code, name);
    refused(storage_->remove(name + "/f"), code, name);
    refused(storage_->make_directory(name + "/d"), code, name);
    refused(storage_->rename(name + "/f", "g"), code, name);
    refused(storage_->link(name + "/f", "g"), code, name);
    refused(storage_->status(name + "/f"), code, name);
    EXPECT_FALSE(storage_->make_directory(name)) << name;
    EXPECT_FALSE(os::make_directories_durably(*storage_, name + "/d")) << name;
  }
  void plant_and_try_all() {
    std::ofstream(outside_.path() + "/f") << "secret";
    std::filesystem::create_symlink(outside_.path() + "/f", at("link"));
    std::filesystem::create_symlink(outside_.path(), at("folder-link"));
    std::filesystem::create_symlink("/proc/self/cwd", at("magic-link"));
    std::filesystem::create_symlink(".", at("link-within"));
    ASSERT_EQ(::mkfifo(at("fifo").c_str(), 0600), 0);
    make_socket(at("socket"));
    const bool has_device = ::mknod(at("device").c_str(), S_IFCHR | 0600, 0x103) == 0;
    for (const char* name : {"link", "folder-link", "magic-link", "link-within"}) {
      refused_as_file(name, ELOOP);
      refused_as_directory(name, ELOOP);
      EXPECT_EQ(storage_->status(name)->type, os::FileType::other);
    }
    for (const std::string name : {"fifo", "socket", "device"}) {
      if (name == "device" && !has_device) continue;
      refused_as_file(name, EINVAL);
      refused_as_directory(name, ENOTDIR);
    }
    EXPECT_EQ(content_of(*os::open_directory(outside_.path()).value(), "f"), "secret");
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(outside_.path()), {}), 1) << "nothing was made outside";
    const auto planted = storage_->list("").value();
    for (const auto& entry : planted) EXPECT_OK(storage_->remove(entry.name)) << "they can be removed";
    EXPECT_EQ(content_of(*os::open_directory(outside_.path()).value(), "f"), "secret");
  }
};

TEST_F(ForeignFiles, AreRefusedByNameAtEveryPlace) { plant_and_try_all(); }

TEST_F(ForeignFiles, AreRefusedByNameOnAnOldKernel) {
  without_openat2(ENOSYS, [this] { plant_and_try_all(); });
}

TEST_F(ForeignFiles, AreRefusedByNameInASandboxThatForbidsWhatItDoesNotKnow) {
  without_openat2(EPERM, [this] { plant_and_try_all(); });
}

TEST_F(ForeignFiles, AnOldKernelServesWhatIsOurs) {
  without_openat2(ENOSYS, [this] {
    ASSERT_OK(os::make_directories_durably(*storage_, "a/b"));
    ASSERT_OK(os::replace_file_durably(*storage_, "a/b/f", bytes_of("ours")));
    EXPECT_EQ(content_of(*storage_, "a/b/f"), "ours");
    EXPECT_FAILS(storage_->open("a/none/f", {}), ENOENT);
    EXPECT_FAILS(storage_->open("a/b/f/g", {}), ENOTDIR);
  });
}

TEST_F(ForeignFiles, OfAnotherUserAreNotOpened) {
  std::ofstream(at("f")) << "x";
  if (::chown(at("f").c_str(), kSomebody, kSomebody) != 0) GTEST_SKIP() << "needs the right to give files away";
  refused(storage_->open("f", {}), EPERM, "f");
  refused(storage_->open("f", {.write = true, .create = true, .truncate = true}), EPERM, "f");
  EXPECT_EQ(std::filesystem::file_size(at("f")), 1U) << "not cut before it was looked at";
}

TEST_F(ForeignFiles, UnderAnotherNameAreOnlyRead) {
  std::ofstream(outside_.path() + "/f") << "x";
  std::filesystem::create_hard_link(outside_.path() + "/f", at("f"));
  refused(storage_->open("f", {.write = true}), EMLINK, "f");
  refused(storage_->open("f", {.write = true, .create = true, .truncate = true}), EMLINK, "f");
  EXPECT_EQ(content_of(*storage_, "f"), "x");
  std::filesystem::remove(outside_.path() + "/f");
  EXPECT_OK(storage_->open("f", {.write = true})) << "the other name is gone";
}

// --- volatile memory ---

TEST(ForeignMemory, IsRefusedByName) {
  TemporaryDirectory outside;
  TemporaryDirectory directory("/dev/shm");
  const auto memory = os::open_volatile_directory(directory.path()).value();
  const auto at = [&](const std::string& name) { return directory.path() + "/" + name; };
  std::ofstream(outside.path() + "/f") << "secret";
  std::filesystem::create_symlink(outside.path() + "/f", at("link"));
  ASSERT_EQ(::mkfifo(at("fifo").c_str(), 0600), 0);
  make_socket(at("socket"));
  std::filesystem::create_directory(at("folder"));
  for (const std::string name : {"link", "fifo", "socket", "folder"}) {
    const int code = name == "link" ? ELOOP : EINVAL;
    for (const auto& opened : {memory->open(name, ByteCount{4096}).map([](auto&&) {}),
                               memory->open_existing(name).map([](auto&&) {})}) {
      EXPECT_FAILS(opened, code);
      EXPECT_NE(opened.error().message.find(at(name)), std::string::npos) << opened.error().message;
    }
  }
  EXPECT_EQ(std::filesystem::file_size(outside.path() + "/f"), 6U);
}

/// In a process of that user, which has no privileges.
int as_user(uid_t user, const std::function<int()>& body) {
  const pid_t child = ::fork();
  if (child == 0) {
    if (::setgid(user) != 0 || ::setuid(user) != 0) ::_exit(100);
    ::_exit(body());
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 101;
}

TEST(ForeignMemory, AFolderThatAnotherUserMadeFirstIsNotUsedAndInNobodysWay) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs to become other users";
  const std::string taken = "/dev/shm/varve-" + std::to_string(kSomebody);
  std::filesystem::remove_all(taken);
  ASSERT_EQ(as_user(kSomebodyElse, [&] { return ::mkdir(taken.c_str(), 0777) == 0 ? 0 : 1; }), 0);
  const auto use = [&](bool expect_there) {
    return as_user(kSomebody, [&] {
      const auto memory = os::open_volatile("0123");
      if (!memory) return 2;
      if ((*memory)->open_existing("map").has_value() != expect_there) return 3;
      return (*memory)->open("map", ByteCount{4096}) ? 0 : 4;
    });
  };
  EXPECT_EQ(use(false), 0);
  EXPECT_TRUE(std::filesystem::is_empty(taken)) << "nothing of ours is in it";
  EXPECT_EQ(use(true), 0) << "the next daemon finds the map again";
  std::filesystem::remove(taken);
  EXPECT_EQ(use(true), 0) << "also when the other folder is gone";
  std::filesystem::create_directory_symlink("/dev", taken);
  EXPECT_EQ(use(true), 0) << "nor is a link followed";
  int left = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/dev/shm")) {
    if (!entry.path().filename().string().starts_with("varve-" + std::to_string(kSomebody))) continue;
    struct stat status {};
    ASSERT_EQ(::lstat(entry.path().c_str(), &status), 0);
    if (S_ISDIR(status.st_mode)) {
      EXPECT_EQ(status.st_uid, kSomebody);
      EXPECT_EQ(status.st_mode & 0777U, 0700U);
    }
    std::filesystem::remove_all(entry.path());
    ++left;
  }
  EXPECT_EQ(left, 2);
}

}  // namespace
}  // namespace varve::test
