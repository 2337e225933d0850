// States of a pack, by what of it is there, and the step that leads to the next. GEN: the newest generation.
//
//     state      files                      table says            left by
//     whole      GEN                        all records           rewrite, new_table, remove
//     thinned    GEN (a table), an older    dead ones are gone    rewrite, new_table, remove
//                with the payloads
//     doubled    GEN whole, and older ones  dead ones are gone    remove_older -> whole  (a crash in rewrite)
//     unpunched  as thinned, dead bytes     dead ones are gone    punch -> thinned       (a crash in new_table); taken
//                still there                                                             for this once after each mount
//     halved     some files                 -                     remove -> nothing      (a crash in remove)
//
// Order of a rewrite or new table, each step before the next:
//
//     condemn     1. no record that goes can be held any more, and none is: the last look at who uses the pack. The
//                    others can be held and read all the while.
//     forget      2. the locator leads nobody to what goes.
//     put         3. the new generation is durable; whoever reads the table from now on reads this one.
//     renew       4. tables that were read before are forgotten, those being read too: a digest hit that is held after
//                    step 6 finds that its record is gone.
//     bytes       5. older files go, or are punched where no record is alive. A reader with an old table finds the
//                    living at their place, or no file, and looks again.
//     absolve     6. not before 5: what is held from now on is what is alive. Not at all, as long as this process lives,
//                    where a new generation is not known to be there or not: a table read later may say "gone".
#include "varve/chunks/free_records.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "chunk_store_implementation.h"
#include "format.h"
#include "varve/core/log.h"
#include "varve/core/same_bytes.h"

namespace varve::chunks {
namespace {

constexpr std::uint64_t kBlock = 4096;           ///< of filesystems: what a hole is made of
constexpr std::uint64_t kWorthAFile = 8 * kBlock;  ///< beside its own size, what a new table has to free

struct Range {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

/// Whole blocks of [begin, end) that no entry lies in.
std::vector<Range> holes_between(const std::vector<format::Entry>& entries, std::uint64_t begin, std::uint64_t end) {
  std::vector<Range> used;
  for (const format::Entry& entry : entries) {
    if (entry.kind) used.push_back({entry.offset, std::uint64_t{entry.offset} + entry.stored});
  }
  std::ranges::sort(used, {}, &Range::begin);
  used.push_back({end, end});
  std::vector<Range> holes;
  for (const Range& next : used) {
    const std::uint64_t from = (begin + kBlock - 1) / kBlock * kBlock;
    const std::uint64_t to = std::min(next.begin, end) / kBlock * kBlock;
    if (from < to) holes.push_back({from, to});
    begin = std::max(begin, next.end);
  }
  return holes;
}

std::uint64_t total(const std::vector<Range>& ranges) {
  std::uint64_t bytes = 0;
  for (const Range& range : ranges) bytes += range.end - range.begin;
  return bytes;
}

bool no_space(const Error& error) { return error.code == ENOSPC || error.code == EDQUOT; }

/// Condemned until it goes.
class Condemned {
 public:
  Condemned(RootRegistry& registry, PackId pack, std::vector<bool> kept)
      : registry_(registry), pack_(pack), done_(registry.condemn(pack, std::move(kept))) {}
  ~Condemned() {
    if (done_ && !for_good_) registry_.absolve(pack_);
  }
  Condemned(const Condemned&) = delete;
  Condemned& operator=(const Condemned&) = delete;
  explicit operator bool() const { return done_; }
  void stay() { for_good_ = true; }

 private:
  RootRegistry& registry_;
  const PackId pack_;
  const bool done_;
  bool for_good_ = false;
};

class Freeing {
 public:
  Freeing(ChunkStore::Implementation& store, PackId pack) : store_(store), pack_(pack) {}
  Freeing(const Freeing&) = delete;
  Freeing& operator=(const Freeing&) = delete;

  Result<Freed> run(ChunkStore& chunks, const std::function<bool(const Ref&)>& alive) VARVE_EXCLUDES(store_.rewriting);

 private:
  Status read();
  void sort_out(const std::function<bool(const Ref&)>& alive);
  void choose();
  Status rewrite();
  Status new_table() VARVE_REQUIRES(store_.rewriting);
  Status punch() VARVE_REQUIRES(store_.rewriting);
  void remove_older();
  Status make_sure_of_holes() VARVE_REQUIRES(store_.rewriting);
  [[nodiscard]] Result<Bytes> payloads() const;
  Status compare(const std::vector<format::Entry>& placed, const Bytes& written) const;
  Status put(const Bytes& bytes, std::uint32_t generation);
  void forget();
  void remember() const;
  [[nodiscard]] format::Table table_of_kept() const;

  ChunkStore::Implementation& store_;
  const PackId pack_;
  PackTablePointer table_;
  std::uint32_t next_ = 0;           ///< generation
  std::uint64_t payloads_end_ = 0;   ///< in the file that has them
  std::uint64_t disk_bytes_ = 0;     ///< of all files, without holes
  std::vector<bool> kept_;
  std::vector<format::Entry> entries_;  ///< of those
  std::vector<Range> holes_before_;
  std::vector<Range> holes_;
  bool named_ = false;      ///< by something that is alive, if only as gone: then its table stays
  bool unsettled_ = false;  ///< invariant 6
  Freed freed_;
};

Result<Freed> Freeing::run(ChunkStore& chunks, const std::function<bool(const Ref&)>& alive) {
  MutexLock lock(store_.rewriting);
  named_ = static_cast<bool>(alive);
  if (const Status got = read(); got) {
    sort_out(alive);
    choose();
  } else {
    // One that nobody can read goes when nobody asks for it.
    if (alive || got.error().kind != ErrorKind::damaged) return tl::unexpected(got.error());
    freed_.how = Freed::How::removed;
    if (const auto size = store_.packs.file_size(pack_)) freed_.disk_bytes = size->value();
  }
  if (freed_.how == Freed::How::nothing) {
    VARVE_TRY(make_sure_of_holes());
    return freed_;
  }
  Condemned condemned(store_.registry, pack_, freed_.how == Freed::How::removed ? std::vector<bool>{} : kept_);
  if (!condemned) {
    Freed busy;
    busy.how = Freed::How::busy;
    busy.waiting_records = freed_.records;
    busy.waiting_bytes = freed_.record_bytes;
    return busy;
  }
  Status done;
  if (freed_.how == Freed::How::removed) {
    done = chunks.remove_pack(pack_);
  } else if (freed_.how == Freed::How::rewritten) {
    done = rewrite();
    if (!done && no_space(done.error()) && !unsettled_) done = new_table();  // nothing was replaced
  } else {
    done = new_table();
  }
  if (unsettled_) condemned.stay();
  if (!done) return tl::unexpected(done.error());
  return freed_;
}

Status Freeing::read() {
  VARVE_TRY_ASSIGN(const auto generations, store_.packs.generations(pack_));
  VARVE_TRY_ASSIGN(table_, store_.packs.read_table_now(pack_));
  if (generations.empty()) return fail_damaged("the pack is gone");
  next_ = generations.back() + 1;
  for (const std::uint32_t generation : generations) {
    VARVE_TRY_ASSIGN(const ByteCount size, store_.objects.size(format::pack_name(pack_, generation)));
    disk_bytes_ += size.value();
  }
  VARVE_TRY_ASSIGN(const ByteCount size, store_.objects.size(format::pack_name(pack_, table_->payloads)));
  // The table of that file, too, is what a repair falls back on: it is never punched.
  PackTablePointer oldest = table_;
  if (table_->payloads != table_->generation) {
    VARVE_TRY_ASSIGN(oldest, store_.packs.read_table({pack_, table_->payloads}));
  }
  const std::uint64_t behind = format::table_and_trailer_bytes(oldest->entries.size(), oldest->supports());
  if (size.value() < behind + format::kHeaderSize) return fail_damaged("the pack is cut");
  payloads_end_ = size.value() - behind;
  if (table_->payloads != table_->generation) {
    holes_before_ = holes_between(table_->entries, format::kHeaderSize, payloads_end_);
    disk_bytes_ -= total(holes_before_);
  }
  return {};
}

void Freeing::sort_out(const std::function<bool(const Ref&)>& alive) {
  entries_ = table_->entries;
  kept_.assign(entries_.size(), false);
  for (std::uint32_t i = 0; i < entries_.size(); ++i) {
    if (!entries_[i].kind) continue;
    kept_[i] = alive && alive(Ref{pack_, i, entries_[i].digest});
    if (kept_[i]) continue;
    ++freed_.records;
    freed_.record_bytes += entries_[i].stored;
    entries_[i] = format::Entry{};
  }
  holes_ = holes_between(entries_, format::kHeaderSize, payloads_end_);
}

/// By what it brings and costs in bytes of files.
void Freeing::choose() {
  std::uint64_t alive_bytes = 0;
  for (const format::Entry& entry : entries_) alive_bytes += entry.stored;
  const format::Table kept = table_of_kept();
  const std::uint64_t table_bytes =
      format::kHeaderSize + format::table_and_trailer_bytes(kept.entries.size(), kept.supports.size());
  const bool anything = std::ranges::find(kept_, true) != kept_.end();
  const std::uint64_t punched = total(holes_) - std::min(total(holes_), total(holes_before_));
  if (!anything && !named_) {
    freed_.how = Freed::How::removed;
    freed_.disk_bytes = disk_bytes_;
  } else if (freed_.records > 0 && disk_bytes_ > alive_bytes + table_bytes &&
             disk_bytes_ - alive_bytes - table_bytes >= std::max(alive_bytes, kBlock)) {
    freed_.how = Freed::How::rewritten;
    freed_.disk_bytes = disk_bytes_ - alive_bytes - table_bytes;
    freed_.written_bytes = alive_bytes + table_bytes;
  } else if (freed_.records > 0 && punched >= 2 * table_bytes + kWorthAFile) {
    freed_.how = Freed::How::punched;
    freed_.disk_bytes = punched;
    freed_.written_bytes = table_bytes;
  } else {
    freed_.waiting_records = std::exchange(freed_.records, 0);
    freed_.waiting_bytes = std::exchange(freed_.record_bytes, 0);
  }
}

format::Table Freeing::table_of_kept() const {
  format::Table table{entries_, {}};
  for (std::uint32_t i = 0; i < entries_.size(); ++i) {
    if (!kept_[i]) continue;
    for (const Ref& ref : table_->supports_of(i)) table.supports.push_back({i, ref});
  }
  return table;
}

Result<Bytes> Freeing::payloads() const {
  const std::string name = format::pack_name(pack_, table_->payloads);
  Bytes file(payloads_end_);
  VARVE_TRY_ASSIGN(const std::size_t count, store_.objects.read(name, ByteOffset{0}, file));
  if (count != file.size()) return fail_damaged(name + " is cut");
  return file;
}

Status Freeing::rewrite() {
  Bytes bytes;
  bytes.reserve(freed_.written_bytes);
  format::put_header(bytes);
  format::Table table = table_of_kept();
  {
    VARVE_TRY_ASSIGN(const Bytes file, payloads());
    for (format::Entry& entry : table.entries) {
      if (!entry.kind) continue;
      const auto payload = std::span(file).subspan(entry.offset, entry.stored);
      entry.offset = static_cast<std::uint32_t>(bytes.size());
      bytes.insert(bytes.end(), payload.begin(), payload.end());
    }
  }
  format::put_table_and_trailer(bytes, pack_, next_, table);
  VARVE_TRY(compare(table.entries, bytes));
  forget();
  const Status written = put(bytes, next_);
  remember();
  VARVE_TRY(written);
  store_.packs.renew(pack_, next_);
  remove_older();
  return {};
}

/// It is done, whatever becomes of this: what stays goes when the next collect begins.
void Freeing::remove_older() {
  if (const auto removed = store_.packs.remove_older(pack_); !removed) {
    log::warning("an old generation of a pack stays: {}", removed.error().message);
    freed_.disk_bytes = 0;
  }
}

/// With the bytes read once more: what a bad memory did to a copy would be right for ever.
Status Freeing::compare(const std::vector<format::Entry>& placed, const Bytes& written) const {
  VARVE_TRY_ASSIGN(const Bytes file, payloads());
  for (std::size_t i = 0; i < placed.size(); ++i) {
    if (!placed[i].kind) continue;
    const auto before = std::span(file).subspan(entries_[i].offset, entries_[i].stored);
    if (!same_bytes(before, std::span(written).subspan(placed[i].offset, placed[i].stored))) {
      return fail_damaged("what was read twice differs: suspect this machine's memory or its medium");
    }
  }
  return {};
}

Status Freeing::new_table() {
  if (next_ - table_->payloads >= format::kMostBehind) return rewrite();
  Bytes bytes;
  format::put_header(bytes);
  format::put_table_of_older(bytes, pack_, next_, table_->payloads, table_of_kept());
  forget();
  const Status written = put(bytes, next_);
  remember();
  if (!written && (!no_space(written.error()) || unsettled_)) return written;
  freed_.how = Freed::How::punched;
  freed_.disk_bytes = total(holes_) - std::min(total(holes_), total(holes_before_));
  // Without the table nothing is known to be gone, but a full store gets its space.
  freed_.written_bytes = written ? bytes.size() : 0;
  if (!written) return punch();
  store_.packs.renew(pack_, next_);
  if (const Status punched = punch(); !punched) {
    log::warning("holes are made later: {}", punched.error().message);
    freed_.disk_bytes = 0;
  }
  remove_older();
  return {};
}

Status Freeing::punch() {
  const std::string name = format::pack_name(pack_, table_->payloads);
  for (const Range& hole : holes_) {
    Status punched = store_.objects.punch(name, ByteOffset{hole.begin}, ByteCount{hole.end - hole.begin});
    if (!punched && punched.error().code == EOPNOTSUPP) return {};
    VARVE_TRY(punched);
  }
  store_.punched.insert(pack_);
  return {};
}

/// Those that the table promises, once after each mount.
Status Freeing::make_sure_of_holes() {
  if (table_->payloads == table_->generation || store_.punched.contains(pack_)) return {};
  holes_ = holes_before_;
  return punch();
}

Status Freeing::put(const Bytes& bytes, std::uint32_t generation) {
  const std::string name = format::pack_name(pack_, generation);
  const auto outcome = store_.objects.put_if_absent(name, bytes);
  if (outcome && *outcome == objects::PutOutcome::created) return {};
  // Perhaps it is there all the same. One that was there before is not ours to remove.
  unsettled_ = outcome.has_value() || !store_.objects.remove(name).has_value();
  if (!outcome) return tl::unexpected(outcome.error());
  return fail(EAGAIN, ErrorKind::system, name + " exists already: somebody else works on this store");
}

/// All of them: what stays is added again once the others are gone.
void Freeing::forget() {
  std::vector<Locator::Entry> entries;
  for (std::uint32_t i = 0; i < table_->entries.size(); ++i) {
    const format::Entry& entry = table_->entries[i];
    if (entry.kind) entries.push_back({content_of(*entry.kind), Ref{pack_, i, entry.digest}});
  }
  if (const auto forgotten = store_.locator.forget_pack(pack_, entries); !forgotten) {
    log::warning("pack {:016x}: {}", pack_.value(), forgotten.error().message);
  }
}

void Freeing::remember() const {
  std::vector<Locator::Entry> entries;
  for (std::uint32_t i = 0; i < entries_.size(); ++i) {
    const format::Entry& entry = entries_[i];
    if (entry.kind) entries.push_back({content_of(*entry.kind), Ref{pack_, i, entry.digest}});
  }
  if (const auto added = store_.locator.add_pack(pack_, entries); !added) {
    log::warning("pack {:016x} will not be shared until the next mount: {}", pack_.value(), added.error().message);
  }
}

}  // namespace

Result<Freed> free_records(ChunkStore& store, PackId pack, const std::function<bool(const Ref&)>& alive) {
  auto freed = Freeing(ChunkStore::Implementation::of(store), pack).run(store, alive);
  if (!freed) return tl::unexpected(freed.error().in(fmt::format("pack {:016x}", pack.value())));
  return freed;
}

}  // namespace varve::chunks
