#include "world.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>

namespace exerciser {
namespace {

constexpr std::size_t kCell = 16;
constexpr const char* kLive = "live";
constexpr const char* kSnapshot = "snapshot.";

std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

/// One cell of 16 bytes: every second seed gives bytes that do not compress.
void fill_cell(std::byte* out, std::uint64_t seed, std::uint64_t cell) {
  const std::uint64_t words[] = {seed, seed % 2 == 0 ? cell : mix(seed * 0x9e3779b97f4a7c15 + cell)};
  std::memcpy(out, words, kCell);
}

void write_image(const Image& image, const std::string& path) {
  std::FILE* file = std::fopen(path.c_str(), "wb");
  if (file == nullptr || std::fwrite(image.bytes.data(), 1, image.size, file) != image.size || std::fclose(file) != 0) {
    give_up("cannot write " + path);
  }
}

}  // namespace

bool is_barrier(const Operation& operation) {
  switch (operation.kind) {
    case Kind::sync:
    case Kind::take:
    case Kind::remove:
    case Kind::rename:
    case Kind::restore:
      return true;
    default:
      return false;
  }
}

bool makes_live_durable(const Operation& operation) {
  return operation.kind == Kind::sync || operation.kind == Kind::restore;
}

std::string describe(const Operation& operation) {
  static constexpr const char* names[] = {"write", "read",        "read_mapped", "truncate", "punch",
                                          "zero",  "copy_within", "copy_from",   "sync",     "take",
                                          "remove", "rename",     "restore"};
  std::string text = names[static_cast<std::size_t>(operation.kind)];
  text += " at " + std::to_string(operation.at) + " size " + std::to_string(operation.size);
  if (operation.kind == Kind::copy_within || operation.kind == Kind::copy_from) {
    text += " from " + std::to_string(operation.from);
  }
  if (!operation.name.empty()) text += " of " + operation.name;
  if (!operation.new_name.empty()) text += " to " + operation.new_name;
  return text;
}

void fill(std::byte* out, std::uint64_t seed, std::uint64_t at, std::uint64_t size) {
  std::byte cell[kCell];
  for (std::uint64_t done = 0; done < size;) {
    const std::uint64_t within = (at + done) % kCell;
    const std::uint64_t piece = std::min(kCell - within, size - done);
    fill_cell(cell, seed, (at + done) / kCell);
    std::memcpy(out + done, cell + within, piece);
    done += piece;
  }
}

Blocks changed_blocks(const World& world, const Operation& operation) {
  const auto covering = [](std::uint64_t begin, std::uint64_t end) {
    return begin < end ? Blocks{begin / kBlock, (end + kBlock - 1) / kBlock} : Blocks{};
  };
  switch (operation.kind) {
    case Kind::write:
    case Kind::punch:
    case Kind::zero:
    case Kind::copy_within:
    case Kind::copy_from:
      return covering(operation.at, operation.at + operation.size);
    case Kind::truncate:
      return covering(operation.size, world.live.size);
    case Kind::restore:
      return covering(0, world.live.bytes.size());
    default:
      return {};
  }
}

void apply_to_live(Image& live, const Snapshots& snapshots, const Operation& operation) {
  auto* bytes = live.bytes.data();
  switch (operation.kind) {
    case Kind::write:
      fill(bytes + operation.at, operation.seed, operation.at, operation.size);
      break;
    case Kind::punch:
    case Kind::zero:
      std::memset(bytes + operation.at, 0, operation.size);
      break;
    case Kind::copy_within:
      std::memcpy(bytes + operation.at, bytes + operation.from, operation.size);
      break;
    case Kind::copy_from:
      std::memcpy(bytes + operation.at, snapshots.at(operation.name)->bytes.data() + operation.from, operation.size);
      break;
    case Kind::truncate:
      if (operation.size < live.size) std::memset(bytes + operation.size, 0, live.size - operation.size);
      live.size = operation.size;
      break;
    case Kind::restore:
      live = *snapshots.at(operation.name);
      break;
    default:
      break;
  }
}

void apply_to_snapshots(Snapshots& snapshots, const Operation& operation, std::shared_ptr<const Image> taken) {
  if (operation.kind == Kind::take) snapshots[operation.name] = std::move(taken);
  if (operation.kind == Kind::remove) snapshots.erase(operation.name);
  if (operation.kind == Kind::rename) {
    snapshots[operation.new_name] = snapshots.at(operation.name);
    snapshots.erase(operation.name);
  }
}

World load(const std::string& directory, std::uint64_t capacity) {
  World world;
  if (!std::filesystem::exists(directory)) {
    world.live = {capacity, std::vector<std::byte>(capacity)};
    return world;
  }
  world.live = read_image(directory + "/" + kLive, capacity);
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    const auto name = entry.path().filename().string();
    if (!name.starts_with(kSnapshot)) continue;
    world.snapshots[name.substr(std::strlen(kSnapshot))] =
        std::make_shared<const Image>(read_image(entry.path().string(), capacity));
  }
  return world;
}

void save(const World& world, const std::string& directory) {
  std::filesystem::remove_all(directory);
  std::filesystem::create_directory(directory);
  write_image(world.live, directory + "/" + kLive);
  for (const auto& [name, image] : world.snapshots) write_image(*image, directory + "/" + kSnapshot + name);
}

Image read_image(const std::string& path, std::uint64_t capacity) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  struct stat status {};
  if (fd < 0 || ::fstat(fd, &status) != 0) give_up(path + ": " + std::strerror(errno));
  Image image{static_cast<std::uint64_t>(status.st_size), std::vector<std::byte>(capacity)};
  if (image.size > capacity) give_up(path + " is larger than it ever was");
  for (std::uint64_t done = 0; done < image.size;) {
    const auto got = ::pread(fd, image.bytes.data() + done, image.size - done, static_cast<off_t>(done));
    if (got <= 0) give_up("reading " + path + ": " + (got < 0 ? std::strerror(errno) : "it ends too early"));
    done += static_cast<std::uint64_t>(got);
  }
  ::close(fd);
  return image;
}

void give_up(const std::string& sentence) {
  std::fprintf(stderr, "exerciser: %s\n", sentence.c_str());
  std::_Exit(1);
}

}  // namespace exerciser
