// {"command": "policy", "action": …}
#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <string>

#include "care_commands.h"
#include "care_report.h"
#include "policies.h"
#include "request_reading.h"
#include "varve/catalog/names.h"

namespace varve::store {
namespace {

using nlohmann::json;

Result<json> show(Store& store, const std::string& name) {
  VARVE_TRY_ASSIGN(const Policy policy, store.policies().find(name));
  return describe(policy, store.time());
}

Result<json> add(Store& store, const json& request) {
  const auto wanted = request.find("policy");
  if (wanted == request.end()) return fail_refused(EINVAL, "the request lacks \"policy\"");
  VARVE_TRY_ASSIGN(Policy policy, policy_from_json(*wanted, false));
  policy.since = store.time();
  VARVE_TRY(store.policies().add(policy));
  return show(store, policy.name);
}

Result<json> list(Store& store) {
  if (const auto problem = store.policies().problem()) return tl::unexpected(*problem);
  json policies = json::array();
  for (const Policy& policy : store.policies().all()) policies.push_back(describe(policy, store.time()));
  return json{{"policies", std::move(policies)}};
}

Result<json> remove(Store& store, const std::string& name) {
  VARVE_TRY_ASSIGN(json removed, show(store, name));
  VARVE_TRY(store.policies().remove(name));
  return removed;
}

/// What was due while it was paused is not done afterwards.
Result<json> pause(Store& store, const std::string& name, bool paused) {
  VARVE_TRY(store.policies().change(name, [&](Policy& policy) {
    if (policy.paused && !paused) policy.since = store.time();
    policy.paused = paused;
  }));
  return show(store, name);
}

}  // namespace

Result<json> run_policy_command(Store& store, const json& request, const CommandContext&) {
  VARVE_TRY_ASSIGN(const std::string action, required_string(request, "action"));
  if (action == "list") return list(store);
  if (action == "add") return add(store, request);
  VARVE_TRY_ASSIGN(const std::string name, required_string(request, "name"));
  if (action == "show") return show(store, name);
  if (action == "remove") return remove(store, name);
  if (action == "pause" || action == "resume") return pause(store, name, action == "pause");
  if (action != "run") return fail_refused(EINVAL, fmt::format("there is no action {}", catalog::quoted(action)));
  VARVE_TRY(store.run_policy(name));
  return show(store, name);
}

}  // namespace varve::store
