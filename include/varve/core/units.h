// Strong types for everything that must not be mixed, and the one place where they are converted.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>

namespace varve {

/// An integer with a meaning. Explicit in, explicit out (`value()`); only like compares with like.
template <class Tag>
class Strong {
 public:
  constexpr Strong() = default;
  constexpr explicit Strong(std::uint64_t value) : value_(value) {}
  [[nodiscard]] constexpr std::uint64_t value() const { return value_; }
  friend constexpr auto operator<=>(Strong, Strong) = default;

 private:
  std::uint64_t value_ = 0;
};

using ByteOffset = Strong<struct ByteOffsetTag>;  ///< position in a file or image, in bytes
using ByteCount = Strong<struct ByteCountTag>;    ///< length in bytes
using ChunkIndex = Strong<struct ChunkIndexTag>;  ///< position of a chunk in an image
using ChunkCount = Strong<struct ChunkCountTag>;  ///< number of chunks
using SnapshotId = Strong<struct SnapshotIdTag>;  ///< grows within a disk, never reused; 0 = none
using DiskId = Strong<struct DiskIdTag>;          ///< grows within a store, never reused; 0 = none
using PackId = Strong<struct PackIdTag>;          ///< random, unique in a store; 0 = none
using Incarnation = Strong<struct IncarnationTag>;  ///< counts live images a disk has had; 0 = never one

constexpr ByteOffset operator+(ByteOffset a, ByteCount b) { return ByteOffset{a.value() + b.value()}; }
constexpr ByteCount operator-(ByteOffset a, ByteOffset b) { return ByteCount{a.value() - b.value()}; }
constexpr ByteCount operator+(ByteCount a, ByteCount b) { return ByteCount{a.value() + b.value()}; }
constexpr ByteCount operator-(ByteCount a, ByteCount b) { return ByteCount{a.value() - b.value()}; }
constexpr ChunkIndex operator+(ChunkIndex a, ChunkCount b) { return ChunkIndex{a.value() + b.value()}; }
constexpr ChunkCount operator-(ChunkIndex a, ChunkIndex b) { return ChunkCount{a.value() - b.value()}; }
constexpr ChunkCount operator+(ChunkCount a, ChunkCount b) { return ChunkCount{a.value() + b.value()}; }
constexpr ChunkCount operator-(ChunkCount a, ChunkCount b) { return ChunkCount{a.value() - b.value()}; }
constexpr ByteOffset& operator+=(ByteOffset& a, ByteCount b) { return a = a + b; }
constexpr ByteCount& operator+=(ByteCount& a, ByteCount b) { return a = a + b; }
constexpr ByteCount& operator-=(ByteCount& a, ByteCount b) { return a = a - b; }
constexpr ChunkIndex& operator+=(ChunkIndex& a, ChunkCount b) { return a = a + b; }
constexpr ChunkCount& operator+=(ChunkCount& a, ChunkCount b) { return a = a + b; }
constexpr ByteCount operator-(ByteCount a, ByteOffset b) = delete;

constexpr std::uint64_t kKiB = 1024;
constexpr std::uint64_t kMiB = 1024 * kKiB;
constexpr std::uint64_t kGiB = 1024 * kMiB;
constexpr std::uint64_t kTiB = 1024 * kGiB;

/// The grain of change tracking.
constexpr std::uint64_t kBlockSize = 4 * kKiB;
constexpr std::uint64_t kMinChunkSize = 16 * kKiB;
constexpr std::uint64_t kMaxChunkSize = 4 * kMiB;
constexpr std::uint64_t kDefaultChunkSize = 64 * kKiB;
/// A chunk map has four levels of 256 (chunks/chunk_map.h): no image has more chunks than this.
constexpr std::uint64_t kMaxChunksPerImage = std::uint64_t{1} << 32;

/// All arithmetic between bytes, blocks and chunks of one store. A value; free to copy.
class Geometry {
 public:
  /// `chunk_size` must satisfy valid_chunk_size().
  constexpr explicit Geometry(ByteCount chunk_size) : chunk_size_(chunk_size.value()) {}
  /// A power of two from 16 KiB to 4 MiB.
  static constexpr bool valid_chunk_size(std::uint64_t size) {
    return size >= kMinChunkSize && size <= kMaxChunkSize && (size & (size - 1)) == 0;
  }

  [[nodiscard]] constexpr ByteCount chunk_size() const { return ByteCount{chunk_size_}; }
  [[nodiscard]] constexpr std::size_t chunk_bytes() const { return static_cast<std::size_t>(chunk_size_); }
  [[nodiscard]] constexpr std::uint64_t blocks_per_chunk() const { return chunk_size_ / kBlockSize; }
  [[nodiscard]] constexpr ChunkIndex chunk_of(ByteOffset at) const { return ChunkIndex{at.value() / chunk_size_}; }
  [[nodiscard]] constexpr ByteOffset start_of(ChunkIndex chunk) const {
    return ByteOffset{chunk.value() * chunk_size_};
  }
  /// Where in its chunk an offset lies.
  [[nodiscard]] constexpr std::size_t within_chunk(ByteOffset at) const {
    return static_cast<std::size_t>(at.value() % chunk_size_);
  }
  /// Chunks needed to hold `size` bytes; the last may be partial.
  [[nodiscard]] constexpr ChunkCount chunks_in(ByteCount size) const {
    return ChunkCount{size.value() / chunk_size_ + (size.value() % chunk_size_ != 0 ? 1 : 0)};
  }
  [[nodiscard]] constexpr ByteCount bytes_in(ChunkCount chunks) const {
    return ByteCount{chunks.value() * chunk_size_};
  }
  [[nodiscard]] constexpr ByteCount max_image_size() const { return ByteCount{chunk_size_ * kMaxChunksPerImage}; }
  friend constexpr bool operator==(Geometry, Geometry) = default;

 private:
  std::uint64_t chunk_size_;
};

}  // namespace varve

template <class Tag>
struct std::hash<varve::Strong<Tag>> {
  std::size_t operator()(varve::Strong<Tag> v) const noexcept { return std::hash<std::uint64_t>{}(v.value()); }
};
