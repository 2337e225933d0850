// Assertions on Results that print the error's sentence.
#pragma once

#include <gtest/gtest.h>

#include "varve/core/result.h"

namespace varve::test {

template <class T>
[[nodiscard]] ::testing::AssertionResult succeeded(const Result<T>& result) {
  if (result) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << result.error().message;
}

template <class T>
[[nodiscard]] ::testing::AssertionResult failed_with(const Result<T>& result, int code) {
  if (result) return ::testing::AssertionFailure() << "succeeded, expected errno " << code;
  if (result.error().code == code) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "errno " << result.error().code << ", expected " << code << ": "
                                       << result.error().message;
}

}  // namespace varve::test

#define EXPECT_OK(expression) EXPECT_TRUE(::varve::test::succeeded(expression))
#define ASSERT_OK(expression) ASSERT_TRUE(::varve::test::succeeded(expression))
#define EXPECT_FAILS(expression, code) EXPECT_TRUE(::varve::test::failed_with(expression, code))
