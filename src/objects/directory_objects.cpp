// Objects as files. An object appears by link(2): whole, synced, and only if its name was free.
//
//   put: temporary written and synced -> linked to the name -> temporary unlinked -> folder synced -> "created"
//
// A crash anywhere leaves the object or none of it, and perhaps a temporary. The temporary's own entry is never
// synced: should a power loss bring it back, it is a second name of the object that remove_temporaries() takes away.
//
// Small objects may lie together in one file (joined_files.h); joining.h puts them there. Who looks for one looks there
// first, then for a file of its own, then, since it may have been moved in between, there once more.
#include <algorithm>
#include <limits>
#include <optional>
#include <set>
#include <string>
#include <type_traits>
#include <utility>

#include "foreign_entry.h"
#include "joined_files.h"
#include "joining.h"
#include "varve/core/buffer.h"
#include "varve/core/single_flight_cache.h"
#include "varve/core/sync.h"
#include "varve/objects/object_store.h"

namespace varve::objects {
namespace {

/// Descriptors kept open: a cold random read is then one system call, not three.
constexpr std::size_t kOpenFiles = 256;
/// Larger objects are written past the page cache. Through it, their pages push out what guests read, and a sync of any
/// other file, such as a live image's, may have to wait until the filesystem's journal has written them all (ext4,
/// data=ordered).
constexpr std::size_t kDirectFrom = 1 * kMiB;
/// One at a time is on its way: what a live image's write waits for behind it.
constexpr std::size_t kDirectPiece = 128 * kKiB;
static_assert(kDirectPiece % AlignedBuffer::kAlignment == 0);
/// Of an object that is read from one end to the other, in small parts with other objects' between them, so much is
/// announced at once: up to the next multiple, so that the parts that follow find it on its way. A disk reads it nearly as
/// fast as a part alone, so it costs little where most of it is never wanted, and the page cache need not hold more than
/// one for each object that is being read: 32 MiB for the packs of a thousand snapshots.
constexpr std::uint64_t kSequentialWindow = 32 * kKiB;
/// How often an object is looked for again that was being moved.
constexpr int kLooks = 4;

std::uint64_t next_window(std::uint64_t at) {
  return (at + kSequentialWindow - 1) / kSequentialWindow * kSequentialWindow;
}

bool is_temporary(std::string_view path) {
  return os::leaf_of(path).starts_with(os::kTemporaryPrefix);
}

bool says(const Status& status, int code) {
  return !status && status.error().code == code;
}

std::string temporary_for(std::string_view name) {
  const std::size_t slash = name.find('/');
  if (slash == std::string_view::npos) return os::temporary_name();
  return std::string(name.substr(0, slash + 1)) + os::temporary_name();
}

class DirectoryObjects final : public ObjectStore {
 public:
  explicit DirectoryObjects(os::Storage& storage) : storage_(storage), open_files_(kOpenFiles), joined_(storage) {}

  Result<PutOutcome> put_if_absent(std::string_view name, std::span<const std::byte> bytes) override {
    VARVE_TRY(check_name(name));
    VARVE_TRY(joined_.load());
    if (joined_.find(name)) return PutOutcome::exists;
    const std::string_view folder = os::parent_of(name);
    VARVE_TRY(settle(folder));
    const std::string temporary = temporary_for(name);
    Status linked = write_whole(temporary, bytes);
    if (linked) linked = storage_.link(temporary, name);
    // Best effort, for the object does not depend on it; after a failed write it gives back the space.
    static_cast<void>(storage_.remove(temporary));
    const bool exists = says(linked, EEXIST);
    if (!linked && !exists) return tl::unexpected<Error>(std::move(linked).error());
    // Also for one that exists: whoever made it may have been killed before this.
    VARVE_TRY(storage_.sync_directory(folder));
    return exists ? PutOutcome::exists : PutOutcome::created;
  }

  Result<std::size_t> read(std::string_view name, ByteOffset at, std::span<std::byte> out) override {
    return look_for(name, [&](const std::optional<SectionPlace>& place) -> Result<std::size_t> {
      if (!place) {
        VARVE_TRY_ASSIGN(const auto file, open_once(std::string(name)));
        return file->read(at, out);
      }
      if (at.value() >= place->length) return 0;
      VARVE_TRY_ASSIGN(const auto file, open_once(joined_format::file_name(place->file)));
      const std::size_t count = std::min<std::uint64_t>(out.size(), place->length - at.value());
      return file->read(ByteOffset{place->offset + at.value()}, out.first(count));
    });
  }

  void read_together(std::span<PartRead> parts, Access access) override {
    // One waits for the medium in any case: no need to announce it. Who reads one after the other is known to the kernel.
    if (parts.size() < 2) return ObjectStore::read_together(parts, access);
    struct Announced {
      PartRead* part = nullptr;
      std::optional<PartPlace> place;
    };
    std::vector<Announced> announced;
    announced.reserve(parts.size());
    for (PartRead& part : parts) announced.push_back({&part, std::nullopt});
    // Each announcement takes the processor a while. The longest part first: the others' go by while it is on its way.
    std::ranges::stable_sort(announced, std::ranges::greater{}, [](const Announced& one) { return one.part->out.size(); });
    for (Announced& one : announced) {
      one.place = place_of(*one.part);
      if (!one.place) continue;
      const std::uint64_t begin = one.place->at.value();
      std::uint64_t end = begin + one.part->out.size();
      if (access == Access::sequential) end = std::min(next_window(end), one.place->object_end);
      one.place->file->expect(one.place->at, ByteCount{end - begin});
    }
    for (const Announced& one : announced) {
      PartRead& part = *one.part;
      part.got = one.place ? one.place->file->read(one.place->at, part.out) : read(part.name, part.at, part.out);
    }
  }

  Result<ByteCount> size(std::string_view name) override {
    return look_for(name, [&](const std::optional<SectionPlace>& place) -> Result<ByteCount> {
      if (place) return ByteCount{place->length};
      auto found = storage_.status(name);
      if (!found) return tl::unexpected(as_read_error(std::move(found).error()));
      const os::FileStatus& status = *found;
      if (status.type != os::FileType::regular) return fail_damaged(std::string(name) + ": not a regular file");
      return status.size;
    });
  }

  Result<std::vector<std::string>> list(std::string_view folder) override {
    // In this order: one that is moved meanwhile is then met at least once.
    VARVE_TRY_ASSIGN(auto names, names_in(folder, os::FileType::regular));
    VARVE_TRY(joined_.load());
    joined_.add_names_in(folder, names);
    return names;
  }

  Result<std::vector<std::string>> list_folders(std::string_view folder) override {
    VARVE_TRY_ASSIGN(auto names, names_in(folder, os::FileType::directory));
    VARVE_TRY(joined_.load());
    joined_.add_folders_in(folder, names);
    return names;
  }

  Status remove(std::string_view name) override {
    VARVE_TRY(check_name(name));
    VARVE_TRY(joined_.load());
    VARVE_TRY(remove_own(name));
    return joined_.remove(name);
  }

  Status punch(std::string_view name, ByteOffset at, ByteCount count) override {
    VARVE_TRY(check_name(name));
    VARVE_TRY(joined_.load());
    if (const auto place = joined_.find(name)) return joined_.punch(*place, at, count);
    VARVE_TRY_ASSIGN(const auto file, storage_.open(name, {.write = true}));
    return file->punch(at, count);
  }

  Result<Joined> join(const JoinOptions& options) override {
    VARVE_TRY(joined_.load());
    return Joining(storage_, joined_, options, [this](const std::string& file) { open_files_.drop(file); }).run();
  }

  Result<std::vector<std::string>> check() override {
    VARVE_TRY(joined_.load());
    return joined_.check();
  }

 private:
  Status remove_own(std::string_view name) {
    Status removed = storage_.remove(name);
    // After it, not before: a reader could have opened the file again in between, and the open file would keep the
    // space. A load under way is not kept either.
    open_files_.drop(std::string(name));
    if (!removed && !says(removed, ENOENT)) return removed;
    // Also when it is gone already: whoever removed it may have been killed before this.
    Status synced = storage_.sync_directory(os::parent_of(name));
    if (says(synced, ENOENT)) return {};
    return synced;
  }

  struct PartPlace {
    std::shared_ptr<const os::File> file;
    ByteOffset at;
    std::uint64_t object_end = 0;  ///< where the object ends in the file; no bound when it has the file to itself
  };
  /// Nothing: not found at once, or not to be had whole.
  std::optional<PartPlace> place_of(const PartRead& part) {
    if (!check_name(part.name) || !joined_.load()) return std::nullopt;
    const auto place = joined_.find(part.name);
    if (place && (part.at.value() > place->length || part.out.size() > place->length - part.at.value())) {
      return std::nullopt;
    }
    auto file = open_once(place ? joined_format::file_name(place->file) : part.name);
    if (!file) return std::nullopt;
    if (!place) return PartPlace{std::move(*file), part.at, std::numeric_limits<std::uint64_t>::max()};
    return PartPlace{std::move(*file), ByteOffset{place->offset + part.at.value()}, place->offset + place->length};
  }

  /// What `use` says of the object in its place, or, without one, in a file of its own.
  template <class Use>
  std::invoke_result_t<Use, const std::optional<SectionPlace>&> look_for(std::string_view name, const Use& use) {
    VARVE_TRY(check_name(name));
    VARVE_TRY(joined_.load());
    for (int look = 1;; ++look) {
      const auto place = joined_.find(name);
      auto result = use(place);
      if (result || result.error().code != ENOENT || look == kLooks) return result;
      const auto now = joined_.find(name);
      const bool moved = place ? !now || now->file != place->file : now.has_value();
      if (!moved) return result;
    }
  }

  Result<std::shared_ptr<const os::File>> open_once(const std::string& path) {
    return open_files_.get(
        path, [&] { return open(path); }, [](const os::File&) { return std::size_t{1}; });
  }

  static Status check_name(std::string_view name) {
    if (!os::valid_path(name) || is_temporary(name)) {
      return fail_refused(EINVAL, "not a name for an object: " + std::string(name));
    }
    return {};
  }

  Result<std::shared_ptr<const os::File>> open(std::string_view name) {
    auto file = storage_.open(name, {});
    if (!file) return tl::unexpected(as_read_error(std::move(file).error()));
    return std::shared_ptr<const os::File>(std::move(*file));
  }

  Status write_whole(const std::string& path, std::span<const std::byte> bytes) {
    const bool direct = bytes.size() >= kDirectFrom;
    VARVE_TRY_ASSIGN(const auto file,
                     storage_.open(path, {.write = true, .create = true, .exclusive = true, .direct = direct}));
    VARVE_TRY(file->alignment() == 1 ? file->write(ByteOffset{0}, bytes) : write_directly(*file, bytes));
    return file->sync_data();
  }

  /// In pieces from aligned memory, the last one filled up and cut again.
  static Status write_directly(os::File& file, std::span<const std::byte> bytes) {
    const std::size_t grid = file.alignment();
    const auto on_grid = [grid](std::size_t count) { return (count + grid - 1) / grid * grid; };
    if (auto done = file.preallocate(ByteOffset{0}, ByteCount{on_grid(bytes.size())}); !done) {
      if (done.error().code != EOPNOTSUPP) return done;
    }
    AlignedBuffer buffer(kDirectPiece);
    for (std::size_t at = 0; at < bytes.size(); at += kDirectPiece) {
      const auto piece = bytes.subspan(at, std::min(kDirectPiece, bytes.size() - at));
      const auto out = buffer.span().first(on_grid(piece.size()));
      std::ranges::fill(std::ranges::copy(piece, out.begin()).out, out.end(), std::byte{0});
      VARVE_TRY(file.write(ByteOffset{at}, out));
    }
    return on_grid(bytes.size()) == bytes.size() ? Status{} : file.resize(ByteCount{bytes.size()});
  }

  /// Makes the folder and its parents durable, once in the life of this object: what is there may have been made by a
  /// process that was killed before it could sync.
  Status settle(std::string_view folder) VARVE_EXCLUDES(mutex_) {
    {
      MutexLock lock(mutex_);
      if (settled_.contains(folder)) return {};
    }
    VARVE_TRY(os::make_directories_durably(storage_, folder));
    MutexLock lock(mutex_);
    settled_.emplace(folder);
    return {};
  }

  Result<std::vector<std::string>> names_in(std::string_view folder, os::FileType type) {
    auto entries = storage_.list(folder);
    if (!entries && entries.error().code == ENOENT) return std::vector<std::string>{};
    VARVE_TRY(entries);
    std::vector<std::string> names;
    for (os::DirectoryEntry& entry : *entries) {
      // A link or a device under an object's name is no object, and whoever opens it is told so. Passed over here, the
      // object would seem never to have been.
      const bool wanted = entry.type == type || entry.type == os::FileType::other;
      if (wanted && !is_temporary(entry.name)) names.push_back(std::move(entry.name));
    }
    return names;
  }

  os::Storage& storage_;
  SingleFlightCache<std::string, os::File> open_files_;
  JoinedFiles joined_;
  Mutex mutex_;
  /// Folders of packs and logs: some 60 bytes each, 256 and two a disk.
  std::set<std::string, std::less<>> settled_ VARVE_GUARDED_BY(mutex_);
};

void keep_first_error(Status& first, Status next) {
  if (first && !next) first = std::move(next);
}

Status remove_temporaries_in(os::Storage& storage, const std::string& folder,
                             const std::vector<os::DirectoryEntry>& entries) {
  Status first;
  for (const os::DirectoryEntry& entry : entries) {
    if (entry.type != os::FileType::regular || !is_temporary(entry.name)) continue;
    keep_first_error(first, storage.remove(folder.empty() ? entry.name : folder + "/" + entry.name));
  }
  return first;
}

}  // namespace

std::unique_ptr<ObjectStore> make_directory_objects(os::Storage& storage) {
  return std::make_unique<DirectoryObjects>(storage);
}

Status remove_temporaries(os::Storage& storage) {
  VARVE_TRY_ASSIGN(const auto root, storage.list(""));
  Status first = remove_temporaries_in(storage, "", root);
  for (const os::DirectoryEntry& entry : root) {
    if (entry.type != os::FileType::directory) continue;
    const auto inside = storage.list(entry.name);
    if (inside) {
      keep_first_error(first, remove_temporaries_in(storage, entry.name, *inside));
    } else {
      keep_first_error(first, tl::unexpected<Error>(inside.error()));
    }
  }
  return first;
}

}  // namespace varve::objects
