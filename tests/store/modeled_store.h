// A Store beside a plain model of what it must hold. Each operation is done to both; a machine that dies (or a call that
// fails) in the middle of one leaves the outcomes that the promises allow, and no others:
//
//   live image   after a kill what was acknowledged, exactly; after a power loss each 4 KiB block as it was at some instant
//                since the last operation that made all durable (promise 3); of the operation in flight some blocks or, where
//                it is one step (restore), all or nothing
//   snapshots    every acknowledged one, exact (promise 2); the one in flight exact or absent; no other (promises 1, 4)
//   disks        as snapshots
//
// What is wrong is said in problems(), so that a test can also demand that something is.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "machine_store.h"
#include "support/image_versions.h"
#include "support/machine.h"
#include "varve/store/store.h"

namespace varve::test {

inline constexpr std::uint64_t kStoreChunk = kMinChunkSize;
inline const store::Attributes kDirectoryAttributes{0, 0, 0755, {}};
/// A snapshot that is taken for a clone, whatever its number.
inline constexpr std::string_view kAnyForClone = "clone-*";
inline constexpr std::string_view kHidden = "hidden ";

class ModeledStore {
 public:
  using ImagePointer = std::shared_ptr<const SparseImage>;
  struct Trashed {
    ImagePointer image;
    store::Care care;
  };
  struct DiskModel {
    MaybeImage live;
    std::vector<MaybeImage> history;  ///< `live` before each operation since all was durable
    std::map<std::string, ImagePointer> snapshots;
    std::map<std::string, store::Care> care;  ///< of those snapshots that have some
    std::map<std::string, Trashed> trash;
    store::Limits limits;
  };
  /// Disks by name; one whose directory was removed, of which only the trash is left, by kHidden and its name.
  struct State : std::map<std::string, DiskModel> {
    store::Limits limits;
    std::int64_t trash_keep = 0;  ///< seconds
  };

  /// What was going on.
  struct Flight {
    std::vector<State> outcomes;  ///< steps on the way, and the end
    bool by_blocks = false;       ///< live images may be anywhere between before and after
  };
  /// All that is known of a store that stopped: enough to judge what is found when it is opened again.
  struct Knowledge {
    State state;
    std::optional<Flight> flight;
    std::vector<State> doubts;  ///< outcomes of operations that failed since the last open
    std::set<std::string> latched;  ///< disks that refused since: their images are seen again when they are opened
    bool lost_power = false;        ///< since the last open
    std::uint64_t stamp = 1;
    Time time{4'000'000'000'000'000'000};  ///< by the store's clock; after every snapshot's
  };
  /// A machine as it was before a call, or in the middle of one.
  struct Moment {
    std::unique_ptr<Machine> machine;
    Knowledge knowledge;
    std::uint64_t call = 0;
    std::string text;  ///< "commit a, before sync packs/ab/…"
  };

  /// A new store on a new machine, open.
  ModeledStore();
  /// A store that stopped; open() it.
  ModeledStore(std::unique_ptr<Machine> machine, Knowledge knowledge);
  /// On something else than a machine of memory: no deaths. The store is there and empty; it is open afterwards.
  explicit ModeledStore(std::function<store::Environment()> environment);
  ~ModeledStore();
  ModeledStore(const ModeledStore&) = delete;
  ModeledStore& operator=(const ModeledStore&) = delete;

  [[nodiscard]] Machine& machine() { return *machine_; }
  [[nodiscard]] const State& state() const { return knowledge_.state; }
  [[nodiscard]] const Knowledge& knowledge() const { return knowledge_; }
  [[nodiscard]] bool is_open() const { return store_ != nullptr; }
  [[nodiscard]] store::Store& store() { return *store_; }

  // --- operations. Without effect where they make no sense as things are (after a failure); an error is a problem unless
  // its code is expected ---
  void create_disk(const std::string& disk);
  void create_image(const std::string& disk);
  void resize(const std::string& disk, std::uint64_t size);
  /// Bytes that are never written twice.
  void write(const std::string& disk, std::uint64_t at, std::uint64_t count);
  void zero(const std::string& disk, std::uint64_t at, std::uint64_t count);
  void flush(const std::string& disk);
  void snapshot(const std::string& disk, const std::string& name);
  void remove_snapshot(const std::string& disk, const std::string& name);
  void rename_snapshot(const std::string& disk, const std::string& from, const std::string& to);
  void commit(const std::string& disk);
  void upkeep(const std::string& disk);
  void collect();
  void restore(const std::string& from, const std::string& snapshot, const std::string& to);
  /// Of the live image where `snapshot` is empty.
  void clone(const std::string& from, const std::string& snapshot, const std::string& name);
  void copy(const std::string& from, const std::string& snapshot, std::uint64_t at, const std::string& to,
            std::uint64_t to_at, std::uint64_t count);
  void remove_image(const std::string& disk);
  void remove_disk(const std::string& disk);
  void rename_disk(const std::string& from, const std::string& to);
  void change_attributes(const std::string& disk);
  /// A clean unmount and a mount.
  void remount();
  // What is refused (by a hold: EBUSY; by a limit: EDQUOT) changes nothing, and that it is refused is what must happen.
  void hold(const std::string& disk, const std::string& snapshot, const std::optional<std::string>& reason);
  /// So many seconds from now.
  void set_deadline(const std::string& disk, const std::string& snapshot, std::int64_t seconds);
  /// The clock moves on, and what is over ends.
  void pass_time(std::int64_t seconds);
  void keep_trash(std::int64_t seconds);
  void undelete(const std::string& disk, const std::string& snapshot);
  void empty_trash();
  void prune(const std::string& disk, std::size_t keep_last);
  /// Of a disk; of the store where `disk` is empty.
  void limit_snapshots(const std::string& disk, std::optional<std::uint64_t> count);

  // --- death ---
  /// Before each change that a call makes, and in the middle of each write, `visit` gets that moment; all those of one
  /// operation when it has ended.
  void watch(std::function<void(Moment&&)> visit);
  /// Power loss or kill of a machine on which no store is open.
  void end(bool power_loss, std::uint64_t seed);
  /// Opens and judges what is found; from then on that is what must be there.
  void open();
  /// As watch(), while the store is opened.
  void open_watched(std::function<void(Moment&&)> visit);
  /// What the store leaves when its process dies here and now; this one is of no more use.
  [[nodiscard]] std::unique_ptr<Machine> leave();

  // --- failures ---
  struct Fault {
    int code = 0;
    Repeat repeat = Repeat::once;
    Calls calls = Calls::changes;
  };
  /// The nth call of the storage from now on fails (and, for good, all that follow). Errors with its code are expected from
  /// then on, and EIO of a disk or log that refuses until it is opened again.
  void fail_at(std::uint64_t nth, const Fault& fault);
  /// ENOSPC is expected, without any call being made to fail.
  void expect_no_space(bool expected);
  /// The medium works again. Whether the call was reached.
  bool end_faults();
  [[nodiscard]] std::uint64_t failures() const { return failures_; }
  /// Each disk of which a sync failed refuses flush and mkdir and says why. How many there are.
  std::size_t check_refusals();

  // --- looking ---
  /// Everything is as the model has it.
  void verify();
  /// It goes on: write, mkdir, commit, rmdir, collect; detours come home; check() finds nothing.
  void work();
  [[nodiscard]] const std::vector<std::string>& problems() const { return problems_; }
  void set_label(std::string label) { label_ = std::move(label); }
  [[nodiscard]] const std::string& label() const { return label_; }
  /// What is stored: the bytes of settings, logs and packs, and what makes up each live disk (its journal notes each
  /// opening, its files end with what nobody needs any more).
  [[nodiscard]] std::map<std::string, std::string> stored();

 private:
  struct Found {
    MaybeImage live;
    std::set<std::string> snapshots;
    std::map<std::string, store::Care> care;
    std::map<std::string, Trashed> trash;  ///< without images
    store::Limits limits;
  };
  struct FoundStore : std::map<std::string, Found> {
    store::Limits limits;
    std::int64_t trash_keep = 0;
  };

  [[nodiscard]] store::Environment environment();
  [[nodiscard]] Status open_store();
  void problem(const std::string& what);
  [[nodiscard]] DiskModel* model(const std::string& disk);
  [[nodiscard]] std::shared_ptr<store::Disk> pointer(const std::string& disk);
  [[nodiscard]] SnapshotId id_of(const std::string& disk, const std::string& snapshot);

  void perform(const std::string& what, Flight flight, const std::function<Status()>& call);
  void hook(bool on);
  void hand_over_moments(const Flight* flight);
  void failed(const Error& error, const Flight& flight);
  void judge_after_fault(const std::vector<State>& outcomes);
  [[nodiscard]] bool fault_was_met() const;

  /// Whether one more snapshot is beyond a limit.
  [[nodiscard]] bool limits_refuse(const std::string& disk) const;
  [[nodiscard]] Time later(std::int64_t seconds) const;
  void change_care(const std::string& what, const std::string& disk, const std::string& snapshot,
                   const std::function<void(store::Care&)>& change);
  /// As deleting does it in `state`: into the trash, or for good.
  void remove_from(State& state, const std::string& disk, const std::string& snapshot) const;
  using Step = std::function<void(State&)>;
  /// One step after the other; where calls fail, any of them: one that does not work does not keep the others.
  [[nodiscard]] std::vector<State> outcomes_of(const std::vector<Step>& steps) const;
  [[nodiscard]] std::vector<State> outcomes_of_time() const;
  /// Without space for the note that it is in the trash a snapshot is deleted for good.
  void forget_what_the_trash_could_not_take();
  [[nodiscard]] bool anything_is_over() const;
  [[nodiscard]] static ImagePointer image_for_trash(const std::vector<State>& outcomes, const std::string& disk,
                                                    const std::string& snapshot);
  [[nodiscard]] FoundStore look();
  [[nodiscard]] MaybeImage read_live(store::Disk& disk);
  /// What is found must be one of the outcomes, the first of which is that nothing happened; it becomes the state.
  void judge(const std::vector<State>& outcomes, bool by_blocks, bool strict);
  [[nodiscard]] State assemble(const FoundStore& found, const std::vector<State>& outcomes);
  void judge_live(const std::string& disk, DiskModel& model, const MaybeImage& found,
                  const std::vector<State>& outcomes, bool by_blocks);
  void compare_snapshot(store::Disk& disk, const std::string& name, const std::vector<ImagePointer>& possible);
  void check_holes(store::Disk& disk, const SparseImage& expected);

  std::unique_ptr<Machine> machine_;
  std::function<store::Environment()> environment_;
  std::unique_ptr<store::Store> store_;
  Knowledge knowledge_;
  std::function<void(Moment&&)> visit_;
  std::vector<Moment> met_;
  std::uint64_t calls_ = 0;
  std::optional<Fault> fault_;   ///< errors of it are expected
  bool fault_met_ = false;
  std::uint64_t fault_at_ = 0;   ///< counter value; 0: the medium works
  std::uint64_t failures_ = 0;
  std::string label_;
  std::string operation_;
  std::vector<std::string> problems_;
};

}  // namespace varve::test
