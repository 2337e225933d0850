#include "joined_format.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "varve/core/digest_bytes.h"
#include "varve/core/same_bytes.h"
#include "varve/os/storage.h"

namespace varve::objects::joined_format {
namespace {

constexpr std::string_view kMagic = "VARVEJN1";
constexpr std::uint16_t kVersion = 1;
constexpr std::size_t kCheckedHeadBytes = kHeadSize - kDigestSize;
constexpr std::size_t kNumberDigits = 10;

std::span<const std::byte> as_bytes(std::string_view text) { return std::as_bytes(std::span(text.data(), text.size())); }

Digest checksum(std::span<const std::byte> head, std::span<const std::byte> table) {
  std::vector<std::byte> bytes(head.begin(), head.begin() + kCheckedHeadBytes);
  bytes.insert(bytes.end(), table.begin(), table.end());
  return digest_of(bytes);
}

bool possible_name(std::string_view name) {
  return os::valid_path(name) && !os::leaf_of(name).starts_with(os::kTemporaryPrefix);
}

}  // namespace

std::string file_name(std::uint64_t number) { return fmt::format("{}/{:010}", kFolder, number); }

std::optional<std::uint64_t> parse_file_name(std::string_view name) {
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number, 10);
  const bool whole = error == std::errc{} && end == name.data() + name.size();
  const bool canonical = name.size() == kNumberDigits || (name.size() > kNumberDigits && name.front() != '0');
  // Room for those that come after it.
  if (!whole || !canonical || number > UINT64_MAX / 2) return std::nullopt;
  return number;
}

Head lay_out(std::vector<Section>& sections) {
  Head head;
  head.sections = static_cast<std::uint32_t>(sections.size());
  for (const Section& section : sections) {
    head.table_bytes += static_cast<std::uint32_t>(kEntrySize + section.name.size());
  }
  head.marks_at = kHeadSize + head.table_bytes;
  for (Section& section : sections) {
    section.offset = head.marks_at;
    head.marks_at += section.length;
  }
  head.file_bytes = head.marks_at + kMarkSize * sections.size() + head.table_bytes + kHeadSize;
  return head;
}

std::vector<std::byte> put_head_and_table(const Head& head, std::span<const Section> sections, bool begin) {
  std::vector<std::byte> table;
  ByteWriter entries(table);
  for (const Section& section : sections) {
    entries.put(section.length);
    entries.put(static_cast<std::uint16_t>(section.name.size()));
    entries.put_text(section.name);
  }
  std::vector<std::byte> bytes;
  ByteWriter out(bytes);
  out.put_text(kMagic);
  out.put(kVersion);
  out.put(std::uint16_t{0});
  out.put(std::uint32_t{0});
  out.put(head.sections);
  out.put(head.table_bytes);
  out.put(head.marks_at);
  out.put(head.file_bytes);
  out.put(std::uint64_t{0});
  put_digest(out, checksum(bytes, table));
  bytes.insert(begin ? bytes.end() : bytes.begin(), table.begin(), table.end());
  return bytes;
}

std::uint64_t mark_of(std::string_view name) { return digest_of(as_bytes(name)).high; }

Result<Head> get_head(std::span<const std::byte> bytes, std::uint64_t file_bytes) {
  ByteReader in(bytes);
  Head head;
  const bool magic = std::ranges::equal(in.get_bytes(kMagic.size()), as_bytes(kMagic));
  const auto version = in.get<std::uint16_t>();
  const bool reserved = all_zero(in.get_bytes(6));
  head.sections = in.get<std::uint32_t>();
  head.table_bytes = in.get<std::uint32_t>();
  head.marks_at = in.get<std::uint64_t>();
  head.file_bytes = in.get<std::uint64_t>();
  const bool more_reserved = in.get<std::uint64_t>() == 0;
  (void)get_digest(in);
  if (!magic || !in.finished()) return fail_damaged("it is no file of several objects");
  if (version != kVersion) return fail_damaged(fmt::format("version {} of joined files is not known here", version));
  const std::uint64_t sections = head.sections;
  const bool fits = reserved && more_reserved && sections >= 1 && sections <= kMostSections &&
                    head.table_bytes >= sections * (kEntrySize + 1) && head.table_bytes <= kMostTableBytes &&
                    head.file_bytes == file_bytes && file_bytes <= kMostFileBytes &&
                    head.marks_at >= kHeadSize + head.table_bytes + sections && head.marks_at <= file_bytes &&
                    file_bytes - head.marks_at == kMarkSize * sections + head.table_bytes + kHeadSize;
  if (!fits) return fail_damaged("its head is damaged");
  return head;
}

Result<std::vector<Section>> get_table(const Head& head, std::span<const std::byte> head_bytes,
                                       std::span<const std::byte> table) {
  if (table.size() != head.table_bytes || head_bytes.size() != kHeadSize) return fail_damaged("its table is cut");
  ByteReader stated(head_bytes.subspan(kCheckedHeadBytes));
  if (checksum(head_bytes, table) != get_digest(stated)) return fail_damaged("its table does not match its checksum");
  std::vector<Section> sections;
  sections.reserve(head.sections);
  ByteReader in(table);
  std::uint64_t offset = kHeadSize + head.table_bytes;
  for (std::uint32_t i = 0; i < head.sections; ++i) {
    Section& section = sections.emplace_back();
    section.length = in.get<std::uint32_t>();
    const std::size_t name_bytes = in.get<std::uint16_t>();
    const auto name = in.get_bytes(name_bytes);
    section.name.assign(reinterpret_cast<const char*>(name.data()), name.size());
    section.offset = offset;
    const bool fits = !in.failed() && section.length >= 1 && section.length <= head.marks_at - offset &&
                      name_bytes >= 1 && name_bytes <= kMostNameBytes && possible_name(section.name) &&
                      (i == 0 || sections[i - 1].name < section.name);
    if (!fits) return fail_damaged(fmt::format("entry {} of its table is impossible", i));
    offset += section.length;
  }
  if (!in.finished() || offset != head.marks_at) return fail_damaged("its table does not fill it");
  return sections;
}

}  // namespace varve::objects::joined_format
