// The Store's promises one by one; the model test has them all at once.
#include "varve/store/store.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <thread>

#include "store_fixture.h"
#include "support/temporary_directory.h"

namespace varve::store {
namespace {

using test::Machine;
using Content = std::vector<std::byte>;

constexpr std::uint64_t kChunk = kDefaultChunkSize;

Content pattern(std::size_t size, unsigned seed) {
  Content bytes(size);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>((i / 64 * 31 + i + seed * 97) & 0xFF);
  return bytes;
}

class StoreTest : public StoreFixture {
 protected:
  std::shared_ptr<Disk> disk_with(const std::string& name, const Content& content) {
    auto disk = store_->create_disk(name, Attributes{0, 0, 0755, {}});
    EXPECT_TRUE(disk);
    EXPECT_TRUE((*disk)->create_image(Attributes{0, 0, 0644, {}}));
    EXPECT_TRUE((*disk)->live().write(ByteOffset{0}, content));
    return *disk;
  }
  SnapshotInfo take(Disk& disk, const std::string& name) {
    auto taken = disk.take_snapshot(name, Attributes{0, 0, 0755, {}});
    EXPECT_TRUE(taken) << (taken ? "" : taken.error().message);
    return taken.value_or(SnapshotInfo{});
  }
  void commit(Disk& disk) {
    auto done = store_->step_commit(disk.id());
    ASSERT_TRUE(done) << done.error().message;
    ASSERT_TRUE(*done);
  }
  Content read_snapshot(Disk& disk, SnapshotId id, std::size_t size) {
    Content out(size);
    auto got = disk.read_snapshot(id, ByteOffset{0}, out);
    EXPECT_TRUE(got) << (got ? "" : got.error().message);
    out.resize(got.value_or(0));
    return out;
  }
  Content read_live(Disk& disk, std::size_t size) {
    Content out(size);
    auto got = disk.live().read(ByteOffset{0}, out);
    EXPECT_TRUE(got);
    out.resize(got.value_or(0));
    return out;
  }
};

TEST_F(StoreTest, ASecondOpenIsRefusedAndNamesTheHolder) {
  store_.reset();
  OpenOptions options;
  options.background = false;
  options.purpose = "mounted at /mnt/v by process 123";
  auto first = Store::open(test::environment_on(machine_), options);
  ASSERT_TRUE(first);
  auto second = Store::open(test::environment_on(machine_), options);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, EBUSY);
  EXPECT_NE(second.error().message.find("/mnt/v"), std::string::npos) << second.error().message;
}

TEST_F(StoreTest, ASnapshotKeepsItsInstantPendingAndComplete) {
  const Content before = pattern(5 * kChunk, 1);
  auto disk = disk_with("web01", before);
  const auto snapshot = take(*disk, "a");
  EXPECT_EQ(snapshot.state, SnapshotStateKind::pending);
  ASSERT_TRUE(disk->live().write(ByteOffset{kChunk / 2}, pattern(3 * kChunk, 2)));
  EXPECT_EQ(read_snapshot(*disk, snapshot.id, before.size()), before);
  commit(*disk);
  EXPECT_EQ(disk->snapshot(snapshot.id)->state, SnapshotStateKind::complete);
  EXPECT_EQ(read_snapshot(*disk, snapshot.id, before.size()), before);
}

TEST_F(StoreTest, NamesAreUniqueWhateverTheStateOfTheSnapshot) {
  auto disk = disk_with("web01", pattern(kChunk, 1));
  (void)take(*disk, "a");
  EXPECT_EQ(disk->take_snapshot("a", {}).error().code, EEXIST);
  commit(*disk);
  EXPECT_EQ(disk->take_snapshot("a", {}).error().code, EEXIST);
  EXPECT_EQ(disk->take_snapshot(".a", {}).error().code, EINVAL);
  EXPECT_EQ(disk->take_snapshot("disk.img", {}).error().code, EINVAL);
  EXPECT_EQ(disk->take_snapshot(std::string(241, 'x'), {}).error().code, ENAMETOOLONG);
  EXPECT_EQ(disk->snapshots().size(), 1U);
}

TEST_F(StoreTest, WithoutALiveImageThereIsNothingToSnapshot) {
  auto disk = store_->create_disk("empty", {});
  ASSERT_TRUE(disk);
  EXPECT_EQ((*disk)->take_snapshot("a", {}).error().code, ENODATA);
}

TEST_F(StoreTest, AnImageInUseIsNotRemovedNorShrunk) {
  auto disk = disk_with("web01", pattern(kChunk, 1));
  auto use = disk->use_image(true);
  ASSERT_TRUE(use);
  EXPECT_EQ(disk->remove_image().error().code, EBUSY);
  EXPECT_EQ(disk->resize_image(ByteCount{1}, nullptr).error().code, EBUSY);
  EXPECT_TRUE(disk->resize_image(ByteCount{2 * kChunk}, nullptr));
  EXPECT_TRUE(disk->resize_image(ByteCount{kChunk}, &*use));
  use = ImageUse();
  EXPECT_TRUE(disk->remove_image());
}

TEST_F(StoreTest, ALateReleaseIsWaitedFor) {
  auto disk = disk_with("web01", pattern(kChunk, 1));
  auto use = disk->use_image(true);
  std::thread closer([&use] {
    std::this_thread::sleep_for(std::chrono::milliseconds{100});
    *use = ImageUse();
  });
  EXPECT_TRUE(disk->remove_image());
  closer.join();
}

TEST_F(StoreTest, ASnapshotWhoseImageIsOpenIsNotRemoved) {
  auto disk = disk_with("web01", pattern(kChunk, 1));
  const auto snapshot = take(*disk, "a");
  auto use = disk->use_snapshot(snapshot.id);
  ASSERT_TRUE(use);
  EXPECT_EQ(disk->remove_snapshot(snapshot.id).error().code, EBUSY);
  use = ImageUse();
  EXPECT_TRUE(disk->remove_snapshot(snapshot.id));
}

TEST_F(StoreTest, SnapshotsOutliveTheirLiveImage) {
  const Content content = pattern(3 * kChunk + 1234, 1);
  auto disk = disk_with("web01", content);
  const auto snapshot = take(*disk, "a");
  ASSERT_TRUE(disk->remove_image());
  EXPECT_EQ(read_snapshot(*disk, snapshot.id, content.size()), content);
  commit(*disk);
  EXPECT_EQ(read_snapshot(*disk, snapshot.id, content.size()), content);
  EXPECT_EQ(store_->remove_disk(disk->id()).error().code, ENOTEMPTY);
  ASSERT_TRUE(store_->restore(disk, snapshot.id, disk));
  EXPECT_EQ(read_live(*disk, content.size() + 1), content);
}

TEST_F(StoreTest, ARestoredAndAClonedImageWriteNothingUntilTheyAreWritten) {
  const Content content = pattern(40 * kChunk, 1);
  auto disk = disk_with("web01", content);
  const auto snapshot = take(*disk, "a");
  commit(*disk);
  auto clone = store_->clone({disk, snapshot.id}, "web02", {});
  ASSERT_TRUE(clone) << clone.error().message;
  EXPECT_EQ((*clone)->live().info().allocated.value(), 0U);
  EXPECT_EQ(read_live(**clone, content.size()), content);
  const auto copied = take(**clone, "b");
  commit(**clone);
  EXPECT_EQ((*clone)->snapshot(copied.id)->stored_bytes, 0U);
  EXPECT_EQ(read_snapshot(**clone, copied.id, content.size()), content);
}

TEST_F(StoreTest, ACopyOfASnapshotSharesAndIsExact) {
  const Content content = pattern(30 * kChunk + 777, 3);
  auto disk = disk_with("web01", content);
  const auto snapshot = take(*disk, "a");
  commit(*disk);
  auto target = store_->create_disk("web02", {});
  ASSERT_TRUE((*target)->create_image({}));
  auto copied = store_->copy_range({disk, snapshot.id}, ByteOffset{0}, *target, ByteOffset{0},
                                   ByteCount{content.size() + 100});
  ASSERT_TRUE(copied) << copied.error().message;
  EXPECT_EQ(copied->value(), content.size());
  EXPECT_EQ((*target)->live().info().size.value(), content.size());
  EXPECT_EQ((*target)->live().info().allocated.value(), 0U);
  EXPECT_EQ(read_live(**target, content.size() + 1), content);
}

TEST_F(StoreTest, EqualContentIsStoredOnce) {
  const Content content = pattern(20 * kChunk, 5);
  auto first = disk_with("one", content);
  auto second = disk_with("two", content);
  const auto a = take(*first, "a");
  const auto b = take(*second, "b");
  commit(*first);
  commit(*second);
  EXPECT_GT(first->snapshot(a.id)->stored_bytes, 0U);
  EXPECT_EQ(second->snapshot(b.id)->stored_bytes, 0U);
}

TEST_F(StoreTest, AttributesOfAPendingSnapshotReachTheLog) {
  auto disk = disk_with("web01", pattern(kChunk, 1));
  const auto snapshot = take(*disk, "a");
  ASSERT_TRUE(disk->change_snapshot_attributes(snapshot.id, [](Attributes& attributes) {
    attributes.xattrs["user.note"] = std::string("binary\0\xff", 8);
    return Status{};
  }));
  ASSERT_TRUE(disk->rename_snapshot(snapshot.id, "b"));
  disk.reset();
  kill();
  open();
  disk = *store_->find_disk("web01");
  commit(*disk);
  const auto found = disk->find_snapshot("b");
  ASSERT_TRUE(found);
  EXPECT_EQ(found->directory.xattrs.at("user.note"), std::string("binary\0\xff", 8));
}

TEST_F(StoreTest, APendingSnapshotSurvivesAKillAndAPowerLossExactly) {
  const Content first = pattern(9 * kChunk, 1);
  const Content second = pattern(4 * kChunk, 2);
  auto disk = disk_with("web01", first);
  const auto a = take(*disk, "a");
  ASSERT_TRUE(disk->live().write(ByteOffset{kChunk}, second));
  const auto b = take(*disk, "b");
  ASSERT_TRUE(disk->live().write(ByteOffset{0}, pattern(9 * kChunk, 3)));
  Content expected_b = first;
  std::copy(second.begin(), second.end(), expected_b.begin() + kChunk);
  disk.reset();
  kill();
  open();
  disk = *store_->find_disk("web01");
  EXPECT_EQ(read_snapshot(*disk, a.id, first.size()), first);
  EXPECT_EQ(read_snapshot(*disk, b.id, first.size()), expected_b);
  EXPECT_EQ(read_live(*disk, first.size()), pattern(9 * kChunk, 3));
  machine_.cut_off();
  disk.reset();
  store_.reset();
  machine_.lose_power(7);
  open();
  disk = *store_->find_disk("web01");
  EXPECT_EQ(read_snapshot(*disk, a.id, first.size()), first);
  EXPECT_EQ(read_snapshot(*disk, b.id, first.size()), expected_b);
  commit(*disk);
  commit(*disk);
  EXPECT_EQ(read_snapshot(*disk, a.id, first.size()), first);
  EXPECT_EQ(read_snapshot(*disk, b.id, first.size()), expected_b);
}

TEST_F(StoreTest, IdsOfDeletedSnapshotsAndDisksAreNotUsedAgain) {
  auto disk = disk_with("web01", pattern(kChunk, 1));
  const auto a = take(*disk, "a");
  ASSERT_TRUE(disk->remove_snapshot(a.id));
  ASSERT_TRUE(store_->close());
  disk.reset();
  store_.reset();
  machine_.kill();
  open();
  disk = *store_->find_disk("web01");
  const auto b = take(*disk, "a");
  EXPECT_GT(b.id, a.id);
  ASSERT_TRUE(disk->remove_snapshot(b.id));
  ASSERT_TRUE(disk->remove_image());
  const DiskId old = disk->id();
  ASSERT_TRUE(store_->remove_disk(old));
  ASSERT_TRUE(store_->close());
  disk.reset();
  store_.reset();
  machine_.kill();
  open();
  auto again = store_->create_disk("web01", {});
  ASSERT_TRUE(again);
  EXPECT_GT((*again)->id(), old);
}

TEST_F(StoreTest, DataOfDeletedSnapshotsIsCollectedAndNothingElse) {
  auto disk = disk_with("web01", pattern(10 * kChunk, 1));
  const auto a = take(*disk, "a");
  commit(*disk);
  ASSERT_TRUE(disk->live().write(ByteOffset{0}, pattern(10 * kChunk, 2)));
  const auto b = take(*disk, "b");
  commit(*disk);
  ASSERT_TRUE(disk->remove_snapshot(a.id));
  const auto collected = store_->collect([] { return false; });
  ASSERT_TRUE(collected) << collected.error().message;
  EXPECT_EQ(collected->packs_removed, 1U);
  EXPECT_EQ(read_snapshot(*disk, b.id, 10 * kChunk), pattern(10 * kChunk, 2));
  const auto report = store_->check([](std::uint64_t, std::uint64_t) {}, [] { return false; });
  ASSERT_TRUE(report);
  EXPECT_TRUE(report->clean());
}

TEST_F(StoreTest, ADamagedDiskIsNamedAndTheRestIsServed) {
  (void)disk_with("good", pattern(kChunk, 1));
  auto bad = disk_with("bad", pattern(kChunk, 2));
  const auto directory = fmt::format("disks/{:08}/log/0000000001.json", bad->id().value());
  bad.reset();
  ASSERT_TRUE(store_->close());
  bad.reset();
  store_.reset();
  machine_.kill();
  const std::byte garbage[] = {std::byte{0x7F}};
  machine_.storage.corrupt(directory, ByteOffset{20}, garbage);
  open();
  ASSERT_EQ(store_->damaged_disks().size(), 1U);
  EXPECT_NE(store_->damaged_disks().front().find("0000000001.json"), std::string::npos);
  auto good = store_->find_disk("good");
  ASSERT_TRUE(good);
  EXPECT_EQ(read_live(**good, kChunk), pattern(kChunk, 1));
  EXPECT_FALSE(store_->collect([] { return false; })) << "what the damaged disk keeps is not known";
}

TEST_F(StoreTest, TheBackgroundCommitsAndMovesHomeByItself) {
  store_.reset();
  machine_.kill();
  open(/*background=*/true);
  const Content content = pattern(30 * kChunk, 1);
  auto disk = disk_with("web01", content);
  const auto a = take(*disk, "a");
  ASSERT_TRUE(disk->live().write(ByteOffset{0}, pattern(30 * kChunk, 2)));
  ASSERT_TRUE(store_->wait_until_quiet(std::chrono::seconds{60}));
  EXPECT_EQ(disk->snapshot(a.id)->state, SnapshotStateKind::complete);
  EXPECT_EQ(disk->live().counters().detour_chunks, 0U);
  EXPECT_EQ(read_snapshot(*disk, a.id, content.size()), content);
  ASSERT_TRUE(store_->close());
}

TEST_F(StoreTest, StatusAndMetricsNameEveryDisk) {
  (void)disk_with("web\"01", pattern(kChunk, 1));
  const auto status = store_->status();
  EXPECT_EQ(status["disks"][0]["name"], "web\"01");
  EXPECT_NE(store_->metrics().find("varve_live_size_bytes{disk=\"web\\\"01\"} 65536"), std::string::npos);
}

TEST(StoreFiles, BadStoresAreRefusedWithASentenceAndLeftAlone) {
  Machine machine;
  OpenOptions options;
  options.background = false;
  auto nothing = Store::open(test::environment_on(machine), options);
  ASSERT_FALSE(nothing);
  EXPECT_EQ(nothing.error().code, ENOENT);
  EXPECT_TRUE(machine.storage.list("")->empty());

  InitOptions odd;
  odd.chunk_size = ByteCount{48 * kKiB};
  EXPECT_EQ(Store::init(machine.storage, odd).error().code, EINVAL);
  ASSERT_TRUE(Store::init(machine.storage, {}));
  EXPECT_EQ(Store::init(machine.storage, {}).error().code, EEXIST);

  auto text = os::read_file(machine.storage, "store.json", ByteCount{1 * kMiB});
  ASSERT_TRUE(text);
  for (std::size_t i = 0; i < text->size(); ++i) {
    auto changed = *text;
    changed[i] ^= std::byte{0x20};
    ASSERT_TRUE(os::replace_file_durably(machine.storage, "store.json", changed));
    auto opened = Store::open(test::environment_on(machine), options);
    if (opened) continue;  // white space
    EXPECT_FALSE(opened.error().message.empty());
  }
}

TEST(StoreFiles, OnRealFilesAStoreIsMadeFilledClosedAndOpenedAgain) {
  test::TemporaryDirectory directory;
  const std::string path = directory.path() + "/store";
  ASSERT_TRUE(Store::init(path, {}));
  EXPECT_EQ(Store::init(path, {}).error().code, EEXIST);
  const Content content = pattern(10 * kChunk + 99, 1);
  {
    auto store = Store::open(path, {});
    ASSERT_TRUE(store) << store.error().message;
    auto disk = (*store)->create_disk("web01", {});
    ASSERT_TRUE(disk);
    ASSERT_TRUE((*disk)->create_image({}));
    ASSERT_TRUE((*disk)->live().write(ByteOffset{0}, content));
    ASSERT_TRUE((*disk)->take_snapshot("a", {}));
    ASSERT_TRUE((*store)->wait_until_quiet(std::chrono::seconds{60}));
    ASSERT_TRUE((*store)->close());
  }
  auto store = Store::open(path, {});
  ASSERT_TRUE(store) << store.error().message;
  auto disk = (*store)->find_disk("web01");
  ASSERT_TRUE(disk);
  EXPECT_EQ((*disk)->live().how_opened(), disk::Opened::clean);
  Content out(content.size());
  ASSERT_TRUE((*disk)->read_snapshot((*disk)->find_snapshot("a")->id, ByteOffset{0}, out));
  EXPECT_EQ(out, content);
  ASSERT_TRUE((*store)->close());
}

}  // namespace
}  // namespace varve::store
