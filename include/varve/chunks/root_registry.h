// Everything that keeps refs alive is known here; collect asks nobody else (DESIGN.md, layers).
//
// Two kinds: owners with roots that live as long as they do (snapshots, L, P), visited when collect marks; and
// holds, the lists that a running commit, copy or splice keeps of every ref it uses before a root reaches an owner.
//
// The race that matters: a commit finds a record by digest while collect is about to remove its pack. try_hold()
// and condemn() are atomic against each other: whoever comes second loses. A hold that succeeded keeps the pack; a
// condemned pack can't be held any more, and the digest hit becomes a miss.
//
// The other race: owners are visited one after the other, so a root that moves from an owner not yet visited to one
// that was already visited would escape the mark. Two things close it. Every such move goes through a hold; and while
// a Mark exists, what holds let go of stays held and visible. So collect does
//
//     Mark mark(registry);
//     visit_roots -> walk        the bulk
//     visit_roots -> walk        only what is new: what was walked is not walked again
//     condemn each pack, but for its marked records; false: somebody has come to use it
//     remove it, or those of its records that are not kept; absolve it
//
// and a root that escaped the first visit was held during the Mark, thus is seen by the second, or its own new packs
// are refused to condemn(). What is held after the second visit was visible in an owner before, or stands on packs that
// are held one by one.
#pragma once

#include <functional>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "varve/chunks/ref.h"
#include "varve/core/sync.h"

namespace varve::chunks {

/// Visited by collect, from its thread; must not call back into the registry, nor hold, while it calls or waits for
/// the registry, a lock that visit_roots() takes (except inside Hold's functions, which never wait for a visit).
/// Its roots of one visit are those of one instant. A root that is being handed from one owner to another is held
/// meanwhile.
class RootOwner {
 public:
  virtual ~RootOwner() = default;
  virtual void visit_roots(const std::function<void(const MaybeRef& root)>& visit) = 0;
};

/// Any thread. Must outlive its registrations, holds and marks.
class RootRegistry {
 public:
  /// Keeps `owner` (not owned) registered until the result goes; going waits for a visit that is under way.
  class Registration {
   public:
    Registration() = default;
    Registration(RootRegistry& registry, RootOwner& owner) : registry_(&registry), owner_(&owner) {}
    Registration(Registration&& other) noexcept;
    Registration& operator=(Registration&& other) noexcept;
    ~Registration();

   private:
    void release();
    RootRegistry* registry_ = nullptr;
    RootOwner* owner_ = nullptr;
  };
  [[nodiscard]] Registration add(RootOwner& owner) VARVE_EXCLUDES(visit_mutex_);

  /// The refs one commit, copy or splice relies on, until it goes. One thread at a time.
  class Hold {
   public:
    explicit Hold(RootRegistry& registry);
    ~Hold();
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;
    /// False: the record's pack is condemned and the record does not stay; do not use the ref. A record that nobody else keeps alive (a digest
    /// hit) must be looked up once more after the hold succeeded: its pack may have gone before.
    [[nodiscard]] bool try_hold(const Ref& ref);
    /// A root, and through it everything it reaches. The caller got it from an owner that has it still, or holds it.
    [[nodiscard]] bool try_hold_root(const MaybeRef& root);
    /// The pack as it is, with all its records. False: it is condemned.
    [[nodiscard]] bool try_hold_pack(PackId pack);

   private:
    friend class RootRegistry;
    RootRegistry& registry_;
    // Both guarded by the registry's mutex_.
    std::unordered_set<PackId> packs_;
    std::vector<Ref> roots_;
  };

  /// While one exists, packs and roots that holds let go of stay held. For collect; see the top of this file.
  class Mark {
   public:
    explicit Mark(RootRegistry& registry);
    ~Mark();
    Mark(const Mark&) = delete;
    Mark& operator=(const Mark&) = delete;

   private:
    RootRegistry& registry_;
  };

  /// All roots of owners and holds, those let go of during a Mark included.
  void visit_roots(const std::function<void(const MaybeRef& root)>& visit) VARVE_EXCLUDES(visit_mutex_, mutex_);
  /// Marks a pack as going, but for the ordinals that `kept` has: they can be held all the while, their refs stay valid.
  /// False when a hold names it: it stays as it is.
  [[nodiscard]] bool condemn(PackId pack, std::vector<bool> kept = {}) VARVE_EXCLUDES(mutex_);
  /// The removal failed, or is over (pack ids are not reused).
  void absolve(PackId pack) VARVE_EXCLUDES(mutex_);

 private:
  [[nodiscard]] bool stays(const Ref& ref) const VARVE_REQUIRES(mutex_);
  void hold_pack(Hold& hold, PackId pack) VARVE_REQUIRES(mutex_);

  Mutex visit_mutex_;  ///< before mutex_: held while owners are visited, so that none goes meanwhile
  std::unordered_set<RootOwner*> owners_ VARVE_GUARDED_BY(visit_mutex_);
  Mutex mutex_;  ///< never held while anything is called
  std::unordered_set<Hold*> holds_ VARVE_GUARDED_BY(mutex_);
  std::unordered_map<PackId, std::size_t> held_packs_ VARVE_GUARDED_BY(mutex_);  ///< number of holds
  std::unordered_map<PackId, std::vector<bool>> condemned_ VARVE_GUARDED_BY(mutex_);  ///< with what is kept
  std::size_t marks_ VARVE_GUARDED_BY(mutex_) = 0;
  std::unordered_set<PackId> kept_packs_ VARVE_GUARDED_BY(mutex_);  ///< of holds that went during a Mark
  std::vector<Ref> kept_roots_ VARVE_GUARDED_BY(mutex_);
};

}  // namespace varve::chunks
