// What the daemon tells its administrator. One line an event; names the thing concerned. Any thread.
#pragma once

#include <fmt/format.h>

#include <string_view>

namespace varve::log {

enum class Level { debug, info, warning, error };

/// Where lines go from now on: standard error (the default), or syslog for a daemon in the background.
enum class Target { standard_error, syslog };
void set_target(Target target);
void set_level(Level least);
void write(Level level, std::string_view line);

template <class... Args>
void debug(fmt::format_string<Args...> format, Args&&... args) {
  write(Level::debug, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void info(fmt::format_string<Args...> format, Args&&... args) {
  write(Level::info, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void warning(fmt::format_string<Args...> format, Args&&... args) {
  write(Level::warning, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void error(fmt::format_string<Args...> format, Args&&... args) {
  write(Level::error, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace varve::log
