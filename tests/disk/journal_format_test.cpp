// A record's chain depends on the record and on the chain before it, and on nothing else.
#include <gtest/gtest.h>

#include <vector>

#include "../../src/disk/format.h"

namespace varve::disk {
namespace {

/// Leaves on the stack, below the caller, what is there after much else was called: `word` in one of the eight places of
/// each cache line and nothing in the others. The arrays of later calls begin there.
[[gnu::noinline]] void leave_on_the_stack(std::uint64_t word, std::size_t place) {
  struct alignas(64) Line {
    volatile std::uint64_t words[8];
  };
  Line lines[512];
  for (Line& line : lines) {
    for (std::size_t i = 0; i < 8; ++i) line.words[i] = i == place ? word : 0;
  }
}

/// Long enough for a hash that works with more than its seed: XXH3 does so from 241 bytes on.
record::MapPage a_long_record() { return {3, 7, std::vector<std::byte>(kMapPageBytes, std::byte{0x5A})}; }

TEST(JournalFormat, ARecordsBytesDoNotDependOnWhatWasOnTheStackBefore) {
  const Record record = a_long_record();
  constexpr std::uint64_t kChain = 0x1234'5678'9ABC'DEF1;
  const EncodedRecord wanted = encode(record, kChain);
  for (std::size_t place = 0; place < 8; ++place) {
    leave_on_the_stack(kChain, place);
    const EncodedRecord again = encode(record, kChain);
    EXPECT_EQ(again.chain, wanted.chain) << place;
    EXPECT_EQ(again.bytes, wanted.bytes) << place;
    leave_on_the_stack(kChain, place);
    EXPECT_TRUE(decode(wanted.bytes, kChain)) << place;
  }
}

TEST(JournalFormat, ARecordIsValidBehindItsPredecessorOnly) {
  const EncodedRecord encoded = encode(a_long_record(), 1);
  EXPECT_TRUE(decode(encoded.bytes, 1));
  EXPECT_FALSE(decode(encoded.bytes, 2));
}

}  // namespace
}  // namespace varve::disk
