// Space put by, so that on a store without any left what gives space back can still be noted (rule 11): a log record takes
// a block or two, and nobody can delete anything without them.
//
// It is one file of preallocated space that is cut piece by piece. Somebody else may take a piece before it is used; then
// the next one is given up.
#pragma once

#include <functional>
#include <memory>

#include "varve/core/sync.h"
#include "varve/os/storage.h"

namespace varve::store {

class Reserve {
 public:
  explicit Reserve(os::Storage& storage) : storage_(storage) {}
  /// Puts by what is missing, if it can be had. Any thread, quick when nothing is missing.
  void fill() VARVE_EXCLUDES(mutex_);
  /// Not put by yet.
  [[nodiscard]] ByteCount missing() VARVE_EXCLUDES(mutex_);
  /// Does what gives space back; where that fails for want of space, again with a piece of the reserve given up.
  [[nodiscard]] Status spend(const std::function<Status()>& work) VARVE_EXCLUDES(mutex_);

 private:
  [[nodiscard]] Status open() VARVE_REQUIRES(mutex_);
  [[nodiscard]] Status give_up_a_piece() VARVE_EXCLUDES(mutex_);

  os::Storage& storage_;
  Mutex mutex_;
  std::unique_ptr<os::File> file_ VARVE_GUARDED_BY(mutex_);
  ByteCount left_ VARVE_GUARDED_BY(mutex_);
};

}  // namespace varve::store
