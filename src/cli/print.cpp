#include "print.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <map>
#include <nlohmann/json.hpp>
#include <string_view>

#include "size.h"

namespace varve::cli {
namespace {

using nlohmann::json;

/// Characters, for alignment: every byte that does not continue one.
std::size_t width_of(std::string_view text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

std::string padding(std::size_t width, std::string_view text) {
  return std::string(width - std::min(width, width_of(text)), ' ');
}

std::string text_of(const json& value) {
  if (value.is_null()) return "-";
  return value.is_string() ? value.get<std::string>() : value.dump(-1, ' ', false, json::error_handler_t::replace);
}

std::string text_of(const json& object, const char* key) {
  const auto found = object.find(key);
  return found == object.end() ? "-" : text_of(*found);
}

std::string size_of(const json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_number_unsigned() ? readable_size(found->get<std::uint64_t>()) : "-";
}

/// Keys whose numbers are bytes: what they end with.
bool means_bytes(std::string_view key) {
  constexpr std::string_view kKeys[] = {"size",     "bytes",  "allocated", "changed", "stored",
                                        "capacity", "free",   "available", "total",   "used"};
  return std::any_of(std::begin(kKeys), std::end(kKeys), [&](std::string_view end) { return key.ends_with(end); });
}

std::string fact(std::string_view key, const json& value) {
  if (value.is_string()) return readable_time(value.get<std::string>());
  if (value.is_boolean()) return value.get<bool>() ? "yes" : "no";
  if (value.is_number_unsigned() && means_bytes(key)) {
    const auto bytes = value.get<std::uint64_t>();
    return bytes < kKiB ? readable_size(bytes) : fmt::format("{} ({})", readable_size(bytes), bytes);
  }
  return text_of(value);
}

std::string label_of(std::string key) {
  std::replace(key.begin(), key.end(), '_', ' ');
  return key + ":";
}

/// One "key: value" a line, nested objects indented below their key; sizes and times in a readable form.
void print_facts(const json& object, std::size_t indent) {
  std::size_t width = 0;
  for (const auto& [key, value] : object.items()) {
    if (!value.is_structured()) width = std::max(width, width_of(key) + 1);
  }
  const std::string margin(indent, ' ');
  for (const auto& [key, value] : object.items()) {
    if (value.is_structured()) continue;
    const auto label = label_of(key);
    fmt::print("{}{}{} {}\n", margin, label, padding(width, label), fact(key, value));
  }
  for (const auto& [key, value] : object.items()) {
    if (!value.is_structured() || value.empty()) continue;
    fmt::print("{}{}\n", margin, label_of(key));
    if (value.is_object()) {
      print_facts(value, indent + 2);
      continue;
    }
    for (const auto& element : value) {
      if (element.is_object()) {
        print_facts(element, indent + 2);
      } else {
        fmt::print("{}  {}\n", margin, fact(key, element));
      }
    }
  }
}

}  // namespace

void print_json(const json& value) {
  fmt::print("{}\n", value.dump(2, ' ', false, json::error_handler_t::replace));
}

std::string readable_time(const std::string& iso8601) {
  tm parts{};
  const char* rest = ::strptime(iso8601.c_str(), "%Y-%m-%dT%H:%M:%S", &parts);
  if (rest == nullptr || !iso8601.ends_with('Z')) return iso8601;
  const time_t seconds = ::timegm(&parts);
  tm local{};
  char text[64];
  if (::localtime_r(&seconds, &local) == nullptr) return iso8601;
  return {text, std::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", &local)};
}

void print_disks(const json& answer) {
  Table table({"DISK", ">SIZE", ">HELD", ">SNAPSHOTS", "NEWEST"});
  for (const auto& disk : answer.at("disks")) {
    table.add({text_of(disk, "name"), size_of(disk, "size"), size_of(disk, "allocated"), text_of(disk, "snapshots"),
               text_of(disk, "newest_snapshot")});
  }
  table.print();
  std::fflush(stdout);
  for (const auto& reason : answer.value("damaged", json::array())) {
    fmt::print(stderr, "varve: not served: {}\n", text_of(reason));
  }
}

void print_snapshots(const json& answer) {
  Table table({"SNAPSHOT", "TIME", ">SIZE", ">CHANGED", ">STORED", "STATE"});
  for (const auto& snapshot : answer.at("snapshots")) {
    auto state = text_of(snapshot, "state");
    if (state == "pending") state += fmt::format(" {}%", text_of(snapshot, "percent"));
    if (snapshot.contains("hold")) state += ", held";
    if (snapshot.contains("deadline")) state += ", until " + readable_time(text_of(snapshot, "deadline"));
    table.add({text_of(snapshot, "name"), readable_time(text_of(snapshot, "time")), size_of(snapshot, "size"),
               size_of(snapshot, "changed"), size_of(snapshot, "stored"), state});
  }
  table.print();
}

void print_image(const json& answer) {
  json facts = answer;
  facts.erase("snapshots");
  print_facts(facts, 0);
  if (answer.value("snapshots", json::array()).empty()) return;
  fmt::print("\n");
  print_snapshots(answer);
}

void print_status(const json& answer) {
  json facts = answer;
  facts["disks"] = answer.value("disks", json::array()).size();
  print_facts(facts, 0);
}

void print_check(const json& answer) {
  const auto repair = answer.value("repair", json::object());
  for (const auto& sentence : repair.value("repaired", json::array())) fmt::print("repaired: {}\n", text_of(sentence));
  for (const auto& sentence : repair.value("failed", json::array())) fmt::print("lost: {}\n", text_of(sentence));
  if (!repair.empty()) {
    fmt::print("{} records repaired, {} packs written anew, {} records lost\n", text_of(repair, "records"),
               text_of(repair, "packs"), text_of(repair, "lost"));
  }
  for (const auto& problem : answer.at("problems")) fmt::print("problem: {}\n", text_of(problem));
  for (const auto& damage : answer.at("damaged")) {
    fmt::print("damaged: {}: {} chunks cannot be read; the first: {}\n", text_of(damage, "image"),
               text_of(damage, "chunks"), text_of(damage, "first"));
  }
  const bool clean = answer.value("clean", false);
  fmt::print("{} records, {} read and verified: {}\n", text_of(answer, "records"), size_of(answer, "bytes"),
             clean ? "no damage" : "DAMAGED, everything not named above is whole");
}

void print_collected(const json& answer) {
  fmt::print("{} freed: {} records removed; of {} packs {} removed, {} written anew, {} punched\n",
             size_of(answer, "bytes_removed"), text_of(answer, "records_removed"), text_of(answer, "packs_seen"),
             text_of(answer, "packs_removed"), text_of(answer, "packs_rewritten"), text_of(answer, "packs_punched"));
  if (answer.value("packs_joined", 0) != 0) fmt::print("{} small packs share files now\n", text_of(answer, "packs_joined"));
  if (answer.value("waiting_bytes", 0) == 0) return;
  fmt::print("{} more are freed when enough comes together in their packs\n", size_of(answer, "waiting_bytes"));
}

Table::Table(std::vector<std::string> headings) {
  for (auto& heading : headings) {
    right_.push_back(heading.starts_with('>'));
    if (right_.back()) heading.erase(0, 1);
  }
  rows_.push_back(std::move(headings));
}

void Table::print() const {
  std::vector<std::size_t> widths(right_.size(), 0);
  for (const auto& row : rows_) {
    for (std::size_t i = 0; i < widths.size(); ++i) widths[i] = std::max(widths[i], width_of(row[i]));
  }
  for (const auto& row : rows_) {
    std::string line;
    for (std::size_t i = 0; i < widths.size(); ++i) {
      const auto pad = padding(widths[i], row[i]);
      line += right_[i] ? pad + row[i] : row[i] + pad;
      line += "  ";
    }
    line.erase(line.find_last_not_of(' ') + 1);
    fmt::print("{}\n", line);
  }
}

ProgressBar::ProgressBar(std::string label) : label_(std::move(label)), on_terminal_(::isatty(STDERR_FILENO) == 1) {}

ProgressBar::~ProgressBar() {
  MutexLock lock(mutex_);
  if (!drawn_.empty()) fmt::print(stderr, "\r\033[K");
}

void ProgressBar::show(std::uint64_t done, std::uint64_t total) {
  if (!on_terminal_ || total == 0) return;
  constexpr std::size_t kCells = 40;
  const auto share = std::min(1.0, static_cast<double>(done) / static_cast<double>(total));
  const auto filled = static_cast<std::size_t>(share * static_cast<double>(kCells));
  auto line = fmt::format("\r{} [{}{}] {:3.0f}%", label_, std::string(filled, '#'), std::string(kCells - filled, ' '),
                          share * 100);
  MutexLock lock(mutex_);
  if (line == drawn_) return;
  drawn_ = std::move(line);
  fmt::print(stderr, "{}", drawn_);
  std::fflush(stderr);
}

}  // namespace varve::cli
