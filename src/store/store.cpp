#include "varve/store/store.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/filesystem.hpp>
#include <random>

#include "open_store.h"
#include "settings.h"
#include "varve/core/log.h"

namespace varve::store {
namespace {

constexpr std::string_view kLockFile = "lock";
constexpr std::string_view kLocatorDirectory = "locator";
constexpr std::size_t kMaxLockText = 4096;
constexpr std::uint32_t kWritableByOthers = 0022;

std::string random_id() {
  std::random_device source;
  std::string id;
  while (id.size() < 32) id += fmt::format("{:08x}", static_cast<std::uint32_t>(source()));
  return id;
}

constexpr std::array<const char*, 3> kDirectories{"packs", "disks", "live"};

/// What an interrupted init may have left (and what mkfs makes), and nothing else, can be initialised. A store whose
/// store.json was lost has its directories, too, and they are not empty: a new one on top would disown its disks.
Status refuse_occupied(os::Storage& storage, const std::vector<os::DirectoryEntry>& entries) {
  for (const os::DirectoryEntry& entry : entries) {
    if (entry.name.starts_with(".tmp-") || entry.name == "lost+found") continue;
    if (std::find(kDirectories.begin(), kDirectories.end(), entry.name) != kDirectories.end()) {
      VARVE_TRY_ASSIGN(const auto inside, storage.list(entry.name));
      if (inside.empty()) continue;
      return fail_refused(ENOTEMPTY, fmt::format("the directory holds what seems to be a store without its store.json "
                                                 "({}/ is not empty); bring that file back, or name an empty directory",
                                                 entry.name));
    }
    return fail_refused(ENOTEMPTY, "the directory is not empty; name one that is, or that does not exist yet");
  }
  return {};
}

/// Takes the lock, or says who has it.
Result<std::unique_ptr<os::File>> lock_store(os::Storage& storage, const std::string& purpose) {
  VARVE_TRY_ASSIGN(auto file, storage.open(kLockFile, {.write = true, .create = true}));
  VARVE_TRY_ASSIGN(const bool locked, file->try_lock());
  if (!locked) {
    std::string holder(kMaxLockText, '\0');
    const auto got = file->read(ByteOffset{0}, std::as_writable_bytes(std::span(holder)));
    holder.resize(got ? *got : 0);
    return fail_refused(EBUSY, fmt::format("the store is in use{}{}; unmount it or wait until that is done",
                                           holder.empty() ? "" : ": ", holder));
  }
  // Only for people: a full store must open all the same.
  const std::string text = purpose.substr(0, kMaxLockText);
  Status noted = file->resize(ByteCount{0});
  if (noted) noted = file->write(ByteOffset{0}, std::as_bytes(std::span(text)));
  if (!noted) log::warning("the lock file cannot say who holds the store: {}", noted.error().message);
  return file;
}

/// RocksDB opens its files by path and asks nothing: a pipe would hold it up, a link lead it elsewhere.
Status refuse_foreign_locator(os::Storage& storage) {
  const std::string directory(kLocatorDirectory);
  VARVE_TRY(storage.make_directory(directory));
  VARVE_TRY_ASSIGN(const auto entries, storage.list(directory));
  for (const auto& entry : entries) {
    if (entry.type != os::FileType::directory) VARVE_TRY(storage.open(directory + "/" + entry.name, {.write = true}));
  }
  return {};
}

Result<std::unique_ptr<chunks::Locator>> open_locator(os::Storage& storage, const std::string& path,
                                                      std::size_t memory) {
  VARVE_TRY(refuse_foreign_locator(storage));
  const auto directory = boost::filesystem::absolute(path).string() + "/" + std::string(kLocatorDirectory);
  return chunks::open_rocksdb_locator(directory, memory);
}

/// The volatile directory and the locator of a store at `path`.
Result<Environment> real_environment(const std::string& path, std::unique_ptr<os::Storage> storage,
                                     const std::string& store_id, std::size_t locator_bytes) {
  Environment environment;
  environment.storage = std::move(storage);
  VARVE_TRY_ASSIGN(environment.maps, os::open_volatile(store_id));
  auto locator = open_locator(*environment.storage, path, locator_bytes);
  if (locator) {
    environment.locator = std::move(*locator);
  } else {
    log::warning("the locator can't be used, deduplication knows only what is written from now on: {}",
                 locator.error().message);
    environment.locator = chunks::make_memory_locator();
  }
  return environment;
}

Result<std::unique_ptr<Store>> finish_open(Environment environment, std::unique_ptr<os::File> lock,
                                           StoredSettings stored, const OpenOptions& options) {
  auto store = std::make_unique<OpenStore>(std::move(environment), std::move(lock), std::move(stored), options);
  VARVE_TRY(store->recover());
  store->start_background();
  return std::unique_ptr<Store>(std::move(store));
}

/// A store that others own or may write to holds what they put there, at any moment.
Status refuse_foreign(os::Storage& storage, const std::string& path) {
  VARVE_TRY_ASSIGN(const auto status, storage.status(""));
  if (status.owner == ::geteuid() && (status.mode & kWritableByOthers) != 0) {
    return fail_refused(EACCES,
                        fmt::format("{}: others than its owner may write to this directory; chmod go-w it", path));
  }
  if (status.owner == ::geteuid()) return {};
  return fail_refused(EACCES,
                      fmt::format("{}: the store belongs to user {}, and this is user {}; run varve as that user, "
                                  "or chown the whole store",
                                  path, status.owner, ::geteuid()));
}

}  // namespace

Status Store::init(os::Storage& storage, const InitOptions& options) {
  if (!Geometry::valid_chunk_size(options.chunk_size.value())) {
    return fail_refused(EINVAL,
                        fmt::format("a chunk size of {} bytes is not possible: it is a power of two from {} to {}",
                                    options.chunk_size.value(), kMinChunkSize, kMaxChunkSize));
  }
  VARVE_TRY_ASSIGN(const auto entries, storage.list(""));
  for (const auto& entry : entries) {
    if (entry.name == kSettingsFile) return fail_refused(EEXIST, "there is a store already");
  }
  VARVE_TRY(refuse_occupied(storage, entries));
  for (const char* directory : kDirectories) VARVE_TRY(os::make_directories_durably(storage, directory));
  StoredSettings stored;
  stored.settings.id = random_id();
  stored.settings.geometry = Geometry{options.chunk_size};
  stored.settings.compression = options.compression;
  stored.settings.created = now();
  stored.root = Attributes{::geteuid(), ::getegid(), 0755, {}};
  // Last: a directory is a store when, and only when, this file is there.
  return write_settings(storage, stored);
}

Status Store::init(const std::string& path, const InitOptions& options) {
  boost::system::error_code problem;
  boost::filesystem::path target = boost::filesystem::absolute(path).lexically_normal();
  // "store/": its parent is the one above the slash.
  if (target.filename() == ".") target = target.parent_path();
  if (!boost::filesystem::exists(target, problem)) {
    if (::mkdir(target.c_str(), 0700) != 0) return fail_system(errno, fmt::format("making the store {}", path));
    VARVE_TRY_ASSIGN(const auto above, os::open_directory(target.parent_path().string()));
    VARVE_TRY(above->sync_directory(""));
  }
  VARVE_TRY_ASSIGN(const auto storage, os::open_directory(path));
  VARVE_TRY(refuse_foreign(*storage, path));
  auto done = init(*storage, options);
  return done ? done : Status(tl::unexpected(done.error().in(path)));
}

Result<std::unique_ptr<Store>> Store::open(const std::string& path, const OpenOptions& options) {
  VARVE_TRY_ASSIGN(auto storage, os::open_directory(path));
  VARVE_TRY(refuse_foreign(*storage, path));
  auto stored = read_settings(*storage);
  if (!stored) return tl::unexpected(stored.error().in(path));
  auto lock = lock_store(*storage, options.purpose);
  if (!lock) return tl::unexpected(lock.error().in(path));
  // Once more: whoever had the lock may have changed them.
  stored = read_settings(*storage);
  if (!stored) return tl::unexpected(stored.error().in(path));
  VARVE_TRY_ASSIGN(auto environment,
                   real_environment(path, std::move(storage), stored->settings.id, options.locator_bytes));
  return finish_open(std::move(environment), std::move(*lock), std::move(*stored), options);
}

Result<std::unique_ptr<Store>> Store::open(Environment environment, const OpenOptions& options) {
  VARVE_TRY_ASSIGN(auto stored, read_settings(*environment.storage));
  VARVE_TRY_ASSIGN(auto lock, lock_store(*environment.storage, options.purpose));
  return finish_open(std::move(environment), std::move(lock), std::move(stored), options);
}

}  // namespace varve::store
