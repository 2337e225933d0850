#include "memory.h"

#include <malloc.h>
#include <sys/sysinfo.h>

#include <algorithm>
#include <fstream>
#include <string_view>

#include "varve/core/log.h"

namespace varve::cli {
namespace {

/// From here on nothing need shrink.
constexpr std::uint64_t kEnough = 2 * kGiB;
/// Below it the allocator is told to keep little.
constexpr std::uint64_t kSmall = 1 * kGiB;

constexpr std::uint64_t kChunkCacheShare = 8;
constexpr std::uint64_t kNodeCacheShare = 32;
constexpr std::uint64_t kLocatorShare = 32;
constexpr std::uint64_t kPackShare = 64;
constexpr std::uint64_t kReadaheadShare = 256;
constexpr std::uint64_t kThreadShare = 32 * kMiB;  ///< one for each so many bytes

/// Chunks that come and go on sixteen threads leave holes in each arena: by default there are eight for each processor.
constexpr int kArenas = 4;
constexpr int kFewArenas = 2;
constexpr int kKeptByAllocator = 256 * kKiB;
constexpr const char* kOomScore = "/proc/self/oom_score_adj";
constexpr int kOomScoreWanted = -900;  ///< that of the systemd unit

std::size_t share_of(std::uint64_t memory, std::uint64_t share, std::uint64_t least, std::uint64_t most) {
  return static_cast<std::size_t>(memory >= kEnough ? most : std::clamp(memory / share, least, most));
}

std::uint64_t memory_of_machine() {
  struct sysinfo info {};
  if (::sysinfo(&info) != 0) return kEnough;
  return std::uint64_t{info.totalram} * info.mem_unit;
}

/// "max", or no such file: no limit.
std::uint64_t read_limit(const std::string& path) {
  std::uint64_t limit = 0;
  return std::ifstream(path) >> limit ? limit : UINT64_MAX;
}

/// The path of this process in the one hierarchy of version 2; "/" where there is none.
std::string control_group(const std::string& root) {
  constexpr std::string_view kUnified = "0::";
  std::ifstream groups(root + "/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    if (line.starts_with(kUnified)) return line.substr(kUnified.size());
  }
  return "/";
}

/// The least of the group's and of all above it.
std::uint64_t limit_of_control_group(const std::string& root) {
  std::uint64_t limit = UINT64_MAX;
  for (auto group = control_group(root);;) {
    limit = std::min(limit, read_limit(root + "/sys/fs/cgroup" + group + "/memory.max"));
    const auto parent = group.rfind('/');
    if (parent == std::string::npos) return limit;
    group.resize(parent);
  }
}

}  // namespace

MemoryPlan plan_memory(ByteCount memory) {
  const auto bytes = memory.value();
  return {
      .chunk_cache = share_of(bytes, kChunkCacheShare, 8 * kMiB, 256 * kMiB),
      .node_cache = share_of(bytes, kNodeCacheShare, 2 * kMiB, 64 * kMiB),
      .locator = share_of(bytes, kLocatorShare, 2 * kMiB, 48 * kMiB),
      .pack = share_of(bytes, kPackShare, 1 * kMiB, 16 * kMiB),
      .threads = static_cast<unsigned>(std::clamp<std::uint64_t>(bytes / kThreadShare, 4, 16)),
      .readahead_kib = static_cast<unsigned>(share_of(bytes, kReadaheadShare, 128 * kKiB, 4 * kMiB) / kKiB),
      .is_small = bytes < kSmall,
  };
}

ByteCount usable_memory(const std::string& root) {
  return ByteCount{std::min(memory_of_machine(), limit_of_control_group(root))};
}

void spare_memory(const MemoryPlan& plan) {
  ::mallopt(M_ARENA_MAX, plan.is_small ? kFewArenas : kArenas);
  if (plan.is_small) {
    ::mallopt(M_MMAP_THRESHOLD, kKeptByAllocator);
    ::mallopt(M_TRIM_THRESHOLD, kKeptByAllocator);
  }
  int score = 0;
  if (!(std::ifstream(kOomScore) >> score) || score != 0) return;
  if (std::ofstream file(kOomScore); !(file << kOomScoreWanted << std::flush)) {
    log::debug("{}: not permitted", kOomScore);
  }
}

}  // namespace varve::cli
