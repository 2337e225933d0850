// Stores made by hand for tests that damage them: what is in them is known byte for byte.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "machine_store.h"
#include "store_files.h"
#include "support/expect.h"
#include "support/temporary_directory.h"
#include "varve/core/log.h"
#include "varve/store/store.h"

namespace varve::store::specimen {

using test::FileBytes;
using test::Files;
using test::Machine;

constexpr std::uint64_t kChunk = 16 * kKiB;
constexpr std::size_t kZerosLessOften = 32;

/// Errors are what these tests live on.
class Quiet {
 public:
  Quiet() { log::set_level(static_cast<log::Level>(static_cast<int>(log::Level::error) + 1)); }
  ~Quiet() { log::set_level(log::Level::info); }
};

/// One chunk: mostly repetitive, so that packs stay small.
inline FileBytes chunk_of(std::uint64_t number, bool compressible = true) {
  std::mt19937_64 random(number * 7919 + 1);
  FileBytes bytes(kChunk);
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = compressible && i >= 48 ? bytes[i - 48] : static_cast<std::byte>(random());
  }
  return bytes;
}

struct Content {
  std::uint64_t size = 0;
  std::map<std::uint64_t, FileBytes> chunks;  ///< all others are zeros
};

/// The images of a store, as they were when all was well.
struct Image {
  std::string disk;
  std::string snapshot;  ///< empty: the live image
  bool pending = false;
  Content content;
  [[nodiscard]] bool complete() const { return !snapshot.empty() && !pending; }
  [[nodiscard]] std::string name() const { return snapshot.empty() ? disk : disk + "@" + snapshot; }
};

inline OpenOptions usual_options() {
  OpenOptions options;
  options.background = false;
  options.chunk_cache_bytes = 4 * kMiB;
  options.node_cache_bytes = 4 * kMiB;
  return options;
}

/// Builds a store by hand and remembers what is in it.
class Builder {
 public:
  explicit Builder(Machine& machine) : machine_(machine) {
    InitOptions options;
    options.chunk_size = ByteCount{kChunk};
    EXPECT_OK(Store::init(machine.storage, options));
    reopen();
  }
  /// With a locator that knows nothing: what is written again is stored again.
  void reopen() {
    if (store_) {
      EXPECT_OK(store_->close());
    }
    store_.reset();
    machine_.kill();
    store_ = Store::open(test::environment_on(machine_), usual_options()).value();
  }
  void make(const std::string& disk) {
    auto made = store_->create_disk(disk, Attributes{0, 0, 0755, {}});
    ASSERT_OK(made);
    ASSERT_OK((*made)->create_image(Attributes{0, 0, 0644, {}}));
    live_[disk] = {};
  }
  void write(const std::string& disk, std::uint64_t chunk, const FileBytes& bytes) {
    Content& content = live_.at(disk);
    ASSERT_OK(entry(disk)->live().write(ByteOffset{chunk * kChunk}, bytes));
    content.size = std::max(content.size, chunk * kChunk + bytes.size());
    FileBytes& there = content.chunks[chunk];
    there.resize(kChunk);
    std::ranges::copy(bytes, there.begin());
  }
  /// One block of a chunk that is there.
  void write_block(const std::string& disk, std::uint64_t chunk, std::size_t block, std::uint64_t number) {
    const FileBytes bytes = chunk_of(number);
    const auto part = std::span(bytes).first(kBlockSize);
    ASSERT_OK(entry(disk)->live().write(ByteOffset{chunk * kChunk + block * kBlockSize}, part));
    std::ranges::copy(part, live_.at(disk).chunks.at(chunk).begin() + static_cast<std::ptrdiff_t>(block * kBlockSize));
  }
  void snapshot(const std::string& disk, const std::string& name) {
    ASSERT_OK(entry(disk)->take_snapshot(name, Attributes{0, 0, 0755, {}}));
    snapshots_.push_back({disk, name, true, live_.at(disk)});
  }
  void commit(const std::string& disk) {
    for (;;) {
      const auto done = store_->step_commit(entry(disk)->id());
      ASSERT_OK(done);
      if (!*done) break;
    }
    for (Image& image : snapshots_) image.pending = image.pending && image.disk != disk;
  }
  void remove(const std::string& disk, const std::string& name) {
    ASSERT_OK(entry(disk)->remove_snapshot(entry(disk)->find_snapshot(name)->id));
    std::erase_if(snapshots_, [&](const Image& i) { return i.disk == disk && i.snapshot == name; });
  }
  void touch(const std::string& disk, unsigned mode) {
    ASSERT_OK(entry(disk)->change_image_attributes([mode](Attributes& attributes) {
      attributes.mode = mode;
      return Status{};
    }));
  }
  void clone(const std::string& disk, const std::string& snapshot, const std::string& name) {
    const auto from = entry(disk);
    ASSERT_OK(store_->clone({from, from->find_snapshot(snapshot)->id}, name, Attributes{0, 0, 0755, {}}));
    for (const Image& image : snapshots_) {
      if (image.disk == disk && image.snapshot == snapshot) live_[name] = image.content;
    }
  }
  void remove_disk(const std::string& disk) {
    ASSERT_OK(entry(disk)->remove_image());
    ASSERT_OK(store_->remove_disk(entry(disk)->id()));
    live_.erase(disk);
  }
  void collect() { ASSERT_OK(store_->collect([] { return false; })); }
  void settle(const std::string& disk) { ASSERT_OK(store_->step_upkeep(entry(disk)->id())); }
  std::shared_ptr<Disk> entry(const std::string& disk) { return store_->find_disk(disk).value(); }

  std::vector<Image> images() const {
    std::vector<Image> all = snapshots_;
    for (const auto& [disk, content] : live_) all.push_back({disk, "", false, content});
    return all;
  }
  void close() {
    ASSERT_OK(store_->close());
    store_.reset();
    machine_.kill();
  }
  void kill() {
    machine_.cut_off();
    store_.reset();
    machine_.kill();
  }

 private:
  Machine& machine_;
  std::unique_ptr<Store> store_;
  std::map<std::string, Content> live_;
  std::vector<Image> snapshots_;
};

/// A store at rest, and what it holds.
struct Specimen {
  Files files;
  test::VolatileFiles memory;
  std::vector<Image> images;

  void put_on(Machine& machine) const {
    test::put_files(machine.storage, files);
    test::put_volatile_files(machine.memory, memory);
  }
};

/// What reading one image gave.
struct Reading {
  bool opened = false;                      ///< it is there
  std::set<std::uint64_t> lost;             ///< chunks that answer EIO
  std::vector<std::uint64_t> other_bytes;   ///< offsets that read as something else
};

inline Reading read_image(Store& store, const Image& image) {
  Reading reading;
  const auto disk = store.find_disk(image.disk);
  if (!disk) return reading;
  SnapshotId id;
  if (!image.snapshot.empty()) {
    const auto found = (*disk)->find_snapshot(image.snapshot);
    if (!found) return reading;
    EXPECT_EQ(found->size.value(), image.content.size);
    id = found->id;
  } else {
    EXPECT_EQ((*disk)->live().info().size.value(), image.content.size);
  }
  reading.opened = true;
  FileBytes chunk(kChunk);
  const FileBytes zeros(kChunk);
  const std::uint64_t count = (image.content.size + kChunk - 1) / kChunk;
  for (std::uint64_t number = 0; number < count; ++number) {
    const auto known = image.content.chunks.find(number);
    if (known == image.content.chunks.end() && number % kZerosLessOften != 0) continue;
    const FileBytes& expected = known == image.content.chunks.end() ? zeros : known->second;
    const std::uint64_t at = number * kChunk;
    const std::size_t wanted = std::min<std::size_t>(kChunk, image.content.size - at);
    const auto got = image.snapshot.empty() ? (*disk)->live().read(ByteOffset{at}, std::span(chunk).first(wanted))
                                            : (*disk)->read_snapshot(id, ByteOffset{at}, std::span(chunk).first(wanted));
    if (!got) {
      EXPECT_EQ(got.error().code, EIO) << got.error().message;
      reading.lost.insert(number);
      continue;
    }
    EXPECT_EQ(*got, wanted);
    if (std::memcmp(chunk.data(), expected.data(), wanted) == 0) continue;
    for (std::size_t i = 0; i < wanted; ++i) {
      if (chunk[i] != expected[i]) reading.other_bytes.push_back(at + i);
    }
  }
  return reading;
}

/// Where a store lies.
class Place {
 public:
  virtual ~Place() = default;
  virtual os::Storage& storage() = 0;
  virtual Result<std::unique_ptr<Store>> open() = 0;
};

class InMemory final : public Place {
 public:
  os::Storage& storage() override { return machine_.storage; }
  Result<std::unique_ptr<Store>> open() override { return Store::open(test::environment_on(machine_), usual_options()); }
  Machine& machine() { return machine_; }

 private:
  Machine machine_{test::MemoryStorageOptions{.power_loss = false}};
};

class InDirectory final : public Place {
 public:
  os::Storage& storage() override { return *storage_; }
  Result<std::unique_ptr<Store>> open() override { return Store::open(directory_.path(), usual_options()); }

 private:
  test::TemporaryDirectory directory_;
  std::unique_ptr<os::Storage> storage_ = os::open_directory(directory_.path()).value();
};

}  // namespace varve::store::specimen
