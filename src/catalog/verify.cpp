// Every record and checkpoint of a log, for `check`: unlike open(), which reads no more than it needs, and stops at the
// first problem.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <optional>

#include "log_objects.h"
#include "replay.h"
#include "varve/catalog/disk_log.h"

namespace varve::catalog {
namespace {

class Verifier {
 public:
  Verifier(objects::ObjectStore& objects, DiskId disk, std::vector<std::string>& problems)
      : objects_(objects), disk_(disk), problems_(problems), replay_(Replay(disk)) {}

  /// Goes through both folders in the order of their numbers.
  void run(const std::vector<std::uint64_t>& records, const std::vector<std::uint64_t>& checkpoints) {
    auto checkpoint = checkpoints.begin();
    for (const std::uint64_t number : records) {
      for (; checkpoint != checkpoints.end() && *checkpoint < number; ++checkpoint) visit_checkpoint(*checkpoint);
      if (number != expected_) report_gap(number - 1);
      visit_record(number);
      expected_ = number + 1;
    }
    for (; checkpoint != checkpoints.end(); ++checkpoint) visit_checkpoint(*checkpoint);
  }

 private:
  void report_gap(std::uint64_t last) {
    if (expected_ == last) {
      problems_.push_back(record_object(disk_, last) + ": missing");
    } else {
      problems_.push_back(fmt::format("{}: missing, and all up to number {}", record_object(disk_, expected_), last));
    }
    replay_.reset();
    expected_ = last + 1;
  }

  void visit_record(std::uint64_t number) {
    const auto record = read_record(objects_, disk_, number);
    if (!record) {
      problems_.push_back(record.error().message);
      replay_.reset();
      return;
    }
    if (!replay_) return;
    if (const auto status = replay_->check(record->event); !status) {
      problems_.push_back(record_object(disk_, number) +
                          ": contradicts the records before it: " + status.error().message);
      replay_.reset();
      return;
    }
    replay_->apply(*record);
  }

  /// Compares with the sum of the records; where those are broken, the checkpoint is what later ones continue.
  void visit_checkpoint(std::uint64_t number) {
    if (number >= expected_) report_gap(number);
    auto state = read_checkpoint(objects_, disk_, number);
    if (!state) {
      // A running daemon removes old checkpoints.
      if (state.error().code != ENOENT) problems_.push_back(state.error().message);
      return;
    }
    const std::string stored = encode_checkpoint(*state, number);
    auto continued = Replay::from_checkpoint(std::move(*state), number);
    const std::string name = checkpoint_object(disk_, number);
    if (!continued) {
      problems_.push_back(continued.error().in(name).message);
    } else if (!replay_) {
      replay_ = std::move(*continued);
    } else if (stored != encode_checkpoint(replay_->state(), number)) {
      problems_.push_back(name + ": is not what the records up to it add up to");
    }
  }

  objects::ObjectStore& objects_;
  const DiskId disk_;
  std::vector<std::string>& problems_;
  std::optional<Replay> replay_;  ///< nothing after a record that could not be applied
  std::uint64_t expected_ = 1;    ///< number after the last one seen or reported missing
};

}  // namespace

Status verify_log(objects::ObjectStore& objects, DiskId id, std::vector<std::string>& problems) {
  std::vector<std::string> strangers;
  VARVE_TRY_ASSIGN(const auto checkpoints, list_numbers(objects, checkpoint_folder(id), &strangers));
  VARVE_TRY_ASSIGN(const auto records, list_numbers(objects, log_folder(id), &strangers));
  for (const std::string& stranger : strangers) problems.push_back(stranger + ": not a name that varve gives");
  Verifier(objects, id, problems).run(records, checkpoints);
  return {};
}

}  // namespace varve::catalog
