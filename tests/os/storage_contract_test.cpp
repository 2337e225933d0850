// One suite for every Storage: what os/storage.h promises holds for the real directory and for the double, or tests
// on the double prove nothing.
#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "support/expect.h"
#include "support/memory_storage.h"
#include "support/temporary_directory.h"
#include "support/text.h"
#include "varve/core/buffer.h"
#include "varve/os/storage.h"

namespace varve::test {
namespace {

constexpr os::OpenMode kCreate{.write = true, .create = true};
constexpr os::OpenMode kCreateNew{.write = true, .create = true, .exclusive = true};
constexpr os::OpenMode kWrite{.write = true};

/// A storage and whatever must live as long.
class Place {
 public:
  virtual ~Place() = default;
  virtual os::Storage& storage() = 0;
};

class RealPlace final : public Place {
 public:
  RealPlace() : storage_(os::open_directory(directory_.path()).value()) {}
  os::Storage& storage() override { return *storage_; }

 private:
  TemporaryDirectory directory_;
  std::unique_ptr<os::Storage> storage_;
};

class MemoryPlace final : public Place {
 public:
  explicit MemoryPlace(bool books) : storage_({.power_loss = books}) {}
  os::Storage& storage() override { return storage_; }

 private:
  MemoryStorage storage_;
};

struct Kind {
  std::string name;
  std::function<std::unique_ptr<Place>()> make;
};

class StorageContract : public ::testing::TestWithParam<Kind> {
 protected:
  std::unique_ptr<Place> place_ = GetParam().make();
  os::Storage& storage_ = place_->storage();

  std::unique_ptr<os::File> make_file(std::string_view path, std::string_view text = "") {
    auto file = storage_.open(path, kCreateNew);
    EXPECT_OK(file);
    EXPECT_OK((*file)->write(ByteOffset{0}, bytes_of(text)));
    return std::move(*file);
  }
  std::vector<std::string> names_in(std::string_view path) {
    std::vector<std::string> names;
    const auto entries = storage_.list(path);
    EXPECT_OK(entries);
    for (const auto& entry : entries.value_or(std::vector<os::DirectoryEntry>{})) names.push_back(entry.name);
    std::sort(names.begin(), names.end());
    return names;
  }
};

using Names = std::vector<std::string>;

TEST_P(StorageContract, ReadsWhatWasWrittenAndStopsAtTheEnd) {
  auto file = make_file("f", "0123456789");
  std::vector<std::byte> out(100);
  const auto n = file->read(ByteOffset{4}, out);
  ASSERT_OK(n);
  EXPECT_EQ(text_of(std::span(out).first(*n)), "456789");
  EXPECT_EQ(file->read(ByteOffset{10}, out).value(), 0U);
  EXPECT_EQ(file->read(ByteOffset{1000}, out).value(), 0U);
}

TEST_P(StorageContract, GapsReadAsZerosAndTakeNoSpace) {
  auto file = make_file("f");
  ASSERT_OK(file->write(ByteOffset{10 * kMiB}, bytes_of("x")));
  std::vector<std::byte> out(3, std::byte{1});
  ASSERT_EQ(file->read(ByteOffset{5 * kMiB}, out).value(), 3U);
  EXPECT_EQ(out, std::vector<std::byte>(3));
  const auto status = file->status();
  ASSERT_OK(status);
  EXPECT_EQ(status->size, ByteCount{10 * kMiB + 1});
  EXPECT_LT(status->allocated, ByteCount{kMiB});
}

TEST_P(StorageContract, OpenNeedsTheFileUnlessToldToCreateIt) {
  const auto absent = storage_.open("f", kWrite);
  EXPECT_FAILS(absent, ENOENT);
  EXPECT_EQ(absent.error().kind, ErrorKind::absent);
  EXPECT_OK(storage_.open("f", kCreate));
  EXPECT_OK(storage_.open("f", kCreate));
  EXPECT_FAILS(storage_.open("f", kCreateNew), EEXIST);
  EXPECT_FAILS(storage_.open("absent/f", kCreate), ENOENT);
}

TEST_P(StorageContract, TruncateEmptiesAnExistingFile) {
  make_file("f", "old");
  EXPECT_OK(storage_.open("f", {.write = true, .truncate = true}));
  EXPECT_EQ(content_of(storage_, "f"), "");
}

TEST_P(StorageContract, AFileOpenedForReadingRefusesWrites) {
  make_file("f", "old");
  auto file = storage_.open("f", {}).value();
  EXPECT_FAILS(file->write(ByteOffset{0}, bytes_of("new")), EBADF);
  EXPECT_EQ(content_of(storage_, "f"), "old");
}

TEST_P(StorageContract, PathsThatCouldLeadElsewhereAreRefused) {
  ASSERT_OK(storage_.make_directory("d"));
  for (const std::string_view path :
       {std::string_view(""), std::string_view("/"), std::string_view("/f"), std::string_view("d/"),
        std::string_view("d//f"), std::string_view("."), std::string_view(".."), std::string_view("d/.."),
        std::string_view("d/../f"), std::string_view("./f"), std::string_view("f\0g", 3)}) {
    EXPECT_FAILS(storage_.open(path, kCreate), EINVAL) << '"' << path << '"';
    EXPECT_FAILS(storage_.make_directory(path), EINVAL) << '"' << path << '"';
    EXPECT_FAILS(storage_.rename("d", path), EINVAL) << '"' << path << '"';
  }
  EXPECT_EQ(names_in(""), Names{"d"});
}

TEST_P(StorageContract, ADirectoryIsNotAFile) {
  ASSERT_OK(storage_.make_directory("d"));
  EXPECT_FAILS(storage_.open("d", {}), EINVAL);
  EXPECT_FAILS(storage_.open("d", kWrite), EINVAL);
  EXPECT_FAILS(storage_.remove("d"), EISDIR);
  make_file("f");
  EXPECT_FAILS(storage_.open("f/g", kCreate), ENOTDIR);
  EXPECT_FAILS(storage_.make_directory("f"), ENOTDIR);
  EXPECT_FAILS(storage_.list("f"), ENOTDIR);
  EXPECT_FAILS(storage_.remove_directory("f"), ENOTDIR);
}

TEST_P(StorageContract, MakeDirectoryTellsWhetherItWasNew) {
  EXPECT_TRUE(storage_.make_directory("d").value());
  EXPECT_FALSE(storage_.make_directory("d").value());
  EXPECT_FAILS(storage_.make_directory("a/b"), ENOENT);
  EXPECT_EQ(storage_.status("d")->type, os::FileType::directory);
  EXPECT_EQ(storage_.status("")->type, os::FileType::directory);
}

TEST_P(StorageContract, OnlyEmptyDirectoriesAreRemoved) {
  ASSERT_OK(storage_.make_directory("d"));
  make_file("d/f");
  EXPECT_FAILS(storage_.remove_directory("d"), ENOTEMPTY);
  EXPECT_OK(storage_.remove("d/f"));
  EXPECT_OK(storage_.remove_directory("d"));
  EXPECT_FAILS(storage_.remove_directory("d"), ENOENT);
  EXPECT_FAILS(storage_.remove("d/f"), ENOENT);
}

TEST_P(StorageContract, ListsNamesWithTheirTypes) {
  make_file("f");
  ASSERT_OK(storage_.make_directory("d"));
  make_file("d/inner");
  const auto entries = storage_.list("");
  ASSERT_OK(entries);
  ASSERT_EQ(entries->size(), 2U);
  for (const auto& entry : *entries) {
    EXPECT_EQ(entry.type, entry.name == "d" ? os::FileType::directory : os::FileType::regular);
  }
  EXPECT_EQ(names_in("d"), Names{"inner"});
  EXPECT_EQ(names_in("d"), Names{"inner"}) << "a second listing begins at the beginning";
  EXPECT_EQ(names_in("").size(), 2U);
  EXPECT_EQ(names_in("").size(), 2U);
  EXPECT_FAILS(storage_.list("absent"), ENOENT);
}

TEST_P(StorageContract, RenameReplacesItsTarget) {
  make_file("new", "new");
  make_file("old", "old");
  auto open_old = storage_.open("old", {}).value();
  ASSERT_OK(storage_.rename("new", "old"));
  EXPECT_EQ(content_of(storage_, "old"), "new");
  EXPECT_EQ(names_in(""), Names{"old"});
  std::vector<std::byte> out(3);
  ASSERT_OK(open_old->read(ByteOffset{0}, out));
  EXPECT_EQ(text_of(out), "old") << "an open file outlives its name";
  EXPECT_FAILS(storage_.rename("absent", "old"), ENOENT);
}

TEST_P(StorageContract, RenameMovesBetweenDirectories) {
  ASSERT_OK(storage_.make_directory("a"));
  ASSERT_OK(storage_.make_directory("b"));
  make_file("a/f", "x");
  ASSERT_OK(storage_.rename("a/f", "b/g"));
  EXPECT_EQ(names_in("a"), Names{});
  EXPECT_EQ(content_of(storage_, "b/g"), "x");
  EXPECT_FAILS(storage_.rename("a", "b"), ENOTEMPTY);
  EXPECT_FAILS(storage_.rename("b/g", "a"), EISDIR);
  EXPECT_FAILS(storage_.rename("a", "b/g"), ENOTDIR);
  ASSERT_OK(storage_.rename("b", "c"));
  EXPECT_EQ(content_of(storage_, "c/g"), "x");
  EXPECT_FAILS(storage_.rename("c", "c/inside"), EINVAL);
}

TEST_P(StorageContract, LinkGivesASecondNameAndNeverReplaces) {
  make_file("f", "x");
  ASSERT_OK(storage_.link("f", "g"));
  EXPECT_FAILS(storage_.link("f", "g"), EEXIST);
  ASSERT_OK(storage_.remove("f"));
  EXPECT_EQ(content_of(storage_, "g"), "x");
  EXPECT_FAILS(storage_.link("f", "h"), ENOENT);
}

TEST_P(StorageContract, RenamingOneNameOfAFileToAnotherLeavesBoth) {
  make_file("f", "x");
  ASSERT_OK(storage_.link("f", "g"));
  ASSERT_OK(storage_.rename("f", "g"));
  EXPECT_EQ(names_in(""), (Names{"f", "g"}));
}

TEST_P(StorageContract, ResizeCutsAndGrowsWithZeros) {
  auto file = make_file("f", "0123456789");
  ASSERT_OK(file->resize(ByteCount{4}));
  ASSERT_OK(file->resize(ByteCount{8}));
  EXPECT_EQ(content_of(storage_, "f"), std::string("0123\0\0\0\0", 8));
  ASSERT_OK(file->write(ByteOffset{9000}, bytes_of("far")));
  ASSERT_OK(file->resize(ByteCount{4}));
  ASSERT_OK(file->resize(ByteCount{10000}));
  EXPECT_EQ(content_of(storage_, "f"), "0123" + std::string(9996, '\0'));
  EXPECT_FAILS(file->resize(ByteCount{UINT64_MAX}), EFBIG);
}

TEST_P(StorageContract, PunchedRangesReadAsZerosAndGiveBackSpace) {
  auto file = make_file("f", std::string(64 * kKiB, 'x'));
  ASSERT_OK(file->sync_data());
  const auto before = file->status()->allocated;
  ASSERT_OK(file->punch(ByteOffset{6 * kKiB}, ByteCount{20 * kKiB}));
  std::string expected(64 * kKiB, 'x');
  std::fill_n(expected.begin() + 6 * kKiB, 20 * kKiB, '\0');
  EXPECT_EQ(content_of(storage_, "f"), expected);
  EXPECT_EQ(file->status()->size, ByteCount{64 * kKiB});
  EXPECT_LT(file->status()->allocated, before);
  EXPECT_OK(file->punch(ByteOffset{0}, ByteCount{0}));
}

TEST_P(StorageContract, PunchingFarBeyondTheDataIsQuickAndHarmless) {
  auto file = make_file("f", "x");
  ASSERT_OK(file->resize(ByteCount{8 * kTiB}));
  ASSERT_OK(file->punch(ByteOffset{0}, ByteCount{8 * kTiB}));
  EXPECT_EQ(file->status()->size, ByteCount{8 * kTiB});
  std::vector<std::byte> out(1, std::byte{1});
  ASSERT_OK(file->read(ByteOffset{0}, out));
  EXPECT_EQ(out[0], std::byte{0});
}

TEST_P(StorageContract, NextDataPassesOverHolesAndNeverOverData) {
  constexpr ByteOffset kNone{UINT64_MAX};
  auto file = make_file("f", "x");
  ASSERT_OK(file->resize(ByteCount{8 * kTiB}));
  ASSERT_OK(file->write(ByteOffset{kTiB + 4096}, bytes_of("far")));
  ASSERT_OK(file->preallocate(ByteOffset{2 * kTiB}, ByteCount{kMiB}));
  EXPECT_EQ(file->next_data(ByteOffset{0}).value(), ByteOffset{0});
  const auto far = file->next_data(ByteOffset{kMiB});
  ASSERT_OK(far);
  EXPECT_LE(*far, ByteOffset{kTiB + 4096});
  EXPECT_GT(*far, ByteOffset{kTiB - kMiB}) << "the hole before it is passed over";
  EXPECT_EQ(file->next_data(ByteOffset{kTiB + 4098}).value(), ByteOffset{kTiB + 4098});
  EXPECT_EQ(file->next_data(ByteOffset{kTiB + kMiB}).value(), kNone) << "reserved is not written";
  ASSERT_OK(file->punch(ByteOffset{kTiB}, ByteCount{kMiB}));
  EXPECT_EQ(file->next_data(ByteOffset{kMiB}).value(), kNone);
  EXPECT_EQ(file->next_data(ByteOffset{9 * kTiB}).value(), kNone);
  EXPECT_EQ(file->next_data(kNone).value(), kNone);
}

TEST_P(StorageContract, PreallocateReservesAndExtends) {
  auto file = make_file("f", "x");
  ASSERT_OK(file->preallocate(ByteOffset{0}, ByteCount{kMiB}));
  EXPECT_EQ(file->status()->size, ByteCount{kMiB});
  EXPECT_GE(file->status()->allocated, ByteCount{kMiB});
  EXPECT_EQ(content_of(storage_, "f"), "x" + std::string(kMiB - 1, '\0'));
}

TEST_P(StorageContract, OffsetsBeyondTheRangeAreErrorsNotWrapArounds) {
  auto file = make_file("f", "x");
  EXPECT_FAILS(file->write(ByteOffset{UINT64_MAX}, bytes_of("x")), EFBIG);
  EXPECT_FAILS(file->write(ByteOffset{INT64_MAX}, bytes_of("x")), EFBIG);
  EXPECT_FAILS(file->punch(ByteOffset{1}, ByteCount{UINT64_MAX}), EFBIG);
  std::vector<std::byte> out(1);
  EXPECT_FAILS(file->read(ByteOffset{UINT64_MAX}, out), EFBIG);
  EXPECT_EQ(content_of(storage_, "f"), "x");
}

TEST_P(StorageContract, DirectFilesKeepTheirAlignmentAndReadTheirTail) {
  auto file = storage_.open("f", {.write = true, .create = true, .direct = true}).value();
  const std::size_t alignment = file->alignment();
  ASSERT_TRUE(alignment == 1 || alignment == 4096) << alignment;
  AlignedBuffer buffer(64 * kKiB);
  std::fill(buffer.span().begin(), buffer.span().end(), std::byte{'d'});
  ASSERT_OK(file->write(ByteOffset{8192}, std::as_const(buffer).span()));
  ASSERT_OK(file->sync_data());
  ASSERT_OK(file->resize(ByteCount{8192 + 5000}));
  std::fill(buffer.span().begin(), buffer.span().end(), std::byte{0});
  const auto n = file->read(ByteOffset{8192}, buffer.span());
  ASSERT_OK(n);
  EXPECT_EQ(*n, 5000U);
  EXPECT_EQ(text_of(buffer.span().first(5000)), std::string(5000, 'd'));
  EXPECT_EQ(storage_.open("f", {})->get()->alignment(), 1U);
}

TEST_P(StorageContract, TheLockBelongsToOneOpenFile) {
  auto first = make_file("f");
  auto second = storage_.open("f", kWrite).value();
  EXPECT_TRUE(first->try_lock().value());
  EXPECT_TRUE(first->try_lock().value()) << "the holder may ask again";
  EXPECT_FALSE(second->try_lock().value());
  first.reset();
  EXPECT_TRUE(second->try_lock().value());
}

TEST_P(StorageContract, ModificationTimeMovesWithWritesAndCanBeSet) {
  auto file = make_file("f");
  const Time set{1'600'000'000'123'456'789};
  ASSERT_OK(file->set_modified(set));
  EXPECT_EQ(storage_.status("f")->modified, set);
  ASSERT_OK(file->write(ByteOffset{0}, bytes_of("x")));
  EXPECT_GT(file->status()->modified, set);
}

TEST_P(StorageContract, SyncsWhatIsThereAndOnlyThat) {
  auto file = make_file("f", "x");
  EXPECT_OK(file->sync_data());
  EXPECT_OK(storage_.sync_directory(""));
  ASSERT_OK(storage_.make_directory("d"));
  EXPECT_OK(storage_.sync_directory("d"));
  EXPECT_FAILS(storage_.sync_directory("absent"), ENOENT);
  EXPECT_FAILS(storage_.sync_directory("f"), ENOTDIR);
}

TEST_P(StorageContract, IdentityIsStableAndCapacityPlausible) {
  const auto one = storage_.identity();
  ASSERT_OK(one);
  EXPECT_EQ(*one, storage_.identity().value());
  EXPECT_FALSE(one->boot_id.empty());
  const auto capacity = storage_.capacity();
  ASSERT_OK(capacity);
  EXPECT_GT(capacity->total, ByteCount{0});
  EXPECT_LE(capacity->free, capacity->total);
  EXPECT_LE(capacity->available, capacity->free);
}

TEST_P(StorageContract, FilesAreForTheOwnerAlone) {
  make_file("f");
  ASSERT_OK(storage_.make_directory("d"));
  EXPECT_EQ(storage_.status("f")->mode, 0600U);
  EXPECT_EQ(storage_.status("d")->mode, 0700U);
}

TEST_P(StorageContract, AnyThreadMayCallAnything) {
  auto file = make_file("f");
  std::vector<std::thread> threads;
  for (std::uint64_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      const std::string text(4096, static_cast<char>('a' + t));
      for (std::uint64_t i = 0; i < 50; ++i) {
        EXPECT_OK(file->write(ByteOffset{(i * 4 + t) * 4096}, bytes_of(text)));
        if (i % 10 == 0) {
          EXPECT_OK(file->sync_data());
        }
        const std::string name = "t" + std::to_string(t) + "-" + std::to_string(i);
        EXPECT_OK(storage_.open(name, kCreateNew));
        EXPECT_OK(storage_.remove(name));
      }
    });
  }
  for (auto& thread : threads) thread.join();
  const std::string content = content_of(storage_, "f");
  ASSERT_EQ(content.size(), 200 * 4096U);
  for (std::size_t i = 0; i < 200; ++i) EXPECT_EQ(content[i * 4096], static_cast<char>('a' + i % 4));
  EXPECT_EQ(names_in(""), Names{"f"});
}

INSTANTIATE_TEST_SUITE_P(Every, StorageContract,
                         ::testing::Values(Kind{"directory", [] { return std::make_unique<RealPlace>(); }},
                                           Kind{"memory", [] { return std::make_unique<MemoryPlace>(true); }},
                                           Kind{"memory_without_books",
                                                [] { return std::make_unique<MemoryPlace>(false); }}),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace varve::test
