#include "varve/chunks/locator.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>

#include "support/temporary_directory.h"

namespace varve::chunks {
namespace {

Digest digest_number(std::uint64_t n) {
  return Digest{n * 0x9E3779B97F4A7C15u, ~n};
}

Locator::Entry entry(std::uint64_t pack, std::uint32_t ordinal, std::uint64_t digest,
                     RecordKind kind = RecordKind::full) {
  return {kind, Ref{PackId{pack}, ordinal, digest_number(digest)}};
}

std::optional<Ref> found(Locator& locator, std::uint64_t digest, RecordKind kind = RecordKind::full) {
  return locator.find(digest_number(digest), kind).value();
}

std::vector<PackId> known(Locator& locator) {
  auto packs = locator.known_packs().value();
  std::ranges::sort(packs);
  return packs;
}

// ---- the contract, kept by every implementation

struct Made {
  std::unique_ptr<test::TemporaryDirectory> directory;
  std::unique_ptr<Locator> locator;
};
struct Maker {
  const char* name;
  std::function<Made()> make;
};

struct LocatorContract : testing::TestWithParam<Maker> {
  Made made = GetParam().make();
  Locator& locator = *made.locator;
};

TEST_P(LocatorContract, FindsWhatWasAdded) {
  EXPECT_EQ(found(locator, 1), std::nullopt);
  EXPECT_TRUE(locator.add_pack(PackId{256}, std::vector{entry(256, 0, 1), entry(256, 1, 2)}));
  EXPECT_EQ(found(locator, 1), entry(256, 0, 1).ref);
  EXPECT_EQ(found(locator, 2), entry(256, 1, 2).ref);
  EXPECT_EQ(found(locator, 3), std::nullopt);
  EXPECT_EQ(known(locator), std::vector{PackId{256}});
}

TEST_P(LocatorContract, KeepsKindsApart) {
  EXPECT_TRUE(locator.add_pack(PackId{256}, std::vector{entry(256, 0, 1), entry(256, 1, 1, RecordKind::node)}));
  EXPECT_EQ(found(locator, 1)->ordinal, 0u);
  EXPECT_EQ(found(locator, 1, RecordKind::node)->ordinal, 1u);
}

TEST_P(LocatorContract, TheNewestOfADigestIsFound) {
  EXPECT_TRUE(locator.add_pack(PackId{256}, std::vector{entry(256, 0, 1)}));
  EXPECT_TRUE(locator.add_pack(PackId{512}, std::vector{entry(512, 5, 1)}));
  EXPECT_EQ(found(locator, 1), entry(512, 5, 1).ref);
}

TEST_P(LocatorContract, ForgettingAPackLeavesDigestsThatMovedOn) {
  EXPECT_TRUE(locator.add_pack(PackId{256}, std::vector{entry(256, 0, 1), entry(256, 1, 2)}));
  EXPECT_TRUE(locator.add_pack(PackId{512}, std::vector{entry(512, 0, 1)}));
  EXPECT_TRUE(locator.forget_pack(PackId{256}, std::vector{entry(256, 0, 1), entry(256, 1, 2)}));
  EXPECT_EQ(found(locator, 1), entry(512, 0, 1).ref);
  EXPECT_EQ(found(locator, 2), std::nullopt);
  EXPECT_EQ(known(locator), std::vector{PackId{512}});
}

TEST_P(LocatorContract, AddingAndForgettingTwiceChangesNothing) {
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(locator.add_pack(PackId{256}, std::vector{entry(256, 0, 1)}));
  EXPECT_EQ(known(locator), std::vector{PackId{256}});
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(locator.forget_pack(PackId{256}, std::vector{entry(256, 0, 1)}));
  EXPECT_TRUE(locator.forget_pack(PackId{1024}, {}));
  EXPECT_TRUE(known(locator).empty());
}

TEST_P(LocatorContract, KnowsEmptyPacksAndManyRecords) {
  EXPECT_TRUE(locator.add_pack(PackId{256}, {}));
  std::vector<Locator::Entry> entries;
  for (std::uint32_t i = 0; i < 20000; ++i) entries.push_back(entry(512, i, i));
  EXPECT_TRUE(locator.add_pack(PackId{512}, entries));
  for (std::uint32_t i = 0; i < 20000; i += 37) EXPECT_EQ(found(locator, i)->ordinal, i);
  EXPECT_EQ(known(locator), (std::vector{PackId{256}, PackId{512}}));
}

Made make_rocksdb() {
  auto directory = std::make_unique<test::TemporaryDirectory>();
  auto locator = open_rocksdb_locator(directory->path() + "/locator");
  return {std::move(directory), std::move(locator).value()};
}

INSTANTIATE_TEST_SUITE_P(, LocatorContract,
                         testing::Values(Maker{"Memory",
                                               [] {
                                                 return Made{nullptr, make_memory_locator()};
                                               }},
                                         Maker{"RocksDB", make_rocksdb}),
                         [](const auto& info) { return std::string(info.param.name); });

// ---- RocksDB alone

struct RocksdbLocatorTest : testing::Test {
  std::unique_ptr<Locator> open() { return open_rocksdb_locator(path).value(); }
  test::TemporaryDirectory directory;
  std::string path = directory.path() + "/locator";
};

TEST_F(RocksdbLocatorTest, KeepsItsContentAcrossAMount) {
  EXPECT_TRUE(open()->add_pack(PackId{256}, std::vector{entry(256, 3, 1)}));
  auto again = open();
  EXPECT_EQ(found(*again, 1), entry(256, 3, 1).ref);
  EXPECT_EQ(known(*again), std::vector{PackId{256}});
}

// Run in a process of its own, which is started anew from main() and ends as if killed.
[[noreturn]] void add_packs_and_die(const std::string& path, std::uint64_t packs, std::uint32_t records) {
  auto locator = open_rocksdb_locator(path).value();
  for (std::uint64_t pack = 1; pack <= packs; ++pack) {
    std::vector<Locator::Entry> entries;
    for (std::uint32_t i = 0; i < records; ++i) entries.push_back(entry(pack * 256, i, pack << 32 | i));
    if (!locator->add_pack(PackId{pack * 256}, entries)) _exit(1);
  }
  _exit(0);
}

TEST(RocksdbLocatorCrash, APackIsNeverKnownWhileItsEntriesAreLost) {
  constexpr std::uint32_t kRecords = 3000;
  constexpr std::uint64_t kPacks = 150;  // some memtables' worth: a part has been flushed, the rest is lost
  constexpr const char* kPathVariable = "VARVE_TEST_LOCATOR";
  std::unique_ptr<test::TemporaryDirectory> directory;
  if (getenv(kPathVariable) == nullptr) {
    directory = std::make_unique<test::TemporaryDirectory>();
    setenv(kPathVariable, (directory->path() + "/locator").c_str(), 1);
  }
  const std::string path = getenv(kPathVariable);
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(add_packs_and_die(path, kPacks, kRecords), testing::ExitedWithCode(0), "");
  unsetenv(kPathVariable);

  auto locator = open_rocksdb_locator(path).value();
  const auto packs = known(*locator);
  EXPECT_GT(packs.size(), 0u);
  EXPECT_LT(packs.size(), kPacks);
  for (const PackId pack : packs) {
    for (std::uint32_t i = 0; i < kRecords; i += 101) {
      EXPECT_EQ(found(*locator, pack.value() / 256 << 32 | i)->pack, pack);
    }
  }
}

TEST_F(RocksdbLocatorTest, WhatCannotBeOpenedIsMadeAnew) {
  EXPECT_TRUE(open()->add_pack(PackId{256}, std::vector{entry(256, 3, 1)}));
  std::ofstream(path + "/CURRENT") << "nonsense\n";
  {
    auto locator = open();
    EXPECT_TRUE(known(*locator).empty());
    EXPECT_EQ(found(*locator, 1), std::nullopt);
    EXPECT_TRUE(locator->add_pack(PackId{512}, std::vector{entry(512, 0, 1)}));
  }
  EXPECT_EQ(known(*open()), std::vector{PackId{512}});
}

TEST_F(RocksdbLocatorTest, DamagedTablesNeverCrashItAndItRecovers) {
  std::vector<Locator::Entry> entries;
  for (std::uint32_t i = 0; i < 5000; ++i) entries.push_back(entry(256, i, i));
  EXPECT_TRUE(open()->add_pack(PackId{256}, entries));
  for (const auto& file : std::filesystem::directory_iterator(path)) {
    if (file.path().extension() != ".sst") continue;
    std::fstream stream(file.path(), std::ios::in | std::ios::out | std::ios::binary);
    for (std::uintmax_t at = 500; at + 2000 < file.file_size(); at += 100) {  // data blocks: opening it succeeds
      stream.seekp(static_cast<std::streamoff>(at));
      stream.put('x');
    }
  }
  auto opened = open_rocksdb_locator(path);
  ASSERT_TRUE(opened);
  for (std::uint32_t i = 0; i < 5000; ++i) (void)(*opened)->find(digest_number(i), RecordKind::full);
  (void)(*opened)->known_packs();
  EXPECT_TRUE((*opened)->add_pack(PackId{512}, std::vector{entry(512, 0, 1)}));
  EXPECT_EQ(found(**opened, 1), entry(512, 0, 1).ref);
}

TEST_F(RocksdbLocatorTest, OneInUseIsNotDeleted) {
  auto first = open();
  EXPECT_TRUE(first->add_pack(PackId{256}, std::vector{entry(256, 3, 1)}));
  EXPECT_FALSE(open_rocksdb_locator(path));
  EXPECT_EQ(found(*first, 1), entry(256, 3, 1).ref);
}

/// As on a full disk: no file may grow beyond a few bytes. With a log file RocksDB would end the process.
void live_where_nothing_can_be_written(const std::string& path) {
  ::signal(SIGXFSZ, SIG_IGN);
  const rlimit limit{16, RLIM_INFINITY};
  if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) std::exit(2);
  {
    const auto none = open_rocksdb_locator(path);
    if (none && (*none)->add_pack(PackId{256}, std::vector{entry(256, 0, 1)})) std::exit(3);
  }
  const rlimit enough{RLIM_INFINITY, RLIM_INFINITY};
  if (::setrlimit(RLIMIT_FSIZE, &enough) != 0) std::exit(2);
  const auto again = open_rocksdb_locator(path);
  if (!again || !(*again)->add_pack(PackId{512}, std::vector{entry(512, 0, 2)})) std::exit(4);
  // While it is open the disk fills up.
  if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) std::exit(2);
  std::vector<Locator::Entry> many;
  for (std::uint32_t i = 0; i < 30'000; ++i) many.push_back(entry(768, i, 1000 + i));
  for (std::uint64_t pack = 3; pack < 20; ++pack) static_cast<void>((*again)->add_pack(PackId{pack << 8}, many));
  for (std::uint64_t pack = 3; pack < 20; ++pack) {
    if (!(*again)->forget_pack(PackId{pack << 8}, {})) std::exit(5);
  }
  if (::setrlimit(RLIMIT_FSIZE, &enough) != 0) std::exit(2);
  if (!(*again)->add_pack(PackId{256 * 30}, std::vector{entry(256 * 30, 0, 3)})) std::exit(6);
  if (found(**again, 3) != entry(256 * 30, 0, 3).ref) std::exit(7);
  std::exit(0);
}

TEST(RocksdbLocatorDeathTest, WithoutRoomItIsGivenUpAndNothingDies) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  test::TemporaryDirectory directory;
  EXPECT_EXIT(live_where_nothing_can_be_written(directory.path() + "/locator"), testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace varve::chunks
