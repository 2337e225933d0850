// What a file that holds several objects looks like. Every byte of it is written and read here and in joined_format.cpp.
// Integers are little-endian and of fixed width; reserved bytes are written as zero and refused when they are not.
//
//     joined/NUMBER            NUMBER: at least 10 decimal digits, never used again while anybody has the file open
//
//     0         64             64 + T                     M             M + 8 n      M + 8 n + T     + 64
//     +---------+--------------+---------- ... -----------+-------------+--------------+-------------+
//     | head 64 | table, T     | sections, back to back   | marks, 8 n  | table again  | head again  |
//     +---------+--------------+---------- ... -----------+-------------+--------------+-------------+
//
//     head     0   8  magic "VARVEJN1"
//              8   2  version, 1
//             10   6  reserved
//             16   4  n, number of sections, from 1 to 16,384
//             20   4  T, length of the table, at most 1 MiB
//             24   8  M, offset of the marks
//             32   8  length of the file, at most 64 MiB
//             40   8  reserved
//             48  16  digest of the head's bytes 0 ... 47 followed by the table
//
//     entry    0   4  length of the section, at least 1
//              4   2  m, length of the name, from 1 to 255
//              6   m  name of the object that the section is, byte for byte; names ascend
//
//     mark     0   8  the first half of the digest of the name, an integer: the object was removed, and the section's bytes
//                     may be holes; anything else: it is there
//
// The marks alone are ever changed, each once. No checksum covers them, but no decay makes one of nothing: what is not
// exactly the mark is none. The table is there twice, for without it a lot would be lost; each of the two is enough.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "varve/core/result.h"
#include "varve/core/units.h"

namespace varve::objects::joined_format {

constexpr std::string_view kFolder = "joined";
constexpr std::size_t kHeadSize = 64;
constexpr std::size_t kMarkSize = 8;
constexpr std::size_t kEntrySize = 6;  ///< and the name
constexpr std::uint32_t kMostSections = 16384;
constexpr std::uint32_t kMostTableBytes = 1 * kMiB;
constexpr std::size_t kMostNameBytes = 255;
constexpr std::uint64_t kMostFileBytes = 64 * kMiB;

struct Section {
  std::string name;
  std::uint32_t length = 0;
  std::uint64_t offset = 0;  ///< in the file; follows from the others
};

/// Head without its checksum.
struct Head {
  std::uint32_t sections = 0;
  std::uint32_t table_bytes = 0;
  std::uint64_t marks_at = 0;
  std::uint64_t file_bytes = 0;
};

[[nodiscard]] std::string file_name(std::uint64_t number);
/// Of a file found in the folder; nothing for any other name.
[[nodiscard]] std::optional<std::uint64_t> parse_file_name(std::string_view name);

/// What the file will be; gives the sections their offsets. They ascend by name and are within the bounds above.
[[nodiscard]] Head lay_out(std::vector<Section>& sections);
/// Head and table, `begin` in the order of the file's beginning, else of its end.
[[nodiscard]] std::vector<std::byte> put_head_and_table(const Head& head, std::span<const Section> sections, bool begin);
[[nodiscard]] std::uint64_t mark_of(std::string_view name);

/// EIO (damaged) unless it can be the head of a file of this size.
[[nodiscard]] Result<Head> get_head(std::span<const std::byte> bytes, std::uint64_t file_bytes);
/// EIO (damaged) when the checksum or any entry is wrong: what it returns fills the space before the marks.
[[nodiscard]] Result<std::vector<Section>> get_table(const Head& head, std::span<const std::byte> head_bytes,
                                                     std::span<const std::byte> table);

}  // namespace varve::objects::joined_format
