// The live disk's parent falls back when the snapshot it was is deleted: else the newest snapshot's data stayed for as
// long as no other is taken, and with the last snapshot of a disk all of it.
//
//     deleted in the log, durable            the old root is still P: nothing is lost whatever happens now
//     hold old and new root                  neither goes while they are compared
//     what differs counts as changed,        disk/parent.cpp
//     P is the new root, durably
//     the holds go                           collect may have what only the old root kept
//
// In the background, after the deletion was answered: it costs what the two maps differ by. While a snapshot of the same
// image is pending, that one needs P as it is, and its commit brings another.
#include <optional>

#include "disk_entry.h"
#include "varve/catalog/names.h"
#include "varve/chunks/chunk_map.h"
#include "varve/core/log.h"

namespace varve::store {
namespace {

using chunks::ChunkMap;
using chunks::MaybeRef;

/// Neighbours together: each call takes the gate that writers go through.
Status mark_differences(const ChunkMap& from, const ChunkMap& to, const disk::MarkChunks& mark,
                        const std::atomic<bool>& stopping) {
  ChunkIndex first;
  ChunkCount count;
  const auto hand_over = [&] {
    if (count > ChunkCount{0}) mark(first, count);
  };
  VARVE_TRY(from.diff(to, ChunkIndex{0}, ChunkCount{kMaxChunksPerImage},
                      [&](ChunkIndex chunk, const MaybeRef&, const MaybeRef&) -> Status {
                        if (stopping) return fail(ECANCELED, ErrorKind::refused, "the store is being closed");
                        if (count > ChunkCount{0} && first + count == chunk) {
                          count += ChunkCount{1};
                          return {};
                        }
                        hand_over();
                        first = chunk;
                        count = ChunkCount{1};
                        return {};
                      }));
  hand_over();
  return {};
}

}  // namespace

/// The map to fall back to; nothing where P is right as it is. EAGAIN: that cannot be told now.
Result<std::optional<MaybeRef>> DiskEntry::next_parent(const disk::ParentMap& parent, chunks::RootRegistry::Hold& hold) {
  const auto later = fail(EAGAIN, ErrorKind::refused, "the parent cannot be replaced now");
  MutexLock lock(operations_);
  if (log_in_doubt_) return later;
  const MaybeRef old = chunks::from_opaque(parent.root);
  const auto state = log_->state();
  MaybeRef next;
  for (const auto& [id, snapshot] : state->snapshots) {
    if (snapshot->incarnation != parent.incarnation) continue;
    if (snapshot->root == old) return std::nullopt;
    next = snapshot->root;
  }
  if (!parent.needed_live) next.reset();
  if (!hold.try_hold_root(old) || !hold.try_hold_root(next)) return later;
  return next;
}

Status DiskEntry::replace_parent(const disk::ParentMap& parent) {
  if (parent.root.empty()) return {};
  chunks::RootRegistry::Hold hold(services_.registry);
  VARVE_TRY_ASSIGN(const auto next, next_parent(parent, hold));
  if (!next) return {};
  MutexLock lock(upkeep_mutex_);
  if (removed_) return {};
  if (!parent.needed_live) return live_->replace_parent(parent.root, {}, [](const auto&) { return Status{}; });
  const ChunkMap from(*services_.chunks, chunks::from_opaque(parent.root));
  const ChunkMap to(*services_.chunks, *next);
  Status done = live_->replace_parent(parent.root, chunks::to_opaque(*next), [&](const disk::MarkChunks& mark) {
    return mark_differences(from, to, mark, services_.stopping);
  });
  if (done || done.error().kind != ErrorKind::damaged) return done;
  // What a damaged node stood for is unknown: the next snapshot is made of the live image alone.
  log::warning("disk {}: everything counts as changed: {}", catalog::quoted(name()), done.error().message);
  return live_->replace_parent(parent.root, {}, [](const disk::MarkChunks& mark) -> Status {
    mark(ChunkIndex{0}, ChunkCount{kMaxChunksPerImage});
    return {};
  });
}

Status DiskEntry::let_parent_fall_back() {
  if (!parent_may_be_gone_ || live_->latched()) return {};
  const auto parent = live_->parent();
  if (parent.needed_pending) return {};
  // Before the look: what is deleted after it says so again.
  parent_may_be_gone_ = false;
  Status done = replace_parent(parent);
  if (done) return done;
  parent_may_be_gone_ = true;
  return done.error().code == EAGAIN || done.error().code == ECANCELED ? Status{} : done;
}

}  // namespace varve::store
