// One suite for every ObjectStore. Today: the directory, over a real filesystem and over the double.
#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "support/expect.h"
#include "support/memory_storage.h"
#include "support/temporary_directory.h"
#include "support/text.h"
#include "varve/objects/object_store.h"

namespace varve::test {
namespace {

using objects::PutOutcome;
using Names = std::vector<std::string>;

/// An object store and whatever must live as long.
class Place {
 public:
  virtual ~Place() = default;
  virtual objects::ObjectStore& objects() = 0;
};

class RealPlace final : public Place {
 public:
  objects::ObjectStore& objects() override { return *objects_; }

 private:
  TemporaryDirectory directory_;
  std::unique_ptr<os::Storage> storage_ = os::open_directory(directory_.path()).value();
  std::unique_ptr<objects::ObjectStore> objects_ = objects::make_directory_objects(*storage_);
};

class MemoryPlace final : public Place {
 public:
  objects::ObjectStore& objects() override { return *objects_; }

 private:
  MemoryStorage storage_;
  std::unique_ptr<objects::ObjectStore> objects_ = objects::make_directory_objects(storage_);
};

struct Kind {
  std::string name;
  std::function<std::unique_ptr<Place>()> make;
};

class ObjectContract : public ::testing::TestWithParam<Kind> {
 protected:
  std::unique_ptr<Place> place_ = GetParam().make();
  objects::ObjectStore& objects_ = place_->objects();

  std::string content(std::string_view name) {
    std::vector<std::byte> bytes(1000);
    const auto n = objects_.read(name, ByteOffset{0}, bytes);
    return n ? text_of(std::span(bytes).first(*n)) : n.error().message;
  }
  static Names sorted(Result<Names> names) {
    EXPECT_OK(names);
    if (!names) return {};
    std::sort(names->begin(), names->end());
    return *names;
  }
};

TEST_P(ObjectContract, CreatesOnceAndNeverReplaces) {
  EXPECT_EQ(objects_.put_if_absent("packs/ab/1.pack", bytes_of("first")).value(), PutOutcome::created);
  EXPECT_EQ(objects_.put_if_absent("packs/ab/1.pack", bytes_of("second")).value(), PutOutcome::exists);
  EXPECT_EQ(content("packs/ab/1.pack"), "first");
  EXPECT_EQ(objects_.size("packs/ab/1.pack").value(), ByteCount{5});
}

TEST_P(ObjectContract, SeveralPartsAreReadAtOnceEachAsByItself) {
  const std::string one = "the first of them";
  const std::string two(300'000, 't');
  ASSERT_OK(objects_.put_if_absent("packs/ab/1.pack", bytes_of(one)));
  ASSERT_OK(objects_.put_if_absent("packs/ab/2.pack", bytes_of(two)));
  const std::vector<std::pair<std::string, std::uint64_t>> wanted{
      {"packs/ab/1.pack", 0},  {"packs/ab/2.pack", 12'345}, {"packs/cd/3.pack", 0},  {"packs/ab/1.pack", 4},
      {"packs/ab/1.pack", 15}, {"packs/ab/2.pack", 299'999}, {"packs/ab/1.pack", 17}, {"packs/ab/1.pack", 1000},
      {"../outside", 0}};
  for (const objects::Access access : {objects::Access::random, objects::Access::sequential}) {
    std::vector<std::vector<std::byte>> memory(wanted.size(), std::vector<std::byte>(9));
    std::vector<objects::PartRead> parts;
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      parts.push_back({wanted[i].first, ByteOffset{wanted[i].second}, memory[i]});
    }
    objects_.read_together(parts, access);
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      std::vector<std::byte> alone(9);
      const auto count = objects_.read(wanted[i].first, ByteOffset{wanted[i].second}, alone);
      ASSERT_EQ(parts[i].got.has_value(), count.has_value()) << i;
      if (!count) {
        EXPECT_EQ(parts[i].got.error().code, count.error().code) << i;
        continue;
      }
      EXPECT_EQ(*parts[i].got, *count) << i;
      EXPECT_EQ(memory[i], alone) << i;
    }
  }
}

TEST_P(ObjectContract, OfManyWritersOneWins) {
  std::atomic<int> created{0};
  std::atomic<int> existed{0};
  std::vector<std::thread> writers;
  for (int i = 0; i < 8; ++i) {
    writers.emplace_back([&, i] {
      const auto outcome = objects_.put_if_absent("d/log/1", bytes_of("writer " + std::to_string(i)));
      ASSERT_OK(outcome);
      ++(*outcome == PutOutcome::created ? created : existed);
    });
  }
  for (auto& writer : writers) writer.join();
  EXPECT_EQ(created.load(), 1);
  EXPECT_EQ(existed.load(), 7);
  EXPECT_EQ(sorted(objects_.list("d/log")), Names{"1"});
  EXPECT_TRUE(sorted(objects_.list("d")).empty()) << "temporaries are not objects";
}

TEST_P(ObjectContract, ReadsFromAnywhereAndLessOnlyAtTheEnd) {
  ASSERT_OK(objects_.put_if_absent("o", bytes_of("0123456789")));
  std::vector<std::byte> out(4);
  EXPECT_EQ(objects_.read("o", ByteOffset{3}, out).value(), 4U);
  EXPECT_EQ(text_of(out), "3456");
  EXPECT_EQ(objects_.read("o", ByteOffset{8}, out).value(), 2U);
  EXPECT_EQ(objects_.read("o", ByteOffset{10}, out).value(), 0U);
  EXPECT_EQ(objects_.read("o", ByteOffset{99}, out).value(), 0U);
}

TEST_P(ObjectContract, AnEmptyObjectIsAnObject) {
  EXPECT_EQ(objects_.put_if_absent("empty", {}).value(), PutOutcome::created);
  EXPECT_EQ(objects_.put_if_absent("empty", bytes_of("x")).value(), PutOutcome::exists);
  EXPECT_EQ(objects_.size("empty").value(), ByteCount{0});
}

TEST_P(ObjectContract, ALargeObjectKeepsEveryByteAndItsLength) {
  for (const std::size_t size : {kMiB - 1, kMiB, kMiB + 1, kMiB + kMiB / 2, 2 * kMiB + 4095, 3 * kMiB + 4097}) {
    std::vector<std::byte> bytes(size);
    for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i ^ (i >> 8) ^ (i >> 16));
    const std::string name = "packs/" + std::to_string(size);
    ASSERT_EQ(objects_.put_if_absent(name, bytes).value(), PutOutcome::created);
    EXPECT_EQ(objects_.size(name).value(), ByteCount{size});
    std::vector<std::byte> out(size + 1);
    EXPECT_EQ(objects_.read(name, ByteOffset{0}, out).value(), size);
    out.resize(size);
    EXPECT_TRUE(out == bytes) << size;
  }
}

TEST_P(ObjectContract, AbsentIsSaid) {
  std::vector<std::byte> out(4);
  const auto read = objects_.read("absent", ByteOffset{0}, out);
  EXPECT_FAILS(read, ENOENT);
  EXPECT_EQ(read.error().kind, ErrorKind::absent);
  EXPECT_FAILS(objects_.read("no/folder", ByteOffset{0}, out), ENOENT);
  EXPECT_FAILS(objects_.size("absent"), ENOENT);
}

TEST_P(ObjectContract, ListsObjectsAndFoldersApart) {
  for (const char* name : {"root", "packs/ab/1", "packs/ab/2", "packs/cd/3", "packs/loose"}) {
    ASSERT_OK(objects_.put_if_absent(name, bytes_of("x")));
  }
  EXPECT_EQ(sorted(objects_.list("")), Names{"root"});
  EXPECT_EQ(sorted(objects_.list_folders("")), Names{"packs"});
  EXPECT_EQ(sorted(objects_.list("packs")), Names{"loose"});
  EXPECT_EQ(sorted(objects_.list_folders("packs")), (Names{"ab", "cd"}));
  EXPECT_EQ(sorted(objects_.list("packs/ab")), (Names{"1", "2"}));
  EXPECT_TRUE(sorted(objects_.list("absent")).empty());
  EXPECT_TRUE(sorted(objects_.list_folders("absent/too")).empty());
}

TEST_P(ObjectContract, RemovedIsGoneAlsoForReadersThatKnewIt) {
  ASSERT_OK(objects_.put_if_absent("d/o", bytes_of("x")));
  EXPECT_EQ(content("d/o"), "x");
  ASSERT_OK(objects_.remove("d/o"));
  std::vector<std::byte> out(4);
  EXPECT_FAILS(objects_.read("d/o", ByteOffset{0}, out), ENOENT);
  EXPECT_TRUE(sorted(objects_.list("d")).empty());
  EXPECT_EQ(objects_.put_if_absent("d/o", bytes_of("again")).value(), PutOutcome::created);
  EXPECT_EQ(content("d/o"), "again");
}

TEST_P(ObjectContract, RemovingWhatIsAbsentSucceeds) {
  EXPECT_OK(objects_.remove("absent"));
  EXPECT_OK(objects_.remove("no/folder"));
}

TEST_P(ObjectContract, BadNamesAreRefused) {
  std::vector<std::byte> out(4);
  for (const char* bad : {"", "/a", "a/", "../a", "a/../b", ".tmp-x", "a/.tmp-x"}) {
    EXPECT_FAILS(objects_.put_if_absent(bad, bytes_of("x")), EINVAL) << bad;
    EXPECT_FAILS(objects_.read(bad, ByteOffset{0}, out), EINVAL) << bad;
    EXPECT_FAILS(objects_.size(bad), EINVAL) << bad;
    EXPECT_FAILS(objects_.remove(bad), EINVAL) << bad;
  }
}

TEST_P(ObjectContract, ManyMoreThanStayOpenCanBeRead) {
  for (int i = 0; i < 80; ++i) {
    ASSERT_OK(objects_.put_if_absent("o" + std::to_string(i), bytes_of(std::to_string(i))));
  }
  for (int round = 0; round < 2; ++round) {
    for (int i = 0; i < 80; ++i) ASSERT_EQ(content("o" + std::to_string(i)), std::to_string(i));
  }
}

INSTANTIATE_TEST_SUITE_P(Every, ObjectContract,
                         ::testing::Values(Kind{"directory", [] { return std::make_unique<RealPlace>(); }},
                                           Kind{"memory", [] { return std::make_unique<MemoryPlace>(); }}),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace varve::test
