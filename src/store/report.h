// What a store says about itself: status.json, Prometheus metrics, and everything of one image.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "services.h"
#include "varve/store/store.h"

namespace varve::store {

[[nodiscard]] nlohmann::json report_status(const Store& store, Services& services);
/// Prometheus text exposition format 0.0.4.
[[nodiscard]] std::string report_metrics(const Store& store, Services& services);
[[nodiscard]] nlohmann::json report_image(const ImageName& image);

}  // namespace varve::store
