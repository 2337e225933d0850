#include "policies.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "checked_json.h"
#include "varve/catalog/names.h"
#include "varve/core/log.h"

namespace varve::store {
namespace {

using catalog::quoted;
using nlohmann::json;

constexpr unsigned kPoliciesFormat = 1;

tl::unexpected<Error> damaged(const std::string& what) {
  return fail_damaged(fmt::format("{}: {}; no policy is followed. Restore the file from a backup, or remove it, mount again, "
                                  "and make them anew",
                                  kPoliciesFile, what));
}

}  // namespace

Policies::Policies(os::Storage& storage, Reserve& reserve) : storage_(storage), reserve_(reserve) {
  MutexLock lock(mutex_);
  auto done = read();
  if (done) return;
  log::error("{}", done.error().message);
  problem_ = std::move(done).error();
  policies_.clear();
}

Status Policies::read() {
  const auto object = read_checked_json(storage_, kPoliciesFile, kPoliciesFormat);
  if (!object) {
    if (object.error().code == ENOENT) return {};
    return object.error().kind == ErrorKind::damaged ? damaged(object.error().message)
                                                     : Status(tl::unexpected(object.error()));
  }
  const auto list = object->find("policies");
  if (list == object->end() || !list->is_array() || list->size() > kMaxPolicies) return damaged("it has no list of policies");
  for (const json& one : *list) {
    auto policy = policy_from_json(one, true);
    if (!policy) return damaged(policy.error().message);
    if (position_of(policy->name)) return damaged(fmt::format("{} is there twice", quoted(policy->name)));
    policies_.push_back(std::move(*policy));
  }
  std::ranges::sort(policies_, {}, &Policy::name);
  return {};
}

Status Policies::write(const std::vector<Policy>& policies) {
  if (problem_) return tl::unexpected(*problem_);
  json list = json::array();
  for (const Policy& policy : policies) list.push_back(to_json(policy));
  return reserve_.spend([&] {
    return write_checked_json(storage_, kPoliciesFile, json{{"format", kPoliciesFormat}, {"policies", list}});
  });
}

Result<std::size_t> Policies::position_of(const std::string& name) const {
  const auto found = std::ranges::find(policies_, name, &Policy::name);
  if (found != policies_.end()) return static_cast<std::size_t>(found - policies_.begin());
  if (problem_) return tl::unexpected(*problem_);
  return fail(ENOENT, ErrorKind::absent,
              fmt::format("there is no policy {}; `varve policy list` shows those there are", quoted(name)));
}

std::optional<Error> Policies::problem() const {
  MutexLock lock(mutex_);
  return problem_;
}

std::vector<Policy> Policies::all() const {
  MutexLock lock(mutex_);
  return policies_;
}

Result<Policy> Policies::find(const std::string& name) const {
  MutexLock lock(mutex_);
  VARVE_TRY_ASSIGN(const std::size_t position, position_of(name));
  return policies_[position];
}

Status Policies::add(const Policy& policy) {
  MutexLock lock(mutex_);
  if (position_of(policy.name)) {
    return fail_refused(EEXIST, fmt::format("there is a policy {} already; remove it first", quoted(policy.name)));
  }
  if (policies_.size() >= kMaxPolicies) return fail_refused(E2BIG, fmt::format("{} policies are the most", kMaxPolicies));
  auto changed = policies_;
  changed.push_back(policy);
  std::ranges::sort(changed, {}, &Policy::name);
  VARVE_TRY(write(changed));
  policies_ = std::move(changed);
  return {};
}

Status Policies::remove(const std::string& name) {
  MutexLock lock(mutex_);
  VARVE_TRY_ASSIGN(const std::size_t position, position_of(name));
  auto changed = policies_;
  changed.erase(changed.begin() + static_cast<std::ptrdiff_t>(position));
  VARVE_TRY(write(changed));
  policies_ = std::move(changed);
  return {};
}

Status Policies::change(const std::string& name, const std::function<void(Policy&)>& change) {
  MutexLock lock(mutex_);
  VARVE_TRY_ASSIGN(const std::size_t position, position_of(name));
  auto changed = policies_;
  change(changed[position]);
  VARVE_TRY(write(changed));
  policies_ = std::move(changed);
  return {};
}

Status Policies::note_run(const std::string& name, const PolicyRun& run) {
  MutexLock lock(mutex_);
  VARVE_TRY_ASSIGN(const std::size_t position, position_of(name));
  policies_[position].last = run;
  return write(policies_);
}

}  // namespace varve::store
