#include "varve/core/single_flight_cache.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <string>
#include <thread>
#include <vector>

namespace varve {
namespace {

using Cache = SingleFlightCache<int, std::string>;

std::size_t cost_of(const std::string& value) {
  return value.size();
}
Cache::Loader loads(std::string value) {
  return [value] { return Result<Cache::Pointer>(std::make_shared<const std::string>(value)); };
}
Cache::Loader must_not_load() {
  return []() -> Result<Cache::Pointer> {
    ADD_FAILURE() << "loaded although it is cached";
    return fail_damaged("unexpected load");
  };
}

TEST(SingleFlightCache, LoadsOnceHoweverManyAsk) {
  Cache cache(100);
  std::atomic<int> loads{0};
  std::promise<void> release;
  auto gate = release.get_future().share();
  std::vector<std::thread> askers;
  std::atomic<int> correct{0};
  for (int i = 0; i < 8; ++i) {
    askers.emplace_back([&] {
      const auto value = cache.get(
          1,
          [&]() -> Result<Cache::Pointer> {
            ++loads;
            gate.wait();
            return std::make_shared<const std::string>("x");
          },
          cost_of);
      if (value && **value == "x") ++correct;
    });
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  release.set_value();
  for (auto& asker : askers) asker.join();
  EXPECT_EQ(loads.load(), 1);
  EXPECT_EQ(correct.load(), 8);
}

TEST(SingleFlightCache, ErrorsReachTheCallerAndAreNotKept) {
  Cache cache(100);
  const auto broken = cache.get(
      1, [] { return Result<Cache::Pointer>(fail_damaged("broken")); }, cost_of);
  ASSERT_FALSE(broken);
  EXPECT_EQ(broken.error().code, EIO);
  const auto fine = cache.get(1, loads("fine"), cost_of);
  ASSERT_TRUE(fine);
  EXPECT_EQ(**fine, "fine");
}

TEST(SingleFlightCache, EvictsTheLeastRecentlyUsedToStayInBudget) {
  Cache cache(10);
  for (const int key : {1, 2}) ASSERT_TRUE(cache.get(key, loads("12345"), cost_of));
  ASSERT_TRUE(cache.get(1, must_not_load(), cost_of));
  ASSERT_TRUE(cache.get(3, loads("12345"), cost_of));
  EXPECT_NE(cache.peek(1), nullptr);
  EXPECT_EQ(cache.peek(2), nullptr);
  EXPECT_NE(cache.peek(3), nullptr);
  EXPECT_EQ(cache.counters().used, 10U);
}

TEST(SingleFlightCache, AValueLargerThanTheBudgetIsDeliveredAndPushesNothingOut) {
  Cache cache(10);
  ASSERT_TRUE(cache.get(1, loads("12345"), cost_of));
  const auto large = cache.get(2, loads("12345678901"), cost_of);
  ASSERT_TRUE(large);
  EXPECT_EQ((*large)->size(), 11U);
  EXPECT_EQ(cache.peek(2), nullptr);
  EXPECT_NE(cache.peek(1), nullptr);
}

TEST(SingleFlightCache, ADropDuringALoadIsNotUndoneByIt) {
  Cache cache(100);
  const auto value = cache.get(
      1,
      [&]() -> Result<Cache::Pointer> {
        cache.drop(1);
        return std::make_shared<const std::string>("stale");
      },
      cost_of);
  ASSERT_TRUE(value);
  EXPECT_EQ(cache.peek(1), nullptr);
  EXPECT_EQ(cache.counters().used, 0U);
}

TEST(SingleFlightCache, NoMemoryInALoaderIsAnErrorNotAHang) {
  Cache cache(100);
  const auto value = cache.get(
      1, []() -> Result<Cache::Pointer> { throw std::bad_alloc(); }, cost_of);
  ASSERT_FALSE(value);
  EXPECT_EQ(value.error().code, ENOMEM);
  EXPECT_TRUE(cache.get(1, loads("again"), cost_of));
}

TEST(SingleFlightCache, ClearForgetsAll) {
  Cache cache(100);
  for (int key = 0; key < 10; ++key) ASSERT_TRUE(cache.get(key, loads("v"), cost_of));
  cache.clear();
  EXPECT_EQ(cache.counters().used, 0U);
  EXPECT_EQ(cache.peek(3), nullptr);
}

}  // namespace
}  // namespace varve
