// Every scene is played on a medium that fails at one call, once or for good, at each call in turn: the operation fails with
// that errno or succeeds; the live disk, other disks and every snapshot stay what they were; a disk whose sync failed says
// nothing is durable any more until it is opened again, and says so; when the trouble is over all goes on, and after a kill
// or a power loss too (promise 7 of DESIGN.md, section 3).
//
//   VARVE_TEST_STRIDE=N    looks at each Nth call only; for slow builds
//   VARVE_FAULT_ALL=1      every error at every call; else they take turns
//   VARVE_SCENE=NAME       one scene
#include <gtest/gtest.h>

#include <cerrno>
#include <iostream>

#include "scenes.h"
#include "support/seed.h"

namespace varve::store {
namespace {

using test::Calls;
using test::Machine;
using test::ModeledStore;
using test::Repeat;
using test::Scene;

constexpr std::uint64_t kMostCalls = 100'000;

constexpr ModeledStore::Fault kWriteFaults[] = {
    {EIO, Repeat::once},    {ENOSPC, Repeat::for_good}, {EDQUOT, Repeat::once},
    {EIO, Repeat::for_good}, {ENOSPC, Repeat::once},     {EDQUOT, Repeat::for_good},
};
constexpr ModeledStore::Fault kReadFaults[] = {
    {EIO, Repeat::once, Calls::reads},
    {EIO, Repeat::for_good, Calls::reads},
};

class Sweep {
 public:
  void run(const Scene& scene, std::span<const ModeledStore::Fault> faults) {
    begin(scene);
    for (std::uint64_t call = test::from_point(1); call < kMostCalls && problems_.empty(); call += every_) {
      bool met = false;
      for (std::size_t i = 0; i < faults.size() && problems_.empty(); ++i) {
        if (all_ || i == (call / every_) % faults.size()) met |= meet(scene, call, faults[i]);
      }
      if (!met) return;
    }
  }
  [[nodiscard]] std::uint64_t plays() const { return plays_; }
  [[nodiscard]] std::uint64_t failures() const { return failures_; }
  [[nodiscard]] std::uint64_t refusals() const { return refusals_; }
  [[nodiscard]] const std::vector<std::string>& problems() const { return problems_; }

 private:
  void begin(const Scene& scene) {
    ModeledStore store;
    scene.before(store);
    note(store);
    knowledge_ = store.knowledge();
    machine_ = store.leave();
  }

  /// Whether the play came as far as that call.
  bool meet(const Scene& scene, std::uint64_t call, const ModeledStore::Fault& fault) {
    ++plays_;
    ModeledStore store(machine_->copy(), knowledge_);
    store.set_label(std::string(scene.name) + ", errno " + std::to_string(fault.code) +
                    (fault.repeat == Repeat::once ? " once" : " for good") + " at " +
                    (fault.calls == Calls::reads ? "read " : "change ") + std::to_string(call) + ": ");
    store.end(false, 0);
    store.open();
    store.fail_at(call, fault);
    scene.play(store);
    const bool met = store.end_faults();
    failures_ += store.failures();
    refusals_ += store.check_refusals();
    store.verify();
    if (note(store)) return met;
    ModeledStore again(store.leave(), store.knowledge());
    again.set_label("afterwards: " + store.label());
    again.end(call % 2 == 0, call);
    again.open();
    again.verify();
    again.work();
    note(again);
    return met;
  }

  bool note(const ModeledStore& store) {
    problems_.insert(problems_.end(), store.problems().begin(), store.problems().end());
    return !store.problems().empty();
  }

  const std::uint64_t every_ = test::stride();
  const bool all_ = test::number_from("VARVE_FAULT_ALL", 0) != 0;
  std::unique_ptr<Machine> machine_;
  ModeledStore::Knowledge knowledge_;
  std::uint64_t plays_ = 0;
  std::uint64_t failures_ = 0;
  std::uint64_t refusals_ = 0;
  std::vector<std::string> problems_;
};

class StoreFaults : public ::testing::Test {
 protected:
  static void sweep(std::span<const ModeledStore::Fault> faults) {
    Sweep sweep;
    for (const Scene& scene : test::chosen_scenes()) {
      if (!scene.with_faults) continue;
      sweep.run(scene, faults);
      for (const std::string& problem : sweep.problems()) ADD_FAILURE() << problem;
      if (!sweep.problems().empty()) return;
    }
    std::cerr << sweep.plays() << " plays, " << sweep.failures() << " operations failed, " << sweep.refusals()
              << " disks refused to call anything durable\n";
    EXPECT_GT(sweep.failures(), 0u) << "nothing ever failed";
    if (faults.front().calls == Calls::changes && std::getenv("VARVE_SCENE") == nullptr) {
      EXPECT_GT(sweep.refusals(), 0u) << "no sync ever failed";
    }
  }
};

TEST_F(StoreFaults, OfAnyWriteOrSyncAreReportedAndHarmNothingElse) { sweep(kWriteFaults); }

TEST_F(StoreFaults, OfAnyReadAreReportedAndHarmNothing) { sweep(kReadFaults); }

}  // namespace
}  // namespace varve::store
