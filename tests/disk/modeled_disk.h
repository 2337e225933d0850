// A LiveDisk on a machine that can die, beside a plain model of what it must hold. Each operation is done to both; a
// machine that died (or a call that failed) in the middle of one leaves the outcomes that the promises allow.
//
// What is known about the past: `history_` has the live image before each operation since the last one that made all
// durable. After a power loss each block is what it was at one of these instants (promise 3); a pending snapshot is
// exact always (promise 2).
#pragma once

#include <gtest/gtest.h>

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "crash_point.h"
#include "fake_base.h"
#include "support/image_versions.h"
#include "support/machine.h"
#include "support/sparse_image.h"
#include "varve/disk/live_disk.h"

namespace varve::test {

inline constexpr std::uint64_t kTestChunk = kMinChunkSize;
inline constexpr Geometry kTestGeometry{ByteCount{kTestChunk}};

/// How a running disk comes to an end. assumed_loss: a kill, but the next open is told to believe in a power loss.
enum class End { kill, power_loss, assumed_loss };

class ModeledDisk {
 public:
  using ImagePointer = std::shared_ptr<const SparseImage>;
  struct Pending {
    SnapshotId id;
    SnapshotId parent;
    std::string name;
    std::string attributes;
    ImagePointer image;
  };
  struct State {
    std::optional<SparseImage> live;
    std::vector<Pending> pending;
  };
  /// A snapshot that was committed, and that its owner still keeps.
  struct Complete {
    OpaqueRoot root;
    ImagePointer image;
  };

  explicit ModeledDisk(std::uint64_t seed = 1, disk::LiveDiskOptions options = {}, MemoryStorageOptions machine = {});

  Machine& machine() { return machine_; }
  FakeBase& base() { return base_; }
  disk::LiveDisk& disk() { return *disk_; }
  [[nodiscard]] bool is_open() const { return disk_ != nullptr; }
  [[nodiscard]] const State& state() const { return state_; }
  [[nodiscard]] const std::vector<Complete>& complete() const { return complete_; }
  disk::LiveDiskOptions& options() { return options_; }
  static constexpr const char* kDirectory = "live/7";
  static constexpr DiskId kId{7};

  // --- operations: true when done; false when the machine is dead or the call failed (an error of the test unless
  // faults are expected), or the operation makes no sense as things are ---
  bool create();
  bool remove();
  bool resize(std::uint64_t size);
  bool write(std::uint64_t at, std::span<const std::byte> bytes);
  /// Bytes that are never written twice.
  bool write_stamped(std::uint64_t at, std::uint64_t count);
  bool zero(std::uint64_t at, std::uint64_t count);
  bool preallocate(std::uint64_t at, std::uint64_t count);
  bool flush();
  bool freeze();
  bool drop(std::size_t index);
  bool update(std::size_t index, const std::string& name, const std::string& attributes);
  /// Rebuilds the oldest from P and what is frozen, compares, keeps it as complete and hands it over.
  bool commit();
  bool splice(std::uint64_t first, std::uint64_t count, const Complete& from, std::uint64_t source,
              std::uint64_t size_at_least);
  bool replace(const Complete& from);
  /// P becomes a complete snapshot's map, or none, as after the deletion of what it was.
  bool replace_parent(const OpaqueRoot& root);
  bool move_home(std::size_t chunks, std::size_t* moved = nullptr);
  bool tidy();
  bool close_and_open();
  /// What nobody holds is gone: roots() must have named all that is needed, also after a crash.
  void collect();
  /// A complete snapshot as another disk would leave it.
  Complete add_complete(const SparseImage& image);
  void forget_complete(std::size_t index);

  // --- death ---
  /// The nth change from now on, and all after it, don't happen.
  void die_at(std::uint64_t nth) { crash_ = std::make_unique<CrashPoint>(machine_, nth); }
  [[nodiscard]] bool dead() const { return dead_; }
  [[nodiscard]] CrashPoint* crash() { return crash_.get(); }
  /// Destroys the stack and ends the machine.
  void end(End how, std::uint64_t seed);
  [[nodiscard]] Status open();
  /// After open(): what is there must be what may be there; from then on it is what must be there.
  void adopt();
  void recover(End how, std::uint64_t seed);
  /// Failures with these codes are expected from now on; a latched disk's EIO always.
  void expect_faults(std::set<int> codes) { fault_codes_ = std::move(codes); }
  [[nodiscard]] std::uint64_t failures() const { return failures_; }

  // --- looking ---
  /// The image, the pending snapshots, holes and descriptions are as the model has them.
  void verify();
  /// Commits all that is pending, then a last snapshot of the image: what the change maps say must be complete.
  void drain();
  /// Without pending snapshots all detours come home and every slot is free.
  void settle();

  /// Put before each message; the operations since the last open are printed with the first failure.
  void set_label(std::string label) { label_ = std::move(label); }
  [[nodiscard]] std::string where() const;
  [[nodiscard]] std::string trace() const;
  std::mt19937_64& random() { return random_; }

 private:
  enum class Outcome { blocks, whole };            ///< of an operation that was cut off
  enum class Durable { nothing, pending, all };    ///< on success
  struct InFlight {
    State after;
    Outcome outcome = Outcome::whole;
  };
  struct Image {
    std::function<Result<std::size_t>(std::uint64_t, std::span<std::byte>)> read;
    std::function<Result<ByteOffset>(std::uint64_t, bool)> seek;
    std::function<Result<std::vector<disk::CopyRun>>(std::uint64_t, std::uint64_t, std::size_t)> describe;
  };
  using Live = MaybeImage;

  [[nodiscard]] bool ready() const { return !dead_ && disk_ != nullptr; }
  bool perform(const std::string& what, State after, Outcome outcome, Durable durable,
               const std::function<Status()>& call);
  void failed(const std::string& what, const Error& error, const State& after, Outcome outcome);
  void adopt_names(const std::vector<Pending>& after);
  Image live_image();
  Image pending_image(SnapshotId id);
  SparseImage read_back(const Image& image, std::uint64_t size, const std::vector<const SparseImage*>& hints);
  void read_into(SparseImage& found, const Image& image, std::uint64_t at, std::uint64_t count);
  void compare(const std::string& what, const Image& image, const SparseImage& expected);
  void check_seek(const std::string& what, const Image& image, const SparseImage& expected);
  void check_describe(const std::string& what, const Image& image, const SparseImage& expected);
  void check_run(const std::string& what, const disk::CopyRun& run, const SparseImage& expected);
  void check_pending_list(const std::vector<Pending>& expected);
  Live read_live(const std::vector<const Live*>& possible);
  void adopt_pending();
  void adopt_live();
  Result<FakeBase::Chunks> rebuild(const Pending& pending);
  Status differences(const OpaqueRoot& from, const OpaqueRoot& to, const disk::MarkChunks& mark);

  Machine machine_;
  FakeBase base_;
  disk::LiveDiskOptions options_;
  std::mt19937_64 random_;
  std::unique_ptr<CrashPoint> crash_;
  std::unique_ptr<disk::LiveDisk> disk_;
  State state_;
  std::vector<Live> history_;
  std::optional<InFlight> flight_;
  std::map<SnapshotId, Pending> unsure_;  ///< since a failure: there or not when opened again
  std::multimap<SnapshotId, Pending> old_names_;  ///< since a failure: what it may be called when opened again
  std::vector<Complete> complete_;
  std::set<int> fault_codes_;
  std::uint64_t failures_ = 0;
  std::uint64_t next_id_ = 1;
  std::uint64_t acknowledged_id_ = 0;
  std::uint64_t stamp_ = 1;
  bool dead_ = false;
  bool was_latched_ = false;
  bool lossy_ = false;   ///< since the last adopt(): only what was made durable is certain
  bool assume_ = false;  ///< for the next open
  std::string label_;
  std::string operation_;
  std::deque<std::string> trace_;
};

}  // namespace varve::test
