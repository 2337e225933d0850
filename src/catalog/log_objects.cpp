#include "log_objects.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

namespace varve::catalog {
namespace {

constexpr std::size_t kDiskDigits = 8;
constexpr std::size_t kNumberDigits = 10;
constexpr std::string_view kSuffix = ".json";

std::string numbered(const std::string& folder, std::uint64_t number) {
  return fmt::format("{}/{:0{}}{}", folder, number, kNumberDigits, kSuffix);
}

std::uint64_t number_of(std::string_view object) {
  if (!object.ends_with(kSuffix)) return 0;
  return parse_number(object.substr(0, object.size() - kSuffix.size()), kNumberDigits);
}

}  // namespace

std::string log_folder(DiskId disk) {
  return fmt::format("{}/{:0{}}/log", kDisksFolder, disk.value(), kDiskDigits);
}

std::string checkpoint_folder(DiskId disk) {
  return fmt::format("{}/{:0{}}/checkpoint", kDisksFolder, disk.value(), kDiskDigits);
}

std::string record_object(DiskId disk, std::uint64_t number) {
  return numbered(log_folder(disk), number);
}

std::string checkpoint_object(DiskId disk, std::uint64_t number) {
  return numbered(checkpoint_folder(disk), number);
}

std::uint64_t parse_number(std::string_view text, std::size_t width) {
  if (text.size() < width || (text.size() > width && text.front() == '0')) return 0;
  std::uint64_t number = 0;
  const char* end = text.data() + text.size();
  const auto parsed = std::from_chars(text.data(), end, number);
  return parsed.ec == std::errc{} && parsed.ptr == end && number < kIdLimit ? number : 0;
}

Result<std::vector<std::uint64_t>> list_numbers(objects::ObjectStore& objects, const std::string& folder,
                                                std::vector<std::string>* strangers) {
  VARVE_TRY_ASSIGN(const auto names, objects.list(folder));
  std::vector<std::uint64_t> numbers;
  numbers.reserve(names.size());
  for (const std::string& name : names) {
    if (const std::uint64_t number = number_of(name); number != 0) {
      numbers.push_back(number);
    } else if (strangers != nullptr) {
      strangers->push_back(folder + "/" + name);
    }
  }
  std::ranges::sort(numbers);
  return numbers;
}

Result<std::vector<std::byte>> read_object(objects::ObjectStore& objects, const std::string& name, ByteCount limit) {
  VARVE_TRY_ASSIGN(const ByteCount size, objects.size(name));
  if (size > limit) {
    return fail_damaged(
        fmt::format("{}: has {} bytes, {} at most are ever written", name, size.value(), limit.value()));
  }
  std::vector<std::byte> bytes(static_cast<std::size_t>(size.value()));
  VARVE_TRY_ASSIGN(const std::size_t got, objects.read(name, ByteOffset{0}, bytes));
  bytes.resize(got);
  return bytes;
}

Result<Record> read_record(objects::ObjectStore& objects, DiskId disk, std::uint64_t number) {
  const std::string name = record_object(disk, number);
  VARVE_TRY_ASSIGN(const auto bytes, read_object(objects, name, kMaxRecordSize));
  auto record = decode_record(bytes, disk, number);
  if (!record) return tl::unexpected(record.error().in(name));
  return record;
}

Result<DiskState> read_checkpoint(objects::ObjectStore& objects, DiskId disk, std::uint64_t number) {
  const std::string name = checkpoint_object(disk, number);
  VARVE_TRY_ASSIGN(const auto bytes, read_object(objects, name, kMaxCheckpointSize));
  auto state = decode_checkpoint(bytes, disk, number);
  if (!state) return tl::unexpected(state.error().in(name));
  return state;
}

}  // namespace varve::catalog
