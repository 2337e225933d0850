// Small protocols over any Storage: what must be synced in which order is written down once, here.
#include <cassert>
#include <string>

#include "varve/os/storage.h"

namespace varve::os {
namespace {

std::string join(std::string_view folder, std::string_view leaf) {
  return folder.empty() ? std::string(leaf) : std::string(folder) + "/" + std::string(leaf);
}

Status write_whole(Storage& storage, const std::string& path, std::span<const std::byte> bytes) {
  VARVE_TRY_ASSIGN(auto file, storage.open(path, {.write = true, .create = true, .exclusive = true}));
  VARVE_TRY(file->write(ByteOffset{0}, bytes));
  return file->sync_data();
}

}  // namespace

Status make_directories_durably(Storage& storage, std::string_view path) {
  if (path.empty()) return {};
  // From the top: each directory's entry is durable before anything below it is relied upon.
  for (std::size_t begin = 0; begin <= path.size();) {
    const std::size_t end = std::min(path.find('/', begin), path.size());
    const std::string_view directory = path.substr(0, end);
    VARVE_TRY(storage.make_directory(directory));
    VARVE_TRY(storage.sync_directory(parent_of(directory)));
    begin = end + 1;
  }
  return {};
}

Status replace_file_durably(Storage& storage, std::string_view path, std::span<const std::byte> bytes) {
  const std::string_view folder = parent_of(path);
  const std::string temporary = join(folder, temporary_name());
  Status done = write_whole(storage, temporary, bytes);
  if (done) done = storage.rename(temporary, path);
  if (!done) {
    // Best effort: what stays behind has a temporary's name and harms nobody.
    static_cast<void>(storage.remove(temporary));
    return done;
  }
  return storage.sync_directory(folder);
}

Result<std::vector<std::byte>> read_file(Storage& storage, std::string_view path, ByteCount limit) {
  VARVE_TRY_ASSIGN(const auto file, storage.open(path, {}));
  VARVE_TRY_ASSIGN(const FileStatus status, file->status());
  if (status.size > limit) {
    return fail(EFBIG, ErrorKind::refused,
                std::string(path) + ": longer than the " + std::to_string(limit.value()) + " bytes it may have");
  }
  std::vector<std::byte> bytes(static_cast<std::size_t>(status.size.value()));
  VARVE_TRY_ASSIGN(const std::size_t n, file->read(ByteOffset{0}, bytes));
  bytes.resize(n);
  return bytes;
}

}  // namespace varve::os
