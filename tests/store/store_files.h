// The files of a store as values: to damage a copy, and to see whether anything was changed.
#pragma once

#include <algorithm>
#include <cstddef>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/machine.h"

namespace varve::test {

using FileBytes = std::vector<std::byte>;
using Files = std::map<std::string, FileBytes>;

inline constexpr ByteCount kLargestTestFile{256 * kMiB};

/// `wanted`: asked with the path.
template <class Wanted>
void gather_files(os::Storage& storage, const std::string& directory, const Wanted& wanted, Files& files) {
  const auto entries = storage.list(directory).value();
  for (const auto& entry : entries) {
    const std::string path = directory.empty() ? entry.name : directory + "/" + entry.name;
    if (entry.type == os::FileType::directory) {
      gather_files(storage, path, wanted, files);
    } else if (wanted(path)) {
      files[path] = os::read_file(storage, path, kLargestTestFile).value();
    }
  }
}

/// But for the reserve: a megabyte whose bytes mean nothing.
[[nodiscard]] inline Files files_of(os::Storage& storage) {
  Files files;
  gather_files(storage, "", [](const std::string& path) { return path != "reserve"; }, files);
  return files;
}

/// Durable. Blocks of zeros become holes.
inline void put_files(os::Storage& storage, const Files& files) {
  for (const char* always : {"packs", "disks", "live"}) {
    if (!os::make_directories_durably(storage, always)) throw std::runtime_error(always);
  }
  for (const auto& [path, bytes] : files) {
    const std::string folder(os::parent_of(path));
    if (!folder.empty() && !os::make_directories_durably(storage, folder)) throw std::runtime_error(path);
    const auto file = storage.open(path, {.write = true, .create = true}).value();
    if (!file->resize(ByteCount{bytes.size()})) throw std::runtime_error(path);
    for (std::size_t at = 0; at < bytes.size(); at += kBlockSize) {
      const auto block = std::span(bytes).subspan(at, std::min<std::size_t>(kBlockSize, bytes.size() - at));
      if (std::ranges::all_of(block, [](std::byte b) { return b == std::byte{0}; })) continue;
      if (!file->write(ByteOffset{at}, block)) throw std::runtime_error(path);
    }
    if (!file->sync_data() || !storage.sync_directory(folder)) throw std::runtime_error(path);
  }
}

/// Files of shared memory with the pages that are reserved.
struct VolatileFile {
  ByteCount size;
  std::map<std::uint64_t, FileBytes> pages;
};
using VolatileFiles = std::map<std::string, VolatileFile>;

[[nodiscard]] inline VolatileFiles volatile_files_of(os::VolatileStorage& storage) {
  VolatileFiles files;
  const auto names = storage.list().value();
  for (const std::string& name : names) {
    const auto memory = storage.open_existing(name).value();
    VolatileFile& file = files[name];
    file.size = ByteCount{memory->bytes().size()};
    const auto reserved = memory->reserved().value();
    for (const os::Extent& extent : reserved) {
      const auto bytes = memory->bytes().subspan(extent.begin.value(), extent.length.value());
      file.pages[extent.begin.value()] = FileBytes(bytes.begin(), bytes.end());
    }
  }
  return files;
}

inline void put_volatile_files(os::VolatileStorage& storage, const VolatileFiles& files) {
  for (const auto& [name, file] : files) {
    const auto memory = storage.open(name, file.size).value();
    for (const auto& [at, bytes] : file.pages) {
      if (!memory->reserve(ByteOffset{at}, ByteCount{bytes.size()})) throw std::runtime_error(name);
      std::ranges::copy(bytes, memory->bytes().begin() + static_cast<std::ptrdiff_t>(at));
    }
  }
}

}  // namespace varve::test
