#include "support/memory_file.h"

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstring>
#include <new>
#include <utility>

namespace varve::test {
namespace {

constexpr std::uint64_t kPage = FileContent::kPageSize;
constexpr std::uint64_t kSector = 512;
/// More than this unsynced and the oldest half is "written back", as a kernel would: bounds the memory of the books.
constexpr std::uint64_t kMostPendingBytes = 64 * 1024 * 1024;

/// Calls fn(page, offset in the page, position in the range, length) for the pieces of a range.
template <class Function>
void for_each_piece(std::uint64_t at, std::uint64_t count, std::uint64_t unit, Function&& fn) {
  for (std::uint64_t done = 0; done < count;) {
    const std::uint64_t within = (at + done) % unit;
    const std::uint64_t length = std::min(unit - within, count - done);
    fn((at + done) / unit, within, done, length);
    done += length;
  }
}

}  // namespace

std::size_t FileContent::read(std::uint64_t at, std::span<std::byte> out) const {
  if (at >= size_) return 0;
  const std::uint64_t count = std::min<std::uint64_t>(out.size(), size_ - at);
  for_each_piece(at, count, kPage, [&](std::uint64_t page, std::uint64_t within, std::uint64_t done, std::uint64_t n) {
    const auto it = pages_.find(page);
    if (it == pages_.end() || it->second == nullptr) {
      std::memset(out.data() + done, 0, n);
    } else {
      std::memcpy(out.data() + done, it->second->data() + within, n);
    }
  });
  return static_cast<std::size_t>(count);
}

int FileContent::write(std::uint64_t at, std::span<const std::byte> bytes) {
  std::uint64_t written = 0;
  bool full = false;
  for_each_piece(at, bytes.size(), kPage,
                 [&](std::uint64_t page, std::uint64_t within, std::uint64_t done, std::uint64_t n) {
                   if (full) return;
                   Page* target = writable(page, n == kPage);
                   full = target == nullptr;
                   if (full) return;
                   std::memcpy(target->data() + within, bytes.data() + done, n);
                   written = done + n;
                 });
  if (written != 0) {
    size_ = std::max(size_, at + written);
    modified = now();
    if (keep_books_) {
      const auto kept = bytes.first(static_cast<std::size_t>(written));
      record({Change::Kind::write, at, written, {kept.begin(), kept.end()}});
    }
  }
  return full ? ENOSPC : 0;
}

void FileContent::resize(std::uint64_t size) {
  if (size < size_) cut_pages(size);
  size_ = size;
  modified = now();
  record({Change::Kind::resize, size, 0, {}});
}

void FileContent::punch(std::uint64_t at, std::uint64_t count) {
  zero_range(at, count);
  modified = now();
  record({Change::Kind::zero, at, count, {}});
}

int FileContent::preallocate(std::uint64_t at, std::uint64_t count) {
  for (std::uint64_t page = at / kPage; page * kPage < at + count; ++page) {
    if (pages_.contains(page)) continue;
    if (!space_->take()) return ENOSPC;
    save(page);
    pages_.emplace(page, nullptr);
  }
  if (at + count > size_) resize(at + count);
  return 0;
}

std::uint64_t FileContent::next_data(std::uint64_t at) const {
  std::uint64_t found = UINT64_MAX;
  for (const auto& [page, bytes] : pages_) {
    if (bytes == nullptr || (page + 1) * kPage <= at || page * kPage >= size_) continue;
    found = std::min(found, std::max(at, page * kPage));
  }
  return found;
}

void FileContent::sync() {
  saved_.clear();
  pending_.clear();
  pending_bytes_ = 0;
  durable_size_ = size_;
}

void FileContent::fail_sync() {
  if (!keep_books_) return;
  const std::uint64_t size = size_;
  restore_durable();
  if (size != size_) resize(size);
}

void FileContent::lose_power(Random& random, Tearing tearing) {
  assert(keep_books_);
  enum : std::uint64_t { all_reached_the_disk, none_did, each_by_chance, kMoods = 4 };
  const std::uint64_t mood = random() % kMoods;
  for (const Change& change : pending_) {
    if (mood == none_did) break;
    if (mood == all_reached_the_disk) {
      apply(change);
    } else if (change.kind != Change::Kind::write) {
      if (random() % 2 == 0) apply(change);
    } else if (tearing == Tearing::blocks) {
      tear_blocks(change, random);
    } else {
      tear_sectors(change, random);
    }
  }
  restore_durable();
  locker = nullptr;
}

void FileContent::corrupt(std::uint64_t at, std::span<const std::byte> bytes) {
  if (write(at, bytes) != 0) throw std::bad_alloc();
  if (!keep_books_) return;
  durable_write(at, bytes);
  pending_bytes_ -= pending_.back().bytes.size();
  pending_.pop_back();
}

std::shared_ptr<FileContent> FileContent::copy(std::shared_ptr<Space> space) const {
  auto other = std::make_shared<FileContent>(std::move(space), keep_books_);
  other->modified = modified;
  other->size_ = size_;
  other->pages_ = pages_;
  other->space_->used += pages_.size();
  other->durable_size_ = durable_size_;
  other->saved_ = saved_;
  other->pending_ = pending_;
  other->pending_bytes_ = pending_bytes_;
  return other;
}

FileContent::Page& FileContent::own(PagePointer& page) {
  if (page == nullptr) {
    page = std::make_shared<Page>();
  } else if (page.use_count() > 1) {
    page = std::make_shared<Page>(*page);
  }
  return *page;
}

void FileContent::save(std::uint64_t page) {
  if (!keep_books_ || saved_.contains(page)) return;
  const auto it = pages_.find(page);
  saved_.emplace(page, it == pages_.end() ? std::nullopt : std::optional(it->second));
}

FileContent::Page* FileContent::writable(std::uint64_t page, bool overwritten_whole) {
  save(page);
  auto it = pages_.find(page);
  if (it == pages_.end()) {
    if (!space_->take()) return nullptr;
    it = pages_.emplace(page, nullptr).first;
  }
  if (overwritten_whole && it->second.use_count() > 1) it->second.reset();  // not worth a copy
  return &own(it->second);
}

void FileContent::drop_page(std::uint64_t page) {
  save(page);
  if (pages_.erase(page) != 0) space_->give_back(1);
}

void FileContent::zero_range(std::uint64_t at, std::uint64_t count) {
  if (count == 0) return;
  if (count / kPage > pages_.size()) {  // a huge range of a sparse file: look at what is there
    std::vector<std::uint64_t> inside;
    for (const auto& [page, unused] : pages_) {
      if (page * kPage + kPage > at && page * kPage < at + count) inside.push_back(page);
    }
    for (const std::uint64_t page : inside) {
      const std::uint64_t begin = std::max(at, page * kPage);
      zero_range(begin, std::min(at + count, page * kPage + kPage) - begin);
    }
    return;
  }
  for_each_piece(at, count, kPage, [&](std::uint64_t page, std::uint64_t within, std::uint64_t, std::uint64_t n) {
    const auto it = pages_.find(page);
    if (it == pages_.end()) return;
    if (n == kPage) return drop_page(page);
    save(page);
    if (it->second != nullptr) std::memset(own(it->second).data() + within, 0, n);
  });
}

void FileContent::cut_pages(std::uint64_t size) {
  zero_range(size, (size_ / kPage + 1) * kPage - size);
}

void FileContent::record(Change change) {
  if (!keep_books_) return;
  pending_bytes_ += change.bytes.size();
  pending_.push_back(std::move(change));
  if (pending_bytes_ > kMostPendingBytes) write_back_oldest();
}

void FileContent::write_back_oldest() {
  while (pending_bytes_ > kMostPendingBytes / 2) {
    apply(pending_.front());
    pending_bytes_ -= pending_.front().bytes.size();
    pending_.pop_front();
  }
}

void FileContent::durable_write(std::uint64_t at, std::span<const std::byte> bytes) {
  if (bytes.empty()) return;
  for_each_piece(at, bytes.size(), kPage,
                 [&](std::uint64_t page, std::uint64_t within, std::uint64_t done, std::uint64_t n) {
                   auto& saved = saved_.at(page);
                   if (!saved) saved = PagePointer{};
                   std::memcpy(own(*saved).data() + within, bytes.data() + done, n);
                 });
  durable_size_ = std::max(durable_size_, at + bytes.size());
}

void FileContent::durable_zero(std::uint64_t at, std::uint64_t count) {
  // Every page the range can have changed is among the saved ones; of the others there is nothing to zero.
  for (auto& [page, saved] : saved_) {
    const std::uint64_t begin = std::max(at, page * kPage);
    const std::uint64_t end = std::min(at + count, (page + 1) * kPage);
    if (begin >= end || !saved) continue;
    if (end - begin == kPage) {
      saved.reset();
    } else if (*saved != nullptr) {
      std::memset(own(*saved).data() + begin % kPage, 0, end - begin);
    }
  }
}

void FileContent::durable_resize(std::uint64_t size) {
  if (size < durable_size_) durable_zero(size, (durable_size_ / kPage + 1) * kPage - size);
  durable_size_ = size;
}

void FileContent::apply(const Change& change) {
  switch (change.kind) {
    case Change::Kind::write:
      return durable_write(change.at, change.bytes);
    case Change::Kind::zero:
      return durable_zero(change.at, change.count);
    case Change::Kind::resize:
      return durable_resize(change.at);
  }
}

/// Garbage replaces only bytes that were being written: a sector's other bytes are rewritten with what they were.
void FileContent::tear_sectors(const Change& change, Random& random) {
  enum : std::uint64_t { kept, dropped, cut, garbled, kOutcomes };
  const std::uint64_t outcome = random() % kOutcomes;
  const std::span<const std::byte> bytes(change.bytes);
  if (outcome == kept) return apply(change);
  // The size may have grown although the data never came.
  if (outcome != cut && random() % 2 == 0) durable_size_ = std::max(durable_size_, change.at + change.count);
  if (outcome == dropped) return;
  const std::uint64_t sectors = (change.at + change.count - 1) / kSector - change.at / kSector + 1;
  const std::uint64_t reached = random() % sectors;
  std::uint64_t number = 0;
  for_each_piece(change.at, change.count, kSector,
                 [&](std::uint64_t, std::uint64_t, std::uint64_t done, std::uint64_t n) {
                   const auto piece = bytes.subspan(static_cast<std::size_t>(done), static_cast<std::size_t>(n));
                   const std::uint64_t fate = outcome == cut ? (number++ < reached ? 0 : 1) : random() % 3;
                   if (fate == 0) durable_write(change.at + done, piece);
                   if (fate != 2) return;
                   std::vector<std::byte> garbage(piece.size());
                   for (std::byte& byte : garbage) byte = static_cast<std::byte>(random());
                   durable_write(change.at + done, garbage);
                 });
}

void FileContent::tear_blocks(const Change& change, Random& random) {
  const std::span<const std::byte> bytes(change.bytes);
  for_each_piece(
      change.at, change.count, kPage, [&](std::uint64_t, std::uint64_t, std::uint64_t done, std::uint64_t n) {
        if (random() % 2 == 0) return;
        durable_write(change.at + done, bytes.subspan(static_cast<std::size_t>(done), static_cast<std::size_t>(n)));
      });
}

void FileContent::restore_durable() {
  for (auto& [page, saved] : saved_) {
    const bool was = pages_.contains(page);
    if (saved) {
      if (!was) ++space_->used;  // even beyond the limit: it was there before
      pages_[page] = std::move(*saved);
    } else if (was) {
      pages_.erase(page);
      space_->give_back(1);
    }
  }
  size_ = durable_size_;
  saved_.clear();
  pending_.clear();
  pending_bytes_ = 0;
}

}  // namespace varve::test
