// The policies of a store: policies.json, replaced as a whole at each change.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "policy.h"
#include "reserve.h"
#include "varve/core/sync.h"
#include "varve/os/storage.h"

namespace varve::store {

inline constexpr std::string_view kPoliciesFile = "policies.json";
inline constexpr std::size_t kMaxPolicies = 1000;

/// Any thread. What changes them is durable on return.
class Policies {
 public:
  /// Reads the file, if there is one. One that cannot be read is named by problem(), and by every function that needs it
  /// (EIO, damaged); the store is none the worse.
  Policies(os::Storage& storage, Reserve& reserve);

  [[nodiscard]] std::optional<Error> problem() const VARVE_EXCLUDES(mutex_);
  /// By name; none when the file cannot be read.
  [[nodiscard]] std::vector<Policy> all() const VARVE_EXCLUDES(mutex_);
  /// ENOENT.
  [[nodiscard]] Result<Policy> find(const std::string& name) const VARVE_EXCLUDES(mutex_);
  /// EEXIST; E2BIG beyond kMaxPolicies.
  [[nodiscard]] Status add(const Policy& policy) VARVE_EXCLUDES(mutex_);
  /// ENOENT.
  [[nodiscard]] Status remove(const std::string& name) VARVE_EXCLUDES(mutex_);
  [[nodiscard]] Status change(const std::string& name, const std::function<void(Policy&)>& change) VARVE_EXCLUDES(mutex_);
  /// As change(), in memory in any case: a run whose end cannot be noted is not repeated at once.
  [[nodiscard]] Status note_run(const std::string& name, const PolicyRun& run) VARVE_EXCLUDES(mutex_);

 private:
  [[nodiscard]] Status read() VARVE_REQUIRES(mutex_);
  [[nodiscard]] Status write(const std::vector<Policy>& policies) VARVE_REQUIRES(mutex_);
  [[nodiscard]] Result<std::size_t> position_of(const std::string& name) const VARVE_REQUIRES(mutex_);

  os::Storage& storage_;
  Reserve& reserve_;
  mutable Mutex mutex_;
  std::vector<Policy> policies_ VARVE_GUARDED_BY(mutex_);
  std::optional<Error> problem_ VARVE_GUARDED_BY(mutex_);
};

}  // namespace varve::store
