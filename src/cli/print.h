// Answers for people; --json prints them as they are.
#pragma once

#include <cstdint>
#include <cstdio>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "varve/core/sync.h"

namespace varve::cli {

void print_json(const nlohmann::json& value);
void print_disks(const nlohmann::json& answer);
void print_snapshots(const nlohmann::json& answer);
/// A disk with a table of its snapshots, or a snapshot.
void print_image(const nlohmann::json& answer);
/// The store, without its disks: `varve list` shows those.
void print_status(const nlohmann::json& answer);
void print_check(const nlohmann::json& answer);
void print_collected(const nlohmann::json& answer);

/// "2026-01-31 23:59:59" in local time for an instant in ISO-8601; anything else as it is.
[[nodiscard]] std::string readable_time(const std::string& iso8601);

/// Columns, the first aligned left and those whose heading begins with '>' right.
class Table {
 public:
  explicit Table(std::vector<std::string> headings);
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  void print() const;

 private:
  std::vector<bool> right_;
  std::vector<std::vector<std::string>> rows_;
};

/// One line on a terminal that is drawn over; nothing elsewhere. Any thread.
class ProgressBar {
 public:
  explicit ProgressBar(std::string label);
  ~ProgressBar();  ///< wipes the line
  void show(std::uint64_t done, std::uint64_t total) VARVE_EXCLUDES(mutex_);

 private:
  const std::string label_;
  const bool on_terminal_;
  Mutex mutex_;
  std::string drawn_ VARVE_GUARDED_BY(mutex_);
};

}  // namespace varve::cli
