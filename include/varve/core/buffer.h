// Memory fit for O_DIRECT: aligned to 4 KiB, uninitialised, move-only. A pool hands out chunk-sized ones again.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>
#include <span>
#include <utility>
#include <vector>

#include "varve/core/sync.h"

namespace varve {

class AlignedBuffer {
 public:
  static constexpr std::size_t kAlignment = 4096;
  AlignedBuffer() = default;
  /// Throws std::bad_alloc when there is no memory.
  explicit AlignedBuffer(std::size_t size)
      : data_(static_cast<std::byte*>(::operator new(size, std::align_val_t{kAlignment}))), size_(size) {}
  [[nodiscard]] std::byte* data() { return data_.get(); }
  [[nodiscard]] const std::byte* data() const { return data_.get(); }
  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] std::span<std::byte> span() { return {data_.get(), size_}; }
  [[nodiscard]] std::span<const std::byte> span() const { return {data_.get(), size_}; }

 private:
  struct Free {
    void operator()(std::byte* p) const { ::operator delete(p, std::align_val_t{kAlignment}); }
  };
  std::unique_ptr<std::byte, Free> data_;
  std::size_t size_ = 0;
};

/// Keeps up to `keep` buffers of one size for reuse. Any thread.
class BufferPool {
 public:
  BufferPool(std::size_t buffer_size, std::size_t keep) : buffer_size_(buffer_size), keep_(keep) {}

  /// Returns its buffer to the pool when it goes; must not outlive the pool.
  class Lease {
   public:
    Lease(BufferPool& pool, AlignedBuffer buffer) : pool_(&pool), buffer_(std::move(buffer)) {}
    Lease(Lease&& other) noexcept : pool_(std::exchange(other.pool_, nullptr)), buffer_(std::move(other.buffer_)) {}
    Lease& operator=(Lease&&) = delete;
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    ~Lease() {
      if (pool_ != nullptr) pool_->give_back(std::move(buffer_));
    }
    [[nodiscard]] std::span<std::byte> span() { return buffer_.span(); }

   private:
    BufferPool* pool_;
    AlignedBuffer buffer_;
  };

  [[nodiscard]] Lease take() VARVE_EXCLUDES(mutex_) {
    {
      MutexLock lock(mutex_);
      if (!free_.empty()) {
        AlignedBuffer buffer = std::move(free_.back());
        free_.pop_back();
        return Lease(*this, std::move(buffer));
      }
    }
    return Lease(*this, AlignedBuffer(buffer_size_));
  }

 private:
  void give_back(AlignedBuffer buffer) VARVE_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    if (free_.size() < keep_) free_.push_back(std::move(buffer));
  }

  const std::size_t buffer_size_;
  const std::size_t keep_;
  Mutex mutex_;
  std::vector<AlignedBuffer> free_ VARVE_GUARDED_BY(mutex_);
};

}  // namespace varve
