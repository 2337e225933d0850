#include "joined_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "foreign_entry.h"
#include "varve/core/bytes.h"
#include "varve/core/log.h"

namespace varve::objects {
namespace {

using joined_format::Head;
using Bytes = std::vector<std::byte>;
using State = JoinedFile::Section::State;

constexpr std::uint64_t kBlock = 4096;  ///< of filesystems: what a hole is made of

Result<Bytes> read_part(const os::File& file, std::uint64_t at, std::size_t count) {
  Bytes bytes(count);
  VARVE_TRY_ASSIGN(const std::size_t got, file.read(ByteOffset{at}, bytes));
  if (got != count) return fail_damaged("it is cut");
  return bytes;
}

struct Tables {
  Head head;
  std::vector<joined_format::Section> sections;
};

/// From its beginning, or its end.
Result<Tables> read_table(const os::File& file, std::uint64_t file_bytes, bool begin) {
  if (file_bytes < 2 * joined_format::kHeadSize) return fail_damaged("it is cut");
  const std::uint64_t head_at = begin ? 0 : file_bytes - joined_format::kHeadSize;
  VARVE_TRY_ASSIGN(const Bytes head_bytes, read_part(file, head_at, joined_format::kHeadSize));
  VARVE_TRY_ASSIGN(const Head head, joined_format::get_head(head_bytes, file_bytes));
  const std::uint64_t table_at = begin ? joined_format::kHeadSize : head_at - head.table_bytes;
  VARVE_TRY_ASSIGN(const Bytes table, read_part(file, table_at, head.table_bytes));
  VARVE_TRY_ASSIGN(auto sections, joined_format::get_table(head, head_bytes, table));
  return Tables{head, std::move(sections)};
}

/// What a medium or a forger did, and no want of memory or descriptors.
bool is_damage(const Error& error) { return error.kind == ErrorKind::damaged || error.code == EIO; }

}  // namespace

/// Ascending; nothing: not even the folder is there.
Result<std::optional<std::vector<std::uint64_t>>> JoinedFiles::numbers() {
  const auto entries = storage_.list(joined_format::kFolder);
  if (!entries && entries.error().code == ENOENT) return std::nullopt;
  VARVE_TRY(entries);
  std::vector<std::uint64_t> found;
  for (const os::DirectoryEntry& entry : *entries) {
    if (const auto number = joined_format::parse_file_name(entry.name)) found.push_back(*number);
  }
  std::ranges::sort(found);
  return found;
}

Result<JoinedFile> JoinedFiles::read_file(std::uint64_t number) {
  auto opened = storage_.open(joined_format::file_name(number), {});
  if (!opened) return tl::unexpected(as_read_error(std::move(opened).error()));
  const os::File& file = **opened;
  VARVE_TRY_ASSIGN(const os::FileStatus status, file.status());
  const std::uint64_t file_bytes = status.size.value();
  if (file_bytes > joined_format::kMostFileBytes) return fail_damaged("it is larger than it can be");
  auto first = read_table(file, file_bytes, true);
  const auto last = read_table(file, file_bytes, false);
  JoinedFile joined;
  joined.half_damaged = !first || !last;
  if (!first) {
    if (!last) return tl::unexpected(first.error());
    first = last;
  }
  joined.head = first->head;
  VARVE_TRY_ASSIGN(const Bytes marks,
                   read_part(file, joined.head.marks_at, joined_format::kMarkSize * joined.head.sections));
  bool any_removed = false;
  ByteReader in(marks);
  for (joined_format::Section& section : first->sections) {
    const bool removed = in.get<std::uint64_t>() == joined_format::mark_of(section.name);
    any_removed |= removed;
    joined.sections.push_back({section.offset, section.length, removed ? State::removed : State::read});
    joined.names.push_back(std::move(section.name));
  }
  // As with the folder: a mark that was seen counts.
  if (any_removed) VARVE_TRY(opened.value()->sync_data());
  return joined;
}

Status JoinedFiles::load() {
  if (loaded_.load(std::memory_order_acquire)) return {};
  ExclusiveLock lock(mutex_);
  if (loaded_) return {};
  files_.clear();
  places_.clear();
  VARVE_TRY_ASSIGN(const auto found, numbers());
  // What a killed process made or removed may not be durable yet, and others rely on it from now on.
  if (found) VARVE_TRY(storage_.sync_directory(joined_format::kFolder));
  for (const std::uint64_t number : found.value_or(std::vector<std::uint64_t>{})) {
    auto file = read_file(number);
    next_number_ = std::max(next_number_, number + 1);
    if (file) {
      if (file->half_damaged) {
        log::warning("{}: one of its two tables is damaged", joined_format::file_name(number));
      }
      enter(number, std::move(*file));
    } else if (is_damage(file.error())) {
      log::error("{}: {}: what it holds cannot be read", joined_format::file_name(number), file.error().message);
    } else if (file.error().code != ENOENT) {
      return tl::unexpected(file.error());
    }
  }
  loaded_.store(true, std::memory_order_release);
  return {};
}

/// Ascending, so that the newest place comes first.
void JoinedFiles::enter(std::uint64_t number, JoinedFile file) {
  file.left = file.read = 0;
  file.read_bytes = 0;
  for (std::uint32_t i = 0; i < file.sections.size(); ++i) {
    if (file.sections[i].state == State::removed) continue;
    auto& places = places_[file.names[i]];
    if (!places.empty()) {
      JoinedFile& older = files_.at(places.front().file);
      JoinedFile::Section& section = older.sections[places.front().index];
      section.state = State::shadowed;
      --older.read;
      older.read_bytes -= section.length;
    }
    places.insert(places.begin(), {number, i});
    ++file.left;
    ++file.read;
    file.read_bytes += file.sections[i].length;
  }
  files_[number] = std::move(file);
}

/// The file is gone.
void JoinedFiles::leave(std::uint64_t number) {
  const auto file = files_.find(number);
  if (file == files_.end()) return;
  for (const std::string& name : file->second.names) {
    const auto places = places_.find(name);
    if (places == places_.end()) continue;
    std::erase_if(places->second, [&](const Where& where) { return where.file == number; });
    if (places->second.empty()) places_.erase(places);
  }
  files_.erase(file);
}

std::optional<SectionPlace> JoinedFiles::find(std::string_view name) {
  SharedLock lock(mutex_);
  const auto found = places_.find(name);
  if (found == places_.end()) return std::nullopt;
  const Where where = found->second.front();
  const JoinedFile::Section& section = files_.at(where.file).sections[where.index];
  return SectionPlace{where.file, where.index, section.offset, section.length};
}

void JoinedFiles::add_names_in(std::string_view folder, std::vector<std::string>& names) {
  const std::string prefix = folder.empty() ? "" : std::string(folder) + "/";
  std::ranges::sort(names);
  const std::size_t before = names.size();
  SharedLock lock(mutex_);
  for (auto it = places_.lower_bound(prefix); it != places_.end() && it->first.starts_with(prefix); ++it) {
    const std::string_view rest = std::string_view(it->first).substr(prefix.size());
    if (rest.find('/') != std::string_view::npos) continue;
    if (!std::binary_search(names.begin(), names.begin() + static_cast<std::ptrdiff_t>(before), rest)) {
      names.emplace_back(rest);
    }
  }
}

void JoinedFiles::add_folders_in(std::string_view folder, std::vector<std::string>& names) {
  const std::string prefix = folder.empty() ? "" : std::string(folder) + "/";
  SharedLock lock(mutex_);
  auto it = places_.lower_bound(prefix);
  while (it != places_.end() && it->first.starts_with(prefix)) {
    const std::string_view rest = std::string_view(it->first).substr(prefix.size());
    const std::size_t slash = rest.find('/');
    if (slash == std::string_view::npos) {
      ++it;
      continue;
    }
    std::string name(rest.substr(0, slash));
    // '0' comes behind '/': the first name that is not below this folder.
    it = places_.lower_bound(prefix + name + "0");
    if (std::ranges::find(names, name) == names.end()) names.push_back(std::move(name));
  }
}

Status JoinedFiles::remove(std::string_view name) {
  for (;;) {
    Where last;
    {
      SharedLock lock(mutex_);
      const auto found = places_.find(name);
      if (found == places_.end()) return {};
      last = found->second.back();
    }
    VARVE_TRY(remove_section(last));
  }
}

Status JoinedFiles::remove_section(Where where) {
  std::uint64_t mark_at = 0;
  std::string name;
  {
    SharedLock lock(mutex_);
    const JoinedFile& file = files_.at(where.file);
    mark_at = file.head.marks_at + joined_format::kMarkSize * where.index;
    name = file.names[where.index];
    if (file.left == 1) mark_at = 0;
  }
  if (mark_at == 0) return remove_file(where.file);
  VARVE_TRY_ASSIGN(const auto opened, storage_.open(joined_format::file_name(where.file), {.write = true}));
  Bytes mark;
  ByteWriter(mark).put(joined_format::mark_of(name));
  VARVE_TRY(opened->write(ByteOffset{mark_at}, mark));
  VARVE_TRY(opened->sync_data());
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  {
    ExclusiveLock lock(mutex_);
    JoinedFile& file = files_.at(where.file);
    JoinedFile::Section& section = file.sections[where.index];
    --file.left;
    if (section.state == State::read) {
      --file.read;
      file.read_bytes -= section.length;
    }
    section.state = State::removed;
    const auto places = places_.find(name);
    std::erase_if(places->second, [&](const Where& one) { return one.file == where.file; });
    if (places->second.empty()) places_.erase(places);
    // With the removed ones beside it: blocks that they share are free now.
    std::size_t first = where.index;
    std::size_t last = where.index;
    while (first > 0 && file.sections[first - 1].state == State::removed) --first;
    while (last + 1 < file.sections.size() && file.sections[last + 1].state == State::removed) ++last;
    begin = std::max(file.sections[first].offset, section.offset - std::min(section.offset, kBlock));
    end = std::min(file.sections[last].offset + file.sections[last].length, section.offset + section.length + kBlock);
  }
  begin = (begin + kBlock - 1) / kBlock * kBlock;
  end = end / kBlock * kBlock;
  if (begin >= end) return {};
  // It is removed whatever comes of this; once the file is written anew the space comes back too.
  if (const auto punched = opened->punch(ByteOffset{begin}, ByteCount{end - begin}); !punched) {
    log::debug("{}: {}", joined_format::file_name(where.file), punched.error().message);
  }
  return {};
}

Status JoinedFiles::remove_file(std::uint64_t number) {
  const std::string name = joined_format::file_name(number);
  const Status removed = storage_.remove(name);
  if (!removed && removed.error().code != ENOENT) return removed;
  VARVE_TRY(storage_.sync_directory(joined_format::kFolder));
  ExclusiveLock lock(mutex_);
  leave(number);
  return {};
}

Status JoinedFiles::punch(const SectionPlace& place, ByteOffset at, ByteCount count) {
  if (at.value() >= place.length) return {};
  const std::uint64_t from = place.offset + at.value();
  const std::uint64_t to = from + std::min(count.value(), place.length - at.value());
  // Whole blocks: the others have bytes beside these.
  const std::uint64_t begin = (from + kBlock - 1) / kBlock * kBlock;
  const std::uint64_t end = to / kBlock * kBlock;
  if (begin >= end) return {};
  VARVE_TRY_ASSIGN(const auto file, storage_.open(joined_format::file_name(place.file), {.write = true}));
  return file->punch(ByteOffset{begin}, ByteCount{end - begin});
}

void JoinedFiles::add(std::uint64_t number, JoinedFile file) {
  ExclusiveLock lock(mutex_);
  enter(number, std::move(file));
}

std::uint64_t JoinedFiles::next_number() {
  ExclusiveLock lock(mutex_);
  return next_number_++;
}

Result<std::vector<std::uint64_t>> JoinedFiles::remove_unread() {
  std::vector<std::uint64_t> unread;
  {
    SharedLock lock(mutex_);
    for (const auto& [number, file] : files_) {
      if (file.read == 0) unread.push_back(number);
    }
  }
  for (const std::uint64_t number : unread) VARVE_TRY(remove_file(number));
  return unread;
}

std::map<std::uint64_t, JoinedFile> JoinedFiles::files() {
  SharedLock lock(mutex_);
  return files_;
}

Result<std::vector<std::string>> JoinedFiles::check() {
  std::vector<std::string> problems;
  VARVE_TRY_ASSIGN(const auto found, numbers());
  for (const std::uint64_t number : found.value_or(std::vector<std::uint64_t>{})) {
    const auto file = read_file(number);
    const std::string name = joined_format::file_name(number);
    if (!file && file.error().code == ENOENT) continue;  // removed meanwhile
    if (!file && !is_damage(file.error())) return tl::unexpected(file.error());
    if (!file) {
      problems.push_back(fmt::format("{}: {}: what it holds cannot be read", name, file.error().message));
    } else if (file->half_damaged) {
      problems.push_back(fmt::format("{}: one of its two tables is damaged; nothing is lost yet", name));
    }
  }
  return problems;
}

}  // namespace varve::objects
