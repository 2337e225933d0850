// P is replaced when the snapshot whose map it was is deleted: it would keep alive what nobody can see any more.
//
// A block is marked as changed since P. So before P is another map, every chunk at which the two differ is marked:
//
//     mark, while writers go on      a spurious mark costs a block            a crash leaves the old P and spare marks
//     gate exclusive: look again     a freeze in between took some of the marks along: the caller begins anew
//     record ParentReplaced          from here on memory has the new P        a kill finds record and marks, or neither is
//                                                                             needed; after a power loss all counts as
//                                                                             changed, since whichever P the seal leaves
//     seal                           now, and not before, the old root may go (rule 1)
#include <algorithm>

#include "implementation.h"

namespace varve::disk {

ParentMap LiveDisk::parent() const {
  auto& self = *implementation_;
  MutexLock lock(self.state_mutex);
  ParentMap parent;
  parent.root = self.state.stored_parent_root();
  parent.incarnation = self.state.parent_incarnation();
  parent.needed_live = self.state.exists() && self.state.incarnation() == parent.incarnation;
  parent.needed_pending = self.state.pending_needs_parent();
  const auto names = [&](const Segments& segments) {
    return std::ranges::any_of(segments.all(), [&](const auto& item) { return item.second.root == parent.root; });
  };
  parent.also_base = names(self.state.segments()) || std::ranges::any_of(self.state.pending(), [&](const auto& pending) {
                       return names(*pending.segments);
                     });
  return parent;
}

/// A chunk that the map does not reach cannot be one of the image's: but nothing may be missed.
void LiveDisk::Implementation::mark_differing(ChunkIndex first, ChunkCount count) {
  SharedLock shared(gate);
  std::uint64_t known = 0;
  {
    MutexLock lock(state_mutex);
    known = home_chunks;
  }
  if ((first + count).value() > known) {
    live_maps.front()->mark_all();
  } else {
    mark_chunks(first, count);
  }
}

Status LiveDisk::replace_parent(const OpaqueRoot& from, const OpaqueRoot& root,
                                const std::function<Status(const MarkChunks& mark)>& differences) {
  auto& self = *implementation_;
  VARVE_TRY(self.refuse_if_latched());
  std::uint64_t map = 0;
  {
    MutexLock lock(self.state_mutex);
    map = self.state.next_map();
  }
  VARVE_TRY(differences([&self](ChunkIndex first, ChunkCount count) { self.mark_differing(first, count); }));
  {
    ExclusiveLock exclusive(self.gate);
    MutexLock lock(self.state_mutex);
    if (self.state.next_map() != map || self.state.stored_parent_root() != from || self.state.pending_needs_parent()) {
      return fail(EAGAIN, ErrorKind::refused, "a snapshot was taken while its parent was replaced");
    }
    VARVE_TRY(self.record_and_apply(record::ParentReplaced{root}));
  }
  return self.flush();
}

}  // namespace varve::disk
