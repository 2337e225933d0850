#include "varve/core/thread_pool.h"

#include <pthread.h>
#include <sys/resource.h>

#include <cassert>
#include <exception>
#include <utility>

#include "varve/core/log.h"

namespace varve {
namespace {

constexpr std::size_t kLongestThreadName = 15;
/// A tenth of what an ordinary thread gets, when both want a processor; all of it when nobody else does.
constexpr int kNiceness = 10;

/// The number is kept whole and the name is cut, or all threads of a long-named pool would look alike in top(1).
void name_thread(std::thread& thread, const std::string& pool, std::size_t number) {
  const std::string suffix = "-" + std::to_string(number);
  const std::string name = pool.substr(0, kLongestThreadName - suffix.size()) + suffix;
  pthread_setname_np(thread.native_handle(), name.c_str());
}

/// What a task owns (a request, a promise) is released by its own destructors; the pool goes on with the next task.
void run_guarded(const std::function<void()>& task) {
  try {
    task();
  } catch (const std::exception& exception) {
    log::error("a background task was abandoned: {}", exception.what());
  }
}

}  // namespace

void give_way() {
  // Of no consequence when it fails: then they share.
  static_cast<void>(::setpriority(PRIO_PROCESS, 0, kNiceness));
}

ThreadPool::ThreadPool(std::string name, std::size_t threads, std::size_t max_queued, Urgency urgency)
    : max_queued_(max_queued) {
  assert(threads >= 1 && max_queued >= 1);
  threads_.reserve(threads);
  for (std::size_t i = 0; i < threads; ++i) {
    threads_.emplace_back([this, urgency] {
      if (urgency == Urgency::can_wait) give_way();
      run();
    });
    name_thread(threads_.back(), name, i);
  }
}

ThreadPool::~ThreadPool() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
  }
  work_.notify_all();
  for (auto& thread : threads_) thread.join();
}

void ThreadPool::submit(std::function<void()> task) {
  {
    MutexLock lock(mutex_);
    while (queue_.size() >= max_queued_) room_.wait(mutex_);
    queue_.push_back(std::move(task));
  }
  work_.notify_one();
}

bool ThreadPool::try_submit(std::function<void()> task) {
  {
    MutexLock lock(mutex_);
    if (queue_.size() >= max_queued_) return false;
    queue_.push_back(std::move(task));
  }
  work_.notify_one();
  return true;
}

void ThreadPool::drain() {
  MutexLock lock(mutex_);
  while (!queue_.empty() || running_ != 0) idle_.wait(mutex_);
}

void ThreadPool::run() {
  for (;;) {
    std::function<void()> task;
    {
      MutexLock lock(mutex_);
      while (queue_.empty() && !stopping_) work_.wait(mutex_);
      if (queue_.empty()) return;
      task = std::move(queue_.front());
      queue_.pop_front();
      ++running_;
    }
    room_.notify_one();
    run_guarded(task);
    task = nullptr;  // what it captured goes before drain() may return
    MutexLock lock(mutex_);
    if (--running_ == 0 && queue_.empty()) idle_.notify_all();
  }
}

}  // namespace varve
