// A Store on a machine that can be killed and lose power: the machine stays, the stores on it come and go.
#pragma once

#include <memory>
#include <utility>

#include "support/machine.h"
#include "varve/store/store.h"

namespace varve::test {

/// Forwards to a storage that outlives it: a Store owns its environment, the machine is not the Store's.
class BorrowedStorage final : public os::Storage {
 public:
  explicit BorrowedStorage(os::Storage& lender) : lender_(lender) {}
  Result<std::unique_ptr<os::File>> open(std::string_view path, os::OpenMode mode) override {
    return lender_.open(path, mode);
  }
  Result<bool> make_directory(std::string_view path) override { return lender_.make_directory(path); }
  Status remove(std::string_view path) override { return lender_.remove(path); }
  Status remove_directory(std::string_view path) override { return lender_.remove_directory(path); }
  Status rename(std::string_view from, std::string_view to) override { return lender_.rename(from, to); }
  Status link(std::string_view from, std::string_view to) override { return lender_.link(from, to); }
  Result<std::vector<os::DirectoryEntry>> list(std::string_view path) override { return lender_.list(path); }
  Result<os::FileStatus> status(std::string_view path) override { return lender_.status(path); }
  Status sync_directory(std::string_view path) override { return lender_.sync_directory(path); }
  Result<os::Capacity> capacity() override { return lender_.capacity(); }
  Result<os::Identity> identity() override { return lender_.identity(); }

 private:
  os::Storage& lender_;
};

class BorrowedVolatileStorage final : public os::VolatileStorage {
 public:
  explicit BorrowedVolatileStorage(os::VolatileStorage& lender) : lender_(lender) {}
  Result<std::unique_ptr<os::SharedMemory>> open(std::string_view name, ByteCount size) override {
    return lender_.open(name, size);
  }
  Result<std::unique_ptr<os::SharedMemory>> open_existing(std::string_view name) override {
    return lender_.open_existing(name);
  }
  Result<std::vector<std::string>> list() override { return lender_.list(); }
  Status remove(std::string_view name) override { return lender_.remove(name); }
  Status rename(std::string_view from, std::string_view to) override { return lender_.rename(from, to); }

 private:
  os::VolatileStorage& lender_;
};

[[nodiscard]] inline store::Environment environment_on(Machine& machine) {
  return {std::make_unique<BorrowedStorage>(machine.storage), std::make_unique<BorrowedVolatileStorage>(machine.memory),
          chunks::make_memory_locator()};
}

}  // namespace varve::test
