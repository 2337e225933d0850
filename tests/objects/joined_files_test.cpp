// Objects that lie together in one file are the same objects: at every crash, with hostile bytes in the file, and while
// they are moved under readers.
//
//   VARVE_JOIN_VARIANTS=N   power losses at each point (3)
#include <algorithm>
#include <atomic>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "../../src/objects/joined_format.h"
#include "support/expect.h"
#include "support/memory_storage.h"
#include "support/seed.h"
#include "support/text.h"
#include "varve/objects/object_store.h"

namespace varve::test {
namespace {

using objects::JoinOptions;
using objects::ObjectStore;
using Model = std::map<std::string, std::string>;

std::string name_of(int number) {
  return "packs/" + std::string(1, static_cast<char>('a' + number % 4)) + "0/" + std::to_string(1000 + number) + ".pack";
}

/// Told by its number; some have a run of zeros that is worth a hole.
std::string object_text(int number) {
  std::mt19937_64 random(static_cast<std::uint64_t>(number));
  std::string text(100 + random() % 9000, 'x');
  for (char& c : text) c = static_cast<char>('!' + random() % 90);
  if (number % 5 == 0) text += std::string(20'000, '\0') + "end";
  return text;
}

Model some(int from, int to) {
  Model model;
  for (int i = from; i < to; ++i) model[name_of(i)] = object_text(i);
  return model;
}

Status put(ObjectStore& objects, const Model& model) {
  for (const auto& [name, text] : model) VARVE_TRY(objects.put_if_absent(name, bytes_of(text)));
  return {};
}

std::string read(ObjectStore& objects, const std::string& name) {
  const auto size = objects.size(name);
  if (!size) return "cannot be read: " + std::to_string(size.error().code);
  std::vector<std::byte> bytes(size->value() + 10);
  const auto count = objects.read(name, ByteOffset{0}, bytes);
  if (!count) return "cannot be read: " + std::to_string(count.error().code);
  return text_of(std::span(bytes).first(*count));
}

std::set<std::string> names(ObjectStore& objects) {
  std::set<std::string> found;
  const auto folders = objects.list_folders("packs");
  EXPECT_OK(folders);
  for (const auto& folder : folders.value_or(std::vector<std::string>{})) {
    const auto inside = objects.list("packs/" + folder);
    EXPECT_OK(inside);
    for (const auto& name : inside.value_or(std::vector<std::string>{})) {
      EXPECT_TRUE(found.insert("packs/" + folder + "/" + name).second) << name << " is listed twice";
    }
  }
  return found;
}

void expect_exactly(ObjectStore& objects, const Model& model, const std::string& where) {
  std::set<std::string> wanted;
  for (const auto& [name, text] : model) {
    wanted.insert(name);
    EXPECT_TRUE(read(objects, name) == text) << where << ": " << name;
  }
  EXPECT_EQ(names(objects), wanted) << where;
}

std::size_t own_files(os::Storage& storage) {
  std::size_t count = 0;
  const auto folders = storage.list("packs");
  for (const auto& folder : folders.value_or(std::vector<os::DirectoryEntry>{})) {
    count += storage.list("packs/" + folder.name)->size();
  }
  return count;
}

std::vector<std::string> joined_files(os::Storage& storage) {
  std::vector<std::string> files;
  const auto entries = storage.list("joined");
  for (const auto& entry : entries.value_or(std::vector<os::DirectoryEntry>{})) files.push_back("joined/" + entry.name);
  std::ranges::sort(files);
  return files;
}

JoinOptions options(std::size_t enough = 1) {
  return {.folder = "packs", .small = ByteCount{64 * kKiB}, .enough = enough, .file_bytes = 0, .stop = {}, .pace = {}};
}

/// What follows a part in its object is announced with it, up to the end of a window, and never what belongs to the next
/// object.
TEST(JoinedFiles, SequentialReadersAnnounceMoreOfTheSameObject) {
  MemoryStorage storage;
  auto objects = objects::make_directory_objects(storage);
  Model model;
  for (int i = 0; i < 8; ++i) model[name_of(i)] = std::string(60'000, static_cast<char>('a' + i));
  ASSERT_OK(put(*objects, model));
  ASSERT_OK(objects->join(options()));
  const auto files = joined_files(storage);
  ASSERT_EQ(files.size(), 1u);
  const auto announce = [&](int number, objects::Access access) {
    std::vector<std::byte> memory(2000);
    std::vector<objects::PartRead> parts{{name_of(number), ByteOffset{3000}, std::span(memory).first(1000)},
                                         {name_of(number), ByteOffset{50'000}, std::span(memory).last(1000)}};
    objects->read_together(parts, access);
    for (const auto& part : parts) EXPECT_EQ(part.got.value(), 1000u);
    for (const std::byte byte : memory) EXPECT_EQ(byte, static_cast<std::byte>('a' + number));
    auto all = storage.announced(files.front());
    EXPECT_GE(all.size(), 2u);
    all.resize(std::max<std::size_t>(all.size(), 2));
    return std::vector<os::Extent>(all.end() - 2, all.end());
  };
  std::size_t at_a_window = 0;
  for (int number = 0; number < 8; ++number) {
    const auto alone = announce(number, objects::Access::random);
    EXPECT_EQ(alone[0].length, ByteCount{1000});
    EXPECT_EQ(alone[1].length, ByteCount{1000});
    const std::uint64_t object_end = alone[0].begin.value() - 3000 + 60'000;
    const auto more = announce(number, objects::Access::sequential);
    for (const std::size_t i : {0U, 1U}) {
      EXPECT_EQ(more[i].begin, alone[i].begin);
      const std::uint64_t end = more[i].begin.value() + more[i].length.value();
      EXPECT_TRUE(end == object_end || end % (32 * kKiB) == 0) << end;
      EXPECT_GE(more[i].length, ByteCount{1000});
      EXPECT_LE(end, object_end);
      if (end < object_end) ++at_a_window;
    }
  }
  EXPECT_GE(at_a_window, 8u);
}

TEST(JoinedFiles, KeepNamesAndBytesInOneFile) {
  MemoryStorage storage;
  auto objects = objects::make_directory_objects(storage);
  const Model model = some(0, 60);
  ASSERT_OK(put(*objects, model));
  ASSERT_OK(objects->put_if_absent("packs/a0/large", bytes_of(std::string(70'000, 'L'))));
  ASSERT_OK(objects->put_if_absent("disks/1/log/1", bytes_of("a log record")));
  EXPECT_EQ(objects->join(options(100))->files_made, 0u) << "not enough of them";
  const auto joined = objects->join(options());
  ASSERT_OK(joined);
  EXPECT_EQ(joined->objects, 60u);
  EXPECT_EQ(joined->files_made, 1u);
  Model all = model;
  all["packs/a0/large"] = std::string(70'000, 'L');
  expect_exactly(*objects, all, "joined");
  EXPECT_EQ(own_files(storage), 1u);
  EXPECT_EQ(joined_files(storage).size(), 1u);
  EXPECT_EQ(objects->put_if_absent(name_of(3), bytes_of("other")).value(), objects::PutOutcome::exists);
  std::vector<std::byte> part(50);
  EXPECT_EQ(objects->read(name_of(3), ByteOffset{30}, part).value(), 50u);
  EXPECT_EQ(text_of(part), object_text(3).substr(30, 50));
  EXPECT_EQ(objects->read(name_of(3), ByteOffset{object_text(3).size() - 7}, part).value(), 7u) << "not its neighbour's";
  EXPECT_EQ(objects->read(name_of(3), ByteOffset{1'000'000}, part).value(), 0u);
  EXPECT_EQ(objects->join(options())->files_made, 0u) << "there is nothing left to do";

  auto again = objects::make_directory_objects(storage);
  expect_exactly(*again, all, "opened again");
  EXPECT_TRUE(again->check()->empty());
}

TEST(JoinedFiles, HolesStayHoles) {
  MemoryStorage storage;
  auto objects = objects::make_directory_objects(storage);
  ASSERT_OK(put(*objects, some(0, 60)));
  std::uint64_t length = 0;
  for (const auto& [name, text] : some(0, 60)) length += text.size();
  ASSERT_OK(objects->join(options()));
  const auto status = storage.status(joined_files(storage).at(0));
  ASSERT_OK(status);
  EXPECT_GT(status->size.value(), length);
  EXPECT_LT(status->allocated.value() + 12 * 12'000, length) << "twelve have 20,000 zeros each";
}

TEST(JoinedFiles, WhatIsRemovedStaysRemovedAndTheLastOneTakesTheFileAlong) {
  MemoryStorage storage;
  auto objects = objects::make_directory_objects(storage);
  Model model = some(0, 40);
  ASSERT_OK(put(*objects, model));
  ASSERT_OK(objects->join(options()));
  const auto before = storage.status(joined_files(storage).at(0))->allocated;
  std::vector<std::string> order;
  for (const auto& [name, text] : model) order.push_back(name);
  for (std::size_t i = 0; i + 1 < order.size(); ++i) {
    storage.fill_up();
    ASSERT_OK(objects->remove(order[i]));
    model.erase(order[i]);
    if (i % 7 == 0) objects = objects::make_directory_objects(storage);
    expect_exactly(*objects, model, order[i]);
  }
  EXPECT_LT(storage.status(joined_files(storage).at(0))->allocated.value(), before.value() / 5);
  ASSERT_OK(objects->remove(order.back()));
  EXPECT_TRUE(joined_files(storage).empty());
  EXPECT_TRUE(names(*objects).empty());
  ASSERT_OK(objects->remove(order.back()));
}

TEST(JoinedFiles, AreWrittenAnewWhenMostOfThemIsRemoved) {
  MemoryStorage storage;
  auto objects = objects::make_directory_objects(storage);
  Model model = some(0, 40);
  ASSERT_OK(put(*objects, model));
  ASSERT_OK(objects->join(options()));
  const auto file = joined_files(storage);
  for (int i = 0; i < 10; ++i) {
    ASSERT_OK(objects->remove(name_of(i)));
    model.erase(name_of(i));
  }
  EXPECT_EQ(objects->join(options())->files_made, 0u);
  for (int i = 10; i < 30; ++i) {
    ASSERT_OK(objects->remove(name_of(i)));
    model.erase(name_of(i));
  }
  const auto joined = objects->join(options());
  ASSERT_OK(joined);
  EXPECT_EQ(joined->files_made, 1u);
  EXPECT_EQ(joined->files_removed, 1u);
  EXPECT_NE(joined_files(storage), file);
  expect_exactly(*objects, model, "written anew");
  objects = objects::make_directory_objects(storage);
  expect_exactly(*objects, model, "opened again");
}

TEST(JoinedFiles, SmallOnesArePutTogetherAndNoneIsLargerThanAllowed) {
  MemoryStorage storage;
  auto objects = objects::make_directory_objects(storage);
  JoinOptions small = options();
  small.file_bytes = 400'000;
  Model model;
  for (int i = 0; i < 200; i += 5) {
    const Model more = some(i, i + 5);
    ASSERT_OK(put(*objects, more));
    model.insert(more.begin(), more.end());
    ASSERT_OK(objects->join(small));
    for (const auto& file : joined_files(storage)) EXPECT_LE(storage.status(file)->size.value(), 400'000u);
  }
  expect_exactly(*objects, model, "joined");
  EXPECT_LT(joined_files(storage).size(), 20u);
}

TEST(JoinedFiles, AnAlmostFullDiskIsNotFilled) {
  MemoryStorage storage({.capacity = 2 * kMiB});
  auto objects = objects::make_directory_objects(storage);
  const Model model = some(0, 100);
  ASSERT_OK(put(*objects, model));
  EXPECT_EQ(objects->join(options())->files_made, 0u);
  expect_exactly(*objects, model, "as before");
}

/// What is known of an object when the power goes.
struct Knowledge {
  Model there;
  std::set<std::string> uncertain;  ///< being put or removed
};

/// Puts, joins, removes and joins again; stops at the first call that fails.
void work(ObjectStore& objects, Knowledge& known) {
  const auto put_one = [&](int i) -> Status {
    known.uncertain.insert(name_of(i));
    VARVE_TRY(objects.put_if_absent(name_of(i), bytes_of(object_text(i))));
    known.uncertain.erase(name_of(i));
    known.there[name_of(i)] = object_text(i);
    return {};
  };
  const auto remove_one = [&](int i) -> Status {
    known.uncertain.insert(name_of(i));
    known.there.erase(name_of(i));
    VARVE_TRY(objects.remove(name_of(i)));
    known.uncertain.erase(name_of(i));
    return {};
  };
  const auto all = [&]() -> Status {
    for (int i = 0; i < 6; ++i) VARVE_TRY(put_one(i));
    VARVE_TRY(objects.join(options()));
    for (int i = 0; i < 4; ++i) VARVE_TRY(remove_one(i));
    for (int i = 6; i < 8; ++i) VARVE_TRY(put_one(i));
    VARVE_TRY(objects.join(options()));  // with what is left of the first
    VARVE_TRY(remove_one(4));
    VARVE_TRY(remove_one(6));
    VARVE_TRY(objects.join(options()));
    VARVE_TRY(remove_one(5));
    VARVE_TRY(remove_one(7));
    return {};
  };
  static_cast<void>(all());
}

void judge(ObjectStore& objects, const Knowledge& known, const std::string& where) {
  for (const auto& [name, text] : known.there) EXPECT_TRUE(read(objects, name) == text) << where << ": " << name;
  for (const std::string& name : names(objects)) {
    EXPECT_TRUE(known.there.contains(name) || known.uncertain.contains(name)) << where << ": " << name << " is back";
    const int number = std::stoi(name.substr(9)) - 1000;
    EXPECT_TRUE(read(objects, name) == object_text(number)) << where << ": " << name;
  }
  EXPECT_TRUE(objects.check()->empty()) << where;
}

TEST(JoinedFiles, AtEveryCrashEachObjectIsThereOnceAndWhole) {
  const std::uint64_t seed = seed_for("joined files at every crash");
  const std::uint64_t variants = number_from("VARVE_JOIN_VARIANTS", 3);
  std::uint64_t calls = 0;
  {
    MemoryStorage storage;
    auto objects = objects::make_directory_objects(storage);
    Knowledge known;
    work(*objects, known);
    ASSERT_TRUE(known.there.empty() && known.uncertain.empty());
    calls = storage.change_count();
  }
  ASSERT_GT(calls, 100u);
  std::uint64_t leftovers = 0;
  for (std::uint64_t call = 1; call <= calls; ++call) {
    for (std::uint64_t variant = 0; variant <= 2 * variants && !::testing::Test::HasFailure(); ++variant) {
      const std::string where = "call " + std::to_string(call) + ", variant " + std::to_string(variant);
      MemoryStorage storage;
      Knowledge known;
      {
        auto objects = objects::make_directory_objects(storage);
        storage.cut_off_at(call);
        work(*objects, known);
      }
      // A kill; a power loss; a kill, a start and then a power loss.
      if (variant == 0 || variant > variants) storage.kill();
      if (variant > 0 && variant <= variants) storage.lose_power(seed + call * 100 + variant);
      if (variant > variants) {
        auto objects = objects::make_directory_objects(storage);
        ASSERT_OK(objects::remove_temporaries(storage));
        judge(*objects, known, where + ", before the power loss");
        // From here on what is not there stays so.
        for (const std::string& name : known.uncertain) ASSERT_OK(objects->remove(name));
        known.uncertain.clear();
        ASSERT_OK(objects->join(options(1000)));
        storage.lose_power(seed + call * 100 + variant);
      }
      ASSERT_OK(objects::remove_temporaries(storage));
      auto objects = objects::make_directory_objects(storage);
      judge(*objects, known, where);
      const std::size_t files = own_files(storage) + joined_files(storage).size();
      ASSERT_OK(objects->join(options(1000)));
      leftovers += own_files(storage) + joined_files(storage).size() < files ? 1 : 0;
      judge(*objects, known, where + ", cleared up");
      ASSERT_OK(objects->join(options()));
      EXPECT_EQ(own_files(storage), 0u) << where;
      judge(*objects, known, where + ", joined");
      // What is removed from two places does not come back from one.
      for (const std::string& name : names(*objects)) ASSERT_OK(objects->remove(name));
      objects = objects::make_directory_objects(storage);
      EXPECT_TRUE(names(*objects).empty()) << where;
    }
  }
  EXPECT_GT(leftovers, 0u) << "no crash left an object in two places";
}

TEST(JoinedFiles, EachFailingCallLeavesEveryObjectReadable) {
  std::uint64_t refused = 0;
  for (const int code : {EIO, ENOSPC}) {
    for (std::uint64_t call = 1; call <= 60; ++call) {
      MemoryStorage storage;
      auto objects = objects::make_directory_objects(storage);
      Model model = some(0, 8);
      ASSERT_OK(put(*objects, model));
      storage.fail_at(call, code);
      static_cast<void>(objects->join(options()));
      storage.clear_faults();
      expect_exactly(*objects, model, "after a failure");
      if (call % 2 == 0) objects = objects::make_directory_objects(storage);
      if (objects->join(options())) {
        EXPECT_EQ(own_files(storage), 0u);
      } else {
        ++refused;
      }
      storage.fail_at(1 + call % 5, code);
      if (objects->remove(name_of(3))) model.erase(name_of(3));
      storage.clear_faults();
      ASSERT_OK(objects->remove(name_of(3)));
      model.erase(name_of(3));
      objects = objects::make_directory_objects(storage);
      expect_exactly(*objects, model, "opened again");
      ASSERT_OK(objects->join(options()));
      expect_exactly(*objects, model, "joined again");
    }
  }
  EXPECT_LE(refused, 2u) << "only where it is not known whether what was made is durable";
}

TEST(JoinedFiles, DecayOfOneTableOrOfAMarkLosesNothingAndIsMended) {
  MemoryStorage origin;
  auto objects = objects::make_directory_objects(origin);
  Model model = some(0, 10);
  ASSERT_OK(put(*objects, model));
  ASSERT_OK(objects->join(options()));
  ASSERT_OK(objects->remove(name_of(3)));
  model.erase(name_of(3));
  const std::string path = joined_files(origin).at(0);
  const auto file = os::read_file(origin, path, ByteCount{kMiB});
  ASSERT_OK(file);
  const auto head = objects::joined_format::get_head(std::span(*file).first(64), file->size());
  ASSERT_OK(head);
  std::size_t found = 0;
  for (std::uint64_t at = 0; at < file->size(); ++at) {
    const bool payload = at >= 64 + head->table_bytes && at < head->marks_at;
    const bool removed = at >= head->marks_at && at < head->marks_at + 80;
    if (payload) continue;
    MemoryStorage storage;
    origin.copy_to(storage);
    const std::byte flipped = (*file)[at] ^ std::byte{0x10};
    storage.corrupt(path, ByteOffset{at}, {&flipped, 1});
    auto opened = objects::make_directory_objects(storage);
    const auto problems = opened->check();
    ASSERT_OK(problems);
    EXPECT_EQ(problems->size(), removed ? 0u : 1u) << at;
    found += problems->size();
    for (const auto& [name, text] : model) ASSERT_TRUE(read(*opened, name) == text) << name << ", byte " << at;
    if (at % 16 != 0) continue;
    ASSERT_OK(opened->join(options(1000)));
    EXPECT_TRUE(opened->check()->empty()) << at;
    for (const auto& [name, text] : model) ASSERT_TRUE(read(*opened, name) == text) << name << ", byte " << at;
  }
  EXPECT_GT(found, 200u);
}

TEST(JoinedFiles, OneThatCannotBeReadIsNamedLeftAloneAndKeepsNobodyElse) {
  MemoryStorage storage;
  auto objects = objects::make_directory_objects(storage);
  ASSERT_OK(put(*objects, some(0, 10)));
  ASSERT_OK(objects->join(options()));
  const std::string path = joined_files(storage).at(0);
  const auto size = storage.status(path)->size.value();
  const std::byte wrong{0xEE};
  storage.corrupt(path, ByteOffset{70}, {&wrong, 1});
  storage.corrupt(path, ByteOffset{size - 1}, {&wrong, 1});
  ASSERT_OK(storage.open("joined/0000000044", {.write = true, .create = true}));
  ASSERT_OK(storage.open("joined/stray", {.write = true, .create = true}));
  objects = objects::make_directory_objects(storage);
  EXPECT_EQ(objects->check()->size(), 2u);
  EXPECT_TRUE(names(*objects).empty());
  EXPECT_EQ(objects->size(name_of(1)).error().code, ENOENT);
  const Model others = some(10, 20);
  ASSERT_OK(put(*objects, others));
  ASSERT_OK(objects->join(options()));
  expect_exactly(*objects, others, "others");
  EXPECT_EQ(joined_files(storage).size(), 4u);
  EXPECT_EQ(joined_files(storage).at(2), "joined/0000000045");
}

TEST(JoinedFiles, AreReadWhileTheyAreMadeAndMadeAnew) {
  MemoryStorage storage({.power_loss = false});
  auto objects = objects::make_directory_objects(storage);
  const Model kept = some(0, 30);
  ASSERT_OK(put(*objects, kept));
  std::atomic<bool> done{false};
  std::atomic<std::uint64_t> reads{0};
  std::vector<std::thread> readers;
  for (std::uint64_t reader = 0; reader < 3; ++reader) {
    readers.emplace_back([&, reader] {
      std::mt19937_64 random(reader);
      while (!done) {
        const int number = static_cast<int>(random() % 30);
        EXPECT_TRUE(read(*objects, name_of(number)) == object_text(number)) << number;
        if (random() % 8 == 0) {
          const auto listed = names(*objects);
          for (const auto& [name, text] : kept) EXPECT_TRUE(listed.contains(name)) << name;
        }
        ++reads;
      }
    });
  }
  for (int round = 0; round < 60 || reads < 100; ++round) {
    const Model passing = some(100 + round * 40, 140 + round * 40);
    ASSERT_OK(put(*objects, passing));
    ASSERT_OK(objects->join(options()));
    for (const auto& [name, text] : passing) ASSERT_OK(objects->remove(name));
  }
  done = true;
  for (auto& reader : readers) reader.join();
  EXPECT_GT(storage.change_count(), 100u);
}

}  // namespace
}  // namespace varve::test
