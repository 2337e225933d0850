// A process in the background, and how it tells whoever waits that it is usable, or why it will never be.
#pragma once

#include <string>

#include "varve/core/result.h"
#include "varve/os/descriptor.h"

namespace varve::cli {

/// Where news of the start go: to the process in the foreground that waits for it, and to systemd.
class Readiness {
 public:
  /// For a process that stays in the foreground: failures are the caller's to report.
  Readiness() = default;
  /// Usable. From here on a process in the background logs to syslog, and whoever waited returns with success. Once.
  void ready();
  /// Why it is not usable: said by whoever waits (true), or still to be said by the caller (false).
  [[nodiscard]] bool failed(const std::string& message);

 private:
  friend Readiness start_in_background(int& exit_code);
  explicit Readiness(os::Descriptor news) : news_(std::move(news)) {}
  os::Descriptor news_;
};

/// Forks, before there is any thread. In the daemon: a session of its own, `/` as its directory, no descriptor of
/// whoever started it but standard error until ready(); `exit_code` stays -1. In the process that was started: waits
/// for the news, reports a failure, sets `exit_code` (>= 0): leave with it.
[[nodiscard]] Readiness start_in_background(int& exit_code);

/// As many descriptors as the hard limit lets: a disk holds several.
void raise_descriptor_limit();

}  // namespace varve::cli
