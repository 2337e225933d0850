// A store's mount, as export and import see it: paths, attributes, bytes of images.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "varve/core/result.h"
#include "varve/core/units.h"
#include "varve/os/descriptor.h"

namespace varve::cli {

/// On a snapshot that was imported and verified: the identity it has in the store that took it.
constexpr char kOriginAttribute[] = "user.varve-origin";
/// On a disk into which a stream is being imported: the stream's identity, a space, the name its snapshot gets.
constexpr char kImportAttribute[] = "user.varve-import";

class Mounted {
 public:
  /// ENOTCONN (refused) unless the store is mounted where this process sees it; `purpose` begins the sentence.
  [[nodiscard]] static Result<Mounted> of(const std::string& store, const std::string& purpose);

  [[nodiscard]] std::string directory(const std::string& disk) const { return root_ + "/" + disk; }
  [[nodiscard]] std::string directory(const std::string& disk, const std::string& snapshot) const {
    return root_ + "/" + disk + "/" + snapshot;
  }
  [[nodiscard]] std::string image(const std::string& disk) const { return directory(disk) + "/disk.img"; }
  [[nodiscard]] std::string image(const std::string& disk, const std::string& snapshot) const {
    return directory(disk, snapshot) + "/disk.img";
  }
  /// Which snapshot it is, wherever it is: what it was imported as, or STORE/DISK/SNAPSHOT/INSTANT.
  [[nodiscard]] Result<std::string> identity(const std::string& disk, const std::string& snapshot) const;
  /// Names of all snapshots of a disk.
  [[nodiscard]] Result<std::vector<std::string>> snapshots(const std::string& disk) const;

 private:
  explicit Mounted(std::string root) : root_(std::move(root)) {}
  std::string root_;
};

[[nodiscard]] bool exists(const std::string& path);
/// Nothing when there is none of this name.
[[nodiscard]] Result<std::optional<std::string>> attribute(const std::string& path, const char* name);
[[nodiscard]] Status set_attribute(const std::string& path, const char* name, const std::string& value);
[[nodiscard]] Status remove_attribute(const std::string& path, const char* name);
/// A failure of a call in the mount, with the sentence that the mount has for it (user.varve.error of `directory`).
[[nodiscard]] tl::unexpected<Error> fail_in_mount(int code, const std::string& action, const std::string& path,
                                                  const std::string& directory);

[[nodiscard]] Result<os::Descriptor> open_file(const std::string& path, int flags);
[[nodiscard]] Result<std::uint64_t> size_of(const os::Descriptor& file, const std::string& path);
/// Bytes of an image, zeros behind its end; an image that is not there is zeros.
[[nodiscard]] Status read_image(const os::Descriptor& file, const std::string& path, std::uint64_t at,
                                std::span<std::byte> out);
[[nodiscard]] Status write_at(const os::Descriptor& file, const std::string& path, std::uint64_t at,
                              std::span<const std::byte> bytes);
/// The next extent with data in [from, end), as SEEK_DATA has it; nothing when there is no more.
struct DataExtent {
  std::uint64_t at;
  std::uint64_t end;
};
[[nodiscard]] Result<std::optional<DataExtent>> next_data(const os::Descriptor& file, const std::string& path,
                                                          std::uint64_t from, std::uint64_t end);

}  // namespace varve::cli
