#include "chooser.h"

#include <algorithm>
#include <iterator>

namespace exerciser {
namespace {

constexpr std::size_t kMaxSnapshots = 6;
constexpr std::uint64_t kLargestPiece = 200'000;

struct Weight {
  Kind kind;
  unsigned weight;
};
/// With the image to itself.
constexpr Weight kAlone[] = {
    {Kind::write, 50}, {Kind::read, 8},     {Kind::read_mapped, 3}, {Kind::truncate, 2}, {Kind::punch, 5},
    {Kind::zero, 4},   {Kind::copy_within, 2}, {Kind::copy_from, 4}, {Kind::sync, 8},     {Kind::take, 4},
    {Kind::remove, 3}, {Kind::rename, 1},   {Kind::restore, 1},
};
constexpr Weight kTogether[] = {
    {Kind::write, 60}, {Kind::read, 8}, {Kind::read_mapped, 3}, {Kind::punch, 4}, {Kind::zero, 4}, {Kind::sync, 6},
};
/// Of the first of several.
constexpr Weight kTogetherFirst[] = {
    {Kind::write, 40}, {Kind::punch, 4}, {Kind::sync, 6}, {Kind::take, 8}, {Kind::remove, 5},
};

}  // namespace

Part part_of(const Exercise& exercise, unsigned thread) {
  const auto size = exercise.capacity / exercise.threads / kBlock * kBlock;
  return {thread * size, (thread + 1) * size};
}

Chooser::Chooser(const Exercise& exercise, unsigned thread)
    : exercise_(exercise), thread_(thread), part_(part_of(exercise, thread)), random_(exercise.seed * 1009 + thread) {}

std::uint64_t Chooser::below(std::uint64_t end) { return random_() % end; }

std::string Chooser::choose_snapshot(const World& world) {
  return std::next(world.snapshots.begin(), static_cast<std::ptrdiff_t>(below(world.snapshots.size())))->first;
}

Kind Chooser::choose_kind(const World& world) {
  const auto pick = [&](const auto& table) {
    unsigned sum = 0;
    for (const auto& entry : table) sum += entry.weight;
    auto at = below(sum);
    for (const auto& entry : table) {
      if (at < entry.weight) return entry.kind;
      at -= entry.weight;
    }
    return Kind::write;
  };
  const auto kind = exercise_.threads == 1 ? pick(kAlone) : thread_ == 0 ? pick(kTogetherFirst) : pick(kTogether);
  const bool needs_snapshot =
      kind == Kind::copy_from || kind == Kind::remove || kind == Kind::rename || kind == Kind::restore;
  if (needs_snapshot && world.snapshots.empty()) return Kind::take;
  if (kind == Kind::take && world.snapshots.size() >= kMaxSnapshots) return Kind::remove;
  return kind;
}

/// Any bytes, whole blocks or whole chunks: each goes its own way through the live disk.
void Chooser::choose_range(const World& world, Operation& operation) {
  static constexpr std::uint64_t grains[] = {1, 512, kBlock, kBlock, 65536};
  const auto grain = grains[below(std::size(grains))];
  const auto end = std::min(part_.end, world.live.size);
  const auto length = end - part_.begin;
  operation.size = std::max(grain, below(std::min(kLargestPiece, length)) / grain * grain);
  operation.at = part_.begin + below(length - operation.size + 1) / grain * grain;
  operation.direct = grain >= kBlock && below(3) == 0;
}

void Chooser::choose_source(const World& world, Operation& operation) {
  const auto size = operation.kind == Kind::copy_within ? world.live.size : world.snapshots.at(operation.name)->size;
  operation.size = std::min(operation.size, size);
  operation.from = below(size - operation.size + 1);
  if (below(2) == 0) operation.from = operation.from / 65536 * 65536;
  // The ranges of one file must not overlap.
  if (operation.kind == Kind::copy_within && operation.from < operation.at + operation.size &&
      operation.at < operation.from + operation.size) {
    operation.size = operation.from < operation.at ? operation.at - operation.from : operation.from - operation.at;
  }
}

Operation Chooser::next(const World& world) {
  Operation operation;
  operation.kind = choose_kind(world);
  operation.seed = (exercise_.seed << 24) + (static_cast<std::uint64_t>(thread_) << 20) + count_;
  ++count_;
  switch (operation.kind) {
    case Kind::copy_from:
      operation.name = choose_snapshot(world);
      [[fallthrough]];
    case Kind::copy_within:
      choose_range(world, operation);
      choose_source(world, operation);
      break;
    case Kind::truncate:
      operation.size = exercise_.capacity / 2 + below(exercise_.capacity / 2 + 1);
      if (below(2) == 0) operation.size = operation.size / 65536 * 65536;
      break;
    case Kind::take:
      operation.name = "s" + std::to_string(exercise_.seed) + "-" + std::to_string(count_);
      break;
    case Kind::rename:
      operation.new_name = "r" + std::to_string(exercise_.seed) + "-" + std::to_string(count_);
      [[fallthrough]];
    case Kind::remove:
    case Kind::restore:
      operation.name = choose_snapshot(world);
      break;
    case Kind::sync:
      break;
    default:
      choose_range(world, operation);
  }
  return operation;
}

}  // namespace exerciser
