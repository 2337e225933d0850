// Mutexes that clang's thread-safety analysis can check. Thin wrappers: same cost, same rules as the std ones.
#pragma once

#include <pthread.h>

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <shared_mutex>

#if defined(__clang__)
#define VARVE_TSA(x) __attribute__((x))
#else
#define VARVE_TSA(x)
#endif
#define VARVE_CAPABILITY(name) VARVE_TSA(capability(name))
#define VARVE_SCOPED VARVE_TSA(scoped_lockable)
#define VARVE_GUARDED_BY(m) VARVE_TSA(guarded_by(m))
#define VARVE_REQUIRES(...) VARVE_TSA(requires_capability(__VA_ARGS__))
#define VARVE_REQUIRES_SHARED(...) VARVE_TSA(requires_shared_capability(__VA_ARGS__))
#define VARVE_EXCLUDES(...) VARVE_TSA(locks_excluded(__VA_ARGS__))
#define VARVE_ACQUIRE(...) VARVE_TSA(acquire_capability(__VA_ARGS__))
#define VARVE_ACQUIRE_SHARED(...) VARVE_TSA(acquire_shared_capability(__VA_ARGS__))
#define VARVE_RELEASE(...) VARVE_TSA(release_capability(__VA_ARGS__))
#define VARVE_RELEASE_SHARED(...) VARVE_TSA(release_shared_capability(__VA_ARGS__))
#define VARVE_RELEASE_GENERIC(...) VARVE_TSA(release_generic_capability(__VA_ARGS__))
#define VARVE_NO_ANALYSIS VARVE_TSA(no_thread_safety_analysis)

namespace varve {

class VARVE_CAPABILITY("mutex") Mutex {
 public:
  Mutex() = default;
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;
  void lock() VARVE_ACQUIRE() { inner_.lock(); }
  void unlock() VARVE_RELEASE() { inner_.unlock(); }

 private:
  friend class CondVar;
  std::mutex inner_;
};

/// Shared/exclusive lock in which a waiting exclusive holder goes before new shared ones, so that a freeze is not
/// starved by a stream of overlapping writes. Not recursive in either mode: a thread that holds it shared and takes
/// it shared again deadlocks when a writer waits in between.
class VARVE_CAPABILITY("mutex") SharedMutex {
 public:
  SharedMutex() {
    pthread_rwlockattr_t attributes;
    pthread_rwlockattr_init(&attributes);
    pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&inner_, &attributes);
    pthread_rwlockattr_destroy(&attributes);
  }
  ~SharedMutex() { pthread_rwlock_destroy(&inner_); }
  SharedMutex(const SharedMutex&) = delete;
  SharedMutex& operator=(const SharedMutex&) = delete;
  void lock() VARVE_ACQUIRE() { pthread_rwlock_wrlock(&inner_); }
  void unlock() VARVE_RELEASE() { pthread_rwlock_unlock(&inner_); }
  void lock_shared() VARVE_ACQUIRE_SHARED() { pthread_rwlock_rdlock(&inner_); }
  void unlock_shared() VARVE_RELEASE_SHARED() { pthread_rwlock_unlock(&inner_); }

 private:
  pthread_rwlock_t inner_;
};

class VARVE_SCOPED MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) VARVE_ACQUIRE(mutex) : mutex_(mutex) { mutex_.lock(); }
  ~MutexLock() VARVE_RELEASE() { mutex_.unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& mutex_;
};

class VARVE_SCOPED ExclusiveLock {
 public:
  explicit ExclusiveLock(SharedMutex& mutex) VARVE_ACQUIRE(mutex) : mutex_(mutex) { mutex_.lock(); }
  ~ExclusiveLock() VARVE_RELEASE() { mutex_.unlock(); }
  ExclusiveLock(const ExclusiveLock&) = delete;
  ExclusiveLock& operator=(const ExclusiveLock&) = delete;

 private:
  SharedMutex& mutex_;
};

class VARVE_SCOPED SharedLock {
 public:
  explicit SharedLock(SharedMutex& mutex) VARVE_ACQUIRE_SHARED(mutex) : mutex_(mutex) { mutex_.lock_shared(); }
  ~SharedLock() VARVE_RELEASE_GENERIC() { mutex_.unlock_shared(); }
  SharedLock(const SharedLock&) = delete;
  SharedLock& operator=(const SharedLock&) = delete;

 private:
  SharedMutex& mutex_;
};

/// Waits on a Mutex that the caller holds. Wake-ups may be spurious: loop on the condition.
class CondVar {
 public:
  void wait(Mutex& mutex) VARVE_REQUIRES(mutex) {
    std::unique_lock<std::mutex> lock(mutex.inner_, std::adopt_lock);
    inner_.wait(lock);
    lock.release();
  }
  /// False when the time passed without a notification.
  template <class Rep, class Period>
  bool wait_for(Mutex& mutex, std::chrono::duration<Rep, Period> time) VARVE_REQUIRES(mutex) {
    std::unique_lock<std::mutex> lock(mutex.inner_, std::adopt_lock);
    const auto outcome = inner_.wait_for(lock, time);
    lock.release();
    return outcome == std::cv_status::no_timeout;
  }
  void notify_one() { inner_.notify_one(); }
  void notify_all() { inner_.notify_all(); }

 private:
  std::condition_variable inner_;
};

}  // namespace varve
