// What the tests of disk logs share: a log in memory, snapshots to put in it, states to compare.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "memory_objects.h"
#include "varve/catalog/disk_log.h"
#include "varve/core/digest.h"

namespace varve::catalog::test {

inline constexpr DiskId kDisk{7};

inline Attributes some_attributes(std::uint32_t owner = 1000) {
  return Attributes{owner, 100, 0755, {}};
}

inline SnapshotEntry snapshot(std::uint64_t id, const std::string& name) {
  SnapshotEntry entry;
  entry.id = SnapshotId{id};
  entry.parent = SnapshotId{id - 1};
  entry.name = name;
  entry.time = Time{1'700'000'000'123'456'789 + static_cast<std::int64_t>(id % 1000)};
  entry.image_modified = Time{1'700'000'000'000'000'001};
  entry.size = ByteCount{100 * kGiB};
  entry.incarnation = Incarnation{1};
  entry.root = chunks::Ref{PackId{0xFEDCBA9876543210}, 17, Digest{id, ~id}};
  entry.changed_bytes = (std::uint64_t{1} << 60) + 1;
  entry.stored_bytes = 4096;
  entry.directory = some_attributes();
  entry.image = Attributes{0, 0, 0600, {}};
  return entry;
}

inline std::string record_name(std::uint64_t number) {
  return fmt::format("disks/00000007/log/{:010}.json", number);
}
inline std::string checkpoint_name(std::uint64_t number) {
  return fmt::format("disks/00000007/checkpoint/{:010}.json", number);
}

/// An independent writer of the format: content with the right checksum.
inline std::string sealed(nlohmann::json content) {
  content.erase("checksum");
  const std::string text = content.dump();
  content["checksum"] = to_hex(digest_of(std::as_bytes(std::span(text))));
  return content.dump();
}

inline bool same(const SnapshotEntry& a, const SnapshotEntry& b) {
  return a.id == b.id && a.parent == b.parent && a.name == b.name && a.time == b.time &&
         a.image_modified == b.image_modified && a.size == b.size && a.incarnation == b.incarnation &&
         a.root == b.root && a.changed_bytes == b.changed_bytes && a.stored_bytes == b.stored_bytes &&
         a.directory == b.directory && a.image == b.image && a.care == b.care;
}

inline bool same(const DiskState& a, const DiskState& b) {
  if (a.id != b.id || a.name != b.name || a.removed != b.removed || a.created != b.created ||
      a.hidden != b.hidden || a.limits != b.limits || a.directory != b.directory || a.live_image != b.live_image ||
      a.high_water != b.high_water ||
      a.snapshots.size() != b.snapshots.size()) {
    return false;
  }
  for (auto one = a.snapshots.begin(), other = b.snapshots.begin(); one != a.snapshots.end(); ++one, ++other) {
    if (one->first != other->first || !same(*one->second, *other->second)) return false;
  }
  return true;
}

class LogTest : public ::testing::Test {
 protected:
  std::unique_ptr<DiskLog> create() {
    auto log = DiskLog::create(objects, kDisk, "web01", some_attributes());
    EXPECT_TRUE(log) << log.error().message;
    return log ? std::move(*log) : nullptr;
  }
  std::unique_ptr<DiskLog> open() {
    auto log = DiskLog::open(objects, kDisk);
    EXPECT_TRUE(log) << log.error().message;
    return log ? std::move(*log) : nullptr;
  }
  /// The error that open() gives.
  Error open_error() {
    auto log = DiskLog::open(objects, kDisk);
    EXPECT_FALSE(log);
    return log ? Error{} : log.error();
  }
  std::vector<std::string> verify() {
    std::vector<std::string> problems;
    EXPECT_TRUE(verify_log(objects, kDisk, problems));
    return problems;
  }

  MemoryObjects objects;
};

#define EXPECT_OK(expression)                                                    \
  do {                                                                           \
    const auto status_of_expectation = (expression);                             \
    EXPECT_TRUE(status_of_expectation) << status_of_expectation.error().message; \
  } while (false)

#define EXPECT_REFUSED(expression, errno_)                             \
  do {                                                                 \
    const auto status_of_expectation = (expression);                   \
    ASSERT_FALSE(status_of_expectation);                               \
    EXPECT_EQ(status_of_expectation.error().code, errno_);             \
    EXPECT_EQ(status_of_expectation.error().kind, ErrorKind::refused); \
  } while (false)

}  // namespace varve::catalog::test
