#include "load.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

#include "log_objects.h"
#include "varve/core/log.h"

namespace varve::catalog {
namespace {

using Numbers = std::vector<std::uint64_t>;

Result<Replay> start_from(objects::ObjectStore& objects, DiskId disk, std::uint64_t checkpoint) {
  VARVE_TRY_ASSIGN(DiskState state, read_checkpoint(objects, disk, checkpoint));
  auto replay = Replay::from_checkpoint(std::move(state), checkpoint);
  if (!replay) return tl::unexpected(replay.error().in(checkpoint_object(disk, checkpoint)));
  return replay;
}

/// The newest checkpoint that can be read, or an empty log to replay from record 1.
LoadedLog start_from_newest(objects::ObjectStore& objects, DiskId disk, const Numbers& checkpoints) {
  for (auto number = checkpoints.rbegin(); number != checkpoints.rend(); ++number) {
    auto replay = start_from(objects, disk, *number);
    if (replay) return {std::move(*replay), *number};
    log::warning("{}; falling back to an older checkpoint or to the records", replay.error().message);
  }
  return {Replay(disk), 0};
}

tl::unexpected<Error> missing(DiskId disk, std::uint64_t number, std::uint64_t highest) {
  return fail_damaged(fmt::format("{} is missing, although the log of disk {} goes on to number {}",
                                  record_object(disk, number), disk.value(), highest));
}

Status replay_records(objects::ObjectStore& objects, DiskId disk, const Numbers& records, std::uint64_t highest,
                      Replay& replay) {
  for (auto at = std::ranges::upper_bound(records, replay.last()); at != records.end(); ++at) {
    if (*at != replay.last() + 1) return missing(disk, replay.last() + 1, highest);
    const auto record = read_record(objects, disk, *at);
    // Not "absent", which would say that there is no log.
    if (!record && record.error().code == ENOENT) return missing(disk, *at, highest);
    if (!record) return tl::unexpected(record.error());
    if (const auto status = replay.check(record->event); !status) {
      return fail_damaged(record_object(disk, *at) + ": contradicts the records before it: " + status.error().message);
    }
    replay.apply(*record);
  }
  // A checkpoint is written after its record: one that cannot be read still tells that records up to it existed.
  if (replay.last() < highest) return missing(disk, replay.last() + 1, highest);
  return {};
}

}  // namespace

Result<LoadedLog> load_log(objects::ObjectStore& objects, DiskId disk) {
  // Checkpoints first: one that a running daemon writes in between must not be taken for the end of the log.
  VARVE_TRY_ASSIGN(const Numbers checkpoints, list_numbers(objects, checkpoint_folder(disk)));
  VARVE_TRY_ASSIGN(const Numbers records, list_numbers(objects, log_folder(disk)));
  if (checkpoints.empty() && records.empty()) {
    return fail(ENOENT, ErrorKind::absent,
                fmt::format("{}: there is no log of disk {}", log_folder(disk), disk.value()));
  }
  std::uint64_t highest = 0;
  for (const Numbers* numbers : {&checkpoints, &records}) {
    if (!numbers->empty()) highest = std::max(highest, numbers->back());
  }
  LoadedLog loaded = start_from_newest(objects, disk, checkpoints);
  VARVE_TRY(replay_records(objects, disk, records, highest, loaded.replay));
  return loaded;
}

}  // namespace varve::catalog
