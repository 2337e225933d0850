// What a snapshot or a disk carries beside its content: why it must not be deleted, when it goes by itself, whether it is
// in the trash, and how much there may be.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "varve/core/result.h"
#include "varve/core/time.h"

namespace varve::catalog {

/// Bytes of the reason of a hold.
inline constexpr std::size_t kMaxHoldSize = 1024;

/// When a snapshot went to the trash, and when it goes from there.
struct Trashed {
  Time since;
  Time until;
  friend bool operator==(const Trashed&, const Trashed&) = default;
};

/// Of one snapshot, kept across renames, copied by nothing.
struct Care {
  std::optional<std::string> hold;  ///< why it must not be deleted; may be empty
  std::optional<Time> deadline;     ///< deleted by itself after it, unless held
  std::string policy;               ///< the policy that took it; empty: somebody did
  std::optional<Trashed> trashed;   ///< deleted, and to be had back
  friend bool operator==(const Care&, const Care&) = default;
};

/// What there may be at most, of a disk or a store; nothing: no limit. Less than there is refuses only growth.
struct Limits {
  std::optional<std::uint64_t> snapshots;
  std::optional<std::uint64_t> snapshot_bytes;  ///< sizes of the snapshots' images, as a reader sees them
  std::optional<std::uint64_t> live_bytes;      ///< sizes of the live images
  friend bool operator==(const Limits&, const Limits&) = default;
};

/// Valid UTF-8 without control characters, at most kMaxHoldSize bytes. EINVAL, kind refused.
[[nodiscard]] Status validate_hold(std::string_view reason);
/// The rules that every log keeps: the hold as above, the policy a possible name, no hold in the trash.
[[nodiscard]] Status validate(const Care& care);

/// Objects with the members that are set.
[[nodiscard]] nlohmann::json to_json(const Care& care);
[[nodiscard]] nlohmann::json to_json(const Limits& limits);
/// EIO (damaged) for anything that to_json() does not write; never throws.
[[nodiscard]] Result<Care> care_from_json(const nlohmann::json& json);
[[nodiscard]] Result<Limits> limits_from_json(const nlohmann::json& json);

}  // namespace varve::catalog
