#include "memory_objects.h"

#include <algorithm>

namespace varve::catalog::test {

using objects::PutOutcome;

Result<PutOutcome> MemoryObjects::put_if_absent(std::string_view name, std::span<const std::byte> bytes) {
  MutexLock lock(mutex_);
  Fault fault = Fault::none;
  if (!faults_.empty()) {
    fault = faults_.front();
    faults_.pop_front();
  }
  if (fault == Fault::refuse) return fail_system(ENOSPC, name);
  std::string text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (fault == Fault::arrive_late) {
    late_.emplace_back(std::string(name), std::move(text));
    return fail_system(EIO, name);
  }
  const bool created = objects_.emplace(std::string(name), std::move(text)).second;
  if (fault == Fault::lose_acknowledgement) return fail_system(EIO, name);
  return created && fault == Fault::none ? PutOutcome::created : PutOutcome::exists;
}

Result<std::size_t> MemoryObjects::read(std::string_view name, ByteOffset at, std::span<std::byte> out) {
  MutexLock lock(mutex_);
  ++reads_;
  if (unreadable_) return fail_system(EIO, name);
  const auto found = objects_.find(name);
  if (found == objects_.end()) return fail_system(ENOENT, name);
  const std::size_t begin = std::min(found->second.size(), static_cast<std::size_t>(at.value()));
  const std::size_t count = std::min(out.size(), found->second.size() - begin);
  std::ranges::copy(std::as_bytes(std::span(found->second)).subspan(begin, count), out.begin());
  return count;
}

Result<ByteCount> MemoryObjects::size(std::string_view name) {
  MutexLock lock(mutex_);
  if (unreadable_) return fail_system(EIO, name);
  const auto found = objects_.find(name);
  if (found == objects_.end()) return fail_system(ENOENT, name);
  return ByteCount{found->second.size()};
}

Result<std::vector<std::string>> MemoryObjects::list(std::string_view folder) {
  MutexLock lock(mutex_);
  std::vector<std::string> names;
  const std::string prefix = std::string(folder) + "/";
  for (auto at = objects_.lower_bound(prefix); at != objects_.end() && at->first.starts_with(prefix); ++at) {
    const std::string rest = at->first.substr(prefix.size());
    if (rest.find('/') == std::string::npos) names.push_back(rest);
  }
  std::ranges::reverse(names);  // in no order
  return names;
}

Result<std::vector<std::string>> MemoryObjects::list_folders(std::string_view folder) {
  MutexLock lock(mutex_);
  std::vector<std::string> names;
  const std::string prefix = std::string(folder) + "/";
  for (auto at = objects_.lower_bound(prefix); at != objects_.end() && at->first.starts_with(prefix); ++at) {
    const std::string rest = at->first.substr(prefix.size());
    const std::size_t slash = rest.find('/');
    if (slash == std::string::npos) continue;
    if (names.empty() || names.back() != rest.substr(0, slash)) names.push_back(rest.substr(0, slash));
  }
  return names;
}

Status MemoryObjects::remove(std::string_view name) {
  MutexLock lock(mutex_);
  if (const auto found = objects_.find(name); found != objects_.end()) objects_.erase(found);
  return {};
}

void MemoryObjects::plan(std::deque<Fault> faults) {
  MutexLock lock(mutex_);
  faults_ = std::move(faults);
}

void MemoryObjects::deliver_late() {
  MutexLock lock(mutex_);
  for (auto& [name, text] : late_) objects_.emplace(name, text);
  late_.clear();
}

void MemoryObjects::set_unreadable(bool unreadable) {
  MutexLock lock(mutex_);
  unreadable_ = unreadable;
}

std::uint64_t MemoryObjects::reads() {
  MutexLock lock(mutex_);
  return reads_;
}

std::map<std::string, std::string> MemoryObjects::contents() {
  MutexLock lock(mutex_);
  return {objects_.begin(), objects_.end()};
}

void MemoryObjects::replace(std::map<std::string, std::string> contents) {
  MutexLock lock(mutex_);
  objects_ = {contents.begin(), contents.end()};
}

void MemoryObjects::set(const std::string& name, std::string text) {
  MutexLock lock(mutex_);
  objects_[name] = std::move(text);
}

std::string MemoryObjects::get(const std::string& name) {
  MutexLock lock(mutex_);
  const auto found = objects_.find(name);
  return found == objects_.end() ? std::string() : found->second;
}

}  // namespace varve::catalog::test
