// What it costs to open a disk and to tidy up behind it: it follows what is there, not the size of the image. Calls are
// counted, nothing is timed.
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "fake_base.h"
#include "support/expect.h"
#include "support/machine.h"

namespace varve::disk {
namespace {

using test::Calls;

constexpr std::uint64_t kImage = kTiB;
constexpr Geometry kGeometry{ByteCount{64 * kKiB}};
constexpr std::uint64_t kChunk = 64 * kKiB;

class RecoveryCost : public ::testing::Test {
 protected:
  void open(LiveDiskOptions options = {}) {
    live_.reset();
    auto opened = LiveDisk::open(machine_.storage, machine_.memory, "live/1", DiskId{1}, kGeometry, base_, options);
    ASSERT_OK(opened);
    live_ = std::move(*opened);
  }
  void write(std::uint64_t chunk) {
    const std::vector<std::byte> bytes(kChunk, std::byte{7});
    ASSERT_OK(live_->write(ByteOffset{chunk * kChunk}, bytes));
  }
  std::uint64_t calls() {
    return machine_.storage.calls().calls(Calls::changes) + machine_.storage.calls().calls(Calls::reads);
  }
  /// The calls of tidy(), until it has looked at all; at most `limit` times.
  std::uint64_t sweep(int limit) {
    const std::uint64_t before = calls();
    for (int i = 0; i < limit && live_->counters().unswept_chunks > 0; ++i) EXPECT_OK(live_->tidy());
    EXPECT_EQ(live_->counters().unswept_chunks, 0U);
    return calls() - before;
  }

  test::Machine machine_;
  test::FakeBase base_;
  std::unique_ptr<LiveDisk> live_;
};

/// Rule 13. A sweep in pieces, holes or not, would take two million calls, and keep storage that is really free waiting.
TEST_F(RecoveryCost, TheSweepAfterAKillPassesOverWhatIsNotThere) {
  open();
  ASSERT_OK(live_->create_image());
  ASSERT_OK(live_->resize(ByteCount{kImage}));
  for (std::uint64_t i = 0; i < 20; ++i) write(i * 800'000);
  for (const bool power : {false, true}) {
    open({.assume_power_loss = power});
    EXPECT_EQ(live_->how_opened(), power ? Opened::power_lost : Opened::killed);
    EXPECT_GE(live_->counters().unswept_chunks, kImage / kChunk);
    EXPECT_LT(sweep(100), 2000U);
  }
}

/// The control for the test above: what is there and is nobody's is found and given back.
TEST_F(RecoveryCost, TheSweepGivesBackWhatIsNobodys) {
  open();
  ASSERT_OK(live_->create_image());
  ASSERT_OK(live_->resize(ByteCount{kImage}));
  for (std::uint64_t i = 0; i < 20; ++i) write(i * 800'000);
  ASSERT_OK(live_->flush());
  ASSERT_OK(live_->zero(ByteOffset{0}, ByteCount{kImage / 2}));
  ASSERT_OK(live_->flush());
  open();  // killed before anything was punched
  const auto allocated = [this] { return machine_.storage.status("live/1/home.img")->allocated.value(); };
  EXPECT_EQ(allocated(), 20 * kChunk);
  sweep(100);
  EXPECT_EQ(allocated(), 9 * kChunk);
}

/// Each of the snapshots that came and went is a few records; opening reads those and the state they add up to.
TEST_F(RecoveryCost, OpeningReadsTheJournalAndNotTheImage) {
  open();
  ASSERT_OK(live_->create_image());
  ASSERT_OK(live_->resize(ByteCount{kImage}));
  for (std::uint64_t i = 1; i <= 300; ++i) {
    write(i * 9973);
    ASSERT_OK(live_->freeze(SnapshotId{i}, SnapshotId{i - 1}, "s" + std::to_string(i), ""));
    write(i * 9973);  // a detour
    if (i % 3 == 0) {
      ASSERT_OK(live_->drop_pending(SnapshotId{i}));
    } else if (i > 3) {
      ASSERT_OK(live_->committed(live_->oldest_pending()->id, OpaqueRoot{}));
    }
  }
  ASSERT_GT(live_->pending_count(), 0U);
  for (const bool power : {false, true}) {
    const std::size_t pending = live_->pending_count();
    const std::uint64_t before = calls();
    open({.assume_power_loss = power});
    EXPECT_LT(calls() - before, 20'000U);
    EXPECT_EQ(live_->pending_count(), pending);
  }
}

}  // namespace
}  // namespace varve::disk
