#include "collector.h"

#include <pthread.h>

#include <algorithm>

#include "varve/chunks/join_packs.h"
#include "varve/core/log.h"

namespace varve::store {
namespace {

using namespace std::chrono_literals;

constexpr auto kLook = 1s;
/// Deletions come in many: it begins when there was none for so long, or so long after the first.
constexpr auto kQuiet = 5s;
constexpr auto kLongestWait = 60s;
/// A mark of a large store costs much, whatever was deleted: at most a tenth of the time is spent on it.
constexpr int kRestFactor = 10;
constexpr auto kRetry = 60s;
/// So that guests come first.
constexpr std::uint64_t kBytesPerSecond = 64 * kMiB;
constexpr std::uint64_t kRecordsPerSecond = 100'000;

}  // namespace

Collector::Collector(Services& services, Collect collect, std::function<bool()> short_of_space)
    : services_(services), collect_(std::move(collect)), short_of_space_(std::move(short_of_space)) {}

Collector::~Collector() { stop(); }

void Collector::start() {
  thread_ = std::thread([this] { loop(); });
  pthread_setname_np(thread_.native_handle(), "collect");
}

void Collector::stop() {
  services_.stopping = true;
  {
    MutexLock lock(mutex_);
    stopping_ = true;
  }
  stop_wanted_.notify_all();
  if (thread_.joinable()) thread_.join();
}

bool Collector::sleep(Clock::duration time) {
  const auto until = Clock::now() + time;
  MutexLock lock(mutex_);
  while (!stopping_ && Clock::now() < until) {
    stop_wanted_.wait_for(mutex_, std::chrono::ceil<std::chrono::milliseconds>(until - Clock::now()));
  }
  return !stopping_;
}

void Collector::loop() {
  while (sleep(kLook)) {
    if (due(Clock::now())) {
      run();
    } else if (join_due(Clock::now())) {
      join();
    }
  }
}

bool Collector::due(Clock::time_point now) {
  const std::uint64_t made = services_.garbage;
  if (made == done_) return false;
  if (seen_ == done_) first_wanted_ = now;
  if (seen_ != made) last_wanted_ = now;
  seen_ = made;
  if (now < not_before_) return false;
  return now - last_wanted_ >= kQuiet || now - first_wanted_ >= kLongestWait || short_of_space_();
}

void Collector::run() {
  const std::uint64_t made = services_.garbage;
  joined_at_ = services_.chunks->counters().packs_written;
  const auto begin = Clock::now();
  snapshot::CollectOptions options;
  options.stop = [this] { return services_.stopping.load(); };
  options.pace = [this](std::uint64_t records, std::uint64_t bytes) { slow_down(records, bytes); };
  const Status collected = collect_(options);
  const auto end = Clock::now();
  if (!collected) {
    if (collected.error().code != ECANCELED) log::warning("collect: {}", collected.error().message);
    not_before_ = end + kRetry;
    return;
  }
  done_ = made;
  not_before_ = short_of_space_() ? end : end + (end - begin) * kRestFactor;
}

/// Collecting joins too.
bool Collector::join_due(Clock::time_point now) const {
  return now >= join_not_before_ && !short_of_space_() &&
         services_.chunks->counters().packs_written >= joined_at_ + chunks::kEnoughSmallPacks;
}

void Collector::join() {
  const std::size_t written = services_.chunks->counters().packs_written;
  chunks::JoinPacksOptions options;
  options.stop = [this] { return services_.stopping.load(); };
  options.pace = [this](std::uint64_t bytes) { slow_down(0, bytes); };
  const auto joined = chunks::join_packs(*services_.chunks, options);
  if (joined) {
    services_.collect.packs_joined += joined->objects;
  } else if (joined.error().code != ECANCELED) {
    log::warning("small packs were not joined: {}", joined.error().message);
  }
  joined_at_ = written;
  join_not_before_ = Clock::now() + kRetry;
}

void Collector::slow_down(std::uint64_t records, std::uint64_t bytes) {
  if (short_of_space_()) return;
  static_cast<void>(sleep(std::chrono::microseconds(bytes * 1'000'000 / kBytesPerSecond +
                                                    records * 1'000'000 / kRecordsPerSecond)));
}

}  // namespace varve::store
