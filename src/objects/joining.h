// Puts small objects together in one file, and writes such files anew.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "joined_files.h"
#include "varve/objects/object_store.h"

namespace varve::objects {

/// One call of ObjectStore::join(). The steps, each durable before the next:
///
///     clear up   what a crash left in two places stays in the newer
///     write      a file of several, whole, under a temporary name; it is read back and compared with what it was made of
///     link       it gets its number: its objects lie in two places now, equal
///     remove     the objects' own files, and files of several that nothing is read from any more
class Joining {
 public:
  /// `forget`: told of each file (its path) that is removed.
  Joining(os::Storage& storage, JoinedFiles& files, const JoinOptions& options,
          std::function<void(const std::string&)> forget);
  [[nodiscard]] Result<Joined> run();

 private:
  struct Source {
    std::string name;
    std::uint64_t length = 0;
    std::string path;          ///< of the file it is read from
    std::uint64_t offset = 0;  ///< there
    bool own = false;          ///< that file is its own
  };
  using Sources = std::vector<Source>;

  [[nodiscard]] Status clear_up();
  [[nodiscard]] Status for_each_own(const std::function<Status(const std::string& name)>& visit);
  [[nodiscard]] Result<Sources> small_objects();
  void add_files_to_write_anew(Sources& sources);
  [[nodiscard]] Result<bool> room_for(std::uint64_t bytes);
  [[nodiscard]] Status write(std::span<const Source> sources);
  [[nodiscard]] Status fill(os::File& file, const joined_format::Head& head,
                            const std::vector<joined_format::Section>& sections, std::span<const Source> sources);
  /// Calls `visit` with the source's bytes, part by part.
  [[nodiscard]] Status read(const Source& source,
                            const std::function<Status(std::uint64_t at, std::span<const std::byte>)>& visit);
  [[nodiscard]] Status remove_own(std::span<const Source> sources);
  [[nodiscard]] Status remove_unread();
  [[nodiscard]] Status check_stop() const;

  os::Storage& storage_;
  JoinedFiles& files_;
  const JoinOptions& options_;
  const std::function<void(const std::string&)> forget_;
  const std::uint64_t most_bytes_;
  Joined result_;
};

}  // namespace varve::objects
