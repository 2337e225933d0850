#include "open_store.h"

#include <algorithm>

#include "check.h"
#include "varve/catalog/names.h"
#include "varve/core/log.h"

namespace varve::store {
namespace {

using catalog::quoted;

/// Disks are opened and closed side by side: each costs a few dozen reads and a few syncs, mostly waiting.
constexpr std::size_t kOpenThreads = 8;
constexpr std::chrono::milliseconds kPollInterval{5};
/// Space for the first writes after a snapshot, if the next is taken within it.
constexpr std::chrono::seconds kKeepSlots{30};
constexpr std::uint64_t kShortOfSpace = 20;  ///< less than this part of it is free: collect then hurries

}  // namespace

// --- opening and closing ---

/// One line a layer: the whole stack, bottom to top.
void OpenStore::assemble(Environment environment) {
  services_.storage = std::move(environment.storage);
  services_.reserve = std::make_unique<Reserve>(*services_.storage);
  services_.maps = std::move(environment.maps);
  services_.locator = std::move(environment.locator);
  services_.objects = objects::make_directory_objects(*services_.storage);
  policies_ = std::make_unique<Policies>(*services_.storage, *services_.reserve);
  chunks::ChunkStoreOptions chunk_options;
  chunk_options.compression = settings_.compression;
  chunk_options.chunk_cache_bytes = options_.chunk_cache_bytes;
  chunk_options.node_cache_bytes = options_.node_cache_bytes;
  chunk_options.pack_bytes = options_.pack_bytes;
  if (options_.background) {
    services_.pack_writers = std::make_unique<ThreadPool>("pack", kPackThreads, kPackThreads, Urgency::can_wait);
    chunk_options.pack_writers = services_.pack_writers.get();
    services_.movers =
        std::make_unique<ThreadPool>("move", kMoverThreads, kMoverThreads * 2, Urgency::can_wait);
    services_.readers = std::make_unique<ThreadPool>("read", kReaderThreads, kReaderThreads * 8, Urgency::can_wait);
  }
  services_.chunks = std::make_unique<chunks::ChunkStore>(*services_.objects, *services_.locator, services_.registry,
                                                          settings_.geometry, std::move(chunk_options));
  services_.base = std::make_unique<snapshot::MapSource>(*services_.chunks);
  services_.encoders =
      std::make_unique<ThreadPool>("encode", kEncoderThreads, kEncoderThreads * 8, Urgency::can_wait);
  services_.prefetchers = std::make_unique<ThreadPool>("prefetch", kPrefetchThreads, kMaxQueuedPrefetches);
  space_ = std::make_unique<CountedSpace>(services_, [this] { return entries(); });
}

Result<std::shared_ptr<DiskEntry>> OpenStore::open_log(std::unique_ptr<catalog::DiskLog> log) {
  disk::LiveDiskOptions live_options;
  live_options.assume_power_loss = options_.assume_power_loss;
  live_options.volatile_names = volatile_names_;
  if (options_.background) live_options.keep_slots = kKeepSlots;
  const DiskId id = log->state()->id;
  return DiskEntry::open(services_, std::move(log), live_options, [this, id] {
    if (background_) background_->want_commit(id);
  });
}

/// Null for a disk that was removed, or whose creation was cut short; what a crash left of its files goes now (rule 13).
Result<std::shared_ptr<DiskEntry>> OpenStore::open_disk(DiskId id) {
  auto opened_log = catalog::DiskLog::open(*services_.objects, id);
  if (!opened_log && opened_log.error().kind == ErrorKind::absent) return std::shared_ptr<DiskEntry>();
  if (!opened_log) return tl::unexpected(std::move(opened_log).error());
  auto log = std::move(*opened_log);
  if (log->state()->removed) {
    if (auto swept = remove_live_files(*services_.storage, id); !swept) {
      log::warning("files of the removed disk {} stay: {}", id.value(), swept.error().message);
    }
    return std::shared_ptr<DiskEntry>();
  }
  const std::string name = log->state()->name;
  auto opened = open_log(std::move(log));
  if (!opened) {
    MutexLock lock(table_mutex_);
    damaged_names_.insert(name);
  }
  return opened;
}

Status OpenStore::recover() {
  // Before anything of ours writes: it can't tell a dead temporary from a living one.
  if (auto swept = objects::remove_temporaries(*services_.storage); !swept) {
    log::warning("temporaries of an interrupted write stay: {}", swept.error().message);
  }
  VARVE_TRY_ASSIGN(const auto ids, catalog::DiskLog::list(*services_.objects));
  if (auto names = services_.maps->list()) {
    std::ranges::sort(*names);
    volatile_names_ = std::make_shared<const std::vector<std::string>>(std::move(*names));
  }
  std::vector<Result<std::shared_ptr<DiskEntry>>> opened(ids.size(), std::shared_ptr<DiskEntry>());
  {
    // Driven by hand, things happen in one order.
    ThreadPool pool("open", options_.background ? kOpenThreads : 1, kOpenThreads * 2);
    for (std::size_t i = 0; i < ids.size(); ++i) {
      pool.submit([this, &ids, &opened, i] { opened[i] = open_disk(ids[i]); });
    }
  }
  volatile_names_.reset();
  MutexLock operations(disk_operations_);
  DiskId last;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (!opened[i]) {
      // The rest of the store is served; a damaged disk is named and left exactly as it is.
      damaged_.push_back(fmt::format("disk number {}: {}", ids[i].value(), opened[i].error().message));
      log::error("{}; it is not served, `varve check` tells more", damaged_.back());
    } else if (*opened[i] != nullptr) {
      adopt_opened(*opened[i]);
    }
    last = std::max(last, ids[i]);
  }
  // After the journals have theirs.
  services_.reserve->fill();
  MutexLock lock(table_mutex_);
  next_disk_ = DiskId{last.value() + 1};
  return {};
}

/// Two logs with one name: a mkdir that failed on the way, and could not be undone, left an empty one; that goes. Else
/// somebody copied a folder of disks/: both are data, and neither may hide the other.
void OpenStore::adopt_opened(const std::shared_ptr<DiskEntry>& entry) {
  const auto give_up = [](const std::shared_ptr<DiskEntry>& empty) {
    auto removed = empty->remove();
    if (!removed) log::warning("{}: {}", quoted(empty->name()), removed.error().message);
    return removed.has_value();
  };
  std::shared_ptr<DiskEntry> other;
  {
    MutexLock lock(table_mutex_);
    const auto it = entry->hidden() ? names_.end() : names_.find(entry->name());
    if (it != names_.end()) other = disks_.at(it->second);
  }
  if (other != nullptr && entry->empty() && give_up(entry)) return;
  const bool alone = other != nullptr && other->empty() && give_up(other);
  MutexLock lock(table_mutex_);
  if (alone) {
    names_.erase(names_.find(entry->name()));
    disks_.erase(other->id());
  } else if (other != nullptr) {
    const std::string name = entry->name();
    std::string alias = fmt::format("{} (number {})", name, entry->id().value());
    while (names_.contains(alias)) alias += "'";
    log::error("two disks are called {}; the second is served as {}, rename one", quoted(name), quoted(alias));
    entry->serve_as(alias);
  }
  adopt(entry);
}

void OpenStore::adopt(const std::shared_ptr<DiskEntry>& entry) {
  if (!entry->hidden()) names_.emplace(entry->name(), entry->id());
  root_modified_ = std::max(root_modified_, entry->created());
  disks_.emplace(entry->id(), entry);
}

void OpenStore::start_background() {
  if (!options_.background) return;
  background_ = std::make_unique<Background>(
      services_, [this] { return entries(); }, [this] { at_start(); }, [this] { step_schedule(); });
  background_->start();
  space_->start();
  collector_ = std::make_unique<Collector>(
      services_,
      [this](const snapshot::CollectOptions& options) -> Status {
        VARVE_TRY(collect_with(options));
        return {};
      },
      [this] { return short_of_space(); });
  collector_->start();
}

bool OpenStore::short_of_space() const {
  const auto now = capacity();
  return now && now->available.value() < now->total.value() / kShortOfSpace;
}

/// Once, in the background, after the store is usable.
void OpenStore::at_start() {
  const auto run = [this](StartupTask& task, const auto& work, std::string_view complaint) {
    task.state = StartupTask::State::running;
    // Asked once for each thing that is looked at.
    const std::function<bool()> stop = [this, &task] {
      ++task.looked_at;
      return services_.stopping.load();
    };
    const Status done = work(stop);
    task.state = done ? StartupTask::State::done : StartupTask::State::failed;
    if (!done && done.error().code != ECANCELED) log::warning("{}: {}", complaint, done.error().message);
  };
  run(
      services_.locator_check, [this](const auto& stop) { return services_.chunks->reconcile_locator(stop); },
      "the locator is incomplete, deduplication finds less");
  run(
      services_.first_collect,
      [this](const auto& stop) -> Status {
        VARVE_TRY(collect_with({stop, {}, {}}));
        return {};
      },
      "collect did not run");
}

Status OpenStore::close() {
  if (background_) background_->stop();
  if (collector_) collector_->stop();
  services_.stopping = true;
  space_->stop();
  const auto disks = entries();
  std::vector<Status> closed(disks.size());
  {
    // Mostly waiting for syncs, like opening. A few disks are closed in order: threads gain nothing there.
    ThreadPool pool("close", disks.size() < kOpenThreads ? 1 : kOpenThreads, kOpenThreads * 2);
    for (std::size_t i = 0; i < disks.size(); ++i) {
      pool.submit([&disks, &closed, i] { closed[i] = disks[i]->close(); });
    }
  }
  Status first;
  for (Status& one : closed) {
    if (one) continue;
    log::error("{}", one.error().message);
    if (first) first = std::move(one);
  }
  return first;
}

void OpenStore::set_observer(Observer* observer) {
  MutexLock lock(observer_mutex_);
  observer_ = observer;
}

/// What the reserve will take again is not there for writers.
Result<os::Capacity> OpenStore::capacity() const {
  VARVE_TRY_ASSIGN(os::Capacity capacity, services_.storage->capacity());
  const ByteCount missing = services_.reserve->missing();
  capacity.available = capacity.available > missing ? capacity.available - missing : ByteCount{0};
  return capacity;
}

// --- check and collect ---

/// What is known to be wrong with files that check_store() does not read.
std::vector<std::string> OpenStore::known_problems() const {
  auto problems = damaged_;
  if (const auto problem = policies_->problem()) problems.push_back(problem->message);
  return problems;
}

Result<CheckReport> OpenStore::check(const std::function<void(std::uint64_t, std::uint64_t)>& progress,
                                     const std::function<bool()>& stop) {
  return check_store(services_, entries(), known_problems(), progress, stop);
}

Result<RepairReport> OpenStore::repair(const std::function<void(std::uint64_t, std::uint64_t)>& progress,
                                       const std::function<bool()>& stop) {
  return repair_store(services_, entries(), known_problems(), progress, stop);
}

Result<snapshot::Collected> OpenStore::collect(const std::function<bool()>& stop,
                                               const std::function<void(std::uint64_t, std::uint64_t)>& progress) {
  return collect_with({stop, progress, {}});
}

Result<snapshot::Collected> OpenStore::collect_with(snapshot::CollectOptions options) {
  // A disk that could not be opened has roots that nobody can name.
  if (!damaged_.empty()) {
    return fail_refused(EIO,
                        "nothing is collected while a disk of the store is damaged: its data could not be told "
                        "from garbage");
  }
  space_->let_go();
  space_->collect_begins();
  CollectState& state = services_.collect;
  const std::uint64_t garbage = services_.garbage;
  ++state.running;
  options.progress = [&state, tell = std::move(options.progress)](std::uint64_t done, std::uint64_t total) {
    state.packs_done = done;
    state.packs_total = total;
    if (tell) tell(done, total);
  };
  auto collected = snapshot::collect_garbage(*services_.chunks, options);
  --state.running;
  if (!collected) return collected;
  space_->collect_ended();
  ++state.runs;
  state.collected = garbage;
  state.records_removed += collected->records_removed;
  state.bytes_removed += collected->bytes_removed;
  state.packs_joined += collected->packs_joined;
  state.waiting_records = collected->waiting_records;
  state.waiting_bytes = collected->waiting_bytes;
  return collected;
}

// --- driven by hand ---

bool OpenStore::wait_until_quiet(std::chrono::milliseconds limit) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  for (;;) {
    bool quiet = true;
    for (const auto& disk : entries()) {
      if (!background_) {
        while (disk->commit_one().value_or(false)) {
        }
        while (disk->upkeep().value_or(false)) {
        }
      }
      quiet = quiet && disk->live().pending_count() == 0 && disk->live().counters().detour_chunks == 0;
    }
    if (quiet) return true;
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(kPollInterval);
  }
}

Result<bool> OpenStore::step_commit(DiskId id) {
  VARVE_TRY_ASSIGN(const auto disk, entry(id));
  return disk->commit_one();
}

Status OpenStore::step_upkeep(DiskId id) {
  VARVE_TRY_ASSIGN(const auto disk, entry(id));
  VARVE_TRY(disk->upkeep());
  return {};
}

}  // namespace varve::store
