// A task of a ThreadPool that has an answer.
#pragma once

#include <future>
#include <memory>
#include <type_traits>
#include <utility>

#include "varve/core/thread_pool.h"

namespace varve {

/// Queues `task` like ThreadPool::submit(). The future has what it returns, or the exception that it threw.
template <class Task>
[[nodiscard]] std::future<std::invoke_result_t<Task>> submit_to(ThreadPool& pool, Task task) {
  auto packaged = std::make_shared<std::packaged_task<std::invoke_result_t<Task>()>>(std::move(task));
  auto answer = packaged->get_future();
  pool.submit([packaged] { (*packaged)(); });
  return answer;
}

}  // namespace varve
