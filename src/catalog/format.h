// The bytes of disk log records and checkpoints (varve-store(5)): written and read here only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <variant>

#include "varve/catalog/disk_log.h"

namespace varve::catalog {

struct Created {
  std::string name;
  Attributes directory;
};
struct SnapshotLogged {
  std::shared_ptr<const SnapshotEntry> entry;
};
struct SnapshotDeleted {
  SnapshotId id;
};
struct SnapshotRenamed {
  SnapshotId id;
  std::string name;
};
struct SnapshotAttributes {
  SnapshotId id;
  Attributes directory;
  Attributes image;
};
struct SnapshotCare {
  SnapshotId id;
  std::string name;
  Care care;
};
struct DiskRenamed {
  std::string name;
};
struct DiskAttributes {
  Attributes directory;
  Attributes live_image;
};
struct DiskLimits {
  Limits limits;
};
struct DiskHidden {
  bool hidden = false;
};
struct DiskRemoved {};

/// What a record says happened.
using Event = std::variant<Created, SnapshotLogged, SnapshotDeleted, SnapshotRenamed, SnapshotAttributes, SnapshotCare,
                           DiskRenamed, DiskAttributes, DiskLimits, DiskHidden, DiskRemoved>;

struct Record {
  std::uint64_t number = 0;
  std::string nonce;  ///< 32 hex digits: tells this append from every other
  Time time;
  Event event;
};

[[nodiscard]] std::string encode_record(DiskId disk, const Record& record);
[[nodiscard]] std::string encode_checkpoint(const DiskState& state, std::uint64_t number);
/// The event alone: equal text, equal event.
[[nodiscard]] std::string event_text(const Event& event);

/// EIO (damaged) unless the bytes are record `number` of that disk. Only the form is checked, not what it adds up to
/// with other records (replay.h). The message does not name the object.
[[nodiscard]] Result<Record> decode_record(std::span<const std::byte> bytes, DiskId disk, std::uint64_t number);
/// The same for a checkpoint: the state after record `number`.
[[nodiscard]] Result<DiskState> decode_checkpoint(std::span<const std::byte> bytes, DiskId disk, std::uint64_t number);

}  // namespace varve::catalog
