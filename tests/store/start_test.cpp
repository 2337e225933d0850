// What is done once after a store was opened is done beside everything else, and can be watched.
#include <gtest/gtest.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>

#include "machine_store.h"
#include "varve/core/sync.h"
#include "varve/store/store.h"

namespace varve::store {
namespace {

class Gate {
 public:
  void open() VARVE_EXCLUDES(mutex_) {
    {
      MutexLock lock(mutex_);
      open_ = true;
    }
    opened_.notify_all();
  }
  void pass() VARVE_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    while (!open_) opened_.wait(mutex_);
  }

 private:
  Mutex mutex_;
  CondVar opened_;
  bool open_ VARVE_GUARDED_BY(mutex_) = false;
};

/// One whose first question takes as long as somebody wants.
class SlowLocator final : public chunks::Locator {
 public:
  explicit SlowLocator(Gate& gate) : gate_(gate) {}
  Result<std::optional<chunks::Ref>> find(const Digest& digest, chunks::RecordKind kind) override {
    return inner_->find(digest, kind);
  }
  Status add_pack(PackId pack, std::span<const Entry> entries) override { return inner_->add_pack(pack, entries); }
  Status forget_pack(PackId pack, std::span<const Entry> entries) override { return inner_->forget_pack(pack, entries); }
  Result<std::vector<PackId>> known_packs() override {
    gate_.pass();
    return inner_->known_packs();
  }

 private:
  Gate& gate_;
  std::unique_ptr<chunks::Locator> inner_ = chunks::make_memory_locator();
};

/// With ten thousand snapshots the first collect takes a minute: detours come home meanwhile, storage that is free is given
/// back, snapshots are committed.
TEST(StoreStart, UpkeepAndCommitsDoNotWaitForIt) {
  test::Machine machine;
  ASSERT_TRUE(Store::init(machine.storage, {}));
  const std::vector<std::byte> content(4 * kDefaultChunkSize, std::byte{5});
  {
    OpenOptions by_hand;
    by_hand.background = false;
    const auto store = Store::open(test::environment_on(machine), by_hand).value();
    const auto disk = store->create_disk("d", Attributes{0, 0, 0755, {}}).value();
    ASSERT_TRUE(disk->create_image(Attributes{0, 0, 0644, {}}));
    ASSERT_TRUE(disk->live().write(ByteOffset{0}, content));
    ASSERT_TRUE(disk->take_snapshot("s", Attributes{0, 0, 0755, {}}));
    ASSERT_TRUE(disk->live().write(ByteOffset{0}, content));
    ASSERT_GT(disk->live().counters().detour_chunks, 0U);
    machine.cut_off();
  }
  machine.kill();

  Gate gate;
  auto environment = test::environment_on(machine);
  environment.locator = std::make_unique<SlowLocator>(gate);
  const auto store = Store::open(std::move(environment), {}).value();
  const auto state_of = [&](const char* task) { return store->status()["background"][task]["state"].get<std::string>(); };
  const auto wait_for = [](const auto& condition) {
    for (int i = 0; i < 6000 && !condition(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    return condition();
  };
  EXPECT_TRUE(store->wait_until_quiet(std::chrono::seconds(30))) << "commits and moves home";
  const auto disk = store->find_disk("d").value();
  EXPECT_TRUE(wait_for([&] { return disk->live().counters().unswept_chunks == 0; }));
  EXPECT_TRUE(wait_for([&] { return state_of("locator") == "running"; })) << state_of("locator");
  EXPECT_EQ(state_of("collect"), "waiting");
  gate.open();
  EXPECT_TRUE(wait_for([&] { return state_of("collect") == "done"; })) << state_of("collect");
  EXPECT_EQ(state_of("locator"), "done");
  EXPECT_TRUE(store->close());
}

}  // namespace
}  // namespace varve::store
