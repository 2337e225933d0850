// Where immutable objects live: packs, disk log records and checkpoints, store.json. A directory now; a bucket can
// keep the same contract (create-if-absent is `If-None-Match: *`).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "varve/core/result.h"
#include "varve/core/units.h"
#include "varve/os/storage.h"

namespace varve::objects {

enum class PutOutcome { created, exists };

/// What a reader will want next: nobody knows, or what follows in the same objects. A hint: with sequential, more of the
/// same objects may be read than was asked for.
enum class Access { random, sequential };

/// A part of an object to read.
struct PartRead {
  std::string name;
  ByteOffset at;
  std::span<std::byte> out;
  Result<std::size_t> got = 0;  ///< as ObjectStore::read() has it
};

/// What to put together, and how.
struct JoinOptions {
  std::string folder;                 ///< of objects in folders directly below this one
  ByteCount small;                    ///< only those up to this size
  std::size_t enough = 0;             ///< nothing is done before there are so many
  std::uint64_t file_bytes = 0;       ///< at most, of a file of several; 0: as large as it may be
  std::function<bool()> stop;         ///< true: ends soon, what was begun is dropped
  std::function<void(std::uint64_t bytes)> pace;  ///< after so many were read and written; may sleep
};
struct Joined {
  std::uint64_t objects = 0;        ///< that had a file each
  std::uint64_t files_made = 0;
  std::uint64_t files_removed = 0;  ///< those objects' own, and older ones of several
  std::uint64_t bytes_written = 0;
};

/// Any thread. Names as in os/storage.h.
class ObjectStore {
 public:
  virtual ~ObjectStore() = default;
  /// Creates the object if no object of that name exists; `created` means durable, name included. `exists` says
  /// nothing about the content (a lost acknowledgement is settled by reading it back), but that the object is there
  /// durably: a directory syncs the folder before it says so, since a killed process may have linked the name and
  /// not synced it. On an error the object may or may not exist, never in part.
  [[nodiscard]] virtual Result<PutOutcome> put_if_absent(std::string_view name, std::span<const std::byte> bytes) = 0;
  /// Fills `out` from `at`; returns fewer bytes only at the end of the object. ENOENT when absent.
  [[nodiscard]] virtual Result<std::size_t> read(std::string_view name, ByteOffset at, std::span<std::byte> out) = 0;
  /// The same for several at once, which need not wait for the medium one after the other.
  virtual void read_together(std::span<PartRead> parts, Access access) {
    static_cast<void>(access);
    for (PartRead& part : parts) part.got = read(part.name, part.at, part.out);
  }
  [[nodiscard]] virtual Result<ByteCount> size(std::string_view name) = 0;
  /// Names of the objects directly in a folder (the last part only), in no order; none when the folder is absent.
  [[nodiscard]] virtual Result<std::vector<std::string>> list(std::string_view folder) = 0;
  /// Names of the folders directly in a folder.
  [[nodiscard]] virtual Result<std::vector<std::string>> list_folders(std::string_view folder) = 0;
  /// Durable on return. Absent is success. Needs no free space.
  [[nodiscard]] virtual Status remove(std::string_view name) = 0;
  /// Gives back the space of a range that nobody reads any more; what is read there is undefined from then on (zeros or
  /// what was there), also if it fails or is cut short. Needs no free space. EOPNOTSUPP where objects cannot have holes.
  [[nodiscard]] virtual Status punch(std::string_view name, ByteOffset at, ByteCount count) {
    static_cast<void>(at);
    static_cast<void>(count);
    return fail_refused(EOPNOTSUPP, "holes in " + std::string(name));
  }
  /// Keeps many small objects in few files, where objects are files; names and bytes stay what they are, and reading goes
  /// on meanwhile. Files of several of which most was removed are written anew, and those that were damaged in part. Does
  /// nothing where that would fill the disk. One at a time, and nobody removes or punches such an object meanwhile.
  ///
  /// A crash leaves each object in one place or in two equal ones; later calls clear that up. After an error what was
  /// finished before it stays.
  [[nodiscard]] virtual Result<Joined> join(const JoinOptions& options) {
    static_cast<void>(options);
    return Joined{};
  }
  /// Sentences about damage to what keeps objects together, in files of several; about objects themselves nothing.
  [[nodiscard]] virtual Result<std::vector<std::string>> check() { return std::vector<std::string>{}; }
};

/// Objects as files below the root of `storage`, which must outlive the result. Names whose last part begins with
/// `.tmp-` are refused (EINVAL): temporaries are named so, are never listed, and lie in the name's topmost folder,
/// so that few places need to be looked at for those a crash left behind. Keeps up to 256 files open for reading. The folder
/// `joined` is its own: for files of several objects (varve-store(5)).
[[nodiscard]] std::unique_ptr<ObjectStore> make_directory_objects(os::Storage& storage);

/// Removes the temporaries that a crash left in the root and its folders. Only while nothing is being put: call it
/// before the store serves. Goes on after an error and returns the first one.
[[nodiscard]] Status remove_temporaries(os::Storage& storage);

}  // namespace varve::objects
