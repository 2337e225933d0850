#include "varve/core/log.h"

#include <spdlog/logger.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/sinks/syslog_sink.h>
#include <syslog.h>

#include <atomic>
#include <memory>
#include <string>

#include "varve/core/sync.h"

namespace varve::log {
namespace {

spdlog::level::level_enum to_spdlog(Level level) {
  switch (level) {
    case Level::debug:
      return spdlog::level::debug;
    case Level::info:
      return spdlog::level::info;
    case Level::warning:
      return spdlog::level::warn;
    case Level::error:
      break;
  }
  return spdlog::level::err;
}

std::shared_ptr<spdlog::logger> make_logger(Target target) {
  spdlog::sink_ptr sink;
  if (target == Target::syslog) {
    sink = std::make_shared<spdlog::sinks::syslog_sink_mt>("varve", LOG_PID, LOG_DAEMON, false);
  } else {
    sink = std::make_shared<spdlog::sinks::stderr_sink_mt>();
  }
  auto logger = std::make_shared<spdlog::logger>("varve", std::move(sink));
  // The level is ours (Current::least): it must outlive a change of target.
  logger->set_level(spdlog::level::trace);
  logger->set_pattern(target == Target::syslog ? "%v" : "varve: %l: %v");
  logger->flush_on(spdlog::level::trace);
  return logger;
}

/// Lives until the process ends, so that threads and destructors that run late may still speak.
struct Current {
  Mutex mutex;
  std::shared_ptr<spdlog::logger> logger VARVE_GUARDED_BY(mutex) = make_logger(Target::standard_error);
  std::atomic<Level> least{Level::info};
};

Current& current() {
  static auto& instance = *std::make_unique<Current>().release();
  return instance;
}

/// A name chosen by a user must not be able to forge a second line.
std::string one_line(std::string_view line) {
  std::string out(line);
  for (char& c : out) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  return out;
}

}  // namespace

void set_target(Target target) {
  auto logger = make_logger(target);
  MutexLock lock(current().mutex);
  current().logger = std::move(logger);
}

void set_level(Level least) {
  current().least = least;
}

void write(Level level, std::string_view line) {
  if (level < current().least.load()) return;
  std::shared_ptr<spdlog::logger> logger;
  {
    MutexLock lock(current().mutex);
    logger = current().logger;
  }
  logger->log(to_spdlog(level), one_line(line));
}

}  // namespace varve::log
