// Extended attributes: the users' own in "user.", kept as they are, and ours in "user.varve.", which report and a few of
// which steer, not listed (or `cp --preserve=all` and `rsync -aX` would try to set them on the copy).
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "node.h"

namespace varve::fuse {

/// Names and values of one object together; the names also fit listxattr(2)'s 64 KiB.
constexpr std::size_t kMaxXattrBytes = 256 * kKiB;
constexpr std::size_t kMaxXattrNames = 64 * kKiB;

enum class XattrSpace { user, varve, other };
[[nodiscard]] XattrSpace space_of(std::string_view name);

/// What user.varve.* attributes a thing of this kind has, without their prefix; the man page lists them.
[[nodiscard]] const std::vector<std::string_view>& computed_names(NodeKind kind);
/// The value of a "user.varve." attribute; nothing when this thing has none of this name. `last_refusal`: the sentence
/// for user.varve.error.
[[nodiscard]] std::optional<std::string> computed_value(const store::Store& store, const Node& node,
                                                        std::string_view name,
                                                        const std::optional<std::string>& last_refusal);

/// Whether a "user.varve." attribute has to be counted: it may read from the store, and not be known yet.
[[nodiscard]] bool is_counted(const Node& node, std::string_view name);
/// EAGAIN while the store is counted for the first time since it was mounted.
[[nodiscard]] Result<std::string> counted_value(const store::Store& store, const Node& node, std::string_view name);

/// Whether it is one of ours that can be set and removed: hold and deadline of a snapshot's directory.
[[nodiscard]] bool steers(NodeKind kind, std::string_view name);
/// Sets one of those; nothing: removes it. `flags` as in setxattr(2). EINVAL for a value that it cannot have, as for a
/// deadline before `time`; EEXIST, ENODATA.
[[nodiscard]] Status steer(store::Care& care, std::string_view name, const std::optional<std::string>& value, int flags,
                           Time time);

/// Sets one of the user's own. `flags` as in setxattr(2): EEXIST, ENODATA. ENOSPC beyond the limits.
[[nodiscard]] Status set_user_xattr(store::Attributes& attributes, const std::string& name, std::string_view value,
                                    int flags);
/// ENODATA.
[[nodiscard]] Status remove_user_xattr(store::Attributes& attributes, const std::string& name);
/// Names, each ended by a zero byte.
[[nodiscard]] std::string list_xattrs(const store::Attributes& attributes);
/// Why an attribute that is not the user's own can't be set: EOPNOTSUPP outside "user.", EPERM for one of ours, EINVAL
/// for one in our space that does not exist.
[[nodiscard]] Error why_not_settable(NodeKind kind, std::string_view name);

}  // namespace varve::fuse
