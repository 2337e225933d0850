// The exerciser of the whole-mount tests: operations on a disk in a mount, in an order that only the seed decides, and
// what may be left of them after a kill or a power cut.
//
//   exerciser work  OPTION...   on the mount; the trace goes to standard output (trace.h)
//   exerciser check OPTION...   afterwards; reads the trace, verifies the disk, and keeps what it found
//
//   --disk DIRECTORY     of the disk in the mount
//   --state DIRECTORY    what the disk held when the work began; made by check
//   --seed N  --threads N  --capacity BYTES    as in chooser.h, the same for both
//   --store DIRECTORY  --varve PROGRAM  --operations N    work
//   --trace FILE  --end kill|power                        check
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <string>

#include "check.h"
#include "work.h"

namespace {

using namespace exerciser;

class Options {
 public:
  Options(int count, char** words) {
    for (int i = 2; i + 1 < count; i += 2) values_[words[i]] = words[i + 1];
  }
  [[nodiscard]] std::string text(const std::string& name) const {
    const auto found = values_.find(name);
    if (found == values_.end()) give_up(name + " is missing");
    return found->second;
  }
  [[nodiscard]] std::uint64_t number(const std::string& name, std::uint64_t otherwise) const {
    const auto found = values_.find(name);
    return found == values_.end() ? otherwise : std::strtoull(found->second.c_str(), nullptr, 10);
  }

 private:
  std::map<std::string, std::string> values_;
};

World read_world(const std::string& disk, std::uint64_t capacity) {
  World world;
  world.live = read_image(disk + "/disk.img", capacity);
  for (const auto& entry : std::filesystem::directory_iterator(disk)) {
    if (!entry.is_directory()) continue;
    world.snapshots[entry.path().filename().string()] =
        std::make_shared<const Image>(read_image(entry.path().string() + "/disk.img", capacity));
  }
  return world;
}

int check_disk(const Options& options, const Exercise& exercise, const World& begin) {
  const auto end = options.text("--end") == "power" ? End::power : End::kill;
  const auto found = read_world(options.text("--disk"), exercise.capacity);
  const auto verdict = check(exercise, end, begin, read_trace(options.text("--trace")), found);
  for (const auto& sentence : verdict.problems) std::printf("%s\n", sentence.c_str());
  if (!verdict.problems.empty()) return 1;
  save(found, options.text("--state"));
  std::printf("%llu %llu\n", static_cast<unsigned long long>(verdict.acknowledged),
              static_cast<unsigned long long>(verdict.kept_snapshots));
  return 0;
}

}  // namespace

int main(int count, char** words) {
  const std::string command = count > 1 ? words[1] : "";
  if (command != "work" && command != "check") give_up("work or check?");
  const Options options(count, words);
  const Exercise exercise{.seed = options.number("--seed", 1),
                          .capacity = options.number("--capacity", 4 << 20),
                          .threads = static_cast<unsigned>(options.number("--threads", 1))};
  auto begin = load(options.text("--state"), exercise.capacity);
  if (command == "check") return check_disk(options, exercise, begin);
  work(exercise, {options.text("--disk"), options.text("--store"), options.text("--varve")}, std::move(begin),
       options.number("--operations", 0));
}
