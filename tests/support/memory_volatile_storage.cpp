#include "support/memory_volatile_storage.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <new>
#include <set>
#include <utility>

namespace varve::test {
namespace {

constexpr std::size_t kPage = 4096;

tl::unexpected<Error> fail_here(int code, std::string_view action, std::string_view name) {
  auto failure = fail_system(code, std::string(action) + " volatile:" + std::string(name));
  if (code == ENOENT) failure.value().kind = ErrorKind::absent;
  return failure;
}

std::size_t whole_pages(std::uint64_t size) {
  return static_cast<std::size_t>((size + kPage - 1) / kPage * kPage);
}

std::byte* map_forbidden(std::size_t length) {
  void* data = ::mmap(nullptr, length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) throw std::bad_alloc();
  return static_cast<std::byte*>(data);
}

}  // namespace

/// The content of one file. Two opens of one name share it, as two mappings of a tmpfs file do.
class MemoryVolatileStorage::Segment {
 public:
  Segment(std::uint64_t size, std::shared_ptr<std::atomic<std::uint64_t>> used,
          std::shared_ptr<std::atomic<std::uint64_t>> limit)
      : used_(std::move(used)), limit_(std::move(limit)), size_(size) {
    if (size != 0) data_ = map_forbidden(whole_pages(size));
  }
  ~Segment() {
    *used_ -= reserved_.size() * kPage;
    if (data_ != nullptr) ::munmap(data_, whole_pages(size_));
  }
  Segment(const Segment&) = delete;
  Segment& operator=(const Segment&) = delete;

  std::span<std::byte> bytes() VARVE_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    return {data_, static_cast<std::size_t>(size_)};
  }

  int reserve(std::uint64_t at, std::uint64_t count) VARVE_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    if (at > size_ || count > size_ - at) return EINVAL;
    for (std::uint64_t page = at / kPage; page * kPage < at + count; ++page) {
      if (reserved_.contains(page)) continue;
      if (used_->fetch_add(kPage) + kPage > *limit_) {
        *used_ -= kPage;
        return ENOSPC;
      }
      reserved_.insert(page);
      allow(page);
    }
    return 0;
  }

  std::vector<os::Extent> reserved() VARVE_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    std::vector<os::Extent> extents;
    for (const std::uint64_t page : reserved_) {
      const std::uint64_t begin = page * kPage;
      const std::uint64_t length = std::min<std::uint64_t>(kPage, size_ - begin);
      if (!extents.empty() && extents.back().begin + extents.back().length == ByteOffset{begin}) {
        extents.back().length += ByteCount{length};
      } else {
        extents.push_back({ByteOffset{begin}, ByteCount{length}});
      }
    }
    return extents;
  }

  /// Moves to a mapping of the new size, as the contract allows; a cut page's rest is zeroed.
  void resize(std::uint64_t size) VARVE_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    std::byte* const old = data_;
    const std::uint64_t old_size = std::exchange(size_, size);
    data_ = size != 0 ? map_forbidden(whole_pages(size)) : nullptr;
    for (auto it = reserved_.begin(); it != reserved_.end();) {
      const std::uint64_t begin = *it * kPage;
      if (begin >= size) {
        *used_ -= kPage;
        it = reserved_.erase(it);
        continue;
      }
      allow(*it);
      std::memcpy(data_ + begin, old + begin, std::min<std::uint64_t>(kPage, std::min(size, old_size) - begin));
      ++it;
    }
    if (old != nullptr) ::munmap(old, whole_pages(old_size));
  }

 private:
  void allow(std::uint64_t page) VARVE_REQUIRES(mutex_) {
    if (::mprotect(data_ + page * kPage, kPage, PROT_READ | PROT_WRITE) != 0) throw std::bad_alloc();
  }

  std::shared_ptr<std::atomic<std::uint64_t>> used_;
  std::shared_ptr<std::atomic<std::uint64_t>> limit_;
  Mutex mutex_;
  std::uint64_t size_ VARVE_GUARDED_BY(mutex_);
  std::byte* data_ VARVE_GUARDED_BY(mutex_) = nullptr;
  std::set<std::uint64_t> reserved_ VARVE_GUARDED_BY(mutex_);
};

namespace {

class MemoryMapping final : public os::SharedMemory {
 public:
  MemoryMapping(std::shared_ptr<CallGate> gate, std::shared_ptr<MemoryVolatileStorage::Segment> segment,
                std::string name)
      : gate_(std::move(gate)), segment_(std::move(segment)), name_(std::move(name)) {}

  std::span<std::byte> bytes() override { return segment_->bytes(); }

  Status reserve(ByteOffset at, ByteCount count) override {
    if (const auto answer = gate_->enter(Calls::changes, "reserve", name_); answer.code != 0) {
      return fail_here(answer.code, "reserve", name_);
    }
    const int code = segment_->reserve(at.value(), count.value());
    if (code != 0) return fail_here(code, "reserve", name_);
    return {};
  }

  Result<std::vector<os::Extent>> reserved() override { return segment_->reserved(); }

  Status resize(ByteCount size) override {
    if (const auto answer = gate_->enter(Calls::changes, "resize", name_); answer.code != 0) {
      return fail_here(answer.code, "resize", name_);
    }
    segment_->resize(size.value());
    return {};
  }

 private:
  std::shared_ptr<CallGate> gate_;
  std::shared_ptr<MemoryVolatileStorage::Segment> segment_;
  std::string name_;
};

}  // namespace

MemoryVolatileStorage::MemoryVolatileStorage() = default;
MemoryVolatileStorage::~MemoryVolatileStorage() = default;

Status MemoryVolatileStorage::enter(Calls kind, std::string_view action, std::string_view name) {
  const auto answer = gate_->enter(kind, action, name);
  if (answer.code != 0) return fail_here(answer.code, action, name);
  const bool needs_name = action != "list";
  if (needs_name && (!os::valid_path(name) || name.find('/') != std::string_view::npos)) {
    return fail_here(EINVAL, action, name);
  }
  return {};
}

Result<std::unique_ptr<os::SharedMemory>> MemoryVolatileStorage::open(std::string_view name, ByteCount size) {
  VARVE_TRY(enter(Calls::changes, "open", name));
  MutexLock lock(mutex_);
  auto& segment = segments_[std::string(name)];
  if (segment == nullptr) segment = std::make_shared<Segment>(size.value(), used_, limit_);
  if (segment->bytes().empty()) segment->resize(size.value());
  return std::make_unique<MemoryMapping>(gate_, segment, std::string(name));
}

Result<std::unique_ptr<os::SharedMemory>> MemoryVolatileStorage::open_existing(std::string_view name) {
  VARVE_TRY(enter(Calls::reads, "open", name));
  MutexLock lock(mutex_);
  const auto it = segments_.find(name);
  if (it == segments_.end()) return fail_here(ENOENT, "open", name);
  return std::make_unique<MemoryMapping>(gate_, it->second, std::string(name));
}

Result<std::vector<std::string>> MemoryVolatileStorage::list() {
  VARVE_TRY(enter(Calls::reads, "list", ""));
  MutexLock lock(mutex_);
  std::vector<std::string> names;
  for (const auto& [name, segment] : segments_) names.push_back(name);
  return names;
}

Status MemoryVolatileStorage::remove(std::string_view name) {
  VARVE_TRY(enter(Calls::changes, "remove", name));
  MutexLock lock(mutex_);
  const auto it = segments_.find(name);
  if (it == segments_.end()) return fail_here(ENOENT, "remove", name);
  segments_.erase(it);
  return {};
}

Status MemoryVolatileStorage::rename(std::string_view from, std::string_view to) {
  VARVE_TRY(enter(Calls::changes, "rename", from));
  VARVE_TRY(enter(Calls::reads, "rename", to));
  MutexLock lock(mutex_);
  const auto it = segments_.find(from);
  if (it == segments_.end()) return fail_here(ENOENT, "rename", from);
  if (from == to) return {};
  auto segment = std::move(it->second);
  segments_.erase(it);
  segments_.insert_or_assign(std::string(to), std::move(segment));
  return {};
}

void MemoryVolatileStorage::copy_to(MemoryVolatileStorage& other) {
  MutexLock lock(mutex_);
  MutexLock other_lock(other.mutex_);
  other.segments_.clear();
  *other.limit_ = limit_->load();
  other.gate_->clear();
  for (const auto& [name, segment] : segments_) {
    const auto bytes = segment->bytes();
    auto copy = std::make_shared<Segment>(bytes.size(), other.used_, other.limit_);
    for (const os::Extent& extent : segment->reserved()) {
      if (copy->reserve(extent.begin.value(), extent.length.value()) != 0) throw std::bad_alloc();
      std::memcpy(copy->bytes().data() + extent.begin.value(), bytes.data() + extent.begin.value(),
                  static_cast<std::size_t>(extent.length.value()));
    }
    other.segments_.emplace(name, std::move(copy));
  }
}

void MemoryVolatileStorage::lose_power() {
  MutexLock lock(mutex_);
  segments_.clear();
  gate_->clear();
}

}  // namespace varve::test
