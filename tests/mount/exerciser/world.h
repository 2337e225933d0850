// What a disk holds as far as its exerciser knows: the bytes of the live image and of each snapshot; and the operations
// that change it. The worker does them on a mount and on its World; the checker does them on a World alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace exerciser {

/// The grain of DESIGN's promise: after a power loss each block is old or new.
constexpr std::size_t kBlock = 4096;

/// Bytes beyond size are zero, so that images of different sizes compare.
struct Image {
  std::uint64_t size = 0;
  std::vector<std::byte> bytes;  ///< always the capacity
};

enum class Kind {
  write,
  read,
  read_mapped,
  truncate,
  punch,
  zero,
  copy_within,   ///< copy_file_range of the live image to itself
  copy_from,     ///< copy_file_range of a snapshot
  sync,
  take,          ///< mkdir of a snapshot
  remove,        ///< rmdir
  rename,
  restore,       ///< `varve restore`
};

struct Operation {
  Kind kind = Kind::read;
  std::uint64_t at = 0;
  std::uint64_t size = 0;
  std::uint64_t from = 0;  ///< where a copy reads
  std::uint64_t seed = 0;  ///< of the bytes of a write
  bool direct = false;     ///< O_DIRECT
  std::string name;
  std::string new_name;
};

/// Whether a reply of it promises something that survives a power loss.
[[nodiscard]] bool is_barrier(const Operation& operation);
/// Whether it makes the live image of before, whatever was synced, impossible after a power loss.
[[nodiscard]] bool makes_live_durable(const Operation& operation);
[[nodiscard]] std::string describe(const Operation& operation);

/// A snapshot whose bytes nobody needs to know is null.
using Snapshots = std::map<std::string, std::shared_ptr<const Image>>;

struct World {
  Image live;
  Snapshots snapshots;
};

/// The bytes that a write with this seed puts at [at, at + size): no two writes have a block in common.
void fill(std::byte* out, std::uint64_t seed, std::uint64_t at, std::uint64_t size);

/// The blocks of the live image that an operation may change: [first, last).
struct Blocks {
  std::uint64_t first = 0;
  std::uint64_t last = 0;
};
[[nodiscard]] Blocks changed_blocks(const World& world, const Operation& operation);
/// Does it to the live image. A restored or copied snapshot's bytes must be known.
void apply_to_live(Image& live, const Snapshots& snapshots, const Operation& operation);
/// Does it to the names of snapshots; a taken one has these bytes.
void apply_to_snapshots(Snapshots& snapshots, const Operation& operation, std::shared_ptr<const Image> taken);

/// What was found at the end of the last check: DIRECTORY/live and DIRECTORY/snapshot.NAME. Without the directory: an
/// image of zeros of this capacity.
[[nodiscard]] World load(const std::string& directory, std::uint64_t capacity);
void save(const World& world, const std::string& directory);
[[nodiscard]] Image read_image(const std::string& path, std::uint64_t capacity);

/// Ends the program: a mistake in its use, or the machine's.
[[noreturn]] void give_up(const std::string& sentence);

}  // namespace exerciser
