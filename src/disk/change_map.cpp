#include "change_map.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstring>

namespace varve::disk {
namespace {

// Header page: magic u64, number u64, all-changed u64; the rest zeros.
constexpr std::uint64_t kMagic = 0x3130504D45565241;
constexpr std::size_t kWordBits = 64;
constexpr std::uint64_t kPageWords = kMapPageBytes / 8;

std::uint64_t pages_for(std::uint64_t blocks) {
  return (blocks + ChangeMap::kPageBlocks - 1) / ChangeMap::kPageBlocks;
}

std::atomic_ref<std::uint64_t> word_at(os::SharedMemory& memory, std::uint64_t byte) {
  return std::atomic_ref<std::uint64_t>(*reinterpret_cast<std::uint64_t*>(memory.bytes().data() + byte));
}

/// Null when memory is short.
Result<std::unique_ptr<os::SharedMemory>> make_memory(os::VolatileStorage& storage, const std::string& name,
                                                      ByteCount size) {
  const auto short_of_memory = [](const Error& error) { return error.code == ENOSPC || error.code == ENOMEM; };
  auto memory = storage.open(name, size);
  if (!memory) {
    if (short_of_memory(memory.error())) return nullptr;
    return memory;
  }
  if (auto reserved = (*memory)->reserve(ByteOffset{0}, ByteCount{kMapPageBytes}); !reserved) {
    if (short_of_memory(reserved.error())) return nullptr;
    return tl::unexpected(std::move(reserved).error());
  }
  return memory;
}

}  // namespace

ChangeMap::ChangeMap(std::unique_ptr<os::SharedMemory> memory, std::uint64_t number)
    : memory_(std::move(memory)), number_(number) {}

void ChangeMap::size_up(std::uint64_t pages) {
  auto larger = std::make_unique<std::atomic<bool>[]>(pages);
  for (std::uint64_t i = 0; i < pages; ++i) larger[i] = i < pages_ && reserved_[i].load();
  reserved_ = std::move(larger);
  pages_ = pages;
}

Result<std::shared_ptr<ChangeMap>> ChangeMap::create(os::VolatileStorage& storage, const std::string& name,
                                                     std::uint64_t number, std::uint64_t blocks) {
  if (auto removed = storage.remove(name); !removed && removed.error().code != ENOENT) {
    return tl::unexpected(std::move(removed).error());
  }
  const std::uint64_t pages = pages_for(blocks);
  VARVE_TRY_ASSIGN(auto memory, make_memory(storage, name, ByteCount{(1 + pages) * kMapPageBytes}));
  if (memory == nullptr) {
    std::shared_ptr<ChangeMap> map(new ChangeMap(nullptr, number));
    map->all_ = true;
    return map;
  }
  word_at(*memory, 0) = kMagic;
  word_at(*memory, 8) = number;
  word_at(*memory, 16) = 0;
  std::shared_ptr<ChangeMap> map(new ChangeMap(std::move(memory), number));
  map->size_up(pages);
  return map;
}

Result<std::shared_ptr<ChangeMap>> ChangeMap::adopt(os::VolatileStorage& storage, const std::string& name,
                                                    std::uint64_t number) {
  VARVE_TRY_ASSIGN(auto memory, storage.open_existing(name));
  VARVE_TRY_ASSIGN(const auto extents, memory->reserved());
  const std::size_t size = memory->bytes().size();
  const bool has_header = size >= kMapPageBytes && !extents.empty() && extents.front().begin == ByteOffset{0};
  if (!has_header || word_at(*memory, 0) != kMagic || word_at(*memory, 8) != number) {
    return fail_damaged("the change map " + name + " is not one");
  }
  std::shared_ptr<ChangeMap> map(new ChangeMap(std::move(memory), number));
  map->size_up(size / kMapPageBytes - 1);
  map->all_ = word_at(*map->memory_, 16) != 0;
  for (const auto& extent : extents) {
    std::uint64_t page = std::max<std::uint64_t>(extent.begin.value() / kMapPageBytes, 1);
    const std::uint64_t end = std::min((extent.begin + extent.length).value() / kMapPageBytes, map->pages_ + 1);
    for (; page < end; ++page) {
      map->reserved_[page - 1] = true;
      std::uint64_t marked = 0;
      for (std::uint64_t w = 0; w < kPageWords; ++w) {
        marked += static_cast<std::uint64_t>(std::popcount(map->load_word((page - 1) * kPageWords + w)));
      }
      map->marked_ += marked;
    }
  }
  return map;
}

Status ChangeMap::set_blocks(std::uint64_t blocks) {
  const std::uint64_t pages = pages_for(blocks);
  if (pages <= pages_ || memory_ == nullptr) return {};
  VARVE_TRY(memory_->resize(ByteCount{(1 + pages) * kMapPageBytes}));
  size_up(pages);
  return {};
}

std::uint64_t ChangeMap::load_word(std::uint64_t index) const {
  return word_at(*memory_, kMapPageBytes + index * 8).load(std::memory_order_relaxed);
}

void ChangeMap::mark_word(std::uint64_t index, std::uint64_t bits) {
  auto word = word_at(*memory_, kMapPageBytes + index * 8);
  if ((word.load(std::memory_order_relaxed) & bits) == bits) return;
  const std::uint64_t before = word.fetch_or(bits, std::memory_order_relaxed);
  marked_.fetch_add(static_cast<std::uint64_t>(std::popcount(bits & ~before)), std::memory_order_relaxed);
}

bool ChangeMap::reserve(std::uint64_t page) {
  if (is_reserved(page)) return true;
  MutexLock lock(reserve_mutex_);
  if (reserved_[page]) return true;
  if (!memory_->reserve(ByteOffset{(1 + page) * kMapPageBytes}, ByteCount{kMapPageBytes})) return false;
  reserved_[page].store(true, std::memory_order_release);
  return true;
}

void ChangeMap::mark_all() {
  if (memory_ != nullptr) word_at(*memory_, 16) = 1;
  all_ = true;
}

void ChangeMap::mark(std::uint64_t first, std::uint64_t count) {
  const std::uint64_t end = first + count;
  if (end > pages_ * kPageBlocks) return mark_all();
  for (std::uint64_t at = first; at < end;) {
    if (!reserve(at / kPageBlocks)) return mark_all();
    const std::uint64_t bit = at % kWordBits;
    const std::uint64_t run = std::min(kWordBits - bit, end - at);
    const std::uint64_t ones = run == kWordBits ? ~std::uint64_t{0} : ((std::uint64_t{1} << run) - 1);
    mark_word(at / kWordBits, ones << bit);
    at += run;
  }
}

bool ChangeMap::any(std::uint64_t first, std::uint64_t count) const {
  return next(first, first + count, true) < first + count;
}

std::uint64_t ChangeMap::next(std::uint64_t from, std::uint64_t end, bool marked) const {
  while (from < end) {
    const std::uint64_t page = from / kPageBlocks;
    if (!is_reserved(page)) {
      if (!marked) return from;
      from = (page + 1) * kPageBlocks;
      continue;
    }
    std::uint64_t word = load_word(from / kWordBits);
    if (!marked) word = ~word;
    word &= ~std::uint64_t{0} << (from % kWordBits);
    if (word != 0)
      return std::min(end, from / kWordBits * kWordBits + static_cast<std::uint64_t>(std::countr_zero(word)));
    from = (from / kWordBits + 1) * kWordBits;
  }
  return end;
}

const std::byte* ChangeMap::page(std::uint64_t index) const {
  return is_reserved(index) ? memory_->bytes().data() + (1 + index) * kMapPageBytes : nullptr;
}

void ChangeMap::load_page(std::uint64_t index, std::span<const std::byte> bits) {
  if (index >= pages_ || !reserve(index)) return mark_all();
  for (std::uint64_t w = 0; w < kPageWords; ++w) {
    std::uint64_t word = 0;
    std::memcpy(&word, bits.data() + w * 8, 8);
    if (word != 0) mark_word(index * kPageWords + w, word);
  }
}

std::string map_name_prefix(DiskId disk) { return fmt::format("disk-{}.changes.", disk.value()); }
std::string map_name(DiskId disk, std::uint64_t number) { return map_name_prefix(disk) + std::to_string(number); }
std::string witness_name(DiskId disk) { return fmt::format("disk-{}.witness", disk.value()); }

std::optional<std::uint64_t> map_number(DiskId disk, std::string_view name) {
  const std::string prefix = map_name_prefix(disk);
  if (!name.starts_with(prefix)) return std::nullopt;
  std::uint64_t number = 0;
  const char* end = name.data() + name.size();
  const auto [rest, problem] = std::from_chars(name.data() + prefix.size(), end, number);
  if (problem != std::errc{} || rest != end) return std::nullopt;
  return number;
}

}  // namespace varve::disk
