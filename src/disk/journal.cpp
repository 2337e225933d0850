#include "journal.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <random>

#include "varve/core/xxh3.h"

namespace varve::disk {
namespace {

/// Of a thousand disks that are opened each has a short journal: no more is made ready for it than it takes.
constexpr std::size_t kReadAhead = 64 * kKiB;
constexpr std::uint64_t kReserveStep = 128 * kKiB;
constexpr std::uint64_t kReserveKept = 64 * kKiB;  ///< for records that give something back
constexpr std::uint64_t kWitnessMagic = 0x3130575645565241;  // "ARVEVW01"

std::uint64_t random_nonce() {
  std::random_device source;
  return (std::uint64_t{source()} << 32) | source();
}

/// Whether this record is part of giving something back, or of making durable what is there: it may have the last of
/// the reserve.
bool gives_back(const Record& record) {
  if (const auto* places = std::get_if<record::Places>(&record)) return places->place.kind == PlaceKind::zero;
  return std::holds_alternative<record::Seal>(record) || std::holds_alternative<record::PendingDropped>(record) ||
         std::holds_alternative<record::Inherited>(record) || std::holds_alternative<record::FrozenChunks>(record) ||
         std::holds_alternative<record::MapKept>(record) || std::holds_alternative<record::Committed>(record) ||
         std::holds_alternative<record::Size>(record) || std::holds_alternative<record::Image>(record) ||
         std::holds_alternative<record::SegmentsCleared>(record) || std::holds_alternative<record::Opened>(record) ||
         std::holds_alternative<record::ParentReplaced>(record);
}

/// A window that slides over the file: memory is the largest record, whatever the file claims to be.
class Window {
 public:
  explicit Window(const os::File& file) : file_(file) {}

  /// Up to `count` bytes from `at`; fewer at the file's end.
  Result<std::span<const std::byte>> get(std::uint64_t at, std::size_t count) {
    if (at < start_ || at + count > start_ + bytes_.size()) {
      bytes_.resize(std::max(kReadAhead, count));
      auto got = file_.read(ByteOffset{at}, bytes_);
      if (!got) {
        bytes_.clear();
        return tl::unexpected(std::move(got).error());
      }
      bytes_.resize(*got);
      start_ = at;
    }
    const std::size_t offset = static_cast<std::size_t>(at - start_);
    return std::span<const std::byte>(bytes_).subspan(offset, std::min(count, bytes_.size() - offset));
  }

 private:
  const os::File& file_;
  std::uint64_t start_ = 0;
  std::vector<std::byte> bytes_;
};

/// The valid record at `at`, or nothing: the end, or bytes that are none.
Result<std::optional<DecodedRecord>> record_at(Window& window, std::uint64_t at, std::uint64_t chain,
                                               std::size_t& length) {
  VARVE_TRY_ASSIGN(const auto head, window.get(at, kRecordHeaderSize));
  if (head.size() < kRecordHeaderSize) return std::nullopt;
  const auto wanted = record_length(head);
  if (!wanted) return std::nullopt;
  VARVE_TRY_ASSIGN(const auto bytes, window.get(at, *wanted));
  if (bytes.size() < *wanted) return std::nullopt;
  length = *wanted;
  return decode(bytes, chain);
}

/// Whether a seal behind `bad` says that the journal was durable beyond `bad` once.
Result<bool> proves_damage(Window& window, std::uint64_t bad, std::uint64_t file_size, std::uint64_t nonce) {
  for (std::uint64_t at = bad; at + kSealSize <= file_size; at += 8) {
    VARVE_TRY_ASSIGN(const auto bytes, window.get(at, kSealSize));
    const auto seal = decode_lone_seal(bytes, nonce, at);
    if (seal && seal->durable > bad) return true;
  }
  return false;
}

}  // namespace

// --- Witness ---
// Page layout: magic u64, identity hash u64, then two slots of {nonce, position, chain, check} u64 each.

Witness::Witness(std::unique_ptr<os::SharedMemory> memory, const os::Identity& identity, DiskId disk)
    : memory_(std::move(memory)) {
  const std::string text = fmt::format("{}/{}/{}/{}/{}", identity.boot_id, identity.device, identity.inode,
                                       identity.mount, disk.value());
  identity_ = XXH3_64bits(text.data(), text.size());
}

std::uint64_t Witness::check_of(const Mark& mark) const {
  const std::uint64_t words[] = {mark.nonce, mark.position, mark.chain};
  return XXH3_64bits_withSeed(words, sizeof words, identity_);
}

std::vector<Witness::Mark> Witness::marks() const {
  std::uint64_t words[10];
  std::memcpy(words, memory_->bytes().data(), sizeof words);
  std::vector<Mark> found;
  if (words[0] != kWitnessMagic || words[1] != identity_) return found;
  for (std::size_t slot = 0; slot < 2; ++slot) {
    const std::uint64_t* w = words + 2 + slot * 4;
    const Mark mark{w[0], w[1], w[2]};
    if (w[3] == check_of(mark)) found.push_back(mark);
  }
  return found;
}

void Witness::set(const Mark& mark) {
  MutexLock lock(mutex_);
  if (disowned_) return;
  std::byte* page = memory_->bytes().data();
  const std::uint64_t head[] = {kWitnessMagic, identity_};
  std::memcpy(page, head, sizeof head);
  const std::uint64_t words[] = {mark.nonce, mark.position, mark.chain, check_of(mark)};
  std::memcpy(page + sizeof head + next_slot_ * sizeof words, words, sizeof words);
  next_slot_ = 1 - next_slot_;
}

void Witness::clear() {
  MutexLock lock(mutex_);
  std::memset(memory_->bytes().data(), 0, kSize);
}

void Witness::disown() {
  MutexLock lock(mutex_);
  disowned_ = true;
  std::memset(memory_->bytes().data(), 0, kSize);
}

// --- Journal ---

Result<std::unique_ptr<Journal>> Journal::create(os::Storage& storage, const std::string& directory, DiskId disk,
                                                 Geometry geometry, const std::vector<Record>& records) {
  const std::string temporary = directory + "/journal.new";
  VARVE_TRY_ASSIGN(auto file, storage.open(temporary, {.write = true, .create = true, .truncate = true}));
  JournalHeader header;
  header.chunk_size = static_cast<std::uint32_t>(geometry.chunk_size().value());
  header.disk = disk.value();
  header.nonce = random_nonce();
  VARVE_TRY(file->write(ByteOffset{0}, encode(header)));
  std::unique_ptr<Journal> journal(new Journal(std::move(file), header.nonce));
  journal->chain_ = header.nonce;
  journal->end_ = journal->durable_ = journal->last_change_ = journal->sealed_ = kJournalHeaderSize;
  for (const Record& record : records) VARVE_TRY(journal->append(record));
  const std::uint64_t covered = journal->end();
  VARVE_TRY(journal->append_seal(covered));
  VARVE_TRY(journal->sync());
  journal->note_sealed(covered);
  // From here on an error leaves in doubt which of the two a crash would find.
  const auto in_doubt = [](Error error) {
    error.kind = ErrorKind::latched;
    return tl::unexpected(std::move(error));
  };
  if (auto renamed = storage.rename(temporary, directory + kJournalName); !renamed) return in_doubt(renamed.error());
  if (auto synced = storage.sync_directory(directory); !synced) return in_doubt(synced.error());
  return journal;
}

Result<JournalScan> Journal::scan(const os::File& file, DiskId disk, Geometry geometry,
                                  const std::vector<Witness::Mark>& marks) {
  VARVE_TRY_ASSIGN(const auto status, file.status());
  Window window(file);
  VARVE_TRY_ASSIGN(const auto head, window.get(0, kJournalHeaderSize));
  JournalScan scan;
  VARVE_TRY_ASSIGN(scan.header, decode_header(head));
  if (scan.header.disk != disk.value() || scan.header.chunk_size != geometry.chunk_size().value()) {
    return fail_damaged("the journal belongs to another disk or store");
  }
  const std::uint64_t nonce = scan.header.nonce;
  std::uint64_t at = kJournalHeaderSize;
  std::uint64_t chain = nonce;
  std::uint64_t records_since_mark = 2;
  const auto note_mark = [&] {
    const bool here = std::any_of(marks.begin(), marks.end(), [&](const Witness::Mark& mark) {
      return mark.nonce == nonce && mark.position == at && mark.chain == chain;
    });
    records_since_mark = here ? 0 : records_since_mark + 1;
  };
  note_mark();
  scan.covered = scan.last_change = at;
  for (;;) {
    std::size_t length = 0;
    VARVE_TRY_ASSIGN(const auto decoded, record_at(window, at, chain, length));
    if (!decoded) break;
    if (const auto* seal = std::get_if<record::Seal>(&decoded->record)) {
      if (seal->offset != at || seal->covered > at || seal->check != seal_check(nonce, *seal)) break;
      scan.covered = std::max(scan.covered, seal->covered);
      scan.durable = std::max(scan.durable, seal->durable);
      scan.clean_cut = scan.last_change <= scan.covered ? std::optional(at + length) : std::nullopt;
    } else {
      scan.last_change = at + length;
    }
    at += length;
    chain = decoded->chain;
    note_mark();
  }
  scan.end = at;
  scan.witnessed = records_since_mark <= 1;
  VARVE_TRY_ASSIGN(const bool damaged, proves_damage(window, at, status.size.value(), nonce));
  if (damaged) {
    return fail_damaged(
        fmt::format("a record at offset {} of the journal is damaged, and it was whole once; restore the "
                    "live image from a snapshot (varve restore) after moving live/ of this disk away",
                    at));
  }
  return scan;
}

Status Journal::replay(const os::File& file, std::uint64_t nonce, std::uint64_t end,
                       const std::function<Status(const Record&)>& apply) {
  Window window(file);
  std::uint64_t at = kJournalHeaderSize;
  std::uint64_t chain = nonce;
  while (at < end) {
    std::size_t length = 0;
    VARVE_TRY_ASSIGN(const auto decoded, record_at(window, at, chain, length));
    if (!decoded) return fail_damaged("the journal changed while it was read");
    VARVE_TRY(apply(decoded->record));
    at += length;
    chain = decoded->chain;
  }
  return {};
}

Result<std::unique_ptr<Journal>> Journal::open(std::unique_ptr<os::File> file, const JournalScan& scan) {
  const std::uint64_t end = scan.end;
  // Cut and synced before anything is appended: a second crash must not find the old tail behind new records. Where there
  // is none, after most clean closes, the first seal's sync is enough, and until then only what seals say is durable.
  VARVE_TRY_ASSIGN(const auto status, file->status());
  const bool has_tail = status.size != ByteCount{end};
  if (has_tail) {
    VARVE_TRY(file->resize(ByteCount{end}));
    VARVE_TRY(file->sync_data());
  }
  std::unique_ptr<Journal> journal(new Journal(std::move(file), scan.header.nonce));
  std::uint64_t at = kJournalHeaderSize;
  std::uint64_t chain = scan.header.nonce;
  Window window(*journal->file_);
  while (at < end) {
    std::size_t length = 0;
    VARVE_TRY_ASSIGN(const auto decoded, record_at(window, at, chain, length));
    if (!decoded) return fail_damaged("the journal changed while it was read");
    at += length;
    chain = decoded->chain;
  }
  journal->chain_ = chain;
  journal->reserved_ = end;
  journal->end_ = end;
  journal->durable_ = has_tail ? end : scan.durable;
  journal->last_change_ = scan.last_change;
  // What is there after a kill may be unsealed: the first flush seals it.
  journal->sealed_ = scan.covered;
  return journal;
}

/// Space for `length` more bytes.
Status Journal::reserve(std::size_t length, bool may_use_the_last) {
  const std::uint64_t wanted = end_ + length + kReserveKept;
  if (wanted <= reserved_) return {};
  const std::uint64_t until = (wanted + kReserveStep - 1) / kReserveStep * kReserveStep;
  if (auto done = file_->preallocate(ByteOffset{reserved_}, ByteCount{until - reserved_}); !done) {
    if (done.error().code == EOPNOTSUPP || may_use_the_last) return {};
    return done;
  }
  reserved_ = until;
  return {};
}

Status Journal::append(const Record& record) {
  const EncodedRecord encoded = encode(record, chain_);
  if (encoded.bytes.size() > kMaxRecordSize) return fail_refused(E2BIG, "a record too large for the journal");
  VARVE_TRY(reserve(encoded.bytes.size(), gives_back(record)));
  VARVE_TRY(file_->write(ByteOffset{end_}, encoded.bytes));
  end_ = end_ + encoded.bytes.size();
  if (!std::holds_alternative<record::Seal>(record)) last_change_ = end_.load();
  chain_ = encoded.chain;
  if (witness_ != nullptr) witness_->set({nonce_, end_, chain_});
  return {};
}

Status Journal::append_seal(std::uint64_t covered) {
  record::Seal seal{end_, covered, durable_, 0};
  seal.check = seal_check(nonce_, seal);
  return append(seal);
}

Status Journal::sync() {
  const std::uint64_t position = end_;
  VARVE_TRY(file_->sync_data());
  durable_ = position;
  return {};
}

void Journal::give_back_reserve() {
  if (file_->resize(ByteCount{end_})) reserved_ = end_;
}

void Journal::set_witness(Witness* witness) {
  witness_ = witness;
  if (witness_ != nullptr) witness_->set({nonce_, end_, chain_});
}

}  // namespace varve::disk
