// Promise 9 for the journal: whatever its bytes, opening gives an error or the exact content, and never more trouble.
#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <random>
#include <string>

#include "modeled_disk.h"
#include "support/expect.h"
#include "support/seed.h"

namespace varve::disk {
namespace {

using test::Content;
using test::End;
using test::kTestChunk;
using test::kTestGeometry;
using test::ModeledDisk;
using test::SparseImage;

const std::string kJournal = std::string(ModeledDisk::kDirectory) + "/journal";
constexpr std::uint64_t kMostJournal = 1 * kMiB;

/// A disk with a bit of everything in its journal, all of it sealed.
std::unique_ptr<ModeledDisk> busy_disk(std::uint64_t* before_last_flush = nullptr) {
  auto disk = std::make_unique<ModeledDisk>();
  EXPECT_OK(disk->open());
  disk->create();
  disk->resize(8 * kTestChunk);
  disk->write_stamped(0, 3 * kTestChunk);
  disk->freeze();
  disk->write_stamped(kTestChunk, 100);
  disk->freeze();
  disk->commit();
  disk->splice(4, 2, disk->complete().at(0), 0, 0);
  disk->zero(2 * kTestChunk, kTestChunk);
  disk->freeze();
  disk->update(0, "another", "{}");
  disk->write_stamped(0, 5 * kTestChunk);
  disk->drop(0);
  disk->flush();
  if (before_last_flush != nullptr) *before_last_flush = disk->disk().counters().journal_bytes;
  disk->resize(7 * kTestChunk + 5);
  disk->flush();
  return disk;
}

Content bytes_of_journal(ModeledDisk& disk) {
  auto bytes = os::read_file(disk.machine().storage, kJournal, ByteCount{kMostJournal});
  EXPECT_OK(bytes);
  return bytes ? std::move(*bytes) : Content{};
}

/// The end of what was written: a journal may have preallocated zeros behind it.
std::size_t written(const Content& journal) {
  const auto last = std::find_if(journal.rbegin(), journal.rend(), [](std::byte b) { return b != std::byte{0}; });
  return static_cast<std::size_t>(journal.rend() - last);
}

void put_journal(ModeledDisk& disk, const Content& bytes) {
  auto file = disk.machine().storage.open(kJournal, {.write = true, .create = true, .truncate = true});
  ASSERT_OK(file);
  ASSERT_OK((*file)->write(ByteOffset{0}, bytes));
  ASSERT_OK((*file)->sync_data());
}

/// Looks at everything; the answers don't matter, that they come does.
void use(LiveDisk& live) {
  Content out(kTestChunk);
  static_cast<void>(live.roots());
  static_cast<void>(live.counters());
  if (live.exists()) {
    static_cast<void>(live.read(ByteOffset{0}, out));
    static_cast<void>(live.seek(ByteOffset{0}, true));
    static_cast<void>(live.describe(ChunkIndex{0}, ChunkCount{100}, 10));
  }
  for (const PendingInfo& info : live.pending()) {
    static_cast<void>(live.read_pending(info.id, ByteOffset{0}, out));
    static_cast<void>(live.frozen_runs(info.id, ChunkIndex{0}, 10));
    static_cast<void>(live.describe_pending(info.id, ChunkIndex{0}, ChunkCount{100}, 10));
  }
  static_cast<void>(live.write(ByteOffset{100}, std::span(out).first(100)));
  static_cast<void>(live.flush());
  static_cast<void>(live.tidy());
}

/// With the journal as given: EIO, and the files are untouched, or exactly what the model has. `provable_alone`: by the
/// journal, without knowing how its daemon ended.
void expect_refused_or_exact(ModeledDisk& disk, const Content& journal, bool provable_alone) {
  put_journal(disk, journal);
  const Status verified =
      verify_journal(disk.machine().storage, ModeledDisk::kDirectory, ModeledDisk::kId, kTestGeometry);
  const std::uint64_t changes = disk.machine().storage.change_count();
  const Status opened = disk.open();
  if (!opened) {
    EXPECT_EQ(opened.error().code, EIO) << disk.where() << opened.error().message;
    EXPECT_EQ(opened.error().kind, ErrorKind::damaged) << disk.where() << opened.error().message;
    EXPECT_FALSE(verified && provable_alone) << disk.where() << "verify_journal calls sound what open refuses";
    EXPECT_EQ(bytes_of_journal(disk), journal) << disk.where() << "a damaged journal was changed, after "
                                               << disk.machine().storage.change_count() - changes << " calls";
    return;
  }
  disk.adopt();
  disk.verify();
}

TEST(JournalDamage, EveryFlippedBitOfASealedJournalIsFoundOrHarmless) {
  for (const End how : {End::kill, End::power_loss}) {
    std::uint64_t before_last_flush = 0;
    auto first = busy_disk(&before_last_flush);
    std::size_t length = written(bytes_of_journal(*first));
    // What was synced last looks, after a power loss, like what just did not reach the disk. After a kill it does not.
    if (how == End::power_loss) length = static_cast<std::size_t>(before_last_flush);
    ASSERT_GT(length, 100u);
    std::size_t refused = 0;
    for (std::size_t at = test::from_point(0); at < length; at += test::stride() * (how == End::kill ? 1 : 3)) {
      auto disk = busy_disk();
      disk->set_label("byte " + std::to_string(at) + " of " + std::to_string(length) + ", ");
      disk->end(how, at);
      Content journal = bytes_of_journal(*disk);
      journal.at(at) ^= std::byte{1} << (at % 8);
      expect_refused_or_exact(*disk, journal, at < before_last_flush);
      if (!disk->is_open()) ++refused;
      if (::testing::Test::HasFailure()) return;
    }
    EXPECT_GT(refused, 0u);
  }
}

TEST(JournalDamage, AJournalCutAtAnyLengthNeverCrashes) {
  auto first = busy_disk();
  const std::size_t length = written(bytes_of_journal(*first));
  for (std::size_t keep = test::from_point(0); keep < length; keep += test::stride()) {
    auto disk = busy_disk();
    disk->end(keep % 2 == 0 ? End::kill : End::power_loss, keep);
    Content journal = bytes_of_journal(*disk);
    journal.resize(keep);
    put_journal(*disk, journal);
    static_cast<void>(
        verify_journal(disk->machine().storage, ModeledDisk::kDirectory, ModeledDisk::kId, kTestGeometry));
    if (disk->open()) use(disk->disk());
  }
}

TEST(JournalDamage, RandomGarbageNeverCrashes) {
  std::mt19937_64 random(test::seed_for("journal garbage"));
  for (int round = 0; round < 600; ++round) {
    auto disk = busy_disk();
    disk->end(round % 2 == 0 ? End::kill : End::power_loss, 1);
    Content journal = bytes_of_journal(*disk);
    const std::size_t length = written(journal);
    const int kind = round % 4;
    if (kind == 0) {  // all of it
      journal.resize(random() % 5000);
      for (std::byte& byte : journal) byte = static_cast<std::byte>(random());
    } else {  // pieces, large and small
      const std::size_t pieces = 1 + random() % 4;
      for (std::size_t i = 0; i < pieces; ++i) {
        const std::size_t at = random() % length;
        const std::size_t count = std::min<std::size_t>(1 + random() % (kind == 1 ? 4 : 300), length - at);
        for (std::size_t k = 0; k < count; ++k) journal[at + k] = static_cast<std::byte>(random());
        if (kind == 3) {  // a record again, elsewhere
          const std::size_t from = random() % length / 8 * 8;
          const std::size_t to = random() % length / 8 * 8;
          const std::size_t moved = std::min({std::size_t{64}, length - from, length - to});
          std::copy_n(journal.begin() + static_cast<std::ptrdiff_t>(from), moved,
                      journal.begin() + static_cast<std::ptrdiff_t>(to));
        }
      }
    }
    put_journal(*disk, journal);
    static_cast<void>(
        verify_journal(disk->machine().storage, ModeledDisk::kDirectory, ModeledDisk::kId, kTestGeometry));
    if (disk->open()) use(disk->disk());
  }
}

TEST(JournalDamage, AMissingJournalOverAFullHomeIsNotServedAsAnEmptyDiskInSilence) {
  auto disk = busy_disk();
  disk->end(End::kill, 0);
  ASSERT_OK(disk->machine().storage.remove(kJournal));
  // Nothing says that there ever was an image: what matters is that it does not crash, and that a new image is zeros.
  if (!disk->open()) return;
  if (!disk->disk().exists()) {
    ASSERT_OK(disk->disk().create_image());
  }
  ASSERT_OK(disk->disk().resize(ByteCount{8 * kTestChunk}));
  Content out(8 * kTestChunk);
  ASSERT_OK(disk->disk().read(ByteOffset{0}, out));
  EXPECT_TRUE(std::ranges::all_of(out, [](std::byte b) { return b == std::byte{0}; }));
  ASSERT_OK(disk->disk().write(ByteOffset{100}, std::span(out).first(1)));
  ASSERT_OK(disk->disk().read(ByteOffset{0}, out));
  EXPECT_TRUE(std::ranges::all_of(out, [](std::byte b) { return b == std::byte{0}; }))
      << "a hole was taken for zeros, but the home had stale bytes";
}

/// Bytes of change maps come from a place that others may write to as root only; still nothing is trusted.
TEST(JournalDamage, GarbageInTheChangeMapsNeverCrashes) {
  std::mt19937_64 random(test::seed_for("change map garbage"));
  for (int round = 0; round < 200; ++round) {
    auto disk = busy_disk();
    disk->end(End::kill, 1);
    auto& memory = disk->machine().memory;
    const auto names = memory.list();
    ASSERT_OK(names);
    for (const std::string& name : *names) {
      const auto file = memory.open_existing(name);
      ASSERT_OK(file);
      if (round % 5 == 0) {
        ASSERT_OK((*file)->resize(ByteCount{random() % 9000}));
      }
      const auto extents = (*file)->reserved();
      ASSERT_OK(extents);
      for (const os::Extent& extent : *extents) {
        const auto bytes = (*file)->bytes().subspan(static_cast<std::size_t>(extent.begin.value()),
                                                    static_cast<std::size_t>(extent.length.value()));
        if (bytes.empty()) continue;
        for (int i = 0; i < 20; ++i) bytes[random() % bytes.size()] = static_cast<std::byte>(random());
      }
    }
    if (disk->open()) use(disk->disk());
  }
}

}  // namespace
}  // namespace varve::disk
