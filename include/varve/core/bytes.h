// Little-endian, fixed-width reading and writing of stored bytes. A reader never runs past its end: it turns
// "failed" for good and gives zeros, and the caller asks once, at the end.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <type_traits>
#include <vector>

namespace varve {

class ByteWriter {
 public:
  explicit ByteWriter(std::vector<std::byte>& out) : out_(out) {}
  template <std::unsigned_integral T>
  void put(T value) {
    for (std::size_t i = 0; i < sizeof(T); ++i) {
      out_.push_back(static_cast<std::byte>(static_cast<std::uint64_t>(value) >> (8 * i)));
    }
  }
  void put_bytes(std::span<const std::byte> bytes) { out_.insert(out_.end(), bytes.begin(), bytes.end()); }
  void put_text(std::string_view text) { put_bytes(std::as_bytes(std::span(text.data(), text.size()))); }
  [[nodiscard]] std::size_t size() const { return out_.size(); }

 private:
  std::vector<std::byte>& out_;
};

class ByteReader {
 public:
  explicit ByteReader(std::span<const std::byte> in) : in_(in) {}
  template <std::unsigned_integral T>
  T get() {
    if (!need(sizeof(T))) return T{0};
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < sizeof(T); ++i) {
      value |= static_cast<std::uint64_t>(in_[at_ + i]) << (8 * i);
    }
    at_ += sizeof(T);
    return static_cast<T>(value);
  }
  /// Empty when fewer than `count` bytes are left.
  std::span<const std::byte> get_bytes(std::size_t count) {
    if (!need(count)) return {};
    auto bytes = in_.subspan(at_, count);
    at_ += count;
    return bytes;
  }
  [[nodiscard]] std::size_t remaining() const { return failed_ ? 0 : in_.size() - at_; }
  [[nodiscard]] bool failed() const { return failed_; }
  /// All read, nothing missing, nothing left over.
  [[nodiscard]] bool finished() const { return !failed_ && at_ == in_.size(); }

 private:
  bool need(std::size_t count) {
    if (failed_ || in_.size() - at_ < count) failed_ = true;
    return !failed_;
  }
  std::span<const std::byte> in_;
  std::size_t at_ = 0;
  bool failed_ = false;
};

}  // namespace varve
