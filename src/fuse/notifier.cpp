#include "notifier.h"

#include <pthread.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "varve/core/log.h"

namespace varve::fuse {
namespace {

int send(fuse_session* session, const StaleData& stale) {
  return fuse_lowlevel_notify_inval_inode(session, stale.ino, 0, 0);
}

int send(fuse_session* session, const StaleAttributes& stale) {
  return fuse_lowlevel_notify_inval_inode(session, stale.ino, -1, 0);
}

int send(fuse_session* session, const StaleEntry& stale) {
  return fuse_lowlevel_notify_inval_entry(session, stale.directory, stale.name.data(), stale.name.size());
}

int send(fuse_session* session, const Gone& gone) {
  return fuse_lowlevel_notify_delete(session, gone.directory, gone.child, gone.name.data(), gone.name.size());
}

}  // namespace

NotificationQueue::NotificationQueue(fuse_session* session, const char* thread_name)
    : session_(session), thread_([this] { run(); }) {
  pthread_setname_np(thread_.native_handle(), thread_name);
}

NotificationQueue::~NotificationQueue() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void NotificationQueue::push(Notification notification) {
  {
    MutexLock lock(mutex_);
    queue_.push_back(std::move(notification));
    ++pushed_;
  }
  changed_.notify_all();
}

bool NotificationQueue::wait_until_sent(std::chrono::milliseconds limit) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  MutexLock lock(mutex_);
  const std::uint64_t wanted = pushed_;
  while (sent_ < wanted) {
    const auto left = deadline - std::chrono::steady_clock::now();
    if (left <= left.zero() || stopping_) return false;
    changed_.wait_for(mutex_, left);
  }
  return true;
}

void NotificationQueue::run() {
  for (;;) {
    Notification next;
    {
      MutexLock lock(mutex_);
      while (queue_.empty() && !stopping_) changed_.wait(mutex_);
      if (stopping_) return;
      next = std::move(queue_.front());
      queue_.pop_front();
    }
    const int outcome = std::visit([this](const auto& what) { return send(session_, what); }, next);
    // ENOENT: the kernel does not remember it. The rest is a mount that is going away.
    if (outcome != 0 && outcome != -ENOENT && outcome != -ENODEV && outcome != -ENOTCONN) {
      log::debug("a notification to the kernel failed: {}", std::strerror(-outcome));
    }
    {
      MutexLock lock(mutex_);
      ++sent_;
    }
    changed_.notify_all();
  }
}

void Notifier::push(Notification notification) {
  const bool is_image = std::holds_alternative<StaleData>(notification);
  (is_image ? images_ : directories_).push(std::move(notification));
}

bool Notifier::wait_until_sent(std::chrono::milliseconds limit) {
  return images_.wait_until_sent(limit) && directories_.wait_until_sent(limit);
}

}  // namespace varve::fuse
