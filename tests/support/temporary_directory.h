// A fresh directory that goes, with all that is in it, when the test does.
#pragma once

#include <string>

namespace varve::test {

class TemporaryDirectory {
 public:
  /// Below $TMPDIR or /tmp.
  TemporaryDirectory();
  /// Below `parent`, which must exist (say /dev/shm).
  explicit TemporaryDirectory(const std::string& parent);
  ~TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace varve::test
