#include "varve/core/thread_pool.h"

#include <gtest/gtest.h>
#include <pthread.h>

#include <array>
#include <atomic>
#include <future>
#include <stdexcept>

namespace varve {
namespace {

TEST(ThreadPool, RunsAllThatWasQueuedBeforeItGoes) {
  std::atomic<int> done{0};
  {
    ThreadPool pool("test", 3, 4);
    for (int i = 0; i < 1000; ++i) pool.submit([&] { ++done; });
  }
  EXPECT_EQ(done.load(), 1000);
}

TEST(ThreadPool, DrainWaitsForRunningTasksToo) {
  ThreadPool pool("test", 2, 100);
  std::atomic<int> done{0};
  for (int i = 0; i < 20; ++i) {
    pool.submit([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
      ++done;
    });
  }
  pool.drain();
  EXPECT_EQ(done.load(), 20);
}

TEST(ThreadPool, QueueIsBounded) {
  ThreadPool pool("test", 1, 2);
  std::promise<void> started;
  std::promise<void> release;
  pool.submit([&] {
    started.set_value();
    release.get_future().wait();
  });
  started.get_future().wait();
  EXPECT_TRUE(pool.try_submit([] {}));
  EXPECT_TRUE(pool.try_submit([] {}));
  EXPECT_FALSE(pool.try_submit([] {}));
  std::atomic<bool> submitted{false};
  std::thread submitter([&] {
    pool.submit([] {});
    submitted = true;
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_FALSE(submitted.load()) << "submit must wait for room";
  release.set_value();
  submitter.join();
  pool.drain();
  EXPECT_TRUE(submitted.load());
}

TEST(ThreadPool, AThrowingTaskDoesNotTakeTheOthersWithIt) {
  ThreadPool pool("test", 1, 10);
  std::atomic<int> done{0};
  pool.submit([] { throw std::runtime_error("thrown on purpose by a test"); });
  pool.submit([&] { ++done; });
  pool.drain();
  EXPECT_EQ(done.load(), 1);
}

TEST(ThreadPool, LongNamesKeepTheirNumber) {
  ThreadPool pool("a-very-long-pool-name", 1, 1);
  std::array<char, 16> name{};
  pool.submit([&] { pthread_getname_np(pthread_self(), name.data(), name.size()); });
  pool.drain();
  EXPECT_STREQ(name.data(), "a-very-long-p-0");
}

}  // namespace
}  // namespace varve
