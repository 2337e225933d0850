#include "varve/chunks/root_registry.h"

#include <utility>

namespace varve::chunks {

RootRegistry::Registration::Registration(Registration&& other) noexcept
    : registry_(std::exchange(other.registry_, nullptr)), owner_(std::exchange(other.owner_, nullptr)) {}

RootRegistry::Registration& RootRegistry::Registration::operator=(Registration&& other) noexcept {
  if (this != &other) {
    release();
    registry_ = std::exchange(other.registry_, nullptr);
    owner_ = std::exchange(other.owner_, nullptr);
  }
  return *this;
}

RootRegistry::Registration::~Registration() {
  release();
}

void RootRegistry::Registration::release() {
  if (registry_ == nullptr) return;
  MutexLock lock(registry_->visit_mutex_);
  registry_->owners_.erase(owner_);
  registry_ = nullptr;
}

RootRegistry::Registration RootRegistry::add(RootOwner& owner) {
  MutexLock lock(visit_mutex_);
  owners_.insert(&owner);
  return Registration(*this, owner);
}

RootRegistry::Hold::Hold(RootRegistry& registry) : registry_(registry) {
  MutexLock lock(registry_.mutex_);
  registry_.holds_.insert(this);
}

RootRegistry::Hold::~Hold() {
  MutexLock lock(registry_.mutex_);
  for (const PackId pack : packs_) {
    if (registry_.marks_ > 0) registry_.kept_packs_.insert(pack);
    const auto it = registry_.held_packs_.find(pack);
    if (--it->second == 0) registry_.held_packs_.erase(it);
  }
  if (registry_.marks_ > 0) registry_.kept_roots_.insert(registry_.kept_roots_.end(), roots_.begin(), roots_.end());
  registry_.holds_.erase(this);
}

bool RootRegistry::Hold::try_hold(const Ref& ref) {
  if (ref.damaged()) return true;
  MutexLock lock(registry_.mutex_);
  if (!registry_.stays(ref)) return false;
  registry_.hold_pack(*this, ref.pack);
  return true;
}

bool RootRegistry::Hold::try_hold_pack(PackId pack) {
  MutexLock lock(registry_.mutex_);
  if (registry_.condemned_.contains(pack)) return false;
  registry_.hold_pack(*this, pack);
  return true;
}

bool RootRegistry::Hold::try_hold_root(const MaybeRef& root) {
  if (!root || root->damaged()) return true;
  MutexLock lock(registry_.mutex_);
  if (!registry_.stays(*root)) return false;
  registry_.hold_pack(*this, root->pack);
  roots_.push_back(*root);
  return true;
}

bool RootRegistry::stays(const Ref& ref) const {
  const auto found = condemned_.find(ref.pack);
  return found == condemned_.end() || (ref.ordinal < found->second.size() && found->second[ref.ordinal]);
}

void RootRegistry::hold_pack(Hold& hold, PackId pack) {
  if (hold.packs_.insert(pack).second) ++held_packs_[pack];
}

RootRegistry::Mark::Mark(RootRegistry& registry) : registry_(registry) {
  MutexLock lock(registry_.mutex_);
  ++registry_.marks_;
}

RootRegistry::Mark::~Mark() {
  MutexLock lock(registry_.mutex_);
  if (--registry_.marks_ > 0) return;
  registry_.kept_packs_.clear();
  registry_.kept_roots_.clear();
}

void RootRegistry::visit_roots(const std::function<void(const MaybeRef& root)>& visit) {
  MutexLock visiting(visit_mutex_);
  for (RootOwner* owner : owners_) owner->visit_roots(visit);
  // Holds after owners: a root that moved from a hold to an owner already visited is kept if a Mark exists.
  std::vector<Ref> roots;
  {
    MutexLock lock(mutex_);
    roots = kept_roots_;
    for (const Hold* hold : holds_) roots.insert(roots.end(), hold->roots_.begin(), hold->roots_.end());
  }
  for (const Ref& root : roots) visit(root);
}

bool RootRegistry::condemn(PackId pack, std::vector<bool> kept) {
  MutexLock lock(mutex_);
  if (held_packs_.contains(pack) || kept_packs_.contains(pack)) return false;
  condemned_.insert_or_assign(pack, std::move(kept));
  return true;
}

void RootRegistry::absolve(PackId pack) {
  MutexLock lock(mutex_);
  condemned_.erase(pack);
}

}  // namespace varve::chunks
