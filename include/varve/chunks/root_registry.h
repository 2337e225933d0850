// Everything that keeps refs alive is known here; collect asks nobody else (DESIGN.md, layers).
//
// Two kinds: owners with roots that live as long as they do (snapshots, L, P), visited when collect marks; and
// holds, the lists that a running commit, copy or splice keeps of every ref it uses before a root reaches an owner.
//
// The race that matters: a commit finds a record by digest while collect is about to remove its pack. try_hold()
// and condemn() are atomic against each other: whoever comes second loses. A hold that succeeded keeps the pack; a
// condemned pack can't be held any more, and the digest hit becomes a miss.
#pragma once

#include <functional>
#include <memory>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "varve/chunks/ref.h"
#include "varve/core/sync.h"

namespace varve::chunks {

/// Visited by collect, from its thread; must not call back into the registry. A root that is being handed from one
/// owner to another must be visible in at least one of them at every instant, or held.
class RootOwner {
 public:
  virtual ~RootOwner() = default;
  virtual void visit_roots(const std::function<void(const MaybeRef& root)>& visit) = 0;
};

class RootRegistry {
 public:
  /// Keeps `owner` (not owned) registered until the result goes.
  class Registration {
   public:
    Registration() = default;
    Registration(RootRegistry& registry, RootOwner& owner) : registry_(&registry), owner_(&owner) {}
    Registration(Registration&& other) noexcept;
    Registration& operator=(Registration&& other) noexcept;
    ~Registration();

   private:
    RootRegistry* registry_ = nullptr;
    RootOwner* owner_ = nullptr;
  };
  [[nodiscard]] Registration add(RootOwner& owner) VARVE_EXCLUDES(mutex_);

  /// The refs one commit, copy or splice relies on, until it goes. One thread at a time.
  class Hold {
   public:
    explicit Hold(RootRegistry& registry);
    ~Hold();
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;
    /// False: the record's pack is condemned; do not use the ref.
    [[nodiscard]] bool try_hold(const Ref& ref);
    /// A root, and through it everything it reaches.
    [[nodiscard]] bool try_hold_root(const MaybeRef& root);

   private:
    friend class RootRegistry;
    RootRegistry& registry_;
    std::unordered_map<PackId, std::uint64_t> packs_;
    std::vector<Ref> roots_;
  };

  /// All roots of owners and holds.
  void visit_roots(const std::function<void(const MaybeRef& root)>& visit) VARVE_EXCLUDES(mutex_);
  /// Marks a pack as going. False when a hold names it: it stays.
  [[nodiscard]] bool condemn(PackId pack) VARVE_EXCLUDES(mutex_);
  /// The removal failed, or is over (pack ids are not reused).
  void absolve(PackId pack) VARVE_EXCLUDES(mutex_);

 private:
  Mutex mutex_;
  std::unordered_set<RootOwner*> owners_ VARVE_GUARDED_BY(mutex_);
  std::unordered_set<Hold*> holds_ VARVE_GUARDED_BY(mutex_);
  std::unordered_map<PackId, std::uint64_t> held_packs_ VARVE_GUARDED_BY(mutex_);
  std::unordered_set<PackId> condemned_ VARVE_GUARDED_BY(mutex_);
};

}  // namespace varve::chunks
