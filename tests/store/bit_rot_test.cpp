// Bit rot: whatever byte of a store's files decays, nothing wrong is served, nothing else suffers, and `check` names
// exactly what is lost.
//
// What is promised when a byte of a file changes behind varve's back:
//   packs, logs, checkpoints   a snapshot's read gives the exact bytes or EIO; check names the snapshots with EIO, and
//                              no other; what check calls clean is exact
//   journal                    the disk is served exactly, or not at all and by name
//   store.json                 the store opens exactly, or not at all, with a sentence
//   home.img, detour.img       the user's own raw bytes, as on any disk: that very byte of the images whose place it is
//                              (the live one, and pending snapshots until they are committed) reads as it is there;
//                              every other byte is exact
//   lock, reserve, locator     nothing: their content decides nothing
// Opening and reading change no file but the live side's of disks that are served, and the lock's text.
//
// VARVE_BIT_ROT_EVERY=1 flips each byte of the small store but its bulk, VARVE_BIT_ROT_BULK_EVERY=1 also that (default:
// one in so many, from a random phase); VARVE_BIT_ROT_ROUNDS is the number of random damages of the larger one.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <random>
#include <set>

#include "specimen.h"
#include "support/expect.h"
#include "support/seed.h"

namespace varve::store {
namespace {

using namespace specimen;
using test::FileBytes;
using test::Files;
using test::Machine;

constexpr std::size_t kUsuallyEvery = 29;
/// The bulk: the images' bytes, the payload of large records, the reserve at a journal's end. One there is like another.
constexpr std::size_t kBulkLessOften = 61;
constexpr std::size_t kMuch = 4096;
constexpr std::size_t kWritesEvery = 4;
constexpr std::size_t kUsualRounds = 80;

enum class Ending { closed, killed };

/// Everything that there is, in about 100 KiB beside the images: complete and pending snapshots, deleted ones, a clone,
/// records that are shared and records that are there twice, compressed and raw ones, checkpoints, a removed disk.
Specimen small_store(Ending ending) {
  Machine machine;
  Builder build(machine);
  build.make("web01");
  for (std::uint64_t i = 0; i < 4; ++i) build.write("web01", i, chunk_of(i));
  build.write("web01", 4, FileBytes(1000, std::byte{0x55}));
  build.snapshot("web01", "a");
  build.commit("web01");
  build.write("web01", 1, chunk_of(10));
  build.write_block("web01", 0, 1, 40);  // a delta, and below one that takes that block from it
  build.snapshot("web01", "b");
  build.commit("web01");
  build.write("web01", 2, chunk_of(11));
  build.snapshot("web01", "deleted");
  build.commit("web01");
  build.remove("web01", "deleted");
  build.write("web01", 2, chunk_of(12));
  build.write_block("web01", 0, 3, 41);
  build.snapshot("web01", "c");
  build.commit("web01");
  build.clone("web01", "b", "web02");
  build.write("web02", 3, chunk_of(13));
  build.snapshot("web02", "own");
  build.commit("web02");
  build.make("gone");
  build.remove_disk("gone");
  build.reopen();
  build.make("db");
  build.write("db", 0, chunk_of(0));  // as web01 has it, but stored again
  build.write("db", 2, chunk_of(20, false));
  build.snapshot("db", "only");
  build.commit("db");
  for (const unsigned mode : {0600U, 0640U}) build.touch("web01", mode);  // enough records for a checkpoint
  for (const char* disk : {"web01", "web02", "db"}) build.settle(disk);
  build.write("web01", 0, chunk_of(14));
  build.snapshot("web01", "p");
  build.write("web01", 0, chunk_of(15));
  build.write("web01", 3, chunk_of(16));
  build.snapshot("web01", "q");
  build.write("web01", 3, chunk_of(17));
  build.snapshot("web02", "r");
  build.write("web02", 0, chunk_of(18));
  Specimen specimen;
  specimen.images = build.images();
  ending == Ending::closed ? build.close() : build.kill();
  specimen.files = test::files_of(machine.storage);
  if (ending == Ending::killed) specimen.memory = test::volatile_files_of(machine.memory);
  return specimen;
}

/// The larger one: maps of two leaves, many packs and snapshots.
Specimen larger_store(std::uint64_t seed) {
  std::mt19937_64 random(seed);
  Machine machine;
  Builder build(machine);
  for (std::uint64_t d = 0; d < 4; ++d) {
    const std::string disk = fmt::format("disk{}", d);
    build.make(disk);
    for (std::uint64_t s = 0; s < 12; ++s) {
      for (int w = 0; w < 6; ++w) {
        build.write(disk, 252 + random() % 8, chunk_of(random() % 200, random() % 16 != 0));
      }
      build.write(disk, 251, chunk_of(d, false));
      build.write_block(disk, 251, s % 3, 300 + s);
      build.snapshot(disk, fmt::format("s{}", s));
      if (s < 10) build.commit(disk);
      if (s % 4 == 3) build.settle(disk);
      if (s % 3 == 2) build.reopen();
    }
    for (int s = 0; s < 12; s += 5) build.remove(disk, fmt::format("s{}", s));
  }
  Specimen specimen;
  specimen.images = build.images();
  build.close();
  specimen.files = test::files_of(machine.storage);
  return specimen;
}

struct Damage {
  std::string file;
  std::size_t at = 0;
  std::byte flip{};
};

bool is_image_file(const std::string& path) { return path.ends_with("/home.img") || path.ends_with("/detour.img"); }
/// Without the zeros at the end.
std::size_t bytes_used(const FileBytes& bytes) {
  const auto last = std::find_if(bytes.rbegin(), bytes.rend(), [](std::byte b) { return b != std::byte{0}; });
  return static_cast<std::size_t>(bytes.rend() - last);
}
bool is_of_live_side(const std::string& path) { return path.starts_with("live/"); }

/// What a test has seen: one that never saw a loss proves nothing.
struct Seen {
  std::size_t refused_stores = 0;
  std::size_t refused_disks = 0;
  std::size_t lost_chunks = 0;
  std::size_t raw_bytes = 0;   ///< of home.img or detour.img, as they decayed
  std::size_t stuck = 0;       ///< disks that could not complete a snapshot: a node of their map is lost
  std::size_t unnoticed = 0;   ///< damages that hurt nothing and that check did not find
};

/// Puts damage on a store and holds it against its promises.
class Judgement {
 public:
  /// The place has the specimen.
  Judgement(Place& place, const Specimen& specimen, std::vector<Damage> damages, Seen& seen)
      : place_(place), specimen_(specimen), damages_(std::move(damages)), seen_(seen), before_(specimen.files) {
    for (const Damage& damage : damages_) {
      std::byte& byte = before_.at(damage.file).at(damage.at);
      byte ^= damage.flip;
      const auto file = place_.storage().open(damage.file, {.write = true}).value();
      EXPECT_OK(file->write(ByteOffset{damage.at}, std::span(&byte, 1)));
      EXPECT_OK(file->sync_data());
    }
  }

  void run(bool also_write) {
    auto opened = place_.open();
    if (!opened) {
      ++seen_.refused_stores;
      EXPECT_TRUE(hits("store.json")) << opened.error().message;
      EXPECT_NE(opened.error().message.find("store.json"), std::string::npos) << opened.error().message;
      expect_untouched({});
      return;
    }
    store_ = std::move(*opened);
    judge_disks();
    judge_images();
    judge_check();
    expect_untouched(served_);
    if (also_write) judge_use();
    EXPECT_OK(store_->close());
    store_.reset();
  }

 private:
  [[nodiscard]] bool hits(std::string_view what) const {
    return std::ranges::any_of(damages_, [&](const Damage& d) { return d.file.find(what) != std::string::npos; });
  }
  static std::string number_of(DiskId id) { return fmt::format("/{:08}/", id.value()); }

  /// A disk that is not served has a damaged log or journal, and is named.
  void judge_disks() {
    std::set<std::string> expected;
    for (const Image& image : specimen_.images) expected.insert(image.disk);
    for (const auto& disk : store_->disks()) {
      EXPECT_TRUE(expected.contains(disk->name())) << disk->name() << " appeared";
      served_.insert(number_of(disk->id()));
      names_.insert(disk->name());
    }
    std::set<std::string> hurt;
    for (const Damage& damage : damages_) {
      const bool live = is_of_live_side(damage.file) && !is_image_file(damage.file);
      if (live || damage.file.starts_with("disks/")) hurt.insert(damage.file.substr(damage.file.find('/'), 10));
    }
    seen_.refused_disks += store_->damaged_disks().size();
    EXPECT_LE(store_->damaged_disks().size(), hurt.size());
    EXPECT_EQ(names_.size() + store_->damaged_disks().size() - removed_and_damaged(), expected.size());
  }
  /// Of a disk that was removed nothing is missed, but its log counts as any other.
  [[nodiscard]] std::size_t removed_and_damaged() const {
    std::size_t count = 0;
    for (const std::string& sentence : store_->damaged_disks()) {
      if (sentence.find("disk number 3:") != std::string::npos && is_small()) ++count;
    }
    return count;
  }
  [[nodiscard]] bool is_small() const { return specimen_.images.front().disk == "web01"; }

  void judge_images() {
    for (const Image& image : specimen_.images) {
      const Reading reading = read_image(*store_, image);
      EXPECT_EQ(reading.opened, names_.contains(image.disk)) << image.name();
      if (!reading.opened) continue;
      if (image.complete()) {
        EXPECT_TRUE(reading.other_bytes.empty()) << image.name() << ": wrong bytes at " << reading.other_bytes.front();
      } else {
        for (const std::uint64_t at : reading.other_bytes) expect_raw(image, at);
      }
      seen_.lost_chunks += reading.lost.size();
      if (!reading.lost.empty()) lost_[image.name()] = reading.lost;
    }
    if (!lost_.empty()) {
      EXPECT_TRUE(hits("packs/"));
    }
  }

  /// Only the byte that decayed, at its place in an image file of the disk.
  void expect_raw(const Image& image, std::uint64_t at) {
    const std::string number = number_of(store_->find_disk(image.disk).value()->id());
    const bool excused = std::ranges::any_of(damages_, [&](const Damage& damage) {
      if (!is_image_file(damage.file) || damage.file.find(number) == std::string::npos) return false;
      return damage.file.ends_with("/home.img") ? damage.at == at : damage.at % kChunk == at % kChunk;
    });
    ++seen_.raw_bytes;
    EXPECT_TRUE(excused) << image.name() << ": wrong byte at " << at;
  }

  void judge_check() {
    const auto report = store_->check([](std::uint64_t, std::uint64_t) {}, [] { return false; });
    ASSERT_OK(report);
    std::set<std::string> named;
    for (const auto& damage : report->records.damaged) {
      EXPECT_TRUE(named.insert(damage.target).second) << damage.target << " is named twice";
      EXPECT_TRUE(lost_.contains(damage.target)) << damage.target << " is named and whole: " << damage.first;
      EXPECT_GE(damage.chunks, lost_[damage.target].size()) << damage.target;
    }
    for (const auto& [name, chunks] : lost_) EXPECT_TRUE(named.contains(name)) << name << " is damaged and not named";
    for (const std::string& sentence : store_->damaged_disks()) {
      EXPECT_NE(std::ranges::find(report->problems, sentence), report->problems.end()) << sentence;
    }
    const bool quiet_file = std::ranges::all_of(damages_, [](const Damage& damage) {
      return is_of_live_side(damage.file) || damage.file == "lock" || damage.file == "store.json";
    });
    if (!quiet_file && report->clean()) {
      ++seen_.unnoticed;
      // Only bytes that no image stands on: of records whose snapshot was deleted.
      EXPECT_TRUE(hits("packs/")) << "nobody noticed";
    }
    if (report->clean()) {
      EXPECT_TRUE(lost_.empty());
    }
  }

  /// But for the live side of disks that are served, and the lock.
  void expect_untouched(const std::set<std::string>& served) {
    const auto may_change = [&](const std::string& path) {
      const bool of_served = std::ranges::any_of(
          served, [&](const std::string& number) { return path.find(number) != std::string::npos; });
      return path == "lock" || path == "reserve" || path.starts_with("locator/") || (is_of_live_side(path) && of_served);
    };
    Files now;
    test::gather_files(place_.storage(), "", [&](const std::string& path) { return !may_change(path); }, now);
    for (const auto& [path, bytes] : before_) {
      if (may_change(path)) continue;
      EXPECT_TRUE(now.contains(path)) << path << " is gone";
      EXPECT_TRUE(now[path] == bytes) << path << " was changed";
    }
    for (const auto& [path, bytes] : now) {
      EXPECT_TRUE(before_.contains(path)) << path << " appeared";
    }
  }

  /// Everything else keeps working: each disk that is served, and a new one.
  void judge_use() {
    for (const auto& disk : store_->disks()) {
      const FileBytes bytes = chunk_of(900 + disk->id().value());
      EXPECT_OK(disk->live().write(ByteOffset{kChunk}, bytes));
      EXPECT_OK(disk->live().flush());
      const auto taken = disk->take_snapshot("new", Attributes{0, 0, 0755, {}});
      EXPECT_OK(taken);
      expect_reads(*disk, "new", bytes, "pending");
      Result<bool> done = true;
      while (done && *done) done = store_->step_commit(disk->id());
      // Only a map that is damaged keeps a disk from completing its snapshots; it keeps them as they are.
      if (!done) {
        EXPECT_EQ(done.error().code, EIO) << done.error().message;
        EXPECT_TRUE(hits("packs/")) << done.error().message;
        ++seen_.stuck;
      }
      expect_reads(*disk, "new", bytes, "complete");
      EXPECT_OK(disk->rename_snapshot(disk->find_snapshot("new")->id, "newer"));
      EXPECT_OK(disk->remove_snapshot(disk->find_snapshot("newer")->id));
      EXPECT_OK(store_->step_upkeep(disk->id()));
    }
    auto made = store_->create_disk("another", Attributes{0, 0, 0755, {}});
    ASSERT_OK(made);
    const FileBytes bytes = chunk_of(999);
    EXPECT_OK((*made)->create_image(Attributes{0, 0, 0644, {}}));
    EXPECT_OK((*made)->live().write(ByteOffset{kChunk}, bytes));
    EXPECT_OK((*made)->take_snapshot("new", Attributes{0, 0, 0755, {}}));
    EXPECT_OK(store_->step_commit((*made)->id()));
    expect_reads(**made, "new", bytes, "of a new disk");
    // Nothing that is read may go, whatever is damaged.
    const auto collected = store_->collect([] { return false; });
    if (!collected) {
      EXPECT_EQ(collected.error().code, EIO) << collected.error().message;
    }
    for (const Image& image : specimen_.images) {
      if (!image.complete() || !names_.contains(image.disk)) continue;
      const Reading reading = read_image(*store_, image);
      EXPECT_TRUE(reading.opened && reading.other_bytes.empty()) << image.name();
      const auto lost = lost_.find(image.name());
      EXPECT_EQ(reading.lost, lost == lost_.end() ? std::set<std::uint64_t>{} : lost->second) << image.name();
    }
  }

  void expect_reads(Disk& disk, const std::string& name, const FileBytes& bytes, const char* when) {
    const auto found = disk.find_snapshot(name);
    ASSERT_OK(found);
    FileBytes out(kChunk);
    const auto got = disk.read_snapshot(found->id, ByteOffset{kChunk}, out);
    EXPECT_OK(got);
    EXPECT_TRUE(out == bytes) << disk.name() << "@" << name << " " << when;
  }

  Place& place_;
  const Specimen& specimen_;
  const std::vector<Damage> damages_;
  Seen& seen_;
  Files before_;
  std::unique_ptr<Store> store_;
  std::set<std::string> served_;  ///< "/00000001/"
  std::set<std::string> names_;
  std::map<std::string, std::set<std::uint64_t>> lost_;
};

void judge_in_memory(const Specimen& specimen, std::vector<Damage> damages, Seen& seen, bool also_write) {
  InMemory place;
  specimen.put_on(place.machine());
  Judgement(place, specimen, std::move(damages), seen).run(also_write);
}

void flip_bytes_of(const Specimen& specimen, std::uint64_t seed) {
  const Quiet quiet;
  std::mt19937_64 random(seed);
  const std::size_t every = std::max<std::size_t>(test::number_from("VARVE_BIT_ROT_EVERY", kUsuallyEvery), 1);
  const std::size_t bulk_every =
      std::max<std::size_t>(test::number_from("VARVE_BIT_ROT_BULK_EVERY", every * kBulkLessOften), 1);
  Seen seen;
  judge_in_memory(specimen, {}, seen, true);
  ASSERT_EQ(seen.lost_chunks + seen.raw_bytes + seen.refused_disks + seen.refused_stores, 0U);
  std::size_t count = 0;
  for (const auto& [path, bytes] : specimen.files) {
    // From a random phase: the next of its kind is at or behind these.
    std::size_t next = random() % every;
    std::size_t next_bulk = random() % bulk_every;
    const std::size_t used = bytes_used(bytes);
    for (std::size_t at = 0; at < bytes.size(); ++at) {
      const bool bulk = is_image_file(path) || at > used || (at > kMuch && at + kMuch < bytes.size());
      std::size_t& due = bulk ? next_bulk : next;
      if (at < due) continue;
      due = at + (bulk ? bulk_every : every);
      const auto flip = static_cast<std::byte>(1u << random() % 8);
      SCOPED_TRACE(fmt::format("{} byte {} of {} ^ {:#x}", path, at, bytes.size(), static_cast<unsigned>(flip)));
      judge_in_memory(specimen, {{path, at, flip}}, seen, ++count % kWritesEvery == 0);
      if (::testing::Test::HasFailure()) return;
    }
  }
  fmt::print("{} bytes flipped, one at a time: {} stores and {} disks refused, {} chunks lost, {} raw bytes changed, "
             "{} disks stuck, {} harmless and unnoticed\n",
             count, seen.refused_stores, seen.refused_disks, seen.lost_chunks, seen.raw_bytes, seen.stuck,
             seen.unnoticed);
  EXPECT_TRUE(seen.refused_stores > 0 && seen.refused_disks > 0 && seen.lost_chunks > 0 && seen.raw_bytes > 0);
}

TEST(BitRot, AnyByteOfAStoreThatWasClosedIsReadExactlyOrNotAtAll) {
  flip_bytes_of(small_store(Ending::closed), test::seed_for("bit rot, closed"));
}

TEST(BitRot, AnyByteOfAStoreWhoseDaemonWasKilledIsReadExactlyOrNotAtAll) {
  flip_bytes_of(small_store(Ending::killed), test::seed_for("bit rot, killed"));
}

/// What has a checksum, but for the settings, without which there is no store.
std::vector<std::string> checked_files(const Specimen& specimen) {
  std::vector<std::string> paths;
  for (const auto& [path, bytes] : specimen.files) {
    if (!bytes.empty() && !is_image_file(path) && path != "store.json") paths.push_back(path);
  }
  return paths;
}

TEST(BitRot, OnRealFilesAsOnAnyOther) {
  const Quiet quiet;
  std::mt19937_64 random(test::seed_for("bit rot, real files"));
  const Specimen specimen = small_store(Ending::closed);
  Seen seen;
  for (const std::string& path : checked_files(specimen)) {
    if (path.starts_with("disks/") && random() % 4 != 0) continue;  // many, and slow here
    const std::size_t at = random() % bytes_used(specimen.files.at(path));
    SCOPED_TRACE(fmt::format("{} byte {}", path, at));
    InDirectory place;
    test::put_files(place.storage(), specimen.files);
    Judgement(place, specimen, {{path, at, std::byte{0x10}}}, seen).run(true);
    if (HasFailure()) return;
  }
  EXPECT_GT(seen.lost_chunks, 0U);
}

TEST(BitRot, RandomDamageOfALargerStore) {
  const Quiet quiet;
  const std::uint64_t seed = test::seed_for("bit rot, larger store");
  std::mt19937_64 random(seed);
  const Specimen specimen = larger_store(seed);
  const std::vector<std::string> paths = checked_files(specimen);
  const std::size_t rounds = test::number_from("VARVE_BIT_ROT_ROUNDS", kUsualRounds);
  Seen seen;
  for (std::size_t round = 0; round < rounds; ++round) {
    std::vector<Damage> damages;
    std::string trace;
    for (std::size_t i = 1 + random() % 8; i > 0; --i) {
      const std::string& path = paths[random() % paths.size()];
      damages.push_back({path, random() % specimen.files.at(path).size(), static_cast<std::byte>(1 + random() % 255)});
      trace += fmt::format("{} byte {} ^ {:#x}; ", path, damages.back().at, static_cast<unsigned>(damages.back().flip));
    }
    SCOPED_TRACE(trace);
    judge_in_memory(specimen, std::move(damages), seen, round % kWritesEvery == 0);
    if (HasFailure()) return;
  }
  fmt::print("{} damages: {} disks refused, {} chunks lost, {} disks stuck\n", rounds, seen.refused_disks,
             seen.lost_chunks, seen.stuck);
  EXPECT_GT(seen.lost_chunks, 0U);
}

}  // namespace
}  // namespace varve::store
