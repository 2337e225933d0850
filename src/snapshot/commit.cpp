// Commit: the frozen chunks of a disk's oldest pending snapshot become records, and its map is built on P, the map of
// its parent.
//
// Durable order. A step begins when the one before it is durable; a crash between any two loses nothing:
//
//     step                                             by                     a crash after it leaves
//  1  packs of chunks and of map nodes                 RecordWriter::finish   garbage packs; commit starts again
//  2  log record "snapshot" with the root              caller                 complete and still pending: the log wins
//  3  successor's P := root, pending record and pins   LiveDisk::committed    nothing to do
//     go, in this order (rules 4, 5)
//
// What a frozen run becomes, by its place at the freeze:
//
//     Zero           no entry                           MapBuilder::zero, whole subtrees for one ref
//     Base           what L has there                   MapBuilder::splice, subtrees shared
//     Home, Detour   chunk by chunk, see below          MapBuilder::set
//     (unchanged)    what P has                         not touched
//     behind the end no entry                           MapBuilder::zero
//
// States of a chunk between its reading and the map. Only the commit's own thread changes them (a reader fills in what it
// has read, and looks at nothing else):
//
//     state     entered in                 when                                  left in
//     reading   take_chunk -> readers      it changed                            classify_next, waits for the reader
//     known     classify_next              zeros; unreadable (rule 10); a record apply_chunk
//                                          with these bytes found by digest
//     in flight classify_next -> encoders  else: see below                       apply_chunk, waits for the encoder
//     applied   apply_chunk                its ref is in the map                 -
//
// What an encoder does with a chunk, and what becomes of it:
//
//     few blocks changed (the change map)  only they were read; the rest comes from P's chunk
//     digest and bytes are P's             P's ref
//     at most half differs from P's base   a delta on that base (P's record, or what that stands on) of the blocks that
//                                          differ from P's; the others of P's delta are taken from where they are
//     else                                 a full record
//
// Invariants:
//  1. MapBuilder gets its operations in ascending order, RecordWriter its records in the order of the chunks: neighbours
//     in the image are neighbours in a pack. steps_ is that order.
//  2. A ref enters the map only while something in `hold` keeps it: P's or L's root (P's refs, splices), find_equal or
//     append.
//  3. Two chunks become one only after their bytes were compared: with P's in EncoderTask, with any other in
//     RecordWriter::find_equal, or, when both were in flight, their encodings in RecordWriter::append.
//  4. Memory: at most in_flight_limit() chunks at hand (being read, or in flight, with their encodings), and kMostSteps
//     operations that have no bytes.
//  5. A chunk that the medium does not give back ends the commit, or, where the caller has waited long enough, becomes a
//     damaged ref (rule 10), and no other chunk suffers. P's chunk that does not load is merely "not equal": the bytes
//     at hand, or read then, replace it.
//  6. Nobody sees anything of this before step 2: on an error or a stop whatever was written is garbage.
//  7. Readers and encoders work on steps and their buffers; so nothing leaves this file before they have all answered.
//  8. Steps are classified in their order, too: those of steps_ that are not yet are its last unclassified_.
#include "varve/snapshot/commit.h"

#include <algorithm>
#include <cassert>
#include <chrono>
#include <cstring>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <unordered_set>

#include "chunk_encoder.h"
#include "leaf.h"
#include "unreadable.h"
#include "varve/chunks/codec.h"
#include "varve/core/buffer.h"
#include "varve/core/log.h"
#include "varve/core/pool_task.h"
#include "varve/core/same_bytes.h"

namespace varve::snapshot {
namespace {

using chunks::MaybeRef;
using chunks::Ref;

constexpr std::size_t kMostChunksInFlight = 64;
constexpr std::size_t kMostBytesInFlight = 16 * kMiB;
constexpr std::size_t kFewestInFlight = 2;
constexpr std::size_t kMostSteps = 4096;
constexpr std::size_t kRunsAtATime = 256;
constexpr int kReadAttempts = 2;
/// Chunks that are read ahead: enough for a medium to be asked for several at a time. Beside guests one by one, for their
/// requests wait behind ours: of 4 KiB writes, one at a time, a hundredth waited for 2.3 ms, and waits for 1.3.
constexpr std::size_t kMostReading = 16;
constexpr std::size_t kMostReadingBesideGuests = 0;
constexpr std::chrono::milliseconds kBesideGuests{100};  ///< after a request

std::size_t in_flight_limit(Geometry geometry) {
  return std::clamp(kMostBytesInFlight / geometry.chunk_bytes(), kFewestInFlight, kMostChunksInFlight);
}

/// One operation on the map, in the order of the image.
struct Step {
  enum class Kind { zeros, base, chunk };
  Kind kind = Kind::chunk;
  ChunkIndex first;
  ChunkCount count{1};
  // base
  MaybeRef root;
  ChunkIndex source;
  // chunk
  MaybeRef known;                          ///< the ref, unless in flight; nothing: zeros
  std::optional<BufferPool::Lease> bytes;  ///< until known, or while in flight
  Digest digest;                           ///< of `bytes`, where they are all of the chunk
  bool zeros = false;                      ///< they are all there, and nothing else
  MaybeRef parent;                         ///< P's ref
  std::optional<disk::BlockSet> changed;   ///< what was read, where that is not all
  bool maybe_delta = false;
  std::future<Status> reading;
  std::future<Result<Outcome>> in_flight;

  [[nodiscard]] bool must_wait_for_reader() const { return is_at_work(reading); }
  [[nodiscard]] bool must_wait_for_encoder() const { return is_at_work(in_flight); }

 private:
  /// One that is deferred runs when it is asked for.
  template <class T>
  static bool is_at_work(const std::future<T>& future) {
    return future.valid() && future.wait_for(std::chrono::seconds(0)) == std::future_status::timeout;
  }
};

class Commit {
 public:
  Commit(disk::LiveDisk& live, const disk::PendingInfo& pending, chunks::ChunkStore& chunks,
         chunks::RootRegistry::Hold& hold, CommitProgress& progress, const CommitOptions& options)
      : live_(live),
        pending_(pending),
        chunks_(chunks),
        hold_(hold),
        progress_(progress),
        options_(options),
        geometry_(chunks.geometry()),
        end_(geometry_.chunks_in(pending.size).value()),
        parent_(chunks, chunks::from_opaque(live.parent_root())),
        buffers_(geometry_.chunk_bytes(), in_flight_limit(geometry_)),
        writer_(chunks, hold),
        builder_(chunks, writer_, parent_.root()) {}
  ~Commit() { wait_for_threads(); }
  Commit(const Commit&) = delete;
  Commit& operator=(const Commit&) = delete;

  Result<Committed> run();

 private:
  Status hold_root(const MaybeRef& root);
  Status for_each_run(const std::function<Status(const disk::FrozenRun&)>& visit);
  Status check_stop() const;
  Status count_chunks();
  Status take_run(const disk::FrozenRun& run);
  Status take_step(Step step);
  Status take_chunk(ChunkIndex chunk);
  void begin_to_read(Step& step);
  Status read_chunk(Step& step) const;
  Status classify_next();
  Status read(ChunkIndex chunk, std::span<std::byte> out) const;
  Status read_blocks(ChunkIndex chunk, const disk::BlockSet& blocks, std::span<std::byte> out) const;
  /// How much of the chunk lies in the image.
  [[nodiscard]] std::size_t bytes_inside(ChunkIndex chunk) const {
    return static_cast<std::size_t>(std::min<std::uint64_t>(
        geometry_.chunk_bytes(), pending_.size.value() - geometry_.start_of(chunk).value()));
  }
  Result<MaybeRef> unreadable(ChunkIndex chunk, const Error& error);
  void classify(Step& step);
  void send_to_encoders(Step& step);
  void let_go_of_bytes(Step& step);
  Result<MaybeRef> parent_ref(ChunkIndex chunk);
  Status apply_front();
  Status apply_chunk(Step& step);
  Result<MaybeRef> settle(Step& step, Outcome outcome);
  Result<Ref> append(Outcome outcome);
  void wait_for_threads();

  disk::LiveDisk& live_;
  const disk::PendingInfo& pending_;
  chunks::ChunkStore& chunks_;
  chunks::RootRegistry::Hold& hold_;
  CommitProgress& progress_;
  const CommitOptions& options_;
  const Geometry geometry_;
  const std::uint64_t end_;  ///< chunks of the image
  const chunks::ChunkMap parent_;
  std::shared_ptr<const Leaf> parent_leaf_;
  std::unordered_set<Ref> held_roots_;
  BufferPool buffers_;  ///< before steps_, whose leases go back to it
  chunks::RecordWriter writer_;
  chunks::MapBuilder builder_;
  std::deque<std::unique_ptr<Step>> steps_;  ///< invariant 1
  std::uint64_t applied_until_ = 0;          ///< chunk behind the last that is in the map
  std::size_t unclassified_ = 0;             ///< invariant 8
  std::size_t chunks_at_hand_ = 0;           ///< invariant 4
  Committed result_;
};

Result<Committed> Commit::run() {
  VARVE_TRY(hold_root(parent_.root()));
  VARVE_TRY(count_chunks());
  VARVE_TRY(for_each_run([this](const disk::FrozenRun& run) { return take_run(run); }));
  while (!steps_.empty()) {
    VARVE_TRY(check_stop());
    VARVE_TRY(apply_front());
  }
  if (end_ < kMaxChunksPerImage) VARVE_TRY(builder_.zero(ChunkIndex{end_}, ChunkCount{kMaxChunksPerImage - end_}));
  VARVE_TRY_ASSIGN(result_.root, builder_.finish());
  VARVE_TRY(check_stop());
  VARVE_TRY(writer_.finish());
  VARVE_TRY(hold_root(result_.root));
  result_.changed_bytes = std::min(pending_.changed_blocks * kBlockSize, geometry_.bytes_in(ChunkCount{end_}).value());
  result_.stored_bytes = writer_.stored_bytes();
  return result_;
}

Status Commit::hold_root(const MaybeRef& root) {
  if (!root || !held_roots_.insert(*root).second) return {};
  // P, L and what this commit wrote have owners or are held: collect cannot have condemned them.
  if (!hold_.try_hold_root(root))
    return fail(EAGAIN, ErrorKind::system, "map " + to_text(*root) + " is being collected");
  return {};
}

Status Commit::check_stop() const {
  if (options_.stop && options_.stop()) return fail(ECANCELED, ErrorKind::refused, "the commit was stopped");
  return {};
}

/// The runs of changed chunks inside the image, ascending.
Status Commit::for_each_run(const std::function<Status(const disk::FrozenRun&)>& visit) {
  std::uint64_t next = 0;
  while (next < end_) {
    VARVE_TRY(check_stop());
    VARVE_TRY_ASSIGN(const auto runs, live_.frozen_runs(pending_.id, ChunkIndex{next}, kRunsAtATime));
    if (runs.empty()) break;
    for (disk::FrozenRun run : runs) {
      assert(run.first.value() >= next && run.count.value() > 0);
      if (run.first.value() >= end_) return {};
      run.count = ChunkCount{std::min(run.count.value(), end_ - run.first.value())};
      VARVE_TRY(visit(run));
      next = run.first.value() + run.count.value();
    }
  }
  return {};
}

Status Commit::count_chunks() {
  std::uint64_t total = 0;
  VARVE_TRY(for_each_run([&](const disk::FrozenRun& run) -> Status {
    total += run.count.value();
    return {};
  }));
  progress_.chunks_total = total;
  progress_.chunks_done = 0;
  return {};
}

Status Commit::take_run(const disk::FrozenRun& run) {
  Step step;
  step.first = run.first;
  step.count = run.count;
  switch (run.place) {
    case disk::PlaceKind::zero:
      step.kind = Step::Kind::zeros;
      return take_step(std::move(step));
    case disk::PlaceKind::base:
      step.kind = Step::Kind::base;
      step.root = chunks::from_opaque(run.root);
      step.source = run.source;
      VARVE_TRY(hold_root(step.root));
      return take_step(std::move(step));
    case disk::PlaceKind::home:
    case disk::PlaceKind::detour:
      break;
  }
  for (std::uint64_t i = 0; i < run.count.value(); ++i) {
    VARVE_TRY(check_stop());
    VARVE_TRY(take_chunk(run.first + ChunkCount{i}));
  }
  return {};
}

/// Queues a step; classifies, and applies from the front, whatever needs no waiting or must make room.
Status Commit::take_step(Step step) {
  steps_.push_back(std::make_unique<Step>(std::move(step)));
  ++unclassified_;
  if (steps_.back()->bytes) begin_to_read(*steps_.back());
  const std::size_t most_reading = live_.in_use(kBesideGuests) ? kMostReadingBesideGuests : kMostReading;
  const auto must_classify = [this, most_reading] {
    return unclassified_ > 0 &&
           (unclassified_ > most_reading || !steps_[steps_.size() - unclassified_]->must_wait_for_reader());
  };
  while (must_classify()) VARVE_TRY(classify_next());
  const auto is_full = [this] {
    return chunks_at_hand_ >= in_flight_limit(geometry_) || steps_.size() >= kMostSteps;
  };
  const auto is_ready = [this] { return steps_.size() > unclassified_ && !steps_.front()->must_wait_for_encoder(); };
  while (!steps_.empty() && (is_full() || is_ready())) VARVE_TRY(apply_front());
  assert(chunks_at_hand_ < in_flight_limit(geometry_) && steps_.size() < kMostSteps);  // invariant 4
  return {};
}

Status Commit::take_chunk(ChunkIndex chunk) {
  Step step;
  step.first = chunk;
  VARVE_TRY_ASSIGN(step.parent, parent_ref(chunk));
  if (step.parent && step.parent->damaged()) step.parent.reset();
  step.bytes.emplace(buffers_.take());
  ++chunks_at_hand_;
  return take_step(std::move(step));
}

/// The step is in steps_ already: a reader points to it.
void Commit::begin_to_read(Step& step) {
  if (options_.readers == nullptr) {
    step.reading = std::async(std::launch::deferred, [this, &step] { return read_chunk(step); });
    return;
  }
  step.reading = submit_to(*options_.readers, [this, &step] { return read_chunk(step); });
}

Status Commit::classify_next() {
  Step& step = *steps_[steps_.size() - unclassified_];
  if (step.reading.valid()) {
    const Status got = step.reading.get();
    if (got) {
      classify(step);
    } else {
      if (!bytes_are_lost(got.error())) return got;
      VARVE_TRY_ASSIGN(step.known, unreadable(step.first, got.error()));
      let_go_of_bytes(step);
    }
  }
  --unclassified_;
  return {};
}

/// Invariant 5: what becomes of a chunk whose bytes are lost.
Result<MaybeRef> Commit::unreadable(ChunkIndex chunk, const Error& error) {
  progress_.met_unreadable = true;
  if (options_.unreadable == Unreadable::fail) return tl::unexpected(error);
  ++result_.damaged_chunks;
  log::error("snapshot \"{}\": chunk {} (bytes from {}) cannot be read and is kept as damaged: {}", pending_.name,
             chunk.value(), geometry_.start_of(chunk).value(), error.message);
  return MaybeRef{Ref::make_damaged()};
}

/// Only the blocks that changed, where P has the chunk and they are few. A reader's thread.
Status Commit::read_chunk(Step& step) const {
  const auto bytes = step.bytes->span();
  if (step.parent) {
    VARVE_TRY_ASSIGN(const auto blocks, live_.frozen_blocks(pending_.id, step.first));
    step.maybe_delta = !blocks;
    if (blocks && blocks->count() * 2 <= geometry_.blocks_per_chunk()) {
      step.changed = blocks;
      return read_blocks(step.first, *blocks, bytes);
    }
  }
  VARVE_TRY(read(step.first, bytes));
  step.zeros = all_zero(bytes);
  if (!step.zeros) step.digest = chunks_.digest(bytes);
  return {};
}

Status Commit::read(ChunkIndex chunk, std::span<std::byte> out) const {
  Status got;
  for (int attempt = 0; attempt < kReadAttempts; ++attempt) {
    got = live_.read_frozen(pending_.id, chunk, out);
    if (got) break;
  }
  VARVE_TRY(got);
  std::ranges::fill(out.subspan(bytes_inside(chunk)), std::byte{0});  // whatever the disk has behind the image's end
  return {};
}

Status Commit::read_blocks(ChunkIndex chunk, const disk::BlockSet& blocks, std::span<std::byte> out) const {
  const std::size_t count = out.size() / kBlockSize;
  for (std::size_t i = 0; i < count;) {
    std::size_t end = i;
    while (end < count && blocks.test(end)) ++end;
    Status got;
    for (int attempt = 0; end > i && attempt < kReadAttempts; ++attempt) {
      got = live_.read_frozen_blocks(pending_.id, chunk, i, out.subspan(i * kBlockSize, (end - i) * kBlockSize));
      if (got) break;
    }
    VARVE_TRY(got);
    i = end + 1;
  }
  return {};
}

Result<MaybeRef> Commit::parent_ref(ChunkIndex chunk) {
  if (!parent_.root()) return MaybeRef{};
  const std::uint64_t number = Leaf::number_of(chunk);
  if (parent_leaf_ == nullptr || parent_leaf_->number != number) {
    VARVE_TRY_ASSIGN(parent_leaf_, load_leaf(parent_, number));
  }
  return parent_leaf_->at(chunk);
}

/// From "reading" to known or in flight.
void Commit::classify(Step& step) {
  if (step.changed) return send_to_encoders(step);
  if (step.zeros) return let_go_of_bytes(step);
  if (!step.parent || step.parent->digest != step.digest) {
    step.known = writer_.find_equal(chunks::RecordKind::full, step.digest, step.bytes->span());
    if (step.known) {
      ++result_.shared_chunks;
      return let_go_of_bytes(step);
    }
  }
  send_to_encoders(step);
}

void Commit::let_go_of_bytes(Step& step) {
  step.bytes.reset();
  --chunks_at_hand_;
}

void Commit::send_to_encoders(Step& step) {
  auto encoder = std::make_shared<EncoderTask>(EncoderTask{
      chunks_, step.bytes->span(), bytes_inside(step.first), step.parent, step.changed, step.maybe_delta, step.digest,
      [this, chunk = step.first](std::span<std::byte> out) { return read(chunk, out); }});
  step.in_flight = submit_to(options_.encoders, [encoder] { return encoder->run(); });
}

Status Commit::apply_front() {
  if (unclassified_ == steps_.size()) VARVE_TRY(classify_next());
  Step& step = *steps_.front();
  assert(step.first.value() >= applied_until_);  // invariant 1
  applied_until_ = step.first.value() + step.count.value();
  switch (step.kind) {
    case Step::Kind::zeros:
      VARVE_TRY(builder_.zero(step.first, step.count));
      break;
    case Step::Kind::base:
      VARVE_TRY(builder_.splice(step.first, step.count, step.root, step.source));
      break;
    case Step::Kind::chunk:
      VARVE_TRY(apply_chunk(step));
      break;
  }
  progress_.chunks_done += step.count.value();
  steps_.pop_front();
  return {};
}

Status Commit::apply_chunk(Step& step) {
  if (step.in_flight.valid()) {
    auto outcome = step.in_flight.get();
    if (!outcome) return tl::unexpected(std::move(outcome).error());
    VARVE_TRY_ASSIGN(step.known, settle(step, std::move(*outcome)));
    let_go_of_bytes(step);
  }
  return builder_.set(step.first, step.known);
}

Result<MaybeRef> Commit::settle(Step& step, Outcome outcome) {
  switch (outcome.kind) {
    case Outcome::Kind::zeros:
      return MaybeRef{};
    case Outcome::Kind::unreadable:
      return unreadable(step.first, outcome.error);
    case Outcome::Kind::parent:
      ++result_.shared_chunks;
      return step.parent;
    case Outcome::Kind::delta:
    case Outcome::Kind::full:
      break;
  }
  if (step.changed) {
    // Its digest was not known before.
    if (auto found = writer_.find_equal(chunks::RecordKind::full, outcome.digest, step.bytes->span())) {
      ++result_.shared_chunks;
      return found;
    }
  }
  VARVE_TRY_ASSIGN(const Ref ref, append(std::move(outcome)));
  return MaybeRef{ref};
}

/// An equal chunk that was in flight at the same time may have been appended meanwhile: then nothing is stored.
Result<Ref> Commit::append(Outcome outcome) {
  const std::uint64_t before = writer_.stored_bytes();
  Result<Ref> ref = outcome.kind == Outcome::Kind::delta
                        ? writer_.append_delta(outcome.digest, std::move(outcome.delta))
                        : writer_.append(chunks::RecordKind::full, outcome.digest, geometry_.chunk_bytes(),
                                         std::move(outcome.encoded));
  if (ref) ++(writer_.stored_bytes() == before ? result_.shared_chunks : result_.new_chunks);
  return ref;
}

/// Invariant 7.
void Commit::wait_for_threads() {
  for (const auto& step : steps_) {
    if (step->must_wait_for_reader()) step->reading.wait();
    if (step->must_wait_for_encoder()) step->in_flight.wait();
  }
}

}  // namespace

Result<Committed> commit_oldest(disk::LiveDisk& live, const disk::PendingInfo& pending, chunks::ChunkStore& chunks,
                                chunks::RootRegistry::Hold& hold, CommitProgress& progress,
                                const CommitOptions& options) {
  Commit commit(live, pending, chunks, hold, progress, options);
  return commit.run();
}

}  // namespace varve::snapshot
