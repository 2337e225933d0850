// The kernel is told of changes from threads of the notifier's own, holding no lock (rule 12). What libfuse sends is
// taken here instead, and may wait for a lock of the kernel's as long as the test likes.
#include "notifier.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <thread>
#include <vector>

namespace varve::fuse {
namespace {

/// What stands in the place of the kernel.
class Kernel {
 public:
  void take(const char* what) {
    MutexLock lock(mutex_);
    while (holds_directories_ && what != std::string("data")) changed_.wait(mutex_);
    sent_.emplace_back(what);
    senders_.push_back(std::this_thread::get_id());
    changed_.notify_all();
  }
  /// The lock of a directory, which a request under way has until it is answered.
  void hold_directories(bool hold) {
    MutexLock lock(mutex_);
    holds_directories_ = hold;
    changed_.notify_all();
  }
  std::vector<std::string> sent() {
    MutexLock lock(mutex_);
    return sent_;
  }
  std::vector<std::thread::id> senders() {
    MutexLock lock(mutex_);
    return senders_;
  }
  void forget() {
    MutexLock lock(mutex_);
    sent_.clear();
    senders_.clear();
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  bool holds_directories_ VARVE_GUARDED_BY(mutex_) = false;
  std::vector<std::string> sent_ VARVE_GUARDED_BY(mutex_);
  std::vector<std::thread::id> senders_ VARVE_GUARDED_BY(mutex_);
};
Kernel kernel;

constexpr std::chrono::seconds kLong{20};

class NotifierTest : public ::testing::Test {
 protected:
  NotifierTest() { kernel.forget(); }
  Notifier notifier_{nullptr};
};

TEST_F(NotifierTest, Rule12SendsFromThreadsOfItsOwn) {
  notifier_.push(StaleEntry{1, "a"});
  notifier_.push(Gone{1, 2, "b"});
  notifier_.push(StaleData{3});
  ASSERT_TRUE(notifier_.wait_until_sent(kLong));
  const auto senders = kernel.senders();
  EXPECT_EQ(senders.size(), 3u);
  EXPECT_EQ(std::ranges::count(senders, std::this_thread::get_id()), 0);
}

/// Who pushes may be the one whose answer lets the kernel go on.
TEST_F(NotifierTest, Rule12NobodyWaitsForTheKernelToTakeOne) {
  kernel.hold_directories(true);
  for (int i = 0; i < 100; ++i) notifier_.push(StaleEntry{1, "a"});
  EXPECT_FALSE(notifier_.wait_until_sent(std::chrono::milliseconds{10}));
  EXPECT_TRUE(kernel.sent().empty());
  kernel.hold_directories(false);
  EXPECT_TRUE(notifier_.wait_until_sent(kLong));
  EXPECT_EQ(kernel.sent().size(), 100u);
}

TEST_F(NotifierTest, AnImageIsNotHeldUpByADirectory) {
  kernel.hold_directories(true);
  notifier_.push(StaleEntry{1, "a"});
  notifier_.push(StaleData{3});
  while (kernel.sent().empty()) std::this_thread::yield();
  EXPECT_EQ(kernel.sent(), std::vector<std::string>{"data"});
  kernel.hold_directories(false);
  EXPECT_TRUE(notifier_.wait_until_sent(kLong));
}

}  // namespace
}  // namespace varve::fuse

// In the place of libfuse's own: the linker takes these.
extern "C" {

int fuse_lowlevel_notify_inval_inode(fuse_session*, fuse_ino_t, off_t at, off_t) {
  varve::fuse::kernel.take(at == 0 ? "data" : "attributes");
  return 0;
}

int fuse_lowlevel_notify_inval_entry(fuse_session*, fuse_ino_t, const char*, std::size_t) {
  varve::fuse::kernel.take("entry");
  return 0;
}

int fuse_lowlevel_notify_delete(fuse_session*, fuse_ino_t, fuse_ino_t, const char*, std::size_t) {
  varve::fuse::kernel.take("gone");
  return 0;
}

}
