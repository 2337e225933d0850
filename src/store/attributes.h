// Attributes as JSON, wherever the store itself keeps them (store.json, the journal's opaque field of a pending
// snapshot). The disk log has its own form.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "varve/catalog/disk_log.h"
#include "varve/core/result.h"

namespace varve::store {

using catalog::Attributes;

[[nodiscard]] nlohmann::json to_json(const Attributes& attributes);
/// Never throws; EIO (damaged) for anything to_json() does not write.
[[nodiscard]] Result<Attributes> attributes_from_json(const nlohmann::json& json);

/// What a pending snapshot carries through the journal until the log has it.
struct PendingAttributes {
  Attributes directory;
  Attributes image;
  catalog::Care care;
};
[[nodiscard]] std::string encode(const PendingAttributes& attributes);
[[nodiscard]] Result<PendingAttributes> decode_pending_attributes(std::string_view text);

}  // namespace varve::store
