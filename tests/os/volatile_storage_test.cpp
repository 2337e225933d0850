// One suite for both VolatileStorages, and what only the real or only the double does.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "support/expect.h"
#include "support/memory_volatile_storage.h"
#include "support/temporary_directory.h"
#include "varve/os/storage.h"

namespace varve::test {
namespace {

constexpr std::uint64_t kPage = 4096;

class Place {
 public:
  virtual ~Place() = default;
  virtual os::VolatileStorage& memory() = 0;
};

class RealPlace final : public Place {
 public:
  RealPlace() : memory_(os::open_volatile_directory(directory_.path()).value()) {}
  os::VolatileStorage& memory() override { return *memory_; }

 private:
  TemporaryDirectory directory_{"/dev/shm"};
  std::unique_ptr<os::VolatileStorage> memory_;
};

class DoublePlace final : public Place {
 public:
  os::VolatileStorage& memory() override { return memory_; }

 private:
  MemoryVolatileStorage memory_;
};

struct Kind {
  std::string name;
  std::function<std::unique_ptr<Place>()> make;
};

class VolatileContract : public ::testing::TestWithParam<Kind> {
 protected:
  std::unique_ptr<Place> place_ = GetParam().make();
  os::VolatileStorage& memory_ = place_->memory();
};

std::string extents_of(os::SharedMemory& memory) {
  std::string text;
  const auto extents = memory.reserved();
  EXPECT_OK(extents);
  for (const os::Extent& extent : *extents) {
    text += std::to_string(extent.begin.value() / kPage) + "+" + std::to_string(extent.length.value()) + " ";
  }
  return text;
}

TEST_P(VolatileContract, ContentOutlivesTheMapping) {
  {
    auto map = memory_.open("map", ByteCount{10 * kPage}).value();
    ASSERT_EQ(map->bytes().size(), 10 * kPage);
    ASSERT_OK(map->reserve(ByteOffset{2 * kPage}, ByteCount{kPage}));
    map->bytes()[2 * kPage + 5] = std::byte{42};
  }
  auto again = memory_.open_existing("map").value();
  EXPECT_EQ(again->bytes().size(), 10 * kPage);
  EXPECT_EQ(again->bytes()[2 * kPage + 5], std::byte{42});
  auto opened = memory_.open("map", ByteCount{99 * kPage}).value();
  EXPECT_EQ(opened->bytes().size(), 10 * kPage) << "an existing one keeps its size";
  EXPECT_EQ(opened->bytes()[2 * kPage + 5], std::byte{42});
}

TEST_P(VolatileContract, ReservedPagesAreZeroAndReported) {
  auto map = memory_.open("map", ByteCount{100 * kPage}).value();
  EXPECT_EQ(extents_of(*map), "");
  ASSERT_OK(map->reserve(ByteOffset{3 * kPage + 7}, ByteCount{1}));
  ASSERT_OK(map->reserve(ByteOffset{10 * kPage}, ByteCount{2 * kPage}));
  ASSERT_OK(map->reserve(ByteOffset{11 * kPage}, ByteCount{2 * kPage}));
  EXPECT_EQ(extents_of(*map), "3+4096 10+12288 ") << "also when never touched";
  for (std::uint64_t i = 0; i < kPage; ++i) ASSERT_EQ(map->bytes()[3 * kPage + i], std::byte{0});
  map->bytes()[3 * kPage] = std::byte{1};
  ASSERT_OK(map->reserve(ByteOffset{3 * kPage}, ByteCount{kPage}));
  EXPECT_EQ(map->bytes()[3 * kPage], std::byte{1}) << "reserving again changes nothing";
  EXPECT_EQ(extents_of(*memory_.open_existing("map").value()), "3+4096 10+12288 ") << "the next process sees them too";
}

TEST_P(VolatileContract, ReservingBeyondTheSizeIsRefused) {
  auto map = memory_.open("map", ByteCount{kPage}).value();
  EXPECT_FAILS(map->reserve(ByteOffset{0}, ByteCount{kPage + 1}), EINVAL);
  EXPECT_FAILS(map->reserve(ByteOffset{UINT64_MAX}, ByteCount{2}), EINVAL);
  EXPECT_OK(map->reserve(ByteOffset{0}, ByteCount{0}));
}

TEST_P(VolatileContract, ResizeKeepsWhatRemains) {
  auto map = memory_.open("map", ByteCount{4 * kPage}).value();
  ASSERT_OK(map->reserve(ByteOffset{0}, ByteCount{4 * kPage}));
  map->bytes()[1] = std::byte{1};
  map->bytes()[3 * kPage] = std::byte{3};
  ASSERT_OK(map->resize(ByteCount{2 * kPage}));
  EXPECT_EQ(map->bytes().size(), 2 * kPage);
  EXPECT_EQ(map->bytes()[1], std::byte{1});
  ASSERT_OK(map->resize(ByteCount{1000 * kPage}));
  EXPECT_EQ(map->bytes()[1], std::byte{1});
  ASSERT_OK(map->reserve(ByteOffset{3 * kPage}, ByteCount{kPage}));
  EXPECT_EQ(map->bytes()[3 * kPage], std::byte{0}) << "what was cut off does not come back";
  EXPECT_EQ(memory_.open_existing("map").value()->bytes().size(), 1000 * kPage);
  ASSERT_OK(map->resize(ByteCount{0}));
  EXPECT_TRUE(map->bytes().empty());
}

TEST_P(VolatileContract, NamesAreListedRenamedAndRemoved) {
  EXPECT_FAILS(memory_.open_existing("a"), ENOENT);
  ASSERT_OK(memory_.open("a", ByteCount{kPage}));
  ASSERT_OK(memory_.open("b", ByteCount{2 * kPage}));
  auto names = memory_.list().value();
  std::sort(names.begin(), names.end());
  EXPECT_EQ(names, (std::vector<std::string>{"a", "b"}));
  ASSERT_OK(memory_.rename("a", "b"));
  EXPECT_EQ(memory_.list().value(), std::vector<std::string>{"b"});
  EXPECT_EQ(memory_.open_existing("b").value()->bytes().size(), kPage);
  EXPECT_FAILS(memory_.rename("a", "c"), ENOENT);
  ASSERT_OK(memory_.remove("b"));
  EXPECT_FAILS(memory_.remove("b"), ENOENT);
  EXPECT_TRUE(memory_.list()->empty());
}

TEST_P(VolatileContract, ARemovedMapStaysUsableWhileItIsOpen) {
  auto map = memory_.open("map", ByteCount{kPage}).value();
  ASSERT_OK(map->reserve(ByteOffset{0}, ByteCount{kPage}));
  ASSERT_OK(memory_.remove("map"));
  map->bytes()[0] = std::byte{1};
  EXPECT_EQ(map->bytes()[0], std::byte{1});
}

TEST_P(VolatileContract, NamesArePlain) {
  for (const char* bad : {"", ".", "..", "a/b", "/a", "../a"}) {
    EXPECT_FAILS(memory_.open(bad, ByteCount{kPage}), EINVAL) << bad;
    EXPECT_FAILS(memory_.open_existing(bad), EINVAL) << bad;
    EXPECT_FAILS(memory_.remove(bad), EINVAL) << bad;
  }
}

INSTANTIATE_TEST_SUITE_P(Every, VolatileContract,
                         ::testing::Values(Kind{"tmpfs", [] { return std::make_unique<RealPlace>(); }},
                                           Kind{"memory", [] { return std::make_unique<DoublePlace>(); }}),
                         [](const auto& info) { return info.param.name; });

TEST(RealVolatileStorage, RefusesAPlaceThatIsNotMemory) {
  TemporaryDirectory on_disk("/var/tmp");
  const auto refused = os::open_volatile_directory(on_disk.path());
  if (refused) GTEST_SKIP() << "/var/tmp is on tmpfs here";
  EXPECT_EQ(refused.error().code, ENODEV);
}

TEST(RealVolatileStorage, RefusesADirectoryOthersMayWrite) {
  TemporaryDirectory directory("/dev/shm");
  ASSERT_EQ(::chmod(directory.path().c_str(), 0777), 0);
  EXPECT_FAILS(os::open_volatile_directory(directory.path()), EPERM);
}

TEST(RealVolatileStorage, RefusesADirectoryOfAnother) {
  TemporaryDirectory directory("/dev/shm");
  if (::chown(directory.path().c_str(), 12345, 12345) != 0) GTEST_SKIP() << "needs the right to give files away";
  EXPECT_FAILS(os::open_volatile_directory(directory.path()), EPERM);
}

TEST(RealVolatileStorage, ChoosesAPlaceInMemoryForAStore) {
  const std::string id = "test-" + os::temporary_name();
  {
    const auto chosen = os::open_volatile(id);
    ASSERT_OK(chosen);
    EXPECT_OK((*chosen)->open("map", ByteCount{kPage}));
    EXPECT_OK((*chosen)->remove("map"));
  }
  std::error_code ignored;
  for (const std::string base : {"/run/varve/", "/dev/shm/varve-"}) {
    std::filesystem::remove(base == "/run/varve/" ? base + id : base + std::to_string(::geteuid()) + "/" + id, ignored);
  }
  EXPECT_FAILS(os::open_volatile("../elsewhere"), EINVAL);
}

TEST(VolatileDouble, KeepsItsContentThroughAKillAndNotThroughAPowerLoss) {
  MemoryVolatileStorage memory;
  ASSERT_OK(memory.open("map", ByteCount{kPage}));
  memory.cut_off();
  EXPECT_FAILS(memory.remove("map"), EIO);
  memory.kill();
  EXPECT_OK(memory.open_existing("map"));
  memory.lose_power();
  EXPECT_FAILS(memory.open_existing("map"), ENOENT);
}

TEST(VolatileDouble, RunsOutOfMemoryWhenTold) {
  MemoryVolatileStorage memory;
  memory.set_capacity(ByteCount{2 * kPage});
  auto map = memory.open("map", ByteCount{10 * kPage}).value();
  EXPECT_OK(map->reserve(ByteOffset{0}, ByteCount{2 * kPage}));
  EXPECT_FAILS(map->reserve(ByteOffset{2 * kPage}, ByteCount{kPage}), ENOSPC);
  EXPECT_OK(map->reserve(ByteOffset{0}, ByteCount{kPage})) << "what is reserved stays so";
}

TEST(VolatileDoubleDeathTest, AnUnreservedPageKillsTheProcess) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  MemoryVolatileStorage memory;
  auto map = memory.open("map", ByteCount{2 * kPage}).value();
  ASSERT_OK(map->reserve(ByteOffset{0}, ByteCount{kPage}));
  EXPECT_DEATH(map->bytes()[kPage] = std::byte{1}, "");
}

}  // namespace
}  // namespace varve::test
