// The fixture of tests that want one store on one machine, driven by hand: nothing happens but what a test asks for.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "machine_store.h"
#include "varve/store/store.h"

namespace varve::store {

class StoreFixture : public ::testing::Test {
 protected:
  explicit StoreFixture(std::uint64_t chunk_size = kDefaultChunkSize) : chunk_size_(chunk_size) {}

  void SetUp() override {
    InitOptions init;
    init.chunk_size = ByteCount{chunk_size_};
    ASSERT_TRUE(Store::init(machine_.storage, init));
    open();
  }
  void open(bool background = false) {
    OpenOptions options = options_;
    options.background = background;
    auto opened = Store::open(test::environment_on(machine_), options);
    ASSERT_TRUE(opened) << opened.error().message;
    store_ = std::move(*opened);
    after_open();
  }
  /// What a test keeps of an open store, or tells it.
  virtual void after_open() {}
  /// Disks are valid only as long as their store.
  virtual void before_end() {}

  void kill() {
    stop();
    machine_.kill();
  }
  void lose_power(std::uint64_t seed) {
    stop();
    machine_.lose_power(seed);
  }
  void end_and_open(bool power_loss) {
    power_loss ? lose_power(7) : kill();
    open();
  }

  std::shared_ptr<Disk> make_disk(const std::string& name, std::uint64_t size, const Attributes& attributes = {}) {
    auto disk = store_->create_disk(name, attributes);
    EXPECT_TRUE(disk);
    EXPECT_TRUE((*disk)->create_image(attributes));
    EXPECT_TRUE((*disk)->resize_image(ByteCount{size}, nullptr));
    return *disk;
  }
  void commit_all(Disk& disk) {
    while (store_->step_commit(disk.id()).value_or(false)) {
    }
  }

  test::Machine machine_;
  OpenOptions options_;  ///< but for `background`
  std::unique_ptr<Store> store_;

 private:
  void stop() {
    machine_.cut_off();
    before_end();
    store_.reset();
  }
  const std::uint64_t chunk_size_;
};

}  // namespace varve::store
