// An ObjectStore in memory: counts, fails and waits on demand. Whole and durable at once; power loss is tested below.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "varve/core/sync.h"
#include "varve/objects/object_store.h"

namespace varve::test {

class MemoryObjects final : public objects::ObjectStore {
 public:
  using Bytes = std::vector<std::byte>;

  Result<objects::PutOutcome> put_if_absent(std::string_view name, std::span<const std::byte> bytes) override {
    if (before_put) before_put(name);
    const int code = put_error.exchange(0);
    if (code != 0 && !put_happens_anyway) return fail_system(code, name);
    MutexLock lock(mutex_);
    const bool created = objects_.try_emplace(std::string(name), bytes.begin(), bytes.end()).second;
    if (code != 0) return fail_system(code, name);
    return created ? objects::PutOutcome::created : objects::PutOutcome::exists;
  }
  Result<std::size_t> read(std::string_view name, ByteOffset at, std::span<std::byte> out) override {
    ++reads;
    largest_read = std::max(largest_read.load(), out.size());
    if (before_read) before_read(name);
    MutexLock lock(mutex_);
    const auto it = objects_.find(name);
    if (it == objects_.end()) return fail(ENOENT, ErrorKind::absent, std::string(name));
    const std::size_t begin = std::min<std::size_t>(at.value(), it->second.size());
    const std::size_t count = std::min(out.size(), it->second.size() - begin);
    if (count > 0) std::memcpy(out.data(), it->second.data() + begin, count);
    return count;
  }
  void read_together(std::span<objects::PartRead> parts, objects::Access access) override {
    if (access == objects::Access::sequential) sequential_parts += parts.size();
    ObjectStore::read_together(parts, access);
  }
  Result<ByteCount> size(std::string_view name) override {
    MutexLock lock(mutex_);
    const auto it = objects_.find(name);
    if (it == objects_.end()) return fail(ENOENT, ErrorKind::absent, std::string(name));
    return ByteCount{it->second.size()};
  }
  Result<std::vector<std::string>> list(std::string_view folder) override { return children(folder, false); }
  Result<std::vector<std::string>> list_folders(std::string_view folder) override { return children(folder, true); }
  Status remove(std::string_view name) override {
    MutexLock lock(mutex_);
    if (const auto it = objects_.find(name); it != objects_.end()) objects_.erase(it);
    return {};
  }

  // For tests.
  [[nodiscard]] std::vector<std::string> names() {
    MutexLock lock(mutex_);
    std::vector<std::string> all;
    for (const auto& [name, bytes] : objects_) all.push_back(name);
    return all;
  }
  [[nodiscard]] Bytes get(const std::string& name) {
    MutexLock lock(mutex_);
    return objects_.at(name);
  }
  void set(const std::string& name, Bytes bytes) {
    MutexLock lock(mutex_);
    objects_[name] = std::move(bytes);
  }
  std::atomic<std::size_t> reads{0};
  std::atomic<std::size_t> largest_read{0};
  std::atomic<std::size_t> sequential_parts{0};  ///< that were read for somebody who will want what follows
  std::atomic<int> put_error{0};    ///< the next put fails so
  bool put_happens_anyway = false;  ///< … but only its acknowledgement is lost
  std::function<void(std::string_view)> before_put;
  std::function<void(std::string_view)> before_read;

 private:
  Result<std::vector<std::string>> children(std::string_view folder, bool folders) {
    MutexLock lock(mutex_);
    const std::string prefix = std::string(folder) + "/";
    std::vector<std::string> found;
    for (const auto& [name, bytes] : objects_) {
      if (!name.starts_with(prefix)) continue;
      const auto slash = name.find('/', prefix.size());
      if ((slash != std::string::npos) != folders) continue;
      const auto child = name.substr(prefix.size(), folders ? slash - prefix.size() : std::string::npos);
      if (found.empty() || found.back() != child) found.push_back(child);
    }
    return found;
  }

  Mutex mutex_;
  std::map<std::string, Bytes, std::less<>> objects_ VARVE_GUARDED_BY(mutex_);
};

}  // namespace varve::test
