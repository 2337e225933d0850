#include "crash_point.h"

#include <cstring>
#include <stdexcept>

namespace varve::test {
namespace {

void must(const Status& status) {
  if (!status) throw std::logic_error(status.error().message);
}

template <class T>
T must(Result<T> result) {
  if (!result) throw std::logic_error(result.error().message);
  return std::move(*result);
}

}  // namespace

CrashPoint::CrashPoint(Machine& machine, std::uint64_t nth) : machine_(machine), nth_(nth) {
  const auto hook = [this](std::string_view action, std::string_view path) { enter(action, path); };
  machine_.storage.calls().set_hook(hook);
  machine_.memory.calls().set_hook(hook);
}

CrashPoint::~CrashPoint() {
  machine_.storage.calls().set_hook({});
  machine_.memory.calls().set_hook({});
}

void CrashPoint::enter(std::string_view action, std::string_view path) {
  if (reached_ || ++calls_ != nth_) return;
  reached_ = true;
  call_ = std::string(action) + " " + std::string(path);
  save_memory();
  machine_.cut_off();
}

void CrashPoint::save_memory() {
  for (const std::string& name : must(machine_.memory.list())) {
    const auto file = must(machine_.memory.open_existing(name));
    SavedMemory& saved = memory_[name];
    saved.size = file->bytes().size();
    for (const os::Extent& extent : must(file->reserved())) {
      const auto bytes = file->bytes().subspan(static_cast<std::size_t>(extent.begin.value()),
                                               static_cast<std::size_t>(extent.length.value()));
      saved.pages[extent.begin.value()] = Content(bytes.begin(), bytes.end());
    }
  }
}

void CrashPoint::kill() {
  machine_.kill();
  if (!reached_) return;
  for (const std::string& name : must(machine_.memory.list())) must(machine_.memory.remove(name));
  for (const auto& [name, saved] : memory_) {
    const auto file = must(machine_.memory.open(name, ByteCount{saved.size}));
    for (const auto& [at, page] : saved.pages) {
      must(file->reserve(ByteOffset{at}, ByteCount{page.size()}));
      std::memcpy(file->bytes().data() + at, page.data(), page.size());
    }
  }
}

}  // namespace varve::test
