// The store's own commands, as JSON in and JSON out: what `varve` runs on a store it has opened itself, and what the
// daemon runs for it through the control socket. One table of commands, so that both mean the same.
//
//   {"command": "status"}
//   {"command": "list"}                                          disks
//   {"command": "list", "disk": "web01"}                         snapshots of a disk
//   {"command": "info", IMAGE}
//   {"command": "restore", IMAGE, "to": "web02"}                 IMAGE must be a snapshot; "to": optional, a disk
//   {"command": "clone", IMAGE, "name": "web02"}
//   {"command": "diff", "a": {IMAGE}, "b": {IMAGE}}               speaks in parts: {"extents": [[OFFSET, LENGTH], ...]}
//   {"command": "check"}    {"command": "check", "repair": true}    {"command": "collect"}
//   {"command": "du"[, "images": [{IMAGE}, …]]}                  none: the whole store
//   {"command": "rm", "images": [{IMAGE}, …][, "dry_run": true]} snapshots
//   {"command": "free", "bytes": N[, "disk": NAME][, "yes": true]}
//   {"command": "limit"[, "disk": NAME][, "set": {"snapshots": N or null, "snapshot_bytes": …, "live_bytes": …}]}
//   {"command": "list", "trash": true[, "disk": NAME]}
//   {"command": "trash"[, "keep": SECONDS][, "empty": true]}
//   {"command": "undelete", IMAGE[, "as": NAME]}                 IMAGE is looked for in the trash
//   {"command": "prune", "disk": NAME, "keep": {"last": N, …, "within": "1y2m3d4h"}[, "dry_run": true]}
//   {"command": "policy", "action": "list"}
//   {"command": "policy", "action": "add", "policy": {"name", "disks": [PATTERN…], "every": SECONDS or "at": ["HH:MM"…]
//                                                     [, "days": ["mon"…]], "pattern"[, "keep"]}}
//   {"command": "policy", "action": "show", "remove", "pause", "resume" or "run", "name": NAME}
//
// IMAGE is either "disk": NAME with an optional "snapshot": NAME, or "image": "DISK" or "DISK@SNAPSHOT" as people write
// it. Names may contain '@': every reading is tried, and one that is not the only one possible is refused (EINVAL).
// The results are described in varve(1), section JSON.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>

#include "varve/core/result.h"
#include "varve/store/store.h"

namespace varve::store {

/// On whose behalf a command runs, and how it speaks meanwhile. The functions may be called from any thread.
struct CommandContext {
  std::uint32_t user = 0;  ///< owner of what is made
  std::uint32_t group = 0;
  std::function<void(std::uint64_t done, std::uint64_t total)> progress = [](std::uint64_t, std::uint64_t) {};
  std::function<bool()> stop = [] { return false; };
  /// Takes a piece of an answer that is too long to be one; as slowly as it likes. An error ends the command with it. Not
  /// called by two threads at once.
  std::function<Status(const nlohmann::json& part)> part = [](const nlohmann::json&) { return Status{}; };
};

/// Any thread; any JSON. EINVAL (refused) for a request that is not one of the above, naming what is wrong with it;
/// otherwise the errors of what it calls, ECANCELED when `stop` said so.
[[nodiscard]] Result<nlohmann::json> run_command(Store& store, const nlohmann::json& request,
                                                 const CommandContext& context);

}  // namespace varve::store
