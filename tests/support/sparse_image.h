// What an image must hold: blocks that are not zeros, and a size. Copying one costs a pointer a block.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "varve/core/units.h"

namespace varve::test {

using Content = std::vector<std::byte>;
using Block = std::array<std::byte, kBlockSize>;

inline const Block kZeroBlock{};

class SparseImage {
 public:
  using Blocks = std::map<std::uint64_t, std::shared_ptr<const Block>>;

  [[nodiscard]] std::uint64_t size() const { return size_; }
  /// Those that are not all zeros.
  [[nodiscard]] const Blocks& blocks() const { return blocks_; }
  [[nodiscard]] const Block& block(std::uint64_t index) const {
    const auto it = blocks_.find(index);
    return it == blocks_.end() ? kZeroBlock : *it->second;
  }
  /// The very same blocks, not only equal ones: quick.
  [[nodiscard]] bool is(const SparseImage& other) const { return size_ == other.size_ && blocks_ == other.blocks_; }
  /// Whether every byte of [at, at + count) is zero.
  [[nodiscard]] bool zeros(std::uint64_t at, std::uint64_t count) const {
    if (count == 0) return true;
    for (auto it = blocks_.lower_bound(at / kBlockSize); it != blocks_.end() && it->first * kBlockSize < at + count;
         ++it) {
      const std::uint64_t begin = std::max(at, it->first * kBlockSize) - it->first * kBlockSize;
      const std::uint64_t end = std::min(at + count, (it->first + 1) * kBlockSize) - it->first * kBlockSize;
      for (std::uint64_t i = begin; i < end; ++i) {
        if ((*it->second)[static_cast<std::size_t>(i)] != std::byte{0}) return false;
      }
    }
    return true;
  }

  /// `count` bytes, zeros behind the end.
  [[nodiscard]] Content read(std::uint64_t at, std::uint64_t count) const {
    Content out(static_cast<std::size_t>(count));
    for (std::uint64_t done = 0; done < count;) {
      const std::uint64_t within = (at + done) % kBlockSize;
      const std::uint64_t length = std::min(kBlockSize - within, count - done);
      std::memcpy(out.data() + done, block((at + done) / kBlockSize).data() + within, static_cast<std::size_t>(length));
      done += length;
    }
    return out;
  }

  void write(std::uint64_t at, std::span<const std::byte> bytes) {
    put(at, bytes);
    if (!bytes.empty()) size_ = std::max(size_, at + bytes.size());
  }

  void zero(std::uint64_t at, std::uint64_t count) {
    const std::uint64_t end = std::min(at + count, size_);
    if (at >= end) return;
    const std::uint64_t first_whole = (at + kBlockSize - 1) / kBlockSize;
    const std::uint64_t last_whole = end / kBlockSize;
    if (first_whole < last_whole) {
      blocks_.erase(blocks_.lower_bound(first_whole), blocks_.lower_bound(last_whole));
    }
    const auto piece = [&](std::uint64_t from, std::uint64_t to) {
      if (from < to) put(from, Content(static_cast<std::size_t>(to - from)));
    };
    piece(at, std::min(end, first_whole * kBlockSize));
    piece(std::max(at, last_whole * kBlockSize), end);
  }

  void resize(std::uint64_t size) {
    if (size < size_) zero(size, size_ - size);
    size_ = size;
  }

 private:
  void put(std::uint64_t at, std::span<const std::byte> bytes) {
    for (std::uint64_t done = 0; done < bytes.size();) {
      const std::uint64_t index = (at + done) / kBlockSize;
      const std::uint64_t within = (at + done) % kBlockSize;
      const std::uint64_t length = std::min<std::uint64_t>(kBlockSize - within, bytes.size() - done);
      auto changed = std::make_shared<Block>(block(index));
      std::memcpy(changed->data() + within, bytes.data() + done, static_cast<std::size_t>(length));
      if (*changed == kZeroBlock) {
        blocks_.erase(index);
      } else {
        blocks_[index] = std::move(changed);
      }
      done += length;
    }
  }

  std::uint64_t size_ = 0;
  Blocks blocks_;
};

}  // namespace varve::test
