#include "xattrs.h"

#include <fmt/format.h>
#include <sys/xattr.h>

#include <algorithm>

#include "varve/catalog/names.h"
#include "varve/store/space.h"

namespace varve::fuse {
namespace {

constexpr std::string_view kUserPrefix = "user.";
constexpr std::string_view kOurPrefix = "user.varve.";

std::size_t total_size(const store::Attributes& attributes) {
  std::size_t sum = 0;
  for (const auto& [name, value] : attributes.xattrs) sum += name.size() + value.size();
  return sum;
}

std::string parent_name(const Node& node) {
  if (node.snapshot.parent == SnapshotId{0}) return {};
  auto parent = node.disk->snapshot(node.snapshot.parent);
  // The parent may be deleted; nothing depends on it.
  return parent ? parent->name : std::string{};
}

std::optional<std::string> value_of_snapshot(const Node& node, std::string_view name) {
  const auto& snapshot = node.snapshot;
  if (name == "id") return std::to_string(snapshot.id.value());
  if (name == "state") return snapshot.state == store::SnapshotStateKind::pending ? "pending" : "complete";
  if (name == "percent") return std::to_string(snapshot.percent);
  if (name == "parent") return parent_name(node);
  if (name == "btime") return to_iso8601(snapshot.time);
  if (name == "size") return std::to_string(snapshot.size.value());
  if (name == "changed") return std::to_string(snapshot.changed_bytes);
  if (name == "stored") return std::to_string(snapshot.stored_bytes);
  if (name == "hold") return snapshot.care.hold;
  if (name == "deadline") return snapshot.care.deadline.has_value() ? std::optional(to_iso8601(*snapshot.care.deadline)) : std::nullopt;
  if (name == "policy") return snapshot.care.policy.empty() ? std::nullopt : std::optional(snapshot.care.policy);
  return std::nullopt;
}

std::optional<std::string> value_of_disk(const Node& node, std::string_view name) {
  if (name == "id") return std::to_string(node.disk->id().value());
  if (name == "btime") return to_iso8601(node.disk->created());
  if (name == "snapshots") return std::to_string(node.disk->snapshot_count());
  return std::nullopt;
}

std::optional<std::string> value_of_live_image(const Node& node, std::string_view name) {
  if (name == "id") return std::to_string(node.image.incarnation.value());
  if (name == "size") return std::to_string(node.image.size.value());
  if (name == "allocated") return std::to_string(node.image.allocated.value());
  if (name == "state") return node.disk->live().latched() ? "failed" : "ok";
  return std::nullopt;
}

}  // namespace

XattrSpace space_of(std::string_view name) {
  if (name.starts_with(kOurPrefix)) return XattrSpace::varve;
  return name.starts_with(kUserPrefix) ? XattrSpace::user : XattrSpace::other;
}

const std::vector<std::string_view>& computed_names(NodeKind kind) {
  static const std::vector<std::string_view> root{"id", "error"};
  static const std::vector<std::string_view> disk{"id", "btime", "snapshots", "logical", "freed", "error"};
  static const std::vector<std::string_view> live{"id", "size", "allocated", "state"};
  static const std::vector<std::string_view> snapshot{"id",      "state",  "percent", "parent", "btime", "size",
                                                      "changed", "stored", "logical", "freed",  "error",
                                                      "hold",    "deadline", "policy"};
  static const std::vector<std::string_view> image{"id",   "state",   "percent", "parent",  "btime",
                                                   "size", "changed", "stored",  "logical", "freed"};
  static const std::vector<std::string_view> none;
  switch (kind) {
    case NodeKind::root:
      return root;
    case NodeKind::disk:
      return disk;
    case NodeKind::live_image:
      return live;
    case NodeKind::snapshot:
      return snapshot;
    case NodeKind::snapshot_image:
      return image;
    default:
      return none;
  }
}

std::optional<std::string> computed_value(const store::Store& store, const Node& node, std::string_view name,
                                          const std::optional<std::string>& last_refusal) {
  const auto& names = computed_names(node.id.kind);
  name.remove_prefix(std::min(kOurPrefix.size(), name.size()));
  if (std::ranges::find(names, name) == names.end()) return std::nullopt;
  if (name == "error") return last_refusal;
  switch (node.id.kind) {
    case NodeKind::root:
      return store.settings().id;
    case NodeKind::disk:
      return value_of_disk(node, name);
    case NodeKind::live_image:
      return value_of_live_image(node, name);
    default:
      return value_of_snapshot(node, name);
  }
}

bool is_counted(const Node& node, std::string_view name) {
  const auto& names = computed_names(node.id.kind);
  name.remove_prefix(std::min(kOurPrefix.size(), name.size()));
  return (name == "freed" || name == "logical") && std::ranges::find(names, name) != names.end();
}

Result<std::string> counted_value(const store::Store& store, const Node& node, std::string_view name) {
  store::Space& space = store.space();
  const bool disk = node.id.kind == NodeKind::disk;
  if (name.ends_with("logical")) {
    VARVE_TRY_ASSIGN(const std::uint64_t bytes,
                     disk ? space.logical_of(*node.disk) : space.logical_of(*node.disk, node.id.snapshot));
    return std::to_string(bytes);
  }
  std::vector<store::SnapshotName> snapshots;
  if (disk) {
    const auto all = node.disk->snapshots();
    for (const auto& one : all) snapshots.push_back({node.disk, one.id});
  } else {
    snapshots.push_back({node.disk, node.id.snapshot});
  }
  VARVE_TRY_ASSIGN(const auto freed, space.freed_without(snapshots));
  return std::to_string(freed.stored_bytes);
}

bool steers(NodeKind kind, std::string_view name) {
  return kind == NodeKind::snapshot && (name == "user.varve.hold" || name == "user.varve.deadline");
}

namespace {

Status refuse_flags(bool exists, std::string_view name, int flags) {
  if (exists && (flags & XATTR_CREATE) != 0) return fail_refused(EEXIST, catalog::quoted(name) + " is set already");
  if (exists || (flags & XATTR_REPLACE) == 0) return {};
  return fail(ENODATA, ErrorKind::absent, catalog::quoted(name) + " is not set");
}

/// Text that came from a shell may end in a newline or in a zero byte.
std::string_view trimmed(std::string_view text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == '\0')) text.remove_suffix(1);
  return text;
}

Status set_hold(store::Care& care, const std::string& value) {
  const auto reason = trimmed(value);
  VARVE_TRY(catalog::validate_hold(reason));
  care.hold = std::string(reason);
  return {};
}

Status set_deadline(store::Care& care, const std::string& value, Time time) {
  VARVE_TRY_ASSIGN(const Time deadline, parse_iso8601(trimmed(value)));
  if (deadline <= time) {
    return fail_refused(EINVAL, fmt::format("{} has passed already; rmdir deletes at once", to_iso8601(deadline)));
  }
  care.deadline = deadline;
  return {};
}

}  // namespace

Status steer(store::Care& care, std::string_view name, const std::optional<std::string>& value, int flags, Time time) {
  const bool is_hold = name == "user.varve.hold";
  const bool exists = is_hold ? care.hold.has_value() : care.deadline.has_value();
  if (value) {
    VARVE_TRY(refuse_flags(exists, name, flags));
    return is_hold ? set_hold(care, *value) : set_deadline(care, *value, time);
  }
  VARVE_TRY(refuse_flags(exists, name, XATTR_REPLACE));
  if (is_hold) care.hold.reset();
  if (!is_hold) care.deadline.reset();
  return {};
}

Status set_user_xattr(store::Attributes& attributes, const std::string& name, std::string_view value, int flags) {
  VARVE_TRY(refuse_flags(attributes.xattrs.contains(name), name, flags));
  attributes.xattrs[name] = std::string(value);
  if (total_size(attributes) > kMaxXattrBytes || list_xattrs(attributes).size() > kMaxXattrNames) {
    return fail_refused(ENOSPC, fmt::format("extended attributes take {} KiB at most, their names {} KiB",
                                            kMaxXattrBytes / kKiB, kMaxXattrNames / kKiB));
  }
  return {};
}

Status remove_user_xattr(store::Attributes& attributes, const std::string& name) {
  if (attributes.xattrs.erase(name) != 0) return {};
  return fail(ENODATA, ErrorKind::absent, catalog::quoted(name) + " is not set");
}

std::string list_xattrs(const store::Attributes& attributes) {
  std::string list;
  for (const auto& [name, value] : attributes.xattrs) {
    list += name;
    list += '\0';
  }
  return list;
}

Error why_not_settable(NodeKind kind, std::string_view name) {
  if (space_of(name) != XattrSpace::varve) {
    return {EOPNOTSUPP, ErrorKind::refused, "only extended attributes whose names begin with \"user.\" are kept"};
  }
  const auto& names = computed_names(kind);
  if (std::ranges::find(names, name.substr(kOurPrefix.size())) == names.end()) {
    return {EINVAL, ErrorKind::refused, catalog::quoted(name) + " is not an attribute of varve"};
  }
  return {EPERM, ErrorKind::refused, catalog::quoted(name) + " only reports and can't be set"};
}

}  // namespace varve::fuse
