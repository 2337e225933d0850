// Bytes in pieces where somebody keeps them already, so that a read which is answered from a cache copies nothing.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <memory>
#include <span>
#include <utility>
#include <vector>

namespace varve {

/// Keeps what it shows. Whoever made the bytes changes them no more.
class ByteView {
 public:
  void add(std::span<const std::byte> bytes, std::shared_ptr<const void> keeper) {
    size_ += bytes.size();
    pieces_.push_back(bytes);
    keepers_.push_back(std::move(keeper));
  }
  void add_zeros(std::size_t count) {
    static constexpr std::array<std::byte, 64 * 1024> kZeros{};
    size_ += count;
    while (count > 0) {
      const std::size_t piece = std::min(count, kZeros.size());
      pieces_.push_back(std::span(kZeros).first(piece));
      count -= piece;
    }
  }

  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] std::span<const std::span<const std::byte>> pieces() const { return pieces_; }
  /// `out` has room for all of it.
  void copy_to(std::span<std::byte> out) const {
    for (const auto piece : pieces_) {
      if (!piece.empty()) std::memcpy(out.data(), piece.data(), piece.size());
      out = out.subspan(piece.size());
    }
  }

 private:
  std::size_t size_ = 0;
  std::vector<std::span<const std::byte>> pieces_;
  std::vector<std::shared_ptr<const void>> keepers_;
};

}  // namespace varve
