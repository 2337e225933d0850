// The locator in RocksDB. Keys: 'd', kind, digest -> pack, ordinal; 'p', pack -> nothing (the known packs).
//
// There is no write-ahead log: everything here can be derived from the packs. What must hold is that a pack is not
// "known" while its entries are lost. A batch goes whole into one memtable, and both kinds of keys are in one column
// family: so a crash takes a pack's entries and its 'p' together, or neither.
//
// Size: 30 bytes a record plus bloom filter: some 0.5 GB of disk per TiB of distinct 64 KiB chunks.
#include <fmt/format.h>
#include <rocksdb/cache.h>
#include <rocksdb/db.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/table.h>
#include <rocksdb/write_batch.h>

#include <filesystem>

#include "format.h"
#include "varve/chunks/locator.h"
#include "varve/core/bytes.h"
#include "varve/core/log.h"
#include "varve/core/sync.h"
#include "varve/core/units.h"

namespace varve::chunks {
namespace {

/// Of the memory it may take. At most two write buffers; index and filter blocks are in the block cache.
constexpr std::size_t kWriteBufferShare = 6;
constexpr std::size_t kBlockCacheShares = 4;
constexpr double kFilterBitsPerKey = 10;        ///< most look-ups are for what was never there
constexpr int kMaxOpenFiles = 64;
constexpr int kBackgroundJobs = 2;
constexpr char kDigestPrefix = 'd';
constexpr char kPackPrefix = 'p';

/// RocksDB goes on writing to its log file after an error, and where it is built with its assertions, as Debian's is, that
/// ends the process: on a full disk at once. What fails is told by those who notice.
class Silence final : public rocksdb::Logger {
 public:
  using rocksdb::Logger::Logv;
  void Logv(const char*, va_list) override {}
};

rocksdb::Options locator_options(std::size_t memory) {
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = rocksdb::NewLRUCache(memory / kWriteBufferShare * kBlockCacheShares);
  table.cache_index_and_filter_blocks = true;
  table.pin_l0_filter_and_index_blocks_in_cache = true;
  table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(kFilterBitsPerKey));

  rocksdb::Options options;
  options.create_if_missing = true;
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  options.write_buffer_size = memory / kWriteBufferShare;
  options.max_write_buffer_number = 2;
  options.max_open_files = kMaxOpenFiles;
  options.max_background_jobs = kBackgroundJobs;
  options.max_file_opening_threads = 1;
  options.level_compaction_dynamic_level_bytes = true;
  options.compression = rocksdb::kNoCompression;  // digests and random ids
  options.info_log = std::make_shared<Silence>();
  options.stats_dump_period_sec = 0;
  options.stats_persist_period_sec = 0;
  return options;
}

rocksdb::WriteOptions without_log() {
  rocksdb::WriteOptions options;
  options.disableWAL = true;
  return options;
}

tl::unexpected<Error> fail_locator(const rocksdb::Status& status) {
  const int code = status.IsNoSpace() ? ENOSPC : EIO;
  return fail(code, status.IsCorruption() ? ErrorKind::damaged : ErrorKind::system,
              fmt::format("locator: {}", status.ToString()));
}

std::string to_key(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}
std::span<const std::byte> to_bytes(const rocksdb::Slice& slice) {
  return std::as_bytes(std::span(slice.data(), slice.size()));
}

std::string digest_key(const Digest& digest, RecordKind kind) {
  std::vector<std::byte> bytes;
  ByteWriter out(bytes);
  out.put(static_cast<std::uint8_t>(kDigestPrefix));
  out.put(static_cast<std::uint8_t>(kind));
  format::put_digest(out, digest);
  return to_key(bytes);
}

std::string pack_key(PackId pack) {
  std::vector<std::byte> bytes;
  ByteWriter out(bytes);
  out.put(static_cast<std::uint8_t>(kPackPrefix));
  out.put(pack.value());
  return to_key(bytes);
}

std::string place_value(const Ref& ref) {
  std::vector<std::byte> bytes;
  ByteWriter out(bytes);
  out.put(ref.pack.value());
  out.put(ref.ordinal);
  return to_key(bytes);
}

class RocksdbLocator final : public Locator {
 public:
  RocksdbLocator(std::string path, std::size_t memory) : path_(std::move(path)), memory_(memory) {}
  ~RocksdbLocator() override {
    ExclusiveLock lock(mutex_);
    if (database_ == nullptr) return;
    // Saves the next mount from reading pack tables; failing costs just that.
    if (const auto status = database_->Flush(rocksdb::FlushOptions()); !status.ok()) {
      log::warning("locator: not saved, it will be rebuilt: {}", status.ToString());
    }
  }

  /// Opens it; deletes and makes it anew when that fails.
  Status open() VARVE_EXCLUDES(mutex_) {
    ExclusiveLock lock(mutex_);
    return open_or_renew();
  }

  Result<std::optional<Ref>> find(const Digest& digest, RecordKind kind) override {
    std::string value;
    rocksdb::Status status;
    {
      SharedLock lock(mutex_);
      if (database_ == nullptr) return std::optional<Ref>{};
      status = database_->Get(rocksdb::ReadOptions(), digest_key(digest, kind), &value);
    }
    if (status.IsNotFound()) return std::optional<Ref>{};
    if (!status.ok()) return give_up_if_damaged(status);
    ByteReader in(to_bytes(value));
    Ref ref{PackId{in.get<std::uint64_t>()}, in.get<std::uint32_t>(), digest};
    if (!in.finished() || ref.pack == PackId{0}) return std::optional<Ref>{};
    return std::optional<Ref>(ref);
  }

  Status add_pack(PackId pack, std::span<const Entry> entries) override {
    rocksdb::WriteBatch batch;
    for (const Entry& entry : entries) batch.Put(digest_key(entry.ref.digest, entry.kind), place_value(entry.ref));
    batch.Put(pack_key(pack), rocksdb::Slice());
    VARVE_TRY(reopen_if_dropped());
    const rocksdb::Status status = write(batch);
    if (!status.ok()) return give_up_if_damaged(status);
    return {};
  }

  Status forget_pack(PackId pack, std::span<const Entry> entries) override {
    rocksdb::WriteBatch batch;
    for (const Entry& entry : entries) {
      const auto current = find(entry.ref.digest, entry.kind);
      if (current && *current && (*current)->pack == pack) batch.Delete(digest_key(entry.ref.digest, entry.kind));
    }
    batch.Delete(pack_key(pack));
    const rocksdb::Status status = write(batch);
    if (status.ok()) return {};
    log::warning("locator: it cannot forget pack {:016x} ({}); it is dropped and will be rebuilt", pack.value(),
                 status.ToString());
    ExclusiveLock lock(mutex_);
    return drop();
  }

  Result<std::vector<PackId>> known_packs() override {
    std::vector<PackId> packs;
    rocksdb::Status status;
    {
      SharedLock lock(mutex_);
      if (database_ == nullptr) return packs;
      const std::unique_ptr<rocksdb::Iterator> it(database_->NewIterator(rocksdb::ReadOptions()));
      const rocksdb::Slice prefix(&kPackPrefix, 1);
      for (it->Seek(prefix); it->Valid() && it->key().starts_with(prefix); it->Next()) {
        ByteReader in(to_bytes(it->key()).subspan(1));
        packs.emplace_back(in.get<std::uint64_t>());
      }
      status = it->status();
    }
    if (!status.ok()) return give_up_if_damaged(status);
    return packs;
  }

 private:
  /// Dropped for want of space earlier: perhaps there is some again.
  Status reopen_if_dropped() VARVE_EXCLUDES(mutex_) {
    {
      SharedLock lock(mutex_);
      if (database_ != nullptr) return {};
    }
    ExclusiveLock lock(mutex_);
    return database_ != nullptr ? Status{} : open_or_renew();
  }

  Status open_or_renew() VARVE_REQUIRES(mutex_) {
    const rocksdb::Status first = try_open();
    if (first.ok()) return {};
    log::warning("locator: cannot be opened, it is made anew: {}", first.ToString());
    VARVE_TRY(drop());
    const rocksdb::Status second = try_open();
    if (!second.ok()) return fail_locator(second);
    return {};
  }

  rocksdb::Status try_open() VARVE_REQUIRES(mutex_) {
    rocksdb::DB* database = nullptr;
    const rocksdb::Status status = rocksdb::DB::Open(locator_options(memory_), path_, &database);
    database_.reset(database);
    return status;
  }

  /// A flush that met a full disk leaves the database read-only until somebody says to go on.
  rocksdb::Status write(rocksdb::WriteBatch& batch) VARVE_EXCLUDES(mutex_) {
    SharedLock lock(mutex_);
    if (database_ == nullptr) return {};  // dropped: nothing to add to (see add_pack) and nothing to forget
    rocksdb::Status status = database_->Write(without_log(), &batch);
    if (!status.ok() && !status.IsCorruption() && database_->Resume().ok()) {
      status = database_->Write(without_log(), &batch);
    }
    return status;
  }

  tl::unexpected<Error> give_up_if_damaged(const rocksdb::Status& status) VARVE_EXCLUDES(mutex_) {
    if (status.IsCorruption()) {
      log::warning("locator: damaged, it is dropped and will be rebuilt: {}", status.ToString());
      ExclusiveLock lock(mutex_);
      if (const Status dropped = drop(); !dropped) log::warning("{}", dropped.error().message);
    }
    return fail_locator(status);
  }

  /// Deletes the directory. DestroyDB first: it takes RocksDB's own lock and so refuses one that is in use.
  Status drop() VARVE_REQUIRES(mutex_) {
    database_.reset();
    const rocksdb::Status destroyed = rocksdb::DestroyDB(path_, locator_options(memory_));
    if (!destroyed.ok()) return fail_locator(destroyed);
    std::error_code error;
    std::filesystem::remove_all(path_, error);
    if (error) return fail_system(error.value(), "removing the locator " + path_);
    return {};
  }

  const std::string path_;
  const std::size_t memory_;
  SharedMutex mutex_;  ///< exclusive: the database comes or goes
  std::unique_ptr<rocksdb::DB> database_ VARVE_GUARDED_BY(mutex_);
};

}  // namespace

Result<std::unique_ptr<Locator>> open_rocksdb_locator(const std::string& path, std::size_t memory) {
  auto locator = std::make_unique<RocksdbLocator>(path, memory);
  VARVE_TRY(locator->open());
  return std::unique_ptr<Locator>(std::move(locator));
}

}  // namespace varve::chunks
