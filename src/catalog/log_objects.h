// The objects of disk logs: their names, and reading them bounded.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "format.h"
#include "varve/core/result.h"
#include "varve/core/units.h"
#include "varve/objects/object_store.h"

namespace varve::catalog {

inline constexpr std::string_view kDisksFolder = "disks";

[[nodiscard]] std::string log_folder(DiskId disk);
[[nodiscard]] std::string checkpoint_folder(DiskId disk);
[[nodiscard]] std::string record_object(DiskId disk, std::uint64_t number);
[[nodiscard]] std::string checkpoint_object(DiskId disk, std::uint64_t number);

/// The number in exactly `width` digits, or more without leading zeros, above 0 and below kIdLimit; 0 for all else.
[[nodiscard]] std::uint64_t parse_number(std::string_view text, std::size_t width);
/// Numbers of the records or checkpoints in a folder, ascending. Other names go to `strangers` if that is not null.
[[nodiscard]] Result<std::vector<std::uint64_t>> list_numbers(objects::ObjectStore& objects, const std::string& folder,
                                                              std::vector<std::string>* strangers = nullptr);

[[nodiscard]] Result<std::vector<std::byte>> read_object(objects::ObjectStore& objects, const std::string& name,
                                                         ByteCount limit);
/// Read, decoded and (the checkpoint) checked; every error names the object.
[[nodiscard]] Result<Record> read_record(objects::ObjectStore& objects, DiskId disk, std::uint64_t number);
[[nodiscard]] Result<DiskState> read_checkpoint(objects::ObjectStore& objects, DiskId disk, std::uint64_t number);

}  // namespace varve::catalog
