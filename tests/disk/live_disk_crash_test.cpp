// Scripted scenes, ended at every single call by a kill or a power loss, and met at every call by a failing medium.
#include <gtest/gtest.h>

#include <cerrno>
#include <string>
#include <vector>

#include "modeled_disk.h"
#include "support/seed.h"

namespace varve::disk {
namespace {

using test::Content;
using test::End;
using test::kTestChunk;
using test::ModeledDisk;
using test::Repeat;
using test::SparseImage;

constexpr std::uint64_t kChunks = 8;
constexpr std::uint64_t kMostCalls = 4000;
constexpr std::uint64_t kLossSeeds = 4;

struct Scene {
  const char* name;
  void (*before)(ModeledDisk&);  ///< undisturbed
  void (*play)(ModeledDisk&);
};

std::ostream& operator<<(std::ostream& out, const Scene& scene) { return out << scene.name; }

// --- beginnings ---

void nothing(ModeledDisk&) {}

void an_image(ModeledDisk& disk) {
  disk.create();
  disk.resize(kChunks * kTestChunk);
  disk.write_stamped(0, 3 * kTestChunk);
  disk.write_stamped(5 * kTestChunk + 100, 5000);
  disk.flush();
}

/// Its snapshot is complete: unchanged chunks are P's.
void a_committed_image(ModeledDisk& disk) {
  an_image(disk);
  disk.freeze();
  disk.commit();
}

void a_pending_snapshot(ModeledDisk& disk) {
  an_image(disk);
  disk.freeze();
  disk.write_stamped(kTestChunk, 6000);
}

/// Each of them froze something else, and something that another froze too.
void three_pending_snapshots(ModeledDisk& disk) {
  a_committed_image(disk);
  for (std::uint64_t i = 0; i < 3; ++i) {
    disk.write_stamped(i * kTestChunk, kTestChunk + 4096);
    disk.write_stamped(6 * kTestChunk, 512);
    disk.freeze();
  }
  disk.write_stamped(kTestChunk + 4096, 4096);
}

void a_restored_image(ModeledDisk& disk) {
  SparseImage image;
  image.write(0, Content(2 * kTestChunk, std::byte{0x11}));
  image.write(4 * kTestChunk, Content(2 * kTestChunk, std::byte{0x22}));
  disk.replace(disk.add_complete(image));
}

// --- scenes ---

const Scene kScenes[] = {
    {"Birth", nothing,
     [](ModeledDisk& disk) {
       an_image(disk);
       disk.freeze();
     }},
    {"WriteAndFlush", an_image,
     [](ModeledDisk& disk) {
       disk.write_stamped(0, 4096);
       disk.write_stamped(3 * kTestChunk, 2 * kTestChunk);
       disk.flush();
       disk.write_stamped(4096, 100);
       disk.write_stamped(6 * kTestChunk + 512, 512);
       disk.flush();
     }},
    {"Freeze", an_image,
     [](ModeledDisk& disk) {
       disk.write_stamped(100, 2 * kTestChunk);
       disk.freeze();
       disk.write_stamped(50, 3 * kTestChunk);
       disk.zero(kTestChunk, kTestChunk);
       disk.flush();
     }},
    {"FreezeWhilePending", a_pending_snapshot,
     [](ModeledDisk& disk) {
       disk.freeze();
       disk.write_stamped(0, 2 * kTestChunk);
       disk.freeze();
       disk.write_stamped(kTestChunk, 100);
       disk.flush();
     }},
    {"Commit", three_pending_snapshots,
     [](ModeledDisk& disk) {
       disk.commit();
       disk.write_stamped(kTestChunk, 3000);
       disk.commit();
       disk.tidy();
       disk.write_stamped(2 * kTestChunk, 3000);
       disk.freeze();
       disk.tidy();
     }},
    {"DropOldest", three_pending_snapshots,
     [](ModeledDisk& disk) {
       disk.drop(0);
       disk.write_stamped(0, 2 * kTestChunk);
       disk.tidy();
       disk.drop(0);
       disk.write_stamped(0, 4 * kTestChunk);
     }},
    {"DropMiddle", three_pending_snapshots,
     [](ModeledDisk& disk) {
       disk.drop(1);
       disk.write_stamped(0, 2 * kTestChunk);
       disk.tidy();
       disk.write_stamped(4096, 3 * kTestChunk);
       disk.commit();
     }},
    {"DropNewest", three_pending_snapshots,
     [](ModeledDisk& disk) {
       disk.drop(2);
       disk.write_stamped(0, 3 * kTestChunk);
       disk.tidy();
       disk.freeze();
       disk.drop(1);
       disk.write_stamped(4096, 3 * kTestChunk);
     }},
    {"MoveHome", three_pending_snapshots,
     [](ModeledDisk& disk) {
       disk.drop(0);
       disk.drop(0);
       disk.move_home(2);
       disk.commit();
       disk.move_home(8);
       disk.write_stamped(kTestChunk, 4096);
       disk.tidy();
       disk.write_stamped(0, 3 * kTestChunk);
       disk.move_home(8);
       disk.tidy();
       disk.freeze();
       disk.write_stamped(0, 100);
     }},
    {"Splice", three_pending_snapshots,
     [](ModeledDisk& disk) {
       const auto from = disk.complete().at(0);
       disk.splice(4, 3, from, 0, 7 * kTestChunk);
       disk.write_stamped(4 * kTestChunk + 100, 100);
       disk.splice(0, 2, from, 1, 0);
       disk.flush();
       disk.splice(7, 3, from, 0, 10 * kTestChunk);
       disk.write_stamped(8 * kTestChunk + 100, kTestChunk);
       disk.freeze();
       disk.collect();
     }},
    {"Replace", three_pending_snapshots,
     [](ModeledDisk& disk) {
       disk.write_stamped(3 * kTestChunk, 100);
       disk.replace(disk.complete().at(0));
       disk.collect();
       disk.write_stamped(100, kTestChunk);
       disk.freeze();
       disk.commit();
     }},
    {"WritesToARestoredImage", a_restored_image,
     [](ModeledDisk& disk) {
       disk.write_stamped(100, 100);
       disk.write_stamped(4 * kTestChunk, kTestChunk);
       disk.zero(5 * kTestChunk + 4096, 4096);
       disk.flush();
       disk.freeze();
       disk.write_stamped(0, 2 * kTestChunk);
       disk.collect();
       disk.commit();
     }},
    {"WritesOfWhatTheBaseHas", a_restored_image,
     [](ModeledDisk& disk) {
       const Content image = disk.complete().at(0).image->read(0, 6 * kTestChunk);
       disk.write_stamped(0, 2 * kTestChunk);
       disk.zero(4 * kTestChunk, kTestChunk);
       disk.write(0, std::span(image).first(kTestChunk));
       disk.flush();
       disk.freeze();
       disk.write(0, image);
       disk.write_stamped(0, kTestChunk);
       disk.flush();
       disk.write(0, std::span(image).first(2 * kTestChunk));
       disk.commit();
       disk.tidy();
     }},
    {"PartialSlots", a_pending_snapshot,
     [](ModeledDisk& disk) {
       disk.write_stamped(0, 4096);               // a block alone
       disk.write_stamped(2 * kTestChunk + 4096 + 100, 5000);  // parts of two
       disk.flush();
       disk.write_stamped(8192, 4096);            // one more
       disk.write_stamped(50, 300);               // one that is there
       disk.freeze();                             // the slots are pinned in their turn
       disk.write_stamped(4096, 100);
       disk.write_stamped(2 * kTestChunk, 512);
       disk.flush();
       disk.commit();
       disk.move_home(8);
       disk.commit();
       disk.flush();
       disk.move_home(8);
       disk.write_stamped(kTestChunk - 200, 400);
       disk.flush();
       disk.tidy();
     }},
    {"PartialSlotsThatGo", a_pending_snapshot,
     [](ModeledDisk& disk) {
       for (std::uint64_t i = 0; i < 3; ++i) disk.write_stamped(i * kTestChunk + 4096, 4096);
       disk.freeze();
       for (std::uint64_t i = 0; i < 3; ++i) disk.write_stamped(i * kTestChunk + 8192, 4096);
       disk.drop(0);                              // its Homes are read through the slots of the next
       disk.flush();
       disk.tidy();
       disk.zero(0, kTestChunk);
       for (std::uint64_t i = 0; i < 4; ++i) disk.write_stamped(kTestChunk + i * 4096, 4096);  // whole in the end
       disk.resize(2 * kTestChunk + 6000);
       disk.flush();
       disk.tidy();
       disk.write_stamped(0, 4096);
       disk.drop(0);
       disk.move_home(8);
       disk.write_stamped(0, 3 * kTestChunk);
       disk.tidy();
     }},
    {"Shrink", three_pending_snapshots,
     [](ModeledDisk& disk) {
       disk.resize(kTestChunk + 5000);
       disk.resize(7 * kTestChunk);
       disk.flush();
       disk.tidy();
       disk.write_stamped(2 * kTestChunk, kTestChunk);
       disk.resize(0);
       disk.resize(3 * kTestChunk);
       disk.freeze();
       disk.tidy();
     }},
    {"Discard", three_pending_snapshots,
     [](ModeledDisk& disk) {
       disk.zero(100, 3 * kTestChunk);
       disk.write_stamped(kTestChunk + 100, 100);
       disk.flush();
       disk.zero(0, kChunks * kTestChunk);
       disk.tidy();
       disk.write_stamped(0, kTestChunk);
       disk.flush();
       disk.tidy();
     }},
    {"RemoveAndCreate", three_pending_snapshots,
     [](ModeledDisk& disk) {
       disk.remove();
       disk.tidy();
       disk.create();
       disk.resize(4 * kTestChunk + 1);
       disk.write_stamped(kTestChunk, 100);
       disk.freeze();
       disk.commit();
       disk.tidy();
       disk.write_stamped(2 * kTestChunk, 100);
       disk.flush();
     }},
    {"Update", three_pending_snapshots,
     [](ModeledDisk& disk) {
       disk.update(1, "another name", "{\"held\":true}");
       disk.update(0, "and another", std::string(9000, 'x'));
       disk.write_stamped(0, 100);
     }},
    {"Close", three_pending_snapshots,
     [](ModeledDisk& disk) {
       disk.write_stamped(0, kTestChunk);
       disk.close_and_open();
       disk.write_stamped(kTestChunk, kTestChunk);
       disk.close_and_open();
       disk.commit();
     }},
    {"Compaction", three_pending_snapshots,
     [](ModeledDisk& disk) {
       for (std::uint64_t i = 0; i < 6; ++i) {
         disk.write_stamped(i * kTestChunk, 100);
         disk.zero(i * kTestChunk, kTestChunk);
         disk.update(0, "name " + std::to_string(i), std::string(500, 'y'));
         disk.tidy();
       }
       disk.flush();
       disk.tidy();
     }},
    {"Growth", an_image,
     [](ModeledDisk& disk) {
       disk.write_stamped(kChunks * kTestChunk - 100, 300);
       disk.write_stamped((kChunks + 2) * kTestChunk + 100, kTestChunk);
       disk.flush();
       disk.resize((kChunks + 20) * kTestChunk);
       disk.write_stamped((kChunks + 19) * kTestChunk + 100, 3 * kTestChunk);
       disk.freeze();
     }},
};

LiveDiskOptions options_for(const Scene& scene) {
  LiveDiskOptions options;
  if (std::string_view(scene.name) == "Compaction") options.compact_journal_at = 1 * kKiB;
  return options;
}

class Scenes : public ::testing::TestWithParam<Scene> {
 protected:
  static std::unique_ptr<ModeledDisk> begin(std::uint64_t seed) {
    auto disk = std::make_unique<ModeledDisk>(seed, options_for(GetParam()));
    const Status opened = disk->open();
    EXPECT_TRUE(opened) << opened.error().message;
    GetParam().before(*disk);
    return disk;
  }
  /// Whether what is there stays, and is enough to make complete snapshots of.
  static void finish(ModeledDisk& disk) {
    disk.collect();
    disk.verify();
    disk.recover(End::kill, 1);
    disk.verify();
    disk.recover(End::power_loss, 2);
    disk.verify();
    disk.drain();
    disk.settle();
    disk.verify();
  }
  static bool failed(ModeledDisk& disk) {
    if (HasFailure()) std::cerr << disk.trace();
    return HasFailure();
  }
};

TEST_P(Scenes, PlayedToTheEnd) {
  auto disk = begin(1);
  GetParam().play(*disk);
  disk->verify();
  disk->set_label("at the end, ");
  finish(*disk);
  failed(*disk);
}

TEST_P(Scenes, KilledAtEveryCall) {
  bool died = true;
  for (std::uint64_t call = test::from_point(1); died && call < kMostCalls; call += test::stride()) {
    auto disk = begin(call);
    disk->set_label("killed at call " + std::to_string(call) + ", ");
    disk->die_at(call);
    GetParam().play(*disk);
    died = disk->dead();
    disk->recover(End::kill, 0);
    disk->verify();
    finish(*disk);
    if (failed(*disk)) return;
  }
}

TEST_P(Scenes, PowerCutAtEveryCall) {
  bool died = true;
  for (std::uint64_t call = test::from_point(1); died && call < kMostCalls; call += test::stride()) {
    for (std::uint64_t seed = 0; seed < kLossSeeds; ++seed) {
      auto disk = begin(call);
      disk->set_label("power cut at call " + std::to_string(call) + " with seed " + std::to_string(seed) + ", ");
      disk->die_at(call);
      GetParam().play(*disk);
      died = disk->dead();
      disk->recover(End::power_loss, call * 1000 + seed);
      disk->verify();
      disk->recover(End::power_loss, seed);  // nothing is unsynced: nothing changes
      disk->verify();
      finish(*disk);
      if (failed(*disk)) return;
    }
  }
}

TEST_P(Scenes, KilledAtEveryCallAndTakenForAPowerLoss) {
  bool died = true;
  for (std::uint64_t call = test::from_point(1); died && call < kMostCalls; call += 3 * test::stride()) {
    auto disk = begin(call);
    disk->set_label("killed at call " + std::to_string(call) + ", ");
    disk->die_at(call);
    GetParam().play(*disk);
    died = disk->dead();
    disk->recover(End::assumed_loss, 0);
    disk->verify();
    finish(*disk);
    if (failed(*disk)) return;
  }
}

TEST_P(Scenes, RecoveryItselfIsCutAtEveryCall) {
  for (const End first : {End::kill, End::power_loss}) {
    for (const End second : {End::kill, End::power_loss}) {
      bool died = true;
      for (std::uint64_t call = test::from_point(1); died && call < kMostCalls; call += test::stride()) {
        auto disk = begin(call);
        disk->set_label("recovery cut at call " + std::to_string(call) + ", ");
        GetParam().play(*disk);
        disk->end(first, call);
        disk->die_at(call);
        const Status opened = disk->open();
        died = disk->crash()->reached();
        EXPECT_TRUE(opened || died) << opened.error().message;
        disk->recover(second, call + 1);
        disk->verify();
        finish(*disk);
        if (failed(*disk)) return;
      }
    }
  }
}

// --- failures ---

struct Fault {
  int code;
  Repeat repeat;
};
constexpr Fault kFaults[] = {
    {ENOSPC, Repeat::once}, {EIO, Repeat::once}, {ENOSPC, Repeat::for_good}, {EIO, Repeat::for_good}};

TEST_P(Scenes, AFailureAtEveryCallOfTheStorageIsReportedAndHarmsNothingElse) {
  for (const Fault& fault : kFaults) {
    for (const End end : {End::kill, End::power_loss}) {
      for (std::uint64_t call = test::from_point(1); call < kMostCalls; call += test::stride()) {
        auto disk = begin(call);
        disk->set_label("errno " + std::to_string(fault.code) + (fault.repeat == Repeat::once ? " once" : " for good") +
                        " at call " + std::to_string(call) + ", ");
        disk->expect_faults({fault.code});
        const std::uint64_t start = disk->machine().storage.change_count();
        disk->machine().storage.fail_at(call, fault.code, fault.repeat);
        GetParam().play(*disk);
        const bool met = disk->machine().storage.change_count() - start >= call;
        disk->machine().storage.clear_faults();
        disk->verify();
        if (!disk->disk().latched()) {
          EXPECT_TRUE(disk->flush()) << disk->where() << "nothing works after a failure";
        }
        disk->recover(end, call);
        disk->verify();
        finish(*disk);
        if (failed(*disk)) return;
        if (!met) break;
      }
    }
  }
}

TEST_P(Scenes, WithoutMemoryForChangeMapsNothingIsLost) {
  for (const Repeat repeat : {Repeat::once, Repeat::for_good}) {
    for (std::uint64_t call = test::from_point(1); call < kMostCalls; call += test::stride()) {
      auto disk = begin(call);
      disk->set_label("no shared memory at call " + std::to_string(call) + ", ");
      disk->expect_faults({ENOSPC});
      const std::uint64_t start = disk->machine().memory.calls().calls(test::Calls::changes);
      disk->machine().memory.calls().fail_at(call, ENOSPC, repeat, test::Calls::changes);
      GetParam().play(*disk);
      const bool met = disk->machine().memory.calls().calls(test::Calls::changes) - start >= call;
      disk->machine().memory.calls().clear();
      disk->verify();
      EXPECT_TRUE(disk->flush());
      disk->recover(End::kill, call);
      disk->verify();
      finish(*disk);
      if (failed(*disk)) return;
      if (!met) break;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(LiveDisk, Scenes, ::testing::ValuesIn(kScenes),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace varve::disk
