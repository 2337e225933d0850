// Every build's fuzzing: seeds, seeds that are cut and flipped, and what once failed. Deterministic.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>

#include "fuzz.h"
#include "varve/core/log.h"

namespace varve::fuzz {
namespace {

constexpr std::size_t kCuts = 64;
constexpr std::size_t kFlips = 300;

std::vector<std::byte> content_of(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

class Fuzz : public ::testing::TestWithParam<Target> {
 protected:
  void SetUp() override { log::set_level(static_cast<log::Level>(static_cast<int>(log::Level::error) + 1)); }
  void TearDown() override { log::set_level(log::Level::info); }
};

TEST_P(Fuzz, SeedsCutAndFlippedGiveAValueOrACleanError) {
  std::mt19937_64 random(1);
  const Seeds seeds = GetParam().seeds();
  ASSERT_FALSE(seeds.empty());
  GetParam().run({});
  for (const auto& seed : seeds) {
    GetParam().run(seed);
    for (std::size_t i = 0; i < kCuts && !seed.empty(); ++i) GetParam().run(Input(seed).first(random() % seed.size()));
    for (std::size_t i = 0; i < kFlips && !seed.empty(); ++i) {
      auto changed = seed;
      for (std::size_t k = 1 + random() % 3; k > 0; --k) changed[random() % changed.size()] = static_cast<std::byte>(random());
      GetParam().run(changed);
    }
  }
}

TEST_P(Fuzz, WhatOnceFailedDoesNotAnyMore) {
  const char* corpus = std::getenv("VARVE_FUZZ_CORPUS");
  ASSERT_NE(corpus, nullptr) << "the directory tests/fuzz/corpus";
  const std::filesystem::path directory = std::filesystem::path(corpus) / GetParam().name;
  if (!std::filesystem::exists(directory)) return;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    SCOPED_TRACE(entry.path().string());
    GetParam().run(content_of(entry.path()));
  }
}

INSTANTIATE_TEST_SUITE_P(Decoders, Fuzz, ::testing::ValuesIn(targets()), [](const auto& info) {
  std::string name(info.param.name);
  for (char& c : name) c = c == '-' ? '_' : c;
  return name;
});

}  // namespace
}  // namespace varve::fuzz
