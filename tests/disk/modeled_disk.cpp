#include "modeled_disk.h"

#include <algorithm>
#include <sstream>
#include <utility>

namespace varve::test {
namespace {

using disk::CopyRun;
using disk::FrozenRun;
using disk::LiveDisk;
using disk::PlaceKind;

constexpr std::uint64_t kReadWhole = 128 * kTestChunk;  ///< larger images are read where something may be
constexpr std::uint64_t kMostDataRead = 512 * kTestChunk;
constexpr std::uint64_t kSector = 512;
constexpr std::size_t kTraceLength = 60;
constexpr std::size_t kMostSteps = 20'000;

std::string text(std::uint64_t value) { return std::to_string(value); }

std::uint64_t chunks_in(std::uint64_t size) { return kTestGeometry.chunks_in(ByteCount{size}).value(); }

}  // namespace

ModeledDisk::ModeledDisk(std::uint64_t seed, disk::LiveDiskOptions options, MemoryStorageOptions machine)
    : machine_(machine), options_(options), random_(seed) {}

std::string ModeledDisk::where() const { return label_ + operation_ + ": "; }

std::string ModeledDisk::trace() const {
  std::ostringstream out;
  out << "the last operations:\n";
  for (const std::string& line : trace_) out << "  " << line << "\n";
  return out.str();
}

// --- operations ---

bool ModeledDisk::perform(const std::string& what, State after, Outcome outcome, Durable durable,
                          const std::function<Status()>& call) {
  if (!ready()) return false;
  operation_ = what;
  trace_.push_back(what);
  if (trace_.size() > kTraceLength) trace_.pop_front();
  const Status status = call();
  if (crash_ != nullptr && crash_->reached()) {
    trace_.back() += " [died before \"" + crash_->call() + "\"]";
    dead_ = true;
    flight_ = InFlight{std::move(after), outcome};
    return false;
  }
  if (!status) {
    trace_.back() += " [" + status.error().message + "]";
    failed(what, status.error(), after, outcome);
    return false;
  }
  history_.push_back(std::move(state_.live));
  if (durable == Durable::all) {
    history_.clear();
    unsure_.clear();
    old_names_.clear();
  }
  state_ = std::move(after);
  return true;
}

/// An operation that failed has left what it found, or, where it goes by blocks, some of them changed.
void ModeledDisk::failed(const std::string& what, const Error& error, const State& after, Outcome outcome) {
  ++failures_;
  const bool latched = disk_->latched();
  was_latched_ = was_latched_ || latched;
  const bool expected = fault_codes_.contains(error.code) || (latched && error.code == EIO);
  EXPECT_TRUE(expected) << where() << error.message;
  if (fault_codes_.empty()) return;

  std::vector<const Live*> group{&state_.live};
  if (outcome == Outcome::blocks) group.push_back(&after.live);
  auto hints = group;
  hints.push_back(&after.live);
  const bool as_old = disk_->exists() == state_.live.has_value();
  Live found = was_latched_ ? (as_old ? state_.live : after.live) : read_live(hints);
  // A write that fails may get as far as any sector.
  const bool by_blocks = outcome == Outcome::blocks;
  std::string why = why_not(found, group, by_blocks, by_blocks ? kSector : kBlockSize);
  if (!why.empty() && !by_blocks && !what.starts_with("freeze")) {
    if (why_not(found, {&after.live}, false).empty()) why.clear();
  }
  EXPECT_EQ(why, "") << where() << "after the failure (" << error.message << ")";

  const auto ids = [](const auto& list) {
    std::vector<SnapshotId> out;
    for (const auto& item : list) out.push_back(item.id);
    return out;
  };
  const auto now = ids(disk_->pending());
  const bool as_before = now == ids(state_.pending);
  EXPECT_TRUE(as_before || (!what.starts_with("freeze") && now == ids(after.pending)))
      << where() << "the list of pending snapshots is neither the old nor the new one";
  // What was appended and not sealed may be undone by a power loss; a freeze has undone itself, unless that failed too.
  if (latched || !what.starts_with("freeze")) {
    const auto in_doubt = [this](const std::vector<Pending>& list, const std::vector<Pending>& other) {
      for (const Pending& item : list) {
        if (std::ranges::find(other, item.id, &Pending::id) == other.end()) unsure_[item.id] = item;
      }
    };
    in_doubt(state_.pending, after.pending);
    in_doubt(after.pending, state_.pending);
  }
  history_.push_back(state_.live);
  history_.push_back(after.live);
  if (!as_before) state_.pending = after.pending;
  adopt_names(after.pending);
  state_.live = std::move(found);
}

/// A rename that failed is done or not.
void ModeledDisk::adopt_names(const std::vector<Pending>& after) {
  const auto infos = disk_->pending();
  for (Pending& item : state_.pending) {
    const auto other = std::ranges::find(after, item.id, &Pending::id);
    const auto info = std::ranges::find(infos, item.id, &disk::PendingInfo::id);
    if (other == after.end() || info == infos.end() || other->name == item.name || info->name != other->name) continue;
    old_names_.emplace(item.id, item);
    item = *other;
  }
}

bool ModeledDisk::create() {
  if (!ready() || state_.live) return false;
  State after = state_;
  after.live.emplace();
  return perform("create", std::move(after), Outcome::whole, Durable::nothing, [&] { return disk_->create_image(); });
}

bool ModeledDisk::remove() {
  if (!ready() || !state_.live) return false;
  State after{{}, state_.pending};
  return perform("remove", std::move(after), Outcome::whole, Durable::all, [&] { return disk_->remove_image(); });
}

bool ModeledDisk::resize(std::uint64_t size) {
  if (!ready() || !state_.live) return false;
  State after = state_;
  after.live->resize(size);
  return perform("resize " + text(size), std::move(after), Outcome::blocks, Durable::nothing,
                 [&] { return disk_->resize(ByteCount{size}); });
}

bool ModeledDisk::write(std::uint64_t at, std::span<const std::byte> bytes) {
  if (!ready() || !state_.live) return false;
  State after = state_;
  after.live->write(at, bytes);
  return perform("write " + text(at) + "+" + text(bytes.size()), std::move(after), Outcome::blocks, Durable::nothing,
                 [&] { return disk_->write(ByteOffset{at}, bytes); });
}

bool ModeledDisk::write_stamped(std::uint64_t at, std::uint64_t count) {
  Content bytes(static_cast<std::size_t>(count));
  const std::uint64_t stamp = stamp_++ * 0x9E3779B97F4A7C15u;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = static_cast<std::byte>((stamp >> (i % 8 * 8)) + (at + i) / 512);
  }
  return write(at, bytes);
}

bool ModeledDisk::zero(std::uint64_t at, std::uint64_t count) {
  if (!ready() || !state_.live) return false;
  State after = state_;
  after.live->zero(at, count);
  return perform("zero " + text(at) + "+" + text(count), std::move(after), Outcome::blocks, Durable::nothing,
                 [&] { return disk_->zero(ByteOffset{at}, ByteCount{count}); });
}

bool ModeledDisk::preallocate(std::uint64_t at, std::uint64_t count) {
  if (!ready() || !state_.live) return false;
  return perform("preallocate " + text(at) + "+" + text(count), state_, Outcome::blocks, Durable::nothing,
                 [&] { return disk_->preallocate(ByteOffset{at}, ByteCount{count}); });
}

bool ModeledDisk::flush() {
  return perform("flush", state_, Outcome::whole, Durable::all, [&] { return disk_->flush(); });
}

bool ModeledDisk::freeze() {
  if (!ready() || !state_.live) return false;
  State after = state_;
  Pending made{SnapshotId{next_id_++}, SnapshotId{acknowledged_id_}, "s", "{}", nullptr};
  made.name += text(made.id.value());
  made.image = std::make_shared<const SparseImage>(*state_.live);
  after.pending.push_back(made);
  return perform("freeze " + made.name, std::move(after), Outcome::whole, Durable::all, [&]() -> Status {
    VARVE_TRY_ASSIGN(const disk::PendingInfo info, disk_->freeze(made.id, made.parent, made.name, made.attributes));
    if (crash_ != nullptr && crash_->reached()) return {};
    EXPECT_EQ(info.id, made.id) << where();
    EXPECT_EQ(info.size.value(), made.image->size()) << where();
    acknowledged_id_ = made.id.value();
    return {};
  });
}

bool ModeledDisk::drop(std::size_t index) {
  if (!ready() || index >= state_.pending.size()) return false;
  State after = state_;
  const SnapshotId id = after.pending.at(index).id;
  after.pending.erase(after.pending.begin() + static_cast<std::ptrdiff_t>(index));
  return perform("drop s" + text(id.value()), std::move(after), Outcome::whole, Durable::pending,
                 [&] { return disk_->drop_pending(id); });
}

bool ModeledDisk::update(std::size_t index, const std::string& name, const std::string& attributes) {
  if (!ready() || index >= state_.pending.size()) return false;
  State after = state_;
  Pending& changed = after.pending.at(index);
  changed.name = name;
  changed.attributes = attributes;
  const SnapshotId id = changed.id;
  return perform("update s" + text(id.value()), std::move(after), Outcome::whole, Durable::pending,
                 [&] { return disk_->update_pending(id, name, attributes); });
}

/// The chunks of a pending snapshot, as a commit puts them together.
Result<FakeBase::Chunks> ModeledDisk::rebuild(const Pending& pending) {
  const std::uint64_t size = pending.image->size();
  const std::uint64_t end = chunks_in(size);
  VARVE_TRY_ASSIGN(FakeBase::Chunks chunks, base_.chunks_of(disk_->parent_root()));
  std::uint64_t next = 0;
  while (next < end) {
    const std::size_t most = 1 + random_() % 8;
    VARVE_TRY_ASSIGN(const auto runs, disk_->frozen_runs(pending.id, ChunkIndex{next}, most));
    EXPECT_LE(runs.size(), most) << where();
    if (runs.empty()) break;
    for (const FrozenRun& run : runs) {
      EXPECT_GE(run.first.value(), next) << where() << "frozen runs don't ascend";
      EXPECT_GT(run.count.value(), 0u) << where();
      if (run.count.value() == 0) return fail_damaged("an empty run");
      next = run.first.value() + run.count.value();
      chunks.erase(chunks.lower_bound(run.first.value()), chunks.lower_bound(next));
      if (run.place == PlaceKind::zero) continue;
      if (run.place == PlaceKind::base) {
        VARVE_TRY_ASSIGN(const auto source, base_.chunks_of(run.root));
        const std::uint64_t from = run.source.value();
        for (auto it = source.lower_bound(from); it != source.end() && it->first < from + run.count.value(); ++it) {
          chunks[run.first.value() + (it->first - from)] = it->second;
        }
        continue;
      }
      for (std::uint64_t chunk = run.first.value(); chunk < std::min(next, end); ++chunk) {
        Content bytes(kTestChunk);
        VARVE_TRY(disk_->read_frozen(pending.id, ChunkIndex{chunk}, bytes));
        if (const std::uint64_t inside = size - chunk * kTestChunk; inside < kTestChunk) {
          std::fill(bytes.begin() + static_cast<std::ptrdiff_t>(inside), bytes.end(), std::byte{0});
        }
        chunks[chunk] = std::make_shared<const Content>(std::move(bytes));
      }
    }
  }
  chunks.erase(chunks.lower_bound(end), chunks.end());
  return chunks;
}

bool ModeledDisk::commit() {
  if (!ready() || state_.pending.empty()) return false;
  const Pending oldest = state_.pending.front();
  operation_ = "commit s" + text(oldest.id.value());
  auto chunks = rebuild(oldest);
  if (crash_ != nullptr && crash_->reached()) {
    trace_.push_back(operation_ + " [died before \"" + crash_->call() + "\", reading]");
    dead_ = true;
    flight_ = InFlight{state_, Outcome::whole};
    return false;
  }
  EXPECT_TRUE(chunks) << where() << chunks.error().message;
  if (!chunks) return false;
  std::set<std::uint64_t> look;
  for (const auto& [chunk, unused] : *chunks) look.insert(chunk);
  for (const auto& [block, unused] : oldest.image->blocks()) look.insert(block * kBlockSize / kTestChunk);
  for (const std::uint64_t chunk : look) {
    const Content expected = oldest.image->read(chunk * kTestChunk, kTestChunk);
    const auto it = chunks->find(chunk);
    const bool same = it == chunks->end() ? oldest.image->zeros(chunk * kTestChunk, kTestChunk) : *it->second == expected;
    EXPECT_TRUE(same) << where() << "chunk " << chunk << " put together from P and what is frozen is not the snapshot's";
    if (!same) return false;
  }
  complete_.push_back({base_.add(std::move(*chunks)), oldest.image});
  const OpaqueRoot root = complete_.back().root;
  State after = state_;
  after.pending.erase(after.pending.begin());
  return perform(operation_, std::move(after), Outcome::whole, Durable::pending,
                 [&] { return disk_->committed(oldest.id, root); });
}

bool ModeledDisk::splice(std::uint64_t first, std::uint64_t count, const Complete& from, std::uint64_t source,
                         std::uint64_t size_at_least) {
  if (!ready() || !state_.live) return false;
  State after = state_;
  const std::uint64_t size = std::max(after.live->size(), size_at_least);
  const std::uint64_t at = first * kTestChunk;
  const std::uint64_t length = count * kTestChunk;
  after.live->resize(std::max(size, at + length));
  after.live->zero(at, length);
  const std::uint64_t begin = source * kTestChunk;
  const auto& blocks = from.image->blocks();
  for (auto it = blocks.lower_bound(begin / kBlockSize);
       it != blocks.end() && it->first * kBlockSize < begin + length; ++it) {
    after.live->write(at + (it->first * kBlockSize - begin), *it->second);
  }
  after.live->resize(size);
  return perform("splice " + text(first) + "+" + text(count) + " from " + text(source), std::move(after),
                 Outcome::blocks, Durable::nothing, [&] {
                   return disk_->splice(ChunkIndex{first}, ChunkCount{count}, from.root, ChunkIndex{source},
                                        ByteCount{size_at_least});
                 });
}

bool ModeledDisk::replace(const Complete& from) {
  if (!ready()) return false;
  State after = state_;
  after.live = *from.image;
  return perform("replace", std::move(after), Outcome::whole, Durable::all,
                 [&] { return disk_->replace(ByteCount{from.image->size()}, from.root); });
}

bool ModeledDisk::move_home(std::size_t chunks, std::size_t* moved) {
  return perform("move home", state_, Outcome::whole, Durable::nothing, [&]() -> Status {
    VARVE_TRY_ASSIGN(const std::size_t count, disk_->move_home(chunks));
    EXPECT_LE(count, chunks) << where();
    if (moved != nullptr) *moved = count;
    return {};
  });
}

bool ModeledDisk::tidy() {
  return perform("tidy", state_, Outcome::whole, Durable::nothing, [&] { return disk_->tidy(); });
}

bool ModeledDisk::close_and_open() {
  if (!perform("close", state_, Outcome::whole, Durable::all, [&] { return disk_->close(); })) return false;
  disk_.reset();
  machine_.kill();
  if (crash_ != nullptr) {  // kill() ends only a cut
    const Status opened = open();
    if (crash_->reached()) {
      trace_.push_back("open [died before \"" + crash_->call() + "\"]");
      dead_ = true;
      flight_ = InFlight{state_, Outcome::whole};
      return false;
    }
    EXPECT_TRUE(opened) << where() << opened.error().message;
    return opened.has_value();
  }
  Status opened = open();
  if (!opened && !fault_codes_.empty()) {
    machine_.storage.clear_faults();
    machine_.memory.calls().clear();
    opened = open();
  }
  EXPECT_TRUE(opened) << where() << opened.error().message;
  return opened.has_value();
}

/// Calls `mark` where the maps have different bytes, or one has none.
Status ModeledDisk::differences(const OpaqueRoot& from, const OpaqueRoot& to, const disk::MarkChunks& mark) {
  VARVE_TRY_ASSIGN(const FakeBase::Chunks old, base_.chunks_of(from));
  VARVE_TRY_ASSIGN(const FakeBase::Chunks now, base_.chunks_of(to));
  std::set<std::uint64_t> all;
  for (const auto& [chunk, unused] : old) all.insert(chunk);
  for (const auto& [chunk, unused] : now) all.insert(chunk);
  for (const std::uint64_t chunk : all) {
    const auto before = old.find(chunk);
    const auto after = now.find(chunk);
    const bool same = before != old.end() && after != now.end() && *before->second == *after->second;
    if (!same) mark(ChunkIndex{chunk}, ChunkCount{1});
  }
  return {};
}

bool ModeledDisk::replace_parent(const OpaqueRoot& root) {
  if (!ready()) return false;
  const auto parent = disk_->parent();
  if (parent.needed_pending) return false;
  return perform("replace parent", state_, Outcome::whole, Durable::all, [&]() -> Status {
    return disk_->replace_parent(parent.root, root, [&](const disk::MarkChunks& mark) -> Status {
      return parent.needed_live ? differences(parent.root, root, mark) : Status{};
    });
  });
}

void ModeledDisk::collect() {
  if (!ready()) return;
  auto held = disk_->roots();
  for (const Complete& snapshot : complete_) held.push_back(snapshot.root);
  base_.keep_only(held);
}

ModeledDisk::Complete ModeledDisk::add_complete(const SparseImage& image) {
  complete_.push_back({base_.add(image, kTestGeometry), std::make_shared<const SparseImage>(image)});
  return complete_.back();
}

void ModeledDisk::forget_complete(std::size_t index) {
  complete_.erase(complete_.begin() + static_cast<std::ptrdiff_t>(index));
}

// --- death ---

void ModeledDisk::end(End how, std::uint64_t seed) {
  machine_.cut_off();
  disk_.reset();
  if (how == End::power_loss) {
    machine_.lose_power(seed);
  } else if (crash_ != nullptr) {
    crash_->kill();
  } else {
    machine_.kill();
  }
  crash_.reset();
  lossy_ = lossy_ || how != End::kill;
  assume_ = how == End::assumed_loss;
  dead_ = false;
}

Status ModeledDisk::open() {
  disk::LiveDiskOptions options = options_;
  options.assume_power_loss = assume_;
  VARVE_TRY_ASSIGN(disk_, LiveDisk::open(machine_.storage, machine_.memory, kDirectory, kId, kTestGeometry, base_,
                                         options));
  return {};
}

void ModeledDisk::recover(End how, std::uint64_t seed) {
  static constexpr const char* kNames[] = {"kill", "power loss", "kill, taken for a power loss"};
  operation_ = std::string("open after ") + kNames[static_cast<std::size_t>(how)];
  trace_.push_back(operation_ + " (" + text(seed) + ")");
  end(how, seed);
  const Status opened = open();
  ASSERT_TRUE(opened) << where() << opened.error().message;
  adopt();
}

void ModeledDisk::adopt() {
  adopt_pending();
  adopt_live();
  if (lossy_) {
    history_.clear();
  } else if (flight_) {
    history_.push_back(flight_->after.live);
  }
  flight_.reset();
  unsure_.clear();
  old_names_.clear();
  was_latched_ = false;
  lossy_ = false;
  assume_ = false;
}

void ModeledDisk::adopt_pending() {
  std::map<SnapshotId, std::vector<Pending>> possible;
  std::set<SnapshotId> optional;
  for (const Pending& item : state_.pending) possible[item.id].push_back(item);
  for (const auto& [id, item] : unsure_) {
    possible[id].push_back(item);
    optional.insert(id);
  }
  for (const auto& [id, item] : old_names_) {
    if (const auto it = possible.find(id); it != possible.end()) it->second.push_back(item);
  }
  if (flight_) {
    std::set<SnapshotId> after;
    for (const Pending& item : flight_->after.pending) {
      after.insert(item.id);
      if (std::ranges::find(state_.pending, item.id, &Pending::id) == state_.pending.end()) optional.insert(item.id);
      possible[item.id].push_back(item);
    }
    for (const Pending& item : state_.pending) {
      if (!after.contains(item.id)) optional.insert(item.id);
    }
  }
  std::vector<Pending> found;
  for (const disk::PendingInfo& info : disk_->pending()) {
    const auto it = possible.find(info.id);
    EXPECT_NE(it, possible.end()) << where() << "snapshot " << info.id.value() << " is back from the dead";
    if (it == possible.end()) continue;
    const auto fit = std::ranges::find_if(it->second, [&](const Pending& item) {
      return item.name == info.name && item.attributes == info.attributes;
    });
    EXPECT_NE(fit, it->second.end()) << where() << "snapshot " << info.id.value() << " is called " << info.name;
    found.push_back(fit == it->second.end() ? it->second.front() : *fit);
    optional.erase(info.id);
    possible.erase(it);
  }
  for (const auto& [id, unused] : possible) {
    EXPECT_TRUE(optional.contains(id)) << where() << "snapshot " << id.value() << " is lost";
  }
  state_.pending = std::move(found);
  check_pending_list(state_.pending);
  for (const Pending& item : state_.pending) compare("s" + text(item.id.value()), pending_image(item.id), *item.image);
}

void ModeledDisk::adopt_live() {
  std::vector<const Live*> group{&state_.live};
  if (lossy_ || was_latched_) {
    for (const Live& past : history_) group.push_back(&past);
  }
  const bool by_blocks = flight_ && flight_->outcome == Outcome::blocks;
  if (by_blocks) group.push_back(&flight_->after.live);
  auto hints = group;
  if (flight_) hints.push_back(&flight_->after.live);
  Live found = read_live(hints);
  // A write of part of a block after a failed sync may have been put on top of an older version of it.
  std::string why = why_not(found, group, by_blocks, was_latched_ ? 1 : kBlockSize);
  if (!why.empty() && flight_ && !by_blocks && why_not(found, {&flight_->after.live}, false).empty()) why.clear();
  EXPECT_EQ(why, "") << where() << "the live image is as it never was";
  if (flight_ && !lossy_) history_.push_back(state_.live);
  state_.live = std::move(found);
}

ModeledDisk::Live ModeledDisk::read_live(const std::vector<const Live*>& possible) {
  if (!disk_->exists()) return std::nullopt;
  std::vector<const SparseImage*> hints;
  for (const Live* live : possible) {
    if (*live) hints.push_back(&**live);
  }
  return read_back(live_image(), disk_->info().size.value(), hints);
}

// --- looking ---

ModeledDisk::Image ModeledDisk::live_image() {
  return {[this](std::uint64_t at, std::span<std::byte> out) { return disk_->read(ByteOffset{at}, out); },
          [this](std::uint64_t at, bool data) { return disk_->seek(ByteOffset{at}, data); },
          [this](std::uint64_t first, std::uint64_t count, std::size_t runs) {
            return disk_->describe(ChunkIndex{first}, ChunkCount{count}, runs);
          }};
}

ModeledDisk::Image ModeledDisk::pending_image(SnapshotId id) {
  return {[this, id](std::uint64_t at, std::span<std::byte> out) { return disk_->read_pending(id, ByteOffset{at}, out); },
          [this, id](std::uint64_t at, bool data) { return disk_->seek_pending(id, ByteOffset{at}, data); },
          [this, id](std::uint64_t first, std::uint64_t count, std::size_t runs) {
            return disk_->describe_pending(id, ChunkIndex{first}, ChunkCount{count}, runs);
          }};
}

void ModeledDisk::read_into(SparseImage& found, const Image& image, std::uint64_t at, std::uint64_t count) {
  Content bytes(static_cast<std::size_t>(count));
  const auto got = image.read(at, bytes);
  EXPECT_TRUE(got) << where() << "read at " << at << ": " << got.error().message;
  if (!got) return;
  const std::uint64_t inside = at >= found.size() ? 0 : std::min(count, found.size() - at);
  EXPECT_EQ(*got, inside) << where() << "read of " << count << " bytes at " << at;
  const std::uint64_t size = found.size();
  found.write(at, std::span(bytes).first(std::min(*got, bytes.size())));
  if (found.size() != size) found.resize(size);
}

/// Small images whole; of large ones whatever may not be zeros, by the hints and by what the disk itself calls data.
SparseImage ModeledDisk::read_back(const Image& image, std::uint64_t size,
                                   const std::vector<const SparseImage*>& hints) {
  SparseImage found;
  found.resize(size);
  if (size <= kReadWhole) {
    read_into(found, image, 0, size + 100);
    return found;
  }
  std::set<std::uint64_t> chunks{0, size / kTestChunk};
  for (const SparseImage* hint : hints) {
    for (const auto& [block, unused] : hint->blocks()) chunks.insert(block * kBlockSize / kTestChunk);
  }
  std::uint64_t read = 0;
  for (ByteOffset at{0}; read < kMostDataRead;) {
    const auto data = image.seek(at.value(), true);
    if (!data) {
      EXPECT_EQ(data.error().code, ENXIO) << where() << data.error().message;
      break;
    }
    const auto hole = image.seek(data->value(), false);
    EXPECT_TRUE(hole) << where() << hole.error().message;
    if (!hole) break;
    EXPECT_GT(*hole, *data) << where();
    for (std::uint64_t c = data->value() / kTestChunk; c * kTestChunk < hole->value() && read < kMostDataRead; ++c) {
      chunks.insert(c);
      read += kTestChunk;
    }
    if (*hole <= at) break;
    at = *hole;
    if (at.value() >= size) break;
  }
  for (const std::uint64_t chunk : chunks) {
    if (chunk * kTestChunk < size) read_into(found, image, chunk * kTestChunk, kTestChunk);
  }
  return found;
}

void ModeledDisk::compare(const std::string& what, const Image& image, const SparseImage& expected) {
  const Live found = read_back(image, expected.size(), {&expected});
  const Live wanted = expected;
  EXPECT_EQ(why_not(found, {&wanted}, false), "") << where() << what;
}

void ModeledDisk::check_seek(const std::string& what, const Image& image, const SparseImage& expected) {
  const std::uint64_t size = expected.size();
  for (const bool data : {false, true}) {
    for (const std::uint64_t at : {size, size + 1}) {
      const auto beyond = image.seek(at, data);
      EXPECT_TRUE(!beyond && beyond.error().code == ENXIO) << where() << what << ": seek at or behind the end";
    }
  }
  std::uint64_t at = size == 0 || random_() % 2 == 0 ? 0 : random_() % size;
  for (std::size_t steps = 0; at < size && steps < kMostSteps; ++steps) {
    const auto data = image.seek(at, true);
    if (!data) {
      EXPECT_EQ(data.error().code, ENXIO) << where() << what << ": " << data.error().message;
      EXPECT_TRUE(expected.zeros(at, size - at)) << where() << what << ": no data said from " << at << " on";
      return;
    }
    ASSERT_TRUE(data->value() >= at && data->value() < size) << where() << what << ": data at " << data->value();
    EXPECT_TRUE(expected.zeros(at, data->value() - at)) << where() << what << ": a hole over data from " << at;
    const auto hole = image.seek(data->value(), false);
    ASSERT_TRUE(hole) << where() << what << ": " << hole.error().message;
    ASSERT_TRUE(*hole > *data && hole->value() <= size) << where() << what << ": hole at " << hole->value();
    at = hole->value();
  }
}

void ModeledDisk::check_describe(const std::string& what, const Image& image, const SparseImage& expected) {
  const std::uint64_t end = chunks_in(expected.size());
  std::uint64_t next = 0;
  for (std::size_t steps = 0; next < end && steps < kMostSteps; ++steps) {
    const std::size_t most = 1 + random_() % 5;
    const auto runs = image.describe(next, end - next, most);
    ASSERT_TRUE(runs) << where() << what << ": " << runs.error().message;
    ASSERT_TRUE(!runs->empty() && runs->size() <= most) << where() << what;
    for (const CopyRun& run : *runs) {
      ASSERT_EQ(run.first.value(), next) << where() << what << ": a description with a gap";
      ASSERT_TRUE(run.count.value() > 0 && run.count.value() <= end - next) << where() << what;
      check_run(what, run, expected);
      next += run.count.value();
    }
  }
}

void ModeledDisk::check_run(const std::string& what, const CopyRun& run, const SparseImage& expected) {
  const std::uint64_t begin = run.first.value() * kTestChunk;
  const std::uint64_t length = run.count.value() * kTestChunk;
  if (run.kind == CopyRun::Kind::zeros) {
    EXPECT_TRUE(expected.zeros(begin, length)) << where() << what << ": described as zeros from " << begin;
  }
  if (run.kind != CopyRun::Kind::shared) return;
  const auto chunks = base_.chunks_of(run.root);
  ASSERT_TRUE(chunks) << where() << what << ": " << chunks.error().message;
  std::set<std::uint64_t> look;
  const std::uint64_t source = run.source.value();
  for (auto it = chunks->lower_bound(source); it != chunks->end() && it->first < source + run.count.value(); ++it) {
    look.insert(it->first - source + run.first.value());
  }
  for (auto it = expected.blocks().lower_bound(begin / kBlockSize);
       it != expected.blocks().end() && it->first * kBlockSize < begin + length; ++it) {
    look.insert(it->first * kBlockSize / kTestChunk);
  }
  for (const std::uint64_t chunk : look) {
    const auto it = chunks->find(chunk - run.first.value() + source);
    const bool same = it == chunks->end() ? expected.zeros(chunk * kTestChunk, kTestChunk)
                                          : *it->second == expected.read(chunk * kTestChunk, kTestChunk);
    EXPECT_TRUE(same) << where() << what << ": chunk " << chunk << " is not what it is said to share";
  }
}

void ModeledDisk::check_pending_list(const std::vector<Pending>& expected) {
  const auto found = disk_->pending();
  ASSERT_EQ(found.size(), expected.size()) << where();
  for (std::size_t i = 0; i < found.size(); ++i) {
    EXPECT_EQ(found[i].id, expected[i].id) << where();
    EXPECT_EQ(found[i].parent, expected[i].parent) << where();
    EXPECT_EQ(found[i].name, expected[i].name) << where();
    EXPECT_EQ(found[i].attributes, expected[i].attributes) << where();
    EXPECT_EQ(found[i].size.value(), expected[i].image->size()) << where();
  }
  EXPECT_GE(disk_->high_water().value(), acknowledged_id_) << where();
  EXPECT_LT(disk_->high_water().value(), next_id_) << where();
}

void ModeledDisk::verify() {
  if (!ready()) return;
  if (!was_latched_) {
    EXPECT_EQ(disk_->exists(), state_.live.has_value()) << where();
  }
  EXPECT_EQ(disk_->info().exists, disk_->exists()) << where();
  check_pending_list(state_.pending);
  if (::testing::Test::HasFatalFailure()) return;
  // After a failed sync what was written since the last good one is anything until the disk is opened again.
  if (state_.live && disk_->exists() && !was_latched_) {
    EXPECT_EQ(disk_->info().size.value(), state_.live->size()) << where();
    compare("live", live_image(), *state_.live);
    check_seek("live", live_image(), *state_.live);
    check_describe("live", live_image(), *state_.live);
  }
  for (const Pending& item : state_.pending) {
    const std::string name = "s" + text(item.id.value());
    compare(name, pending_image(item.id), *item.image);
    check_seek(name, pending_image(item.id), *item.image);
    check_describe(name, pending_image(item.id), *item.image);
  }
}

void ModeledDisk::drain() {
  while (!state_.pending.empty() && !dead_ && !::testing::Test::HasFailure()) {
    if (!commit()) return;
  }
  if (!state_.live || dead_ || ::testing::Test::HasFailure()) return;
  if (freeze()) commit();
}

void ModeledDisk::settle() {
  while (!state_.pending.empty() && !dead_ && !::testing::Test::HasFailure()) {
    if (!commit()) return;
  }
  std::size_t moved = 1;
  while (moved != 0 && !dead_ && !::testing::Test::HasFailure()) {
    if (!flush() || !move_home(7, &moved)) return;  // what is unsealed is not free
  }
  if (!flush() || !tidy()) return;
  const disk::LiveDiskCounters counters = disk_->counters();
  EXPECT_EQ(counters.detour_chunks, 0u) << where();
  EXPECT_EQ(counters.partial_slots, 0u) << where() << "a Home is kept for nobody";
  EXPECT_EQ(counters.free_slots, counters.slots) << where() << "a slot leaked";
}

}  // namespace varve::test
