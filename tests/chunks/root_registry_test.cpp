#include "varve/chunks/root_registry.h"

#include <gtest/gtest.h>

#include <atomic>
#include <set>
#include <thread>

namespace varve::chunks {
namespace {

Ref ref_in(std::uint64_t pack) {
  return Ref{PackId{pack}, 0, Digest{pack, pack}};
}

struct Owner final : RootOwner {
  void visit_roots(const std::function<void(const MaybeRef&)>& visit) override {
    for (const auto& root : roots) visit(root);
  }
  std::vector<MaybeRef> roots;
};

std::set<MaybeRef> visited(RootRegistry& registry) {
  std::set<MaybeRef> roots;
  registry.visit_roots([&](const MaybeRef& root) { roots.insert(root); });
  return roots;
}

TEST(RootRegistry, VisitsOwnersAsLongAsTheyAreRegistered) {
  RootRegistry registry;
  Owner owner;
  owner.roots = {ref_in(256), std::nullopt};
  {
    RootRegistry::Registration outer;
    {
      auto registration = registry.add(owner);
      outer = std::move(registration);
    }
    EXPECT_EQ(visited(registry), (std::set<MaybeRef>{ref_in(256), std::nullopt}));
  }
  EXPECT_TRUE(visited(registry).empty());
}

TEST(RootRegistry, OfACondemnedPackOnlyWhatStaysCanBeHeld) {
  RootRegistry registry;
  ASSERT_TRUE(registry.condemn(PackId{256}, {false, true}));
  RootRegistry::Hold hold(registry);
  const auto at = [](std::uint32_t ordinal) { return Ref{PackId{256}, ordinal, Digest{}}; };
  EXPECT_FALSE(hold.try_hold(at(0)));
  EXPECT_FALSE(hold.try_hold_root(at(0)));
  EXPECT_FALSE(hold.try_hold(at(2)));
  EXPECT_FALSE(hold.try_hold_pack(PackId{256})) << "as it is";
  EXPECT_TRUE(hold.try_hold(at(1)));
  EXPECT_TRUE(hold.try_hold_root(at(1)));
  registry.absolve(PackId{256});
  EXPECT_TRUE(hold.try_hold(at(0)));
}

TEST(RootRegistry, OfHoldAndCondemnTheFirstWins) {
  RootRegistry registry;
  {
    RootRegistry::Hold first(registry);
    RootRegistry::Hold second(registry);
    EXPECT_TRUE(first.try_hold(ref_in(256)));
    EXPECT_TRUE(first.try_hold(ref_in(256)));
    EXPECT_TRUE(second.try_hold(ref_in(256)));
    EXPECT_FALSE(registry.condemn(PackId{256}));
  }
  EXPECT_TRUE(registry.condemn(PackId{256}));
  RootRegistry::Hold hold(registry);
  EXPECT_FALSE(hold.try_hold(ref_in(256)));
  EXPECT_FALSE(hold.try_hold_root(ref_in(256)));
  EXPECT_TRUE(visited(registry).empty());
  registry.absolve(PackId{256});
  EXPECT_TRUE(hold.try_hold_root(ref_in(256)));
  EXPECT_EQ(visited(registry), std::set<MaybeRef>{ref_in(256)});
}

TEST(RootRegistry, ZerosAndDamagedChunksNeedNoHolding) {
  RootRegistry registry;
  RootRegistry::Hold hold(registry);
  EXPECT_TRUE(hold.try_hold(Ref::make_damaged()));
  EXPECT_TRUE(hold.try_hold_root(std::nullopt));
}

// Without Mark: the clone's owner is visited before it has the root, the snapshot's after it lost it, and the hold
// that carried the root over is gone: collect would remove what the clone stands on.
TEST(RootRegistry, ARootThatMovesDuringAMarkIsSeen) {
  RootRegistry registry;
  {
    RootRegistry::Mark mark(registry);
    {
      RootRegistry::Hold hold(registry);
      EXPECT_TRUE(hold.try_hold_root(ref_in(256)));
      EXPECT_TRUE(hold.try_hold(ref_in(512)));
    }
    EXPECT_EQ(visited(registry), std::set<MaybeRef>{ref_in(256)});
    EXPECT_FALSE(registry.condemn(PackId{256}));
    EXPECT_FALSE(registry.condemn(PackId{512}));
  }
  EXPECT_TRUE(visited(registry).empty());
  EXPECT_TRUE(registry.condemn(PackId{512}));
}

TEST(RootRegistry, HoldAndCondemnNeverBothSucceed) {
  RootRegistry registry;
  constexpr int kRounds = 20000;
  std::atomic<int> arrived{0};
  std::atomic<int> both{0};
  std::atomic<bool> held{false};
  std::atomic<bool> condemned{false};
  const auto meet = [&](int expected) {
    ++arrived;
    while (arrived.load() < expected) std::this_thread::yield();
  };
  std::thread collect([&] {
    for (int i = 0; i < kRounds / 10; ++i) {
      meet(4 * i + 2);
      condemned = registry.condemn(PackId{256});
      meet(4 * i + 4);
      if (condemned) registry.absolve(PackId{256});
    }
  });
  for (int i = 0; i < kRounds / 10; ++i) {
    RootRegistry::Hold hold(registry);
    meet(4 * i + 2);
    held = hold.try_hold(ref_in(256));
    meet(4 * i + 4);
    if (held && condemned) ++both;
  }
  collect.join();
  EXPECT_EQ(both, 0);
}

}  // namespace
}  // namespace varve::chunks
