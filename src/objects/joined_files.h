// Which objects lie in files of several (joined_format.h), and where.
//
// An object may be found in more than one place, byte for byte the same: in a file of its own and in one or more joined
// files, when a crash came between "written there" and "removed here". Of joined files the one with the highest number is
// read. Whoever removes the object removes it everywhere, there last: so it does not come back.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "joined_format.h"
#include "varve/core/sync.h"
#include "varve/os/storage.h"

namespace varve::objects {

/// Where an object is read.
struct SectionPlace {
  std::uint64_t file = 0;   ///< its number
  std::uint32_t index = 0;  ///< of the section
  std::uint64_t offset = 0;
  std::uint32_t length = 0;
};

/// What is known of a joined file. Some 130 bytes a section.
struct JoinedFile {
  struct Section {
    std::uint64_t offset = 0;
    std::uint32_t length = 0;
    enum class State : std::uint8_t { read, shadowed, removed } state = State::read;  ///< shadowed: read elsewhere
  };
  std::vector<Section> sections;
  std::vector<std::string> names;
  joined_format::Head head;
  std::uint32_t left = 0;        ///< sections that were not removed
  std::uint32_t read = 0;        ///< and those of them that are read here
  std::uint64_t read_bytes = 0;  ///< of these
  bool half_damaged = false;     ///< one of its tables is
};

/// Reads the files at its first use. Any thread; what changes them, one at a time.
class JoinedFiles {
 public:
  explicit JoinedFiles(os::Storage& storage) : storage_(storage) {}

  /// Reads the files, unless that was done. Files that are damaged are left out, with a word in the log; others' errors
  /// are returned, and the next call tries again.
  [[nodiscard]] Status load() VARVE_EXCLUDES(mutex_);
  /// After load(), as all below.
  [[nodiscard]] std::optional<SectionPlace> find(std::string_view name) VARVE_EXCLUDES(mutex_);
  /// Adds what lies directly in the folder: objects, or folders. Without those that are in `names` already.
  void add_names_in(std::string_view folder, std::vector<std::string>& names) VARVE_EXCLUDES(mutex_);
  void add_folders_in(std::string_view folder, std::vector<std::string>& names) VARVE_EXCLUDES(mutex_);
  /// Durable on return; absent is success. The bytes become holes where the filesystem can have them. Needs no free space.
  [[nodiscard]] Status remove(std::string_view name) VARVE_EXCLUDES(mutex_);
  [[nodiscard]] Status punch(const SectionPlace& place, ByteOffset at, ByteCount count) VARVE_EXCLUDES(mutex_);

  /// For joining; `file` is durable under its number. Its objects are read there from now on.
  void add(std::uint64_t number, JoinedFile file) VARVE_EXCLUDES(mutex_);
  /// It is not known whether that is durable, so nothing may rely on it: whatever lies elsewhere, too, stays there.
  void distrust() { distrusted_ = true; }
  [[nodiscard]] bool distrusted() const { return distrusted_; }
  [[nodiscard]] std::uint64_t next_number() VARVE_EXCLUDES(mutex_);
  /// Removes files that nothing is read from any more. Their numbers.
  [[nodiscard]] Result<std::vector<std::uint64_t>> remove_unread() VARVE_EXCLUDES(mutex_);
  [[nodiscard]] std::map<std::uint64_t, JoinedFile> files() VARVE_EXCLUDES(mutex_);
  /// Sentences about what is damaged; reads all tables now.
  [[nodiscard]] Result<std::vector<std::string>> check() VARVE_EXCLUDES(mutex_);

 private:
  struct Where {
    std::uint64_t file = 0;
    std::uint32_t index = 0;
  };
  [[nodiscard]] Result<std::optional<std::vector<std::uint64_t>>> numbers();
  [[nodiscard]] Result<JoinedFile> read_file(std::uint64_t number);
  void enter(std::uint64_t number, JoinedFile file) VARVE_REQUIRES(mutex_);
  void leave(std::uint64_t number) VARVE_REQUIRES(mutex_);
  [[nodiscard]] Status remove_section(Where where) VARVE_EXCLUDES(mutex_);
  [[nodiscard]] Status remove_file(std::uint64_t number) VARVE_EXCLUDES(mutex_);

  os::Storage& storage_;
  std::atomic<bool> loaded_{false};
  std::atomic<bool> distrusted_{false};
  SharedMutex mutex_;
  std::map<std::uint64_t, JoinedFile> files_ VARVE_GUARDED_BY(mutex_);
  /// Where each object is read, and behind that where else it lies: newest first, never empty.
  std::map<std::string, std::vector<Where>, std::less<>> places_ VARVE_GUARDED_BY(mutex_);
  std::uint64_t next_number_ VARVE_GUARDED_BY(mutex_) = 1;
};

}  // namespace varve::objects
