// The crash model itself: it must be able to do harm (or the tests on it prove nothing) and must not do more harm
// than a disk does.
#include <set>
#include <string>

#include "support/expect.h"
#include "support/machine.h"
#include "support/memory_storage.h"
#include "support/seed.h"
#include "support/text.h"

namespace varve::test {
namespace {

constexpr os::OpenMode kCreate{.write = true, .create = true};
constexpr std::uint64_t kTries = 300;

std::unique_ptr<os::File> durable_file(MemoryStorage& storage, std::string_view path, std::string_view text) {
  auto file = storage.open(path, kCreate).value();
  EXPECT_OK(file->write(ByteOffset{0}, bytes_of(text)));
  EXPECT_OK(file->sync_data());
  EXPECT_OK(storage.sync_directory(os::parent_of(path)));
  return file;
}

TEST(PowerLoss, WhatWasSyncedStays) {
  const std::uint64_t seed = seed_for("WhatWasSyncedStays");
  for (std::uint64_t i = 0; i < kTries; ++i) {
    MemoryStorage storage;
    auto file = durable_file(storage, "f", std::string(10000, 'x'));
    EXPECT_OK(file->punch(ByteOffset{0}, ByteCount{100}));
    EXPECT_OK(file->write(ByteOffset{20000}, bytes_of("y")));
    EXPECT_OK(file->sync_data());
    storage.lose_power(seed + i);
    std::string expected = std::string(100, '\0') + std::string(9900, 'x') + std::string(10000, '\0') + "y";
    ASSERT_EQ(content_of(storage, "f"), expected) << "seed " << seed + i;
  }
}

TEST(PowerLoss, UnsyncedWritesComeOutInEveryWay) {
  const std::uint64_t seed = seed_for("UnsyncedWrites");
  std::set<std::string> kinds;
  for (std::uint64_t i = 0; i < kTries; ++i) {
    MemoryStorage storage;
    auto file = durable_file(storage, "f", std::string(4096, 'o'));
    EXPECT_OK(file->write(ByteOffset{1024}, bytes_of(std::string(2048, 'n'))));
    storage.lose_power(seed + i);
    const std::string found = content_of(storage, "f");
    ASSERT_EQ(found.size(), 4096U);
    EXPECT_EQ(found.substr(0, 1024), std::string(1024, 'o')) << "a durable neighbour was harmed";
    EXPECT_EQ(found.substr(3072), std::string(1024, 'o'));
    const std::string written = found.substr(1024, 2048);
    if (written == std::string(2048, 'n')) {
      kinds.insert("kept");
    } else if (written == std::string(2048, 'o')) {
      kinds.insert("dropped");
    } else if (written.find_first_not_of("no") == std::string::npos) {
      kinds.insert("torn");
    } else {
      kinds.insert("garbled");
    }
  }
  EXPECT_EQ(kinds, (std::set<std::string>{"kept", "dropped", "torn", "garbled"}));
}

TEST(PowerLoss, BlockAtomicFilesLoseWholeBlocksOnly) {
  const std::uint64_t seed = seed_for("BlockAtomicFiles");
  std::set<std::string> outcomes;
  for (std::uint64_t i = 0; i < kTries; ++i) {
    MemoryStorage storage;
    auto file = durable_file(storage, "home.img", std::string(8192, 'o'));
    EXPECT_OK(file->write(ByteOffset{0}, bytes_of(std::string(8192, 'n'))));
    storage.lose_power(seed + i);
    const std::string found = content_of(storage, "home.img");
    for (const std::size_t at : {0U, 4096U}) {
      const std::string block = found.substr(at, 4096);
      EXPECT_TRUE(block == std::string(4096, 'o') || block == std::string(4096, 'n')) << "seed " << seed + i;
    }
    outcomes.insert({found[0], found[4096]});
  }
  EXPECT_EQ(outcomes.size(), 4U);
}

TEST(PowerLoss, ALaterWriteToTheSamePlaceMayBeLostToTheEarlierOne) {
  const std::uint64_t seed = seed_for("LaterWrite");
  std::set<char> outcomes;
  for (std::uint64_t i = 0; i < kTries; ++i) {
    MemoryStorage storage;
    auto file = durable_file(storage, "home.img", std::string(4096, '0'));
    EXPECT_OK(file->write(ByteOffset{0}, bytes_of(std::string(4096, '1'))));
    EXPECT_OK(file->write(ByteOffset{0}, bytes_of(std::string(4096, '2'))));
    storage.lose_power(seed + i);
    outcomes.insert(content_of(storage, "home.img")[0]);
  }
  EXPECT_EQ(outcomes, (std::set<char>{'0', '1', '2'}));
}

TEST(PowerLoss, EntriesNeedTheirDirectorysSync) {
  const std::uint64_t seed = seed_for("Entries");
  std::set<std::string> outcomes;
  for (std::uint64_t i = 0; i < kTries; ++i) {
    MemoryStorage storage;
    durable_file(storage, "renamed", "r");
    durable_file(storage, "removed", "d");
    auto file = storage.open("made", kCreate).value();
    EXPECT_OK(file->sync_data());
    EXPECT_OK(storage.rename("renamed", "target"));
    EXPECT_OK(storage.remove("removed"));
    storage.lose_power(seed + i);
    EXPECT_NE(content_of(storage, "renamed") == "r", content_of(storage, "target") == "r") << "a rename is atomic";
    outcomes.insert(std::string(content_of(storage, "made") == "absent" ? "-" : "m") +
                    (content_of(storage, "target") == "absent" ? "-" : "t") +
                    (content_of(storage, "removed") == "absent" ? "-" : "d"));
  }
  EXPECT_EQ(outcomes.size(), 8U) << "each change on its own";
}

TEST(PowerLoss, ADirectoryThatWasNotSyncedTakesItsContentAlong) {
  const std::uint64_t seed = seed_for("ADirectory");
  std::set<bool> outcomes;
  for (std::uint64_t i = 0; i < kTries; ++i) {
    MemoryStorage storage;
    ASSERT_OK(storage.make_directory("d"));
    durable_file(storage, "d/f", "x");  // syncs d, not the root
    storage.lose_power(seed + i);
    outcomes.insert(content_of(storage, "d/f") == "x");
  }
  EXPECT_EQ(outcomes.size(), 2U);
}

TEST(PowerLoss, ARenameAcrossDirectoriesNeedsBothSyncsAndNeverLosesTheFile) {
  const std::uint64_t seed = seed_for("RenameAcross");
  std::set<std::string> half;
  for (std::uint64_t i = 0; i < kTries; ++i) {
    MemoryStorage storage;
    ASSERT_OK(os::make_directories_durably(storage, "a"));
    ASSERT_OK(os::make_directories_durably(storage, "b"));
    durable_file(storage, "a/f", "x");
    EXPECT_OK(storage.rename("a/f", "b/g"));
    EXPECT_OK(storage.sync_directory("a"));
    if (i % 2 == 0) {
      EXPECT_OK(storage.sync_directory("b"));
    }
    storage.lose_power(seed + i);
    const bool source = content_of(storage, "a/f") == "x";
    const bool target = content_of(storage, "b/g") == "x";
    EXPECT_NE(source, target);
    if (i % 2 == 0) {
      EXPECT_TRUE(target);
    } else {
      half.insert(source ? "source" : "target");
    }
  }
  EXPECT_EQ(half.size(), 2U);
}

TEST(PowerLoss, SyncsOfLaterEntriesAreNotUndoneByEarlierOnes) {
  const std::uint64_t seed = seed_for("LaterEntries");
  for (std::uint64_t i = 0; i < kTries; ++i) {
    MemoryStorage storage;
    ASSERT_OK(os::make_directories_durably(storage, "a"));
    ASSERT_OK(os::make_directories_durably(storage, "b"));
    durable_file(storage, "a/f", "old");
    EXPECT_OK(storage.rename("a/f", "b/g"));  // uncertain until both are synced
    durable_file(storage, "a/f", "new");      // syncs a
    storage.lose_power(seed + i);
    EXPECT_EQ(content_of(storage, "a/f"), "new") << "seed " << seed + i;
  }
}

TEST(PowerLoss, ShrinkAndGrowMayBothBeLostButNeverShowOthersBytes) {
  const std::uint64_t seed = seed_for("ShrinkAndGrow");
  std::set<std::string> outcomes;
  for (std::uint64_t i = 0; i < kTries; ++i) {
    MemoryStorage storage;
    auto file = durable_file(storage, "f", std::string(10000, 'x'));
    EXPECT_OK(file->resize(ByteCount{100}));
    EXPECT_OK(file->resize(ByteCount{12000}));
    storage.lose_power(seed + i);
    const std::string found = content_of(storage, "f");
    EXPECT_EQ(found.find_first_not_of(std::string("x\0", 2)), std::string::npos);
    outcomes.insert(std::to_string(found.size()) + (found.find('\0') == 100 ? "cut" : "whole"));
  }
  EXPECT_EQ(outcomes.size(), 4U);
}

TEST(PowerLoss, TheSameSeedGivesTheSameDisk) {
  const auto play = [](std::uint64_t seed) {
    MemoryStorage storage;
    for (int i = 0; i < 20; ++i) {
      auto file = storage.open("f" + std::to_string(i), kCreate).value();
      EXPECT_OK(file->write(ByteOffset{0}, bytes_of(std::string(3000, 'x'))));
      if (i % 3 == 0) {
        EXPECT_OK(storage.sync_directory(""));
      }
    }
    storage.lose_power(seed);
    std::string all;
    for (int i = 0; i < 20; ++i) all += content_of(storage, "f" + std::to_string(i)) + "|";
    return all;
  };
  EXPECT_EQ(play(42), play(42));
  EXPECT_NE(play(42), play(43));
}

TEST(PowerLoss, OpenFilesAreDeadAfterwards) {
  MemoryStorage storage;
  auto file = durable_file(storage, "f", "x");
  EXPECT_TRUE(file->try_lock().value());
  storage.lose_power(1);
  EXPECT_FAILS(file->write(ByteOffset{0}, bytes_of("y")), EIO);
  EXPECT_FAILS(file->sync_data(), EIO);
  EXPECT_EQ(content_of(storage, "f"), "x");
  EXPECT_TRUE(storage.open("f", {.write = true}).value()->try_lock().value()) << "its lock went with it";
}

TEST(PowerLoss, ChangesTheBootAndAKillDoesNot) {
  Machine machine;
  const auto before = machine.storage.identity().value();
  machine.kill();
  EXPECT_EQ(machine.storage.identity().value(), before);
  machine.lose_power(1);
  EXPECT_NE(machine.storage.identity().value(), before);
}

TEST(PowerLoss, AKillLosesNothing) {
  MemoryStorage storage;
  auto file = storage.open("f", kCreate).value();
  EXPECT_OK(file->write(ByteOffset{0}, bytes_of("unsynced")));
  storage.cut_off();
  EXPECT_FAILS(file->write(ByteOffset{0}, bytes_of("too late")), EIO);
  EXPECT_FAILS(file->sync_data(), EIO);
  EXPECT_FAILS(storage.remove("f"), EIO);
  storage.kill();
  EXPECT_EQ(content_of(storage, "f"), "unsynced");
}

TEST(Faults, TheNthChangeFailsOnceOrForGood) {
  MemoryStorage storage;
  auto file = storage.open("f", kCreate).value();
  storage.fail_at(2, ENOSPC, Repeat::once);
  EXPECT_OK(file->write(ByteOffset{0}, bytes_of("a")));
  EXPECT_FAILS(file->write(ByteOffset{0}, bytes_of("b")), ENOSPC);
  EXPECT_OK(file->write(ByteOffset{0}, bytes_of("c")));
  storage.fail_at(1, EIO, Repeat::for_good);
  EXPECT_FAILS(storage.make_directory("d"), EIO);
  EXPECT_FAILS(file->write(ByteOffset{0}, bytes_of("d")), EIO);
  EXPECT_EQ(content_of(storage, "f"), "c") << "reads are another kind of call";
  storage.clear_faults();
  EXPECT_OK(storage.make_directory("d"));
  storage.fail_at(1, EIO, Repeat::once, Calls::reads);
  EXPECT_FAILS(storage.list(""), EIO);
}

TEST(Faults, AFailedWriteMayHaveGotHalfWay) {
  MemoryStorage storage;
  auto file = durable_file(storage, "f", std::string(4096, 'o'));
  storage.fail_at(1, EIO);
  EXPECT_FAILS(file->write(ByteOffset{0}, bytes_of(std::string(4096, 'n'))), EIO);
  EXPECT_EQ(content_of(storage, "f"), std::string(2048, 'n') + std::string(2048, 'o'));
}

TEST(Faults, AFailedSyncDropsThePagesAndALaterSuccessProvesNothing) {
  const std::uint64_t seed = seed_for("FailedSync");
  for (std::uint64_t i = 0; i < 20; ++i) {
    MemoryStorage storage;
    auto file = durable_file(storage, "f", "old");
    EXPECT_OK(file->write(ByteOffset{0}, bytes_of("new and longer")));
    storage.fail_at(1, EIO);
    EXPECT_FAILS(file->sync_data(), EIO);
    EXPECT_OK(file->sync_data()) << "the kernel has forgotten";
    EXPECT_EQ(file->status()->size, ByteCount{14});
    storage.lose_power(seed + i);
    EXPECT_EQ(content_of(storage, "f"), "old" + std::string(11, '\0'));
  }
}

TEST(Faults, AFullDiskRefusesAndWorksAgainAfterADeletion) {
  MemoryStorage storage({.capacity = 64 * kKiB});
  auto file = storage.open("f", kCreate).value();
  EXPECT_OK(file->write(ByteOffset{0}, bytes_of(std::string(64 * kKiB, 'x'))));
  EXPECT_EQ(storage.capacity()->free, ByteCount{0});
  auto other = storage.open("g", kCreate).value();
  EXPECT_FAILS(other->write(ByteOffset{0}, bytes_of("y")), ENOSPC);
  EXPECT_FAILS(other->preallocate(ByteOffset{0}, ByteCount{4096}), ENOSPC);
  EXPECT_OK(file->write(ByteOffset{0}, bytes_of("in place"))) << "an overwrite needs no space";
  EXPECT_OK(file->punch(ByteOffset{0}, ByteCount{8192}));
  EXPECT_OK(other->write(ByteOffset{0}, bytes_of("y")));
  file.reset();
  EXPECT_OK(storage.remove("f"));
  EXPECT_OK(storage.sync_directory(""));
  EXPECT_EQ(storage.capacity()->free, ByteCount{60 * kKiB});
}

TEST(Faults, TheHookSeesEachChangeBeforeItHappens) {
  MemoryStorage storage;
  std::vector<std::string> seen;
  storage.calls().set_hook([&](std::string_view action, std::string_view path) {
    seen.push_back(std::string(action) + " " + std::string(path));
  });
  auto file = storage.open("f", kCreate).value();
  EXPECT_OK(file->write(ByteOffset{0}, bytes_of("x")));
  EXPECT_OK(file->sync_data());
  EXPECT_EQ(seen, (std::vector<std::string>{"open f", "write f", "sync f"}));
  EXPECT_EQ(storage.change_count(), 3U);
}

TEST(Faults, CorruptionIsDurableAtOnce) {
  MemoryStorage storage;
  auto file = durable_file(storage, "f", "0123456789");
  storage.corrupt("f", ByteOffset{3}, bytes_of("?"));
  EXPECT_EQ(content_of(storage, "f"), "012?456789");
  storage.lose_power(7);
  EXPECT_EQ(content_of(storage, "f"), "012?456789");
}

TEST(PowerLoss, HolePunchesHappenOrNotEachOnItsOwn) {
  const std::uint64_t seed = seed_for("HolePunches");
  std::set<std::string> kinds;
  for (std::uint64_t i = 0; i < kTries; ++i) {
    MemoryStorage storage;
    auto file = durable_file(storage, "f", std::string(3 * 4096, 'o'));
    EXPECT_OK(file->punch(ByteOffset{0}, ByteCount{4096}));
    EXPECT_OK(file->punch(ByteOffset{8192}, ByteCount{4096}));
    storage.lose_power(seed + i);
    const std::string found = content_of(storage, "f");
    ASSERT_EQ(found.substr(4096, 4096), std::string(4096, 'o'));
    kinds.insert({found[0], found[8192]});
  }
  const std::string zero(1, '\0');
  EXPECT_EQ(kinds, (std::set<std::string>{"oo", "o" + zero, zero + "o", zero + zero}));
}

/// Two removals, a creation and a rename in one directory: every combination comes out.
TEST(PowerLoss, ChangesOfNamesHappenOrNotEachOnItsOwn) {
  const std::uint64_t seed = seed_for("ChangesOfNames");
  std::set<std::set<std::string>> outcomes;
  for (std::uint64_t i = 0; i < 2 * kTries; ++i) {
    MemoryStorage storage;
    for (const char* name : {"a", "b", "c"}) durable_file(storage, name, "x");
    EXPECT_OK(storage.remove("a"));
    EXPECT_OK(storage.remove("b"));
    EXPECT_OK(storage.rename("c", "d"));
    EXPECT_OK(storage.open("e", kCreate));
    storage.lose_power(seed + i);
    std::set<std::string> names;
    const auto entries = storage.list("").value();
    for (const auto& entry : entries) names.insert(entry.name);
    EXPECT_NE(names.contains("c"), names.contains("d")) << "a rename is one change";
    outcomes.insert(names);
  }
  EXPECT_EQ(outcomes.size(), 16U);
}

TEST(PowerLoss, ADiskThatLiesLosesWhatItCalledDurable) {
  const std::uint64_t seed = seed_for("ADiskThatLies");
  bool content_lost = false;
  bool name_lost = false;
  for (std::uint64_t i = 0; i < kTries; ++i) {
    MemoryStorage storage;
    durable_file(storage, "honest", "x");
    storage.calls().set_liar([](std::string_view, std::string_view path) { return path != "honest"; });
    durable_file(storage, "f", "x");
    storage.lose_power(seed + i);
    EXPECT_EQ(content_of(storage, "honest"), "x");
    const std::string found = content_of(storage, "f");
    name_lost = name_lost || found == "absent";
    content_lost = content_lost || (found != "absent" && found != "x");
  }
  EXPECT_TRUE(name_lost && content_lost);
}

TEST(Copies, OfAMachineHaveItsFutureOfTheirOwn) {
  const std::uint64_t seed = seed_for("Copies");
  for (std::uint64_t i = 0; i < kTries; ++i) {
    Machine machine;
    auto file = durable_file(machine.storage, "f", std::string(8192, 'o'));
    EXPECT_OK(machine.storage.link("f", "g"));
    EXPECT_OK(file->write(ByteOffset{0}, bytes_of(std::string(4096, 'n'))));
    EXPECT_OK(file->punch(ByteOffset{4096}, ByteCount{4096}));
    auto map = machine.memory.open("m", ByteCount{8192}).value();
    EXPECT_OK(map->reserve(ByteOffset{4096}, ByteCount{4096}));
    map->bytes()[5000] = std::byte{7};

    const auto killed = machine.copy();
    const auto cut = machine.copy();
    const auto cut_too = machine.copy();
    EXPECT_OK(file->write(ByteOffset{0}, bytes_of("later")));
    map->bytes()[5000] = std::byte{8};
    EXPECT_OK(machine.storage.remove("g"));

    killed->kill();
    EXPECT_EQ(content_of(killed->storage, "g"), std::string(4096, 'n') + std::string(4096, '\0'));
    EXPECT_EQ(killed->memory.open_existing("m").value()->bytes()[5000], std::byte{7});
    EXPECT_EQ(killed->storage.capacity()->free, machine.storage.capacity()->free);
    cut->lose_power(seed + i);
    cut_too->lose_power(seed + i);
    EXPECT_EQ(content_of(cut->storage, "f"), content_of(cut_too->storage, "f")) << "one seed, one outcome";
    EXPECT_EQ(content_of(cut->storage, "g"), content_of(cut_too->storage, "g"));
    EXPECT_FAILS(cut->memory.open_existing("m"), ENOENT);
    EXPECT_EQ(content_of(machine.storage, "f").substr(0, 6), "latern");

    EXPECT_OK(file->sync_data());
    EXPECT_OK(machine.storage.sync_directory(""));
    machine.lose_power(seed);
    EXPECT_EQ(content_of(machine.storage, "f"), "later" + std::string(4091, 'n') + std::string(4096, '\0'));
    EXPECT_EQ(content_of(machine.storage, "g"), "absent");
  }
}

TEST(Faults, AKillMayComeInTheMiddleOfAWrite) {
  MemoryStorage storage;
  auto file = durable_file(storage, "f", std::string(8192, 'o'));
  std::unique_ptr<Machine> then;
  std::vector<std::string> seen;
  storage.calls().look_into_writes(true);
  storage.calls().set_hook([&](std::string_view action, std::string_view) {
    seen.emplace_back(action);
    if (action != "half of write") return;
    then = std::make_unique<Machine>();
    storage.copy_to(then->storage);
  });
  EXPECT_OK(file->write(ByteOffset{0}, bytes_of(std::string(8192, 'n'))));
  EXPECT_EQ(seen, (std::vector<std::string>{"write", "half of write"}));
  ASSERT_NE(then, nullptr);
  then->kill();
  EXPECT_EQ(content_of(then->storage, "f"), std::string(4096, 'n') + std::string(4096, 'o'));
  EXPECT_EQ(content_of(storage, "f"), std::string(8192, 'n'));
}

/// A random history against a plain model: after a loss, every file that was synced and not touched since is exact.
TEST(PowerLoss, RandomHistoriesKeepWhatWasSynced) {
  const std::uint64_t seed = seed_for("RandomHistories");
  for (std::uint64_t round = 0; round < 30; ++round) {
    Random random(seed + round);
    MemoryStorage storage;
    auto file = storage.open("f", kCreate).value();
    ASSERT_OK(storage.sync_directory(""));
    std::string model;
    std::string durable;
    const std::uint64_t steps = random() % 60;
    for (std::uint64_t step = 0; step < steps; ++step) {
      const std::uint64_t at = random() % 30000;
      const std::uint64_t count = random() % 9000;
      switch (random() % 5) {
        case 0:
          ASSERT_OK(file->resize(ByteCount{at}));
          model.resize(at);
          break;
        case 1:
          ASSERT_OK(file->punch(ByteOffset{at}, ByteCount{count}));
          for (std::uint64_t i = at; i < std::min<std::uint64_t>(at + count, model.size()); ++i) model[i] = '\0';
          break;
        case 2:
          ASSERT_OK(file->sync_data());
          durable = model;
          break;
        default: {
          const std::string text(count, static_cast<char>('a' + random() % 26));
          ASSERT_OK(file->write(ByteOffset{at}, bytes_of(text)));
          if (count != 0 && model.size() < at + count) model.resize(at + count);
          model.replace(at <= model.size() ? at : model.size(), count, text);
        }
      }
      ASSERT_EQ(content_of(storage, "f") == model, true) << "seed " << seed + round << " step " << step;
    }
    if (round % 2 == 0) {
      ASSERT_OK(file->sync_data());
      durable = model;
      storage.lose_power(seed + round);
      ASSERT_EQ(content_of(storage, "f") == durable, true) << "seed " << seed + round;
    } else {
      storage.kill();
      ASSERT_EQ(content_of(storage, "f") == model, true) << "seed " << seed + round;
    }
  }
}

}  // namespace
}  // namespace varve::test
