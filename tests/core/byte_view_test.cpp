#include "varve/core/byte_view.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace varve::test {
namespace {

using Bytes = std::vector<std::byte>;

TEST(ByteView, ShowsItsPiecesInOrderAndZerosBetween) {
  constexpr std::size_t kZeros = 200'000;  // more than one piece of zeros
  const auto first = std::make_shared<Bytes>(3, std::byte{1});
  const auto last = std::make_shared<Bytes>(5, std::byte{2});
  ByteView view;
  view.add(*first, first);
  view.add_zeros(kZeros);
  view.add(std::span(*last).subspan(1), last);
  ASSERT_EQ(view.size(), 3 + kZeros + 4);
  Bytes out(view.size(), std::byte{9});
  view.copy_to(out);
  Bytes expected(view.size());
  std::fill_n(expected.begin(), 3, std::byte{1});
  std::fill_n(expected.rbegin(), 4, std::byte{2});
  EXPECT_EQ(out, expected);
  std::size_t total = 0;
  for (const auto piece : view.pieces()) total += piece.size();
  EXPECT_EQ(total, view.size());
}

TEST(ByteView, KeepsWhatItShows) {
  auto bytes = std::make_shared<Bytes>(7);
  const std::weak_ptr<Bytes> watched = bytes;
  {
    ByteView view;
    view.add(*bytes, bytes);
    bytes.reset();
    const ByteView copy = view;
    EXPECT_FALSE(watched.expired());
  }
  EXPECT_TRUE(watched.expired());
}

TEST(ByteView, IsEmptyAtFirst) {
  ByteView view;
  view.add_zeros(0);
  EXPECT_EQ(view.size(), 0u);
  EXPECT_TRUE(view.pieces().empty());
}

}  // namespace
}  // namespace varve::test
