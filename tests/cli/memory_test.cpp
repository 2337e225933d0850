#include "memory.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace varve::cli {
namespace {

namespace fs = std::filesystem;

/// A / of our own with a control group.
class ControlGroup : public testing::Test {
 protected:
  ControlGroup() {
    char name[] = "/tmp/varve-memory-XXXXXX";
    root_ = ::mkdtemp(name);
    write("/proc/self/cgroup", "0::/system.slice/varve@v.service\n");
  }
  ~ControlGroup() override { fs::remove_all(root_); }

  void write(const std::string& path, const std::string& text) {
    fs::create_directories(fs::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text;
  }

  std::string root_;
};

TEST(Memory, OnALargeMachineIsWhatTheManualSays) {
  const auto plan = plan_memory(ByteCount{2 * kGiB});
  EXPECT_EQ(plan.chunk_cache, 256 * kMiB);
  EXPECT_EQ(plan.node_cache, 64 * kMiB);
  EXPECT_EQ(plan.threads, 16u);
  EXPECT_FALSE(plan.is_small);
}

TEST(Memory, OnASmallMachineLeavesMostOfIt) {
  for (const std::uint64_t memory : {64 * kMiB, 128 * kMiB, 512 * kMiB, 1 * kGiB}) {
    const auto plan = plan_memory(ByteCount{memory});
    const auto sum = plan.chunk_cache + plan.node_cache + plan.locator + 4 * plan.pack + plan.threads * 2 * kMiB;
    EXPECT_LE(sum, memory / 2) << memory / kMiB << " MiB";
    EXPECT_GE(plan.chunk_cache, 8 * kMiB);
    EXPECT_GE(plan.threads, 4u);
  }
}

TEST_F(ControlGroup, LimitsWhatCounts) {
  write("/sys/fs/cgroup/system.slice/varve@v.service/memory.max", "67108864\n");
  write("/sys/fs/cgroup/system.slice/memory.max", "max\n");
  EXPECT_EQ(usable_memory(root_), ByteCount{64 * kMiB});
}

TEST_F(ControlGroup, AboveLimitsTooAndNoLimitIsTheMachine) {
  const auto machine = usable_memory(root_);
  EXPECT_GT(machine.value(), 64 * kMiB);
  write("/sys/fs/cgroup/system.slice/varve@v.service/memory.max", "max\n");
  EXPECT_EQ(usable_memory(root_), machine);
  write("/sys/fs/cgroup/system.slice/memory.max", "50331648\n");
  EXPECT_EQ(usable_memory(root_), ByteCount{48 * kMiB});
}

}  // namespace
}  // namespace varve::cli
