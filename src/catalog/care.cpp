#include "varve/catalog/care.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "sealed_json.h"
#include "varve/catalog/names.h"

namespace varve::catalog {
namespace {

/// Members that are not in `known`: another version's, whose meaning must not be lost.
void note_unknown(const Json& json, const Fields& fields, std::initializer_list<std::string_view> known,
                  std::string_view what) {
  if (!json.is_object()) return;
  for (const auto& item : json.items()) {
    if (std::ranges::find(known, item.key()) == known.end()) {
      fields.note(fmt::format("{} has an unknown member {}", what, quoted(item.key())));
    }
  }
}

std::optional<std::uint64_t> optional_number(const Json& json, const Fields& fields, const char* key) {
  return json.is_object() && json.contains(key) ? std::optional(fields.number(key)) : std::nullopt;
}

std::optional<Time> optional_time(const Json& json, const Fields& fields, const char* key) {
  return json.is_object() && json.contains(key) ? std::optional(Time{fields.signed_number(key)}) : std::nullopt;
}

}  // namespace

Status validate_hold(std::string_view reason) {
  const std::string_view wrong = wrong_in_text(reason);
  if (!wrong.empty()) return fail_refused(EINVAL, fmt::format("{} cannot be the reason of a hold: {}", quoted(reason), wrong));
  if (reason.size() <= kMaxHoldSize) return {};
  return fail_refused(EINVAL, fmt::format("the reason of a hold has {} bytes, {} are allowed", reason.size(), kMaxHoldSize));
}

Status validate(const Care& care) {
  if (care.hold) VARVE_TRY(validate_hold(*care.hold));
  if (!care.policy.empty()) VARVE_TRY(validate_name(care.policy, NameKind::policy));
  if (care.hold && care.trashed) return fail_refused(EINVAL, "what is held cannot be in the trash");
  return {};
}

nlohmann::json to_json(const Care& care) {
  Json json = Json::object();
  if (care.hold) json["hold"] = *care.hold;
  if (care.deadline) json["deadline"] = care.deadline->nanoseconds;
  if (!care.policy.empty()) json["policy"] = care.policy;
  if (care.trashed) {
    json["trashed"] = care.trashed->since.nanoseconds;
    json["until"] = care.trashed->until.nanoseconds;
  }
  return json;
}

Result<Care> care_from_json(const nlohmann::json& json) {
  std::string problem;
  const Fields fields(json, "care", problem);
  note_unknown(json, fields, {"hold", "deadline", "policy", "trashed", "until"}, "care");
  Care care;
  if (json.is_object() && json.contains("hold")) care.hold = fields.text("hold");
  care.deadline = optional_time(json, fields, "deadline");
  if (json.is_object() && json.contains("policy")) care.policy = fields.text("policy");
  if (json.is_object() && (json.contains("trashed") || json.contains("until"))) {
    care.trashed = Trashed{Time{fields.signed_number("trashed")}, Time{fields.signed_number("until")}};
  }
  if (!problem.empty()) return fail_damaged(problem);
  if (const auto valid = validate(care); !valid) return fail_damaged(valid.error().message);
  return care;
}

nlohmann::json to_json(const Limits& limits) {
  Json json = Json::object();
  if (limits.snapshots) json["snapshots"] = *limits.snapshots;
  if (limits.snapshot_bytes) json["snapshot_bytes"] = *limits.snapshot_bytes;
  if (limits.live_bytes) json["live_bytes"] = *limits.live_bytes;
  return json;
}

Result<Limits> limits_from_json(const nlohmann::json& json) {
  std::string problem;
  const Fields fields(json, "limits", problem);
  note_unknown(json, fields, {"snapshots", "snapshot_bytes", "live_bytes"}, "limits");
  const Limits limits{optional_number(json, fields, "snapshots"), optional_number(json, fields, "snapshot_bytes"),
                      optional_number(json, fields, "live_bytes")};
  if (!problem.empty()) return fail_damaged(problem);
  return limits;
}

}  // namespace varve::catalog
