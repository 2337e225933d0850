#include "joining.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "varve/core/bytes.h"
#include "varve/core/same_bytes.h"

namespace varve::objects {
namespace {

using Bytes = std::vector<std::byte>;

constexpr std::uint64_t kBlock = 4096;
constexpr std::size_t kPart = 256 * kKiB;  ///< read and written at a time
/// Files of several that hold little are put together too: what is written again and again is bounded by this.
constexpr std::uint64_t kSmallFileShare = 4;   ///< less than a quarter of what a file may have
constexpr std::size_t kEnoughSmallFiles = 16;
/// A file is written only if it takes no more than this part of what is free: guests come first.
constexpr std::uint64_t kShareOfFree = 8;

std::uint64_t overhead_of(std::string_view name) {
  return 2 * (joined_format::kEntrySize + name.size()) + joined_format::kMarkSize;
}

/// Holes stay holes.
Status write_sparsely(os::File& file, std::uint64_t at, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    std::size_t count = std::min<std::uint64_t>(bytes.size(), kBlock - at % kBlock);
    const bool hole = count == kBlock && all_zero(bytes.first(count));
    while (!hole && count < bytes.size()) {
      const std::size_t next = std::min<std::size_t>(bytes.size() - count, kBlock);
      if (next == kBlock && all_zero(bytes.subspan(count, next))) break;
      count += next;
    }
    if (!hole) VARVE_TRY(file.write(ByteOffset{at}, bytes.first(count)));
    at += count;
    bytes = bytes.subspan(count);
  }
  return {};
}

JoinedFile as_written(const joined_format::Head& head, const std::vector<joined_format::Section>& sections) {
  JoinedFile file;
  file.head = head;
  for (const joined_format::Section& section : sections) {
    file.sections.push_back({section.offset, section.length, JoinedFile::Section::State::read});
    file.names.push_back(section.name);
  }
  return file;
}

}  // namespace

Joining::Joining(os::Storage& storage, JoinedFiles& files, const JoinOptions& options,
                 std::function<void(const std::string&)> forget)
    : storage_(storage),
      files_(files),
      options_(options),
      forget_(std::move(forget)),
      most_bytes_(options.file_bytes == 0 ? joined_format::kMostFileBytes
                                          : std::min(options.file_bytes, joined_format::kMostFileBytes)) {}

Result<Joined> Joining::run() {
  if (files_.distrusted()) {
    return fail_refused(EIO, "no files are joined until the store is opened anew: one may not be durable");
  }
  VARVE_TRY(clear_up());
  VARVE_TRY_ASSIGN(Sources sources, small_objects());
  add_files_to_write_anew(sources);
  std::ranges::sort(sources, {}, &Source::name);
  for (std::size_t begin = 0; begin < sources.size();) {
    std::uint64_t bytes = 2 * joined_format::kHeadSize;
    std::uint64_t table = 0;
    std::size_t end = begin;
    while (end < sources.size() && end - begin < joined_format::kMostSections) {
      const Source& next = sources[end];
      bytes += next.length + overhead_of(next.name);
      table += joined_format::kEntrySize + next.name.size();
      if (bytes > most_bytes_ || table > joined_format::kMostTableBytes) break;
      ++end;
    }
    if (end == begin) {
      ++begin;  // too large by itself
      continue;
    }
    VARVE_TRY_ASSIGN(const bool room, room_for(bytes));
    if (!room) break;
    const Status written = write(std::span(sources).subspan(begin, end - begin));
    if (!written && written.error().code == ECANCELED) break;
    VARVE_TRY(written);
    begin = end;
  }
  VARVE_TRY(remove_unread());
  return result_;
}

Status Joining::check_stop() const {
  if (options_.stop && options_.stop()) return fail(ECANCELED, ErrorKind::refused, "joining was stopped");
  return {};
}

/// The objects' own files. One that is no regular file is nothing to us.
Status Joining::for_each_own(const std::function<Status(const std::string&)>& visit) {
  const auto folders = storage_.list(options_.folder);
  if (!folders && folders.error().code == ENOENT) return {};
  VARVE_TRY(folders);
  for (const os::DirectoryEntry& folder : *folders) {
    if (folder.type != os::FileType::directory) continue;
    const std::string path = options_.folder + "/" + folder.name;
    VARVE_TRY_ASSIGN(const auto entries, storage_.list(path));
    for (const os::DirectoryEntry& entry : entries) {
      if (entry.type != os::FileType::regular || entry.name.starts_with(os::kTemporaryPrefix)) continue;
      VARVE_TRY(visit(path + "/" + entry.name));
    }
  }
  return {};
}

/// What is in a file of several was compared before that got its number.
Status Joining::clear_up() {
  Sources left;
  VARVE_TRY(for_each_own([&](const std::string& name) -> Status {
    if (const auto place = files_.find(name)) left.push_back({name, place->length, name, 0, true});
    return {};
  }));
  VARVE_TRY(remove_own(left));
  return remove_unread();
}

Result<Joining::Sources> Joining::small_objects() {
  Sources sources;
  VARVE_TRY(for_each_own([&](const std::string& name) -> Status {
    VARVE_TRY(check_stop());
    const auto status = storage_.status(name);
    if (!status && status.error().code == ENOENT) return {};
    VARVE_TRY(status);
    const std::uint64_t size = status->size.value();
    if (size == 0 || size > options_.small.value() || name.size() > joined_format::kMostNameBytes) return {};
    sources.push_back({name, size, name, 0, true});
    return {};
  }));
  if (sources.size() < options_.enough) sources.clear();
  return sources;
}

/// Those that are damaged in part, those of which most was removed, and small ones when they are many.
void Joining::add_files_to_write_anew(Sources& sources) {
  const auto files = files_.files();
  std::vector<std::uint64_t> chosen;
  std::vector<std::uint64_t> small;
  for (const auto& [number, file] : files) {
    if (file.read == 0) continue;
    if (file.half_damaged || file.read_bytes < file.head.marks_at / 2) {
      chosen.push_back(number);
    } else if (file.head.file_bytes < most_bytes_ / kSmallFileShare) {
      small.push_back(number);
    }
  }
  if (small.size() >= kEnoughSmallFiles) chosen.insert(chosen.end(), small.begin(), small.end());
  for (const std::uint64_t number : chosen) {
    const JoinedFile& file = files.at(number);
    for (std::size_t i = 0; i < file.sections.size(); ++i) {
      const JoinedFile::Section& section = file.sections[i];
      if (section.state != JoinedFile::Section::State::read) continue;
      sources.push_back(
          {file.names[i], section.length, joined_format::file_name(number), section.offset, false});
    }
  }
}

Result<bool> Joining::room_for(std::uint64_t bytes) {
  VARVE_TRY_ASSIGN(const os::Capacity capacity, storage_.capacity());
  return bytes <= capacity.available.value() / kShareOfFree;
}

Status Joining::write(std::span<const Source> sources) {
  VARVE_TRY(os::make_directories_durably(storage_, joined_format::kFolder));
  std::vector<joined_format::Section> sections;
  for (const Source& source : sources) {
    sections.push_back({source.name, static_cast<std::uint32_t>(source.length), 0});
  }
  const joined_format::Head head = joined_format::lay_out(sections);
  const std::uint64_t number = files_.next_number();
  const std::string temporary = std::string(joined_format::kFolder) + "/" + os::temporary_name();
  Status done;
  {
    VARVE_TRY_ASSIGN(const auto file, storage_.open(temporary, {.write = true, .create = true, .exclusive = true}));
    done = fill(*file, head, sections, sources);
  }
  if (done) done = storage_.link(temporary, joined_format::file_name(number));
  static_cast<void>(storage_.remove(temporary));
  VARVE_TRY(done);
  // From here on a start may find it: who removes an object must know of it, whether or not it is durable.
  files_.add(number, as_written(head, sections));
  if (const Status synced = storage_.sync_directory(joined_format::kFolder); !synced) {
    files_.distrust();
    return synced;
  }
  ++result_.files_made;
  result_.bytes_written += head.file_bytes;
  return remove_own(sources);
}

Status Joining::fill(os::File& file, const joined_format::Head& head,
                     const std::vector<joined_format::Section>& sections, std::span<const Source> sources) {
  VARVE_TRY(file.write(ByteOffset{0}, joined_format::put_head_and_table(head, sections, true)));
  for (std::size_t i = 0; i < sources.size(); ++i) {
    VARVE_TRY(check_stop());
    VARVE_TRY(read(sources[i], [&](std::uint64_t at, std::span<const std::byte> bytes) {
      return write_sparsely(file, sections[i].offset + at, bytes);
    }));
    if (options_.pace) options_.pace(sources[i].length);
  }
  // The marks have their space now, so that a removal needs none.
  const Bytes marks(joined_format::kMarkSize * sections.size());
  VARVE_TRY(file.write(ByteOffset{head.marks_at}, marks));
  VARVE_TRY(file.write(ByteOffset{head.marks_at + marks.size()}, joined_format::put_head_and_table(head, sections, false)));
  VARVE_TRY(file.sync_data());
  // With the bytes read once more: what a bad memory did to a copy would be right for ever.
  for (std::size_t i = 0; i < sources.size(); ++i) {
    VARVE_TRY(check_stop());
    VARVE_TRY(read(sources[i], [&](std::uint64_t at, std::span<const std::byte> bytes) -> Status {
      Bytes written(bytes.size());
      VARVE_TRY_ASSIGN(const std::size_t count, file.read(ByteOffset{sections[i].offset + at}, written));
      if (count == written.size() && same_bytes(written, bytes)) return {};
      return fail_damaged("a copy of " + sources[i].name + " differs: suspect this machine's memory or its medium");
    }));
  }
  return {};
}

Status Joining::read(const Source& source,
                     const std::function<Status(std::uint64_t, std::span<const std::byte>)>& visit) {
  VARVE_TRY_ASSIGN(const auto file, storage_.open(source.path, {}));
  Bytes bytes(std::min<std::uint64_t>(kPart, source.length));
  for (std::uint64_t at = 0; at < source.length; at += bytes.size()) {
    const auto part = std::span(bytes).first(std::min<std::uint64_t>(bytes.size(), source.length - at));
    VARVE_TRY_ASSIGN(const std::size_t count, file->read(ByteOffset{source.offset + at}, part));
    if (count != part.size()) return fail_damaged(source.path + " is cut");
    VARVE_TRY(visit(at, part));
  }
  return {};
}

Status Joining::remove_own(std::span<const Source> sources) {
  std::set<std::string, std::less<>> folders;
  for (const Source& source : sources) {
    if (!source.own) continue;
    const Status removed = storage_.remove(source.path);
    // After it: a reader could have opened the file again in between.
    forget_(source.path);
    if (!removed && removed.error().code != ENOENT) return removed;
    folders.emplace(os::parent_of(source.path));
    ++result_.objects;
    ++result_.files_removed;
  }
  for (const std::string& folder : folders) VARVE_TRY(storage_.sync_directory(folder));
  return {};
}

Status Joining::remove_unread() {
  VARVE_TRY_ASSIGN(const auto removed, files_.remove_unread());
  for (const std::uint64_t number : removed) forget_(joined_format::file_name(number));
  result_.files_removed += removed.size();
  return {};
}

}  // namespace varve::objects
