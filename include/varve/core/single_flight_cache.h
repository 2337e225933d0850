// A byte-bounded cache in which each key is loaded once however many threads ask for it at the same time.
//
// The interleaving, once: thread A asks for K, finds nothing, leaves a Flight for K and loads without the lock.
// B asks for K, finds A's flight and waits on it. A finishes: under the lock it removes the flight, inserts the
// value (on success only: errors are never cached) and wakes B, which takes the result from the flight, so that an
// eviction between A's insert and B's wake-up loses nothing. C, asking later, finds the cached value.
#pragma once

#include <cstddef>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <unordered_map>

#include "varve/core/result.h"
#include "varve/core/sync.h"

namespace varve {

/// Values are shared and immutable. Least recently used goes first. Any thread.
template <class Key, class Value, class Hash = std::hash<Key>>
class SingleFlightCache {
 public:
  using Pointer = std::shared_ptr<const Value>;
  using Loader = std::function<Result<Pointer>()>;

  /// `budget` in the unit of the costs given at insertion (bytes). A value larger than the budget is returned but
  /// not kept.
  explicit SingleFlightCache(std::size_t budget) : budget_(budget) {}

  /// The cached value, or what `loader` returns; `cost` is asked of a loaded value.
  /// The loader runs on the calling thread, without the lock; it must not ask this cache for the same key.
  Result<Pointer> get(const Key& key, const Loader& loader, const std::function<std::size_t(const Value&)>& cost)
      VARVE_EXCLUDES(mutex_) {
    std::shared_ptr<Flight> flight;
    {
      MutexLock lock(mutex_);
      if (Pointer found = touch(key)) {
        ++hits_;
        return found;
      }
      if (auto it = flights_.find(key); it != flights_.end()) {
        flight = it->second;
        while (!flight->result.has_value()) landed_.wait(mutex_);
        ++hits_;
        return *flight->result;
      }
      flight = std::make_shared<Flight>();
      flights_.emplace(key, flight);
      ++misses_;
    }
    Result<Pointer> result = load_guarded(loader);
    {
      MutexLock lock(mutex_);
      flight->result = result;
      if (const auto it = flights_.find(key); it != flights_.end() && it->second == flight) flights_.erase(it);
      if (result && !flight->dropped) insert(key, *result, cost(**result));
    }
    landed_.notify_all();
    return result;
  }

  /// The value if it is there now; never loads.
  Pointer peek(const Key& key) VARVE_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    return touch(key);
  }

  /// Forgets the key; a load of it under way is delivered to those who wait for it, but not kept: who asks from now on
  /// gets what is loaded from now on.
  void drop(const Key& key) VARVE_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    if (auto it = flights_.find(key); it != flights_.end()) {
      it->second->dropped = true;
      flights_.erase(it);
    }
    if (auto it = entries_.find(key); it != entries_.end()) remove(it);
  }
  void clear() VARVE_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    for (auto& [key, flight] : flights_) flight->dropped = true;
    flights_.clear();
    entries_.clear();
    order_.clear();
    used_ = 0;
  }

  struct Counters {
    std::size_t used = 0;
    std::size_t budget = 0;
    std::size_t hits = 0;
    std::size_t misses = 0;
  };
  Counters counters() const VARVE_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    return {used_, budget_, hits_, misses_};
  }

 private:
  struct Flight {
    std::optional<Result<Pointer>> result;
    bool dropped = false;
  };
  struct Entry {
    Pointer value;
    std::size_t cost = 0;
    typename std::list<Key>::iterator place;
  };
  using Entries = std::unordered_map<Key, Entry, Hash>;

  /// An exception in the loader must not leave the others waiting for a flight that never lands.
  static Result<Pointer> load_guarded(const Loader& loader) {
    try {
      return loader();
    } catch (const std::bad_alloc&) {
      return fail(ENOMEM, ErrorKind::system, "out of memory while loading into a cache");
    }
  }
  Pointer touch(const Key& key) VARVE_REQUIRES(mutex_) {
    auto it = entries_.find(key);
    if (it == entries_.end()) return nullptr;
    order_.splice(order_.begin(), order_, it->second.place);
    return it->second.value;
  }
  void insert(const Key& key, const Pointer& value, std::size_t cost) VARVE_REQUIRES(mutex_) {
    if (cost > budget_) return;
    if (auto it = entries_.find(key); it != entries_.end()) remove(it);
    while (used_ + cost > budget_ && !order_.empty()) remove(entries_.find(order_.back()));
    order_.push_front(key);
    entries_.emplace(key, Entry{value, cost, order_.begin()});
    used_ += cost;
  }
  void remove(typename Entries::iterator it) VARVE_REQUIRES(mutex_) {
    used_ -= it->second.cost;
    order_.erase(it->second.place);
    entries_.erase(it);
  }

  const std::size_t budget_;
  mutable Mutex mutex_;
  CondVar landed_;
  Entries entries_ VARVE_GUARDED_BY(mutex_);
  std::list<Key> order_ VARVE_GUARDED_BY(mutex_);  ///< most recently used first
  std::unordered_map<Key, std::shared_ptr<Flight>, Hash> flights_ VARVE_GUARDED_BY(mutex_);
  std::size_t used_ VARVE_GUARDED_BY(mutex_) = 0;
  std::size_t hits_ VARVE_GUARDED_BY(mutex_) = 0;
  std::size_t misses_ VARVE_GUARDED_BY(mutex_) = 0;
};

}  // namespace varve
