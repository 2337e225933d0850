#include "varve/core/sync.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

namespace varve {
namespace {

using namespace std::chrono_literals;

TEST(SharedMutex, SharedHoldersDoNotExcludeEachOther) {
  SharedMutex mutex;
  SharedLock mine(mutex);
  std::thread other([&] { SharedLock theirs(mutex); });
  other.join();  // would hang
}

TEST(SharedMutex, AWaitingExclusiveHolderGoesBeforeNewSharedOnes) {
  SharedMutex mutex;
  std::atomic<int> turn{0};
  int exclusive_turn = 0;
  int shared_turn = 0;
  std::thread writer;
  std::thread reader;
  {
    SharedLock held(mutex);
    writer = std::thread([&] {
      ExclusiveLock lock(mutex);
      exclusive_turn = ++turn;
    });
    std::this_thread::sleep_for(100ms);  // long enough to be waiting; if it is not, the order below still holds
    reader = std::thread([&] {
      SharedLock lock(mutex);
      shared_turn = ++turn;
    });
    std::this_thread::sleep_for(100ms);
    EXPECT_EQ(turn.load(), 0) << "a new shared holder passed a waiting exclusive one: a freeze could starve";
  }
  writer.join();
  reader.join();
  EXPECT_EQ(exclusive_turn, 1);
  EXPECT_EQ(shared_turn, 2);
}

TEST(CondVar, WaitForTellsTimeoutFromNotification) {
  Mutex mutex;
  CondVar changed;
  MutexLock lock(mutex);
  EXPECT_FALSE(changed.wait_for(mutex, 1ms));
}

}  // namespace
}  // namespace varve
