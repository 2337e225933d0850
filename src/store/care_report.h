// What reports say of limits, what counts against them, holds, deadlines and the trash.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "policies.h"
#include "varve/store/store.h"

namespace varve::store {

/// "limits" (each null where there is none) and "used", with the same members.
[[nodiscard]] nlohmann::json describe_limits(const Limits& limits, const Usage& used);
/// "hold", "deadline" and "policy" where they are set.
void add_care(nlohmann::json& snapshot, const Care& care);

/// As to_json(), with instants for people, and "next".
[[nodiscard]] nlohmann::json describe(const Policy& policy, Time time);

/// Into the report of a whole store.
void add_care(nlohmann::json& report, const Store& store);
/// Into that of a disk or a snapshot.
void add_care(nlohmann::json& report, const ImageName& image);
/// Prometheus text.
[[nodiscard]] std::string care_metrics(const Store& store);

}  // namespace varve::store
