// A chunk that leaves a pinned Home for a slot takes along only the blocks that are written: the others stay where they
// are, and the first write to a pinned chunk costs about what any write does.
//
//     Home -------- write, pinned -----------> partial slot: the blocks written; the others are read at Home
//     partial ----- write, not pinned -------> more blocks; with the last of them it is a slot like any other
//     partial ----- write, pinned -----------> another partial slot: the blocks of both; its others are read at Home too.
//                                              Where those of the old one are many: a slot with the whole chunk
//     partial ----- move_home, free but for this slot -> Home: only the blocks that the slot has are copied
//
// Invariants
//  1. As long as a partial slot of c is named, live or frozen, c's Home is pinned: nothing is written there but what the
//     only such slot has itself, by the move home, and then nobody else finds c at Home or in the slot. A crash in that
//     move leaves the slot, which reads none of what was written.
//  2. Which blocks a slot has is in the journal: bytes are written, then the record is appended, then memory follows, then
//     the write is acknowledged. A kill leaves the block as it was or as acknowledged; after a power loss the sealed
//     journal knows only of blocks whose bytes were durable before the seal. (The change map says what may have changed,
//     and is marked before: it is no answer to what is there.)
//  3. When a record ends that a slot is partial, or that it is named, its Home waits for the seal like any that was let go
//     of (rule 1): the sealed journal still has blocks there.
//  4. A block in a slot is written in place only where the slot is not pinned; a block that the slot has not, with the
//     chunk's lock exclusively.
#include <algorithm>
#include <bit>
#include <cstring>

#include "implementation.h"

namespace varve::disk {
namespace {

constexpr BlockMask first_blocks(std::size_t count) {
  return count == 0 ? 0 : kAllBlocks >> (kMostPartialBlocks - count);
}

/// Calls `visit` with the first block and the length of each run of blocks.
template <class Visit>
Status for_each_run(BlockMask blocks, Visit visit) {
  while (blocks != 0) {
    const auto first = static_cast<std::size_t>(std::countr_zero(blocks));
    const auto count = static_cast<std::size_t>(std::countr_one(blocks >> first));
    VARVE_TRY(visit(first, count));
    blocks &= ~(first_blocks(count) << first);
  }
  return {};
}

bool is_whole(std::size_t at) { return at % kBlockSize == 0; }

std::size_t runs_in(BlockMask blocks) { return static_cast<std::size_t>(std::popcount(blocks & ~(blocks << 1))); }

/// With more pieces in the slot its chunk is read whole from both places: a piece costs about what a chunk does.
constexpr std::size_t kMostSlotReads = 1;
/// One part in so many of a chunk is taken along from slot to slot, block by block. With more it moves whole.
constexpr std::uint64_t kCarriedShare = 4;

}  // namespace

BlockMask LiveDisk::Implementation::blocks_of(std::size_t within, std::size_t count) const {
  const std::size_t first = within / kBlockSize;
  return first_blocks((within + count + kBlockSize - 1) / kBlockSize - first) << first;
}

bool LiveDisk::Implementation::has_blocks(ChunkIndex chunk, Place place, ByteOffset at, std::size_t count) const {
  const BlockMask there = state.blocks_at(chunk, place);
  if (there == kAllBlocks) return true;
  const std::uint64_t start = geometry.start_of(chunk).value();
  const std::uint64_t begin = std::max(at.value(), start);
  const std::uint64_t end = std::min(at.value() + count, start + geometry.chunk_bytes());
  return (blocks_of(static_cast<std::size_t>(begin - start), static_cast<std::size_t>(end - begin)) & ~there) == 0;
}

Status LiveDisk::Implementation::read_stored(ChunkIndex chunk, const Resolved& from, std::size_t within,
                                             std::span<std::byte> out) {
  if (!from.partial()) return read_file(file_of(from.place), offset_of(chunk, from.place) + ByteCount{within}, out);
  if (is_whole(within) && is_whole(out.size())) {
    // A block that is of no use may be the one that the medium does not give back.
    if (runs_in(from.blocks & blocks_of(within, out.size())) > kMostSlotReads && read_both(chunk, from, within, out)) {
      return {};
    }
  }
  const auto in_slot = [&](std::size_t block) { return (from.blocks >> block & 1) != 0; };
  while (!out.empty()) {
    const std::size_t block = within / kBlockSize;
    const std::size_t end_block = (within + out.size() + kBlockSize - 1) / kBlockSize;
    std::size_t end = block + 1;
    while (end < end_block && in_slot(end) == in_slot(block)) ++end;
    const auto part = out.first(std::min(out.size(), end * kBlockSize - within));
    const Place place = in_slot(block) ? from.place : Place{PlaceKind::home, 0};
    VARVE_TRY(read_file(file_of(place), offset_of(chunk, place) + ByteCount{within}, part));
    out = out.subspan(part.size());
    within += part.size();
  }
  return {};
}

/// The whole range from Home, what is in the slot over it: two reads instead of many. Whole blocks.
Status LiveDisk::Implementation::read_both(ChunkIndex chunk, const Resolved& from, std::size_t within,
                                           std::span<std::byte> out) {
  const Place at_home{PlaceKind::home, 0};
  VARVE_TRY(read_file(*home, offset_of(chunk, at_home) + ByteCount{within}, out));
  auto buffer = chunk_buffers.take();
  const BlockMask wanted = from.blocks & blocks_of(within, out.size());
  VARVE_TRY(read_slot(chunk, from, wanted, buffer.span()));
  return for_each_run(wanted, [&](std::size_t first, std::size_t count) -> Status {
    const auto run = buffer.span().subspan(first * kBlockSize, count * kBlockSize);
    std::ranges::copy(run, out.begin() + static_cast<std::ptrdiff_t>(first * kBlockSize - within));
    return {};
  });
}

/// All blocks that the chunk's partial slot has, to their places in `whole`. What lies between them there is anything.
Status LiveDisk::Implementation::read_own_blocks(ChunkIndex chunk, const Resolved& from, std::span<std::byte> whole) {
  if (read_slot(chunk, from, from.blocks, whole)) return {};
  // It may be for what lies between them.
  return for_each_run(from.blocks, [&](std::size_t first, std::size_t count) {
    return read_slot(chunk, from, first_blocks(count) << first, whole);
  });
}

/// These blocks of the chunk, which its slot has, to their places in `whole`. What lies between them there is anything.
Status LiveDisk::Implementation::read_slot(ChunkIndex chunk, const Resolved& from, BlockMask blocks,
                                           std::span<std::byte> whole) {
  const auto first = static_cast<std::size_t>(std::countr_zero(blocks));
  const auto end = static_cast<std::size_t>(kMostPartialBlocks) - static_cast<std::size_t>(std::countl_zero(blocks));
  const std::size_t begin = first * kBlockSize;
  return read_file(*detour, offset_of(chunk, from.place) + ByteCount{begin},
                   whole.subspan(begin, (end - first) * kBlockSize));
}

Status LiveDisk::Implementation::write_blocks(ChunkIndex chunk, Place to, BlockMask blocks,
                                              std::span<const std::byte> whole) {
  if (blocks == kAllBlocks) return write_noted(chunk, 1, to, 0, whole);
  return for_each_run(blocks, [&](std::size_t first, std::size_t count) {
    return write_noted(chunk, 1, to, first * kBlockSize, whole.subspan(first * kBlockSize, count * kBlockSize));
  });
}

/// The chunk's lock is held exclusively; its slot is not pinned.
Status LiveDisk::Implementation::write_in_part(ChunkIndex chunk, const Resolved& from, std::size_t within,
                                               std::span<const std::byte> bytes) {
  auto buffer = chunk_buffers.take();
  const std::size_t begin = within / kBlockSize * kBlockSize;
  const std::size_t end = (within + bytes.size() + kBlockSize - 1) / kBlockSize * kBlockSize;
  const auto blocks = buffer.span().first(end - begin);
  if (!is_whole(within) || !is_whole(within + bytes.size())) VARVE_TRY(read_stored(chunk, from, begin, blocks));
  std::memcpy(blocks.data() + (within - begin), bytes.data(), bytes.size());
  VARVE_TRY(write_noted(chunk, 1, from.place, begin, blocks));
  const BlockMask more = blocks_of(within, bytes.size()) & ~from.blocks;
  if (more == 0) return {};
  MutexLock state_lock(state_mutex);
  return record_and_apply(record::Partial{chunk.value(), from.place.slot, 0, more});
}

/// Whether a write that must not go to the chunk's place may leave the rest of the chunk at Home.
bool LiveDisk::Implementation::may_move_in_part(const Resolved& from, std::size_t within, std::size_t count) const {
  if (!state.has_block_masks() || state.partial_slots() >= kMostPartialSlots) return false;
  if (from.place.kind != PlaceKind::home && !from.partial()) return false;
  const BlockMask old = from.partial() ? from.blocks : 0;
  const BlockMask written = blocks_of(within, count);
  const auto carried = static_cast<std::uint64_t>(std::popcount(old & ~written));
  return carried * kCarriedShare <= blocks_per_chunk() && (old | written) != state.whole_chunk();
}

/// The chunk's lock is held exclusively; its place is pinned, and its Home is.
Status LiveDisk::Implementation::move_in_part(ChunkIndex chunk, const Resolved& from, std::size_t within,
                                              std::span<const std::byte> bytes) {
  auto buffer = chunk_buffers.take();
  const auto whole = buffer.span();
  const BlockMask old = from.partial() ? from.blocks : 0;
  const BlockMask written = blocks_of(within, bytes.size());
  // Blocks that are written in part: the first and the last.
  BlockMask cut = 0;
  if (!is_whole(within)) cut |= BlockMask{1} << within / kBlockSize;
  if (!is_whole(within + bytes.size())) cut |= BlockMask{1} << (within + bytes.size()) / kBlockSize;
  VARVE_TRY(for_each_run((old & ~written) | cut, [&](std::size_t first, std::size_t count) {
    return read_stored(chunk, from, first * kBlockSize, whole.subspan(first * kBlockSize, count * kBlockSize));
  }));
  std::memcpy(whole.data() + within, bytes.data(), bytes.size());
  Place to{PlaceKind::detour, 0};
  {
    MutexLock state_lock(state_mutex);
    to.slot = take_slot();
  }
  auto moved = write_blocks(chunk, to, old | written, whole);
  if (moved) {
    MutexLock state_lock(state_mutex);
    moved = record_and_apply(record::Partial{chunk.value(), to.slot, 1, old | written});
  }
  if (!moved) give_back_slot(to.slot);
  return moved;
}

/// A partial slot: Home must be free but for it, and nobody else find the chunk in it.
bool LiveDisk::Implementation::may_move_home(ChunkIndex chunk) const {
  const Place place = state.places().get(chunk);
  if (place.kind != PlaceKind::detour) return false;
  if (state.blocks_at(chunk, place) == kAllBlocks) return home_is_free(chunk);
  return state.partial_slots(chunk) == 1 && !state.is_frozen_in_place(chunk) && !unsealed_homes.contains(chunk) &&
         !pinned_by_snapshot(chunk, {PlaceKind::home, 0});
}

}  // namespace varve::disk
